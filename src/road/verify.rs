//! Is this the server we mean? WebPKI's rules, and one of our own for a box that does not know the time.
//!
//! Gateways boot with a wrong clock and often learn the time through the very link that is checked here. Without a fix,
//! time is only known to be at least the floor: certificates are then checked at max(floor, notBefore), so one that
//! begins after the floor is accepted, and one that ended before the floor is not.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::tls::Now;
use crate::model::time::Certainty;

/// Certificates in a chain that may each move the time of checking forward (a leaf and its issuers).
const CHAIN_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    pub(super) now: Now,
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
        let mut at = now;
        let mut result = self.webpki.verify_server_cert(leaf, chain, name, ocsp, at);
        if self.now.certainty() == Certainty::Fixed {
            return result;
        }
        for _ in 0..CHAIN_MAX {
            match &result {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if *not_before > at =>
                {
                    at = *not_before;
                }
                _ => break,
            }
            result = self.webpki.verify_server_cert(leaf, chain, name, ocsp, at);
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
