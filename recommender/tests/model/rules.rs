//! The rules by which a recommender writes, and rules with one of them left out: what each is there for.

use powercap_recommender::decide::grants::Holding;

/// The recommender's own rules, or all of them but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// As the recommender is.
    All,
    /// A node counts with its grant, not with what it was promised before and may still be drawing.
    CountsWhatIsGranted,
    /// Nodes of an earlier leader's term are as good as those of one's own.
    IgnoresTerms,
    /// A node that booted counts with what it was promised.
    IgnoresBoots,
    /// A write without an answer did not happen.
    ForgetsUnansweredWrites,
    /// A write without an answer counts, and is left at that.
    NeverWritesAgain,
    /// The cache is believed, although it may be older than one's own last write.
    BelievesTheCache,
}

impl Rules {
    /// What these rules make of a node that counts with this.
    pub fn holding(self, holding: Holding) -> Holding {
        match self {
            Self::CountsWhatIsGranted => Holding { committed: holding.granted, ..holding },
            Self::IgnoresTerms => Holding { in_term: true, ..holding },
            Self::NeverWritesAgain => Holding { unanswered: false, ..holding },
            _ => holding,
        }
    }
}
