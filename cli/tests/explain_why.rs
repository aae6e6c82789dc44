//! `explain` says who holds a pod back, in the documented words, and what would free it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use powercap_cli::{
    caps::Caps,
    explain::{
        answer::Answer,
        cap,
        holder::{Holder, holder},
        node, pod,
    },
};
use powercap_common::{
    api::{Action, Brake, BrakeStatus, Escalated, LeaseTerms, Mode, OnExpiry, PendingAction, Recommendation, Violator},
    reason::Reason,
};
use serde_json::json;

use crate::world::{BOARDS, TRAINING, condition, domain, now, rack, stands_on_the_page};

fn of_pod(name: &str, caps: &Caps) -> Answer {
    let app = name.split('-').next().unwrap();
    pod::explain(&crate::world::pod(name, app, "Running", Some("rack-1")), caps, now())
}

#[test]
fn a_pod_at_its_policys_ceiling_is_told_the_policy_and_the_watts_that_would_free_it() {
    assert_eq!(of_pod("training-0", &rack()).text(now()), "\
Power caps hold pod demo/training-0 back: its one board on node rack-1, by powercappingpolicy/demo/training, down to 1410 of 1980 MHz and 525 of 700 W.

NODE    BOARD         MHZ   CEILING  ASKED  MOST  W    LIMIT  ASKED  MOST  STATE    REASON     PODS
rack-1  GPU-8f3c1e2a  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap  demo/training-0

Why:
  PolicyCap (1 board on node rack-1): The ceiling serves a PowerCappingPolicy. powercappingpolicy/demo/training keeps its pods within 1050 W; they draw 1024 W. Since 2026-11-22T13:55:00Z, 5m ago.
  Enforcing (powercappingpolicy/demo/training, Ready): The policy is carried out: pods (2) are kept within 1050 W. Since 2026-11-22T13:55:00Z, 5m ago.
  ThresholdCrossed (powercappingpolicy/demo/training, CapTriggered): Power has crossed the policy's capping threshold and not yet fallen below its release threshold: 1024 W: reached 997 W and not fallen below 892 W since; ceiling 1410 MHz. Since 2026-11-22T13:55:00Z, 5m ago.

What you can do:
  - Raise spec.powerCapLimitWatts of powercappingpolicy/demo/training (now 1050 W): from 1474 W on, which is 424 W more, it holds none of its 2 boards back.
");
}

#[test]
fn a_pod_at_its_nodes_envelope_is_told_the_domain_and_what_the_node_lacks() {
    assert_eq!(of_pod("inference-0", &rack()).text(now()), "\
Power caps hold pod demo/inference-0 back: its one board on node rack-1, by powerdomain/rack, down to 1305 of 1980 MHz and 480 of 700 W.

NODE    BOARD         MHZ   CEILING  ASKED  MOST  W    LIMIT  ASKED  MOST  STATE    REASON           PODS
rack-1  GPU-1b7d90c4  1305  1305     -      1980  467  480    -      700   Applied  EnvelopeReached  demo/inference-0

Why:
  EnvelopeReached (1 board on node rack-1): The node's measured power came close to its envelope, and the node agent lowered its ceilings. Node rack-1 may draw 2500 W (1111 W of it for its devices) by powerdomain/rack and draws 2440 W. Since 2026-11-22T13:58:00Z, 2m ago.

What you can do:
  - Raise spec.powerCapLimitWatts of powerdomain/rack (now 5000 W), or free watts of its other nodes: for all its boards at their most node rack-1 needs 312 W more than its grant, and those of its CPUs.
");
}

#[test]
fn the_page_shows_this_very_answer() {
    stands_on_the_page(&of_pod("training-0", &rack()).text(now()));
}

#[test]
fn a_policy_is_told_with_its_boards_and_conditions() {
    let caps = rack();
    assert_eq!(cap::policy(&caps.policies[0], &caps).text(now()), "\
powercappingpolicy/demo/training keeps its pods within 1050 W: its pods draw 1024 W; caps hold all its boards (2) back, by powercappingpolicy/demo/training, down to 1410 of 1980 MHz and 525 of 700 W.

NAMESPACE  POLICY    MODE     CAP W  POWER W  PODS  BOARDS  CEILING MHZ  LIMIT W  PENDING  REASON
demo       training  Enforce  1050   1024     2     2       1410         525      0        Enforcing

NODE    BOARD         MHZ   CEILING  ASKED  MOST  W    LIMIT  ASKED  MOST  STATE    REASON     PODS
rack-1  GPU-8f3c1e2a  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap  demo/training-0
rack-2  GPU-c20e5f77  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap  demo/training-1

Why:
  PolicyCap (1 board on node rack-1): The ceiling serves a PowerCappingPolicy. powercappingpolicy/demo/training keeps its pods within 1050 W; they draw 1024 W. Since 2026-11-22T13:55:00Z, 5m ago.
  PolicyCap (1 board on node rack-2): The ceiling serves a PowerCappingPolicy. powercappingpolicy/demo/training keeps its pods within 1050 W; they draw 1024 W. Since 2026-11-22T13:55:00Z, 5m ago.
  Enforcing (powercappingpolicy/demo/training, Ready): The policy is carried out: pods (2) are kept within 1050 W. Since 2026-11-22T13:55:00Z, 5m ago.
  DataFresh (powercappingpolicy/demo/training, DataFresh): All readings are recent: recent readings of every device (2) of the pods (2). Since 2026-11-22T13:55:00Z, 5m ago.
  ThresholdCrossed (powercappingpolicy/demo/training, CapTriggered): Power has crossed the policy's capping threshold and not yet fallen below its release threshold: 1024 W: reached 997 W and not fallen below 892 W since; ceiling 1410 MHz. Since 2026-11-22T13:55:00Z, 5m ago.

What you can do:
  - Raise spec.powerCapLimitWatts of powercappingpolicy/demo/training (now 1050 W): from 1474 W on, which is 424 W more, it holds none of its 2 boards back.
");
}

#[test]
fn a_policy_is_told_with_the_pods_that_draw_more_than_their_share() {
    let mut caps = rack();
    let violator = |pod: &str, percent: Option<u32>, clock: Option<u32>| {
        let recommendation =
            Recommendation { max_megahertz: clock, device_watts: Some(525), ..Recommendation::default() };
        Violator { pod: pod.into(), power_watts: 640, share_watts: 525, window_percent: percent, recommendation }
    };
    let status = caps.policies[0].status.as_mut().unwrap();
    status.violators = vec![violator("training-0", Some(82), Some(1410)), violator("training-1", None, None)];
    status.violator_count = 2;
    let answer = cap::policy(&caps.policies[0], &caps);
    assert!(answer.summary.ends_with(" 2 pods draw more than their share."), "{}", answer.summary);
    let table = "
ABOVE ITS SHARE  POWER W  SHARE W  TIME ABOVE  RECOMMENDED
training-0       640      525      82 %        Throttle to 1410 MHz, 525 W a board
training-1       640      525      -           Throttle to 525 W a board
";
    assert!(answer.text(now()).contains(table), "{}", answer.text(now()));
}

/// One pod of the policy is to be evicted, its workload is frozen.
fn pending(caps: &mut Caps) {
    let action = |action: Action, pod: Option<&str>, watts: u32| PendingAction {
        action,
        namespace: "demo".into(),
        workload: "StatefulSet/training".into(),
        pod: pod.map(str::to_owned),
        frees_watts: watts,
        reason: Reason::FloorReached.to_string(),
        since: Time("2026-11-22T13:58:00Z".parse().unwrap()),
    };
    let status = caps.policies[0].status.as_mut().unwrap();
    status.pending_actions = vec![action(Action::Freeze, None, 0), action(Action::Evict, Some("training-0"), 512)];
    status.pending_action_count = 2;
    status.escalated = Some(Escalated {
        rung: Action::Freeze,
        exhausted: Some(Action::Scale),
        without_effect: 1,
        ..Default::default()
    });
}

#[test]
fn a_policy_is_told_with_what_is_pending_and_what_was_done() {
    let mut caps = rack();
    pending(&mut caps);
    let answer = cap::policy(&caps.policies[0], &caps);
    let ends = " 2 actions on workloads are pending. Freeze is in force. At Scale nothing is left to do. The last actions (1) brought no watts down.";
    assert!(answer.summary.ends_with(ends), "{}", answer.summary);
    let table = "
TO BE DONE  NAMESPACE  WORKLOAD              POD         FREES W  REASON
Freeze      demo       StatefulSet/training  -           -        FloorReached
Evict       demo       StatefulSet/training  training-0  512      FloorReached
";
    assert!(answer.text(now()).contains(table), "{}", answer.text(now()));
}

#[test]
fn a_pod_is_told_what_is_pending_for_it_and_for_its_workload() {
    let mut caps = rack();
    pending(&mut caps);
    let pending = |controlled: bool, caps: &Caps| -> Vec<String> {
        let mut pod = crate::world::pod("training-0", "training", "Running", Some("rack-1"));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "training", "uid": "u", "controller": true}]);
        pod.metadata.owner_references = controlled.then(|| serde_json::from_value(owner).unwrap());
        let why = pod::explain(&pod, caps, now()).why;
        why.into_iter().filter(|cause| cause.reason == "FloorReached").map(|cause| cause.of).collect()
    };
    let evict = format!("{TRAINING}, Evict of pod training-0 pending");
    assert_eq!(pending(false, &caps), [evict.as_str()]);
    assert_eq!(pending(true, &caps), [format!("{TRAINING}, Freeze of StatefulSet/training pending"), evict]);
    caps.policies[0].spec.mode = Mode::Advise;
    assert_eq!(pending(false, &caps), [format!("{TRAINING}, Evict of pod training-0 advised")]);
}

#[test]
fn a_domain_is_told_with_its_nodes_and_the_brake_that_somebody_pulled() {
    let mut caps = rack();
    caps.domains[0].spec.brake = Brake::Minimum;
    assert_eq!(cap::domain(&caps.domains[0], &caps, now()).text(now()), "\
powerdomain/rack keeps its nodes (2) within 5000 W: it draws 4880 W, 5000 W are promised to its nodes.

DOMAIN  CAP W  POWER W  COMMITTED W  HEADROOM W  NODES  BRAKE    WITHIN  PENDING  REASON
rack    5000   4880     5000         0           2      Minimum  True    0        GrantsFit

NODE    GRANT W  POWER W  HEADROOM W  OFFERS W  CEILING MHZ  BOARDS  REASON     HEARD
rack-1  2500     2440     60          350       1305         2       Enforcing  2s
rack-2  2500     2440     60          350       1305         2       Enforcing  2s

Why:
  BrakePulled (powerdomain/rack): A domain's brake is pulled. Somebody, in spec.brake, pulled it to Minimum.
  GrantsFit (powerdomain/rack, Ready): Every grant fits under the cap of the domain: 5000 W committed of 5000 W for nodes. Since 2026-11-22T13:55:00Z, 5m ago.
  PowerBelowCap (powerdomain/rack, WithinCap): Measured power is at or below the cap: 4880 W (unmanaged included) is within the cap of 5000 W. Since 2026-11-22T13:55:00Z, 5m ago.

What you can do:
  - Set spec.brake of the domain to None when the emergency is over, if somebody pulled it there.
");
}

#[test]
fn a_node_under_a_lease_that_ran_out_says_so_and_since_when() {
    let mut caps = rack();
    let lease = LeaseTerms { duration_seconds: 60, on_expiry: OnExpiry::Fallback, fallback_watts: Some(2000) };
    caps.nodes[0].spec.lease = Some(lease);
    let message = "no renewal of the recommender's Lease was seen for 60 s; nothing is raised";
    let status = caps.nodes[0].status.as_mut().unwrap();
    status.conditions[1] =
        serde_json::from_value(condition("LeaseCurrent", "False", Reason::FallbackInForce, message)).unwrap();
    assert_eq!(node::explain(&caps.nodes[0], &caps, now()).text(now()), "\
Node rack-1 may draw 2500 W (1111 W of it for its devices); caps hold all its boards (2) back, by powercappingpolicy/demo/training and the fallback watts of its lease, down to 1305 of 1980 MHz and 480 of 700 W. It offers new pods no watts while its lease has run out.

NODE    GRANT W  POWER W  HEADROOM W  OFFERS W  CEILING MHZ  BOARDS  REASON     HEARD
rack-1  2500     2440     60          350       1305         2       Enforcing  2s

NODE    BOARD         MHZ   CEILING  ASKED  MOST  W    LIMIT  ASKED  MOST  STATE    REASON           PODS
rack-1  GPU-8f3c1e2a  1410  1410     1410   1980  512  525    525    700   Applied  PolicyCap        demo/training-0
rack-1  GPU-1b7d90c4  1305  1305     -      1980  467  480    -      700   Applied  EnvelopeReached  demo/inference-0

Why:
  EnvelopeReached (1 board on node rack-1): The node's measured power came close to its envelope, and the node agent lowered its ceilings. Node rack-1 may draw 2000 W until the Lease is renewed and draws 2440 W. Since 2026-11-22T13:55:00Z, 5m ago.
  PolicyCap (1 board on node rack-1): The ceiling serves a PowerCappingPolicy. powercappingpolicy/demo/training keeps its pods within 1050 W; they draw 1024 W. Since 2026-11-22T13:55:00Z, 5m ago.
  FallbackInForce (node rack-1, not LeaseCurrent): The recommender's Lease was not renewed in time; the node has gone down to its fallback watts: no renewal of the recommender's Lease was seen for 60 s; nothing is raised. Since 2026-11-22T13:55:00Z, 5m ago.

What you can do:
  - Raise spec.powerCapLimitWatts of powercappingpolicy/demo/training (now 1050 W): from 1474 W on, which is 424 W more, it holds none of its 2 boards back.
  - See that the recommender runs and renews its Lease: kubectl -n powercap-system get deployments,leases.
");
}

#[test]
fn a_node_says_what_it_offers_to_new_pods_and_when_it_is_closed() {
    let offers = |bend: fn(&mut Caps)| {
        let mut caps = rack();
        bend(&mut caps);
        let answer = node::explain(&caps.nodes[0], &caps, now());
        answer.summary.find(" It offers").map(|at| answer.summary[at..].to_owned())
    };
    for (bend, says) in [
        ((|_| {}) as fn(&mut Caps), Some(" It offers new pods 350 W beside the 1050 W that its pods request.")),
        (
            |caps| caps.nodes[0].spec.offer_watts = Some(0),
            Some(" It offers new pods no watts: those that request some wait, or go elsewhere."),
        ),
        (
            |caps| caps.nodes[0].spec.offer_watts = None,
            Some(" It offers new pods no watts: those that request some wait, or go elsewhere."),
        ),
        (
            |caps| caps.domains[0].spec.brake = Brake::Fallback,
            Some(" It offers new pods no watts while a brake is pulled."),
        ),
        (|caps| caps.nodes[0].spec.power_limit_watts = None, None),
        (|caps| caps.nodes[0].spec.release = true, None),
    ] {
        assert_eq!(offers(bend).as_deref(), says);
    }
}

#[test]
fn a_pod_that_no_cap_can_hold_back_is_told_why_not() {
    let mut free = rack();
    for gpu in &mut free.nodes[0].status.as_mut().unwrap().gpus {
        gpu.reason = Reason::Applied.to_string();
    }
    let mut unknown = rack();
    for gpu in &mut unknown.nodes[0].status.as_mut().unwrap().gpus {
        gpu.tenants = None;
    }
    for (phase, on, caps, says) in [
        ("Pending", None, rack(), "Pod demo/training-0 is Pending: it does not run, so no power cap holds it back."),
        (
            "Running",
            Some("elsewhere"),
            rack(),
            "No power cap holds pod demo/training-0 back: nothing caps its node elsewhere, which has no NodeFrequencies.",
        ),
        (
            "Running",
            Some("rack-1"),
            free,
            "No power cap holds pod demo/training-0 back: it has 1 board on node rack-1, and it may run at full speed.",
        ),
        (
            "Running",
            Some("rack-1"),
            unknown,
            "Pod demo/training-0 asks for 1 board, and its node's agent does not tell which: see `kubectl powercap explain node/rack-1`.",
        ),
    ] {
        let answer = pod::explain(&crate::world::pod("training-0", "training", phase, on), &caps, now());
        assert_eq!(answer.summary, says);
    }
    let mut cpu_only = crate::world::pod("web-0", "web", "Running", Some("rack-1"));
    cpu_only.spec.as_mut().unwrap().containers.clear();
    let answer = pod::explain(&cpu_only, &rack(), now());
    let says = "No power cap holds pod demo/web-0 back: its node's CPUs may run as fast as they can. It has no board.";
    assert_eq!(answer.summary, says);
}

#[test]
fn an_agent_that_is_silent_is_not_believed_without_saying_so() {
    let mut caps = rack();
    let status = caps.nodes[0].status.as_mut().unwrap();
    status.heartbeat_time = serde_json::from_value("2026-11-22T13:40:00Z".into()).unwrap();
    let answer = of_pod("training-0", &caps);
    let silent = answer.why.iter().find(|cause| cause.reason == "AgentSilent").unwrap();
    assert!(silent.says.ends_with("What is said here of it is 20m old."), "{}", silent.says);
    assert!(answer.can_do.iter().any(|advice| advice.starts_with("See that the node agent runs there")));
}

#[test]
fn machines_get_the_same_words() {
    let answer = serde_json::to_value(of_pod("training-0", &rack())).unwrap();
    assert_eq!(answer["subject"], "pod/demo/training-0");
    assert_eq!(answer["boards"][0]["uuid"], BOARDS[0]);
    assert_eq!(answer["boards"][0]["ceilingMegahertz"], 1410);
    assert_eq!(answer["why"][0]["reason"], "PolicyCap");
    assert_eq!(answer["why"][0]["since"], "2026-11-22T13:55:00Z");
}

#[test]
fn under_a_grant_a_higher_priority_is_advised_only_where_others_are_not_shed_first() {
    let advice = |own: u32, other: u32| {
        let mut caps = rack();
        let mut ceiling = caps.nodes[0].spec.gpu_frequencies[0].clone();
        caps.nodes[0].spec.gpu_frequencies[0].shed_order = other;
        (ceiling.uuid, ceiling.set_by, ceiling.shed_order) =
            (BOARDS[1].into(), "powercappingpolicy/demo/inference".into(), own);
        caps.nodes[0].spec.gpu_frequencies.push(ceiling);
        of_pod("inference-0", &caps).can_do.into_iter().find(|advice| advice.contains("spec.priority"))
    };
    let says = "Raise spec.priority of powercappingpolicy/demo/inference (now 5) above the 7 of \
                powercappingpolicy/demo/training: boards of a lower one give up their watts first.";
    assert_eq!(advice(5, 7).as_deref(), Some(says));
    assert_eq!(advice(7, 5), None);
}

#[test]
fn a_brake_that_the_recommender_pulled_is_its_own_and_says_since_when() {
    let mut caps = rack();
    let status = caps.domains[0].status.as_mut().unwrap();
    let reason = Reason::PowerStaysAboveCap;
    status.brake = Some(BrakeStatus { level: Brake::Minimum, reason: reason.to_string() });
    status
        .conditions
        .push(serde_json::from_value(condition("Braked", "True", reason, "the brake is at Minimum")).unwrap());
    let text = of_pod("inference-0", &caps).text(now());
    let says = "The brake of powerdomain/rack was pulled by the recommender (PowerStaysAboveCap): devices go down to \
                their lowest. Since 2026-11-22T13:55:00Z, 5m ago.";
    assert!(text.contains(says), "{text}");
    assert!(!text.contains("if somebody pulled it"), "{text}");
}

#[test]
fn what_binds_a_board_is_the_strictest_of_policy_grant_brake_and_lease() {
    let held = |caps: &Caps, board: usize| {
        let node = &caps.nodes[0];
        holder(node, &node.status.as_ref().unwrap().gpus[board], caps)
    };
    let caps = rack();
    assert_eq!(held(&caps, 0), Holder::Ceiling(TRAINING.into()));
    assert_eq!(held(&caps, 1), Holder::Grant(Some("rack".into())));

    let mut caps = rack();
    caps.nodes[0].spec.domains.push("row".into());
    caps.domains.push(domain("row", 4000));
    assert_eq!(held(&caps, 1), Holder::Grant(Some("row".into())), "of two domains the one that leaves less");

    let mut caps = rack();
    caps.domains[0].spec.brake = Brake::Fallback;
    assert_eq!(held(&caps, 1), Holder::Brake("rack".into()), "without fallback watts a brake goes to the lowest");
    caps.domains[0].spec.node_defaults.fallback_watts = Some(2600);
    assert_eq!(held(&caps, 1), Holder::Grant(Some("rack".into())), "the grant is below the fallback");
    caps.domains[0].spec.node_defaults.fallback_watts = Some(2000);
    assert_eq!(held(&caps, 1), Holder::Brake("rack".into()));

    let mut caps = rack();
    caps.nodes[0].spec.lease =
        Some(LeaseTerms { duration_seconds: 60, on_expiry: OnExpiry::Fallback, fallback_watts: Some(2000) });
    assert_eq!(held(&caps, 1), Holder::Grant(Some("rack".into())), "the lease is current");
    caps.nodes[0].status.as_mut().unwrap().conditions[1] =
        serde_json::from_value(condition("LeaseCurrent", "False", Reason::FallbackInForce, "")).unwrap();
    assert_eq!(held(&caps, 1), Holder::Fallback);

    let mut caps = rack();
    caps.nodes[0].status.as_mut().unwrap().gpus[1].reason = Reason::Quarantined.to_string();
    assert_eq!(held(&caps, 1), Holder::Device);
    caps.nodes[0].status.as_mut().unwrap().gpus[1].reason = Reason::Applied.to_string();
    assert_eq!(held(&caps, 1), Holder::Nobody);
}

#[test]
fn a_board_that_follows_its_group_is_held_by_whoever_holds_the_slowest() {
    let mut caps = rack();
    let node = &mut caps.nodes[0];
    node.spec.gpu_frequencies[0].group = Some("demo/Job/train".into());
    let mut second = node.spec.gpu_frequencies[0].clone();
    second.uuid = BOARDS[1].into();
    node.spec.gpu_frequencies.push(second);
    node.status.as_mut().unwrap().gpus[0].reason = Reason::GroupFollows.to_string();
    let node = &caps.nodes[0];
    let found = holder(node, &node.status.as_ref().unwrap().gpus[0], &caps);
    assert_eq!(found, Holder::Group(BOARDS[1].into(), Box::new(Holder::Grant(Some("rack".into())))));
    let text = of_pod("training-0", &caps).text(now());
    assert!(text.contains("GroupFollows (1 board on node rack-1): The ceiling follows a slower device of the same group. That is GPU-1b7d90c4"), "{text}");
    assert!(text.contains("(EnvelopeReached): The node's measured power came close to its envelope"), "{text}");
}
