//! Makes what [`decide`](crate::decide::decide) asked for: the Secret's next content. Without I/O; random as keys are.

use jiff::Timestamp;

use crate::{
    authority::{Authority, Leaf, MakeError},
    certificate::Certificate,
    decide::{MOST_AUTHORITIES, Step},
    held::Held,
    periods::Periods,
};

/// What the Secret is to hold after this step. `published` is what API servers trust, read after the Secret was; only
/// [`Step::Found`] asks for it.
///
/// # Errors
/// When a key or a certificate cannot be made.
pub fn carry_out(
    step: &Step,
    held: Held,
    published: &[Certificate],
    names: &[String],
    periods: &Periods,
    now: Timestamp,
) -> Result<Held, MakeError> {
    match step {
        Step::Nothing => Ok(held),
        Step::Found(_) => found(&held, published, names, periods, now),
        Step::Announce(_) => {
            let next = Authority::make(now, periods)?;
            let mut bundle = held.bundle;
            // One that was announced before and is no longer good has signed nothing.
            let forgotten = held.next.as_ref().map(Authority::certificate);
            bundle.retain(|certificate| Some(certificate) != forgotten);
            bundle.insert(0, next.certificate().clone());
            Ok(Held { next: Some(next), bundle, ..held })
        }
        Step::Switch => {
            let Some(next) = held.next else { return Ok(held) };
            let leaf = next.sign(names, now, periods)?;
            let earlier_until = held.leaf.as_ref().map(expiry).max(held.earlier_until);
            Ok(Held { authority: Some(next), next: None, leaf: Some(leaf), earlier_until, ..held })
        }
        Step::SignLeaf(_) => {
            let leaf = held.authority.as_ref().map(|authority| authority.sign(names, now, periods)).transpose()?;
            Ok(Held { leaf: leaf.or(held.leaf), ..held })
        }
        Step::Retire => {
            let retired: Vec<_> = held.retired(periods, now).cloned().collect();
            let mut held = held;
            held.bundle.retain(|certificate| !retired.contains(certificate));
            if held.earlier().next().is_none() {
                held.earlier_until = None;
            }
            Ok(held)
        }
    }
}

/// Begins anew. Other replicas may still show a leaf of an authority that was lost here: what was trusted so far, by
/// this Secret or by the API servers, stays trusted as long as a leaf lasts.
fn found(
    held: &Held,
    published: &[Certificate],
    names: &[String],
    periods: &Periods,
    now: Timestamp,
) -> Result<Held, MakeError> {
    let authority = Authority::make(now, periods)?;
    let leaf = authority.sign(names, now, periods)?;
    let mut bundle = vec![authority.certificate().clone()];
    for earlier in published.iter().chain(&held.bundle) {
        let lives = earlier.is_authority() && earlier.is_valid(now) && !bundle.contains(earlier);
        if lives && bundle.len() < MOST_AUTHORITIES {
            bundle.push(earlier.clone());
        }
    }
    let earlier_until = (bundle.len() > 1).then(|| expiry(&leaf));
    Ok(Held { authority: Some(authority), next: None, leaf: Some(leaf), bundle, earlier_until })
}

fn expiry(leaf: &Leaf) -> Timestamp {
    leaf.certificate().not_after()
}
