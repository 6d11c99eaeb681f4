//! A connection to our own broker: MQTT through memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::inner::{self, Heard};
use crate::broker::door::shown::Shown;
use crate::broker::door::stream::Stream;
use crate::broker::door::terms::Watch;
use crate::broker::door::welcome::welcome;
use crate::broker::door::{Place, Porch};
use crate::broker::wire::{Connect, PACKET_BYTES_MAX, frame};

/// Bytes on their way, each way: a message or two.
const PIPE_BYTES: usize = 4 * 1024;

/// Read at a time.
const READ_BYTES: usize = 4 * 1024;

/// What the broker writes before it knows that a sensor sleeps is taken from it, up to this: what it has encoded, the pipe, and
/// some more.
const LEFT_BYTES_MAX: usize = 128 * 1024;

/// How long the broker may take to hear a goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Our end of it.
pub(super) struct Pipe {
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    arrived: BytesMut,
    /// When that came: bytes, in order.
    came: VecDeque<(usize, Instant)>,
    serving: JoinHandle<()>,
    place: Arc<OnceLock<Place>>,
}

impl Pipe {
    /// Somebody comes in; CONNACK is the first that is heard.
    pub(super) fn enter<P: Send + 'static>(
        porch: &Porch,
        tracker: &TaskTracker,
        (shown, connect): (Shown, Connect),
        pass: P,
    ) -> Self {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let mut arrival = porch.arrival(Stream::layered(theirs), shown);
        let place = Arc::new(OnceLock::new());
        arrival.place = Some(Arc::clone(&place));
        arrival.terms.watch = Watch::Doors;
        arrival.shared.stats.connects.one();
        let serving = tracker.spawn(async move {
            let _pass = pass;
            welcome(arrival, connect, BytesMut::new()).await;
        });
        let (reader, writer) = split(ours);
        Self { reader, writer, arrived: BytesMut::new(), came: VecDeque::new(), serving, place }
    }

    /// Where it is in the core, if it is in.
    pub(super) fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Reads what the broker says or takes what there is to say to it, whichever comes first. 0: it has ended. Cancel-safe.
    pub(super) async fn turn(&mut self, may_read: bool, packets: &mut BytesMut) -> io::Result<usize> {
        self.arrived.reserve(READ_BYTES);
        let (reader, writer, arrived) = (&mut self.reader, &mut self.writer, &mut self.arrived);
        tokio::select! {
            read = reader.read_buf(arrived), if may_read => {
                let count = read?;
                self.came.push_back((count, Instant::now()));
                Ok(count)
            }
            written = writer.write(packets), if !packets.is_empty() => {
                let count = written?;
                packets.advance(count);
                if packets.is_empty() {
                    *packets = BytesMut::new(); // a sensor that is silent for hours keeps no buffer
                }
                Ok(count)
            }
            else => std::future::pending().await,
        }
    }

    /// The next of what the broker has said.
    pub(super) fn next(&mut self) -> Option<Heard> {
        loop {
            let before = self.arrived.len();
            let frame = frame(&mut self.arrived, PACKET_BYTES_MAX).ok().flatten();
            let Some(frame) = frame else {
                if self.arrived.is_empty() {
                    (self.arrived, self.came) = (BytesMut::new(), VecDeque::new());
                }
                return None;
            };
            let came = self.take_time(before - self.arrived.len());
            if let heard @ Some(_) = inner::read(frame, came) {
                return heard;
            }
        }
    }

    /// When the first of so many bytes came, which have been taken.
    fn take_time(&mut self, mut taken: usize) -> Instant {
        let first = self.came.front().map_or_else(Instant::now, |(_, at)| *at);
        while let Some((count, _)) = self.came.front_mut() {
            if *count > taken {
                *count -= taken;
                break;
            }
            taken -= *count;
            self.came.pop_front();
        }
        first
    }

    /// May more be left lying here, for a sensor that sleeps? Its time runs from when it came.
    pub(super) fn has_room(&self) -> bool {
        self.arrived.len() < LEFT_BYTES_MAX
    }

    /// Has the broker ended it?
    pub(super) fn is_over(&self) -> bool {
        self.serving.is_finished()
    }

    /// Waits for that. Cancel-safe.
    pub(super) async fn over(&mut self) {
        let _ = (&mut self.serving).await; // however it ended
    }

    /// Says goodbye: the will is not sent. What the broker still says is not heard any more.
    pub(super) async fn leave(self, mut packets: BytesMut) {
        let Self { mut reader, mut writer, mut arrived, serving, .. } = self;
        inner::disconnect(&mut packets);
        // Not closed after it: the broker closes when it has heard it.
        let saying = writer.write_all(&packets);
        let hearing = async {
            loop {
                arrived.clear();
                match reader.read_buf(&mut arrived).await {
                    Ok(1..) => arrived.reserve(READ_BYTES),
                    _ => return,
                }
            }
        };
        // Whoever does not take it in time takes it that we have gone.
        drop(tokio::time::timeout(GOODBYE_MAX, async { tokio::join!(saying, hearing) }).await);
        drop((reader, writer));
        if !serving.is_finished() {
            let _ = serving.await;
        }
    }

    /// Goes without a word: the will is sent.
    pub(super) async fn vanish(self) {
        let Self { reader, writer, serving, .. } = self;
        drop((reader, writer));
        if !serving.is_finished() {
            let _ = serving.await;
        }
    }
}
