//! What we changed on an object and what it was before, on the object itself.
//!
//! ```text
//!   original ── another writes ──▶ the new original           what we set is what stands: the field is ours
//!      ▲                                                      anything else stands:       another's, and left alone
//!      └── put back, while the field is ours
//! ```

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use powercap_common::reason::Reason;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Hold, stored::Stored};

/// The annotation, which goes when nothing of ours is left.
pub const ANNOTATION: &str = "powercapping.io/escalated";
/// The same as a JSON pointer.
pub const POINTER: &str = "/metadata/annotations/powercapping.io~1escalated";
/// So often something is set before another's word counts for good.
pub const TRIES: u32 = 3;

/// What stands in the annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The workload that it bounds, as pending actions name it.
    pub workload: String,
    /// Of which object it is: a copy on what KServe or KEDA makes of that says nothing.
    #[serde(default)]
    pub uid: String,
    /// The policies on whose ladder it was touched, each with the domain that it was for, where it was for one.
    pub by: BTreeMap<String, Option<String>>,
    /// What one replica, or the pod's CPU, was expected to free, in watts.
    #[serde(default)]
    pub watts: u32,
    /// When it was first touched.
    pub since: Timestamp,
    /// When replicas were last lowered: the time of the step that stands in the policy's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowered: Option<Timestamp>,
    /// How often another undid what we set.
    #[serde(default)]
    pub reverts: u32,
    /// By the name of the dial; of a pod, by `cpu`.
    pub dials: BTreeMap<String, Held>,
}

/// On whose ladder something is done, and for what.
#[derive(Clone, Copy, Debug, Default)]
pub struct By<'a> {
    /// The workload, as pending actions name it.
    pub workload: &'a str,
    /// The policy, in the namespace of the object.
    pub policy: &'a str,
    /// The domain that it is for; none for the policy's own cap.
    pub domain: Option<&'a str>,
    /// What one replica, or the pod's CPU, is expected to free, in watts.
    pub watts: u32,
}

/// How far a dial is turned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The most replicas by the freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<u32>,
    /// The most replicas by Scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// How many there were before Scale began: back there, it is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// The fields that are ours, by their place.
    pub fields: BTreeMap<String, Was>,
}

/// A field that is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// What stood there; null: nothing.
    pub original: Value,
    /// What we wrote.
    pub set: Value,
}

impl Memory {
    /// Of what was not touched yet.
    #[must_use]
    pub fn new(since: Timestamp) -> Self {
        Self {
            workload: String::new(),
            uid: String::new(),
            by: BTreeMap::new(),
            watts: 0,
            since,
            lowered: None,
            reverts: 0,
            dials: BTreeMap::new(),
        }
    }

    /// Notes who asks, and on which object.
    pub fn note(&mut self, by: &By<'_>, object: &Stored) {
        by.workload.clone_into(&mut self.workload);
        object.uid().clone_into(&mut self.uid);
        let domain = self.by.entry(by.policy.to_owned()).or_default();
        if domain.is_none() {
            *domain = by.domain.map(ToOwned::to_owned);
        }
        // A freeze frees nothing, and says nothing of a replica.
        self.watts = if by.watts > 0 { by.watts } else { self.watts };
    }

    /// How many replicas Scale has taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        let taken = |held: &Held| held.from.zip(held.scale).map_or(0, |(from, scale)| from.saturating_sub(scale));
        self.dials.values().map(taken).sum()
    }

    /// What stands on the object that it is of; none on a copy.
    #[must_use]
    pub fn on(object: &Stored) -> Option<Self> {
        let found = Self::of(object.annotation(ANNOTATION)).ok().flatten();
        found.filter(|memory| memory.uid == object.uid())
    }

    /// What stands on an object, if anything does.
    ///
    /// # Errors
    /// What stands there was written by another hand: what the fields were is not known, and nothing is touched.
    pub fn of(annotation: Option<&str>) -> Result<Option<Self>, Hold> {
        annotation.map(serde_json::from_str).transpose().map_err(|error| {
            Hold::new(Reason::OriginalsUnreadable, format!("the annotation {ANNOTATION} cannot be read: {error}"))
        })
    }

    /// As it stands in the annotation; null when nothing is ours.
    #[must_use]
    pub fn annotation(&self) -> Value {
        let ours = self.dials.values().any(|held| !held.fields.is_empty());
        // A map of strings and values always has a text.
        if ours { serde_json::to_string(self).map_or(Value::Null, Value::String) } else { Value::Null }
    }

    /// Forgets the fields that another changed: theirs is the new original. Whether there were any.
    pub fn yield_to_others(&mut self, object: &Stored) -> bool {
        let mut yielded = false;
        for held in self.dials.values_mut() {
            held.fields.retain(|pointer, was| {
                let ours = *object.at(pointer) == was.set;
                yielded |= !ours;
                ours
            });
        }
        yielded
    }
}
