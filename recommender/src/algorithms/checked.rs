//! What may be made of an algorithm's shares: the wrapper that every algorithm runs in.

use std::collections::BTreeMap;

use powercap_common::units::Watts;

use super::{
    Algorithm, Claim, Party, Uniform,
    level::{Span, level},
    total,
};

/// Shares that stand are given up where they would leave more of the whole unused than this.
const MOST_UNUSED_PERCENT: u32 = 1;

/// What each claim gets, in whole watts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// In the order of the claims.
    pub watts: Vec<Watts>,
    /// The algorithm's shares could not be used: these are equal ones.
    pub refused: Option<Refusal>,
}

/// Why the shares of an algorithm cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not one for each.
    #[error("algorithm {algorithm} gave {given} shares for {wanted}; until it gives all, they are equal")]
    Count {
        /// Its name.
        algorithm: &'static str,
        /// How many it gave.
        given: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// More than there is.
    #[error("algorithm {algorithm} gave {given} of {whole}; until its shares fit, they are equal")]
    Sum {
        /// Its name.
        algorithm: &'static str,
        /// What its shares sum to, each within its bounds.
        given: Watts,
        /// What there is.
        whole: Watts,
    },
}

/// Shares `whole` out by this algorithm.
#[must_use]
pub fn share_out(algorithm: &dyn Algorithm, whole: Watts, claims: &[Claim]) -> Shares {
    let least_fits = |gathered: &Gathered| total(&gathered.parties, |_, party| party.least) <= whole;
    let gathered = gather(algorithm, whole, claims, Unread::Keep);
    let gathered = if least_fits(&gathered) { gathered } else { gather(algorithm, whole, claims, Unread::Claim) };
    let everyones_least_fits = least_fits(&gathered);
    let Gathered { mut parties, standing, party_of } = gathered;
    let (shares, refused) = if everyones_least_fits {
        match bounded(algorithm, whole, &parties) {
            Ok(fresh) => (steady(fresh, &standing, whole, &parties, algorithm.deadband_percent()), None),
            Err(refusal) => (Uniform.shares(whole, &parties), Some(refusal)),
        }
    } else {
        // There is nothing to choose: they will all draw more than there is.
        parties.iter_mut().for_each(|party| party.least = Watts::ZERO);
        (Uniform.shares(whole, &parties), None)
    };
    Shares { watts: party_of.into_iter().map(|at| Watts::new(shares[at].floor())).collect(), refused }
}

/// Claims put together for an algorithm.
struct Gathered {
    parties: Vec<Party>,
    /// What the members of each party have now; `None` unless they have the same.
    standing: Vec<Option<Watts>>,
    /// The party of each claim.
    party_of: Vec<usize>,
}

/// What becomes of a claim whose power is not known, by an algorithm that reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// It keeps what it has: silence moves nothing.
    Keep,
    /// There is not that much any more: it claims the most, and gets less than it has.
    Claim,
}

fn gather(algorithm: &dyn Algorithm, whole: Watts, claims: &[Claim], unread: Unread) -> Gathered {
    let keeps = algorithm.reads_power() && unread == Unread::Keep;
    let equal = Watts::new(whole.divided(claims.len()).floor());
    let mut gathered = Gathered {
        parties: Vec::with_capacity(claims.len()),
        standing: Vec::with_capacity(claims.len()),
        party_of: Vec::with_capacity(claims.len()),
    };
    let mut groups = BTreeMap::new();
    for claim in claims {
        let kept = claim.standing.filter(|_| keeps && claim.power.is_none());
        let party = match (kept, claim.most) {
            (Some(kept), most) => {
                let kept = most.map_or(kept, |most| kept.min(most));
                bounded_party(&Claim { least: kept, ..claim.clone() }, kept)
            }
            (None, Some(most)) => bounded_party(claim, most),
            (None, None) if algorithm.treats_all_alike() => bounded_party(claim, whole),
            // Nobody knows what it can use: it gets an equal share before anything is chosen among the others.
            (None, None) => bounded_party(&Claim { least: equal, power: None, ..claim.clone() }, equal),
        };
        let last = gathered.parties.len();
        let at = claim.group.map_or(last, |group| *groups.entry(group).or_insert(last));
        match gathered.parties.get_mut(at) {
            None => {
                gathered.parties.push(party);
                gathered.standing.push(claim.standing);
            }
            Some(group) => {
                // What one of them cannot use none of them gets: they wait for each other.
                let most = group.most.min(party.most);
                *group = Party {
                    size: group.size + 1,
                    least: group.least.max(party.least).min(most),
                    most,
                    power: group.power.max(party.power),
                    priority: group.priority.max(party.priority),
                };
                gathered.standing[at] = gathered.standing[at].filter(|standing| claim.standing == Some(*standing));
            }
        }
        gathered.party_of.push(at);
    }
    gathered
}

/// Bounds in whole watts, as limits are written.
fn bounded_party(claim: &Claim, most: Watts) -> Party {
    let most = Watts::new(most.floor());
    let least = Watts::new(claim.least.ceil()).min(most);
    Party { size: 1, least, most, power: claim.power.unwrap_or(most), priority: claim.priority }
}

/// The algorithm's shares, each within its bounds, or why they cannot be used.
fn bounded(algorithm: &dyn Algorithm, whole: Watts, parties: &[Party]) -> Result<Vec<Watts>, Refusal> {
    let (algorithm, mut shares) = (algorithm.name(), algorithm.shares(whole, parties));
    if shares.len() != parties.len() {
        return Err(Refusal::Count { algorithm, given: shares.len(), wanted: parties.len() });
    }
    for (share, party) in shares.iter_mut().zip(parties) {
        *share = Watts::new((*share).clamp(party.least, party.most).floor());
    }
    let given = total(parties, |at, _| shares[at]);
    if given > whole { Err(Refusal::Sum { algorithm, given, whole }) } else { Ok(shares) }
}

/// The shares, save that those that would hardly move stay. What they keep too much goes from those that move,
/// as far as that is hardly felt and wastes little; else all move.
fn steady(
    fresh: Vec<Watts>,
    standing: &[Option<Watts>],
    whole: Watts,
    parties: &[Party],
    deadband_percent: u32,
) -> Vec<Watts> {
    if deadband_percent == 0 {
        return fresh;
    }
    let stays = |at: usize, party: &Party| {
        standing[at].filter(|stands| {
            let moves = stands.saturating_sub(fresh[at]).max(fresh[at].saturating_sub(*stands));
            (party.least..=party.most).contains(stands) && moves <= stands.percent(deadband_percent)
        })
    };
    let span = |(at, party): (usize, &Party)| {
        let (from, to) = stays(at, party).map_or((party.least, fresh[at]), |stands| (stands, stands));
        Span { size: party.size, from, to }
    };
    let spans: Vec<_> = parties.iter().enumerate().map(span).collect();
    let level = level(whole, &spans);
    let shares: Vec<_> = spans.iter().map(|span| Watts::new(span.at(level).floor())).collect();
    let felt = |(share, fresh): (&Watts, &Watts)| *share + fresh.percent(deadband_percent) < *fresh;
    let (given, of_fresh) = (total(parties, |at, _| shares[at]), total(parties, |at, _| fresh[at]));
    let wasted = of_fresh.saturating_sub(given) > whole.percent(MOST_UNUSED_PERCENT);
    if given > whole || wasted || shares.iter().zip(&fresh).any(felt) { fresh } else { shares }
}
