//! One connected client: moves bytes between its socket, its session and its outbox until one of them ends.
//!
//! Input is read only while there is room for what it may cause: publishes that wait to be settled, and output that
//! the client has not taken. So a client that sends without reading stops itself, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::duty::Duty;
use super::intake::Intake;
use super::stream::Stream;
use crate::access::Identity;
use crate::broker::core::Shared;
use crate::broker::outbox::Outbox;
use crate::broker::retained::Rest;
use crate::broker::session::{Ending, Session};
use crate::broker::tree::ClientKey;
use crate::broker::wire::{Connect, decode, encode};

/// Output that may be encoded and not yet taken by the socket: enough to keep it busy, little enough to stay fresh.
const OUT_BYTES: usize = 32 * 1024;

/// A client that does not take a single byte of what is there for it is given up after this long: it hangs, or its
/// host is gone without a word, and all that time its values cost memory.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// Pause of a client whose filters match next to nothing among very many retained messages.
const BREATH: Duration = Duration::from_millis(1);

/// Packets dealt with before others get their turn.
const PACKETS: usize = 64;

/// For the last words on a connection, and for what waits when the gateway stops.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_millis(1500);

/// A client's place in the core; given back however its task ends, with the will if nobody said otherwise.
pub(super) struct Seat {
    pub shared: Arc<Shared>,
    pub key: ClientKey,
    pub id: Arc<str>,
    ending: Ending,
}

impl Seat {
    pub(super) fn new(shared: Arc<Shared>, key: ClientKey, id: Arc<str>) -> Self {
        Self { shared, key, id, ending: Ending::Lost }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.leave(self.key, self.ending);
    }
}

/// What was left for the next round, so that others get their turn.
struct Left {
    /// Were there packets?
    dealt: bool,
    /// Packets that have come.
    packets: Rest,
    /// Retained messages to be looked through.
    retained: Rest,
}

/// A connection after CONNACK.
pub(super) struct Connection {
    duty: Duty,
    seat: Seat,
    outbox: Arc<Outbox>,
}

impl Connection {
    pub(super) fn new(seat: Seat, state: (Arc<Outbox>, Session), connect: &Connect, identity: Identity) -> Self {
        let (outbox, session) = state;
        let duty = Duty::new(&seat, Arc::clone(&outbox), session, (connect, identity));
        Self { duty, seat, outbox }
    }

    /// Runs to the end. `intake` holds what has come after CONNECT already, `out` begins with CONNACK.
    pub(super) async fn run(mut self, stream: Stream, mut intake: Intake, mut out: BytesMut) {
        let (mut reader, mut writer) = stream.into_split();
        let ending = self.serve((&mut reader, &mut intake), (&mut writer, &mut out)).await;
        self.seat.ending = ending;
        self.log(ending);
        if ending == Ending::Stopping {
            // What waits is still sent, for a short while.
            drop(tokio::time::timeout(DRAIN_MAX, self.drain(&mut writer, &mut out)).await);
        }
        // The place is free, and the will sent, before the last words: they may take a while.
        let version = self.duty.version();
        // Longer than any reason string with its packet, or it is left out.
        let told = if self.duty.maximum_packet >= 128 { ending.told() } else { "" };
        let shared = Arc::clone(&self.seat.shared);
        drop(self);
        let Some(reason) = ending.reason() else {
            return;
        };
        encode::disconnect(&mut out, version, reason, told);
        let last_words = async {
            writer.write_all(&out).await?;
            writer.shutdown().await?;
            // Closing with unread input would make the system throw the last words away.
            intake.exhaust(&mut reader).await
        };
        shared.stats.bytes_sent.add(out.len() as u64);
        // Whoever is not there to hear them has gone already.
        drop(tokio::time::timeout(LAST_WORDS_MAX, last_words).await);
    }

    async fn serve<R, W>(&mut self, input: (&mut R, &mut Intake), output: (&mut W, &mut BytesMut)) -> Ending
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let ((reader, intake), (writer, out)) = (input, output);
        let mut progress = Instant::now();
        loop {
            // A stall begins when there is something to take.
            if out.is_empty() {
                progress = Instant::now();
                if out.capacity() > 4 * OUT_BYTES {
                    *out = BytesMut::new(); // one large message blew it up
                }
            }
            let left = match self.work(intake, out) {
                Ok(left) => left,
                Err(ending) => return ending,
            };
            // Whoever is to get what has just come gets it before its sender gets its answer; and whoever has more to say
            // lets others speak.
            if left.dealt || out.len() >= OUT_BYTES {
                tokio::task::yield_now().await;
            }
            // Not before all that has come is dealt with: a goodbye may be in it, and the end of the stream behind it.
            let may_read = left.packets == Rest::Nothing && !self.duty.is_full() && out.len() < OUT_BYTES;
            // Silence is measured only while we listen.
            if !may_read {
                self.duty.excuse();
            }
            let silent_at = [self.duty.silent_at(), intake.due()].into_iter().flatten().min().filter(|_| may_read);
            let stalled_at = (!out.is_empty()).then(|| progress + STALLED_MAX);
            let alarm = silent_at.into_iter().chain(stalled_at).min();
            let alarm_at = alarm.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                read = intake.read(reader), if may_read => match read {
                    Ok(count @ 1..) => self.seat.shared.stats.bytes_received.add(count as u64),
                    Ok(0) | Err(_) => return Ending::Lost,
                },
                written = writer.write(out), if !out.is_empty() => match written {
                    Ok(count @ 1..) => {
                        out.advance(count);
                        progress = Instant::now();
                        self.seat.shared.stats.bytes_sent.add(count as u64);
                    }
                    Ok(0) | Err(_) => return Ending::Lost,
                },
                () = self.outbox.rung() => {}
                () = self.duty.settled() => {}
                () = std::future::ready(()), if left.packets == Rest::More => {}
                () = tokio::time::sleep(BREATH), if left.retained == Rest::More => {}
                () = tokio::time::sleep_until(alarm_at), if alarm.is_some() => {
                    return if alarm == stalled_at { Ending::TooSlow } else { Ending::Silent };
                }
            }
        }
    }

    /// What can be done without waiting, up to a measure.
    fn work(&mut self, intake: &mut Intake, out: &mut BytesMut) -> Result<Left, Ending> {
        let mut packets = 0;
        while packets < PACKETS && !self.duty.is_full() && out.len() < OUT_BYTES {
            packets += 1;
            let packet = match intake.next() {
                Ok(Some(frame)) => decode(frame, self.duty.version()),
                Ok(None) => break,
                Err(fault) => Err(fault),
            };
            if let Some(ending) = self.duty.packet(packet.map_err(Ending::Fault)?, out) {
                return Err(ending);
            }
        }
        if let Some(ending) = self.duty.take_settled(out).or_else(|| self.outbox.ending()) {
            return Err(ending);
        }
        let retained = self.duty.send(out, OUT_BYTES);
        Ok(Left { dealt: packets > 1, packets: if packets == PACKETS { Rest::More } else { Rest::Nothing }, retained })
    }

    /// Sends what still waits, without acknowledgements being read: as much as the client's window takes.
    async fn drain<W: AsyncWrite + Unpin>(&mut self, writer: &mut W, out: &mut BytesMut) {
        loop {
            let rest = self.duty.send(out, OUT_BYTES);
            if out.is_empty() {
                match rest {
                    Rest::Nothing => return,
                    Rest::More => tokio::task::yield_now().await,
                }
                continue;
            }
            match writer.write(out).await {
                Ok(count @ 1..) => {
                    out.advance(count);
                    self.seat.shared.stats.bytes_sent.add(count as u64);
                }
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn log(&self, ending: Ending) {
        let client = &*self.seat.id;
        if let Ending::Fault(_) = ending {
            self.seat.shared.stats.faults.one();
        }
        if !self.seat.shared.talk.allows() {
            return;
        }
        match ending {
            Ending::Goodbye | Ending::GoodbyeWithWill => tracing::info!(client, "client disconnected"),
            Ending::Stopping => tracing::debug!(client, "client is told that the gateway stops"),
            Ending::Fault(fault) => tracing::warn!(client, error = %fault, "client disconnected for a fault"),
            ending => tracing::warn!(client, reason = ?ending, "client connection ended"),
        }
    }
}
