//! What each algorithm can be told.

use schemars::JsonSchema;
use serde::Deserialize;

/// Shares in proportion to what is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Proportional {
    /// What a device or node may grow by at a time, in percent of what it draws; more than `deadbandPercent`, or
    /// one that draws all it may never grows.
    #[schemars(range(max = 100))]
    pub headroom_percent: u32,
    /// A share that would move by no more than this stays, so that noise is not written.
    #[schemars(range(max = 50))]
    pub deadband_percent: u32,
}

impl Default for Proportional {
    fn default() -> Self {
        Self { headroom_percent: 20, deadband_percent: 10 }
    }
}

/// Strict order of priority above a part that all share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Priority {
    /// Of the watts above everyone's least, the part that is shared equally before the higher come first.
    #[schemars(range(max = 100))]
    pub reserved_percent: u32,
}
