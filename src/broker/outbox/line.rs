//! The short way to a client: while its connection only waits, a message may be written to its socket by whoever has it,
//! and spares the turn of another task.
//!
//! A connection that has nothing to say and nothing on its way [lends](Outbox::lend) its line, and takes it back when it
//! goes on. While it is lent nothing waits in the outbox, or the message goes there too: none overtakes another. What of a
//! packet the socket does not take goes back to the connection, which writes on. With the line goes one packet identifier,
//! for one message above QoS 0: that it is in flight the session hears with the line, before it hears any acknowledgement.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use tokio::time::Instant;

use super::Outbox;
use crate::broker::message::{Delivery, Qos};
use crate::broker::wire::encode::Outgoing;
use crate::broker::wire::{Naming, Version};

/// A longer packet takes the long way: this one is copied.
const PACKET_BYTES_MAX: usize = 4 * 1024;

/// Takes bytes that need not wait.
pub(in crate::broker) trait Socket: Send + Sync {
    /// How many it has taken; an error also when it would have to wait.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// Of one connection, as long as it lasts.
#[derive(Clone)]
pub(in crate::broker) struct Line {
    pub socket: Arc<dyn Socket>,
    pub version: Version,
    /// Longest packet that the client takes.
    pub maximum_packet: usize,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Outbox {
    /// For the one connection, which has nothing more to write. `packet_id`: free, if there is room in the client's window.
    pub(in crate::broker) fn lend(&self, line: &Line, packet_id: Option<u16>) {
        let mut queue = self.lock();
        (queue.line, queue.packet_id) = (Some(line.clone()), packet_id);
    }

    /// The line is the connection's again, with what is still to be written of a packet: before anything else. At which
    /// quality is a publish in flight now, under the identifier that was lent?
    pub(in crate::broker) fn take_back(&self, out: &mut BytesMut) -> Option<Qos> {
        let mut queue = self.lock();
        queue.line = None;
        if !queue.begun.is_empty() {
            out.extend_from_slice(&std::mem::take(&mut queue.begun));
        }
        queue.launched.take()
    }

    /// Writes a message that waits for nothing, if there is a line and it takes it: how many bytes have gone.
    pub(in crate::broker) fn send_at_once(&self, delivery: &Delivery) -> Option<usize> {
        // What others may get has to be remembered until it has arrived.
        if delivery.owed.is_some() || delivery.message.expires.is_some() || delivery.shared.is_some() {
            return None;
        }
        let mut queue = self.lock();
        let line = queue.line.as_ref().filter(|_| queue.waiting.is_empty() && queue.ending.is_none())?;
        let packet_id = if delivery.qos == Qos::AtMostOnce { 0 } else { queue.packet_id? };
        let outgoing = Outgoing::new(delivery, (line.version, Naming::Full), Instant::now);
        let length = outgoing.len();
        if length > line.maximum_packet.min(PACKET_BYTES_MAX) {
            return None;
        }
        let mut packet = BytesMut::with_capacity(length);
        outgoing.write(&mut packet, packet_id);
        // An error: the connection will find out.
        let count = line.socket.try_write(&packet).ok().filter(|count| *count > 0)?;
        if delivery.qos > Qos::AtMostOnce {
            (queue.packet_id, queue.launched) = (None, Some(delivery.qos));
        }
        if count < length {
            packet.advance(count);
            queue.begun = packet;
            queue.line = None;
            self.bell.notify_one();
        }
        Some(count)
    }
}
