//! From the grant to what the boards may draw together.
//!
//! ```text
//! grant (alternating current) ─ overhead ─▶ envelope (devices) ─ CPUs' claim ─▶ the boards' budget
//! ```
//!
//! What must hold: what is not known counts with the most that it may be. The CPUs' claim follows their
//! power up at once, with a reserve, and falls late and no further than what they needed meanwhile, so
//! that the boards' limits are not rewritten at every flutter of the CPUs.

use std::time::Duration;

use powercap_common::units::Watts;

use super::state::{BoardState, State};
use crate::node::observation::{Observation, Packages, SeenBoard};

/// The CPUs' claim moves in steps of this.
const STEP: Watts = Watts::new(10);
/// What their power, a mean of half a second at the least, may err by.
const RESERVE: Watts = Watts::new(5);
/// How long the CPUs' power must have been lower before their claim falls.
const HOLD: Duration = Duration::from_secs(5);

/// A board of which nothing is known may be the largest that is made: a GB300.
const LARGEST_BOARD: Watts = Watts::new(1400);

/// Watts set aside for the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuClaim {
    pub watts: Watts,
    /// Since when less would do, and the most that was needed since then.
    low: Option<(Duration, Watts)>,
}

impl CpuClaim {
    pub(super) fn next(self, packages: Option<&Packages>, now: Duration) -> Self {
        let Some(packages) = packages else { return Self::default() };
        let Some(power) = packages.fresh() else { return Self { watts: packages.max, low: None } };
        let needed = round_up(power + RESERVE).min(packages.max.max(power));
        if needed >= self.watts {
            return Self { watts: needed, low: None };
        }
        let (since, most) = self.low.map_or((now, needed), |(since, most)| (since, most.max(needed)));
        if now.saturating_sub(since) < HOLD {
            return Self { low: Some((since, most)), ..self };
        }
        Self { watts: most, low: None }
    }
}

fn round_up(watts: Watts) -> Watts {
    Watts::from_milliwatts(watts.as_milliwatts().div_ceil(STEP.as_milliwatts()) * STEP.as_milliwatts())
}

/// The limit that a board may be running under: what was read, or any order that it may not have
/// carried out yet; where neither is known or to be believed, the most that it takes.
pub(super) fn exposure(board: &SeenBoard, state: Option<&BoardState>) -> Watts {
    if board.out_of_reach() || state.is_some_and(|state| state.drift.distrusted()) {
        return board.traits.max_limit;
    }
    stated(board, state)
}

/// The same, believing the board.
pub(super) fn stated(board: &SeenBoard, state: Option<&BoardState>) -> Watts {
    let read = board.reading.and_then(|reading| reading.limit).unwrap_or(board.traits.max_limit);
    read.max(state.and_then(|state| state.unconfirmed).unwrap_or_default())
}

/// What a board counts with now: its power, or its limit when that is not known.
pub(super) fn counted(board: &SeenBoard, state: Option<&BoardState>) -> Watts {
    board.fresh().map_or_else(|| exposure(board, state), |reading| reading.power)
}

/// What boards that could not be opened count with: each the most that its largest neighbour takes, and
/// where there is none, the most that any board takes.
pub(super) fn unopened(seen: &Observation) -> Watts {
    let largest = seen.boards.iter().map(|board| board.traits.max_limit).max().unwrap_or(LARGEST_BOARD);
    std::iter::repeat_n(largest, seen.unopened_boards).sum()
}

/// The devices' power now, counting with its limit whatever is not known.
pub(super) fn devices_power(seen: &Observation, state: &State) -> Watts {
    let boards: Watts = seen.boards.iter().map(|board| counted(board, state.board(board))).sum();
    let cpus = seen.packages.as_ref().map_or(Watts::ZERO, |packages| packages.fresh().unwrap_or(packages.max));
    boards + unopened(seen) + cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(power: Option<u32>, age_ms: u64) -> Packages {
        Packages { power: power.map(Watts::new), age: Duration::from_millis(age_ms), max: Watts::new(700), fault: None }
    }

    #[test]
    fn the_cpus_claim_follows_up_at_once_and_down_late() {
        let second = Duration::from_secs;
        let claim = CpuClaim::default().next(Some(&packages(Some(212), 0)), second(1));
        assert_eq!(claim.watts, Watts::new(220));
        let claim = claim.next(Some(&packages(Some(300), 0)), second(2));
        assert_eq!(claim.watts, Watts::new(310));
        let claim = claim.next(Some(&packages(Some(200), 0)), second(3)).next(Some(&packages(Some(200), 0)), second(7));
        assert_eq!(claim.watts, Watts::new(310));
        let claim = claim.next(Some(&packages(Some(200), 0)), second(9));
        assert_eq!(claim.watts, Watts::new(210));
    }

    #[test]
    fn the_cpus_claim_comes_to_rest_at_the_most_that_they_flutter_to() {
        let mut claim = CpuClaim::default();
        let mut claims = Vec::new();
        for tenth in 0..600 {
            let power = if tenth == 0 { 450 } else { 396 + tenth * 7 % 9 };
            claim = claim.next(Some(&packages(Some(power), 0)), Duration::from_millis(u64::from(tenth) * 100));
            claims.push(claim.watts);
        }
        claims.dedup();
        assert_eq!(claims, [Watts::new(460), Watts::new(410)]);
    }

    #[test]
    fn cpus_that_cannot_be_read_count_with_their_maximum() {
        let claim = CpuClaim::default().next(Some(&packages(None, 0)), Duration::ZERO);
        assert_eq!(claim.watts, Watts::new(700));
        let claim = CpuClaim::default().next(Some(&packages(Some(100), 1500)), Duration::ZERO);
        assert_eq!(claim.watts, Watts::new(700));
        assert_eq!(claim.next(None, Duration::ZERO).watts, Watts::ZERO);
    }
}
