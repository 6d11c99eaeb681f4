//! CONNECT to CONNACK: the client is admitted or refused with a reason, and given its place in the core.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Seat};
use super::intake::Intake;
use super::shown::{Peer, Shown};
use super::stream::Stream;
use super::terms::{Terms, Watch};
use super::{Arrival, Porch};
use crate::access::{Arriving, Credentials, Identity, Refused};
use crate::broker::core::Newcomer;
use crate::broker::outbox::Outbox;
use crate::broker::session::Ending;
use crate::broker::session::{ALIASES_MAX, RECEIVE_MAXIMUM};
use crate::broker::will::LastWill;
use crate::broker::wire::encode::{self, Welcome};
use crate::broker::wire::{Connect, PACKET_BYTES_MAX, Version};
use crate::config::plan::{BrokerLimits, ListenerPlan};
use crate::model::topic::INSIDE_ID;

/// Longest client id, bytes: as for topics, nobody's plant needs the 65 535 that MQTT allows.
const CLIENT_ID_BYTES_MAX: usize = 1024;

/// Longest packet of the gateway itself: the birth of a device has all its tags in one.
const INSIDE_BYTES_MAX: u32 = 32 << 20;

/// Who takes packets of this length takes a CONNACK with a reason string.
const REASONED_BYTES: u32 = 128;

/// As mosquitto says it: an id of no length is valid, and only not wanted.
const CLIENT_ID_REQUIRED: u8 = 0x80;

/// Tells a client why it is not let in.
pub(super) async fn refuse(arrival: &mut Arrival, version: Version, reason: u8) {
    say_no(arrival, version, (reason, "")).await;
}

/// The same, to a client whose CONNECT was understood.
async fn turn_away(arrival: &mut Arrival, connect: &Connect, reason: u8) {
    let told = if connect.maximum_packet >= REASONED_BYTES { why(reason) } else { "" };
    say_no(arrival, connect.version, (reason, told)).await;
}

/// For the reason string of CONNACK.
const fn why(reason: u8) -> &'static str {
    match reason {
        CLIENT_ID_REQUIRED => "a client id is required here",
        0x85 => "this client id is not valid, or somebody else's",
        0x87 => "not authorized: user name, password or certificate",
        0x88 => "cannot be let in for the moment, try again",
        0x89 => "too busy, try again",
        0x8B => "the gateway stops",
        0x95 => "the content of the will is longer than max_payload_size",
        0x97 => "no room for more sessions that outlive their connection, or for so long a will",
        0x9A => "no retained messages here, not as a will either",
        0x9B => "the QoS of the will is higher than the Maximum QoS",
        _ => "",
    }
}

async fn say_no(arrival: &mut Arrival, version: Version, (reason, told): (u8, &str)) {
    arrival.shared.stats.connects_refused.one();
    let mut out = BytesMut::new();
    encode::refusal(&mut out, version, reason, told);
    let told = async {
        arrival.stream.write_all(&out).await?;
        arrival.stream.shutdown().await
    };
    // Whoever does not take its refusal is not waited for.
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), told).await {
        tracing::debug!(peer = %arrival.shown.peer, %error, "refused client had gone");
    }
}

/// What is wrong with an intelligible CONNECT: the reason for CONNACK. Takes as long as checking a password takes.
fn admit<'a>(
    arrival: &'a Arrival,
    connect: &'a Connect,
    id: &'a str,
) -> impl Future<Output = Result<Identity, u8>> + Send + 'a {
    let nameless = connect.client_id.is_empty();
    let nameless_session = nameless && connect.version == Version::V311 && !connect.clean_start;
    let required = nameless && arrival.require_client_id;
    let terms = arrival.terms;
    let certificate = arrival.shown.certificate.as_ref().and_then(|shown| shown.names.name(arrival.identity));
    let password = connect.password.as_ref().map(|password| &*password.0);
    let sensor = arrival.shown.sensor.as_deref();
    let shown = Credentials { user: connect.user.as_deref(), password, certificate, sensor };
    let arriving = Arriving { door: arrival.anonymous, client: id, from: arrival.shown.peer.address() };
    let shared = &arrival.shared;
    let inside = arrival.shown.peer == Peer::Inside;
    // Who comes through a door of ours has had its id judged there, or is the door itself.
    let reserved = id.starts_with(INSIDE_ID) && terms.watch != Watch::Doors;
    async move {
        if inside {
            return Ok(Identity::gateway(id));
        }
        if nameless_session || id.len() > CLIENT_ID_BYTES_MAX || reserved {
            return Err(0x85); // 3.1.3-8: identifier rejected
        }
        if required {
            return Err(if connect.version == Version::V5 { CLIENT_ID_REQUIRED } else { 0x85 });
        }
        let admitted = shared.access.admit(arriving, shown).await.map_err(|refused| match refused {
            // As mosquitto says it; in 3.1.1 the other code means credentials that are malformed (there table 3.1).
            Refused::NotAuthorized | Refused::BadCredentials => 0x87,
            Refused::NoUsers => 0x88, // server unavailable
            Refused::Busy => 0x89,
        })?;
        terms.judge_will(connect.will.as_ref())?;
        Ok(admitted)
    }
}

/// The keep alive that an MQTT 5 client must use instead of its own (3.1.2-21); 3.1.1 has no way to tell it.
fn server_keep_alive(connect: &mut Connect, longest: Option<u16>) -> Option<u16> {
    let longest = longest.filter(|_| connect.version == Version::V5)?;
    if (1..=longest).contains(&connect.keep_alive) {
        return None;
    }
    connect.keep_alive = longest;
    Some(longest)
}

/// Serves a client whose CONNECT has come, to its end; `arrived` came behind it.
pub(super) async fn welcome(mut arrival: Arrival, mut connect: Connect, arrived: BytesMut) {
    let version = connect.version;
    let limits = arrival.shared.limits;
    let longest = limits.keep_alive_max.filter(|_| arrival.terms.watch == Watch::Ours);
    let keep_alive = server_keep_alive(&mut connect, longest);
    connect.receive_maximum = connect.receive_maximum.min(limits.inflight);
    let assigned = connect.client_id.is_empty().then(|| arrival.shared.assign_id());
    let id: Arc<str> = assigned.as_deref().unwrap_or(&connect.client_id).into();
    let identity = match admit(&arrival, &connect, &id).await {
        Ok(identity) => identity,
        Err(reason) => return turn_away(&mut arrival, &connect, reason).await,
    };
    let expiry = expiry(&connect, arrival.shared.bounds.session_expiry_max);
    let told = Welcome {
        assigned_id: assigned.as_deref(),
        session_expiry: (expiry != connect.session_expiry).then_some(expiry),
        receive_maximum: RECEIVE_MAXIMUM,
        alias_maximum: ALIASES_MAX,
        maximum_packet: limits.packet_bytes,
        max_qos: Some(arrival.terms.max_qos),
        no_retain: !arrival.terms.retain_available,
        keep_alive,
        ..Welcome::default()
    };
    if encoded(version, &told).len() > connect.maximum_packet as usize {
        tracing::debug!(peer = %arrival.shown.peer, client = &*id, "its maximum packet size is too small for CONNACK");
        return arrival.shared.stats.connects_refused.one();
    }
    // Not kept for as long as the client stays.
    (connect.user, connect.password) = (None, None);
    let outbox = Arc::new(Outbox::new(Arc::clone(&arrival.shared.waiting), limits.queued_bytes));
    if let Some(certificate) = &arrival.shown.certificate {
        certificate.guest.connected(&outbox);
    }
    let newcomer = Newcomer {
        id: Arc::clone(&id),
        identity: identity.clone(),
        version: if version == Version::V5 { 5 } else { 4 },
        clean_start: connect.clean_start,
        expiry,
        will: LastWill::of(&mut connect, &identity),
        outbox: Arc::clone(&outbox),
    };
    let entered = match arrival.shared.enter(newcomer).await {
        Ok(entered) => entered,
        Err(reason) => {
            if arrival.shared.talk.allows() {
                tracing::info!(peer = %arrival.shown.peer, client = &*id, reason, "client refused");
            }
            return turn_away(&mut arrival, &connect, reason).await;
        }
    };
    let seat = Seat::new(Arc::clone(&arrival.shared), entered.key, Arc::clone(&id), Arc::clone(&outbox));
    if let Some(place) = &arrival.place {
        let _ = place.set((entered.key, Arc::clone(&outbox))); // a place is given once
    }
    let (present, dropped) = (entered.present, entered.dropped);
    if entered.ended {
        // Whoever begins anew is not to find the old session again, should the gateway be cut off. A disk that fails holds
        // nobody up.
        let _ = arrival.shared.disk.committed().await;
    }
    log(&arrival, (&id, version), (present, dropped));
    let told = Welcome { session_present: present && !connect.legacy, dropped, ..told };
    let out = fitting(version, &told, connect.maximum_packet as usize);
    arrival.shared.stats.packets_received.one();
    arrival.shared.stats.packets_sent.one();
    let mut connection = Connection::new(seat, *entered, (&connect, identity), arrival.terms);
    connection.hear_of(arrival.pressure);
    let intake =
        Intake::new(arrived, arrival.places, longest_packet((arrival.shown.peer, arrival.terms.watch), &limits));
    until_closed(connection.run(arrival.stream, intake, out), &arrival.closed, &outbox).await;
}

impl Porch {
    /// Of somebody who came to this door.
    pub(super) fn arrival(&self, stream: Stream, shown: Shown) -> Arrival {
        let (shared, places) = (Arc::clone(&self.shared), Arc::clone(&self.places));
        let ListenerPlan { anonymous, identity, require_client_id, max_qos, .. } = self.plan;
        let terms = Terms::new(max_qos, &shared.limits);
        Arrival {
            stream,
            shown,
            anonymous,
            identity,
            require_client_id,
            terms,
            shared,
            places,
            closed: self.closed.clone(),
            place: None,
            pressure: None,
        }
    }
}

/// `present`: its session was kept for it, and `dropped` messages of that one were not.
fn log(arrival: &Arrival, (client, version): (&str, Version), (present, dropped): (bool, u64)) {
    if arrival.shared.talk.allows() {
        tracing::info!(peer = %arrival.shown.peer, client, version = ?version, present, "client connected");
    }
    if dropped > 0 {
        tracing::warn!(client, dropped, "messages found no room while the client was away");
    }
}

/// Of whoever is at the other end, bytes. What a door of ours makes of its clients' datagrams is bounded by those.
fn longest_packet(end: (Peer, Watch), limits: &BrokerLimits) -> u32 {
    match end {
        (Peer::Inside, _) => INSIDE_BYTES_MAX,
        (_, Watch::Doors) => PACKET_BYTES_MAX,
        (_, Watch::Ours) => limits.packet_bytes,
    }
}

/// A client whose door is taken away is told to go: what it may do here was the door's to say.
async fn until_closed(serving: impl Future<Output = ()>, closed: &CancellationToken, outbox: &Outbox) {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        () = &mut serving => return,
        () = closed.cancelled() => outbox.end(Ending::NotAllowed),
    }
    serving.await;
}

/// Within so many bytes: user properties go first (3.2.2-20).
fn fitting(version: Version, told: &Welcome<'_>, most: usize) -> BytesMut {
    let out = encoded(version, told);
    if out.len() > most { encoded(version, &Welcome { dropped: 0, ..*told }) } else { out }
}

fn encoded(version: Version, told: &Welcome<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    encode::welcome(&mut out, version, told);
    out
}

/// Seconds the session is to outlive the connection. In 3.1.1 a session without `clean_session` has no end; here it has one.
fn expiry(connect: &Connect, longest: u32) -> u32 {
    match connect.version {
        Version::V311 if connect.clean_start => 0,
        Version::V311 => longest,
        Version::V5 => connect.session_expiry.min(longest),
    }
}
