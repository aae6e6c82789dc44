//! What the cluster says of itself: our objects, read a few times a second, and what changed in them.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams},
};
use powercap_common::{
    api::{NodeFrequencies, PendingAction, PowerCappingPolicy, PowerDomain, Tenant},
    condition::{self, Truth, kind},
    policy::selects,
    reason::Reason,
    target::Controller,
};
use serde_json::json;

/// The domain of one node that the script makes.
const NODE_DOMAIN: &str = "shelf";

/// Our objects at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) domains: Vec<PowerDomain>,
    pub(crate) policies: Vec<PowerCappingPolicy>,
    pub(crate) nodes: Vec<NodeFrequencies>,
    /// All pods, of which labels are read alone.
    pub(crate) pods: Vec<PartialObjectMeta<Pod>>,
}

/// Something that changed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) object: String,
    pub(crate) what: String,
    pub(crate) reason: String,
}

/// The API, as the demo uses it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot> {
        let everything = ListParams::default();
        let (domains, policies, nodes, pods) = (
            Api::<PowerDomain>::all(self.client.clone()),
            Api::<PowerCappingPolicy>::all(self.client.clone()),
            Api::<NodeFrequencies>::all(self.client.clone()),
            Api::<Pod>::all(self.client.clone()),
        );
        let (domains, policies, nodes, pods) = tokio::try_join!(
            domains.list(&everything),
            policies.list(&everything),
            nodes.list(&everything),
            pods.list_metadata(&everything)
        )
        .context("list PowerDomains, PowerCappingPolicies, NodeFrequencies and pods")?;
        Ok(Snapshot { domains: domains.items, policies: policies.items, nodes: nodes.items, pods: pods.items })
    }

    /// Edits a domain, as a person would.
    pub(crate) async fn edit(&self, domain: &str, spec: serde_json::Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        Api::<PowerDomain>::all(self.client.clone())
            .patch(domain, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("edit PowerDomain {domain}"))?;
        Ok(())
    }

    /// Edits a policy of the demo, as a person would.
    pub(crate) async fn edit_policy(&self, policy: &str, spec: serde_json::Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        Api::<PowerCappingPolicy>::namespaced(self.client.clone(), "demo")
            .patch(policy, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("edit PowerCappingPolicy {policy}"))?;
        Ok(())
    }

    /// Puts a node under a cap of its own, within a domain.
    pub(crate) async fn cap_node(&self, parent: &str, node: &str, watts: u32) -> Result<()> {
        let domain = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": NODE_DOMAIN},
            "spec": {"powerCapLimitWatts": watts, "parentRef": {"name": parent},
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}},
                "nodeOverhead": {"staticWatts": 1300, "percent": 8}},
        }))?;
        let domains = Api::<PowerDomain>::all(self.client.clone());
        domains.create(&PostParams::default(), &domain).await.context("cap a node")?;
        Ok(())
    }

    /// Takes that cap away.
    pub(crate) async fn uncap_node(&self) -> Result<()> {
        let domains = Api::<PowerDomain>::all(self.client.clone());
        domains.delete(NODE_DOMAIN, &DeleteParams::default()).await.context("take a node's cap away")?;
        Ok(())
    }

    /// Scales a Deployment of the demo.
    pub(crate) async fn scale(&self, deployment: &str, replicas: u32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        Api::<Deployment>::namespaced(self.client.clone(), "demo")
            .patch_scale(deployment, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("scale Deployment {deployment}"))?;
        Ok(())
    }
}

impl Snapshot {
    /// Whether every node holds what it was last asked to, and the domain's promises fit under this cap.
    pub(crate) fn acknowledged(&self, cap_watts: u32) -> bool {
        let granted: u32 = self.nodes.iter().filter_map(|node| node.spec.power_limit_watts).sum();
        !self.nodes.is_empty()
            && self.nodes.iter().all(|node| node.spec.power_limit_watts.is_some() && node_acknowledged(node))
            && granted <= cap_watts
    }
}

impl Snapshot {
    /// The nodes of a domain.
    pub(crate) fn nodes_of(&self, domain: &PowerDomain) -> BTreeSet<String> {
        let name = domain.name_any();
        let within = self.nodes.iter().filter(|node| node.spec.domains.contains(&name));
        within.map(|node| node.spec.node_name.clone()).collect()
    }

    /// The boards, by UUID, that serve a policy's pods: those whose tenants it selects, and those that it holds.
    pub(crate) fn boards_of(&self, policy: &PowerCappingPolicy) -> BTreeSet<String> {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let is_chosen = |tenant: &Tenant| {
            let is_tenant = |pod: &&PartialObjectMeta<Pod>| {
                pod.name_any() == tenant.name && pod.namespace().as_ref() == Some(&tenant.namespace)
            };
            tenant.namespace == namespace
                && self
                    .pods
                    .iter()
                    .find(is_tenant)
                    .is_some_and(|pod| selects(policy, pod.labels(), Controller::of(&pod.metadata).as_ref()))
        };
        let set_by = format!("powercappingpolicy/{namespace}/{name}");
        let boards = |node: &NodeFrequencies| {
            let held = node.spec.gpu_frequencies.iter().filter(|gpu| gpu.set_by == set_by).map(|gpu| gpu.uuid.clone());
            let gpus = node.status.iter().flat_map(|status| &status.gpus);
            let selected = gpus.filter(|gpu| gpu.tenants.iter().flatten().any(is_chosen)).map(|gpu| gpu.uuid.clone());
            held.chain(selected).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(boards).collect()
    }
}

fn node_acknowledged(node: &NodeFrequencies) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.acknowledged)
        .is_some_and(|acknowledged| acknowledged.power_limit_watts == node.spec.power_limit_watts)
}

/// What is different in `after`, in words.
pub(crate) fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    for node in &after.nodes {
        let earlier = before.nodes.iter().find(|other| other.spec.node_name == node.spec.node_name);
        node_changes(&mut changes, earlier, node);
    }
    for policy in &after.policies {
        let name = &policy.metadata.name;
        let earlier = before.policies.iter().find(|other| other.metadata.name == *name);
        let conditions = |policy: Option<&PowerCappingPolicy>| {
            policy.and_then(|policy| Some(policy.status.as_ref()?.conditions.clone())).unwrap_or_default()
        };
        let object = format!("policy {}", name.as_deref().unwrap_or_default());
        condition_changes(&mut changes, &object, &conditions(earlier), &conditions(Some(policy)));
        escalation_changes(&mut changes, &object, earlier, policy);
    }
    for domain in &after.domains {
        let name = &domain.metadata.name;
        let earlier = before.domains.iter().find(|other| other.metadata.name == *name);
        let conditions = |domain: Option<&PowerDomain>| {
            domain.and_then(|domain| Some(domain.status.as_ref()?.conditions.clone())).unwrap_or_default()
        };
        let object = format!("domain {}", name.as_deref().unwrap_or_default());
        condition_changes(&mut changes, &object, &conditions(earlier), &conditions(Some(domain)));
    }
    changes
}

fn node_changes(changes: &mut Vec<Change>, before: Option<&NodeFrequencies>, after: &NodeFrequencies) {
    let object = format!("node {}", after.spec.node_name);
    let grant = |node: Option<&NodeFrequencies>| node.and_then(|node| node.spec.power_limit_watts);
    if grant(before) != grant(Some(after)) {
        let words = |watts: Option<u32>| watts.map_or_else(|| "no limit".to_owned(), |watts| format!("{watts} W"));
        changes.push(Change {
            object: object.clone(),
            what: format!("grant {} → {}", words(grant(before)), words(grant(Some(after)))),
            reason: if after.spec.release { Reason::Released } else { Reason::DomainCap }.to_string(),
        });
    }
    let held = |node: Option<&NodeFrequencies>| {
        node.and_then(|node| node.status.as_ref()?.acknowledged.and_then(|held| held.power_limit_watts))
    };
    if let Some(watts) = held(Some(after)).filter(|watts| held(before) != Some(*watts)) {
        changes.push(Change {
            object: object.clone(),
            what: format!("holds {watts} W"),
            reason: Reason::Applied.to_string(),
        });
    }
    // The board that is held lowest stands for the node: a line for each of eight would hide the rest.
    let slowest = |node: &NodeFrequencies| {
        let gpus = node.status.as_ref()?.gpus.iter();
        gpus.filter_map(|gpu| Some((gpu.target_graphics_megahertz?, gpu.reason.clone()))).min()
    };
    let (was, is) = (before.and_then(slowest), slowest(after));
    if let Some((megahertz, reason)) = is.filter(|(_, reason)| was.as_ref().map(|(_, was)| was) != Some(reason)) {
        changes.push(Change { object, what: format!("slowest board at most {megahertz} MHz"), reason });
    }
}

fn condition_changes(changes: &mut Vec<Change>, object: &str, before: &[Condition], after: &[Condition]) {
    for type_ in [kind::CAP_TRIGGERED, kind::WITHIN_CAP, kind::DATA_FRESH, kind::FEASIBLE] {
        let now = condition::truth(after, type_);
        if now == condition::truth(before, type_) || (now == Truth::Unknown && before.is_empty()) {
            continue;
        }
        let reason = after.iter().find(|condition| condition.type_ == type_).map(|condition| condition.reason.clone());
        changes.push(Change {
            object: object.to_owned(),
            what: format!("{type_} is {}", now.as_str()),
            reason: reason.unwrap_or_default(),
        });
    }
}

/// What stands to be done beyond lower clocks, and what is done or undone.
fn escalation_changes(
    changes: &mut Vec<Change>,
    object: &str,
    before: Option<&PowerCappingPolicy>,
    after: &PowerCappingPolicy,
) {
    let pending =
        |policy: &PowerCappingPolicy| policy.status.iter().flat_map(|it| it.pending_actions.clone()).collect();
    let was: Vec<PendingAction> = before.map(pending).unwrap_or_default();
    let is: Vec<PendingAction> = pending(after);
    for due in is.iter().filter(|due| !was.iter().any(|other| other.action == due.action)) {
        let what = format!("{:?} of {} stands to be done", due.action, due.workload);
        changes.push(Change { object: object.to_owned(), what, reason: due.reason.clone() });
    }
    let migration = |policy: &PowerCappingPolicy| policy.status.as_ref()?.escalated.as_ref()?.migration.clone();
    if let (Some(is), true) = (migration(after), before.and_then(migration).is_none()) {
        let what = format!("moves {} from {} to {}", is.pod, is.source, is.destination());
        changes.push(Change { object: object.to_owned(), what, reason: "its node cannot keep its cap".to_owned() });
    }
    let last = |policy: &PowerCappingPolicy| policy.status.as_ref()?.escalated.as_ref()?.last.clone();
    if let Some(deed) = last(after).filter(|deed| before.and_then(last).as_ref() != Some(deed)) {
        let (action, workload) = (deed.action, &deed.workload);
        let what =
            if deed.undone { format!("undoes {action:?} of {workload}") } else { format!("{action:?} of {workload}") };
        let cause = if deed.undone { "there are watts again" } else { "clocks alone cannot keep its cap" };
        changes.push(Change { object: object.to_owned(), what, reason: cause.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use powercap_common::api::{Acknowledged, NodeFrequenciesSpec, NodeFrequenciesStatus};

    fn snapshot(granted: u32, held: u32) -> Snapshot {
        let mut node = NodeFrequencies::new(
            "n1",
            NodeFrequenciesSpec {
                node_name: "n1".into(),
                domains: vec!["rack".into()],
                power_limit_watts: Some(granted),
                ..Default::default()
            },
        );
        node.status = Some(NodeFrequenciesStatus {
            acknowledged: Some(Acknowledged { power_limit_watts: Some(held), ..Default::default() }),
            ..Default::default()
        });
        Snapshot { nodes: vec![node], ..Default::default() }
    }

    #[test]
    fn a_cut_is_acknowledged_when_the_node_holds_it() {
        assert!(!Snapshot::default().acknowledged(1000));
        assert!(!snapshot(900, 1000).acknowledged(1000));
        assert!(snapshot(900, 900).acknowledged(1000));
        assert!(!snapshot(900, 900).acknowledged(800));
    }

    #[test]
    fn changes_are_told_once_with_their_reason() {
        let (before, after) = (snapshot(900, 900), snapshot(800, 900));
        let told = changes(&before, &after);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].what.as_str(), told[0].reason.as_str()), ("grant 900 W → 800 W", "DomainCap"));
        assert!(changes(&after, &after).is_empty());
    }
}
