//! The cluster's keys and certificates: one authority for all, one for the API server's proxying to
//! aggregated APIs (a client certificate of the first must not pass for a forwarded user).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Why keys or certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Key generation or signing failed.
    #[error("make the certificate of {name}")]
    Make {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A key and its certificate, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), Error> {
        write(&directory.join(format!("{name}.crt")), &self.certificate)?;
        write(&directory.join(format!("{name}.key")), &self.key)
    }
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When key generation fails.
    pub fn new(name: &str) -> Result<Self, Error> {
        let make = |source| Error::Make { name: name.to_owned(), source };
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(make)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(make)?;
        Ok(Self { issuer })
    }

    /// The authority's own certificate and key.
    pub fn identity(&self) -> Identity {
        Identity { certificate: self.issuer.pem(), key: self.issuer.key().serialize_pem() }
    }

    /// A client's identity: to Kubernetes the name is the user, the organisations are its groups.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, Error> {
        let mut params = params(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(user, params)
    }

    /// A server's identity, for the DNS names and addresses it is called by.
    ///
    /// # Errors
    /// When a name is not a DNS name, or key generation or signing fails.
    pub fn server(&self, name: &str, names: &[&str], addresses: &[IpAddr]) -> Result<Identity, Error> {
        let mut params = params(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        add_names(&mut params, name, names)?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(name, params)
    }

    /// The identity of one of several programs that call each other, server and client in one.
    ///
    /// # Errors
    /// As of [`Self::server`].
    pub fn peer(&self, name: &str, names: &[&str]) -> Result<Identity, Error> {
        let mut params = params(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        add_names(&mut params, name, names)?;
        self.sign(name, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Identity, Error> {
        let make = |source| Error::Make { name: name.to_owned(), source };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Writes the key pair that signs service account tokens: `NAME.key` and `NAME.pub`.
///
/// # Errors
/// When key generation or writing fails.
pub fn write_token_keys(directory: &Path, name: &str) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(|source| Error::Make { name: name.to_owned(), source })?;
    write(&directory.join(format!("{name}.key")), &key.serialize_pem())?;
    write(&directory.join(format!("{name}.pub")), &key.public_key_pem())
}

fn params(name: &str, organisations: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    for organisation in organisations {
        params.distinguished_name.push(DnType::OrganizationName, *organisation);
    }
    params
}

fn add_names(params: &mut CertificateParams, name: &str, names: &[&str]) -> Result<(), Error> {
    for dns in names {
        let dns = (*dns).try_into().map_err(|source| Error::Make { name: name.to_owned(), source })?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_and_a_server_are_signed() {
        let authority = Authority::new("test").unwrap();
        let client = authority.client("system:node:n", &["system:nodes"]).unwrap();
        assert!(client.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(client.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        let server = authority.server("s", &["s.svc"], &["10.0.0.1".parse().unwrap()]).unwrap();
        assert_ne!(server.certificate, client.certificate);
    }

    #[test]
    fn a_name_that_is_no_dns_name_is_refused() {
        let authority = Authority::new("test").unwrap();
        assert!(authority.server("s", &["ü"], &[]).is_err());
    }
}
