//! How the boards' budget is divided: equal shares first, then what some do not want to those that do.
//!
//! What must hold: the shares of one division never exceed the budget, whatever is wanted, unless the
//! boards' own lowest limits do; then the division says so.
//!
//! ```text
//! watts   want ┄┄┐           first the water rises to the same level over every board, from its
//!   ▲            │  ┌──┐     lowest limit to what it wants; what is left then rises above the wants,
//! level ══╪══════╪══╪══╪═    up to what each may have
//!   │  ┌──┐      │  │  │
//!   └──┴──┴──────┴──┴──┴──▶ boards
//! ```

use powercap_common::units::Watts;

/// What one board takes part with in the division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its lowest power limit.
    pub least: Watts,
    /// What it would use.
    pub want: Watts,
    /// What it may have at the most.
    pub most: Watts,
}

/// The outcome of a division.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Division {
    /// Whole watts for each claim, in the order of the claims.
    pub shares: Vec<Watts>,
    /// The lowest limits alone exceed the budget: the shares are below them, and only clocks can keep them.
    pub below_floor: bool,
}

/// Divides `budget` among `claims`.
pub(super) fn divide(budget: Watts, claims: &[Claim]) -> Division {
    let least: Watts = claims.iter().map(|claim| claim.least).sum();
    if least > budget {
        let equal = whole(budget.divided(claims.len()));
        return Division { shares: claims.iter().map(|claim| equal.min(claim.most)).collect(), below_floor: true };
    }
    let wanted = |claim: &Claim| (claim.least, claim.want.clamp(claim.least, claim.most.max(claim.least)));
    let first = fill(budget, &claims.iter().map(wanted).collect::<Vec<_>>());
    let rest = |(claim, share): (&Claim, &Watts)| (*share, claim.most.max(*share));
    let second = fill(budget, &claims.iter().zip(&first).map(rest).collect::<Vec<_>>());
    Division { shares: second.into_iter().map(whole).collect(), below_floor: false }
}

/// Raises each pair's lower bound to a common level, at most to its upper bound, so that the sum comes
/// as close to the budget as it can without exceeding it.
fn fill(budget: Watts, bounds: &[(Watts, Watts)]) -> Vec<Watts> {
    let at = |level: u64| {
        let level = Watts::from_milliwatts(level);
        bounds.iter().map(move |(low, high)| level.clamp(*low, *high.max(low)))
    };
    let mut low = 0;
    let mut high = bounds.iter().map(|(_, high)| high.as_milliwatts()).max().unwrap_or(0);
    if at(high).sum::<Watts>() <= budget {
        return at(high).collect();
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if at(middle).sum::<Watts>() <= budget { low = middle } else { high = middle }
    }
    at(low).collect()
}

fn whole(watts: Watts) -> Watts {
    Watts::new(watts.floor())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(least: u32, want: u32, most: u32) -> Claim {
        Claim { least: Watts::new(least), want: Watts::new(want), most: Watts::new(most) }
    }

    fn shares(budget: u32, claims: &[Claim]) -> Vec<u32> {
        divide(Watts::new(budget), claims).shares.iter().map(|share| share.floor()).collect()
    }

    #[test]
    fn boards_that_want_more_than_there_is_get_equal_shares() {
        assert_eq!(shares(1600, &[claim(200, 700, 700); 4]), [400; 4]);
    }

    #[test]
    fn what_an_idle_board_does_not_want_goes_to_the_others() {
        assert_eq!(shares(1600, &[claim(200, 80, 700), claim(200, 700, 700), claim(200, 700, 700)]), [200, 700, 700]);
        assert_eq!(shares(1300, &[claim(200, 80, 700), claim(200, 700, 700), claim(200, 700, 700)]), [200, 550, 550]);
    }

    #[test]
    fn what_nobody_wants_is_given_anyway() {
        assert_eq!(shares(1200, &[claim(200, 300, 700), claim(200, 100, 700)]), [600, 600]);
        assert_eq!(shares(9999, &[claim(200, 300, 700), claim(200, 100, 500)]), [700, 500]);
    }

    #[test]
    fn a_budget_below_the_lowest_limits_is_said_to_be() {
        let division = divide(Watts::new(300), &[claim(200, 700, 700); 2]);
        assert!(division.below_floor);
        assert_eq!(division.shares, [Watts::new(150); 2]);
        assert!(!divide(Watts::ZERO, &[]).below_floor);
    }

    proptest! {
        #[test]
        fn shares_never_exceed_the_budget(
            budget in 0..20_000_u32,
            claims in prop::collection::vec((0..400_u32, 0..1500_u32, 0..1500_u32), 0..20),
        ) {
            let claims: Vec<_> = claims.into_iter().map(|(least, want, more)| claim(least, want, least + more)).collect();
            let division = divide(Watts::new(budget), &claims);
            prop_assert!(division.shares.iter().copied().sum::<Watts>() <= Watts::new(budget));
            for (share, claim) in division.shares.iter().zip(&claims) {
                prop_assert!(*share <= claim.most);
                prop_assert!(division.below_floor || *share >= claim.least);
            }
        }
    }
}
