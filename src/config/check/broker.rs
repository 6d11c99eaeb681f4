//! `[broker]`: listeners on loopback, and what anonymous clients may do. Users and their rights: `access`.
//!
//! A door off loopback needs TLS and a login. Neither is in this version, so such a door is refused; anonymous access
//! off loopback is refused for ever (contract, section 2).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{Anonymous, BrokerLimits, BrokerPlan, ListenerPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{NOT_IN_THIS_VERSION, Section, Spot};
use super::super::source::At;
use super::access;

const LISTEN_ALLOWED: &str = "a literal loopback address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\"";
const ANONYMOUS: [(&str, Anonymous); 4] = [
    ("none", Anonymous::None),
    ("acl", Anonymous::Acl),
    ("read", Anonymous::Read),
    ("read-write", Anonymous::ReadWrite),
];

/// `[broker]`; without any listener there is one on 127.0.0.1:1883 that anonymous clients may read from.
pub fn broker(root: &Section<'_, '_>) -> BrokerPlan {
    let standard = ListenerPlan::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)), Anonymous::Read);
    let mut plan =
        BrokerPlan { listeners: Vec::new(), limits: BrokerLimits::default(), users_file: None, acl: Vec::new() };
    let trail = Trail::Key(root.trail, "broker");
    if let Some(section) = root.get("broker").and_then(|node| Section::open(root.cx, node, &trail, schema::BROKER)) {
        plan.listeners = listeners(&section);
        plan.limits.keep_alive_max = keep_alive_max(&section);
        (plan.users_file, plan.acl) = (access::users_file(&section), access::acl(&section));
    }
    if plan.listeners.is_empty() {
        plan.listeners.push(standard);
    }
    plan
}

/// What two bytes of CONNACK can say (MQTT 5, section 3.2.2.3.14).
const KEEP_ALIVE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(65_535);

fn keep_alive_max(broker: &Section<'_, '_>) -> Option<u16> {
    let longest = broker.duration("keep_alive_max", KEEP_ALIVE_RANGE)?;
    u16::try_from(longest.as_millis().div_ceil(1000)).ok()
}

fn listeners(broker: &Section<'_, '_>) -> Vec<ListenerPlan> {
    let list = Trail::Key(broker.trail, "listener");
    let mut taken: HashMap<SocketAddr, At> = HashMap::new();
    let mut listeners = Vec::new();
    for (position, node) in broker.tables("listener").iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(broker.cx, node, &trail, schema::LISTENER) else { continue };
        let anonymous = section.choice("anonymous", &ANONYMOUS, &[]);
        let Some(text) = section.required_text("listen", "an address and a port") else { continue };
        let Some(listen) = listen(&section, text, anonymous) else { continue };
        if listen.port() != 0
            && let Some(first) = taken.insert(listen, text.at)
        {
            section.report(section.wrong("listen", text.at, "another listener has this address already").also(first));
        }
        let plain = ListenerPlan::plain(listen, anonymous.map(|spot| spot.value).unwrap_or_default());
        listeners.push(ListenerPlan { identity: access::identity(&section), ..plain });
    }
    listeners
}

fn listen(section: &Section<'_, '_>, text: Spot<&str>, anonymous: Option<Spot<Anonymous>>) -> Option<SocketAddr> {
    let refuse = |message: &str| section.report(section.wrong("listen", text.at, message).allowed(LISTEN_ALLOWED));
    if text.value.starts_with("unix:") {
        refuse(&format!("a listener on a unix socket is {NOT_IN_THIS_VERSION}"));
        return None;
    }
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        refuse("is no address with a port; a name does not do, because what it means can change");
        return None;
    };
    if address.ip().is_loopback() {
        return Some(address);
    }
    if let Some(spot) = anonymous.filter(|spot| spot.value != Anonymous::None) {
        let message = "anonymous clients are let in on loopback only; there is no switch for it";
        section.report(section.wrong("anonymous", spot.at, message).allowed("none").also(text.at));
    }
    refuse(&format!(
        "a listener that other machines can reach needs `tls` and a login (`users_file`), which are {NOT_IN_THIS_VERSION}"
    ));
    None
}
