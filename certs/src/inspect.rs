//! What a person is told about certificates. Pure: text from what was read.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    certificate::Certificate,
    decide::{Step, decide},
    held::Held,
    identity::Identity,
    keeper::Registrations,
    periods::Periods,
};

/// What there is to say, and whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Lines for a person.
    pub text: String,
    /// Whether clients accept what servers show.
    pub accepted: bool,
}

/// About the Secret, and what of it is published.
///
/// # Errors
/// Never: text takes what is written to it.
pub fn secret(
    held: &Held,
    names: &[String],
    registrations: &Registrations,
    now: Timestamp,
) -> Result<Page, fmt::Error> {
    let periods = Periods::default();
    let mut text = String::new();
    let renewed = |certificate: &Certificate, reserve: Duration| {
        let from = certificate.not_after().checked_sub(reserve).unwrap_or(Timestamp::MIN);
        format!("{}, renewed from {from:.0} on", lasts(certificate, now))
    };
    let authority = held.authority.as_ref().map(|authority| {
        let certificate = authority.certificate();
        format!("{}\n            {}", certificate.subject(), renewed(certificate, periods.authority_reserve()))
    });
    writeln!(text, "authority   {}", authority.as_deref().unwrap_or("none that can sign"))?;
    if let Some(next) = &held.next {
        let certificate = next.certificate();
        writeln!(text, "announced   {}\n            {}", certificate.subject(), lasts(certificate, now))?;
    }
    for earlier in held.earlier() {
        let until = held.earlier_until.map_or(earlier.not_after(), |until| until.min(earlier.not_after()));
        writeln!(text, "earlier     {}\n            trusted until {until:.0}", earlier.subject())?;
    }
    let leaf = held.leaf.as_ref().map(|leaf| {
        let certificate = leaf.certificate();
        format!("{}\n            {}", certificate.names().join(", "), renewed(certificate, periods.leaf_reserve()))
    });
    writeln!(text, "leaf        {}", leaf.as_deref().unwrap_or("none with its key"))?;
    let mut accepted = held.fault(names, now).is_none();
    match held.fault(names, now) {
        None => writeln!(text, "            accepted by who trusts the bundle of {}", held.bundle.len())?,
        Some(fault) => writeln!(text, "            {fault}")?,
    }
    let bundle = held.bundle_pem();
    for registration in registrations.iter() {
        let accepts = held.leaf.as_ref().is_some_and(|leaf| registration.accepts(leaf.certificate(), names, now));
        accepted &= accepts;
        let said = match (registration.carries(&bundle), accepts) {
            (true, _) => "this bundle is published",
            (false, true) => "another bundle is published, by which it is accepted too",
            (false, false) => "another bundle is published: API servers turn it down",
        };
        writeln!(text, "{registration}: {said}")?;
    }
    if registrations.iter().next().is_none() {
        writeln!(text, "no webhook configuration: API servers call nobody")?;
    }
    writeln!(text, "next        {}", next(&decide(held, names, None, &periods, now), held))?;
    Ok(Page { text, accepted })
}

fn next(step: &Step, held: &Held) -> String {
    match step {
        Step::Nothing if held.next.is_some() => {
            "the announced authority signs ten minutes after it is published".into()
        }
        Step::Nothing => "nothing until then".into(),
        Step::Found(fault) => format!("admission makes a new authority and a new leaf: {fault}"),
        Step::Announce(cause) => format!("admission announces the next authority: {cause}"),
        Step::Switch => "the announced authority signs".into(),
        Step::SignLeaf(cause) => format!("admission signs a new leaf: {cause}"),
        Step::Retire => "earlier authorities leave the bundle".into(),
    }
}

/// About files that somebody else keeps; `bundle` is empty where there is no `ca.crt` beside them.
///
/// # Errors
/// Never: text takes what is written to it.
pub fn files(identity: &Identity, bundle: &[Certificate], now: Timestamp) -> Result<Page, fmt::Error> {
    let (leaf, signers) = (identity.leaf(), identity.signers());
    let mut text = String::new();
    writeln!(text, "leaf        {}\n            {}", leaf.names().join(", "), lasts(leaf, now))?;
    let authorities = signers.iter().map(|signer| ("signed by", signer));
    for (title, authority) in authorities.chain(bundle.iter().map(|authority| ("authority", authority))) {
        writeln!(text, "{title:<12}{}\n            {}", authority.subject(), lasts(authority, now))?;
    }
    if bundle.is_empty() {
        writeln!(text, "no ca.crt: who accepts it cannot be told")?;
        return Ok(Page { text, accepted: leaf.is_valid(now) });
    }
    let mut accepted = !leaf.names().is_empty();
    for name in leaf.names() {
        match leaf.accepted_through(signers, bundle, name, now) {
            Ok(()) => writeln!(text, "accepted by who trusts ca.crt and calls it {name}")?,
            Err(why) => {
                accepted = false;
                writeln!(text, "who calls it {name} would turn it down: {why}")?;
            }
        }
    }
    Ok(Page { text, accepted })
}

fn lasts(certificate: &Certificate, now: Timestamp) -> String {
    let (from, until) = (certificate.not_before(), certificate.not_after());
    let days = until.duration_since(now).as_hours() / 24;
    if now > until {
        format!("EXPIRED since {until:.0}")
    } else if now < from {
        format!("NOT VALID before {from:.0}")
    } else {
        format!("valid until {until:.0}, {days} days")
    }
}
