//! What a migration is decided by, and the moves that it is made of, as plain data.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Taint, Toleration},
    jiff::Timestamp,
};
use powercap_common::{api::Migration, policy::PolicyId, quantity::Quantity, selector::Labels};
use serde::{Deserialize, Serialize};

use crate::escalate::observation::PodName;

/// Where placeholders live: a namespace of their own.
pub const NAMESPACE: &str = "powercap-places";
/// The taint of a node that has more pods than watts, and the annotation by which we know it as ours.
pub const OVER_BUDGET: &str = "powercapping.io/over-budget";

/// Amounts by resource, in thousandths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct Amounts(BTreeMap<String, u64>);

/// What a pod asks of its node.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// What it requests, as kube-scheduler counts.
    pub requests: Amounts,
    /// Labels that its node must have.
    pub node_selector: Labels,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// So many seconds it may take to end.
    pub grace_seconds: u32,
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Which node of this name it is.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// A person has closed it.
    pub cordoned: bool,
    /// What it has for pods.
    pub allocatable: Amounts,
    /// Our own mark, where it bears our taint.
    pub mark: Option<Mark>,
}

/// Why a node bears our taint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The UID of the pod that leaves it.
    pub uid: String,
    /// What that requested, in watts.
    pub watts: u64,
    /// Since when.
    pub since: Timestamp,
}

/// A placeholder pod as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceFacts {
    /// Which pod of this name it is.
    pub uid: String,
    /// It runs: the place is held.
    pub held: bool,
    /// It ended, or is being deleted: it holds nothing.
    pub ended: bool,
}

/// A placeholder pod as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Whose place it holds: a pod with the same needs.
    pub like: PodName,
    /// On which node.
    pub node: String,
    /// Whose ladder it is on.
    pub policy: PolicyId,
}

/// One thing that is done for a migration. Each may be done again without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// A place is held; the migration is in status then.
    Hold(Place, Box<Migration>),
    /// No more pods for the source.
    Taint(String, Mark),
    /// The placeholder goes, so that another pod can have its place.
    GiveUp(String),
    /// The placeholder goes, and the pod stays where it is, for a while.
    Abandon(String),
    /// The source takes pods again.
    Untaint(String),
}

impl From<BTreeMap<String, String>> for Amounts {
    /// From what Kubernetes writes; what is no quantity counts as nothing.
    fn from(written: BTreeMap<String, String>) -> Self {
        let read = |text: String| text.parse::<Quantity>().map(Quantity::ceil_millis).unwrap_or_default();
        Self(written.into_iter().map(|(resource, text)| (resource, read(text))).collect())
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (&'a str, u64)>>(amounts: I) -> Self {
        Self(amounts.into_iter().map(|(resource, amount)| (resource.to_owned(), amount)).collect())
    }
}

impl Amounts {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let sum = self.0.entry(resource.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// So much less of each; nothing goes below zero.
    pub fn take(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            if let Some(left) = self.0.get_mut(resource) {
                *left = left.saturating_sub(*amount);
            }
        }
    }

    /// Of one resource, in thousandths.
    #[must_use]
    pub fn of(&self, resource: &str) -> u64 {
        self.0.get(resource).copied().unwrap_or_default()
    }

    /// Of one resource, whole ones.
    #[must_use]
    pub fn whole(&self, resource: &str) -> u64 {
        self.of(resource) / 1000
    }

    /// Each with its thousandths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(resource, amount)| (resource.as_str(), *amount))
    }

    /// Whether it has at least as much of each, but for this resource.
    #[must_use]
    pub fn holds(&self, wanted: &Self, but: &str) -> bool {
        let mut wanted = wanted.iter().filter(|(resource, amount)| *resource != but && *amount > 0);
        wanted.all(|(resource, amount)| self.0.get(resource).is_some_and(|left| *left >= amount))
    }
}

/// The name of the placeholder for a migration's present destination.
#[must_use]
pub fn place_name(migration: &Migration) -> String {
    format!("place-{}-{}", migration.uid, migration.destinations.len())
}
