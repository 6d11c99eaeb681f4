//! `[status]`: where the status page, `/metrics` and `/health` are, and for whom.
//!
//! Without the table it is on 127.0.0.1:8080; `listen = "off"` means that there is none. Until `anonymous` is written it shows
//! this machine what anonymous MQTT clients on loopback see by default, as long as there are no users to log in. What other
//! machines can reach has TLS and a login, as with the broker's listeners.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::plan::{Anonymous, BrokerPlan, ClientCertificate, Listen, ListenerTls, PagePlan};
use super::super::problem::Finding;
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::exposed::{self, Exposed};
use super::listener::{ANONYMOUS, covers};

const LISTEN_ALLOWED: &str = "a literal address and a port, such as \"127.0.0.1:8080\" or \"[::]:8443\", or \"off\"";
const EXPOSED: Exposed = Exposed {
    what: "a status page",
    logins: "`[broker] users_file`",
    lacks: "no `[broker] users_file` (ironbridge passwd writes one)",
};
const HOST_ALLOWED: &str = "a name without scheme and port, such as \"gateway.example.com\"";

/// Where it is when nobody says so.
const STANDARD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// `[status]`
pub fn status(root: &Section<'_, '_>, broker: &BrokerPlan) -> Option<PagePlan> {
    let own = own_names(&root.cx.facts.hostname);
    let trail = Trail::Key(root.trail, "status");
    let section = root.get("status").and_then(|node| Section::open(root.cx, node, &trail, schema::STATUS));
    let Some(section) = section else {
        if let Some(node) = root.get("broker").filter(|_| is_taken(broker, STANDARD)) {
            let message = format!(
                "a listener of the broker has {STANDARD}, where the status page is without a [status] table: give one of them \
                 another address, or write [status] with listen = \"off\""
            );
            root.report(Finding::line(node.at, Trail::Key(root.trail, "broker"), message));
        }
        return Some(PagePlan { listen: STANDARD, anonymous: unsaid(STANDARD, broker), hosts: own, tls: None });
    };
    let (anonymous, tls) = (section.choice("anonymous", &ANONYMOUS), tls(&section));
    let hosts = own.into_iter().chain(hosts(&section)).collect();
    let text = section.text("listen");
    if text.is_some_and(|text| text.value == "off") {
        return None;
    }
    let (listen, at) = match text {
        Some(text) => (listen(&section, text)?, text.at),
        None => (STANDARD, section.at),
    };
    if !listen.ip().is_loopback() {
        EXPOSED.check(&section, at, broker.users_file.is_some());
        if let Some(spot) = anonymous.filter(|spot| spot.value != Anonymous::None) {
            let message = "visitors without a login see the page on loopback only; there is no switch for it";
            section.report(section.wrong("anonymous", spot.at, message).allowed("none").also(at));
        }
    }
    if is_taken(broker, listen) {
        section.report(section.wrong("listen", at, "a listener of the broker has this address already"));
    }
    let anonymous = anonymous.map_or_else(|| unsaid(listen, broker), |spot| spot.value);
    Some(PagePlan { listen, anonymous, hosts, tls })
}

/// Where nobody can log in, a page for nobody else is a page for nobody.
fn unsaid(listen: SocketAddr, broker: &BrokerPlan) -> Anonymous {
    if listen.ip().is_loopback() && broker.users_file.is_none() { Anonymous::Read } else { Anonymous::None }
}

fn listen(section: &Section<'_, '_>, text: Spot<&str>) -> Option<SocketAddr> {
    let address = text.value.parse().ok();
    if address.is_none() {
        let message = "is no address with a port; a name does not do, because what it means can change";
        section.report(section.wrong("listen", text.at, message).allowed(LISTEN_ALLOWED));
    }
    address
}

fn tls(status: &Section<'_, '_>) -> Option<ListenerTls> {
    let trail = Trail::Key(status.trail, "tls");
    let section = Section::open(status.cx, status.get("tls")?, &trail, schema::STATUS_TLS)?;
    let (certificate, key) = exposed::identity(&section)?;
    Some(ListenerTls { certificate, key, client_ca: None, client_certificate: ClientCertificate::default() })
}

/// The box's own names, as people type them.
fn own_names(hostname: &str) -> Vec<String> {
    let name = hostname.to_ascii_lowercase();
    if name.is_empty() { Vec::new() } else { vec![format!("{name}.local"), name] }
}

fn hosts(section: &Section<'_, '_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in section.texts("hosts").unwrap_or_default() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !host.value.is_empty() && host.value.chars().all(is_name) {
            hosts.push(host.value.to_ascii_lowercase());
        } else {
            section.report(section.wrong("hosts", host.at, "is no name of a host").allowed(HOST_ALLOWED));
        }
    }
    hosts
}

fn is_taken(broker: &BrokerPlan, page: SocketAddr) -> bool {
    broker.listeners.iter().any(|door| takes(&door.listen, page))
}

/// Can the page not listen there because the broker does?
fn takes(door: &Listen, page: SocketAddr) -> bool {
    let Listen::Tcp(door) = door else { return false };
    page.port() != 0 && page.port() == door.port() && (covers(door, &page) || covers(&page, door))
}
