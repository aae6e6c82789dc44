//! What happens in the demo, and when: a plan of steps, and the record of what was done.

use std::time::Duration;

/// One thing that the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Requests to the inference workload rise to their full rate.
    LoadUp,
    /// The rack's cap is edited down.
    CapDown,
    /// The rack's cap is edited up beyond what the rack can draw.
    CapReleased,
}

/// The whole plan, by seconds after the start of the play.
pub(crate) const PLAY: [(Duration, Step); 3] = [
    (Duration::from_secs(30), Step::LoadUp),
    (Duration::from_secs(60), Step::CapDown),
    (Duration::from_secs(90), Step::CapReleased),
];

/// The rack's cap at the start, as manifests/overlays/demo/caps says it.
pub(crate) const CAP_AT_START_WATTS: u32 = 11_500;
/// The cap after [`Step::CapDown`].
pub(crate) const CAP_DOWN_WATTS: u32 = 9_000;
/// The cap after [`Step::CapReleased`]: more than two nodes can draw.
pub(crate) const CAP_RELEASED_WATTS: u32 = 17_000;

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
            Self::CapReleased => format!("cap of the rack edited up to {CAP_RELEASED_WATTS} W: no longer binding"),
        }
    }

    /// The rack's cap from this step on, where it changes it.
    pub(crate) fn cap_watts(self) -> Option<u32> {
        match self {
            Self::LoadUp => None,
            Self::CapDown => Some(CAP_DOWN_WATTS),
            Self::CapReleased => Some(CAP_RELEASED_WATTS),
        }
    }
}
