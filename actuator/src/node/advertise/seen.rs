//! What the API server tells of this node's pods and of its Node, as far as watts go.
//!
//! What must hold: nothing is known before the first list is complete; while a list is read anew, what was known
//! stands; a Node that is older than the answer to our last write is not looked at.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Resource, ResourceExt, runtime::watcher::Event};
use powercap_common::{
    quantity,
    requests::{self, InitRequest},
    units::Watts,
};
use serde::Deserialize;

use super::decide::Seen;

/// A Pod as far as its requests go.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Pod)]
pub struct RequestingPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: RequestingSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestingSpec {
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    resources: Resources,
    /// Of an init container, `Always` makes it a sidecar.
    restart_policy: Option<String>,
}

/// Of an extended resource requests and limits are the same, and limits are always there.
#[derive(Clone, Debug, Default, Deserialize)]
struct Resources {
    #[serde(default)]
    limits: Watted,
}

/// Amounts, of which ours is of interest.
#[derive(Clone, Debug, Default, Deserialize)]
struct Watted {
    #[serde(rename = "powercapping.io/watts")]
    watts: Option<Quantity>,
}

impl Watted {
    fn whole(&self) -> Option<u64> {
        self.watts.as_ref()?.0.parse().ok().map(quantity::Quantity::ceil)
    }
}

impl RequestingPod {
    fn requested(&self) -> u64 {
        let of = |container: &Container| container.resources.limits.whole().unwrap_or_default();
        let inits = self
            .spec
            .init_containers
            .iter()
            .map(|init| InitRequest { amount: of(init), sidecar: init.restart_policy.as_deref() == Some("Always") });
        requests::of_pod(self.spec.containers.iter().map(of), inits)
    }
}

/// A Node as far as what it advertises goes.
#[derive(Resource, Clone, Debug, Deserialize)]
#[resource(inherit = Node)]
pub struct AdvertisingNode {
    metadata: ObjectMeta,
    #[serde(default)]
    status: AdvertisingStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct AdvertisingStatus {
    #[serde(default)]
    capacity: Watted,
    #[serde(default)]
    allocatable: Watted,
}

/// The pods of the node that have not ended, and what each requests.
#[derive(Debug, Default)]
pub struct Pods {
    known: Option<BTreeMap<String, u64>>,
    listed: BTreeMap<String, u64>,
}

impl Pods {
    /// Takes an event in.
    pub fn meet(&mut self, event: Event<RequestingPod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(key(&pod), pod.requested());
            }
            Event::InitDone => self.known = Some(std::mem::take(&mut self.listed)),
            Event::Apply(pod) => {
                self.known.get_or_insert_default().insert(key(&pod), pod.requested());
            }
            Event::Delete(pod) => {
                self.known.get_or_insert_default().remove(&key(&pod));
            }
        }
    }

    /// What they request together, once they are known.
    #[must_use]
    pub fn requested(&self) -> Option<Watts> {
        let sum = self.known.as_ref()?.values().fold(0_u64, |sum, watts| sum.saturating_add(*watts));
        Some(watts(sum))
    }
}

/// A pod that was deleted and made again by its old name is another.
fn key(pod: &RequestingPod) -> String {
    pod.uid().unwrap_or_else(|| pod.name_any())
}

/// What the Node advertises.
#[derive(Debug, Default)]
pub struct Advertised {
    version: u64,
    amounts: Option<(Option<Watts>, Option<Watts>)>,
}

impl Advertised {
    /// Takes in the Node as it was told, or as the API server answered a write with it.
    pub fn meet(&mut self, node: &AdvertisingNode) {
        // Resource versions are numbers that grow (promised since Kubernetes 1.35, true of every earlier one).
        let version = node.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX);
        if version >= self.version {
            let amount = |amounts: &Watted| amounts.whole().map(watts);
            self.version = if version == u64::MAX { 0 } else { version };
            self.amounts = Some((amount(&node.status.capacity), amount(&node.status.allocatable)));
        }
    }

    /// What is known together with what pods request; none before both are.
    #[must_use]
    pub fn with(&self, pods: &Pods) -> Option<Seen> {
        let (capacity, allocatable) = self.amounts?;
        Some(Seen { requested: pods.requested()?, capacity, allocatable })
    }
}

fn watts(whole: u64) -> Watts {
    Watts::from_milliwatts(whole.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, watts: &str) -> RequestingPod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": uid},
            "spec": {
                "containers": [{"resources": {"limits": {"powercapping.io/watts": watts, "cpu": "2"}}}, {}],
                "initContainers": [{"restartPolicy": "Always", "resources": {"limits": {"powercapping.io/watts": "50"}}}],
            },
        }))
        .unwrap()
    }

    fn node(version: &str, watts: &str) -> AdvertisingNode {
        let amounts = json!({"powercapping.io/watts": watts, "cpu": "64"});
        serde_json::from_value(json!({
            "metadata": {"name": "n", "resourceVersion": version},
            "status": {"capacity": amounts, "allocatable": amounts},
        }))
        .unwrap()
    }

    #[test]
    fn nothing_is_known_before_the_first_list_is_complete() {
        let mut pods = Pods::default();
        pods.meet(Event::Init);
        pods.meet(Event::InitApply(pod("a", "1k")));
        assert_eq!(pods.requested(), None);
        pods.meet(Event::InitDone);
        assert_eq!(pods.requested(), Some(Watts::new(1050)));
    }

    #[test]
    fn while_a_list_is_read_anew_what_was_known_stands() {
        let mut pods = Pods::default();
        pods.meet(Event::InitDone);
        pods.meet(Event::Apply(pod("a", "700")));
        pods.meet(Event::Apply(pod("b", "700")));
        pods.meet(Event::Init);
        assert_eq!(pods.requested(), Some(Watts::new(1500)));
        pods.meet(Event::InitApply(pod("b", "700")));
        pods.meet(Event::InitDone);
        assert_eq!(pods.requested(), Some(Watts::new(750)), "a ended meanwhile");
        pods.meet(Event::Delete(pod("b", "700")));
        assert_eq!(pods.requested(), Some(Watts::ZERO));
    }

    #[test]
    fn a_node_that_is_older_than_our_last_write_is_not_looked_at() {
        let (mut pods, mut advertised) = (Pods::default(), Advertised::default());
        pods.meet(Event::InitDone);
        assert_eq!(advertised.with(&pods), None);
        advertised.meet(&node("20", "3k"));
        advertised.meet(&node("19", "9k"));
        let seen = advertised.with(&pods).unwrap();
        assert_eq!((seen.capacity, seen.allocatable), (Some(Watts::new(3000)), Some(Watts::new(3000))));
        advertised.meet(&node("21", "2500"));
        assert_eq!(advertised.with(&pods).unwrap().capacity, Some(Watts::new(2500)));
    }
}
