//! How long things last.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long certificates are valid and how long a rotation waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Validity of an authority. A year: its key signs nothing else, and replacing it costs nobody anything.
    pub authority: Duration,
    /// Validity of a leaf. Ten days: it is renewed with a third left, so that there are three days, a long
    /// weekend, to mend what keeps it from being renewed; and for so long an old authority stays in the bundle.
    pub leaf: Duration,
    /// How long a new authority must have been seen published before it signs. API servers learn of a changed
    /// bundle by a watch, within a second; ten minutes outlast a watch that hangs and is begun anew.
    pub overlap: Duration,
    /// By how much clocks may differ: certificates are valid from that much earlier, and an old authority stays
    /// that much longer.
    pub skew: Duration,
    /// How often a replica looks: so much later than the others it may show a new leaf.
    pub look_every: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            authority: Duration::from_secs(365 * DAY),
            leaf: Duration::from_secs(10 * DAY),
            overlap: Duration::from_secs(10 * MINUTE),
            skew: Duration::from_secs(HOUR),
            look_every: Duration::from_secs(5),
        }
    }
}

impl Periods {
    /// What must be left of a leaf; with less it is renewed.
    #[must_use]
    pub fn leaf_reserve(&self) -> Duration {
        self.leaf / 3
    }

    /// What must be left of an authority; with less the next one is announced.
    #[must_use]
    pub fn authority_reserve(&self) -> Duration {
        self.authority / 4
    }
}
