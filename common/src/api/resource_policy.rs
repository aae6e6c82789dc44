//! What pods may be given as resource requests, and what is recommended: the words of the Vertical Pod
//! Autoscaler, with watts beside CPU and memory.

use std::borrow::Cow;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::quantity::{BadQuantity, Quantity};

/// The resource by which kube-scheduler places pods by power: watts at the devices (GPUs, and CPUs where the
/// policy counts them), as their exporters measure. What a node draws beside them is not in it.
pub const WATTS: &str = "powercapping.io/watts";
/// The label by which a namespace opts in to admission, and its value.
pub const OPT_IN: (&str, &str) = ("powercapping.io/admission", "enabled");

/// What admission may set on new pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourcePolicy {
    /// What holds for single containers. One for `*` holds for all that are not named; without any, watts
    /// alone are set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["containerName".into()]))]
    pub container_policies: Vec<ContainerPolicy>,
}

/// What admission may set on a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPolicy {
    /// The container's name, or `*` for every other.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"))]
    pub container_name: String,
    /// Nothing below this is recommended.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub min_allowed: Amounts,
    /// Nothing above this is recommended.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub max_allowed: Amounts,
    /// What is set: watts alone, by default; none at all by an empty list.
    #[serde(default = "watts_alone")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub controlled_resources: Vec<ControlledResource>,
    /// Whether limits of CPU and memory change in proportion to their requests. Watts have equal ones always, as
    /// Kubernetes asks of extended resources.
    #[serde(default)]
    pub controlled_values: ControlledValues,
}

impl Default for ContainerPolicy {
    fn default() -> Self {
        Self {
            container_name: "*".to_owned(),
            min_allowed: Amounts::default(),
            max_allowed: Amounts::default(),
            controlled_resources: watts_alone(),
            controlled_values: ControlledValues::default(),
        }
    }
}

fn watts_alone() -> Vec<ControlledResource> {
    vec![ControlledResource::Watts]
}

impl ResourcePolicy {
    /// What holds for a container: its own, else that for `*`, else the default.
    #[must_use]
    pub fn of(&self, container: &str) -> Cow<'_, ContainerPolicy> {
        let named = |name: &str| self.container_policies.iter().find(|policy| policy.container_name == name);
        named(container).or_else(|| named("*")).map_or_else(|| Cow::Owned(ContainerPolicy::default()), Cow::Borrowed)
    }
}

/// A resource that admission may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ControlledResource {
    /// Processor time.
    #[serde(rename = "cpu")]
    Cpu,
    /// Memory.
    #[serde(rename = "memory")]
    Memory,
    /// Watts at the devices.
    #[serde(rename = "powercapping.io/watts")]
    Watts,
}

/// What of a container's resources changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ControlledValues {
    /// Requests, and limits in proportion.
    #[default]
    RequestsAndLimits,
    /// Requests alone.
    RequestsOnly,
}

/// Amounts of the resources that admission may set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Amounts {
    /// Processor time, in cores: `500m`, `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Memory, in bytes: `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
    /// Watts at the devices: `700`.
    #[serde(rename = "powercapping.io/watts", skip_serializing_if = "Option::is_none")]
    pub watts: Option<Amount>,
}

impl Amounts {
    /// None is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// The amount of one resource.
    #[must_use]
    pub fn of(&self, resource: ControlledResource) -> Option<&Amount> {
        match resource {
            ControlledResource::Cpu => self.cpu.as_ref(),
            ControlledResource::Memory => self.memory.as_ref(),
            ControlledResource::Watts => self.watts.as_ref(),
        }
    }
}

/// An amount as Kubernetes writes it: a number, or text such as `500m` or `2Gi`; never negative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Amount(pub String);

impl Amount {
    /// What it says.
    ///
    /// # Errors
    /// When it is no quantity: the API server refuses that in objects of ours.
    pub fn quantity(&self) -> Result<Quantity, BadQuantity> {
        self.0.parse()
    }
}

impl From<Quantity> for Amount {
    fn from(amount: Quantity) -> Self {
        Self(amount.to_string())
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(amount: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Whole(i64),
            Text(String),
        }
        match Written::deserialize(amount)
            .map_err(|_| D::Error::custom("an amount is a whole number, or text such as 500m"))?
        {
            Written::Whole(amount) => Ok(Self(amount.to_string())),
            Written::Text(amount) => Ok(Self(amount)),
        }
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maxLength": 32,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]{1,3}))?$",
        })
    }
}

/// What new pods should request, by container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecommendedRequests {
    /// By the containers' names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["containerName".into()]))]
    pub container_recommendations: Vec<ContainerRecommendation>,
}

impl RecommendedRequests {
    /// What is recommended for a container, if anything is.
    #[must_use]
    pub fn of(&self, container: &str) -> Option<&ContainerRecommendation> {
        self.container_recommendations.iter().find(|recommended| recommended.container_name == container)
    }
}

/// What a container of a new pod should request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecommendation {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub container_name: String,
    /// The amounts that admission sets.
    pub target: Amounts,
    /// A request below this is too small.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub lower_bound: Amounts,
    /// A request above this is wasteful.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub upper_bound: Amounts,
    /// What the target would be without `minAllowed` and `maxAllowed`.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub uncapped_target: Amounts,
}
