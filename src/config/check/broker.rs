//! `[broker]`: listeners on loopback, and what anonymous clients may do. Users and their rights: `access`.
//!
//! A door off loopback needs TLS and a login. Neither is in this version, so such a door is refused; anonymous access
//! off loopback is refused for ever (contract, section 2).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{Anonymous, BrokerLimits, BrokerPlan, ListenerPlan, SessionsPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{NOT_IN_THIS_VERSION, Section, Spot};
use super::super::source::At;
use super::access;

const LISTEN_ALLOWED: &str = "a literal loopback address and a port, such as \"127.0.0.1:1883\" or \"[::1]:1883\"";
/// What a session may be owed: less than the smallest could not hold one longer message, more than the largest nobody reads
/// in the end.
const SESSION_SIZE_MIN: u64 = 64 << 10;
const SESSION_SIZE_MAX: u64 = 1 << 30;
const SESSIONS_SIZE_MAX: u64 = 4 << 30;
/// Each costs some memory for as long as it lives.
const SESSIONS_MAX: u16 = 10_000;
const SESSION_EXPIRY: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(10 * 365 * 24 * 3600);
const ANONYMOUS: [(&str, Anonymous); 4] = [
    ("none", Anonymous::None),
    ("acl", Anonymous::Acl),
    ("read", Anonymous::Read),
    ("read-write", Anonymous::ReadWrite),
];

/// `[broker]`; without any listener there is one on 127.0.0.1:1883 that anonymous clients may read from.
pub fn broker(root: &Section<'_, '_>) -> BrokerPlan {
    let standard = ListenerPlan::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)), Anonymous::Read);
    let mut plan = BrokerPlan {
        listeners: Vec::new(),
        limits: BrokerLimits::default(),
        users_file: None,
        acl: Vec::new(),
        sessions: SessionsPlan::default(),
    };
    let trail = Trail::Key(root.trail, "broker");
    if let Some(section) = root.get("broker").and_then(|node| Section::open(root.cx, node, &trail, schema::BROKER)) {
        plan.listeners = listeners(&section);
        plan.limits.keep_alive_max = keep_alive_max(&section);
        (plan.users_file, plan.acl) = (access::users_file(&section), access::acl(&section));
        plan.sessions = sessions(&section);
    }
    if plan.listeners.is_empty() {
        plan.listeners.push(standard);
    }
    plan
}

/// Bounds of sessions that outlive their connections.
fn sessions(broker: &Section<'_, '_>) -> SessionsPlan {
    let standard = SessionsPlan::default();
    let size = broker.size("session_max_size", SESSION_SIZE_MIN..=SESSION_SIZE_MAX);
    let sizes = broker.size("sessions_max_size", SESSION_SIZE_MIN..=SESSIONS_SIZE_MAX);
    let expiry = broker.duration("session_expiry_max", SESSION_EXPIRY);
    let expiry = expiry.and_then(|expiry| u32::try_from(expiry.as_secs()).ok());
    SessionsPlan {
        session_max_size: size.unwrap_or(standard.session_max_size),
        sessions_max_size: sizes.unwrap_or(standard.sessions_max_size),
        max_sessions: broker.whole("max_sessions", 1..=SESSIONS_MAX).map_or(standard.max_sessions, usize::from),
        session_expiry_max: expiry.unwrap_or(standard.session_expiry_max),
    }
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
