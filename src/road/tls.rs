//! From PEM files to one TLS configuration per content and server: same bytes, same configuration, so that TLS sessions
//! are resumed (2.7 kB instead of 4.9 kB per connect) and a renewed file is used at the next connect. Each server has
//! its own, and again its own by QUIC: going to and fro between them throws nobody's tickets away. Tickets belong to a
//! configuration, so no session outlives the CA or the certificate it was made with; nor, because it is made anew then,
//! the end of the server's certificate, nor the first fix of a clock without which that was looked at leniently. Files
//! that cannot be used (half of a renewed pair is written) leave the last good configuration in force.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore};

use super::destination::{RoadError, TlsFiles};
use super::expiry::{self, Ends};
use super::verify::{Accepted, Verifier};
use crate::model::time::{Certainty, Wall};

/// No bundle of CAs or keys is larger; a path that points to something else must not fill the memory.
const FILE_BYTES_MAX: usize = 4 << 20;
/// Servers whose sessions are kept: as many as one uplink may have.
const KNOWN_MAX: usize = 16;
/// Tickets of each; rustls keeps no more of one server.
const TICKETS_MAX: usize = 8;
/// Of a file's mode: what those may do who are neither its owner nor of its group (chmod(2)).
const OTHERS: u32 = 0o007;

/// Tells the time for certificates; handed in, because only the owner knows whether the clock has a fix.
#[derive(Clone)]
pub struct Now(Arc<dyn Fn() -> Wall + Send + Sync>);

impl Now {
    /// From whatever knows the wall time.
    pub fn new(wall: impl Fn() -> Wall + Send + Sync + 'static) -> Self {
        Self(Arc::new(wall))
    }

    pub(super) fn is_fixed(&self) -> bool {
        (self.0)().certainty == Certainty::Fixed
    }

    fn unix_ms(&self) -> i64 {
        (self.0)().unix_ms
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(self.unix_ms()).unwrap_or(0))))
    }
}

/// The files as they were read, and what else makes a configuration.
#[derive(PartialEq, Eq)]
struct Content {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Whom a configuration is for. TLS sessions are of no use with anybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whom {
    /// Host and port, or what else tells servers apart.
    pub(super) place: String,
    /// Tickets of TLS within QUIC are another server's, even at the same port.
    pub(super) over_quic: bool,
    /// Protocols that are offered.
    pub(super) alpn: Vec<Vec<u8>>,
}

/// What was made of the last content.
struct Made {
    content: Content,
    /// For nobody yet.
    config: Arc<ClientConfig>,
    /// With their sessions; who was asked for last is the first.
    known: Vec<(Whom, Arc<ClientConfig>)>,
    /// Of the clock then.
    fixed: bool,
    accepted: Arc<Accepted>,
    /// The same for all configurations of one content.
    edition: u64,
}

/// What is done with a certificate of ours that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    /// Nothing: every broker would refuse it.
    Kept,
    /// It is shown all the same, if there is no other: many a controller looks at no date, or knows none.
    Shown,
}

/// Remembers the configuration of the last content.
pub(super) struct Configs {
    now: Now,
    last: Option<Made>,
    ends: Option<Ends>,
    expired: Expired,
    /// The files hold what they held when the last configuration was made.
    unchanged: bool,
}

/// What to connect with.
pub(super) struct Loaded {
    pub(super) config: Arc<ClientConfig>,
    /// Which content it was made of.
    pub(super) edition: u64,
    /// Why the files as they are now cannot be used, so that this configuration is the last good one.
    pub(super) fault: Option<String>,
    /// It is of the files as they are now, with a certificate that has ended; see [`Expired::Shown`].
    pub(super) expired: bool,
}

impl Configs {
    pub(super) fn new(now: Now, expired: Expired) -> Self {
        Self { now, last: None, ends: None, expired, unchanged: false }
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
    pub(super) async fn load(&mut self, files: &TlsFiles, whom: &Whom) -> Result<Loaded, RoadError> {
        let error = match self.fresh(files, whom, Expired::Kept).await {
            Ok(loaded) => return Ok(loaded),
            Err(error) => error,
        };
        let holds = |made: &Made| check_not_expired(&self.now, files, &made.content).is_ok();
        let holds = self.last.as_ref().is_some_and(holds);
        if self.expired == Expired::Shown
            && !holds
            && let Ok(loaded) = self.fresh(files, whom, Expired::Shown).await
        {
            return Ok(Loaded { fault: Some(error.to_string()), expired: true, ..loaded });
        }
        match &mut self.last {
            Some(made) if holds || self.expired == Expired::Shown => {
                renew(&self.now, files, made)?;
                let (config, edition) = (made.config_for(whom), made.edition);
                Ok(Loaded { config, edition, fault: Some(error.to_string()), expired: false })
            }
            _ => Err(error),
        }
    }

    async fn fresh(&mut self, files: &TlsFiles, whom: &Whom, expired: Expired) -> Result<Loaded, RoadError> {
        self.unchanged = false;
        let ca = read(&files.ca_file, "ca_file").await?;
        let identity = match &files.identity {
            Some((certificate, key)) => Some((read(certificate, "certificate").await?, read_secret(key, "key").await?)),
            None => None,
        };
        let content = Content { ca, identity };
        let certificate = content.identity.as_ref().map(|(certificate, _)| certificate.as_slice());
        self.ends = expiry::first_end(files, &content.ca, certificate);
        self.unchanged = self.last.as_ref().is_some_and(|made| made.content == content);
        if expired == Expired::Kept {
            check_not_expired(&self.now, files, &content)?;
        }
        let made = match self.last.take() {
            Some(mut made) if self.unchanged => {
                let renewed = renew(&self.now, files, &mut made);
                let made = self.last.insert(made);
                renewed?;
                made
            }
            last => {
                let edition = last.as_ref().map_or(0, |made| made.edition + 1);
                let made = make(&self.now, files, content, edition);
                self.last = last;
                self.last.insert(made?)
            }
        };
        Ok(Loaded { config: made.config_for(whom), edition: made.edition, fault: None, expired: false })
    }
}

impl Made {
    fn config_for(&mut self, whom: &Whom) -> Arc<ClientConfig> {
        let known = self.known.iter().position(|(known, _)| known == whom).map(|at| self.known.remove(at));
        let (whom, config) = known.unwrap_or_else(|| {
            let mut config = ClientConfig::clone(&self.config);
            config.alpn_protocols.clone_from(&whom.alpn);
            config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
            (whom.clone(), Arc::new(config))
        });
        self.known.truncate(KNOWN_MAX - 1);
        self.known.insert(0, (whom, Arc::clone(&config)));
        config
    }
}

/// One more configuration of the same content, without the sessions of the one before, where a server that would be refused
/// now could hide behind them.
fn renew(now: &Now, files: &TlsFiles, made: &mut Made) -> Result<(), RoadError> {
    let stale = made.fixed != now.is_fixed() || made.accepted.ended(now.unix_ms());
    if stale {
        let accepted = Arc::new(Accepted::nothing());
        made.config = build(now, files, &made.content, &accepted)?;
        made.known.clear();
        (made.fixed, made.accepted) = (now.is_fixed(), accepted);
    }
    Ok(())
}

fn make(now: &Now, files: &TlsFiles, content: Content, edition: u64) -> Result<Made, RoadError> {
    let (fixed, accepted) = (now.is_fixed(), Arc::new(Accepted::nothing()));
    let config = build(now, files, &content, &accepted)?;
    Ok(Made { content, config, known: Vec::new(), fixed, accepted, edition })
}

fn build(
    now: &Now,
    files: &TlsFiles,
    content: &Content,
    accepted: &Arc<Accepted>,
) -> Result<Arc<ClientConfig>, RoadError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots("ca_file", &files.ca_file, &content.ca)?);
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| RoadError::Disabled(format!("ca_file {}: {error}", files.ca_file.display())))?;
    let verifier = Verifier { webpki, now: now.clone(), accepted: Arc::clone(accepted) };
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(now.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| RoadError::Disabled(error.to_string()))?
        .dangerous() // rustls' word for "own verifier"; ours asks WebPKI and never accepts what WebPKI refuses for good
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&files.identity, &content.identity) {
        (Some((certificate, key)), Some((certificate_pem, key_pem))) => {
            let chain = certificates("certificate", certificate, certificate_pem)?;
            let key_der = PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| RoadError::Disabled(format!("key {}: no private key: {error}", key.display())))?;
            let identity = identity(&provider, chain, key_der).map_err(|error| {
                let (certificate, key) = (certificate.display(), key.display());
                RoadError::Disabled(format!("certificate {certificate} and key {key} do not work together: {error}"))
            })?;
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Our own certificate has ended: every broker would refuse it, so say it here, where a person reads it. What may come of it
/// elsewhere, see [`Expired::Shown`].
fn check_not_expired(now: &Now, files: &TlsFiles, content: &Content) -> Result<(), RoadError> {
    let (Some((path, _)), Some((pem, _))) = (&files.identity, &content.identity) else { return Ok(()) };
    check_leaf(now, path, &certificates("certificate", path, pem)?)
}

/// The first certificate of a chain of ours has not ended.
pub(super) fn check_leaf(now: &Now, path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), RoadError> {
    match chain.first().and_then(|leaf| expiry::not_after(leaf)) {
        Some(end) if end < now.unix_ms() => {
            let end = Wall { unix_ms: end, certainty: Certainty::Fixed };
            Err(RoadError::Disabled(format!("certificate {} has expired: it ended {end}", path.display())))
        }
        _ => Ok(()), // one without a readable end is not for us to judge
    }
}

/// Our certificate with its key. A certificate that WebPKI cannot read, but brokers on OpenSSL take (X.509 version 1, as
/// the usual recipes for mosquitto make them), is sent as it is.
pub(super) fn identity(
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
pub(super) fn roots(what: &str, path: &Path, pem: &[u8]) -> Result<RootCertStore, RoadError> {
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates(what, path, pem)?) {
        (0, _) => Err(RoadError::Disabled(format!("{what} {}: no usable CA certificate in it", path.display()))),
        _ => Ok(roots),
    }
}

pub(super) fn certificates(what: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RoadError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(RoadError::Disabled(format!("{what} {}: no certificate in it (PEM is expected)", path.display()))),
        Err(error) => Err(RoadError::Disabled(format!("{what} {}: broken PEM: {error}", path.display()))),
    }
}

/// Who may use a file?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Anybody,
    /// A file that everybody on the box may read or replace is no secret.
    Us,
}

pub(super) async fn read_secret(path: &Path, what: &str) -> Result<Vec<u8>, RoadError> {
    read_file(path, what, For::Us).await
}

pub(super) async fn read(path: &Path, what: &str) -> Result<Vec<u8>, RoadError> {
    read_file(path, what, For::Anybody).await
}

async fn read_file(path: &Path, what: &str, whose: For) -> Result<Vec<u8>, RoadError> {
    let broken = |error: &dyn fmt::Display| RoadError::Disabled(format!("{what} {}: {error}", path.display()));
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let file = File::open(&owned)?;
        // Of what was opened: the name may be that of another file by now.
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if whose == For::Us && mode & OTHERS != 0 {
            let path = owned.display();
            return Err(io::Error::other(format!(
                "everybody on this machine may use it (mode {mode:03o}); chmod 640 {path}, or 600"
            )));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
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
