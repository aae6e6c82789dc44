//! How the boards' budget is divided: each board its lowest limit first, then what it wants to the
//! boards that shed last, then the same to those before them.
//!
//! What must hold: the shares of one division never exceed the budget, whatever is wanted, unless the
//! boards' own lowest limits do, and then the division says so; no board has more than its lowest limit
//! while one of a higher order has less than it wants; the boards of one claim have equal shares.
//!
//! ```text
//! watts   want ┄┄┐           within one order the water rises to the same level over every board, from
//!   ▲            │  ┌──┐     its lowest limit to what it wants; what all orders leave then rises above
//! level ══╪══════╪══╪══╪═    the wants, up to what each may have
//!   │  ┌──┐      │  │  │
//!   └──┴──┴──────┴──┴──┴──▶ boards
//! ```

use powercap_common::units::Watts;

/// What a board, or the boards of one group, take part with in the division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The lowest power limit of each.
    pub least: Watts,
    /// What each would use.
    pub want: Watts,
    /// What each may have at the most.
    pub most: Watts,
    /// How many boards share as one.
    pub boards: usize,
    /// Lower orders give up their watts first.
    pub order: u32,
}

/// The outcome of a division.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Division {
    /// Whole watts for each board of each claim, in the order of the claims.
    pub shares: Vec<Watts>,
    /// The lowest limits alone exceed the budget: the shares are below them, and only clocks can keep them.
    pub below_floor: bool,
}

/// A claim's share between two bounds.
#[derive(Clone, Copy)]
struct Bound {
    low: Watts,
    high: Watts,
    boards: usize,
}

/// Divides `budget` among `claims`.
pub(super) fn divide(budget: Watts, claims: &[Claim]) -> Division {
    let least: Watts = claims.iter().map(|claim| times(claim.least, claim.boards)).sum();
    if least > budget {
        let equal = whole(budget.divided(claims.iter().map(|claim| claim.boards).sum()));
        return Division { shares: claims.iter().map(|claim| equal.min(claim.most)).collect(), below_floor: true };
    }
    let mut last_to_shed: Vec<usize> = (0..claims.len()).collect();
    last_to_shed.sort_by_key(|&at| std::cmp::Reverse(claims[at].order));
    let mut shares: Vec<_> = claims.iter().map(|claim| claim.least).collect();
    let mut left = budget.saturating_sub(least);
    let wanted = |claim: &Claim| claim.want.min(claim.most);
    let permitted = |claim: &Claim| claim.most;
    for upper in [wanted as fn(&Claim) -> Watts, permitted] {
        for same_order in last_to_shed.chunk_by(|&one, &other| claims[one].order == claims[other].order) {
            let bound = |&at: &usize| {
                let (low, boards) = (shares[at], claims[at].boards);
                Bound { low, high: upper(&claims[at]).max(low), boards }
            };
            let bounds: Vec<_> = same_order.iter().map(bound).collect();
            let filled = fill(left + total(bounds.iter().map(|bound| (bound.low, bound.boards))), &bounds);
            for ((at, bound), share) in same_order.iter().zip(&bounds).zip(filled) {
                left = left.saturating_sub(times(share.saturating_sub(bound.low), bound.boards));
                shares[*at] = share;
            }
        }
    }
    Division { shares: shares.into_iter().map(whole).collect(), below_floor: false }
}

/// Raises each lower bound to a common level, at most to its upper bound, so that the sum comes as
/// close to the budget as it can without exceeding it.
fn fill(budget: Watts, bounds: &[Bound]) -> Vec<Watts> {
    let at = |level: u64| {
        let level = Watts::from_milliwatts(level);
        bounds.iter().map(move |bound| (level.clamp(bound.low, bound.high), bound.boards))
    };
    let fits = |level: u64| total(at(level)) <= budget;
    let mut low = 0;
    let mut high = bounds.iter().map(|bound| bound.high.as_milliwatts()).max().unwrap_or(0);
    if fits(high) {
        low = high;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    at(low).map(|(share, _)| share).collect()
}

fn total(shares: impl Iterator<Item = (Watts, usize)>) -> Watts {
    shares.map(|(share, boards)| times(share, boards)).sum()
}

fn times(watts: Watts, boards: usize) -> Watts {
    Watts::from_milliwatts(watts.as_milliwatts().saturating_mul(boards as u64))
}

fn whole(watts: Watts) -> Watts {
    Watts::new(watts.floor())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(least: u32, want: u32, most: u32) -> Claim {
        Claim { least: Watts::new(least), want: Watts::new(want), most: Watts::new(most), boards: 1, order: 0 }
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

    #[test]
    fn lower_orders_give_up_their_watts_first() {
        let order = |order, claim| Claim { order, ..claim };
        let boards = [order(0, claim(200, 700, 700)), order(1, claim(200, 700, 700)), order(2, claim(200, 700, 700))];
        assert_eq!(shares(2100, &boards), [700, 700, 700]);
        assert_eq!(shares(1700, &boards), [300, 700, 700]);
        assert_eq!(shares(1600, &boards), [200, 700, 700]);
        assert_eq!(shares(1400, &boards), [200, 500, 700]);
        assert_eq!(shares(900, &boards), [200, 200, 500]);
    }

    #[test]
    fn what_a_higher_order_does_not_want_goes_to_a_lower_one() {
        let boards = [claim(200, 700, 700), Claim { order: 9, ..claim(200, 80, 700) }];
        assert_eq!(shares(900, &boards), [700, 200]);
        assert_eq!(shares(1000, &boards), [700, 300]);
    }

    #[test]
    fn boards_of_one_group_share_as_one() {
        let boards = [Claim { boards: 3, ..claim(200, 700, 700) }, claim(200, 700, 700)];
        assert_eq!(shares(2000, &boards), [500, 500]);
    }

    proptest! {
        #[test]
        fn no_order_sheds_while_a_lower_one_is_above_its_floor(
            budget in 0..20_000_u32,
            claims in prop::collection::vec((0..400_u32, 0..1500_u32, 0..1500_u32, 1..5_usize, 0..4_u32), 0..20),
        ) {
            let claims: Vec<_> = claims
                .into_iter()
                .map(|(least, want, more, boards, order)| Claim { boards, order, ..claim(least, want, least + more) })
                .collect();
            let division = divide(Watts::new(budget), &claims);
            let boards = claims.iter().map(|claim| claim.boards);
            prop_assert!(total(division.shares.iter().copied().zip(boards)) <= Watts::new(budget));
            for (share, high) in division.shares.iter().zip(&claims) {
                let sheds = *share + Watts::new(1) < high.want.min(high.most);
                for (other, low) in division.shares.iter().zip(&claims).filter(|(_, low)| low.order < high.order) {
                    let above_floor = *other > low.least.max(Watts::new(low.least.floor()));
                    prop_assert!(!sheds || division.below_floor || !above_floor, "{high:?} {share} {low:?} {other}");
                }
            }
        }

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
