//! From PEM files to one TLS configuration per content: same bytes, same configuration, so that TLS sessions are resumed
//! (2.7 kB instead of 4.9 kB per connect) and a renewed file is used at the next connect. Tickets belong to a configuration,
//! so no session outlives the CA or the certificate it was made with. Files that cannot be used (half of a renewed pair is
//! written) leave the last good configuration in force.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore};

use super::destination::{RoadError, TlsFiles};
use super::expiry::{self, Ends};
use super::verify::Verifier;
use crate::model::time::{Certainty, Wall};

/// No bundle of CAs or keys is larger; a path that points to something else must not fill the memory.
const FILE_BYTES_MAX: usize = 4 << 20;

/// Tells the time for certificates; handed in, because only the owner knows whether the clock has a fix.
#[derive(Clone)]
pub struct Now(Arc<dyn Fn() -> Wall + Send + Sync>);

impl Now {
    /// From whatever knows the wall time.
    pub fn new(wall: impl Fn() -> Wall + Send + Sync + 'static) -> Self {
        Self(Arc::new(wall))
    }

    pub(super) fn certainty(&self) -> Certainty {
        (self.0)().certainty
    }

    fn unix(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from((self.0)().unix_ms).unwrap_or(0)))
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix())
    }
}

/// The files as they were read, and what else makes a configuration.
#[derive(PartialEq, Eq)]
struct Content {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    alpn: Vec<Vec<u8>>,
}

/// Remembers the configuration of the last content.
pub(super) struct Configs {
    now: Now,
    last: Option<(Content, Arc<ClientConfig>)>,
    ends: Option<Ends>,
    /// The files hold what they held when the last configuration was made.
    unchanged: bool,
}

/// What to connect with.
pub(super) struct Loaded {
    pub(super) config: Arc<ClientConfig>,
    /// Why the files as they are now cannot be used, so that this configuration is the last good one.
    pub(super) fault: Option<String>,
}

impl Configs {
    pub(super) fn new(now: Now) -> Self {
        Self { now, last: None, ends: None, unchanged: false }
    }

    /// What of the files ends first, as they were last read.
    pub(super) fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// Do the files hold what they held when the last configuration was made? Then what is wrong with them came with time.
    pub(super) fn unchanged(&self) -> bool {
        self.unchanged
    }

    /// The configuration for what the files hold now, or the last good one.
    pub(super) async fn load(&mut self, files: &TlsFiles, alpn: &[Vec<u8>]) -> Result<Loaded, RoadError> {
        match self.fresh(files, alpn).await {
            Ok(config) => Ok(Loaded { config, fault: None }),
            Err(error) => match &self.last {
                Some((content, config)) if self.check_not_expired(files, content).is_ok() => {
                    Ok(Loaded { config: Arc::clone(config), fault: Some(error.to_string()) })
                }
                _ => Err(error),
            },
        }
    }

    async fn fresh(&mut self, files: &TlsFiles, alpn: &[Vec<u8>]) -> Result<Arc<ClientConfig>, RoadError> {
        self.unchanged = false;
        let ca = read(&files.ca_file, "ca_file").await?;
        let identity = match &files.identity {
            Some((certificate, key)) => Some((read(certificate, "certificate").await?, read(key, "key").await?)),
            None => None,
        };
        let content = Content { ca, identity, alpn: alpn.to_vec() };
        let certificate = content.identity.as_ref().map(|(certificate, _)| certificate.as_slice());
        self.ends = expiry::first_end(files, &content.ca, certificate);
        let last = self.last.as_ref().filter(|(last, _)| *last == content).map(|(_, config)| Arc::clone(config));
        self.unchanged = last.is_some();
        self.check_not_expired(files, &content)?;
        if let Some(config) = last {
            return Ok(config);
        }
        let mut config = self.build(files, &content)?;
        config.alpn_protocols.clone_from(&content.alpn);
        let config = Arc::new(config);
        self.last = Some((content, Arc::clone(&config)));
        Ok(config)
    }

    fn build(&self, files: &TlsFiles, content: &Content) -> Result<ClientConfig, RoadError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(&files.ca_file, &content.ca)?);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| RoadError::Disabled(format!("ca_file {}: {error}", files.ca_file.display())))?;
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(self.now.clone()))
            .with_safe_default_protocol_versions()
            .map_err(|error| RoadError::Disabled(error.to_string()))?
            .dangerous() // rustls' word for "own verifier"; ours asks WebPKI and never accepts what WebPKI refuses for good
            .with_custom_certificate_verifier(Arc::new(Verifier { webpki, now: self.now.clone() }));
        let (Some((certificate, key)), Some((certificate_pem, key_pem))) = (&files.identity, &content.identity) else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates("certificate", certificate, certificate_pem)?;
        let key_der = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|error| RoadError::Disabled(format!("key {}: no private key: {error}", key.display())))?;
        let identity = identity(&provider, chain, key_der).map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            RoadError::Disabled(format!("certificate {certificate} and key {key} do not work together: {error}"))
        })?;
        Ok(builder.with_client_cert_resolver(Arc::new(identity)))
    }

    /// Our own certificate has ended: every broker would refuse it, so say it here, where a person reads it.
    fn check_not_expired(&self, files: &TlsFiles, content: &Content) -> Result<(), RoadError> {
        let (Some((path, _)), Some((pem, _))) = (&files.identity, &content.identity) else { return Ok(()) };
        let chain = certificates("certificate", path, pem)?;
        match chain.first().and_then(|leaf| expiry::not_after(leaf)) {
            Some(end) if end < (self.now.0)().unix_ms => {
                let end = Wall { unix_ms: end, certainty: Certainty::Fixed };
                Err(RoadError::Disabled(format!("certificate {} has expired: it ended {end}", path.display())))
            }
            _ => Ok(()), // one without a readable end is not for us to judge
        }
    }
}

/// Our certificate with its key. A certificate that WebPKI cannot read, but brokers on OpenSSL take (X.509 version 1, as
/// the usual recipes for mosquitto make them), is sent as it is.
fn identity(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<SingleCertAndKey, Error> {
    let identity = CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?);
    match identity.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InvalidCertificate(CertificateError::Other(_))) => {}
        Err(error) => return Err(error),
    }
    Ok(SingleCertAndKey::from(identity))
}

/// Public bundles hold a few certificates that WebPKI cannot read; one that can be read is enough to begin with.
fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, RoadError> {
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates("ca_file", path, pem)?) {
        (0, _) => Err(RoadError::Disabled(format!("ca_file {}: no usable CA certificate in it", path.display()))),
        _ => Ok(roots),
    }
}

fn certificates(what: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RoadError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(RoadError::Disabled(format!("{what} {}: no certificate in it (PEM is expected)", path.display()))),
        Err(error) => Err(RoadError::Disabled(format!("{what} {}: broken PEM: {error}", path.display()))),
    }
}

async fn read(path: &Path, what: &str) -> Result<Vec<u8>, RoadError> {
    let broken = |error: &dyn fmt::Display| RoadError::Disabled(format!("{what} {}: {error}", path.display()));
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(owned)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    match read.await {
        Ok(Ok(bytes)) if bytes.len() <= FILE_BYTES_MAX => Ok(bytes),
        Ok(Ok(_)) => Err(broken(&"larger than 4 MiB, surely not what is meant")),
        Ok(Err(error)) => Err(broken(&error)),
        Err(error) => Err(broken(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// Certificate and key, both DER.
    fn made() -> (Vec<u8>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("ring works");
        let params = CertificateParams::new(vec!["gw".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("ring works");
        (certificate.der().to_vec(), PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }

    #[test]
    fn a_version_1_certificate_of_ours_is_sent_as_it_is_and_a_broken_or_foreign_one_is_not() {
        let provider = rustls::crypto::ring::default_provider();
        let try_it = |der: Vec<u8>, key| identity(&provider, vec![CertificateDer::from(der)], key).map(|_| ());
        let (good, key) = made();
        assert_eq!(try_it(good.clone(), key.clone_key()), Ok(()));
        // TBSCertificate.version, RFC 5280, section 4.1: [0] EXPLICIT INTEGER, 2 = version 3, 0 = version 1
        let at = good.windows(5).position(|window| window == [0xA0, 3, 2, 1, 2]).expect("a version");
        let mut version_1 = good.clone();
        version_1[at + 4] = 0;
        assert_eq!(try_it(version_1, key.clone_key()), Ok(()));
        assert!(try_it(good[..40].to_vec(), key.clone_key()).is_err());
        assert!(try_it(good, made().1).is_err());
    }
}
