//! Whatever somebody does to the Secret, it is told what is wrong with it and what follows; nothing panics.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use powercap_certs::{
    Periods,
    authority::Authority,
    carry_out::carry_out,
    certificate::Unaccepted,
    decide::{Cause, Step, decide},
    held::{Fault, Held},
};
use proptest::{collection::btree_map, prelude::any, proptest, sample::select};

const NAME: &str = "powercap-admission.powercap-system.svc";
const KEYS: [&str; 8] = [
    "tls.crt",
    "tls.key",
    "ca.crt",
    "authority.crt",
    "authority.key",
    "next-authority.crt",
    "next-authority.key",
    "earlier-until",
];
const DAY: u64 = 86_400;

#[test]
fn where_there_is_nothing_all_is_made_and_then_nothing_is_due() {
    assert_eq!(step(&Held::default(), begun()), Step::Found(Fault::Missing));
    let held = sound();
    assert_eq!(step(&held, begun()), Step::Nothing);
    assert_eq!(Held::read(&held.data()), held, "what is written is what is read");
}

#[test]
fn a_leaf_is_renewed_with_a_third_of_its_time_left_and_an_authority_with_a_quarter() {
    let held = sound();
    assert_eq!(step(&held, after(6 * DAY)), Step::Nothing);
    assert_eq!(step(&held, after(7 * DAY)), Step::SignLeaf(Cause::Due));
    let late = renewed(held, after(273 * DAY));
    assert_eq!(step(&late, after(273 * DAY)), Step::Nothing);
    assert_eq!(step(&late, after(274 * DAY)), Step::Announce(Cause::Due));
}

#[test]
fn an_expired_leaf_is_replaced_and_an_expired_authority_founded_anew() {
    let held = sound();
    let Step::SignLeaf(Cause::Fault(fault)) = step(&held, after(11 * DAY)) else { panic!("the leaf expired") };
    assert!(fault.to_string().contains("expired"), "{fault}");
    let fault = Fault::Unaccepted { name: NAME.to_owned(), why: Unaccepted::NoAuthority };
    assert_eq!(step(&held, after(366 * DAY)), Step::Found(fault));
}

#[test]
fn what_is_lost_or_cut_off_costs_no_more_than_it_must() {
    let leaf_alone = Step::SignLeaf(Cause::Fault(Fault::Missing));
    let authority_alone = Step::Announce(Cause::NoAuthority);
    let bundle = Fault::Unaccepted { name: NAME.to_owned(), why: Unaccepted::NoAuthority };
    let table = [
        ("tls.crt", leaf_alone.clone()),
        ("tls.key", leaf_alone),
        ("authority.crt", authority_alone.clone()),
        ("authority.key", authority_alone),
        ("ca.crt", Step::Found(bundle)),
    ];
    for (key, expected) in table {
        let mut data = sound().data();
        data.remove(key);
        assert_eq!(step(&Held::read(&data), begun()), expected, "without {key}");
        let mut data = sound().data();
        let content = data.get_mut(key).unwrap();
        content.0.truncate(content.0.len() / 2);
        assert_eq!(step(&Held::read(&data), begun()), expected, "{key} cut off");
    }
}

#[test]
fn keys_of_others_count_as_lost() {
    let (mut data, other) = (sound().data(), sound().data());
    data.insert("tls.key".into(), other["tls.key"].clone());
    data.insert("authority.key".into(), other["authority.key"].clone());
    assert_eq!(step(&Held::read(&data), begun()), Step::Found(Fault::Missing));
}

#[test]
fn a_leaf_for_other_names_is_replaced() {
    let names = ["other.powercap-system.svc".to_owned()];
    let step = decide(&sound(), &names, None, &Periods::default(), begun());
    assert!(matches!(step, Step::SignLeaf(Cause::Fault(Fault::Unaccepted { .. }))), "{step:?}");
}

#[test]
fn what_another_authority_left_there_is_shown_until_ours_is_known() {
    // As cert-manager writes it: a leaf, its key, and the authority without its key.
    let mut data = sound().data();
    data.retain(|key, _| ["tls.crt", "tls.key", "ca.crt"].contains(&key.as_str()));
    let held = Held::read(&data);
    assert_eq!(step(&held, begun()), Step::Announce(Cause::NoAuthority));
    let announced =
        carry_out(&Step::Announce(Cause::NoAuthority), held.clone(), &[], &names(), &Periods::default(), begun());
    assert_eq!(announced.unwrap().leaf, held.leaf);
}

#[test]
fn a_new_beginning_keeps_what_api_servers_trust() {
    let before = sound();
    let periods = Periods::default();
    let step = Step::Found(Fault::Missing);
    let held = carry_out(&step, Held::default(), &before.bundle, &names(), &periods, begun()).unwrap();
    let shown = before.leaf.unwrap();
    assert_eq!(held.refused(shown.certificate(), &names(), begun()), None);
    assert_eq!(decide(&held, &names(), None, &periods, begun()), Step::Nothing);
    let retired = renewed(held, after(12 * DAY));
    assert_eq!(decide(&retired, &names(), None, &periods, after(12 * DAY)), Step::Retire);
}

#[test]
fn an_announced_authority_waits_until_it_was_published_long_enough() {
    let periods = Periods::default();
    let asked = Step::Announce(Cause::Asked);
    let held = carry_out(&asked, sound(), &[], &names(), &periods, begun()).unwrap();
    let seen = |seconds| decide(&held, &names(), Some(Duration::from_secs(seconds)), &periods, begun());
    assert_eq!(decide(&held, &names(), None, &periods, begun()), Step::Nothing);
    assert_eq!(seen(599), Step::Nothing);
    assert_eq!(seen(600), Step::Switch);
    let switched = carry_out(&Step::Switch, held.clone(), &[], &names(), &periods, begun()).unwrap();
    assert_eq!(switched.bundle, held.bundle, "what API servers trust does not change when the leaf does");
    assert_ne!(switched.leaf, held.leaf);
    assert_eq!(switched.authority, held.next);
}

#[test]
fn no_private_key_is_ever_printed() {
    let held = sound();
    let printed = format!("{held:?}");
    let key = held.authority.as_ref().map(Authority::key).unwrap().pem().lines().nth(1).unwrap().to_owned();
    assert!(!printed.contains(&key) && !printed.contains("PRIVATE"), "{printed}");
}

proptest! {
    #[test]
    fn any_bytes_are_understood_as_something_missing(
        data in btree_map(select(&KEYS[..]), proptest::collection::vec(any::<u8>(), 0..200), 0..8),
        keep in proptest::collection::vec(any::<bool>(), KEYS.len()),
    ) {
        let sound = sound().data();
        let mut mixed: BTreeMap<_, _> =
            data.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes))).collect();
        let kept = KEYS.iter().zip(keep).filter(|(_, keep)| *keep).filter_map(|(key, _)| sound.get_key_value(*key));
        mixed.extend(kept.map(|(key, bytes)| (key.clone(), bytes.clone())));
        let mut held = Held::read(&mixed);
        // However it begins, a few steps later all is well.
        for _ in 0..4 {
            let step = decide(&held, &names(), Some(Duration::MAX), &Periods::default(), begun());
            held = carry_out(&step, held, &[], &names(), &Periods::default(), begun()).unwrap();
        }
        assert_eq!(decide(&held, &names(), Some(Duration::MAX), &Periods::default(), begun()), Step::Nothing);
        assert_eq!(held.fault(&names(), begun()), None);
    }
}

fn names() -> [String; 1] {
    [NAME.to_owned()]
}

fn begun() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    begun() + Duration::from_secs(seconds)
}

fn step(held: &Held, now: Timestamp) -> Step {
    decide(held, &names(), None, &Periods::default(), now)
}

/// As a first start leaves it.
fn sound() -> Held {
    carry_out(&Step::Found(Fault::Missing), Held::default(), &[], &names(), &Periods::default(), begun()).unwrap()
}

/// With a leaf of this moment.
fn renewed(held: Held, now: Timestamp) -> Held {
    carry_out(&Step::SignLeaf(Cause::Due), held, &[], &names(), &Periods::default(), now).unwrap()
}
