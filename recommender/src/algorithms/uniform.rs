//! `uniform`: everyone the same, and what one cannot use goes to the others.

use powercap_common::units::Watts;

use super::{
    Algorithm, Party,
    level::{Span, level},
};

/// Equal shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uniform;

impl Algorithm for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn shares(&self, whole: Watts, parties: &[Party]) -> Vec<Watts> {
        let spans: Vec<_> = parties.iter().map(Party::span).collect();
        let level = level(whole, &spans);
        spans.iter().map(|span| span.at(level)).collect()
    }

    fn treats_all_alike(&self) -> bool {
        true
    }
}

impl Party {
    /// From the least that its members get to the most that they can use.
    pub(super) fn span(&self) -> Span {
        Span { size: self.size, from: self.least, to: self.most }
    }
}
