//! `doctor` finds what is missing, dead, stale or mislabelled, and says what mends it.

use jiff::SignedDuration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionCondition, CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::{ByteString, api::coordination::v1::Lease};
use powercap_cli::doctor::{
    finding::{Finding, Verdict, text},
    findings,
    seen::{Answer, Right, Sample, Seen, Series},
};
use powercap_common::{
    api::{Action, Brake, ContainerPolicy, DeviceState, Mode, PowerCappingPolicy, Rung, definitions},
    reason::Reason,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::world::{condition, now, rack, stands_on_the_page};

/// Everything is well.
fn well() -> Seen {
    let caps = rack();
    let mut established = definitions();
    for definition in &mut established {
        let condition = CustomResourceDefinitionCondition {
            type_: "Established".into(),
            status: "True".into(),
            ..Default::default()
        };
        definition.status =
            Some(CustomResourceDefinitionStatus { conditions: Some(vec![condition]), ..Default::default() });
    }
    let on_each = |make: &dyn Fn(&str) -> serde_json::Value| ["rack-1", "rack-2"].map(make);
    Seen {
        now: now(),
        server: "https://10.0.0.1:6443/ (context rack)".into(),
        version: Ok("v1.33.4".into()),
        definitions: Ok(established),
        rights: vec![(right(None), Ok(true)), (right(Some("the recommender")), Ok(true))],
        recommender: Ok(Some(
            serde_json::from_value(json!({
                "metadata": {"name": "powercap-recommender"},
                "spec": {
                    "replicas": 1, "selector": {},
                    "template": {"spec": {"containers": [{"name": "recommender", "args": ["--collection-interval-seconds=5"]}]}},
                },
                "status": {"availableReplicas": 1},
            }))
            .unwrap(),
        )),
        lease: lease("powercap-recommender-0", Some(1)),
        admission_lease: lease("powercap-admission-0", None),
        escalation_lease: lease("powercap-escalate-0", Some(3)),
        pod_webhooks: read(webhooks()),
        object_webhooks: read(webhooks()),
        namespaces: Ok(vec![serde_json::from_value(json!({"metadata": {"name": "demo"}})).unwrap()]),
        agents: read(json!({"spec": {"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": {"kubernetes.io/os": "linux"}}}}})),
        agent_pods: Ok(on_each(&|node| json!({"spec": {"containers": [], "nodeName": node}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
            .map(|pod| serde_json::from_value(pod).unwrap())
            .to_vec()),
        nodes: Ok(on_each(&|node| json!({"metadata": {"name": node, "labels": {"kubernetes.io/os": "linux"}}}))
            .map(|node| serde_json::from_value(node).unwrap())
            .to_vec()),
        prometheus: ("http://prometheus.monitoring.svc:9090".into(), Ok(series(&caps))),
        caps: Ok(caps),
    }
}

fn read<T: DeserializeOwned>(object: serde_json::Value) -> Answer<Option<T>> {
    Ok(Some(serde_json::from_value(object).unwrap()))
}

/// A Lease that was renewed a second ago.
fn lease(holder: &str, term: Option<u32>) -> Answer<Option<Lease>> {
    read(json!({
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 8, "leaseTransitions": term,
            "renewTime": "2026-11-22T13:59:59.000000Z",
        },
    }))
}

/// What registers admission, with an authority.
fn webhooks() -> serde_json::Value {
    let webhook = json!({
        "name": "powercapping.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"caBundle": "LS0tLS1CRUdJTg=="},
    });
    json!({"webhooks": [webhook]})
}

fn right(account: Option<&'static str>) -> Right {
    Right { account, verb: "patch", group: "powercapping.io", resource: "nodefrequencies", namespace: None, name: None }
}

/// A series of a source, scraped three seconds before the question.
fn sample(labels: &[(&str, &str)]) -> Sample {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sample { labels, evaluated_at: 1000.0, value: 997.0 }
}

fn series(caps: &powercap_cli::caps::Caps) -> Series {
    let mut series = Series { changes: Some(24.0), ..Series::default() };
    for node in &caps.nodes {
        let name = node.metadata.name.as_deref().unwrap();
        for gpu in &node.status.as_ref().unwrap().gpus {
            series.boards.push(sample(&[("UUID", &gpu.uuid), ("Hostname", name), ("job", "dcgm"), ("instance", name)]));
        }
        series.cpus.push(sample(&[("node_name", name)]));
        series.agents.push(sample(&[("node", name)]));
        series.intervals.insert(("dcgm".into(), name.into()), 5);
    }
    series
}

fn prometheus(seen: &mut Seen) -> &mut Series {
    seen.prometheus.1.as_mut().unwrap()
}

/// The findings that are not fine.
fn amiss(seen: &Seen) -> Vec<Finding> {
    let mut all = findings(seen);
    all.retain(|finding| finding.verdict != Verdict::Ok);
    all
}

#[test]
fn where_all_is_well_every_check_says_so() {
    assert_eq!(text(&findings(&well())), "\
ok    API server            v1.33.4 at https://10.0.0.1:6443/ (context rack)
ok    definitions           powercappingpolicies.powercapping.io, powerdomains.powercapping.io, nodefrequencies.powercapping.io established, of this version
ok    your rights           you may read all that explain, top and doctor need, and release nodes
ok    rights of components  the recommender may do what it needs
ok    recommender           1 of 1 replicas available
ok    leader's Lease        held by powercap-recommender-0 (term 1), renewed 1s ago
ok    admission's Lease     held by powercap-admission-0, renewed 1s ago
ok    webhooks              of pods, policies and domains, each with its authority
ok    namespaces            opted in to admission wherever a policy names requests or moves pods
ok    escalation's Lease    held by powercap-escalate-0 (term 3), renewed 1s ago
ok    node agents           ready on every node (2)
ok    agents' reports       every agent has reported lately (2)
ok    nodes                 all well (2)
ok    boards                every board takes its orders (4)
ok    domains               all well (1)
ok    policies              all well (1)
ok    Prometheus            http://prometheus.monitoring.svc:9090 answers
ok    scrape interval       exporters are scraped every 5 s, the recommender reckons with 5 s
ok    DCGM exporter         a series for each board that agents see (4)
ok    DCGM exporter         the label Hostname or hostname names nodes of this cluster
ok    DCGM exporter         the oldest reading is 3 s old (more than 15 s would be stale)
ok    DCGM exporter         power of the liveliest board changed 24 times in 120 s
ok    Kepler                a series for each capped node (2)
ok    Kepler                the label node_name names nodes of this cluster
ok    Kepler                the oldest reading is 3 s old (more than 15 s would be stale)
ok    scraped agents        a series for each capped node (2)

26 ok, 0 to look at, 0 failed
");
}

#[test]
fn the_page_shows_these_very_findings() {
    let mut seen = well();
    lost_board(&mut seen);
    seldom(&mut seen, 15);
    stands_on_the_page(&text(&findings(&seen)));
}

/// One thing is wrong, and nothing else is said to be: the check, how bad, and words of finding and mend.
#[test]
fn what_is_wrong_is_found_and_mended() {
    type Bend = fn(&mut Seen);
    let cases: Vec<(Bend, Verdict, &str, &str, &str)> = vec![
        (
            |seen| seen.version = Err("connection refused".into()),
            Verdict::Fail,
            "API server",
            "connection refused",
            "this context",
        ),
        (|seen| seen.version = Ok("v1.31.0".into()), Verdict::Warn, "API server", "v1.31.0", "1.33 or later"),
        (
            |seen| _ = seen.definitions.as_mut().unwrap().remove(1),
            Verdict::Fail,
            "definitions",
            "powerdomains.powercapping.io is not there",
            "make install",
        ),
        (
            |seen| seen.definitions.as_mut().unwrap()[0].status = None,
            Verdict::Fail,
            "definitions",
            "not established",
            "kubectl describe crd",
        ),
        (forget_a_field, Verdict::Fail, "definitions", "it lacks spec.priority", "kubectl apply -k manifests/crds"),
        (
            |seen| seen.rights[0].1 = Ok(false),
            Verdict::Warn,
            "your rights",
            "you may not patch nodefrequencies.powercapping.io",
            "a role",
        ),
        (
            |seen| seen.rights[1].1 = Ok(false),
            Verdict::Fail,
            "rights of components",
            "the recommender may not patch",
            "manifests/base",
        ),
        (
            |seen| seen.rights[1].1 = Err("you may not".into()),
            Verdict::Warn,
            "rights of components",
            "not seen",
            "see that you may read it",
        ),
        (|seen| seen.recommender = Ok(None), Verdict::Fail, "recommender", "no Deployment", "make install"),
        (unavailable, Verdict::Fail, "recommender", "0 of 1 replicas", "ceilings stand"),
        (
            |seen| seen.lease = Ok(None),
            Verdict::Fail,
            "leader's Lease",
            "nobody holds it: The recommender's Lease was not renewed in time",
            "renews its Lease",
        ),
        (
            |seen| renewed_earlier(&mut seen.lease),
            Verdict::Fail,
            "leader's Lease",
            "renewed 61s ago: The recommender's Lease was not renewed in time",
            "renews its Lease",
        ),
        (
            |seen| renewed_earlier(&mut seen.admission_lease),
            Verdict::Fail,
            "admission's Lease",
            "renewed 61s ago: new pods request what they are written with, and nothing escalates",
            "see that powercap-admission runs",
        ),
        (
            |seen| seen.pod_webhooks = Ok(None),
            Verdict::Fail,
            "webhooks",
            "no MutatingWebhookConfiguration powercap-admission registers a webhook: new pods request",
            "manifests/base/admission",
        ),
        (
            |seen| seen.object_webhooks = read(json!({"webhooks": []})),
            Verdict::Fail,
            "webhooks",
            "no ValidatingWebhookConfiguration powercap-admission registers a webhook: policies and domains",
            "manifests/base/admission",
        ),
        (
            |seen| {
                let registered = seen.pod_webhooks.as_mut().unwrap().as_mut().unwrap();
                registered.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = None;
            },
            Verdict::Fail,
            "webhooks",
            "MutatingWebhookConfiguration powercap-admission has no caBundle",
            "the log of powercap-admission",
        ),
        (
            |seen| {
                let registered = seen.object_webhooks.as_mut().unwrap().as_mut().unwrap();
                registered.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = Some(ByteString::default());
            },
            Verdict::Fail,
            "webhooks",
            "ValidatingWebhookConfiguration powercap-admission has no caBundle",
            "the log of powercap-admission",
        ),
        (
            |seen| policy(seen).spec.resource_policy.container_policies.push(ContainerPolicy::default()),
            Verdict::Warn,
            "namespaces",
            "those of powercappingpolicy/demo/training",
            "kubectl label namespace demo powercapping.io/admission=enabled",
        ),
        (
            |seen| permit(seen, Action::Migrate),
            Verdict::Warn,
            "namespaces",
            "those of powercappingpolicy/demo/training",
            "kubectl label namespace demo powercapping.io/admission=enabled",
        ),
        (
            |seen| {
                permit(seen, Action::Evict);
                seen.escalation_lease = Ok(None);
            },
            Verdict::Fail,
            "escalation's Lease",
            "nobody holds it: nobody does what is permitted beyond lower clocks by powercappingpolicy/demo/training",
            "see that powercap-escalate runs",
        ),
        (
            |seen| _ = seen.agent_pods.as_mut().unwrap().pop(),
            Verdict::Fail,
            "node agents",
            "no ready agent on rack-2",
            "node agent runs",
        ),
        (
            silence,
            Verdict::Fail,
            "agents' reports",
            "nothing from rack-1: The node agent has not reported",
            "node agent runs",
        ),
        (
            not_ready,
            Verdict::Fail,
            "nodes",
            "JournalUnavailable: The journal of original settings cannot be used",
            "/var/lib/powercap",
        ),
        (lost_board, Verdict::Fail, "boards", "Quarantined: The device was lost or needs a reset", "reset the board"),
        (unknown_power, Verdict::Warn, "domains", "NoData: Prometheus answered, but has no power reading", "Kepler"),
        (shared, Verdict::Fail, "policies", "SharedDevice: A device is shared", "select every pod"),
        (
            |seen| seen.caps.as_mut().unwrap().domains[0].spec.brake = Brake::Fallback,
            Verdict::Warn,
            "brakes",
            "powerdomain/rack, at Fallback",
            "set spec.brake",
        ),
        (no_pods, Verdict::Warn, "policies", "NoMatchingPods: No running pod", "correct spec.selector"),
        (
            |seen| seen.prometheus.1 = Err("no answer within 10 s".into()),
            Verdict::Fail,
            "Prometheus",
            "no answer within 10 s",
            "services/proxy",
        ),
        (
            |seen| prometheus(seen).boards.clear(),
            Verdict::Fail,
            "DCGM exporter",
            "no DCGM_FI_DEV_POWER_USAGE",
            "scrapes them",
        ),
        (
            |seen| _ = prometheus(seen).boards.remove(0),
            Verdict::Fail,
            "DCGM exporter",
            "no series for GPU-8f3c1e2a-6d0f-4b1e-9a55-03c7a1f2e901 on rack-1",
            "scrapes them",
        ),
        (
            |seen| mislabel(seen, "dcgm-exporter-x7k2p"),
            Verdict::Fail,
            "DCGM exporter",
            "names no node of this cluster: dcgm-exporter-x7k2p",
            "NODE_NAME",
        ),
        (
            |seen| prometheus(seen).boards[0].value = 900.0,
            Verdict::Fail,
            "DCGM exporter",
            "the oldest reading is 100 s old: The readings are older",
            "--collection-interval-seconds",
        ),
        (
            |seen| prometheus(seen).changes = Some(4.0),
            Verdict::Warn,
            "DCGM exporter",
            "changed 4 times in 120 s",
            "DCGM_EXPORTER_INTERVAL=5000",
        ),
        (|seen| seldom(seen, 15), Verdict::Warn, "scrape interval", "every 15 s", "--collection-interval-seconds=15"),
        (|seen| seldom(seen, 30), Verdict::Fail, "scrape interval", "every 30 s", "--collection-interval-seconds=30"),
        (|seen| _ = prometheus(seen).cpus.pop(), Verdict::Warn, "Kepler", "no series of rack-2", "Kepler"),
        (
            |seen| prometheus(seen).agents.clear(),
            Verdict::Warn,
            "scraped agents",
            "no series of rack-1, rack-2",
            "8081",
        ),
    ];
    for (bend, verdict, check, found, mend) in cases {
        let mut seen = well();
        bend(&mut seen);
        let amiss = amiss(&seen);
        let [one] = amiss.as_slice() else { panic!("one thing is wrong, {check}: {amiss:#?}") };
        assert_eq!((one.check, one.verdict), (check, verdict), "{one:?}");
        assert!(one.found.contains(found), "{found}: {one:?}");
        assert!(one.mend.as_ref().unwrap().contains(mend), "{mend}: {one:?}");
    }
}

#[test]
fn nobody_needs_to_escalate_or_to_opt_in_for_policies_that_ask_for_neither() {
    let quiet: [fn(&mut Seen); 3] = [
        |seen| seen.escalation_lease = Ok(None),
        |seen| {
            permit(seen, Action::Migrate);
            seen.escalation_lease = Ok(None);
            policy(seen).spec.mode = Mode::Advise;
        },
        |seen| {
            permit(seen, Action::Migrate);
            let opted_in = json!({"metadata": {"name": "demo", "labels": {"powercapping.io/admission": "enabled"}}});
            seen.namespaces = Ok(vec![serde_json::from_value(opted_in).unwrap()]);
        },
    ];
    for bend in quiet {
        let mut seen = well();
        bend(&mut seen);
        assert_eq!(amiss(&seen), []);
    }
}

#[test]
fn what_may_not_be_read_is_not_called_well() {
    let mut seen = well();
    seen.caps = Err("you may not".into());
    seen.nodes = Err("you may not".into());
    seen.pod_webhooks = Err("you may not".into());
    seen.escalation_lease = Ok(None);
    let amiss = amiss(&seen);
    assert!(amiss.iter().all(|finding| finding.verdict == Verdict::Warn), "{amiss:#?}");
    assert!(amiss.iter().any(|finding| finding.check == "node agents" && finding.found == "not seen: you may not"));
}

fn forget_a_field(seen: &mut Seen) {
    let version = &mut seen.definitions.as_mut().unwrap()[0].spec.versions[0];
    let schema = version.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
    schema.properties.as_mut().unwrap().get_mut("spec").unwrap().properties.as_mut().unwrap().remove("priority");
}

fn renewed_earlier(lease: &mut Answer<Option<Lease>>) {
    let spec = lease.as_mut().unwrap().as_mut().unwrap().spec.as_mut().unwrap();
    spec.renew_time.as_mut().unwrap().0 -= SignedDuration::from_secs(60);
}

fn policy(seen: &mut Seen) -> &mut PowerCappingPolicy {
    &mut seen.caps.as_mut().unwrap().policies[0]
}

fn permit(seen: &mut Seen, action: Action) {
    policy(seen).spec.escalation.push(Rung { action, after_seconds: 60 });
}

fn unavailable(seen: &mut Seen) {
    seen.recommender.as_mut().unwrap().as_mut().unwrap().status = None;
}

fn first(seen: &mut Seen) -> &mut powercap_common::api::NodeFrequenciesStatus {
    seen.caps.as_mut().unwrap().nodes[0].status.as_mut().unwrap()
}

fn silence(seen: &mut Seen) {
    first(seen).heartbeat_time = Some(Time(now() - SignedDuration::from_mins(7)));
}

fn not_ready(seen: &mut Seen) {
    let ready = condition("Ready", "False", Reason::JournalUnavailable, "the disk is full");
    first(seen).conditions[0] = serde_json::from_value(ready).unwrap();
}

fn lost_board(seen: &mut Seen) {
    let board = &mut first(seen).gpus[0];
    (board.state, board.reason) = (DeviceState::Quarantined, Reason::Quarantined.to_string());
}

fn unknown_power(seen: &mut Seen) {
    let unknown = condition("WithinCap", "Unknown", Reason::NoData, "no reading of the CPUs of rack-1");
    let domain = &mut seen.caps.as_mut().unwrap().domains[0];
    domain.status.as_mut().unwrap().conditions[1] = serde_json::from_value(unknown).unwrap();
}

fn shared(seen: &mut Seen) {
    let ready = condition("Ready", "False", Reason::SharedDevice, "1 of its devices are used by other pods too");
    let policy = &mut seen.caps.as_mut().unwrap().policies[0];
    policy.status.as_mut().unwrap().conditions[0] = serde_json::from_value(ready).unwrap();
}

fn no_pods(seen: &mut Seen) {
    let ready = condition("Ready", "False", Reason::NoMatchingPods, "spec.selector matches no running pod");
    let policy = &mut seen.caps.as_mut().unwrap().policies[0];
    policy.status.as_mut().unwrap().conditions[0] = serde_json::from_value(ready).unwrap();
}

fn mislabel(seen: &mut Seen, node: &str) {
    prometheus(seen).boards[0].labels.insert("Hostname".into(), node.into());
}

fn seldom(seen: &mut Seen, seconds: u64) {
    prometheus(seen).intervals.values_mut().for_each(|interval| *interval = seconds);
}
