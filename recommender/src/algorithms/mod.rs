//! How watts are shared out: algorithms behind one trait, chosen by name.
//!
//! A domain shares its watts out to nodes, a policy its watts to devices. Both make [`Claim`]s and call
//! [`share_out`]; what an algorithm is for and what it costs is in docs/algorithms.md, what it can be told in
//! [`powercap_common::algorithm`].
//!
//! ```text
//!   claims ─▶ parties (a group is one) ─▶ algorithm ─▶ checked ─▶ what moved little stays ─▶ shares
//!                                             └── nonsense ─▶ uniform, and a word of it
//! ```
//!
//! Must hold, whatever an algorithm returns: the shares together never exceed the whole, none exceeds what
//! its claim can use, members of a group get the same, and nobody gets less than its least as long as that of
//! all fits; what nobody reads is not raised. An algorithm can cost performance, never safety.
//!
//! The optimal algorithm, once the work of each device at each clock is learned, gets its place beside these.

mod checked;
pub(crate) mod level;
mod priority;
mod proportional;
mod uniform;

use std::fmt;

pub use powercap_common::algorithm::{AlgorithmError, KINDS, Kind, Priority, Proportional};
use powercap_common::{algorithm::Choice, api::AlgorithmSpec, units::Watts};

pub use self::{
    checked::{Refusal, Shares, share_out},
    uniform::Uniform,
};

/// One of those who share: a node of a domain, or a device of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// It gets at least this, as long as that of all fits.
    pub least: Watts,
    /// More is of no use to it; `None`: not known, so that it gets an equal share, whatever the algorithm.
    pub most: Option<Watts>,
    /// What it draws now; `None`: not known, so that it keeps what it has, or claims the most: never nothing.
    pub power: Option<Watts>,
    /// The higher comes first.
    pub priority: i64,
    /// Claims of one group get the same.
    pub group: Option<u32>,
    /// What it has now.
    pub standing: Option<Watts>,
}

/// A claim as an algorithm sees it: one, or those of a group, of which each gets the same. Nothing in it is
/// unknown, and `least` ≤ `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its members.
    pub size: usize,
    /// What each gets at least; those of all parties fit.
    pub least: Watts,
    /// What each can use.
    pub most: Watts,
    /// What each draws now; of a group the hungriest.
    pub power: Watts,
    /// The higher comes first.
    pub priority: i64,
}

/// A rule by which watts are shared out.
pub trait Algorithm: fmt::Debug + Send + Sync {
    /// As it stands in `spec.algorithm.name`.
    fn name(&self) -> &'static str;

    /// What each member of each party gets of `whole`, in the order of the parties.
    fn shares(&self, whole: Watts, parties: &[Party]) -> Vec<Watts>;

    /// Whether it treats all alike, whatever they draw and whoever comes first: then nobody need ask for that,
    /// and one clock ceiling does for all devices of a policy.
    fn treats_all_alike(&self) -> bool {
        false
    }

    /// Whether its shares follow what is drawn.
    fn reads_power(&self) -> bool {
        false
    }

    /// A share that would move by no more than this part of itself stays, so that noise is not written.
    fn deadband_percent(&self) -> u32 {
        0
    }
}

/// The algorithm that a person chose.
///
/// # Errors
/// Which field is wrong, and what to write.
pub fn named(spec: &AlgorithmSpec) -> Result<Box<dyn Algorithm>, AlgorithmError> {
    Choice::try_from(spec).map(made)
}

/// The algorithm of a choice.
#[must_use]
pub fn made(choice: Choice) -> Box<dyn Algorithm> {
    match choice {
        Choice::Uniform => Box::new(Uniform),
        Choice::Proportional(algorithm) => Box::new(algorithm),
        Choice::Priority(algorithm) => Box::new(algorithm),
    }
}

/// What these members get together.
fn total(parties: &[Party], each: impl Fn(usize, &Party) -> Watts) -> Watts {
    parties.iter().enumerate().map(|(at, party)| times(each(at, party), party.size)).sum()
}

fn times(each: Watts, members: usize) -> Watts {
    let members = u64::try_from(members).unwrap_or(u64::MAX);
    Watts::from_milliwatts(each.as_milliwatts().saturating_mul(members))
}
