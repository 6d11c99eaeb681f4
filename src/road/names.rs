//! The names in a certificate, read straight from the DER (RFC 5280, section 4.1; `expiry` has the first part of it):
//!
//! ```text
//! TBSCertificate  SEQUENCE { …, validity, subject Name, SEQUENCE key, [1] OPTIONAL, [2] OPTIONAL, [3] extensions OPTIONAL }
//! Name            SEQUENCE OF SET OF SEQUENCE { OID, a string }
//! extensions      SEQUENCE OF SEQUENCE { OID, BOOLEAN critical OPTIONAL, OCTET STRING { value } }
//! subjectAltName  SEQUENCE OF { [1] rfc822Name | [2] dNSName | [6] uniformResourceIdentifier | others }
//! ```
//!
//! For certificates that have been verified: what is written here was seen by whoever signed. A name that could be read
//! in two ways (two CNs, control characters, a NUL) is none.

use super::expiry::{INTEGER, SEQUENCE, VERSION, take};
use crate::model::certificate::{AlternativeName, CertificateNames};

const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const EXTENSIONS: u8 = 0xA3;
/// id-at-commonName, 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// id-ce-subjectAltName, 2.5.29.17
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1D, 0x11];
/// UTF8String, PrintableString, TeletexString, IA5String: read where they are UTF-8.
const STRINGS: [u8; 4] = [0x0C, 0x13, 0x14, 0x16];
/// BMPString: UTF-16, big-endian.
const BMP_STRING: u8 = 0x1E;
/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 64;

/// Who a verified certificate is for; empty where nothing can be read.
pub fn names(der: &[u8]) -> CertificateNames {
    read(der).unwrap_or_default()
}

fn read(der: &[u8]) -> Option<CertificateNames> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (mut fields, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(fields, VERSION) {
        fields = rest;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, fields) = take(fields, tag)?;
    }
    let (subject, fields) = take(fields, SEQUENCE)?;
    let (_, fields) = take(fields, SEQUENCE)?;
    let alternative = extensions(fields).and_then(alternative).unwrap_or_default();
    Some(CertificateNames { common_name: common_name(subject), alternative })
}

/// The only CN.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = Vec::new();
    while let Some((mut set, rest)) = take(subject, SET) {
        subject = rest;
        while let Some((pair, others)) = take(set, SEQUENCE) {
            set = others;
            if let Some((COMMON_NAME, value)) = take(pair, OBJECT) {
                found.push(value);
            }
        }
    }
    match found[..] {
        [value] => string(value),
        _ => None,
    }
}

fn string(value: &[u8]) -> Option<String> {
    let plain =
        STRINGS.iter().find_map(|tag| take(value, *tag)).and_then(|(text, _)| String::from_utf8(text.into()).ok());
    plain.or_else(|| wide(take(value, BMP_STRING)?.0)).filter(|name| is_clear(name))
}

fn wide(text: &[u8]) -> Option<String> {
    let units = text.chunks(2).map(|pair| pair.try_into().map(u16::from_be_bytes));
    String::from_utf16(&units.collect::<Result<Vec<_>, _>>().ok()?).ok()
}

fn is_clear(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// What stands behind the key: two optional fields that nobody uses any more, and the extensions.
fn extensions(mut fields: &[u8]) -> Option<&[u8]> {
    for unique_id in [0x81, 0x82] {
        if let Some((_, rest)) = take(fields, unique_id) {
            fields = rest;
        }
    }
    take(take(fields, EXTENSIONS)?.0, SEQUENCE).map(|(list, _)| list)
}

fn alternative(mut extensions: &[u8]) -> Option<Vec<AlternativeName>> {
    while let Some((extension, rest)) = take(extensions, SEQUENCE) {
        extensions = rest;
        let (id, mut value) = take(extension, OBJECT)?;
        if id != ALTERNATIVE_NAME {
            continue;
        }
        if let Some((_, rest)) = take(value, BOOLEAN) {
            value = rest;
        }
        let (mut list, _) = take(take(value, OCTETS)?.0, SEQUENCE)?;
        let mut names = Vec::new();
        while let (Some(tag), true) = (list.first().copied(), names.len() < NAMES_MAX) {
            let (content, rest) = take(list, tag)?;
            list = rest;
            let make = match tag {
                0x81 => AlternativeName::Email,
                0x82 => AlternativeName::Dns,
                0x86 => AlternativeName::Uri,
                _ => continue,
            };
            names.extend(String::from_utf8(content.into()).ok().filter(|name| is_clear(name)).map(make));
        }
        return Some(names);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().expect("ring works")).expect("ring works").der().to_vec()
    }

    fn named(common_name: impl Into<DnValue>) -> CertificateNames {
        let common_name = common_name.into();
        names(&made(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "Acme");
            params.distinguished_name.push(DnType::CommonName, common_name);
        }))
    }

    #[test]
    fn common_names_are_read_in_every_way_they_are_written() {
        assert_eq!(named("hmi-1").common_name.as_deref(), Some("hmi-1"));
        assert_eq!(named("pümp é").common_name.as_deref(), Some("pümp é"));
        let wide = rcgen::string::BmpString::try_from("größe").expect("in the plane");
        assert_eq!(named(DnValue::BmpString(wide)).common_name.as_deref(), Some("größe"));
        let printable = rcgen::string::PrintableString::try_from("HMI 7").expect("printable");
        assert_eq!(named(DnValue::PrintableString(printable)).common_name.as_deref(), Some("HMI 7"));
        assert_eq!(named("admin\0.evil").common_name, None);
        assert_eq!(named("").common_name, None);
    }

    #[test]
    fn alternative_names_that_mean_a_client_are_read_in_their_order() {
        let text = |text: &str| text.try_into().expect("ascii");
        let der = made(|params| {
            params.subject_alt_names = vec![
                SanType::URI(text("urn:acme:hmi")),
                SanType::IpAddress([10, 0, 0, 1].into()),
                SanType::DnsName(text("hmi.acme.example")),
                SanType::Rfc822Name(text("hmi@acme.example")),
            ];
        });
        let expected = [
            AlternativeName::Uri("urn:acme:hmi".into()),
            AlternativeName::Dns("hmi.acme.example".into()),
            AlternativeName::Email("hmi@acme.example".into()),
        ];
        assert_eq!(names(&der).alternative, expected);
    }

    #[test]
    fn cut_and_flipped_certificates_have_odd_names_or_none_and_never_a_panic() {
        let der = made(|params| params.subject_alt_names = vec![SanType::DnsName("a.b".try_into().expect("ascii"))]);
        for length in 0..der.len() {
            names(&der[..length]);
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut flipped = der.clone();
                flipped[at] ^= 1 << bit;
                names(&flipped);
            }
        }
    }
}
