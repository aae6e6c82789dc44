//! What a node does when nobody speaks to it any more, when somebody brakes, and when the agent itself
//! begins anew: nothing is ever raised out of silence.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use powercap_actuator::{
    hardware::ClockLock,
    node::{
        brake::{Brakes, Pull},
        decide::Phase,
        journal::Ownership,
        lease::{Renewals, Terms, Verdict},
        orders::{CpuCeiling, Orders},
        originals::Originals,
        standing::{Circumstances, Earlier, PATIENCE, Standing},
    },
};
use powercap_common::{
    api::{Acknowledged, Brake, Epoch, NodeFrequenciesStatus, PowerDomain},
    reason::Reason,
    units::{Megahertz, Watts},
};
use proptest::prelude::*;
use serde_json::json;

use crate::rack::{BUSY, OVERHEAD, Rack, ceiling, granted};

const SECOND: Duration = Duration::from_secs(1);

fn lease(holder: &str, renewed: &str) -> Lease {
    serde_json::from_value(json!({"spec": {"holderIdentity": holder, "renewTime": renewed}})).unwrap()
}

/// The nth renewal of a leader whose clock does what it likes.
fn renewal(n: u32) -> Lease {
    let year = [2026, 1971, 9998, 2026, 1999][n as usize % 5];
    lease("leader", &format!("{year}-01-01T00:{:02}:{:02}.000000Z", n / 60 % 60, n % 60))
}

fn terms(fallback: Option<u32>) -> Terms {
    Terms { duration: 60 * SECOND, falls_back: fallback.is_some(), fallback: fallback.map(Watts::new) }
}

fn renewed_until(seconds: u32) -> Renewals {
    let mut renewals = Renewals::default();
    (0..=seconds).step_by(2).for_each(|at| renewals.sees(&renewal(at), SECOND * at));
    renewals
}

#[test]
fn a_lease_runs_by_the_nodes_own_time_whatever_the_leaders_clock_says() {
    for (terms, at, verdict) in [
        (None, u32::MAX, Verdict::Current),
        (Some(terms(None)), 160, Verdict::Current),
        (Some(terms(None)), 161, Verdict::Hold),
        (Some(terms(Some(3000))), 160, Verdict::Current),
        (Some(terms(Some(3000))), 161, Verdict::Fallback(Watts::new(3000))),
        // Falling back without watts to fall back to is holding.
        (Some(Terms { falls_back: true, ..terms(None) }), 161, Verdict::Hold),
        (Some(Terms { falls_back: false, ..terms(Some(3000)) }), 161, Verdict::Hold),
    ] {
        assert_eq!(renewed_until(100).verdict(terms.as_ref(), SECOND * at), verdict, "{terms:?} at {at} s");
    }
}

#[test]
fn a_watch_that_never_starts_counts_from_the_agents_start() {
    let renewals = Renewals::default();
    assert_eq!(renewals.verdict(Some(&terms(None)), 60 * SECOND), Verdict::Current);
    assert_eq!(renewals.verdict(Some(&terms(None)), 61 * SECOND), Verdict::Hold);
}

#[test]
fn an_agent_that_begins_anew_under_an_expired_lease_waits_for_renewals() {
    let mut renewals = Renewals::default();
    renewals.expired_before();
    let verdict = |renewals: &Renewals, at| renewals.verdict(Some(&terms(Some(3000))), at);
    assert_eq!(verdict(&renewals, SECOND), Verdict::Fallback(Watts::new(3000)));
    renewals.sees(&renewal(1), SECOND);
    assert_eq!(verdict(&renewals, SECOND), Verdict::Fallback(Watts::new(3000)));
    renewals.sees(&renewal(2), 3 * SECOND);
    assert_eq!(verdict(&renewals, 3 * SECOND), Verdict::Current);
}

#[test]
fn what_a_watch_tells_of_the_past_in_one_moment_is_no_sign_of_life() {
    let mut renewals = renewed_until(100);
    let now = 500 * SECOND;
    // A list, and the events that led to it.
    renewals.stands_at(&renewal(101));
    (102..140).for_each(|n| renewals.sees(&renewal(n), now + Duration::from_millis(n.into())));
    assert_eq!(renewals.verdict(Some(&terms(None)), now + SECOND), Verdict::Hold);
    // A leader that lives renews again.
    renewals.sees(&renewal(140), now + 3 * SECOND);
    assert_eq!(renewals.verdict(Some(&terms(None)), now + 3 * SECOND), Verdict::Current);
}

#[test]
fn only_a_holder_that_renews_is_a_sign_of_life() {
    let mut renewals = Renewals::default();
    renewals.sees(&lease("leader", "2026-01-01T00:00:00.000000Z"), SECOND);
    for _ in 0..100 {
        // Somebody else's edit, a Lease that was given back, and one that was never taken.
        renewals.sees(&lease("leader", "2026-01-01T00:00:00.000000Z"), 50 * SECOND);
        renewals.sees(&lease("", "2026-01-01T00:00:09.000000Z"), 50 * SECOND);
        renewals.sees(&Lease::default(), 50 * SECOND);
    }
    assert_eq!(renewals.age(50 * SECOND), 49 * SECOND);
}

fn domain(name: &str, brake: &str, recommenders: Option<&str>, fallback: Option<u32>) -> PowerDomain {
    let status = recommenders.map(|level| json!({"brake": {"level": level, "reason": "PowerStaysAboveCap"}}));
    serde_json::from_value(json!({
        "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": name}, "status": status,
        "spec": {"powerCapLimitWatts": 9000, "nodeSelector": {"matchLabels": {"rack": "r1"}}, "brake": brake,
                 "nodeDefaults": {"fallbackWatts": fallback}},
    }))
    .unwrap()
}

#[test]
fn of_two_brakes_the_stricter_counts_and_of_several_domains_the_strictest() {
    let ours = ["rack".to_owned(), "row".to_owned()];
    for (rack, row, level, fallback) in [
        (("None", None, None), ("None", None, None), Brake::None, None),
        (("Fallback", None, Some(3000)), ("None", None, Some(2500)), Brake::Fallback, Some(2500)),
        (("None", Some("Minimum"), None), ("Fallback", None, None), Brake::Minimum, None),
        (("Minimum", Some("Fallback"), None), ("None", None, None), Brake::Minimum, None),
        (("None", Some("Fallback"), Some(9)), ("None", None, None), Brake::Fallback, Some(9)),
    ] {
        let mut brakes = Brakes::default();
        brakes.meets(&domain("rack", rack.0, rack.1, rack.2));
        brakes.meets(&domain("row", row.0, row.1, row.2));
        brakes.meets(&domain("elsewhere", "Minimum", None, Some(1)));
        assert_eq!(brakes.over(&ours), Pull { level, fallback: fallback.map(Watts::new) }, "{rack:?} {row:?}");
        assert_eq!(brakes.over(&[]), Pull::default());
    }
}

#[test]
fn a_brake_stays_until_an_object_of_that_domain_says_otherwise() {
    let mut brakes = Brakes::default();
    let level = |brakes: &Brakes| brakes.over(&["rack".to_owned()]).level;
    assert!(brakes.meets(&domain("rack", "Minimum", None, None)));
    assert!(!brakes.meets(&domain("rack", "Minimum", None, None)), "nothing new");
    brakes.meets(&domain("row", "None", None, None));
    assert_eq!(level(&brakes), Brake::Minimum);
    brakes.meets(&domain("rack", "None", None, None));
    assert_eq!(level(&brakes), Brake::None);
}

fn pull(level: Brake, fallback: Option<u32>) -> Pull {
    Pull { level, fallback: fallback.map(Watts::new) }
}

#[test]
fn the_minimum_brake_takes_every_device_to_its_lowest_in_one_plan() {
    for (brake, grant) in [
        (pull(Brake::Minimum, Some(4000)), Some(5000)),
        (pull(Brake::Minimum, None), None),
        // Nowhere to fall back to.
        (pull(Brake::Fallback, None), Some(5000)),
    ] {
        let mut orders = granted(1, 1);
        orders.grant = grant.map(Watts::new);
        orders.cpus.insert(0, CpuCeiling { clock: Megahertz::new(3000), reason: Reason::PolicyCap });
        let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
        rack.seconds(10.0, Some(&orders), |_, _| {});
        let braked = orders.under(Verdict::Current, brake, None);
        let plan = rack.tick(Some(&braked));
        assert_eq!(plan.boards.len(), 8);
        for write in &plan.boards {
            assert_eq!((write.limit, write.lock), (Some(Watts::new(200)), Some(ClockLock::UpTo(Megahertz::new(360)))));
            assert_eq!(write.reason, Reason::BrakePulled);
        }
        assert_eq!((plan.cpus[0].ceiling, plan.cpus[0].reason), (Megahertz::new(800), Reason::BrakePulled));
        rack.seconds(2.0, Some(&braked), |_, _| {});
        let plan = rack.tick(Some(&braked));
        assert_eq!(plan.account.restraint, Some(Reason::BrakePulled));
        assert!(plan.account.boards.iter().all(|board| board.reason == Reason::BrakePulled), "{:?}", plan.account);
        assert_eq!(plan.account.acknowledged.unwrap().power_limit_watts, grant, "stricter than the grant");
        let quiet = rack.writes;
        rack.seconds(5.0, Some(&braked), |_, _| {});
        assert_eq!(rack.writes, quiet);
    }
}

#[test]
fn a_fallback_lowers_at_once_and_acknowledges_the_grant() {
    let orders = Orders { lease: Some(terms(Some(3600))), ..granted(1, 5000) };
    for restrained in [
        orders.under(Verdict::Fallback(Watts::new(3600)), Pull::default(), None),
        orders.under(Verdict::Current, pull(Brake::Fallback, None), None),
        orders.under(Verdict::Hold, pull(Brake::Fallback, Some(3600)), Some(&orders)),
    ] {
        let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
        rack.seconds(10.0, Some(&orders), |_, _| {});
        let plan = rack.tick(Some(&restrained));
        let limits: Watts = plan.boards.iter().filter_map(|write| write.limit).sum();
        assert!(plan.boards.len() == 8 && limits <= plan.account.boards_budget.unwrap(), "{limits}");
        rack.seconds(2.0, Some(&restrained), |_, _| {});
        let (plan, envelope) = (rack.tick(Some(&restrained)), OVERHEAD.envelope(Watts::new(3600)));
        assert_eq!(plan.account.envelope, Some(envelope));
        assert!(rack.power() <= envelope.as_f64() * 1.01, "{} of {envelope}", rack.power());
        assert_eq!(plan.account.acknowledged.unwrap().power_limit_watts, Some(5000));
    }
}

#[test]
fn nothing_is_acknowledged_before_the_fallback_holds() {
    let orders = granted(2, 5000).under(Verdict::Current, pull(Brake::Fallback, Some(3600)), None);
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(3.0, Some(&orders), |rack, plan| {
        if plan.account.acknowledged.is_some() {
            assert!(rack.limits() <= plan.account.boards_budget.unwrap().as_f64());
        }
    });
    assert!(rack.tick(Some(&orders)).account.acknowledged.is_some());
}

#[test]
fn a_brake_let_go_brings_clocks_back_in_steps_and_never_above_the_envelope() {
    let orders = granted(1, 5000);
    let mut rack = Rack::new(8, 0.0, 0.0, BUSY);
    rack.seconds(5.0, Some(&orders), |_, _| {});
    let before = rack.power();
    let braked = orders.under(Verdict::Current, pull(Brake::Minimum, None), None);
    rack.seconds(5.0, Some(&braked), |_, _| {});
    let start = rack.now;
    let mut back_at = None;
    rack.seconds(20.0, Some(&orders), |rack, plan| {
        assert!(rack.power() <= OVERHEAD.envelope(Watts::new(5000)).as_f64() * 1.01);
        assert!(rack.limits() <= plan.account.boards_budget.unwrap().as_f64() + 0.001);
        if rack.power() > before * 0.95 {
            back_at.get_or_insert(rack.now.saturating_sub(start));
        }
    });
    let back_at = back_at.expect("it comes back");
    assert!(back_at > SECOND, "{back_at:?}");
}

#[test]
fn a_brake_stands_over_a_release_and_silence_does_not() {
    let release = Orders { release: true, lease: Some(terms(Some(3000))), ..granted(2, 5000) };
    assert!(release.under(Verdict::Fallback(Watts::new(3000)), Pull::default(), None).release);
    assert!(release.under(Verdict::Hold, Pull::default(), None).release);
    let braked = release.under(Verdict::Current, pull(Brake::Minimum, None), None);
    let mut rack = Rack::new(2, 0.0, 0.0, BUSY);
    rack.seconds(3.0, Some(&braked), |_, plan| assert_eq!(plan.account.phase, Phase::Enforcing));
    assert_eq!(rack.limits(), 400.0);
}

fn circumstances<'a>(
    ownership: &'a Ownership,
    brakes: &'a Brakes,
    renewals: &'a Renewals,
    earlier: &'a Earlier,
) -> Circumstances<'a> {
    Circumstances { ownership, brakes, renewals, earlier }
}

#[test]
fn orders_wait_for_the_lock_and_the_brakes_and_for_neither_for_ever() {
    let ours = Ownership::Ours(Arc::default());
    let unlisted = Brakes::default();
    let mut listed = unlisted.clone();
    listed.listed = true;
    let braked = Earlier { braked: true, ..Earlier::default() };
    let earlier = Earlier::default();
    let orders = Arc::new(Orders { domains: vec!["rack".to_owned()], ..granted(1, 5000) });
    for (ownership, brakes, earlier, at_once, later) in [
        (&ours, &listed, &earlier, true, true),
        (&ours, &unlisted, &earlier, false, true),
        // It may be braking still, and nobody says otherwise.
        (&ours, &unlisted, &braked, false, false),
        (&ours, &listed, &braked, true, true),
        // A disk that hangs.
        (&Ownership::Asking, &listed, &earlier, false, true),
        (&Ownership::Another, &listed, &earlier, false, false),
    ] {
        let mut standing = Standing::default();
        let renewals = Renewals::default();
        let at = circumstances(ownership, brakes, &renewals, earlier);
        let acts = |standing: &mut Standing, now| standing.next(&orders, at, now).is_some();
        assert_eq!(acts(&mut standing, SECOND), at_once, "{ownership:?} {brakes:?} {earlier:?}");
        assert_eq!(acts(&mut standing, SECOND + PATIENCE), later, "{ownership:?} {brakes:?} {earlier:?}");
    }
}

#[test]
fn what_an_earlier_life_left_counts_in_its_boot_alone() {
    let acknowledged = Some(Acknowledged { epoch: Epoch { term: 1, sequence: 1 }, power_limit_watts: Some(5000) });
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let mut status: NodeFrequenciesStatus = serde_json::from_value(json!({
        "bootID": "b",
        "conditions": [condition("Ready", "BrakePulled"), condition("LeaseCurrent", "FallbackInForce")],
    }))
    .unwrap();
    status.acknowledged = acknowledged;
    let earlier = Earlier::of(&status, "b");
    assert_eq!(earlier, Earlier { acknowledged, braked: true, lease_expired: true, ..Earlier::default() });
    assert_eq!(Earlier::of(&status, "another"), Earlier::default());
    // A journal that is empty although there was a life to write it is not believed.
    assert_eq!(earlier.check(&Originals::default()), Originals::unknown());
    assert!(Earlier::default().check(&Originals::default()).untouched());
    assert!(Earlier { released: true, ..earlier }.check(&Originals::default()).untouched());
}

/// Something that happens to the orders of a node.
#[derive(Clone, Debug)]
enum Word {
    Orders { grant: Option<u32>, clock: Option<u32>, limit: Option<u32>, fallback: Option<u32>, cpu: Option<u32> },
    Brake(u8, Option<u32>),
    Renewal,
    Pass(u32),
}

fn word() -> impl Strategy<Value = Word> {
    let watts = || prop::option::of(1..9000_u32);
    prop_oneof![
        3 => (watts(), prop::option::of(1..2000_u32), watts(), watts(), prop::option::of(800..3800_u32))
            .prop_map(|(grant, clock, limit, fallback, cpu)| Word::Orders { grant, clock, limit, fallback, cpu }),
        2 => (0..3_u8, watts()).prop_map(|(level, fallback)| Word::Brake(level, fallback)),
        3 => Just(Word::Renewal),
        3 => (1..100_u32).prop_map(Word::Pass),
    ]
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

proptest! {
    /// Whatever is said and in whatever order: what stands is never looser than the orders, and while
    /// the lease is expired never looser than what stood when it was current.
    #[test]
    fn no_sequence_of_words_raises_anything_out_of_silence(words in prop::collection::vec(word(), 1..80)) {
        let (mut standing, mut renewals, mut brakes) = (Standing::default(), Renewals::default(), Brakes::default());
        brakes.listed = true;
        let (ownership, earlier) = (Ownership::Ours(Arc::default()), Earlier::default());
        let mut now = Duration::ZERO;
        let mut orders = Arc::new(Orders { lease: Some(terms(None)), ..granted(1, 5000) });
        let mut current: Option<Arc<Orders>> = None;
        for (at, word) in (1..).zip(&words) {
            match word {
                Word::Orders { grant, clock, limit, fallback, cpu } => {
                    let mut next = Orders { lease: Some(terms(*fallback)), ..granted(at, 1) };
                    next.grant = grant.map(Watts::new);
                    next.domains = vec!["rack".to_owned()];
                    next.boards.insert("GPU-0".into(), ceiling(*clock, *limit));
                    next.cpus.extend(cpu.map(|clock| (0, CpuCeiling { clock: Megahertz::new(clock), reason: Reason::PolicyCap })));
                    orders = Arc::new(next);
                }
                Word::Brake(level, fallback) => {
                    let level = ["None", "Fallback", "Minimum"][usize::from(*level)];
                    brakes.meets(&domain("rack", level, None, *fallback));
                }
                Word::Renewal => {
                    now += 2 * SECOND;
                    renewals.sees(&renewal(u32::try_from(at).unwrap()), now);
                }
                Word::Pass(seconds) => now += SECOND * *seconds,
            }
            let stands = standing.next(&orders, circumstances(&ownership, &brakes, &renewals, &earlier), now).unwrap();
            let verdict = renewals.verdict(orders.lease.as_ref(), now);
            if verdict == Verdict::Current {
                current = Some(Arc::clone(&orders));
            }
            let mut bounds = vec![&orders];
            bounds.extend(current.as_ref().filter(|_| verdict == Verdict::Hold));
            for bound in bounds {
                prop_assert_eq!(least(stands.limit(), bound.grant), stands.limit());
                let (is, may) = (stands.ceiling("GPU-0"), bound.boards.get("GPU-0"));
                let part = |ceiling: Option<&powercap_actuator::node::orders::BoardCeiling>| {
                    (ceiling.and_then(|ceiling| ceiling.clock), ceiling.and_then(|ceiling| ceiling.limit))
                };
                prop_assert_eq!(least(part(is).0, part(may).0), part(is).0);
                prop_assert_eq!(least(part(is).1, part(may).1), part(is).1);
                let clock = |orders: &Orders| orders.cpu_ceiling(0).map(|ceiling| ceiling.clock);
                prop_assert_eq!(least(clock(&stands), clock(bound)), clock(&stands));
            }
            prop_assert_eq!(stands.grant, orders.grant, "what is acknowledged is the grant");
        }
    }
}
