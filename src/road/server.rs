//! TLS at the other end: for those who connect to us. One configuration per content of the files, as in `tls`.
//!
//! The same rules: TLS 1.2 and 1.3 only, a key that everybody may read is refused, files that cannot be used leave the last
//! good ones in force, and a box without the time accepts certificates that may be valid. A new content begins without the
//! sessions of the one before; and where clients show certificates no session is resumed at all, so that each connection is
//! judged by what is trusted at that moment.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::destination::RoadError;
use super::expiry::{self, Ends};
use super::tls::{self, Now};
use super::verify::leniently;

/// What a server shows and whom it trusts; PEM files, paths only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its chain.
    pub certificate: PathBuf,
    /// The chain's key.
    pub key: PathBuf,
    /// Who signs clients' certificates, and what of a client without one.
    pub clients: Option<(PathBuf, Without)>,
}

/// A client that shows no certificate although it is asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// The handshake fails.
    Refused,
    /// It is somebody without one.
    Accepted,
}

/// What to serve with.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Which content it was made of.
    pub edition: u64,
    /// Why the files as they are now cannot be used, so that this is the last good content.
    pub fault: Option<String>,
    /// Which of the certificates ends first.
    pub ends: Option<Ends>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    now: Now,
    #[cfg(feature = "quic")]
    seed: Seed,
}

/// A secret that is the same as long as the key is, also after a restart. For QUIC: see `quic::settings`.
#[cfg(feature = "quic")]
#[derive(Clone)]
struct Seed([u8; 32]);

#[cfg(feature = "quic")]
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}

#[cfg(feature = "quic")]
impl Seed {
    fn of(key: &[u8]) -> Self {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let mut seed = [0; 32];
        seed.copy_from_slice(ring::hmac::sign(&key, b"ironbridge: stateless reset of QUIC").as_ref());
        Self(seed)
    }
}

/// Remembers what it made of the last good content.
pub struct Server {
    files: ServerFiles,
    alpn: Vec<Vec<u8>>,
    now: Now,
    last: Option<(Content, Serving)>,
}

#[derive(PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    clients: Option<Vec<u8>>,
}

impl Server {
    /// `alpn`: protocols that are taken where a client offers any (RFC 7301); `now` dates certificates.
    pub fn new(files: ServerFiles, alpn: &[&[u8]], now: Now) -> Self {
        Self { files, alpn: alpn.iter().map(|name| name.to_vec()).collect(), now, last: None }
    }

    /// What the files hold now, or the last good content as long as our certificate lasts. Cancel-safe.
    pub async fn load(&mut self) -> Result<Serving, RoadError> {
        let fresh = self.fresh().await;
        match (fresh, &self.last) {
            (Ok(serving), _) => Ok(serving),
            (Err(error), Some((content, serving))) if self.check_not_expired(content).is_ok() => {
                Ok(Serving { fault: Some(error.to_string()), ..serving.clone() })
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fresh(&mut self) -> Result<Serving, RoadError> {
        let certificate = tls::read(&self.files.certificate, "certificate").await?;
        let key = tls::read_secret(&self.files.key, "key").await?;
        let clients = match &self.files.clients {
            Some((path, _)) => Some(tls::read(path, "client_ca").await?),
            None => None,
        };
        let content = Content { certificate, key, clients };
        self.check_not_expired(&content)?;
        let edition = match &self.last {
            Some((last, serving)) if *last == content => return Ok(serving.clone()),
            last => last.as_ref().map_or(0, |(_, serving)| serving.edition + 1),
        };
        let serving = self.make(&content, edition)?;
        self.last = Some((content, serving.clone()));
        Ok(serving)
    }

    fn make(&self, content: &Content, edition: u64) -> Result<Serving, RoadError> {
        let disabled = |text: String| RoadError::Disabled(text);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let files = &self.files;
        let chain = tls::certificates("certificate", &files.certificate, &content.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key)
            .map_err(|error| disabled(format!("key {}: no private key: {error}", files.key.display())))?;
        let identity = tls::identity(&provider, chain, key).map_err(|error| {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            disabled(format!("certificate {certificate} and key {key} do not work together: {error}"))
        })?;
        let clients = self.clients(content)?;
        let builder = ServerConfig::builder_with_details(provider, Arc::new(self.now.clone()))
            .with_safe_default_protocol_versions()
            .map_err(|error| disabled(error.to_string()))?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(identity));
        config.alpn_protocols.clone_from(&self.alpn);
        if clients.is_some() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let (config, now) = (Arc::new(config), self.now.clone());
        Ok(Serving {
            config,
            edition,
            fault: None,
            ends: self.ends(content),
            clients,
            now,
            #[cfg(feature = "quic")]
            seed: Seed::of(&content.key),
        })
    }

    fn clients(&self, content: &Content) -> Result<Option<Arc<dyn ClientCertVerifier>>, RoadError> {
        let (Some((path, without)), Some(pem)) = (&self.files.clients, &content.clients) else { return Ok(None) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(tls::roots("client_ca", path, pem)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        if *without == Without::Accepted {
            builder = builder.allow_unauthenticated();
        }
        let webpki =
            builder.build().map_err(|error| RoadError::Disabled(format!("client_ca {}: {error}", path.display())))?;
        Ok(Some(Arc::new(Clients { webpki, now: self.now.clone() })))
    }

    fn check_not_expired(&self, content: &Content) -> Result<(), RoadError> {
        let path = &self.files.certificate;
        let chain = tls::certificates("certificate", path, &content.certificate)?;
        tls::check_leaf(&self.now, path, &chain)
    }

    fn ends(&self, content: &Content) -> Option<Ends> {
        let named = |what: &str, path: &PathBuf, unix_ms| Ends { unix_ms, what: format!("{what} {}", path.display()) };
        let own = expiry::ends(&content.certificate).min();
        let own = own.map(|end| named("certificate", &self.files.certificate, end));
        let clients = self.files.clients.as_ref().zip(content.clients.as_ref());
        let clients = clients.and_then(|((path, _), pem)| Some(named("client_ca", path, expiry::ends(pem).max()?)));
        own.into_iter().chain(clients).min_by_key(|ends| ends.unix_ms)
    }
}

impl Serving {
    #[cfg(feature = "quic")]
    pub(super) fn seed(&self) -> &[u8] {
        &self.seed.0
    }

    /// Would this chain, the client's own certificate first, be accepted now?
    pub fn accepts(&self, chain: &[CertificateDer<'static>]) -> bool {
        let (Some(clients), Some((leaf, others))) = (&self.clients, chain.split_first()) else { return false };
        self.now.current_time().is_some_and(|now| clients.verify_client_cert(leaf, others, now).is_ok())
    }
}

/// WebPKI's rules for clients, and ours for a box that does not know the time.
#[derive(Debug)]
struct Clients {
    webpki: Arc<dyn ClientCertVerifier>,
    now: Now,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        leniently(&self.now, now, |at| self.webpki.verify_client_cert(leaf, chain, at))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
