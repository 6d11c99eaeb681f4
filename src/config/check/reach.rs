//! Where a bus on the network is: `endpoint`, or `listen` and `allow`, or with TLS the files for it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::super::plan::{Carrier, Network, TlsCarrier};
use super::super::section::{Section, Spot};
use super::super::source::At;

/// The port of Modbus TCP (Messaging on TCP/IP 1.0b, section 4.3.1.2), and of Modbus over UDP.
pub const MODBUS_PORT: u16 = 502;
/// What most serial servers give to their first port, bytes as they are.
pub const SERIAL_SERVER_PORT: u16 = 4001;
/// The port of Modbus/TCP Security (Protocol Specification v36, section 5).
const MODBUS_TLS_PORT: u16 = 802;
const LISTEN_FORM: &str = "an address and a port, such as \"0.0.0.0:5020\" or \"[::]:5020\"";
const ALLOW_FORM: &str = "addresses and networks, such as [\"10.0.0.0/8\", \"192.168.7.20\"]";
const ALLOW_MAX: usize = 64;

/// `endpoint`: host and port.
pub fn endpoint(section: &Section<'_, '_>, standard_port: u16) -> Option<String> {
    let text = section.required_text("endpoint", "host and port of the device, such as \"192.168.0.10:502\"")?;
    match split_host(text.value, standard_port) {
        Ok((host, port)) if host.contains(':') => Some(format!("[{host}]:{port}")),
        Ok((host, port)) => Some(format!("{host}:{port}")),
        Err(message) => {
            let allowed = format!("\"host:port\", \"host\" (port {standard_port}) or \"[ipv6]:port\"");
            section.report(section.wrong("endpoint", text.at, message).allowed(allowed));
            None
        }
    }
}

/// The line behind an endpoint, where answers have no numbers; each belongs to one bus.
pub fn line(section: &Section<'_, '_>, endpoint: &str, lines: &mut HashMap<String, At>) {
    let Some(node) = section.get("endpoint") else { return };
    if let Some(first) = lines.insert(endpoint.to_lowercase(), node.at) {
        let message = "another bus asks on this line already; a serial server may pass every answer on to both, and nothing \
                       in it tells whose it is. Devices on one line belong to one bus, with the response_timeout of the \
                       slowest";
        section.report(section.wrong("endpoint", node.at, message).also(first));
    }
}

/// Host (without brackets) and port of `host`, `host:port`, `[v6]` and `[v6]:port`.
pub fn split_host(text: &str, standard_port: u16) -> Result<(&str, u16), &'static str> {
    if text.contains("://") {
        return Err("host and port only: what stands before :// does not belong here");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (host, behind) = inside.split_once(']').ok_or("the bracket of the address is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets is no IPv6 address");
            }
            (
                host,
                if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or("no `:` before the port")?) },
            )
        }
        None if text.matches(':').count() > 1 => return Err("an IPv6 address stands in brackets: \"[::1]:502\""),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err("the host is no name and no address");
    }
    if is_numbers(host) && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("four numbers of which one is above 255, or has a 0 before it, are no IPv4 address");
    }
    let port = match port {
        None => standard_port,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().unwrap_or(0),
        Some(_) => 0,
    };
    if port == 0 { Err("the port is a number, 1 ..= 65535") } else { Ok((host, port)) }
}

/// Four labels of digits: no name is like that, so an address is meant.
fn is_numbers(host: &str) -> bool {
    host.split('.').count() == 4 && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `endpoint`, `ca_file`, `certificate`, `key` and `server_name` of modbus-tls.
pub fn tls(section: &Section<'_, '_>) -> Option<TlsCarrier> {
    let why = "the authority that signed the device's certificate, or that certificate itself";
    let ca_file = section.required_path("ca_file", why);
    let why = "modbus-tls wants a certificate on both sides; the device reads our role in this one";
    let certificate = section.required_path("certificate", why);
    let key = section.required_path("key", "the key of `certificate`");
    let endpoint = endpoint(section, MODBUS_TLS_PORT);
    let named = section.text("server_name");
    if let Some(name) = named.filter(|name| name.value.is_empty() || name.value.contains([':', '/', ' '])) {
        section.report(section.wrong("server_name", name.at, "must be a host name, or an IPv4 address"));
    }
    let endpoint = endpoint?;
    let host = split_host(&endpoint, MODBUS_TLS_PORT).map_or("", |(host, _)| host).to_owned();
    Some(TlsCarrier {
        endpoint,
        ca_file: ca_file?,
        certificate: certificate?,
        key: key?,
        server_name: named.map_or(host, |name| name.value.to_owned()),
    })
}

/// `listen` and `allow`: the other side dials in.
pub fn door(section: &Section<'_, '_>, doors: &mut HashMap<SocketAddr, At>) -> Option<Carrier> {
    if let Some(node) = section.get("endpoint") {
        let message = "either `endpoint` (the gateway connects) or `listen` (the other side dials in), not both";
        section.report(section.wrong("endpoint", node.at, message));
    }
    let allow = allow(section);
    let text = section.required_text("listen", LISTEN_FORM)?;
    let Some(listen) = text.value.parse::<SocketAddr>().ok().filter(|listen| listen.port() != 0) else {
        section.report(section.wrong("listen", text.at, "is no place to listen").allowed(LISTEN_FORM));
        return None;
    };
    if let Some(first) = doors.insert(listen, text.at) {
        let message = "another bus listens there already; each one needs a port of its own";
        section.report(section.wrong("listen", text.at, message).also(first));
    }
    if section.get("allow").is_none() && !listen.ip().is_loopback() {
        let why = "who may dial in, such as [\"10.0.0.0/8\"]; what a stranger sends would count as measured";
        section.missing("allow", why);
    }
    Some(Carrier::Listen { listen, allow: allow? })
}

/// `allow`; empty when it is not there.
fn allow(section: &Section<'_, '_>) -> Option<Vec<Network>> {
    let Some(node) = section.get("allow") else { return Some(Vec::new()) };
    let texts = section.texts("allow")?;
    if texts.is_empty() || texts.len() > ALLOW_MAX {
        let message = format!("lists {} addresses", texts.len());
        section.report(section.wrong("allow", node.at, message).allowed(format!("1 ..= {ALLOW_MAX}: {ALLOW_FORM}")));
        return None;
    }
    texts.into_iter().map(|text| network(section, text)).collect()
}

fn network(section: &Section<'_, '_>, text: Spot<&str>) -> Option<Network> {
    let (address, prefix) = text.value.split_once('/').map_or((text.value, None), |(one, two)| (one, Some(two)));
    let found = address.parse::<IpAddr>().ok().and_then(|address| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let digits = |prefix: &&str| prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            None => most,
            Some(prefix) => Some(prefix).filter(digits)?.parse().ok().filter(|prefix| *prefix <= most)?,
        };
        Some(Network { address, prefix })
    });
    if found.is_none() {
        section.report(section.wrong("allow", text.at, "is no address and no network").allowed(ALLOW_FORM));
    }
    found
}
