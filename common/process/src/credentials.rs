//! As whom we ask other servers: tokens, certificates and authorities in files that rotate.
//!
//! Must hold: a file is read anew for each request, so that what was rotated counts at once; a client is made
//! anew only when a certificate has changed, so that connections live on.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Client, Identity, RequestBuilder};

/// Why a request could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A certificate or key that is none.
    #[error("cannot make an HTTP client")]
    MakeClient(#[source] reqwest::Error),
    /// The file of a token, certificate or key.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// With a bearer token.
    pub token: Option<PathBuf>,
    /// With the authorities that may have signed the server's certificate, in the place of the system's.
    pub authority: Option<PathBuf>,
    /// With our certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A client of servers that are asked with the same credentials.
pub struct SigningClient {
    files: CredentialFiles,
    connect_timeout: Duration,
    /// One of several servers of a name.
    replica: Option<(String, SocketAddr)>,
    /// The client, and the certificates that it was made with.
    made: Mutex<Option<(Certificates, Client)>>,
}

/// What certificate files say.
#[derive(Clone, Default, PartialEq, Eq)]
struct Certificates {
    authorities: Option<Vec<u8>>,
    /// Certificate and key.
    ours: Option<Vec<u8>>,
}

impl SigningClient {
    /// A client with these credentials.
    #[must_use]
    pub fn new(files: CredentialFiles, connect_timeout: Duration) -> Self {
        Self { files, connect_timeout, replica: None, made: Mutex::default() }
    }

    /// The same, of which every request to this host goes to this address: one of several replicas behind a name,
    /// whose certificate is that of the name.
    #[must_use]
    pub fn to_replica(mut self, host: &str, address: SocketAddr) -> Self {
        self.replica = Some((host.to_owned(), address));
        self
    }

    /// A POST to this address, signed.
    ///
    /// # Errors
    /// When a file cannot be read, or is no certificate or key.
    pub async fn post(&self, url: &str) -> Result<RequestBuilder, CredentialsError> {
        let request = self.client().await?.post(url);
        let Some(path) = &self.files.token else { return Ok(request) };
        let token = contents(path).await?;
        Ok(request.bearer_auth(String::from_utf8_lossy(&token).trim()))
    }

    /// The client; a new one when a certificate has changed.
    async fn client(&self) -> Result<Client, CredentialsError> {
        let mut now = Certificates::default();
        if let Some(path) = &self.files.authority {
            now.authorities = Some(contents(path).await?);
        }
        if let Some((certificate, key)) = &self.files.certificate {
            now.ours = Some([contents(certificate).await?, contents(key).await?].join(&b'\n'));
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.as_ref().filter(|(before, _)| *before == now) {
            return Ok(client.clone());
        }
        let client = self.make(&now).map_err(CredentialsError::MakeClient)?;
        *made = Some((now, client.clone()));
        Ok(client)
    }

    fn make(&self, certificates: &Certificates) -> Result<Client, reqwest::Error> {
        let mut client = Client::builder().connect_timeout(self.connect_timeout).no_proxy();
        if let Some((host, address)) = &self.replica {
            client = client.resolve(host, *address);
        }
        if let Some(pem) = &certificates.authorities {
            client = client.tls_certs_only(Certificate::from_pem_bundle(pem)?);
        }
        if let Some(pem) = &certificates.ours {
            client = client.identity(Identity::from_pem(pem)?);
        }
        client.build()
    }
}

async fn contents(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    tokio::fs::read(path).await.map_err(|source| CredentialsError::ReadFile { path: path.into(), source })
}
