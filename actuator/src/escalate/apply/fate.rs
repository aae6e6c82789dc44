//! What became of a step, by what the API server answered.
//!
//! | answer | means | then |
//! |---|---|---|
//! | 2xx | it is done | its effect is awaited |
//! | 404, 409 | that object is gone | the same |
//! | 429 of a budget | not now | the next victim; this one again in ten seconds |
//! | 429 of anything else | the server asks for patience | nothing for ten seconds |
//! | 500 of budgets | two of them select the pod | the next victim; this one again in ten minutes |
//! | other refusals | | this one again in a minute |
//! | a ceiling's 404 or 409 | it is no longer as it was decided on | looked at again in a second |
//! | a ceiling's other refusals | | the next victim or rung; this one again in a minute |
//! | another 5xx, or none | nobody knows | looked at again in five seconds, before anything else |

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use powercap_common::reason::Reason;

use crate::escalate::{ceilings::apply::ApplyError, observation::Memory};

const PATIENCE: Duration = Duration::from_secs(10);
/// A budget is judged before an eviction is asked for: one that refuses nevertheless has changed just now.
const BUDGET_AGAIN: Duration = Duration::from_secs(10);
const BUDGETS_AGAIN: Duration = Duration::from_secs(600);
const OTHERWISE_AGAIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How the API server says it; no other field tells.
const SEVERAL_BUDGETS: &str = "more than one PodDisruptionBudget";
const CHANGED_AGAIN: Duration = Duration::from_secs(1);

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// That very object is no more.
    Gone,
    /// A budget refused, or two.
    Refused(Reason),
    /// It was changed by another meanwhile.
    Stale,
    /// The server asked for patience.
    Patience(Duration),
    /// It was refused for another reason.
    Other,
    /// No answer: it may have been done.
    Unknown,
}

impl Fate {
    /// What an error tells.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Unknown };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        match status.code {
            404 | 409 => Self::Gone,
            429 if causes.into_iter().any(|cause| cause.reason == "DisruptionBudget") => {
                Self::Refused(Reason::DisruptionForbidden)
            }
            429 => {
                let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                Self::Patience(PATIENCE.max(Duration::from_secs(asked.into())).min(BUDGETS_AGAIN))
            }
            500 if status.message.contains(SEVERAL_BUDGETS) => Self::Refused(Reason::SeveralBudgets),
            500..=599 => Self::Unknown,
            _ => Self::Other,
        }
    }

    /// What an error of a ceiling tells.
    #[must_use]
    pub const fn of_ceiling(error: &ApplyError) -> Self {
        match error {
            ApplyError::Stale(_) => Self::Stale,
            ApplyError::Busy(_) => Self::Patience(PATIENCE),
            ApplyError::Refused(..) => Self::Refused(Reason::CeilingRefused),
            ApplyError::NoAnswer(..) => Self::Unknown,
        }
    }

    /// Its word in metrics and log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Stale => "stale",
            Self::Patience(_) => "patience",
            Self::Other => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// Remembers it of the object of this UID.
    pub fn remember(self, memory: &mut Memory, uid: &str, now: Timestamp) {
        memory.left_alone.retain(|_, (until, _)| *until > now);
        let later = |by| now.saturating_add(SignedDuration::try_from(by).unwrap_or_default()).unwrap_or(now);
        let left_alone = match self {
            Self::Done | Self::Gone => {
                memory.done.insert(uid.to_owned());
                return;
            }
            Self::Patience(long) => {
                memory.patience_until = Some(later(long));
                return;
            }
            Self::Refused(reason) => {
                let again = match reason {
                    Reason::SeveralBudgets => BUDGETS_AGAIN,
                    Reason::CeilingRefused => OTHERWISE_AGAIN,
                    _ => BUDGET_AGAIN,
                };
                (later(again), reason)
            }
            Self::Stale => (later(CHANGED_AGAIN), Reason::RefusedForNow),
            Self::Other => (later(OTHERWISE_AGAIN), Reason::RefusedForNow),
            Self::Unknown => (later(LOOK_AGAIN), Reason::RefusedForNow),
        };
        memory.left_alone.insert(uid.to_owned(), left_alone);
    }
}
