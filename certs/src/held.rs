//! What the Secret holds, as far as it can be understood, and how it is written down.
//!
//! | key | what |
//! |---|---|
//! | `tls.crt`, `tls.key` | the leaf that servers show |
//! | `ca.crt` | the bundle: every authority that clients must trust |
//! | `authority.crt`, `authority.key` | the authority that signs |
//! | `next-authority.crt`, `next-authority.key` | the one that is announced and will sign |
//! | `earlier-until` | when the last leaf of an authority that signs no more has expired |
//!
//! Whatever cannot be understood is absent. So a Secret that somebody broke, cut off or filled with something else is
//! one in which something is missing, and [`decide`](crate::decide::decide) knows what follows from that.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::ByteString;

use crate::{
    authority::{Authority, Leaf},
    certificate::{Certificate, Unaccepted},
    periods::Periods,
};

const LEAF: [&str; 2] = ["tls.crt", "tls.key"];
const BUNDLE: &str = "ca.crt";
const AUTHORITY: [&str; 2] = ["authority.crt", "authority.key"];
const NEXT: [&str; 2] = ["next-authority.crt", "next-authority.key"];
const EARLIER_UNTIL: &str = "earlier-until";

/// What the Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The authority that signs.
    pub authority: Option<Authority>,
    /// The one that will.
    pub next: Option<Authority>,
    /// What servers show.
    pub leaf: Option<Leaf>,
    /// Every authority that clients must trust: those two, and earlier ones.
    pub bundle: Vec<Certificate>,
    /// When the last leaf of an earlier authority has expired.
    pub earlier_until: Option<Timestamp>,
}

/// What is wrong with the leaf.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// There is none, or it cannot be read, or its key is not there.
    #[error("there is no certificate with a key that belongs to it")]
    Missing,
    /// Clients would turn it down.
    #[error("clients that call it {name} would turn the certificate down: {why}")]
    Unaccepted {
        /// What they call it by.
        name: String,
        /// Why.
        why: Unaccepted,
    },
}

impl Held {
    /// Reads the data of a Secret.
    #[must_use]
    pub fn read(data: &BTreeMap<String, ByteString>) -> Self {
        let text = |key: &str| data.get(key).and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default();
        let authority = |[certificate, key]: [&str; 2]| Authority::from_pem(text(certificate), text(key));
        // One that is cut off might lack any authority: then it is as good as lost, and the published one counts.
        let mut bundle = Certificate::exactly_in(text(BUNDLE)).unwrap_or_default();
        bundle.retain(Certificate::is_authority);
        // Who is not in the bundle is trusted by nobody, and would sign for nobody.
        let trusted = |authority: &Authority| bundle.contains(authority.certificate());
        Self {
            authority: authority(AUTHORITY).filter(trusted),
            next: authority(NEXT).filter(trusted),
            leaf: Leaf::from_pem(text(LEAF[0]), text(LEAF[1])),
            earlier_until: text(EARLIER_UNTIL).parse().ok(),
            bundle,
        }
    }

    /// What the Secret is to hold.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let leaf = self.leaf.as_ref().map(|leaf| (LEAF, leaf.certificate(), leaf.key()));
        let authority = |keys, authority: &'_ Option<Authority>| {
            authority.as_ref().map(|authority| (keys, authority.certificate().clone(), authority.key().clone()))
        };
        let pairs = [
            leaf.map(|(keys, certificate, key)| (keys, certificate.clone(), key.clone())),
            authority(AUTHORITY, &self.authority),
            authority(NEXT, &self.next),
        ];
        let mut data = BTreeMap::from([(BUNDLE, self.bundle_pem())]);
        for (keys, certificate, key) in pairs.into_iter().flatten() {
            data.extend([(keys[0], certificate.pem()), (keys[1], key.pem().to_owned())]);
        }
        data.extend(self.earlier_until.map(|until| (EARLIER_UNTIL, until.to_string())));
        data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
    }

    /// The bundle as it is published.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.bundle.iter().map(Certificate::pem).collect()
    }

    /// Authorities that clients still trust, though they sign no more.
    pub fn earlier(&self) -> impl Iterator<Item = &Certificate> {
        let present = [&self.authority, &self.next].map(|authority| authority.as_ref().map(Authority::certificate));
        self.bundle.iter().filter(move |certificate| !present.contains(&Some(certificate)))
    }

    /// Those of them that nobody can need any more: no leaf of theirs is valid, by any clock.
    pub fn retired(&self, periods: &Periods, now: Timestamp) -> impl Iterator<Item = &Certificate> {
        self.earlier().filter(move |earlier| {
            let until = self.earlier_until.map_or(earlier.not_after(), |until| until.min(earlier.not_after()));
            Duration::try_from(now.duration_since(until)).is_ok_and(|since| since > periods.skew)
        })
    }

    /// Why clients would not get through to a server that shows this leaf, if so.
    #[must_use]
    pub fn fault(&self, names: &[String], now: Timestamp) -> Option<Fault> {
        self.leaf.as_ref().map_or(Some(Fault::Missing), |leaf| self.refused(leaf.certificate(), names, now))
    }

    /// Why clients that trust the bundle would turn this certificate down, if so.
    #[must_use]
    pub fn refused(&self, certificate: &Certificate, names: &[String], now: Timestamp) -> Option<Fault> {
        names.iter().find_map(|name| {
            let refused = certificate.accepted(&self.bundle, name, now).err();
            refused.map(|why| Fault::Unaccepted { name: name.clone(), why })
        })
    }
}
