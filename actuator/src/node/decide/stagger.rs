//! Watts that no single board can use: a step of the clock is 2 to 3 % of a board's power, so boards with equal
//! shares stop up to a step below them, all alike. Together these watts carry some of the boards a step higher.
//!
//! ```text
//!  share ══╤═══╤═══╤═══╤══        ┌───┐┌───┐
//!          │   │   │   │          │   ││   │┌───┐┌───┐   what the others leave unused
//!  drawn ──┴───┴───┴───┴──   ──▶  └───┘└───┘└───┘└───┘   is the step of the first two
//! ```
//!
//! What must hold: the shares add up to no more than before, and within one order only, so that nobody who
//! sheds earlier gains by it; the boards of one party stay equal; the same input gives the same shares, and
//! who has taken its step keeps it before another takes one, so that nothing hunts.

use powercap_common::units::Watts;

/// A share further than this from what its board needs is no matter of one step.
const NEAR_PERCENT: u32 = 95;

/// What a board at rest under its ceiling needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rung {
    /// The least share with which its ceiling stays.
    pub stays: Watts,
    /// The least share with which it would go a step higher.
    pub steps: Watts,
}

impl Rung {
    /// What several boards need that have one share and one ceiling.
    pub fn together(self, other: Self) -> Self {
        Self { stays: self.stays.max(other.stays), steps: self.steps.max(other.steps) }
    }
}

/// A board, or the boards of one group, with a share that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Party {
    pub share: Watts,
    /// What each may have at the most.
    pub most: Watts,
    /// How many boards share as one.
    pub boards: usize,
    /// Watts move within one order.
    pub order: u32,
    /// `None`: it is not at rest.
    pub rung: Option<Rung>,
}

/// The parties' shares, once what some of them cannot use has carried others a step higher.
pub(super) fn stagger(parties: &[Party]) -> Vec<Watts> {
    let mut shares: Vec<_> = parties.iter().map(|party| party.share).collect();
    let mut orders: Vec<_> = parties.iter().map(|party| party.order).collect();
    orders.sort_unstable();
    orders.dedup();
    for order in orders {
        let at_rest = |(at, party): (usize, &Party)| Some((at, *party, party.at_the_edge()?));
        let same: Vec<_> =
            parties.iter().enumerate().filter(|(_, party)| party.order == order).filter_map(at_rest).collect();
        move_watts(&same, &mut shares);
    }
    shares
}

/// Everybody gets what keeps the ceiling, then as many as the rest carries get a step; what is left is shared.
fn move_watts(parties: &[(usize, Party, Rung)], shares: &mut [Watts]) {
    let mut unused = 0;
    for (at, party, rung) in parties {
        shares[*at] = rung.stays.min(party.share);
        unused += party.cost(shares[*at], party.share);
    }
    let mut take = |at: usize, party: &Party, wanted: Watts| {
        let cost = party.cost(shares[at], wanted);
        if cost <= unused && wanted <= party.most {
            unused -= cost;
            shares[at] = shares[at].max(wanted);
        }
        shares[at] >= wanted
    };
    let kept: Vec<_> = parties.iter().filter(|(at, party, rung)| take(*at, party, rung.stays)).collect();
    for (at, party, rung) in kept.into_iter().filter(|(_, party, rung)| rung.stays <= party.share) {
        take(*at, party, rung.steps);
    }
    let boards: usize = parties.iter().map(|(_, party, _)| party.boards).sum();
    let each = Watts::new(Watts::from_milliwatts(unused).divided(boards.max(1)).floor());
    for (at, party, _) in parties {
        shares[*at] = (shares[*at] + each).min(party.most);
    }
}

impl Party {
    /// What it needs, where its share is less than a step from it.
    fn at_the_edge(&self) -> Option<Rung> {
        let Rung { stays, steps } = self.rung?;
        let near = |less: Watts, more: Watts| less >= more.percent(NEAR_PERCENT);
        (steps > self.share && near(stays, self.share) && near(self.share, stays)).then_some(Rung { stays, steps })
    }

    /// Milliwatts from one share to a higher one.
    fn cost(&self, from: Watts, to: Watts) -> u64 {
        to.saturating_sub(from).as_milliwatts().saturating_mul(self.boards as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rung(stays: u32, steps: u32) -> Option<Rung> {
        Some(Rung { stays: Watts::new(stays), steps: Watts::new(steps) })
    }

    fn party(share: u32, rung: Option<Rung>) -> Party {
        Party { share: Watts::new(share), most: Watts::new(700), boards: 1, order: 0, rung }
    }

    fn shares(parties: &[Party]) -> Vec<u32> {
        stagger(parties).iter().map(|share| share.floor()).collect()
    }

    #[test]
    fn what_four_boards_leave_unused_carries_two_of_them_a_step() {
        assert_eq!(shares(&[party(450, rung(444, 456)); 4]), [456, 456, 444, 444]);
        assert_eq!(shares(&[party(450, rung(447, 459)); 4]), [459, 447, 447, 447]);
    }

    #[test]
    fn who_took_a_step_keeps_it_and_a_smaller_budget_takes_it_from_the_last() {
        let (up, down) = (party(450, rung(456, 468)), party(450, rung(444, 456)));
        assert_eq!(shares(&[down, up, up, down]), [444, 456, 456, 444]);
        let less = |party: Party| Party { share: Watts::new(448), ..party };
        assert_eq!(shares(&[down, up, up, down].map(less)), [444, 456, 448, 444]);
    }

    #[test]
    fn who_is_not_at_rest_or_has_room_for_a_step_gives_and_takes_nothing() {
        let others = [party(450, None), party(450, rung(420, 432)), party(450, rung(440, 450))];
        assert_eq!(shares(&others), [450; 3]);
        let [still, roomy, able] = others;
        let edge = party(450, rung(440, 455));
        assert_eq!(shares(&[still, edge, roomy, edge, able]), [450, 457, 450, 442, 450]);
    }

    #[test]
    fn a_group_steps_as_one_or_not_at_all() {
        let group = Party { boards: 3, ..party(450, rung(444, 456)) };
        let single = party(450, rung(444, 456));
        // 12 W are needed for each board of the group, and 30 W are unused; with one board more, 36 W are.
        assert_eq!(shares(&[group, single, single]), [445, 457, 457]);
        assert_eq!(shares(&[group, single, single, single]), [456, 444, 444, 444]);
    }

    #[test]
    fn watts_stay_within_their_order_and_below_the_most_that_a_board_may_have() {
        let later = Party { order: 1, ..party(450, rung(449, 461)) };
        let first = party(450, rung(444, 458));
        assert_eq!(shares(&[first, first, later, later]), [450, 450, 450, 450]);
        let bound = Party { most: Watts::new(450), ..party(450, rung(444, 456)) };
        assert_eq!(shares(&[bound, party(450, rung(444, 456))]), [444, 456]);
    }

    fn parties() -> impl Strategy<Value = Vec<Party>> {
        let party = (200..700_u32, 0..100_u32, 1..5_usize, 0..3_u32, prop::option::of((0..60_u32, 1..40_u32)));
        prop::collection::vec(party, 0..12).prop_map(|parties| {
            let party = |(share, more, boards, order, rung): (u32, u32, usize, u32, Option<(u32, u32)>)| Party {
                share: Watts::new(share),
                most: Watts::new(share + more),
                boards,
                order,
                rung: rung.map(|(less, step)| {
                    let stays = share + 20 - less.min(share);
                    Rung { stays: Watts::new(stays), steps: Watts::new(stays + step) }
                }),
            };
            parties.into_iter().map(party).collect()
        })
    }

    proptest! {
        #[test]
        fn no_order_gets_more_than_it_had_and_nobody_who_could_stay_is_put_down(parties in parties()) {
            let shares = stagger(&parties);
            for order in 0..3 {
                let sum = |shares: &mut dyn Iterator<Item = Watts>| -> u64 {
                    shares.zip(&parties).filter(|(_, party)| party.order == order)
                        .map(|(share, party)| share.as_milliwatts() * party.boards as u64).sum()
                };
                prop_assert!(sum(&mut shares.iter().copied()) <= sum(&mut parties.iter().map(|party| party.share)));
            }
            for (share, party) in shares.iter().zip(&parties) {
                prop_assert!(*share <= party.most);
                match party.rung {
                    None => prop_assert_eq!(*share, party.share),
                    Some(rung) => prop_assert!(*share >= rung.stays.min(party.share), "{:?} {}", party, share),
                }
            }
        }

        #[test]
        fn what_was_staggered_comes_to_rest(parties in parties()) {
            // Who may take its step does so, and needs the share of the step from then on.
            let mut now = parties.clone();
            for _ in 0..100 {
                let shares = stagger(&now);
                for (party, share) in now.iter_mut().zip(shares) {
                    party.rung = party.rung.map(|rung| if share >= rung.steps && party.share < rung.steps {
                        let step = rung.steps.saturating_sub(rung.stays);
                        Rung { stays: rung.steps, steps: rung.steps + step }
                    } else {
                        rung
                    });
                }
            }
            let shares = stagger(&now);
            for (share, party) in shares.iter().zip(&now) {
                let steps = party.rung.is_some_and(|rung| party.share < rung.steps && *share >= rung.steps);
                prop_assert!(!steps, "{:?} still steps with {}", party, share);
            }
        }
    }
}
