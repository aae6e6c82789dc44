//! What a server shows, and how it shows the newest from the next handshake on.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use crate::certificate::{Certificate, PrivateKey, with_key};

/// What a server shows: its certificate, with what signed it where clients need that, and the key to it.
#[derive(Clone)]
pub struct Identity {
    leaf: Certificate,
    signers: Vec<Certificate>,
    shown: Arc<CertifiedKey>,
}

/// Why texts are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No certificate in it can be read.
    #[error("there is no certificate")]
    NoCertificate,
    /// The key cannot be read, or belongs to another certificate.
    #[error("the private key and the certificate do not go together")]
    Key(#[source] rustls::Error),
}

impl Identity {
    /// From PEM: the server's certificate, then what signed it, and the key.
    ///
    /// # Errors
    /// When there is no certificate, or the key is not the one that belongs to it.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, IdentityError> {
        let mut chain = Certificate::all_in(chain).into_iter();
        let leaf = chain.next().ok_or(IdentityError::NoCertificate)?;
        Self::new(leaf, chain.collect(), &PrivateKey::new(key.to_owned()))
    }

    /// From the server's certificate, what signed it where clients do not know that, and the key.
    ///
    /// # Errors
    /// When the key is not the one that belongs to the certificate.
    pub fn new(leaf: Certificate, signers: Vec<Certificate>, key: &PrivateKey) -> Result<Self, IdentityError> {
        let shown = with_key(&leaf, &signers, key).map_err(IdentityError::Key)?;
        Ok(Self { leaf, signers, shown: Arc::new(shown) })
    }

    /// When it expires: the end of whatever in the chain ends first.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.signers.iter().map(Certificate::not_after).fold(self.leaf.not_after(), Timestamp::min)
    }

    /// The server's certificate.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What is shown with it: who signed it, who signed that.
    #[must_use]
    pub fn signers(&self) -> &[Certificate] {
        &self.signers
    }

    /// For rustls.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// Shows whatever identity is the newest when a client comes; connections that stand are not touched. Put it into a
/// rustls `ServerConfig` by `with_cert_resolver`.
#[derive(Debug)]
pub struct PerHandshake(watch::Receiver<Arc<Identity>>);

impl PerHandshake {
    /// Of what [`keep`](crate::keep) keeps.
    #[must_use]
    pub fn new(identity: watch::Receiver<Arc<Identity>>) -> Self {
        Self(identity)
    }
}

impl ResolvesServerCert for PerHandshake {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.borrow().certified_key())
    }
}
