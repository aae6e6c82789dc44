//! What is to be done to the Secret next.
//!
//! ```text
//!                       authority due              seen published for the overlap
//!   authority, leaf ───────────────▶ + next, announced ───────────────────▶ next signs; the old one stays in the bundle
//!     ▲    │ ▲                                                                    │
//!     │    └─┘ leaf due: a new one                                                │
//!     └───────────────────────────────────────────────────────────────────────────┘
//!                       no leaf of the old one can be valid: it leaves the bundle
//! ```
//! Pure: the same Secret, seen published for as long, at the same moment, gives the same step to every replica. They
//! may all take it: the API server accepts one, by resourceVersion.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use crate::{
    authority::{Authority, Leaf},
    certificate::Certificate,
    held::{Fault, Held},
    periods::Periods,
};

/// How many authorities a bundle holds at most before a person may ask for one more.
pub const MOST_AUTHORITIES: usize = 16;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// All is well, or something has to be waited for.
    Nothing,
    /// Make an authority and a leaf: nothing in the Secret could go on.
    Found(Fault),
    /// Make the next authority and publish it beside the present one.
    Announce(Cause),
    /// The announced authority signs from now on.
    Switch,
    /// A new leaf of the present authority.
    SignLeaf(Cause),
    /// Authorities of which no leaf can be valid any more leave the bundle.
    Retire,
}

/// Why something is replaced.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// It is near its end.
    Due,
    /// A person asked.
    Asked,
    /// There is no authority that can sign, though the leaf is still good.
    NoAuthority,
    /// Clients would turn it down.
    Fault(Fault),
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Due => formatter.write_str("its validity comes to an end"),
            Self::Asked => formatter.write_str("a person asked for it"),
            Self::NoAuthority => formatter.write_str("the authority or its key is missing, foreign or expired"),
            Self::Fault(fault) => fault.fmt(formatter),
        }
    }
}

/// What to do to what the Secret holds, for a server that is called by these names. `published` is for how long this
/// very bundle has been seen in the webhook configurations; nothing where it is not there.
#[must_use]
pub fn decide(held: &Held, names: &[String], published: Option<Duration>, periods: &Periods, now: Timestamp) -> Step {
    let signs = held.authority.as_ref().filter(|authority| authority.certificate().is_valid(now));
    if let Some(fault) = held.fault(names, now) {
        return match signs {
            Some(_) => Step::SignLeaf(Cause::Fault(fault)),
            None => Step::Found(fault),
        };
    }
    if let (Some(authority), Some(leaf)) = (signs, &held.leaf)
        && lasts_longer(authority, leaf, periods, now)
    {
        return Step::SignLeaf(Cause::Due);
    }
    if held.next.as_ref().is_some_and(|next| next.certificate().is_valid(now)) {
        let seen = published.is_some_and(|published| published >= periods.overlap);
        return if seen { Step::Switch } else { Step::Nothing };
    }
    match signs {
        None => return Step::Announce(Cause::NoAuthority),
        Some(authority) if left(authority.certificate().not_after(), now) < periods.authority_reserve() => {
            return Step::Announce(Cause::Due);
        }
        Some(_) => {}
    }
    if held.retired(periods, now).next().is_some() {
        return Step::Retire;
    }
    Step::Nothing
}

/// Whether a server goes on showing what it shows, instead of what the Secret holds: as long as API servers may not
/// have seen the bundle yet, and it is still good. So where an authority had to be made anew, nobody is turned down.
#[must_use]
pub fn stays(
    shown: &Certificate,
    held: &Held,
    names: &[String],
    published: Option<Duration>,
    periods: &Periods,
    now: Timestamp,
) -> bool {
    let seen = published.is_some_and(|published| published >= periods.overlap);
    !seen && held.refused(shown, names, now).is_none()
}

/// Whether the leaf is near its end, and another would last longer.
fn lasts_longer(authority: &Authority, leaf: &Leaf, periods: &Periods, now: Timestamp) -> bool {
    let end = leaf.certificate().not_after();
    let another = left(authority.certificate().not_after(), now).min(periods.leaf);
    left(end, now) < periods.leaf_reserve() && another > left(end, now) + Duration::from_secs(1)
}

/// How long it is until then; zero when that is past.
fn left(end: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}
