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

            fn of(word: &str) -> Option<Self> {
                match word {
                    $(stringify!($name) => Some(Self::$name),)+
                    _ => None,
                }
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
    /// The labels of a board's readings name another node of the cluster than the one whose agent has the board, as where exporters are swapped or relabelled wrongly; it counts where its agent is, and nothing is relaxed.
    NodesDiffer,
    /// The domain's meter does not answer, or with what cannot be its power; what was unmanaged stays so, and nothing is raised on it.
    MeterUnavailable,
    /// The domain's meter tells over 10 % less than its nodes draw by their own readings; the higher counts, and what is unmanaged does not fall.
    MeterBelowNodes,
    /// The power of the past could not be read; peaks and forecasts know what was seen since, and nothing waits for it.
    HistoryUnavailable,
    /// Running pods request no watts, or others than are recommended; each counts with the greater of its request and its forecast, and is right once it is made anew.
    WattsStale,
    /// The CPU and memory that pods use are not known, since metrics.k8s.io does not answer; requests of them are not recommended, or stay.
    UseUnavailable,
    /// An active VerticalPodAutoscaler sets the CPU and memory of the workload; watts alone are recommended.
    AutoscaledByVpa,
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
    /// The pod requests what its policy recommends: admission set it.
    RequestsSet,
    /// What the pod requests suffices by its policy's recommendation.
    RequestsSuffice,
    /// The policy has no recommendation for the pod's containers yet.
    NothingRecommended,
    /// The container requested less than its policy recommends, and was raised to it.
    RequestTooLow,
    /// The container requests more than its policy recommends at most; what a person wrote is kept.
    RequestTooHigh,
    /// Nothing is recommended yet: the container requests the most that as many boards of its nodes draw.
    BoardsMaximum,
    /// The watts are more than any node that the pod may run on could ever offer; it requests what that node could.
    BeyondAnyNode,
    /// No node that the pod may run on advertises powercapping.io/watts; the pod requests none.
    NoNodeAdvertises,
    /// A ResourceQuota would refuse the pod with the recommended requests; it is created without them.
    QuotaWouldRefuse,
    /// A LimitRange would refuse the pod with the recommended requests; it is created without them.
    LimitRangeWouldRefuse,
    /// The pod has resources of its own as a whole, which its containers' must fit; they are left as they are.
    PodLevelResources,
    /// A request or limit of the container is no quantity; it is left as it is.
    UnreadableQuantity,
    /// The new pod is not understood; it is created as it is.
    UnreadablePod,
    /// No policy selects the pod.
    NotSelected,
    /// The namespace has not opted in by the label powercapping.io/admission: enabled.
    NotOptedIn,
    /// The pod is bound to its node already (static, mirror and hand-placed pods); it is left as it is.
    AlreadyBound,
    /// What is reviewed is no new pod.
    NotANewPod,
    /// Admission's certificate, or what signs it, was missing or broken in its Secret, and was made anew.
    CertificateHealed,
    /// A caBundle by which API servers trust admission was changed, and is put back.
    BundleHealed,
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
    /// Something else keeps undoing what escalation set on a workload: three tries, and it is left alone; the next rung may do more.
    Contested,
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
    /// Nothing is to be done beyond lower clocks.
    NothingPending,
    /// What the ladder permits is being done, one step after the other.
    Climbing,
    /// What was last done is given time to bring power down.
    AwaitingEffect,
    /// What was last done did not bring power down; the next step waits longer.
    BackingOff,
    /// Three steps in a row did not bring power down: no more is done until the policy is edited or the need ends.
    StoppedWithoutEffect,
    /// The rung before has not stood at its floor for afterSeconds yet.
    RungNotDue,
    /// Nothing is left to do on the rung that is due.
    RungExhausted,
    /// The pod was evicted, since lower clocks could not keep a cap.
    Evicted,
    /// The Job was suspended, since lower clocks could not keep a cap.
    JobSuspended,
    /// The Job was resumed: there are watts for it again.
    JobResumed,
    /// Nobody answers admission reviews, so that an evicted pod would come back as it was; nothing is evicted.
    AdmissionSilent,
    /// No policy in mode Enforce that selects the pod permits the action.
    RungNotPermitted,
    /// The pod is never evicted: critical, static, without a controller, or of a DaemonSet.
    NeverEvicted,
    /// The pod has data on its node, and does not permit to lose it by powercapping.io/evict-local-storage.
    LocalStorage,
    /// A PodDisruptionBudget does not allow the disruption now.
    DisruptionForbidden,
    /// Several PodDisruptionBudgets select the pod, which makes the Eviction API refuse.
    SeveralBudgets,
    /// The workload has too few replicas to lose one.
    TooFewReplicas,
    /// A pod of the workload is not ready yet, or has not ended yet.
    ReplacementPending,
    /// A pod of the workload is not ready, or has not ended, for ten minutes: the workload is passed over.
    ReplacementStuck,
    /// Something was done to the workload a moment ago.
    CoolingDown,
    /// No other node, outside of what is above its cap, has room and watts for the pod.
    NoDestination,
    /// The pod is on its way to another node.
    Migrating,
    /// The pod runs on another node.
    Migrated,
    /// The pod could not be moved: no place was free in the end, or what was made anew did not become ready.
    MigrationFailed,
    /// The pod went before it was moved, and not by escalation.
    GoneByItself,
    /// As much is in hand as may be at once, in the namespace, the domain or in all.
    LimitReached,
    /// The API server refused, or asked for patience; it is tried again later.
    RefusedForNow,
    /// The workload gets no more replicas than it has, as long as a cap throttles its pods.
    Frozen,
    /// The workload may have fewer replicas, since lower clocks could not keep a cap.
    ScaledDown,
    /// The pod's containers may use less CPU, since lower clocks could not keep a cap.
    ResizedDown,
    /// A workload's or pod's ceiling was raised again, or put back to what it was.
    CeilingRestored,
    /// The workload runs as few replicas, or the pod has as low CPU limits, as escalation may ask for.
    NothingToLower,
    /// The API server, or a webhook, refuses the change of the ceiling; it is tried again in a minute.
    CeilingRefused,
    /// What stands around the workload was asked for, and is not known yet.
    NotSeenYet,
    /// A person has paused the workload's ScaledObject; it is left alone.
    PausedByPerson,
    /// The InferenceService does not run in KServe's Standard mode, or none is known yet; a change would make new pods of all, and it is left alone.
    KnativeMode,
    /// KServe would copy our annotation from the InferenceService to its pods, and so make all anew; it is left alone until serviceAnnotationDisallowedList in kserve/inferenceservice-config names powercapping.io/escalated.
    AnnotationsCopied,
    /// KEDA owns the workload's HorizontalPodAutoscaler, and its ScaledObject is not seen; it is left alone.
    ScaledObjectMissing,
    /// The annotation powercapping.io/escalated was changed by hand and tells no originals; the object is left alone.
    OriginalsUnreadable,
    /// A pod's devices are held below their highest clock or power limit by a cap.
    PowerCapped,
    /// No cap holds the pod's devices back any more.
    PowerReleased,
    /// Clocks are as low as they may go, and power is still above the cap.
    FloorReached,
    /// Clocks are as low as they may go with power above the cap, and the pod draws more than its own watts.
    AboveOwnWatts,
    /// Lower clocks are not enough: something is to be done to workloads, as the policy's ladder permits.
    EscalationPending,
    /// Nothing is to be done to workloads any more.
    EscalationOver,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        Self::of(word).ok_or_else(|| UnknownReason(word.to_owned()))
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
