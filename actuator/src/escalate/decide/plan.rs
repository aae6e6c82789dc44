//! What is decided: steps with what is written to status before them, reports, and what is held back.

use std::sync::Arc;

use powercap_common::{
    api::{Action, Deed, Escalated, PowerCappingPolicy},
    condition::{Truth, kind},
    policy::PolicyId,
    reason::Reason,
};

use super::ceilings::Ceiling;
use crate::escalate::{
    migrate::facts::Move,
    observation::{ObjectName, PodName, Question, SuspendedByUs},
};

/// What is done, and what is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What is done now, in this order.
    pub steps: Vec<Step>,
    /// What the policies' status says from now on, where it differs from what it says.
    pub reports: Vec<Report>,
    /// What is not done, and why.
    pub held: Vec<Held>,
    /// What the next decision would know.
    pub questions: Vec<Question>,
}

/// One thing that is done, and what is done together with it. All deeds are written to the policy's status first.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Whose ladder it is on.
    pub policy: PolicyId,
    /// What it is, as status tells it.
    pub deed: Deed,
    /// The same, as it is carried out.
    pub what: What,
    /// What is done together with it, after it, in this order.
    pub beside: Vec<(Deed, What)>,
    /// Why.
    pub reason: Reason,
    /// The status to write before; absent where there is no policy any more.
    pub before: Option<Report>,
    /// The status to write when the API server refused the step.
    pub refused: Option<Report>,
}

impl Step {
    /// All that is done.
    pub fn acts(&self) -> impl Iterator<Item = (&Deed, &What)> {
        let beside = self.beside.iter().map(|(deed, what)| (deed, what));
        std::iter::once((&self.deed, &self.what)).chain(beside)
    }

    /// Why one of them is done.
    #[must_use]
    pub fn why(&self, what: &What) -> Reason {
        if *what == self.what { self.reason } else { what.reason() }
    }
}

/// How a step is carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// By the Eviction API, this very pod.
    Evict(PodName),
    /// `suspend` of a job, with a mark to know it by.
    Suspend {
        /// The job.
        job: ObjectName,
        /// The mark.
        mark: SuspendedByUs,
    },
    /// The reverse of it.
    Resume {
        /// The job.
        job: ObjectName,
    },
    /// A patch of the object that bounds a workload, or of a pod: up or down.
    Ceiling(Ceiling),
    /// A move of a migration.
    Migrate(Move),
}

impl What {
    /// Which fields change, from what to what, where that is not told by its kind.
    #[must_use]
    pub fn says(&self) -> Option<&str> {
        match self {
            Self::Ceiling(ceiling) => Some(ceiling.says()),
            _ => None,
        }
    }

    /// Whether pods go by it.
    pub(super) const fn takes(&self) -> bool {
        matches!(self, Self::Evict(_) | Self::Suspend { .. })
    }

    /// Why it is done.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Evict(_) => Reason::Evicted,
            Self::Suspend { .. } => Reason::JobSuspended,
            Self::Resume { .. } => Reason::JobResumed,
            Self::Ceiling(ceiling) => ceiling.reason(),
            Self::Migrate(_) => Reason::Migrating,
        }
    }
}

/// What a policy's status says: `escalated` and the condition `Escalating`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Which policy.
    pub policy: PolicyId,
    /// The policy as this was decided on: where somebody has escalated it since, the report is void.
    pub seen: Arc<PowerCappingPolicy>,
    /// Its UID, for events.
    pub uid: String,
    /// How far it is.
    pub escalated: Option<Escalated>,
    /// Whether something is to be done.
    pub truth: Truth,
    /// Why it is as it is.
    pub reason: Reason,
    /// The same for people.
    pub message: String,
    /// Of the policy's spec.
    pub generation: Option<i64>,
}

/// Something that stands to be done and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose ladder it is on.
    pub policy: PolicyId,
    /// Which rung.
    pub action: Action,
    /// The pod, or else the workload.
    pub subject: String,
    /// Why not.
    pub reason: Reason,
}

/// Why a pending action is no step now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is done, or its victim is gone.
    Done,
    /// It may be done in a while; what comes after it is tried, and its rung is not exhausted.
    Wait(Reason),
    /// It cannot be done; what comes after it is tried.
    Barred(Reason),
}

impl Report {
    pub(super) fn is_said(&self, object: &PowerCappingPolicy) -> bool {
        let Some(status) = &object.status else { return false };
        let said = status.conditions.iter().find(|said| said.type_ == kind::ESCALATING);
        status.escalated == self.escalated
            && match said {
                Some(said) => {
                    (said.status.as_str(), said.reason.as_str()) == (self.truth.as_str(), self.reason.as_str())
                        && (&said.message, said.observed_generation) == (&self.message, self.generation)
                }
                None => self.escalated.is_none(),
            }
    }
}
