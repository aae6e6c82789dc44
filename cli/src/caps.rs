//! The objects of power caps as the API server holds them: what `explain`, `top` and `doctor` read.
//!
//! What must hold: what may not be read is named, and never looks as if there were none.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectList},
};
use powercap_common::{
    api::{Brake, NodeFrequencies, PowerCappingPolicy, PowerDomain},
    condition::Truth,
    domain::Domain,
    reason::Reason,
    units::Watts,
};
use serde::de::DeserializeOwned;

use crate::target::Target;

/// Every object of power caps that the caller may read.
#[derive(Clone, Debug, Default)]
pub struct Caps {
    /// What each node was told and what its agent says, by name.
    pub nodes: Vec<NodeFrequencies>,
    /// The policies.
    pub policies: Vec<PowerCappingPolicy>,
    /// The domains.
    pub domains: Vec<PowerDomain>,
    /// Kinds that the caller may not list, by their plural.
    pub unread: Vec<String>,
}

/// The objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is nothing to explain.
    #[error("kube-powercap is not installed in {0}: its API server knows no NodeFrequencies")]
    NotInstalled(String),
    /// The API server refused.
    #[error("cannot list {kind} in {context}")]
    List {
        /// What, by its plural.
        kind: String,
        /// Where.
        context: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Caps {
    /// Reads them all. A person of one namespace may lack the right to list policies of every namespace:
    /// then those of `namespace` are read.
    ///
    /// # Errors
    /// When NodeFrequencies cannot be read, or the API server does not answer.
    pub async fn read(target: &Target, namespace: &str) -> Result<Self, ReadError> {
        let client = &target.client;
        let (nodes, policies, domains) = tokio::join!(
            list(Api::<NodeFrequencies>::all(client.clone())),
            list(Api::<PowerCappingPolicy>::all(client.clone())),
            list(Api::<PowerDomain>::all(client.clone())),
        );
        let policies = match policies {
            Err(error) if has_code(&error, 403) => {
                list(Api::<PowerCappingPolicy>::namespaced(client.clone(), namespace)).await
            }
            listed => listed,
        };
        let mut caps = Self { nodes: listed(nodes, target)?, ..Self::default() };
        caps.policies = caps.permitted(policies, target)?;
        caps.domains = caps.permitted(domains, target)?;
        Ok(caps)
    }

    fn permitted<K>(&mut self, answer: kube::Result<ObjectList<K>>, target: &Target) -> Result<Vec<K>, ReadError>
    where
        K: Resource<DynamicType = ()> + Clone,
    {
        match answer {
            Err(error) if has_code(&error, 403) => {
                self.unread.push(K::plural(&()).into_owned());
                Ok(Vec::new())
            }
            answer => listed(answer, target),
        }
    }

    /// What a node was told and says.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeFrequencies> {
        self.nodes.iter().find(|node| node.name_any() == name)
    }

    /// The policy that stands as this in `setBy`.
    #[must_use]
    pub fn policy(&self, set_by: &str) -> Option<&PowerCappingPolicy> {
        self.policies.iter().find(|policy| policy_set_by(policy) == set_by)
    }

    /// The domain of this name.
    #[must_use]
    pub fn domain(&self, name: &str) -> Option<&PowerDomain> {
        self.domains.iter().find(|domain| domain.name_any() == name)
    }

    /// The domains whose caps a node's grant serves.
    pub fn domains_of<'a>(&'a self, node: &'a NodeFrequencies) -> impl Iterator<Item = &'a PowerDomain> {
        node.spec.domains.iter().filter_map(|name| self.domain(name))
    }
}

async fn list<K>(api: Api<K>) -> kube::Result<ObjectList<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    api.list(&ListParams::default()).await
}

fn listed<K>(answer: kube::Result<ObjectList<K>>, target: &Target) -> Result<Vec<K>, ReadError>
where
    K: Resource<DynamicType = ()> + Clone,
{
    match answer {
        Ok(list) => Ok(list.items),
        Err(error) if has_code(&error, 404) => Err(ReadError::NotInstalled(target.context.clone())),
        Err(error) => Err(ReadError::List {
            kind: K::plural(&()).into_owned(),
            context: target.context.clone(),
            source: Box::new(error),
        }),
    }
}

/// What says how it stands.
pub trait Conditions {
    /// All that it says; nothing while nobody has written its status.
    fn conditions(&self) -> &[Condition];

    /// The condition of this type.
    fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions().iter().find(|condition| condition.type_ == type_)
    }

    /// Since when the condition of this type says so.
    fn since(&self, type_: &str, truth: Truth) -> Option<Timestamp> {
        let condition = self.condition(type_).filter(|condition| condition.status == truth.as_str())?;
        Some(condition.last_transition_time.0)
    }
}

impl Conditions for NodeFrequencies {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

impl Conditions for PowerCappingPolicy {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

impl Conditions for PowerDomain {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

/// Whether the API server answered with this HTTP status.
#[must_use]
pub fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// An error and what is behind it, in the fewest words that tell it.
#[must_use]
pub fn in_short(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return if status.code == 403 { "you may not".to_owned() } else { status.message.clone() };
    }
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.last().map(ToString::to_string).unwrap_or_default()
}

/// A policy as it stands in `setBy`.
#[must_use]
pub fn policy_set_by(policy: &PowerCappingPolicy) -> String {
    format!("powercappingpolicy/{}/{}", policy.namespace().unwrap_or_default(), policy.name_any())
}

/// A domain as it stands in `setBy`.
#[must_use]
pub fn domain_set_by(domain: &PowerDomain) -> String {
    format!("powerdomain/{}", domain.name_any())
}

/// How hard a domain brakes: the stricter of what a person and what the recommender pulled.
#[must_use]
pub fn brake(domain: &PowerDomain) -> Brake {
    let pulled = domain.status.as_ref().and_then(|status| status.brake.as_ref());
    domain.spec.brake.max(pulled.map_or(Brake::None, |brake| brake.level))
}

/// Why a domain brakes: what the recommender pulled counts where it is the stricter.
#[must_use]
pub fn brake_reason(domain: &PowerDomain) -> Reason {
    if brake(domain) > domain.spec.brake { Reason::PowerStaysAboveCap } else { Reason::BrakePulled }
}

/// What a domain leaves for each of its nodes, were it shared out equally; `None` when it is not understood.
#[must_use]
pub fn share(domain: &PowerDomain) -> Option<Watts> {
    let nodes = domain.status.as_ref().map_or(1, |status| status.nodes.max(1));
    let unmanaged = Watts::new(unmanaged(domain));
    Some(Domain::try_from(domain).ok()?.cap.saturating_sub(unmanaged).divided(nodes as usize))
}

/// What counts as unmanaged in a domain: as it is written, or by its meter.
#[must_use]
pub fn unmanaged(domain: &PowerDomain) -> u32 {
    let metered = domain.status.as_ref().and_then(|status| status.unmanaged_watts);
    metered.unwrap_or(domain.spec.unmanaged_watts)
}
