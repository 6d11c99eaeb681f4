//! Is this the server we mean? (`server` asks the same of clients.) WebPKI's rules, and one of our own for a box that
//! does not know the time.
//!
//! Gateways boot with a wrong clock and often learn the time through the very link that is checked here. Without a fix,
//! time is only known to be at least the floor: certificates are then checked at max(floor, notBefore), so one that
//! begins after the floor is accepted, and one that ended before the floor is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::expiry;
use super::tls::Now;

/// Certificates in a chain that may each move the time of checking forward (a leaf and its issuers).
const CHAIN_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    pub(super) now: Now,
    pub(super) accepted: Arc<Accepted>,
}

/// When the first of the accepted certificates ends, ms since 1970. A resumed session shows none (RFC 8446, section 2.2),
/// and brings tickets for the next: without this it would outlive the certificate it was begun with.
#[derive(Debug)]
pub(super) struct Accepted(AtomicI64);

impl Accepted {
    /// Nothing yet.
    pub(super) fn nothing() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }

    /// Has one of them ended by then?
    pub(super) fn ended(&self, unix_ms: i64) -> bool {
        self.0.load(Ordering::Relaxed) < unix_ms
    }

    fn note(&self, certificate: &CertificateDer<'_>) {
        if let Some(end) = expiry::not_after(certificate) {
            self.0.fetch_min(end, Ordering::Relaxed);
        }
    }
}

/// Checks at a time; on a box without a fix also at the later ones at which the certificates of the chain begin.
pub(super) fn leniently<T>(
    now: &Now,
    mut at: UnixTime,
    verify: impl Fn(UnixTime) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut result = verify(at);
    let moves = if now.is_fixed() { 0 } else { CHAIN_MAX };
    for _ in 0..moves {
        match &result {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                if *not_before > at =>
            {
                at = *not_before;
            }
            _ => break,
        }
        result = verify(at);
    }
    result
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |at| self.webpki.verify_server_cert(leaf, chain, name, ocsp, at);
        let result = leniently(&self.now, now, verify);
        if result.is_ok() {
            self.accepted.note(leaf);
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
