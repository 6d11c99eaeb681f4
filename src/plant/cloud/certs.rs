//! Certificates for the simulated cloud: an authority of its own, made anew each time, and what it signs.
//!
//! Only for simulation and tests: keys lie beside their certificates, readable by their owner alone.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A certificate could not be made; only a broken random source can cause this.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct NotMade(#[from] rcgen::Error);

/// An authority that signs for the simulated cloud.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// When a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now and for long.
    Valid,
    /// It ended in 2002.
    Expired,
}

/// Where the files of a cloud were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The authority.
    pub ca: PathBuf,
    /// A client certificate.
    pub client_certificate: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Authority {
    /// A new authority with this name.
    pub fn new(name: &str) -> Result<Self, NotMade> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, PEM: what a client is given as `ca_file`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these host names and addresses.
    pub fn server(&self, names: &[&str], validity: Validity) -> Result<Identity, NotMade> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let first = names.first().cloned().unwrap_or_default();
        self.sign(CertificateParams::new(names)?, &first, ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// A certificate for a client with this common name.
    pub fn client(&self, common_name: &str, validity: Validity) -> Result<Identity, NotMade> {
        let params = CertificateParams::new(Vec::new())?;
        self.sign(params, common_name, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        common_name: &str,
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Result<Identity, NotMade> {
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// Writes authority and client identity into a directory: `cloud-ca.pem`, `gateway.crt`, `gateway.key` (mode 0600).
pub fn write(directory: &Path, authority: &Authority, client: &Identity) -> io::Result<CertificateFiles> {
    let files = CertificateFiles {
        ca: directory.join("cloud-ca.pem"),
        client_certificate: directory.join("gateway.crt"),
        client_key: directory.join("gateway.key"),
    };
    std::fs::create_dir_all(directory)?;
    std::fs::write(&files.ca, authority.pem())?;
    std::fs::write(&files.client_certificate, &client.certificate)?;
    write_secret(&files.client_key, &client.key)?;
    Ok(files)
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
