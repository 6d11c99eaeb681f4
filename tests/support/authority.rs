//! A certificate authority for one test: servers, clients, and certificates that are wrong in one way each.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;

/// Signs for one test; its files live in `home`.
pub struct Authority {
    pub home: tempfile::TempDir,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// From and to, in years.
pub type Years = (i32, i32);
pub const VALID: Years = (2020, 2040);
pub const EXPIRED: Years = (2020, 2024);
pub const FUTURE: Years = (2035, 2040);

fn params(names: Vec<String>, common_name: &str, years: Years) -> CertificateParams {
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

fn server(name: &str, years: Years) -> CertificateParams {
    let mut params = params(vec![name.into()], name, years);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

impl Authority {
    pub fn new() -> Self {
        let mut params = params(Vec::new(), "test authority", VALID);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { home, certificate, issuer: Issuer::new(params, key) }
    }

    /// The file with its own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Certificate and key of a server with this name, as PEM.
    pub fn server_pem(&self, name: &str, years: Years) -> (String, String) {
        self.sign(&server(name, years))
    }

    /// The same of one that ends so long from now.
    pub fn server_pem_ending(&self, name: &str, from_now: Duration) -> (String, String) {
        let mut params = server(name, VALID);
        params.not_after = date_time_ymd(1970, 1, 1) + UNIX_EPOCH.elapsed().unwrap() + from_now;
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Files of a client certificate and its key.
    pub fn client(&self, name: &str, years: Years) -> (PathBuf, PathBuf) {
        self.put_client(name, params(Vec::new(), name, years))
    }

    /// The same of one that ends so long from now.
    pub fn client_ending(&self, name: &str, from_now: Duration) -> (PathBuf, PathBuf) {
        let mut params = params(Vec::new(), name, VALID);
        params.not_after = date_time_ymd(1970, 1, 1) + UNIX_EPOCH.elapsed().unwrap() + from_now;
        self.put_client(name, params)
    }

    fn put_client(&self, name: &str, mut params: CertificateParams) -> (PathBuf, PathBuf) {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(&params);
        let paths = (self.home.path().join(format!("{name}.crt")), self.home.path().join(format!("{name}.key")));
        std::fs::write(&paths.0, certificate).unwrap();
        std::fs::write(&paths.1, key).unwrap();
        std::fs::set_permissions(&paths.1, std::fs::Permissions::from_mode(0o600)).unwrap();
        paths
    }

    /// A server with this name that asks every client for a certificate of this authority.
    pub fn server(&self, name: &str, years: Years) -> Arc<rustls::ServerConfig> {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.server_pem(name, years);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap());
        Arc::new(config.unwrap())
    }
}
