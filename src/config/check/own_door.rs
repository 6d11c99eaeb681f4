//! Uplinks and bridges that would lead to a listener of this gateway itself: whatever goes up comes back, and what comes back
//! goes up again.
//!
//! Only what stands in the file can be seen: loopback, and the addresses of the listeners. A name that leads back here, or an
//! address that is translated, cannot.

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
    let own = address.ip();
    let is_here = match server.host.parse::<IpAddr>() {
        Ok(host) => host == own || own.is_unspecified() && host.is_loopback(),
        Err(_) => server.host.eq_ignore_ascii_case("localhost") && (own.is_loopback() || own.is_unspecified()),
    };
    is_here && server.port == address.port()
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
