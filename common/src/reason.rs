//! Why something was done, refused or is so: the one vocabulary for conditions, status, metric labels
//! and logs.
//!
//! A reason is CamelCase, as Kubernetes wants it in conditions, and never changes its
//! meaning: dashboards and alerts are written against it.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why something was done, refused or is so.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason there is, in the order of the docs.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word as it stands in conditions, status and metric labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// One sentence for people who meet the word for the first time.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Power is below the threshold at which capping begins.
    BelowThreshold,
    /// Power has crossed the policy's capping threshold and not yet fallen below its release threshold.
    ThresholdCrossed,
    /// Measured power is at or below the cap.
    PowerBelowCap,
    /// Measured power is above the cap.
    PowerAboveCap,
    /// The ceiling serves a PowerCappingPolicy.
    PolicyCap,
    /// The ceiling serves a PowerDomain.
    DomainCap,
    /// The node's measured power came close to its envelope, and the node agent lowered its ceilings.
    EnvelopeReached,
    /// The device's measured power was above its own limit, and the node agent lowered its ceiling.
    DeviceLimitReached,
    /// There is room below the limits, and the node agent raises the ceiling step by step.
    RoomToRaise,
    /// Every grant fits under the cap of the domain.
    GrantsFit,
    /// More is committed to nodes than the cap allows; only lowerings are written until it fits.
    AwaitingAcknowledgement,
    /// The cap is below what the devices draw at their lowest settings.
    CapBelowFloor,
    /// The cap could be kept only by slowing the devices further than spec.performance allows; the policy does not.
    CapBelowPerformance,
    /// The cap can be kept by what we control.
    CapReachable,
    /// A policy of a higher priority, or an older one, selects some of the same devices; all caps hold, and for the rest that one comes first.
    Overlapped,
    /// The algorithm gave no shares that can be used; the watts are shared out equally.
    SharesRefused,
    /// The domain stands within those that it names, or within none.
    PlaceClear,
    /// The parent that the domain names does not exist; nothing is raised in it, since there may be a cap that nobody knows.
    ParentMissing,
    /// The domain's parents lead back to itself; nothing is raised in it.
    ParentLoop,
    /// A node stands in two domains of which neither is within the other; both caps hold.
    DomainsOverlap,
    /// All readings are recent.
    DataFresh,
    /// The readings are older than three collection intervals; ceilings stay as they are.
    DataStale,
    /// Prometheus answered, but has no power reading for the devices concerned; ceilings stay as they are.
    NoData,
    /// Prometheus did not answer; ceilings stay as they are.
    PrometheusUnavailable,
    /// A source tells power that no such device draws: negative, not a number, far above its maximum. It counts as missing.
    ImplausibleReading,
    /// Two sources tell different power of one device for longer than three collection intervals, by more than sensors err; the higher counts and nothing is relaxed.
    SourcesDiffer,
    /// The domain's meter does not answer, or with what cannot be its power; what was unmanaged stays so, and nothing is raised on it.
    MeterUnavailable,
    /// The domain's meter tells over 10 % less than its nodes draw by their own readings; the higher counts, and what is unmanaged does not fall.
    MeterBelowNodes,
    /// The power of the past could not be read; peaks and forecasts know what was seen since, and nothing waits for it.
    HistoryUnavailable,
    /// No running pod with a device matches the selector.
    NoMatchingPods,
    /// No node matches the selector.
    NoMatchingNodes,
    /// A device is shared with pods that the policy does not select, so the policy may not touch it.
    SharedDevice,
    /// The policy recommends and reports, and changes nothing (mode Advise).
    Advising,
    /// The policy is switched off (mode Off).
    SwitchedOff,
    /// The policy is carried out.
    Enforcing,
    /// The specification contradicts itself; the message says which field and what to write.
    InvalidSpec,
    /// What was asked for was read back from the device.
    Applied,
    /// What was asked for was written and has not been read back yet.
    Pending,
    /// A write to the device failed; the last ceiling stands.
    WriteFailed,
    /// The device could not be read; its last ceiling stands.
    ReadFailed,
    /// The device lacks this control.
    Unsupported,
    /// The node agent may not write this device: it needs root and CAP_SYS_ADMIN.
    PermissionDenied,
    /// Nothing caps the node any more, and its devices are back at their original limits.
    Released,
    /// The node agent has not reported for longer than it should; its node counts with what it was promised.
    AgentSilent,
    /// NodeFrequencies names a device that the node does not have.
    UnknownDevice,
    /// The recommender's Lease is renewed in time.
    LeaseRenewed,
    /// The recommender's Lease was not renewed in time; what was granted last stands.
    LeaseExpired,
    /// The recommender's Lease was not renewed in time; the node has gone down to its fallback watts.
    FallbackInForce,
    /// A domain's brake is pulled.
    BrakePulled,
    /// Power stayed above the cap although everything was lowered, and the recommender pulled the brake.
    PowerStaysAboveCap,
    /// Something else changed what was set on the device, and it was set again.
    Drifted,
    /// Something else keeps changing the device: the node agent yielded it, counts it with the most that it can draw, and the other devices make room.
    Contended,
    /// The device accepted the ceiling and does not keep to it; it counts with the most that it can draw.
    WithoutEffect,
    /// The device was lost or needs a reset; it counts with the most that it can draw.
    Quarantined,
    /// The node agent has let go of the boards, for a driver upgrade or a change of MIG; they count with the most that they can draw.
    DevicesLetGo,
    /// The ceiling follows a slower device of the same group.
    GroupFollows,
    /// Another agent holds this node's lock; this one waits and touches nothing.
    AnotherAgent,
    /// The journal of original settings cannot be used: ceilings are lowered as before, and a release restores defaults.
    JournalUnavailable,
    /// The kubelet does not tell which pods hold which devices.
    TenantsUnknown,
    /// The workload that targetRef names is being looked up; what stands, stands.
    TargetPending,
    /// The workload that targetRef names does not exist; the pods that it selected before stay capped.
    TargetNotFound,
    /// The workload that targetRef names tells no selector: its kind has no scale subresource, or an empty one.
    TargetWithoutSelector,
    /// The workload that targetRef names cannot be read just now; what stands, stands.
    TargetUnknown,
    /// A PowerDomain's tenancy does not permit the policy on the domain's nodes; the policy leaves their devices alone.
    NotPermitted,
    /// A PowerDomain's tenancy permits less on the domain's nodes than the policy asks for.
    BoundedByDomain,
    /// A pod's devices are held below their highest clock or power limit by a cap.
    PowerCapped,
    /// No cap holds the pod's devices back any more.
    PowerReleased,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word).ok_or_else(|| UnknownReason(word.to_owned()))
    }
}

/// A word that is no [`Reason`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no reason is called {0:?}")]
pub struct UnknownReason(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_and_explains_itself() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!(reason.explanation().ends_with('.'), "{reason}: {}", reason.explanation());
        }
    }
}
