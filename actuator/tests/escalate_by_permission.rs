//! Whatever the world is like: nothing is touched that is not in the list of somebody who permits it.

use std::sync::Arc;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use powercap_actuator::escalate::{
    ceilings::stored::Kind,
    decide::{Step, What, decide},
    observation::{JobFacts, Limits, ObjectName, Observation, PodFacts, PodName, SuspendedByUs},
};
use powercap_common::{
    api::{Deed, Mode, PendingAction, PowerCappingPolicy},
    reason::Reason,
    target::Controller,
};
use proptest::{prelude::*, sample::select, strategy::ValueTree};
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;
const ACTIONS: [&str; 6] = ["Throttle", "Freeze", "Resize", "Scale", "Migrate", "Evict"];

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(NOW + second).unwrap())
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "a", "a", "b"])
}

fn conditions() -> impl Strategy<Value = Value> {
    let truth = || prop_oneof![8 => Just("True"), 1 => Just("False"), 1 => Just("Unknown")];
    (truth(), truth()).prop_map(|(fresh, above)| {
        let within = match above {
            "True" => "False",
            "False" => "True",
            _ => "Unknown",
        };
        let said = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": kind, "message": "", "lastTransitionTime": at(0)})
        };
        json!([said("DataFresh", fresh), said("WithinCap", within)])
    })
}

/// An action on a pod, or on a Job as a whole, that may be anybody's.
fn pending() -> impl Strategy<Value = Value> {
    let action = prop_oneof![2 => Just("Evict"), 1 => select(ACTIONS.to_vec())];
    let job = proptest::option::of(select(Kind::JOBS.to_vec()));
    (action, namespace(), 0..8_u8, 0..3_u8, job).prop_map(|(action, namespace, pod, app, job)| {
        let mut pending = json!({"action": action, "namespace": namespace, "freesWatts": 200,
                "reason": "PowerAboveCap", "since": at(-1000),
                "workload": format!("{}/w{app}", job.unwrap_or(Kind::Deployment).names().2)});
        if job.is_none() {
            pending["pod"] = json!(format!("p{pod}"));
        }
        pending
    })
}

/// A step that was taken at some time, and may not have been carried out.
fn escalated() -> impl Strategy<Value = Option<Value>> {
    let some = (pending(), 0..400_i64, 0..4_u32).prop_map(|(pending, age, in_vain)| {
        let uid = pending["pod"].as_str().map_or_else(|| "job".to_owned(), |pod| format!("uid-{pod}"));
        let mut last = json!({"action": pending["action"], "workload": pending["workload"], "uid": uid,
            "freesWatts": 200, "powerWatts": 3000});
        if !pending["pod"].is_null() {
            last["pod"] = pending["pod"].clone();
        }
        json!({"rung": "Evict", "withoutEffect": in_vain, "lastAction": at(-age), "last": last})
    });
    proptest::option::of(some)
}

fn policy() -> impl Strategy<Value = (Value, Vec<Value>, Option<Value>, Value)> {
    let rungs = proptest::sample::subsequence(ACTIONS[1..].to_vec(), 0..=5);
    let mode = prop_oneof![3 => Just("Enforce"), 1 => Just("Advise"), 1 => Just("Off")];
    let spec = (rungs, mode, 0..3_u8).prop_map(|(rungs, mode, app)| {
        let ladder: Vec<_> = ["Throttle"].into_iter().chain(rungs).map(|action| json!({"action": action})).collect();
        json!({"powerCapLimitWatts": 1000, "mode": mode, "escalation": ladder,
            "selector": {"matchLabels": {"app": format!("w{app}")}}})
    });
    (spec, proptest::collection::vec(pending(), 0..12), escalated(), conditions())
}

fn pod() -> impl Strategy<Value = PodFacts> {
    let kinds = select(vec!["ReplicaSet", "ReplicaSet", "Job", "JobSet", "PyTorchJob", "DaemonSet", "StatefulSet"]);
    (0..3_u8, proptest::option::weighted(0.9, kinds), prop::bool::weighted(0.9), prop::bool::weighted(0.05)).prop_map(
        |(app, kind, ready, ending)| PodFacts {
            labels: [("app".to_owned(), format!("w{app}"))].into(),
            controller: kind.map(|kind| Controller { kind: kind.to_owned(), name: format!("w{app}") }),
            created: Some(at(-500).0),
            ready,
            ending,
            ..PodFacts::default()
        },
    )
}

fn job() -> impl Strategy<Value = JobFacts> {
    let mark = || SuspendedByUs { policy: "p0".to_owned(), domain: None, watts: 100 };
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |(suspended, ours, controlled)| JobFacts {
        uid: "job".to_owned(),
        suspended,
        controlled,
        suspended_by_us: ours.then(mark),
        ..JobFacts::default()
    })
}

prop_compose! {
    fn world()(
        policies in proptest::collection::vec((namespace(), policy()), 1..4),
        domain in proptest::collection::vec(pending(), 0..12),
        domain_conditions in conditions(),
        pods in proptest::collection::vec((namespace(), pod()), 8),
        jobs in proptest::collection::vec((select(Kind::JOBS.to_vec()), namespace(), 0..3_u8, job()), 0..4),
        minimum_replicas in 0..3_usize,
        for_a_policy in 1..4_usize,
        halted in prop::bool::weighted(0.1),
    ) -> Observation {
        let policies = policies.into_iter().enumerate().map(|(number, (namespace, (spec, pending, escalated, said)))| {
            let mut status = json!({"pendingActions": pending, "conditions": said, "currentPowerWatts": 3000});
            if let Some(escalated) = escalated {
                status["escalated"] = escalated;
            }
            let object = json!({
                "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy", "spec": spec, "status": status,
                "metadata": {"namespace": namespace, "name": format!("p{number}"), "uid": format!("p{number}")},
            });
            Arc::new(serde_json::from_value(object).unwrap())
        });
        let domain = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": "rack"},
            "spec": {"powerCapLimitWatts": 5000, "nodeSelector": {"matchLabels": {"rack": "r"}}},
            "status": {"pendingActions": domain, "conditions": domain_conditions, "currentPowerWatts": 6000},
        });
        let pods = pods.into_iter().enumerate().map(|(number, (namespace, facts))| {
            let name = PodName { namespace: namespace.to_owned(), name: format!("p{number}") };
            (name, Arc::new(PodFacts { uid: format!("uid-p{number}"), ..facts }))
        });
        Observation {
            policies: policies.collect(),
            domains: vec![Arc::new(serde_json::from_value(domain).unwrap())],
            pods: pods.collect(),
            jobs: jobs.into_iter().map(|(kind, namespace, app, job)| {
                (ObjectName { kind, namespace: namespace.into(), name: format!("w{app}") }, job)
            }).collect(),
            halted: halted.then_some(Reason::LeaseExpired),
            limits: Limits { minimum_replicas, for_a_policy, in_a_namespace: 4, ..Limits::default() },
            ..Observation::default()
        }
    }
}

/// Whether somebody lists the step, and its policy permits it.
fn permitted(seen: &Observation, step: &Step, deed: &Deed) -> bool {
    let policy = |policy: &&Arc<PowerCappingPolicy>| {
        policy.metadata.name.as_ref() == Some(&step.policy.name)
            && policy.metadata.namespace.as_ref() == Some(&step.policy.namespace)
            && policy.spec.mode == Mode::Enforce
            && policy.spec.escalation.iter().any(|rung| rung.action == deed.action)
    };
    let Some(policy) = seen.policies.iter().find(policy) else { return false };
    let domain = seen.domains.iter().find(|domain| domain.metadata.name == deed.domain);
    let listed = match domain.filter(|_| deed.domain.is_some()) {
        Some(domain) => domain.status.as_ref().map(|status| &status.pending_actions),
        None => policy.status.as_ref().map(|status| &status.pending_actions),
    };
    let same = |action: &PendingAction| {
        (action.action, &action.namespace, &action.workload, &action.pod)
            == (deed.action, &step.policy.namespace, &deed.workload, &deed.pod)
    };
    listed.is_some_and(|listed| listed.iter().any(same))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn nothing_is_touched_that_no_policy_in_mode_enforce_lists_and_permits(seen in world()) {
        let plan = decide(&seen, at(0).0);
        for step in plan.steps.iter().filter(|step| !step.deed.undone) {
            for (deed, what) in step.acts() {
                prop_assert!(permitted(&seen, step, deed), "{step:?}");
                if let What::Evict(pod) = what {
                    prop_assert_eq!((Some(&pod.name), &pod.namespace), (deed.pod.as_ref(), &step.policy.namespace));
                    prop_assert_eq!(&seen.pods[pod].uid, &deed.uid);
                }
            }
        }
        if seen.halted.is_some() {
            prop_assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        }
    }

    #[test]
    fn only_a_job_that_we_suspended_is_resumed(seen in world()) {
        for step in decide(&seen, at(0).0).steps.iter().filter(|step| step.deed.undone) {
            if let What::Resume { job } = &step.what {
                let job = &seen.jobs[job];
                prop_assert!(job.suspended && job.suspended_by_us.is_some(), "{step:?}");
            }
        }
    }

    #[test]
    fn a_policy_takes_one_step_at_a_time(seen in world()) {
        let plan = decide(&seen, at(0).0);
        for step in plan.steps.iter().filter(|step| !step.deed.undone) {
            let others = plan.steps.iter().filter(|other| !other.deed.undone && other.policy == step.policy);
            prop_assert_eq!(others.count(), 1, "{:?}", plan.steps);
            prop_assert!(step.acts().count() <= seen.limits.for_a_policy, "{step:?}");
            let of = |what: &What| match what {
                What::Evict(pod) => seen.pods[pod].controller.clone(),
                What::Suspend { job, .. } => {
                    Some(Controller { kind: job.kind.names().2.to_owned(), name: job.name.clone() })
                }
                _ => None,
            };
            let whose: Vec<_> = step.acts().map(|(_, what)| of(what)).collect();
            let twice = whose.iter().enumerate().any(|(at, one)| one.is_some() && whose[..at].contains(one));
            prop_assert!(!twice, "two of a workload: {step:?}");
        }
    }
}

/// The claims above would hold of a decision that never does anything.
#[test]
fn random_worlds_do_ask_for_steps() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = (0..2000).map(|_| {
        let seen = world().new_tree(&mut runner).unwrap().current();
        decide(&seen, at(0).0).steps.iter().filter(|step| !step.deed.undone).count()
    });
    let steps: usize = steps.sum();
    assert!(steps > 50, "{steps} steps in 2,000 worlds");
}
