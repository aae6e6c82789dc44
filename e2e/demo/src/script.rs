//! What happens in the demo, and when: a plan of steps, and the record of what was done.

use std::time::Duration;

use crate::ladder::Rung;

/// One thing that the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Requests to the inference workload rise to their full rate.
    LoadUp,
    /// The rack's cap is edited down.
    CapDown,
    /// A replica of the inference goes, and a pod comes for its board: watts are short, so it waits.
    PodCreated,
    /// A person pulls the rack's brake, and people are told.
    BrakePulled,
    /// The person lets it go.
    BrakeReleased,
    /// Somebody asks why a pod of the training is slow.
    Ask,
    /// The rack's cap is edited up beyond what the rack can draw.
    CapReleased,
    /// The inference's own cap is edited to less than its boards draw at their lowest clock, and it may lose replicas.
    /// Work and power are not judged from here on: fewer replicas are meant.
    OwnCapDown,
    /// That cap is edited back.
    OwnCapBack,
    /// The cap is edited down again, and this time the inference may lose pods, each made anew.
    MayEvict,
    /// The cap is back; the inference needs fewer replicas, which leaves boards free, and its pods may be moved.
    MayMigrate,
    /// The node with most of the inference is put under a cap of its own, which it cannot keep.
    NodeCapDown,
    /// That cap is gone.
    NodeCapGone,
}

/// The whole plan, by seconds after the start of the play.
pub(crate) const PLAY: [(Duration, Step); 13] = [
    (Duration::from_secs(30), Step::LoadUp),
    (Duration::from_secs(60), Step::CapDown),
    (Duration::from_secs(64), Step::PodCreated),
    (Duration::from_secs(75), Step::BrakePulled),
    (Duration::from_secs(79), Step::BrakeReleased),
    (Duration::from_secs(85), Step::Ask),
    (Duration::from_secs(90), Step::CapReleased),
    (Duration::from_secs(110), Step::OwnCapDown),
    (Duration::from_secs(145), Step::OwnCapBack),
    (Duration::from_secs(163), Step::MayEvict),
    (Duration::from_secs(180), Step::MayMigrate),
    (Duration::from_secs(186), Step::NodeCapDown),
    (Duration::from_secs(205), Step::NodeCapGone),
];

/// The rack's cap at the start, as manifests/overlays/demo/caps says it.
pub(crate) const CAP_AT_START_WATTS: u32 = 11_500;
/// The cap after [`Step::CapDown`].
pub(crate) const CAP_DOWN_WATTS: u32 = 9_000;
/// The cap after [`Step::CapReleased`]: more than two nodes can draw.
pub(crate) const CAP_RELEASED_WATTS: u32 = 17_000;

/// The inference's own cap after [`Step::OwnCapDown`].
pub(crate) const OWN_CAP_DOWN_WATTS: u32 = 500;
/// And after [`Step::OwnCapBack`], as manifests/overlays/demo/caps says it.
pub(crate) const OWN_CAP_WATTS: u32 = 4_400;

/// A node's own cap after [`Step::NodeCapDown`]: less than its boards draw at their lowest clock.
pub(crate) const NODE_CAP_WATTS: u32 = 1_500;
/// Replicas of the inference from [`Step::MayMigrate`] on: not as many on one node as on the other, so that one may
/// move though they are to be spread evenly.
pub(crate) const INFERENCE_LAST: u32 = 5;

/// Requests a second before and after [`Step::LoadUp`], to all replicas together.
pub(crate) const REQUESTS_PER_SECOND: [f64; 2] = [1.0, 48.0];

impl Step {
    /// What a person reads when it happens.
    pub(crate) fn title(self) -> String {
        match self {
            Self::LoadUp => {
                format!("requests rise from {} to {} a second", REQUESTS_PER_SECOND[0], REQUESTS_PER_SECOND[1])
            }
            Self::CapDown => format!("cap of the rack edited down to {CAP_DOWN_WATTS} W"),
            Self::PodCreated => "a pod of another team comes, for a board that is free now".to_owned(),
            Self::BrakePulled => "somebody pulls the brake of the rack".to_owned(),
            Self::BrakeReleased => "and lets it go".to_owned(),
            Self::Ask => "why is the training slow?".to_owned(),
            Self::CapReleased => format!("cap of the rack edited up to {CAP_RELEASED_WATTS} W: no longer binding"),
            Self::OwnCapDown => {
                format!("cap of the inference edited down to {OWN_CAP_DOWN_WATTS} W: too little for its lowest clocks")
            }
            Self::OwnCapBack => format!("cap of the inference edited back to {OWN_CAP_WATTS} W"),
            Self::MayEvict => {
                format!("cap of the inference edited down to {OWN_CAP_DOWN_WATTS} W: now pods may be evicted")
            }
            Self::MayMigrate => {
                format!(
                    "its cap is back at {OWN_CAP_WATTS} W, {INFERENCE_LAST} replicas are enough, and pods may be moved"
                )
            }
            Self::NodeCapDown => {
                format!("a node gets a cap of its own, {NODE_CAP_WATTS} W: too little for its lowest clocks")
            }
            Self::NodeCapGone => "the node's own cap is taken away".to_owned(),
        }
    }

    /// The rack's cap from this step on, where the step changes it.
    pub(crate) fn cap_watts(self) -> Option<u32> {
        match self {
            Self::CapDown => Some(CAP_DOWN_WATTS),
            Self::CapReleased => Some(CAP_RELEASED_WATTS),
            _ => None,
        }
    }

    /// The inference's own cap from this step on, where the step changes it.
    pub(crate) fn own_cap_watts(self) -> Option<u32> {
        match self {
            Self::OwnCapDown | Self::MayEvict => Some(OWN_CAP_DOWN_WATTS),
            Self::OwnCapBack | Self::MayMigrate => Some(OWN_CAP_WATTS),
            _ => None,
        }
    }

    /// What the inference's policy permits from this step on beyond lower clocks, where the step edits it.
    pub(crate) fn permits(self) -> Option<&'static [&'static str]> {
        match self {
            Self::OwnCapDown | Self::OwnCapBack => Some(&["Freeze", "Scale"]),
            Self::MayEvict => Some(&["Evict"]),
            Self::MayMigrate => Some(&["Migrate"]),
            _ => None,
        }
    }

    /// What must have been seen before it: on a slow machine the step waits.
    pub(crate) fn waits_for(self) -> Option<Rung> {
        match self {
            Self::OwnCapBack => Some(Rung::Scaled),
            Self::MayEvict => Some(Rung::Returned),
            Self::MayMigrate => Some(Rung::Evicted),
            Self::NodeCapGone => Some(Rung::Migrated),
            _ => None,
        }
    }
}
