//! Promises: what is written of a node's grant, and what a leader remembers of writes that got no answer.
//!
//! ```text
//!                         ┌── arrived ──▶ the view holds it; nothing earlier can arrive any more
//!   sent on a version ────┼── refused ──▶ somebody wrote since; what got no answer before is as it was
//!                         └── unknown ──▶ counts as a commitment until a later write of the node arrives
//! ```
//!
//! Must hold: whatever is written carries the commitment with it, so that it survives a change of leader;
//! nobody writes over a later epoch; a node of which a write got no answer is written again, since only
//! that tells what became of it. Together with [`super::grants`] this is the protocol that
//! `recommender/tests/model_conservation.rs` explores: this code, not a copy of it.

use std::collections::BTreeMap;

use powercap_common::{api::Epoch, units::Watts};

use super::grants::{Holding, NO_LIMIT};

/// What of a node's spec conservation rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Under which it is written.
    pub epoch: Epoch,
    /// The most that the node may still be drawing once it is written; `None` when nobody knows.
    pub committed: Option<Watts>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The API server took it.
    Arrived,
    /// It was refused, or never sent.
    Refused,
    /// No answer: it may still arrive.
    Unknown,
}

/// What to write with `grant` under `epoch`, or nothing: when a later leader has written (the API server
/// would refuse, and rightly), or when all is as it should be. `standing` is the epoch in the node's spec,
/// `changed` whether anything in it is to be another.
#[must_use]
pub fn next(
    holding: Holding,
    standing: Option<Epoch>,
    epoch: Epoch,
    grant: Option<Watts>,
    changed: bool,
) -> Option<Promise> {
    let overtaken = standing.is_some_and(|standing| standing > epoch);
    let settled = standing.is_some() && !changed && holding.in_term && !holding.unanswered;
    (!overtaken && !settled).then(|| Promise { epoch, committed: grant.and_then(|grant| holding.after(grant)) })
}

/// Keeps the account of grants whose arrival is unknown. `grant` is what the write held; `None` is no limit.
pub fn note(uncertain: &mut BTreeMap<String, Watts>, node: &str, grant: Option<Watts>, fate: Fate) {
    match fate {
        // Made on the version that it replaced: what was sent before cannot arrive any more.
        Fate::Arrived => drop(uncertain.remove(node)),
        Fate::Refused => {}
        Fate::Unknown => {
            let most = uncertain.entry(node.to_owned()).or_default();
            *most = (*most).max(grant.unwrap_or(NO_LIMIT));
        }
    }
}
