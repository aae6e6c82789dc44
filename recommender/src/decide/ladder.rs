//! When a cap asks for more than lower clocks, and for which rung of a ladder.
//!
//! ```text
//!                clocks at their floor and power above the cap
//!   ┌───────┐ ────────────────────────────────────────────────▶ ┌────────┐
//!   │ keeps │                                                   │ stands │   what is not known changes nothing
//!   └───────┘ ◀──────────────────────────────────────────────── └────────┘
//!                power below the release threshold, or clocks that may go lower
//! ```
//!
//! Must hold: between the thresholds nothing more is asked for; no rung is due that the ladder does not list,
//! whatever is said of how far it is.

use jiff::Timestamp;
use powercap_common::{
    api::{Action, Escalated},
    domain::RELEASES_PERCENT,
    policy::Policy,
    units::Watts,
};

use super::verdict::FloorReached;

/// From where its nodes are held back, no workload of a domain grows until power is below this part of that.
const DOMAIN_THAWS_PERCENT: u32 = 95;

/// Power against a cap, with the clocks beneath it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// None where it is not known.
    pub power: Option<Watts>,
    /// How much of it lower clocks cannot free.
    pub excess: Watts,
    /// Below this nothing is needed any more.
    pub release: Watts,
    /// Whether clocks may go lower.
    pub floor: FloorReached,
}

/// What a cap asks for beyond lower clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Not known: what stands, stands.
    Unknown,
    /// Nothing.
    Nothing,
    /// So many watts less; none while it is only not over yet.
    Stands {
        /// What is above the cap.
        excess: Watts,
        /// Since when clocks are at their floor with power above the cap.
        since: Timestamp,
    },
}

impl Load {
    /// Of a domain.
    pub fn of_domain(power: Option<Watts>, cap: Watts, floor: FloorReached) -> Self {
        let excess = power.unwrap_or_default().saturating_sub(cap);
        Self { power, excess, release: cap.percent(RELEASES_PERCENT), floor }
    }

    /// Whether workloads of a domain may not grow, given whether they may not already.
    pub fn freezes(&self, before: bool) -> bool {
        let thaw = if before { self.release.percent(DOMAIN_THAWS_PERCENT) } else { self.release };
        self.power.is_some_and(|power| power >= thaw)
    }

    /// What it asks for, given since when it has.
    pub fn need(&self, before: Option<Timestamp>, now: Timestamp) -> Need {
        let Some(power) = self.power else { return Need::Unknown };
        let begins = self.excess > Watts::ZERO && self.floor == FloorReached::Measured;
        match before {
            _ if self.floor == FloorReached::No || power < self.release => Need::Nothing,
            None if begins => Need::Stands { excess: self.excess, since: now },
            None => Need::Nothing,
            Some(_) if self.floor == FloorReached::Ordered => Need::Unknown,
            Some(since) => Need::Stands { excess: self.excess, since: since.min(now) },
        }
    }
}

/// The rungs of a policy beyond freeze and throttle that are not exhausted, in its order. Where all are, the last: an
/// empty list would say that nothing is needed.
pub fn rungs_left(policy: &Policy, escalated: Option<&Escalated>) -> impl Iterator<Item = Action> {
    let rungs = policy.ladder.iter().map(|rung| rung.action).filter(|action| is_step(*action));
    let exhausted = escalated.and_then(|escalated| escalated.exhausted);
    let done = exhausted.and_then(|exhausted| rungs.clone().position(|rung| rung == exhausted));
    let last = rungs.clone().count().saturating_sub(1);
    rungs.skip(done.map_or(0, |at| at + 1).min(last))
}

/// Whether a rung is one of those that come one after the other.
pub fn is_step(action: Action) -> bool {
    !matches!(action, Action::Throttle | Action::Freeze)
}

/// Whether a policy permits a rung.
pub fn permits(policy: &Policy, action: Action) -> bool {
    policy.ladder.iter().any(|rung| rung.action == action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn load(power: Option<u32>, floor: FloorReached) -> Load {
        let power = power.map(Watts::new);
        let excess = power.unwrap_or_default().saturating_sub(Watts::new(1000));
        Load { power, excess, release: Watts::new(850), floor }
    }

    #[test]
    fn a_need_begins_at_the_measured_floor_above_the_cap_and_ends_below_the_release_threshold() {
        use FloorReached::{Measured, No, Ordered};
        let stands = |excess, since| Need::Stands { excess: Watts::new(excess), since: at(since) };
        for (power, floor, before, need) in [
            (Some(1200), Measured, None, stands(200, 100)),
            (Some(1200), Ordered, None, Need::Nothing),
            (Some(1200), No, None, Need::Nothing),
            (Some(1000), Measured, None, Need::Nothing),
            (None, Measured, None, Need::Unknown),
            (Some(1200), Measured, Some(40), stands(200, 40)),
            (Some(900), Measured, Some(40), stands(0, 40)),
            (Some(849), Measured, Some(40), Need::Nothing),
            (Some(1200), Ordered, Some(40), Need::Unknown),
            (Some(1200), No, Some(40), Need::Nothing),
            (None, No, Some(40), Need::Unknown),
            // A time of a clock that went ahead waits for nothing longer than one of now.
            (Some(1200), Measured, Some(999), stands(200, 100)),
        ] {
            let seen = load(power, floor).need(before.map(at), at(100));
            assert_eq!(seen, need, "{power:?} {floor:?} {before:?}");
        }
    }
}
