//! `[broker]`: what each client, and all of them, may have. Doors: `listener`; users and their rights: `access`.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{Anonymous, BrokerLimits, BrokerPlan, ListenerPlan, Rate, SessionsPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::Section;
use super::{access, listener};

/// What a session may be owed: less than the smallest could not hold one longer message, more than the largest nobody reads
/// in the end.
const SESSION_SIZE_MIN: u64 = 64 << 10;
const SESSION_SIZE_MAX: u64 = 1 << 30;
const SESSIONS_SIZE_MAX: u64 = 4 << 30;
/// Each costs some memory for as long as it lives.
const SESSIONS_MAX: u16 = 10_000;
const SESSION_EXPIRY: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(10 * 365 * 24 * 3600);
/// From what mosquitto takes (CONNECT is not measured by it); what is forwarded must fit into a segment of the store.
const PACKET_SIZE: RangeInclusive<u64> = 20..=(1 << 20);
const PAYLOAD_SIZE: RangeInclusive<u64> = 1..=(1 << 20);
/// The queue of one client: below, a page of retained values would not fit, above, some clients would fill a small box.
const QUEUED_SIZE: RangeInclusive<u64> = (64 << 10)..=(16 << 20);
/// Publishes on their way to one client; each may have to be sent again.
const INFLIGHT_MAX: u16 = 256;
/// Each is memory that a client makes us hold.
const SUBSCRIPTIONS_MAX: u16 = 50_000;

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
        plan.listeners = listener::listeners(&section);
        plan.limits = limits(&section);
        (plan.users_file, plan.acl) = (access::users_file(&section), access::acl(&section));
        plan.sessions = sessions(&section);
    }
    if plan.listeners.is_empty() {
        plan.listeners.push(standard);
    }
    plan
}

/// What each client, and all of them, may have.
fn limits(broker: &Section<'_, '_>) -> BrokerLimits {
    let standard = BrokerLimits::default();
    let count = |key, standard| broker.whole(key, 1..=u16::MAX).map_or(standard, usize::from);
    let rate = |key, standard| broker.whole(key, 1..=u16::MAX).map_or(standard, Rate);
    let packet = broker.size("max_packet_size", PACKET_SIZE).and_then(|bytes| u32::try_from(bytes).ok());
    let payload = broker.size("max_payload_size", PAYLOAD_SIZE).and_then(|bytes| u32::try_from(bytes).ok());
    let flag = |key, standard| broker.flag(key).map_or(standard, |flag| flag.value);
    let queued = broker.size("max_queued_size", QUEUED_SIZE).and_then(|bytes| usize::try_from(bytes).ok());
    let subscriptions = broker.whole("max_subscriptions", 1..=SUBSCRIPTIONS_MAX);
    BrokerLimits {
        connections: count("max_connections", standard.connections),
        per_address: count("max_connections_per_address", standard.per_address),
        rate: rate("max_connect_rate", standard.rate),
        rate_per_address: rate("max_connect_rate_per_address", standard.rate_per_address),
        packet_bytes: packet.unwrap_or(standard.packet_bytes),
        payload_bytes: payload.unwrap_or(standard.payload_bytes),
        retain_available: flag("retain_available", standard.retain_available),
        check_retain_source: flag("check_retain_source", standard.check_retain_source),
        inflight: broker.whole("max_inflight", 1..=INFLIGHT_MAX).unwrap_or(standard.inflight),
        queued_bytes: queued.unwrap_or(standard.queued_bytes),
        subscriptions: subscriptions.map_or(standard.subscriptions, usize::from),
        keep_alive_max: keep_alive_max(broker),
    }
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
