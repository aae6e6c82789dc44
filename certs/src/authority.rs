//! Makes authorities and leaves: ECDSA on P-256, which every API server verifies and which is cheap to show.
//! Without I/O; random but for what is asked for.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};

use crate::{
    certificate::{Certificate, PrivateKey, with_key},
    periods::Periods,
};

/// Why a key or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// What it should be for is not a DNS name.
    #[error("{name} is not a DNS name")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// No key, or no signature.
    #[error("make a certificate")]
    Sign(#[from] rcgen::Error),
    /// What was made cannot be read again.
    #[error("what was made is not a certificate")]
    Read,
}

/// An authority that can sign: its certificate and the key that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
}

/// What a server shows, and the key that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    certificate: Certificate,
    key: PrivateKey,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When the source of randomness fails.
    pub fn make(now: Timestamp, periods: &Periods) -> Result<Self, MakeError> {
        // Its moment is in its name, so that verifiers and people can tell one from the next.
        let name = format!("powercap-admission authority {now:.0}");
        let mut params = params(&name, now, now.as_second().saturating_add(seconds(periods.authority)), periods);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = read(&params.self_signed(&key)?)?;
        Ok(Self { certificate, key: PrivateKey::new(key.serialize_pem()) })
    }

    /// From what was stored; nothing where it is no authority, or the key belongs to another.
    #[must_use]
    pub fn from_pem(certificate: &str, key: &str) -> Option<Self> {
        let (certificate, key) = pair(certificate, key)?;
        certificate.is_authority().then_some(Self { certificate, key })
    }

    /// Its certificate, which clients trust.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// A new leaf for a server that is called by these names. It does not outlive its authority.
    ///
    /// # Errors
    /// When a name is not a DNS name, or the key cannot sign.
    pub fn sign(&self, names: &[String], now: Timestamp, periods: &Periods) -> Result<Leaf, MakeError> {
        let end = now.as_second().saturating_add(seconds(periods.leaf)).min(self.certificate.not_after().as_second());
        let name = names.first().map_or("powercap-admission", String::as_str);
        let mut params = params(name, now, end, periods);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        for name in names {
            let dns = name.as_str().try_into().map_err(|source| MakeError::Name { name: name.clone(), source })?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        let issuer = Issuer::from_ca_cert_pem(&self.certificate.pem(), KeyPair::from_pem(self.key.pem())?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = read(&params.signed_by(&key, &issuer)?)?;
        Ok(Leaf { certificate, key: PrivateKey::new(key.serialize_pem()) })
    }
}

impl Leaf {
    /// From what was stored; nothing where it is no certificate, or the key belongs to another.
    #[must_use]
    pub fn from_pem(certificate: &str, key: &str) -> Option<Self> {
        let (certificate, key) = pair(certificate, key)?;
        Some(Self { certificate, key })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }
}

fn pair(certificate: &str, key: &str) -> Option<(Certificate, PrivateKey)> {
    let certificate = Certificate::all_in(certificate).into_iter().next()?;
    let key = PrivateKey::new(key.to_owned());
    with_key(&certificate, &[], &key).ok()?;
    Some((certificate, key))
}

fn params(name: &str, now: Timestamp, end: i64, periods: &Periods) -> CertificateParams {
    let mut params = CertificateParams::default();
    // RFC 5280 allows 64 characters; the names that count are the alternative ones.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    let moment = |second: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(second.max(0).unsigned_abs());
    params.not_before = moment(now.as_second().saturating_sub(seconds(periods.skew)));
    params.not_after = moment(end);
    params
}

fn seconds(period: Duration) -> i64 {
    i64::try_from(period.as_secs()).unwrap_or(i64::MAX)
}

fn read(made: &rcgen::Certificate) -> Result<Certificate, MakeError> {
    Certificate::from_der(made.der().clone()).ok_or(MakeError::Read)
}
