//! A Pod as far as a decision needs it. What else is in it is skipped while it is read, and never written.
//!
//! Amounts are kept as they are written: one that is no quantity concerns its container alone.

use std::fmt;

use powercap_common::{
    api::ControlledResource,
    quantity::{BadQuantity, Quantity},
    selector::Labels,
    target::Controller,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A pod that is to be created.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    /// Labels, owners, annotations.
    #[serde(default)]
    pub metadata: Metadata,
    /// Containers, and where it may run.
    #[serde(default)]
    pub spec: Spec,
}

/// What of a pod's metadata matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// By which policies select.
    pub labels: Option<Labels>,
    /// Absent where it has none at all.
    pub annotations: Option<Annotations>,
    /// One of them may control it.
    owner_references: Option<Vec<Owner>>,
}

/// What of a pod's annotations matters.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Annotations {
    /// The API server's image of a static pod.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
struct Owner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

/// What of a pod's spec matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Those whose requests may be set.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Read for what they take of a quota; left as they are.
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
    /// What the pod has as a whole.
    pub resources: Option<Resources>,
    /// Where it is bound to.
    node_name: Option<String>,
    /// Labels that its node must have.
    pub node_selector: Option<Labels>,
    affinity: Option<Affinity>,
    /// Taints that it bears.
    #[serde(default)]
    tolerations: Option<Vec<Toleration>>,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Absent where the key is.
    pub resources: Option<Resources>,
    /// Of an init container, `Always` makes it a sidecar.
    restart_policy: Option<String>,
}

/// Requests and limits.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Resources {
    /// Absent where the key is.
    pub requests: Option<Amounts>,
    /// Absent where the key is.
    pub limits: Option<Amounts>,
}

/// Amounts, as far as they matter.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Amounts {
    cpu: Option<Written>,
    memory: Option<Written>,
    #[serde(rename = "powercapping.io/watts")]
    watts: Option<Written>,
    #[serde(rename = "nvidia.com/gpu")]
    gpus: Option<Written>,
}

/// An amount as it is written: by the API server always as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written(String);

/// A taint that a pod bears.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Toleration {
    /// Every key where it is empty.
    #[serde(default)]
    pub key: Option<String>,
    /// `Exists`, or `Equal`, the default.
    pub operator: Option<String>,
    /// For `Equal`.
    pub value: Option<String>,
    /// Every effect where it is empty.
    pub effect: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeTerms>,
    preferred_during_scheduling_ignored_during_execution: Option<Vec<IgnoredAny>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeTerms {
    #[serde(default)]
    node_selector_terms: Option<Vec<NodeTerm>>,
}

/// A node meets a term that it meets in all parts; one of several terms is enough.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTerm {
    /// On its labels.
    pub match_expressions: Option<Vec<NodeRequirement>>,
    /// On its name, the only field that there is.
    pub match_fields: Option<Vec<NodeRequirement>>,
}

/// A part of a term.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeRequirement {
    /// A label, or `metadata.name`.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub operator: String,
    /// What the operator compares with.
    #[serde(default)]
    pub values: Option<Vec<String>>,
}

impl Pod {
    /// What controls it.
    #[must_use]
    pub fn controller(&self) -> Option<Controller> {
        let owner = self.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        Some(Controller { kind: owner.kind.clone(), name: owner.name.clone() })
    }

    /// Whether no scheduler places it: bound by a person, or the image of a static pod.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        let mirrored = self.metadata.annotations.as_ref().is_some_and(|annotations| annotations.mirror.is_some());
        mirrored || self.spec.node_name.as_ref().is_some_and(|node| !node.is_empty())
    }

    /// Each term that its node may meet; `None`: any node will do.
    #[must_use]
    pub fn node_terms(&self) -> Option<&[NodeTerm]> {
        let affinity = self.spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        Some(required.node_selector_terms.as_deref().unwrap_or_default())
    }

    /// How far what it says of nodes that it prefers is there: the names below `spec` that are.
    #[must_use]
    pub fn says_of_nodes(&self) -> usize {
        let affinity = self.spec.affinity.as_ref();
        let node = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred = node.and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_ref());
        usize::from(affinity.is_some()) + usize::from(node.is_some()) + usize::from(preferred.is_some())
    }

    /// The taints that it bears.
    #[must_use]
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec.tolerations.as_deref().unwrap_or_default()
    }

    /// Init containers, in the order in which they start, and whether each goes on running as a sidecar.
    pub fn init_containers(&self) -> impl Iterator<Item = (&Container, bool)> {
        let all = self.spec.init_containers.iter().flatten();
        all.map(|container| (container, container.restart_policy.as_deref() == Some("Always")))
    }
}

impl Container {
    /// What it requests.
    #[must_use]
    pub fn requests(&self) -> Option<&Amounts> {
        self.resources.as_ref()?.requests.as_ref()
    }

    /// What limits it.
    #[must_use]
    pub fn limits(&self) -> Option<&Amounts> {
        self.resources.as_ref()?.limits.as_ref()
    }

    /// Its boards: an extended resource, whose limit is its request.
    #[must_use]
    pub fn gpus(&self) -> u64 {
        let written = |amounts: Option<&Amounts>| amounts?.gpus.as_ref()?.quantity().ok();
        written(self.limits()).or_else(|| written(self.requests())).map_or(0, Quantity::ceil)
    }
}

impl Amounts {
    /// The amount of one resource.
    #[must_use]
    pub fn of(&self, resource: ControlledResource) -> Option<&Written> {
        match resource {
            ControlledResource::Cpu => self.cpu.as_ref(),
            ControlledResource::Memory => self.memory.as_ref(),
            ControlledResource::Watts => self.watts.as_ref(),
        }
    }
}

impl Written {
    /// What it says.
    ///
    /// # Errors
    /// When it is no quantity.
    pub fn quantity(&self) -> Result<Quantity, BadQuantity> {
        self.0.parse()
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(amount: D) -> Result<Self, D::Error> {
        amount.deserialize_any(AsWritten)
    }
}

/// Takes whatever stands there: that it is no quantity is found by whoever needs one.
struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity")
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
        Ok(Written(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(Written(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written(number.to_string()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Written, E> {
        Ok(Written(truth.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Written("a list".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Written, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Written("a map".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(amount: &serde_json::Value) -> Written {
        let amounts: Amounts = serde_json::from_value(json!({"cpu": amount})).unwrap();
        amounts.cpu.unwrap()
    }

    #[test]
    fn an_amount_may_be_text_or_a_number_and_what_is_neither_is_no_quantity() {
        for (amount, read) in [(json!("500m"), "500m"), (json!(2), "2"), (json!(0.5), "500m"), (json!(-1), "-1")] {
            assert_eq!(written(&amount).quantity().unwrap().to_string(), read);
        }
        for amount in [json!(true), json!([1]), json!({"a": 1}), json!("1e309"), json!(1e300)] {
            assert!(written(&amount).quantity().is_err(), "{amount}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"labels": null, "annotations": null, "ownerReferences": null},
            "spec": {"containers": [{"name": "a", "resources": null}], "initContainers": null, "affinity": null,
                "tolerations": null, "nodeSelector": null, "resources": null},
        }))
        .unwrap();
        assert_eq!((pod.spec.containers.len(), pod.init_containers().count(), pod.tolerations().len()), (1, 0, 0));
        assert!(!pod.is_bound() && pod.node_terms().is_none() && pod.controller().is_none());
    }

    #[test]
    fn boards_are_counted_by_limit_or_request() {
        let gpus = |resources: serde_json::Value| {
            let container: Container = serde_json::from_value(json!({"name": "a", "resources": resources})).unwrap();
            container.gpus()
        };
        assert_eq!(gpus(json!({"limits": {"nvidia.com/gpu": "8"}})), 8);
        assert_eq!(gpus(json!({"requests": {"nvidia.com/gpu": 2}})), 2);
        assert_eq!(gpus(json!({"limits": {"nvidia.com/gpu": "many"}})), 0);
        assert_eq!(gpus(json!({})), 0);
    }
}
