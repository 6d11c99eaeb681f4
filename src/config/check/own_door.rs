//! Uplinks and bridges that would lead to a listener of this gateway itself: whatever goes up comes back, and what comes back
//! goes up again.
//!
//! Only what stands in the file can be seen: loopback, however it is written, and the addresses of the listeners. A name that
//! leads back here, an address of this box behind a listener on all of them, or one that is translated, cannot.

use std::net::IpAddr;

use super::super::plan::{BridgePlan, Listen, ListenerPlan, ServerPlan, Transport, UplinkPlan};
use super::super::problem::Finding;
use super::super::raw::Trail;
use super::super::section::Section;

/// Reports each uplink and bridge with such a server.
pub fn refuse(root: &Section<'_, '_>, doors: &[ListenerPlan], uplinks: &[UplinkPlan], bridges: &[BridgePlan]) {
    let bridges: Vec<&UplinkPlan> = bridges.iter().map(|bridge| &bridge.uplink).collect();
    for (key, plans) in [("uplink", uplinks.iter().collect()), ("bridge", bridges)] {
        for (plan, node) in plans.into_iter().zip(root.tables(key)) {
            let is_own = |server: &&ServerPlan| doors.iter().any(|door| leads_to(server, &door.listen));
            // by a proxy it is the proxy's 127.0.0.1
            let Some(server) = plan.servers.iter().find(is_own).filter(|_| plan.proxy.is_none()) else { continue };
            let message = format!(
                "{server} is a listener of this gateway itself: what goes there comes back to it. Clients here have all tags \
                 anyway; for hosts of Sparkplug there is url = \"local:\""
            );
            root.report(Finding::line(node.at, Trail::Key(root.trail, key), message));
        }
    }
}

fn leads_to(server: &ServerPlan, door: &Listen) -> bool {
    let address = match (door, &server.transport) {
        (Listen::Quic(address), Transport::Quic) => address,
        (Listen::Quic(_), _) | (_, Transport::Quic | Transport::Local) => return false,
        (Listen::Tcp(address), _) => address,
        (Listen::Unix(_) | Listen::Udp(_), _) => return false,
    };
    let own = address.ip().to_canonical();
    let is_loopback = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    let name = server.host.trim_end_matches('.');
    let is_here = match numeric(name) {
        // To "any address" the system connects by loopback.
        Some(host) => {
            host == own || is_loopback(host) && own.is_unspecified() || host.is_unspecified() && own.is_loopback()
        }
        None => name.eq_ignore_ascii_case("localhost") && is_loopback(own),
    };
    is_here && server.port == address.port()
}

/// An address as the system's resolver reads it: IPv4 has shorter forms (inet_aton(3)), in which the last number fills what the
/// others leave, and a number may be hexadecimal or octal.
fn numeric(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let number = |text: &str| match (text.strip_prefix("0x").or(text.strip_prefix("0X")), text) {
        (Some(hexadecimal), _) => u32::from_str_radix(hexadecimal, 16).ok(),
        (None, octal) if octal.len() > 1 && octal.starts_with('0') => u32::from_str_radix(octal, 8).ok(),
        (None, decimal) => decimal.parse().ok(),
    };
    let parts = host.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, first) = parts.split_last()?;
    let whole =
        first.len() < 4 && first.iter().all(|part| *part < 256) && u64::from(*last) < 1 << (32 - 8 * first.len());
    let high = first.iter().zip([24, 16, 8]).map(|(part, shift)| part << shift).sum::<u32>();
    whole.then(|| IpAddr::from((high + last).to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_listener_here_by_its_address_and_by_no_other() {
        let tcp = |text: &str| Listen::Tcp(text.parse().expect("an address"));
        let server = |host: &str, transport| ServerPlan { host: host.to_owned(), port: 1883, transport };
        for (host, door, is_own) in [
            ("127.0.0.1", "127.0.0.1:1883", true),
            ("localhost", "127.0.0.1:1883", true),
            ("LOCALHOST", "[::1]:1883", true),
            ("127.0.0.1", "0.0.0.0:1883", true),
            ("::1", "[::]:1883", true),
            ("10.0.0.7", "10.0.0.7:1883", true),
            ("::ffff:10.0.0.7", "10.0.0.7:1883", true),
            ("0.0.0.0", "127.0.0.1:1883", true),
            ("::", "[::1]:1883", true),
            ("0.0.0.0", "0.0.0.0:1883", true),
            ("127.1", "127.0.0.1:1883", true),
            ("127.1", "0.0.0.0:1883", true),
            ("2130706433", "127.0.0.1:1883", true),
            ("0x7f.0.1", "127.0.0.1:1883", true),
            ("10.7", "10.0.0.7:1883", true),
            ("localhost.", "127.0.0.1:1883", true),
            ("0.0.0.0", "10.0.0.7:1883", false),
            ("127.1.2.3.4", "0.0.0.0:1883", false),
            ("127.256", "127.0.0.1:1883", false),
            ("7", "0.0.0.0:1883", false),
            ("127.0.0.1", "127.0.0.1:1884", false),
            ("127.0.0.1", "127.0.0.1:0", false),
            ("localhost", "10.0.0.7:1883", false),
            ("10.0.0.8", "0.0.0.0:1883", false),
            ("broker.example.com", "0.0.0.0:1883", false),
        ] {
            for transport in [Transport::Tcp, Transport::Tls] {
                assert_eq!(leads_to(&server(host, transport), &tcp(door)), is_own, "{host} {door}");
            }
            let quic = Listen::Quic(door.parse().expect("an address"));
            assert_eq!(leads_to(&server(host, Transport::Quic), &quic), is_own, "{host} {door}");
            assert!(!leads_to(&server(host, Transport::Quic), &tcp(door)), "UDP is another port");
        }
    }
}
