//! From the first byte to CONNACK: the version is told from CONNECT, the client admitted or refused with a reason.
//! A client that does not get that far in time is turned away.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Arrival;
use super::connection::{Connection, Seat};
use super::intake::Intake;
use crate::access::{Credentials, Identity, Refused};
use crate::broker::core::Newcomer;
use crate::broker::outbox::Outbox;
use crate::broker::session::{ALIASES_MAX, RECEIVE_MAXIMUM, Session};
use crate::broker::will::LastWill;
use crate::broker::wire::encode::{self, Welcome};
use crate::broker::wire::{Connect, Fault, Frame, Version, announced, frame};

/// A client has this long to send its CONNECT.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Bytes that may wait in the kernel for their first transmission (`TCP_NOTSENT_LOWAT`, tcp(7)). It would take megabytes for
/// a slow reader, and what is there cannot be replaced by a newer value any more.
const NOT_SENT_MAX: u32 = 64 << 10;

/// Longest CONNECT, bytes: a will of 64 KiB and all the rest. Strangers may have this much in memory, for a short while.
const CONNECT_BYTES_MAX: usize = 96 * 1024;

/// Longest client id, bytes: as for topics, nobody's plant needs the 65 535 that MQTT allows.
const CLIENT_ID_BYTES_MAX: usize = 1024;

/// Serves one connection from its first byte to its last.
pub(super) async fn receive(mut arrival: Arrival) {
    // Small packets both ways; without it every QoS 1 exchange would wait for a delayed TCP acknowledgement.
    let set = arrival.stream.set_nodelay(true);
    if let Err(error) = set.and_then(|()| SockRef::from(&arrival.stream).set_tcp_notsent_lowat(NOT_SENT_MAX)) {
        tracing::debug!(%error, "connection gone at once");
        return;
    }
    let mut arrived = BytesMut::new();
    let end = arrival.end.clone();
    let first = tokio::select! {
        first = tokio::time::timeout(CONNECT_MAX, first_packet(&mut arrival.stream, &mut arrived)) => first,
        () = end.cancelled() => return,
    };
    let first = match first {
        Ok(Ok(Some(first))) => first,
        silent_or_garbled => {
            arrival.shared.stats.turned_away.one();
            tracing::debug!(peer = %arrival.peer, ?silent_or_garbled, "no CONNECT, closed");
            return;
        }
    };
    match Connect::read(first) {
        Ok(connect) => welcome(arrival, connect, arrived).await,
        Err(not_served) => {
            tracing::debug!(peer = %arrival.peer, error = %not_served.fault, "CONNECT is not served");
            // A stranger's garbage gets no answer (3.1.0-1), a client's mistake does.
            match not_served.version {
                Some(version) => refuse(arrival, version, not_served.fault.reason()).await,
                None => arrival.shared.stats.faults.one(),
            }
        }
    }
}

/// Reads until the first packet is whole; `None` when the other side closed.
async fn first_packet(stream: &mut TcpStream, arrived: &mut BytesMut) -> io::Result<Option<Frame>> {
    let garbled = |fault: Fault| io::Error::new(io::ErrorKind::InvalidData, fault);
    loop {
        // Not CONNECT: no reason to wait for the rest of it.
        if arrived.first().is_some_and(|first| *first != 0x10) {
            return Err(garbled(Fault::Protocol("the first packet is not CONNECT")));
        }
        if announced(arrived) > CONNECT_BYTES_MAX {
            return Err(garbled(Fault::TooLarge));
        }
        if let Some(frame) = frame(arrived).map_err(garbled)? {
            return Ok(Some(frame));
        }
        arrived.reserve(512);
        if stream.read_buf(arrived).await? == 0 {
            return Ok(None);
        }
    }
}

async fn refuse(mut arrival: Arrival, version: Version, reason: u8) {
    arrival.shared.stats.connects_refused.one();
    let mut out = BytesMut::new();
    encode::refusal(&mut out, version, reason);
    let told = async {
        arrival.stream.write_all(&out).await?;
        arrival.stream.shutdown().await
    };
    // Whoever does not take its refusal is not waited for.
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), told).await {
        tracing::debug!(peer = %arrival.peer, %error, "refused client had gone");
    }
}

/// What is wrong with an intelligible CONNECT: the reason for CONNACK.
fn admit(arrival: &Arrival, connect: &Connect) -> Result<Identity, u8> {
    let shown = Credentials { user: connect.user.as_deref(), password: connect.password.as_deref() };
    let identity = arrival.shared.access.admit(arrival.anonymous, shown).map_err(|refused| {
        tracing::info!(peer = %arrival.peer, client = connect.client_id, error = %refused, "client refused");
        match refused {
            Refused::NotAuthorized => 0x87,
            Refused::BadCredentials => 0x86,
        }
    })?;
    let nameless_session = connect.version == Version::V311 && connect.client_id.is_empty() && !connect.clean_start;
    if nameless_session || connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(0x85); // 3.1.3-8: identifier rejected
    }
    Ok(identity)
}

async fn welcome(arrival: Arrival, mut connect: Connect, arrived: BytesMut) {
    let version = connect.version;
    let identity = match admit(&arrival, &connect) {
        Ok(identity) => identity,
        Err(reason) => return refuse(arrival, version, reason).await,
    };
    let assigned = connect.client_id.is_empty().then(|| arrival.shared.assign_id());
    let id: Arc<str> = assigned.as_deref().unwrap_or(&connect.client_id).into();
    let outbox = Arc::new(Outbox::new(Arc::clone(&arrival.shared.waiting)));
    let will = LastWill::of(&mut connect);
    let (clean_start, newcomer_box) = (connect.clean_start, Arc::clone(&outbox));
    let newcomer = Newcomer { id: Arc::clone(&id), identity, clean_start, will, outbox: newcomer_box };
    let Some(key) = arrival.shared.enter(newcomer) else {
        return refuse(arrival, version, 0x8B).await; // server shutting down
    };
    tracing::info!(peer = %arrival.peer, client = &*id, version = ?version, "client connected");
    let mut out = BytesMut::new();
    let told = Welcome {
        assigned_id: assigned.as_deref(),
        session_expiry_overruled: connect.session_expiry > 0,
        receive_maximum: RECEIVE_MAXIMUM,
        alias_maximum: ALIASES_MAX,
    };
    encode::welcome(&mut out, version, &told);
    arrival.shared.stats.packets_received.one();
    arrival.shared.stats.packets_sent.one();
    let session = Session::new(&connect, Instant::now());
    let seat = Seat::new(Arc::clone(&arrival.shared), key, id);
    let connection = Connection::new(seat, (outbox, session), &connect, identity);
    connection.run(arrival.stream, Intake::new(arrived, arrival.places), out).await;
}
