//! From the first byte to a whole CONNECT: a client that does not get that far in time is turned away.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;

use super::Arrival;
use super::stream::Stream;
use super::welcome::refuse;
use crate::broker::wire::{Connect, Fault, Frame, PACKET_BYTES_MAX, announced, frame};

/// A client has this long to send its CONNECT.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Longest CONNECT, bytes: a will of 64 KiB and all the rest. Strangers may have this much in memory, for a short while.
const CONNECT_BYTES_MAX: usize = 96 * 1024;

/// The first packet, if it is a CONNECT that can be served, and what came behind it; otherwise the client has had its
/// answer.
pub(super) async fn hear(arrival: &mut Arrival) -> Option<(Connect, BytesMut)> {
    let mut arrived = BytesMut::new();
    let first = tokio::time::timeout(CONNECT_MAX, first_packet(&mut arrival.stream, &mut arrived)).await;
    let first = match first {
        Ok(Ok(Some(first))) => first,
        silent_or_garbled => {
            arrival.shared.stats.turned_away.one();
            tracing::debug!(peer = %arrival.shown.peer, ?silent_or_garbled, "no CONNECT, closed");
            return None;
        }
    };
    arrival.shared.stats.connects.one();
    match Connect::read(first) {
        Ok(connect) => Some((connect, arrived)),
        Err(not_served) => {
            tracing::debug!(peer = %arrival.shown.peer, error = %not_served.fault, "CONNECT is not served");
            // A stranger's garbage gets no answer (3.1.0-1), a client's mistake does.
            match not_served.version {
                Some(version) => refuse(arrival, version, not_served.fault.reason()).await,
                None => arrival.shared.stats.faults.one(),
            }
            None
        }
    }
}

/// Reads until the first packet is whole; `None` when the other side closed.
async fn first_packet(stream: &mut Stream, arrived: &mut BytesMut) -> io::Result<Option<Frame>> {
    let garbled = |fault: Fault| io::Error::new(io::ErrorKind::InvalidData, fault);
    loop {
        // Not CONNECT: no reason to wait for the rest of it.
        if arrived.first().is_some_and(|first| *first != 0x10) {
            return Err(garbled(Fault::Protocol("the first packet is not CONNECT")));
        }
        if announced(arrived) > CONNECT_BYTES_MAX {
            return Err(garbled(Fault::TooLarge));
        }
        if let Some(frame) = frame(arrived, PACKET_BYTES_MAX).map_err(garbled)? {
            return Ok(Some(frame));
        }
        arrived.reserve(512);
        if stream.read_buf(arrived).await? == 0 {
            return Ok(None);
        }
    }
}
