//! Input that is not yet a whole packet, within bounds for all connections together: a thousand clients that each begin
//! a packet of a megabyte and never end it must not fill a small box. Short packets just come; for a long one a
//! connection needs one of a few places, and has to be quick about it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::broker::wire::{Fault, Frame, announced, frame};

/// A packet longer than this needs a place.
const LONG_BYTES: usize = 16 * 1024;

/// How many long packets may be on their way at once.
const LONG_AT_ONCE: usize = 16;

/// How long a long packet may take, from the moment it has its place.
const LONG_MAX: Duration = Duration::from_secs(20);

/// Input is read in pieces of at least this size, and of at most that while more comes than they hold.
const IN_BYTES: usize = 4 * 1024;
const IN_BYTES_MOST: usize = 16 * 1024;

/// The places for long packets.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LONG_AT_ONCE))
}

/// The input of one connection.
pub(super) struct Intake {
    arrived: BytesMut,
    /// How much to read at a time.
    piece: usize,
    places: Arc<Semaphore>,
    /// Longest packet.
    packet_bytes: u32,
    place: Option<(OwnedSemaphorePermit, Instant)>,
    /// In line for one; kept from call to call, or it would go to the end of the line each time.
    in_line: Option<InLine>,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// The place that was waited for: from now on the packet has to be quick.
    Place,
    /// So many bytes; 0 at the end.
    Bytes(usize),
}

type InLine = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

impl Intake {
    /// `arrived` has come already; no packet may be longer than `packet_bytes`.
    pub(super) fn new(arrived: BytesMut, places: Arc<Semaphore>, packet_bytes: u32) -> Self {
        Self { arrived, piece: IN_BYTES, places, packet_bytes, place: None, in_line: None }
    }

    /// The next packet, if it is whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Fault> {
        let next = frame(&mut self.arrived, self.packet_bytes)?;
        if next.is_some() {
            self.place = None;
            // A buffer that one long packet blew up is not kept for the life of the connection.
            if self.arrived.is_empty() && self.arrived.capacity() > 2 * LONG_BYTES {
                self.arrived = BytesMut::new();
            }
        }
        Ok(next)
    }

    /// Is all that has come dealt with?
    pub(super) fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Has a long packet begun that has no place yet?
    pub(super) fn needs_place(&self) -> bool {
        self.place.is_none() && announced(&self.arrived) > LONG_BYTES
    }

    /// How long the packet will be that comes next, as far as that is to be asked: whoever has a place for it goes on.
    pub(super) fn next_bytes(&self) -> usize {
        if self.place.is_none() { announced(&self.arrived) } else { 0 }
    }

    /// When the packet that is coming must have come.
    pub(super) fn due(&self) -> Option<Instant> {
        self.place.as_ref().map(|(_, due)| *due)
    }

    /// Does it wait for a place? Nothing is read meanwhile.
    pub(super) fn is_in_line(&self) -> bool {
        self.in_line.is_some()
    }

    /// Reads more, or waits for a place if a long packet has begun: never both, since the time of whoever has a place
    /// [runs](Self::due). Cancel-safe.
    pub(super) async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<Came> {
        if self.needs_place() {
            let places = Arc::clone(&self.places);
            let in_line = self.in_line.get_or_insert_with(|| Box::pin(places.acquire_owned()));
            let place = in_line.await;
            self.in_line = None;
            self.place = Some((place.map_err(io::Error::other)?, Instant::now() + LONG_MAX));
            return Ok(Came::Place);
        }
        self.arrived.reserve(self.piece);
        let room = self.arrived.capacity() - self.arrived.len();
        let count = reader.read_buf(&mut self.arrived).await?;
        if count == room {
            self.piece = IN_BYTES_MOST;
        } else if count < IN_BYTES {
            self.piece = IN_BYTES;
        }
        Ok(Came::Bytes(count))
    }

    /// Reads and forgets until the other side closes.
    pub(super) async fn exhaust<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<()> {
        self.arrived.clear();
        self.arrived.reserve(IN_BYTES);
        while reader.read_buf(&mut self.arrived).await? > 0 {
            self.arrived.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_packets_wait_for_a_place_and_give_it_back_and_short_ones_need_none() {
        let places = Arc::new(Semaphore::new(1));
        let begun = || BytesMut::from(&[0x30, 0x80, 0x80, 0x02][..]); // 32 KiB announced
        let (mut first, mut second) =
            (Intake::new(begun(), Arc::clone(&places), 1 << 20), Intake::new(begun(), places, 1 << 20));
        let body = vec![b'x'; 32 * 1024];
        assert!(first.read(&mut &body[..100]).await.is_ok_and(|came| came == Came::Place));
        assert!(first.read(&mut &body[..100]).await.is_ok_and(|came| came == Came::Bytes(100)));
        assert!(first.due().is_some());
        let mut all = &body[..];
        let waits = tokio::time::timeout(Duration::from_millis(10), second.read(&mut all));
        assert!(waits.await.is_err(), "no place");
        let mut short = Intake::new(BytesMut::new(), Arc::clone(&second.places), 1 << 20);
        assert!(short.read(&mut &[0xC0, 0][..]).await.is_ok_and(|came| came == Came::Bytes(2)));
        assert!(short.next().is_ok_and(|frame| frame.is_some()));
        let mut rest = &body[100..];
        while first.next().is_ok_and(|frame| frame.is_none()) {
            assert!(first.read(&mut rest).await.is_ok_and(|came| came != Came::Bytes(0)));
        }
        assert!(second.read(&mut &body[..]).await.is_ok_and(|came| came == Came::Place), "the place came back");
        assert!(second.due().is_some(), "and before anything is read its time runs");
    }
}
