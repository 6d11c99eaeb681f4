//! When certificates end. Read straight from the DER (X.690; RFC 5280, section 4.1), because also those must be told about
//! that WebPKI cannot read, but brokers take (X.509 version 1).
//!
//! ```text
//! Certificate     SEQUENCE { TBSCertificate, … }
//! TBSCertificate  SEQUENCE { [0] version OPTIONAL, INTEGER serial, SEQUENCE algorithm, SEQUENCE issuer, SEQUENCE validity, … }
//! validity        SEQUENCE { notBefore, notAfter }   UTCTime YYMMDDHHMMSSZ (50–99: 19..) or GeneralizedTime YYYYMMDDHHMMSSZ
//! ```

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::destination::TlsFiles;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What ends first of the files of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// UTC, ms since 1970.
    pub unix_ms: i64,
    /// `certificate FILE` or `ca_file FILE`.
    pub what: String,
}

/// The end of what we show (its first certificate to end) or of what we trust (its last one: a bundle in which the next CA
/// stands already has been cared for), whichever comes first.
pub(super) fn first_end(files: &TlsFiles, ca: &[u8], certificate: Option<&[u8]>) -> Option<Ends> {
    let named = |what: &str, path: &Path, unix_ms| Ends { unix_ms, what: format!("{what} {}", path.display()) };
    let ca = ends(ca).max().map(|end| named("ca_file", &files.ca_file, end));
    let path = files.identity.as_ref().map(|(certificate, _)| certificate);
    let own = path.zip(certificate).and_then(|(path, pem)| Some(named("certificate", path, ends(pem).min()?)));
    own.into_iter().chain(ca).min_by_key(|ends| ends.unix_ms)
}

/// The ends of all certificates in a file, ms since 1970.
pub(super) fn ends(pem: &[u8]) -> impl Iterator<Item = i64> {
    CertificateDer::pem_slice_iter(pem).filter_map(|certificate| not_after(&certificate.ok()?))
}

/// The end of one certificate, ms since 1970.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut fields, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(fields, VERSION) {
        fields = rest;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, fields) = take(fields, tag)?;
    }
    let (validity, _) = take(fields, SEQUENCE)?;
    let (_, not_after) = time(validity)?;
    let (unix_ms, _) = time(not_after)?;
    Some(unix_ms)
}

/// Splits off one element of this kind: its content, and what follows it.
pub(super) fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (century, digits, rest) = match (take(bytes, UTC_TIME), take(bytes, GENERALIZED_TIME)) {
        (Some((text, rest)), _) => (None, text, rest),
        (None, Some((text, rest))) => {
            let (century, text) = text.split_at_checked(2)?;
            (Some(century), text, rest)
        }
        (None, None) => return None,
    };
    let text = std::str::from_utf8(digits.strip_suffix(b"Z")?).ok()?;
    let two = |at: usize| text.get(at..at + 2).and_then(|pair| pair.parse::<i8>().ok());
    let year = i16::from(two(0)?);
    let century = match century {
        Some(pair) => std::str::from_utf8(pair).ok()?.parse::<i16>().ok()?,
        None if year >= 50 => 19,
        None => 20,
    };
    let seconds = if text.len() == 12 { two(10)? } else { return None };
    let date = jiff::civil::DateTime::new(century * 100 + year, two(2)?, two(4)?, two(6)?, two(8)?, seconds, 0).ok()?;
    Some((date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// A certificate that ends on the first day of this year.
    fn until(year: i32) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["gw".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(1999, 1, 1), date_time_ymd(year, 1, 1));
        params.self_signed(&KeyPair::generate().expect("ring works")).expect("ring works")
    }

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn both_ways_to_write_a_date_are_read_and_version_1_too() {
        assert_eq!(not_after(until(2001).der()), Some(11_323 * DAY_MS), "UTCTime");
        assert_eq!(not_after(until(2050).der()), Some(29_220 * DAY_MS), "GeneralizedTime");
        // version 1 has no [0] field
        let der = until(2030).der().to_vec();
        let (certificate, _) = take(&der, SEQUENCE).expect("whole");
        let (signed, signature) = take(certificate, SEQUENCE).expect("whole");
        let (_, fields) = take(signed, VERSION).expect("version 3");
        let sequence = |content: &[u8]| {
            let length = u16::try_from(content.len()).expect("short").to_be_bytes();
            [&[SEQUENCE, 0x82], length.as_slice(), content].concat()
        };
        let der = sequence(&[&sequence(fields), signature].concat());
        assert_eq!(not_after(&der), Some(21_915 * DAY_MS));
    }

    #[test]
    fn cut_and_flipped_certificates_have_no_end_or_another_one_but_never_a_panic() {
        let der = until(2030).der().to_vec();
        for length in 0..der.len() {
            assert_eq!(not_after(&der[..length]), None);
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut flipped = der.clone();
                flipped[at] ^= 1 << bit;
                not_after(&flipped);
            }
        }
    }

    #[test]
    fn a_bundle_ends_with_its_last_ca_and_a_chain_with_its_first() {
        let pem = |years: &[i32]| years.iter().map(|year| until(*year).pem()).collect::<String>().into_bytes();
        let files = TlsFiles { ca_file: "ca.pem".into(), identity: Some(("gw.crt".into(), "gw.key".into())) };
        let ends = |ca: &[i32], own: &[i32]| first_end(&files, &pem(ca), Some(&pem(own))).map(|ends| ends.what);
        assert_eq!(ends(&[2030, 2026], &[2028, 2029]).as_deref(), Some("certificate gw.crt"));
        assert_eq!(ends(&[2027, 2026], &[2028]).as_deref(), Some("ca_file ca.pem"));
        assert_eq!(first_end(&files, b"", Some(b"nonsense")), None);
    }
}
