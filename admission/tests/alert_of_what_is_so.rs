//! Which alerts are so, by what the objects say: a row for each alert, with the words that it carries.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use powercap_admission::alerts::{Look, Seen, Validity, look};
use powercap_common::alert::ALL;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn ago(seconds: i64) -> Timestamp {
    NOW - SignedDuration::from_secs(seconds)
}

fn quiet() -> Seen {
    Seen {
        policies: Vec::new(),
        domains: Vec::new(),
        nodes: Vec::new(),
        recommender_heard: NOW,
        without_headroom: BTreeMap::new(),
        certificate: None,
    }
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": format!("words of {kind}"),
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn domain(spec: &Value, status: &Value) -> Seen {
    let mut whole = json!({"powerCapLimitWatts": 1000, "nodeSelector": {"matchLabels": {"rack": "r1"}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"metadata": {"name": "rack"}, "spec": whole, "status": status});
    Seen { domains: vec![Arc::new(serde_json::from_value(object).unwrap())], ..quiet() }
}

/// A policy that is ready for this reason, and what else its status says.
fn policy(ready: &str, mut conditions: Vec<Value>, status: Value) -> Seen {
    conditions.push(condition("Ready", "True", ready));
    let mut status = status;
    status["conditions"] = json!(conditions);
    let object = json!({"metadata": {"namespace": "llm", "name": "chat"}, "status": status,
        "spec": {"powerCapLimitWatts": 1000, "selector": {"matchLabels": {"app": "chat"}}}});
    Seen { policies: vec![Arc::new(serde_json::from_value(object).unwrap())], ..quiet() }
}

fn node(release: bool, status: &Value) -> Seen {
    let object = json!({"metadata": {"name": "n0", "creationTimestamp": ago(1000).to_string()}, "status": status,
        "spec": {"nodeName": "n0", "epoch": {"term": 1, "sequence": 1}, "release": release}});
    Seen { nodes: vec![Arc::new(serde_json::from_value(object).unwrap())], ..quiet() }
}

fn heard(mut status: Value) -> Value {
    status["heartbeatTime"] = json!(NOW.to_string());
    status
}

fn gpu(state: &str) -> Value {
    json!({"uuid": "GPU-0", "model": "H100", "minGraphicsMegahertz": 210, "maxGraphicsMegahertz": 1980,
        "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700, "state": state, "reason": "WriteFailed"})
}

/// What is so of this, as `NAME subject: words`, but for the dead man's switch.
fn so(seen: &Seen) -> Vec<String> {
    let findings = look(seen, NOW);
    let so = findings.into_iter().filter_map(|(key, look)| match look {
        Look::So(words) => Some(format!("{} {}: {words}", key.alert.name, key.subject.join("/"))),
        Look::Unknown => None,
    });
    so.filter(|text| !text.starts_with("PowercapDeadMansSwitch")).collect()
}

/// Those of which nobody can tell.
fn unknown(seen: &Seen) -> Vec<&'static str> {
    let findings = look(seen, NOW);
    findings.into_iter().filter(|(_, look)| *look == Look::Unknown).map(|(key, _)| key.alert.name).collect()
}

fn rows() -> Vec<(Seen, &'static str)> {
    let certificate = |since, until| Seen { certificate: Some(Validity { since, until }), ..quiet() };
    let headroom = |at| Seen { without_headroom: [("llm".to_owned(), at)].into(), ..quiet() };
    let one = |condition| json!({"conditions": [condition]});
    vec![
        (domain(&json!({}), &json!({"currentPowerWatts": 950})), "PowerDomainNearCap rack: It draws 950 W of 1000 W."),
        (domain(&json!({}), &json!({"currentPowerWatts": 949})), ""),
        (
            domain(&json!({}), &one(condition("WithinCap", "False", "PowerAboveCap"))),
            "PowerDomainAboveCap rack: words of WithinCap",
        ),
        (
            domain(&json!({}), &json!({"forecastPowerWatts": 1001})),
            "PowerDomainForecastAboveCap rack: 1001 W are expected, and the cap is 1000 W.",
        ),
        (domain(&json!({}), &json!({"forecastPowerWatts": 1000})), ""),
        (
            domain(&json!({}), &one(condition("DataFresh", "False", "DataStale"))),
            "PowerDomainDataStale rack: words of DataFresh",
        ),
        (
            domain(&json!({}), &one(condition("Feasible", "False", "CapBelowFloor"))),
            "PowerDomainInfeasible rack: words of Feasible",
        ),
        (
            domain(
                &json!({"brake": "Minimum"}),
                &json!({"brake": {"level": "Fallback", "reason": "PowerStaysAboveCap"}}),
            ),
            "PowerDomainBraked rack: It stands at Minimum, pulled by a person, in spec.brake.",
        ),
        (
            domain(&json!({}), &json!({"brake": {"level": "Fallback", "reason": "PowerStaysAboveCap"}})),
            "PowerDomainBraked rack: It stands at Fallback, pulled by the recommender.",
        ),
        (
            policy("Enforcing", vec![condition("CapTriggered", "True", "ThresholdCrossed")], json!({})),
            "PowerPolicyNearCap llm/chat: words of CapTriggered",
        ),
        (
            policy("Enforcing", vec![condition("WithinCap", "False", "PowerAboveCap")], json!({})),
            "PowerPolicyAboveCap llm/chat: words of WithinCap",
        ),
        (
            policy("Advising", vec![condition("WithinCap", "False", "PowerAboveCap")], json!({})),
            "PowerPolicyAdvisingAboveCap llm/chat: words of WithinCap",
        ),
        (
            policy("Enforcing", vec![], json!({"forecastPowerWatts": 2000})),
            "PowerPolicyForecastAboveCap llm/chat: 2000 W are expected, and the cap is 1000 W.",
        ),
        (
            policy("Enforcing", vec![condition("DataFresh", "False", "NoData")], json!({})),
            "PowerPolicyDataStale llm/chat: words of DataFresh",
        ),
        (
            policy("Enforcing", vec![condition("Feasible", "False", "CapBelowPerformance")], json!({})),
            "PowerPolicyInfeasible llm/chat: words of Feasible",
        ),
        (
            policy("Enforcing", vec![condition("Escalating", "True", "StoppedWithoutEffect")], json!({})),
            "PowerPolicyEscalationStopped llm/chat: StoppedWithoutEffect: words of Escalating.",
        ),
        (
            policy("Enforcing", vec![condition("Escalating", "False", "AdmissionSilent")], json!({})),
            "PowerPolicyEscalationStopped llm/chat: AdmissionSilent: words of Escalating.",
        ),
        (policy("Enforcing", vec![condition("Escalating", "True", "AwaitingEffect")], json!({})), ""),
        (policy("SwitchedOff", vec![condition("WithinCap", "False", "PowerAboveCap")], json!({})), ""),
        (
            node(false, &heard(json!({"gpus": [gpu("Quarantined"), gpu("Applied"), gpu("Failed")]}))),
            "PowerDeviceFailed n0: GPU-0 (quarantined, WriteFailed), GPU-0 (failed, WriteFailed).",
        ),
        (
            node(
                false,
                &heard(json!({"cpus": [{"cpufreqPolicy": 3, "minMegahertz": 800, "maxMegahertz": 3000,
                "state": "Failed", "reason": "PermissionDenied"}]})),
            ),
            "PowerDeviceFailed n0: cpufreq policy 3 (PermissionDenied).",
        ),
        (node(false, &heard(json!({"gpus": [gpu("Drifted"), gpu("Unsupported")]}))), ""),
        (
            node(false, &json!({"heartbeatTime": ago(361).to_string()})),
            "PowerNodeAgentSilent n0: Its agent was last heard of 361 s ago.",
        ),
        (node(false, &json!({})), "PowerNodeAgentSilent n0: Its agent was last heard of 1000 s ago."),
        (node(true, &json!({})), ""),
        (
            Seen { recommender_heard: ago(31), ..quiet() },
            "PowercapRecommenderSilent : Its Lease was last renewed 31 s ago.",
        ),
        (Seen { recommender_heard: ago(30), ..quiet() }, ""),
        (headroom(ago(599)), "PowercapAdmittedWithoutHeadroom llm: The last of them came 599 s ago."),
        (headroom(ago(600)), ""),
        (
            certificate(ago(801), NOW + SignedDuration::from_secs(199)),
            "PowercapCertificateNearExpiry : It is valid until 2027-01-15T08:03:19Z.",
        ),
        (certificate(ago(800), NOW + SignedDuration::from_secs(200)), ""),
    ]
}

#[test]
fn each_alert_is_so_when_its_object_says_so_and_at_no_other_time() {
    for (seen, says) in rows() {
        let expected: Vec<_> = (!says.is_empty()).then_some(says).into_iter().collect();
        assert_eq!(so(&seen), expected);
    }
}

#[test]
fn every_alert_has_a_row() {
    let told: Vec<_> = rows().into_iter().map(|(_, says)| says.split(' ').next().unwrap().to_owned()).collect();
    for alert in ALL.iter().filter(|alert| alert.name != "PowercapDeadMansSwitch") {
        assert!(told.iter().any(|name| name == alert.name), "{}", alert.name);
    }
}

#[test]
fn the_dead_mans_switch_is_so_when_nothing_else_is() {
    let findings = look(&quiet(), NOW);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings.into_keys().next().unwrap().alert.name, "PowercapDeadMansSwitch");
}

#[test]
fn what_nobody_can_tell_is_unknown_and_not_well() {
    let blind = domain(&json!({}), &json!({"conditions": [condition("WithinCap", "Unknown", "NoData")]}));
    assert!(unknown(&blind).contains(&"PowerDomainAboveCap") && unknown(&blind).contains(&"PowerDomainNearCap"));
    let off = policy("SwitchedOff", vec![condition("WithinCap", "Unknown", "SwitchedOff")], json!({}));
    assert!(unknown(&off).is_empty(), "a policy that was switched off is not waited for");
}
