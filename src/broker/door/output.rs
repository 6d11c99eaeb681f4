//! What is on its way to one client: encoded packets, and before them one long message.
//!
//! The content of a long message is not encoded but sent from where it lies: a thousand clients that get the same megabyte and
//! do not read hold it once. As long as it is here it counts among what waits for all clients.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::broker::message::{Delivery, Held};

/// How long a long message may take to go while nearly too much waits for all clients: whoever reads drop by drop would hold the
/// room that others need for theirs.
const LONG_MAX: Duration = Duration::from_secs(20);

/// As long as there is room for all, it is looked again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The output of one connection.
#[derive(Debug)]
pub(super) struct Output {
    long: Option<Long>,
    /// What goes after it.
    pub(super) bytes: BytesMut,
}

#[derive(Debug)]
struct Long {
    /// Everything before the content, other packets and the head of its own.
    head: BytesMut,
    content: Bytes,
    _held: Option<Held>,
    due: Instant,
}

impl Output {
    pub(super) fn new(bytes: BytesMut) -> Self {
        Self { long: None, bytes }
    }

    /// Bytes that the client has not taken.
    pub(super) fn len(&self) -> usize {
        self.long.as_ref().map_or(0, |long| long.head.len() + long.content.len()) + self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives memory back, if many answers blew it up beyond so many bytes. Only where it is empty.
    pub(super) fn shrink(&mut self, most: usize) {
        if self.bytes.capacity() > most {
            self.bytes = BytesMut::new();
        }
    }

    /// Should no more publishes be added? Not before a long one has gone: there is place for one.
    pub(super) fn is_full(&self, enough: usize) -> bool {
        self.long.is_some() || self.bytes.len() >= enough
    }

    /// The content of a long message, whose head has just been encoded.
    pub(super) fn follow(&mut self, message: Delivery, now: Instant) {
        debug_assert!(self.long.is_none(), "there is place for one");
        let (head, content) = (self.bytes.split(), message.message.payload.clone());
        self.long = Some(Long { head, content, _held: message.held, due: now + LONG_MAX });
    }

    /// What is to be written next, if anything is.
    pub(super) fn front(&self) -> &[u8] {
        match &self.long {
            Some(long) if !long.head.is_empty() => &long.head,
            Some(long) => &long.content,
            None => &self.bytes,
        }
    }

    /// So much of the front was written.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(long) = &mut self.long else { return self.bytes.advance(count) };
        if long.head.is_empty() {
            long.content.advance(count);
        } else {
            long.head.advance(count);
        }
        if long.head.is_empty() && long.content.is_empty() {
            self.long = None;
        }
    }

    /// Writes all of it.
    pub(super) async fn write_all(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while !self.is_empty() {
            match writer.write(self.front()).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.advance(count),
            }
        }
        Ok(())
    }

    /// When it is to be looked whether a long message takes too long.
    pub(super) fn due(&self) -> Option<Instant> {
        self.long.as_ref().map(|long| long.due)
    }

    /// It may take longer: there is room for all.
    pub(super) fn put_off(&mut self, now: Instant) {
        if let Some(long) = &mut self.long {
            long.due = now + LOOK_AGAIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::broker::message::{Keep, Message, Qos, Retain};

    fn delivery(payload: Bytes) -> Delivery {
        let message = Arc::new(Message::own("t".into(), payload, Keep::Every));
        let (qos, retain, ids) = (Qos::AtMostOnce, Retain::No, Vec::new());
        Delivery { message, qos, retain, ids, owed: None, shared: None, held: None }
    }

    #[test]
    fn a_long_message_lies_there_once_however_many_have_it_on_their_way_and_is_charged_until_the_last_has_it() {
        let (for_all, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let mut one = delivery(vec![7; 1_000_000].into());
        one.hold(&for_all);
        let mut outputs: Vec<Output> = (0..1000).map(|_| Output::new(BytesMut::from(&b"head"[..]))).collect();
        for output in &mut outputs {
            output.follow(one.clone(), now);
            output.bytes.extend_from_slice(b"behind");
        }
        drop(one);
        assert_eq!(for_all.load(Ordering::Relaxed), 1_000_000);
        let copied: usize = outputs.iter().map(|output| output.bytes.capacity()).sum();
        assert!(copied < 100_000, "{copied}");
        let mut last = outputs.pop().expect("one of a thousand");
        drop(outputs);
        assert_eq!((last.len(), for_all.load(Ordering::Relaxed)), (1_000_010, 1_000_000));
        let mut written = Vec::new();
        while !last.is_empty() {
            let piece = last.front().len().min(999_999);
            written.extend_from_slice(&last.front()[..piece]);
            last.advance(piece);
        }
        assert_eq!((&written[..4], &written[4..8], &written[1_000_004..]), (&b"head"[..], &[7; 4][..], &b"behind"[..]));
        assert_eq!(for_all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_behind_a_long_message_is_not_its_matter_and_a_second_one_waits() {
        let now = Instant::now();
        let mut output = Output::new(BytesMut::from(&b"x"[..]));
        assert!(!output.is_full(2));
        output.follow(delivery(vec![0; 40_000].into()), now);
        assert!(output.is_full(2) && output.due() == Some(now + LONG_MAX));
        output.put_off(now);
        assert_eq!(output.due(), Some(now + LOOK_AGAIN));
        output.advance(1);
        output.advance(39_999);
        assert!(output.is_full(2) && output.len() == 1);
        output.advance(1);
        assert!(!output.is_full(2) && output.is_empty() && output.due().is_none());
    }
}
