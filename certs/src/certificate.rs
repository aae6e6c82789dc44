//! A certificate, as far as keeping it needs: how long it is valid, what it names, who accepts it.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// One certificate; equal to another when their bytes are.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: String,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    is_authority: bool,
}

/// Why a client would turn a server's certificate down.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unaccepted {
    /// The bundle holds no authority that is valid now.
    #[error("the bundle holds no valid authority")]
    NoAuthority,
    /// What it is called by is not a DNS name.
    #[error("{0} is not a DNS name")]
    Name(String),
    /// No authority of the bundle vouches for it, it is not valid now, or it is for other names.
    #[error("{0}")]
    Refused(rustls::Error),
}

impl Certificate {
    /// Reads one; nothing where these are not the bytes of a certificate.
    #[must_use]
    pub fn from_der(der: CertificateDer<'static>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(&der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let instant = |seconds| Timestamp::from_second(seconds).ok();
        let alternatives = parsed.subject_alternative_name().ok()?;
        let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let (subject, names, is_authority) = (parsed.subject().to_string(), names.collect(), parsed.is_ca());
        let not_before = instant(parsed.validity().not_before.timestamp())?;
        let not_after = instant(parsed.validity().not_after.timestamp())?;
        Some(Self { der, subject, names, not_before, not_after, is_authority })
    }

    /// Every certificate in a PEM text that can be read; the rest of the text counts for nothing.
    #[must_use]
    pub fn all_in(text: &str) -> Vec<Self> {
        CertificateDer::pem_slice_iter(text.as_bytes()).flatten().filter_map(Self::from_der).collect()
    }

    /// All certificates of a PEM text; nothing where any of them cannot be read.
    #[must_use]
    pub fn exactly_in(text: &str) -> Option<Vec<Self>> {
        CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| Self::from_der(der.ok()?)).collect()
    }

    /// As PEM, ending with a new line.
    #[must_use]
    pub fn pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", self.der.to_vec()), config)
    }

    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The DNS names that a server may show it under.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When it expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it may sign others.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Whether it is valid at this moment.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether a client that trusts this bundle and nothing else accepts the certificate of a server that it
    /// calls by this name.
    ///
    /// # Errors
    /// Why it would not.
    pub fn accepted(&self, bundle: &[Self], name: &str, now: Timestamp) -> Result<(), Unaccepted> {
        self.accepted_through(&[], bundle, name, now)
    }

    /// The same for a server that shows these too, each having signed the one before.
    ///
    /// # Errors
    /// Why the client would not.
    pub fn accepted_through(
        &self,
        signers: &[Self],
        bundle: &[Self],
        name: &str,
        now: Timestamp,
    ) -> Result<(), Unaccepted> {
        let mut roots = RootCertStore::empty();
        // webpki asks no root whether it is valid, Go's verifier does: so an expired one counts for nothing.
        for authority in bundle.iter().filter(|authority| authority.is_authority && authority.is_valid(now)) {
            roots.add(authority.der.clone()).map_err(Unaccepted::Refused)?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| Unaccepted::NoAuthority)?;
        let server = ServerName::try_from(name).map_err(|_| Unaccepted::Name(name.to_owned()))?;
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let signers: Vec<_> = signers.iter().map(|signer| signer.der.clone()).collect();
        verifier.verify_server_cert(&self.der, &signers, &server, &[], now).map(|_| ()).map_err(Unaccepted::Refused)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} from {} to {}", self.subject, self.not_before, self.not_after)
    }
}

/// A private key, PKCS #8 as PEM. It is printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(String);

impl PrivateKey {
    /// The text of a key, whatever is in it.
    #[must_use]
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The text.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(…)")
    }
}

/// A certificate and who signed it, with its key, ready for handshakes.
///
/// # Errors
/// When the key cannot be read, or belongs to another certificate.
pub fn with_key(
    certificate: &Certificate,
    signers: &[Certificate],
    key: &PrivateKey,
) -> Result<CertifiedKey, rustls::Error> {
    let key = PrivateKeyDer::from_pem_slice(key.0.as_bytes())
        .map_err(|error| rustls::Error::General(format!("the private key: {error}")))?;
    let chain = std::iter::once(certificate).chain(signers).map(|certificate| certificate.der.clone());
    CertifiedKey::from_der(chain.collect(), key, &provider())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
