//! One connected client: moves bytes between its socket, its session and its outbox until one of them ends.
//!
//! Input is read only while there is room for what it may cause: publishes that wait to be settled, and output that
//! the client has not taken. So a client that sends without reading stops itself, and nobody else.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::duty::Duty;
use super::intake::{Came, Intake};
use super::output::Output;
use super::stream::Stream;
use super::terms::{Terms, Watch};
use super::turns::{at_once, give_way};
use crate::access::Identity;
use crate::broker::core::{Company, Entered, Leaving, Shared};
use crate::broker::outbox::{Line, Outbox};
use crate::broker::retained::Rest;
use crate::broker::session::Ending;
use crate::broker::tree::ClientKey;
use crate::broker::wire::{Connect, encode};
use crate::road::inside::Pressure;

/// Output that may be encoded and not yet taken by the socket: enough to keep it busy, little enough to stay fresh.
const OUT_BYTES: usize = 32 * 1024;

/// A client that does not take a single byte of what is there for it is given up after this long: it hangs, or its
/// host is gone without a word, and all that time its values cost memory.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// When nothing will be due, it is looked again after this long.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Pause of a client whose filters match next to nothing among very many retained messages.
const BREATH: Duration = Duration::from_millis(1);

/// Packets dealt with before others get their turn.
const PACKETS: usize = 64;

/// And bytes of topic filters in them, of which there may be one in three bytes.
const FILTER_BYTES: usize = 16 * 1024;

/// What a client said before its connection was taken over or broke is heard within these bounds: bytes read then, and the
/// time for what must be settled before more is read.
const UNHEARD_MAX: usize = 1024 * 1024;
const HEAR_OUT_MAX: Duration = Duration::from_secs(1);

/// The rest of a burst comes within this, or is not waited for.
const ON_ITS_WAY_MAX: Duration = Duration::from_millis(20);

/// For the last words on a connection, and for what waits when the gateway stops.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_millis(1500);

/// A client's place in the core; given back however its task ends, with the will if nobody said otherwise.
pub(super) struct Seat {
    pub shared: Arc<Shared>,
    pub key: ClientKey,
    pub id: Arc<str>,
    pub outbox: Arc<Outbox>,
    leaving: Leaving,
}

impl Seat {
    pub(super) fn new(shared: Arc<Shared>, key: ClientKey, id: Arc<str>, outbox: Arc<Outbox>) -> Self {
        Self { shared, key, id, outbox, leaving: Leaving::default() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.leave(self.key, &self.outbox, std::mem::take(&mut self.leaving));
    }
}

/// What was left for the next round, so that others get their turn.
struct Left {
    /// Packets that may have come.
    packets: Rest,
    /// Retained messages to be looked through.
    retained: Rest,
}

/// A connection after CONNACK.
pub(super) struct Connection {
    duty: Duty,
    seat: Seat,
    /// Lent while there is nothing to do; none where something lies between MQTT and the socket.
    line: Option<Line>,
}

impl Connection {
    pub(super) fn new(seat: Seat, entered: Entered, client: (&Connect, Identity), terms: Terms) -> Self {
        let duty = Duty::new(&seat, entered, client, terms);
        Self { duty, seat, line: None }
    }

    /// Hears there who has too much of what it says.
    pub(super) fn hear_of(&mut self, pressure: Option<Arc<Pressure>>) {
        self.duty.pressure = pressure;
    }

    /// Runs to the end. `intake` holds what has come after CONNECT already, `out` begins with CONNACK.
    pub(super) async fn run(mut self, stream: Stream, mut intake: Intake, out: BytesMut) {
        let mut out = Output::new(out);
        let (mut reader, mut writer) = stream.into_split();
        self.line = writer.socket().map(|socket| self.duty.line(socket));
        let mut ending = self.serve((&mut reader, &mut intake), (&mut writer, &mut out)).await;
        self.take_back(&mut out);
        if ending == Ending::TakenOver {
            tokio::task::yield_now().await; // the sockets are asked: what has arrived is known of afterwards
        }
        if matches!(ending, Ending::TakenOver | Ending::Lost) {
            ending = self.hear_out((&mut reader, &mut intake), &mut out).await.unwrap_or(ending);
        }
        self.log(ending);
        if ending == Ending::Stopping {
            // What waits is still sent, for a short while.
            drop(tokio::time::timeout(DRAIN_MAX, self.drain(&mut writer, &mut out)).await);
        }
        // The place is free, and the will sent, before the last words: they may take a while.
        self.seat.leaving = self.duty.leaving(ending);
        let version = self.duty.version();
        // Longer than any reason string with its packet, or it is left out.
        let told = if self.duty.maximum_packet >= 128 { ending.told() } else { "" };
        let shared = Arc::clone(&self.seat.shared);
        drop(self);
        let Some(reason) = ending.reason() else {
            return;
        };
        encode::disconnect(&mut out.bytes, version, reason, told);
        shared.stats.bytes_sent.add(out.len() as u64);
        let last_words = async {
            out.write_all(&mut writer).await?;
            writer.shutdown().await?;
            // Closing with unread input would make the system throw the last words away.
            intake.exhaust(&mut reader).await
        };
        // Whoever is not there to hear them has gone already.
        drop(tokio::time::timeout(LAST_WORDS_MAX, last_words).await);
    }

    async fn serve<R, W>(&mut self, input: (&mut R, &mut Intake), output: (&mut W, &mut Output)) -> Ending
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let ((reader, intake), (writer, out)) = (input, output);
        let (mut stalled_since, mut lent, mut listened) = (None, false, true);
        // Lives as long as the connection and is set anew only for something earlier: a timer per packet costs more than
        // the packet.
        let mut watch = pin!(tokio::time::sleep_until(Instant::now() + NOTHING_DUE));
        loop {
            // A stall begins when there is something to take.
            if out.is_empty() {
                stalled_since = None;
                out.shrink(4 * OUT_BYTES);
            }
            if std::mem::take(&mut lent) {
                self.take_back(out);
            }
            let left = match self.work(intake, out) {
                Ok(left) => left,
                Err(ending) => return ending,
            };
            let full = out.is_full(OUT_BYTES);
            // Whoever waits for a message is older in line than who waits to hear that it has gone on.
            if self.duty.take_sent_on() > 0 {
                give_way().await;
            }
            // What goes without waiting goes first.
            if !out.is_empty()
                && let Some(written) = at_once(writer.write(out.front()))
                && !self.written(&written, out, &mut stalled_since)
            {
                return Ending::Lost;
            }
            // There may be more to say than had room in `out`.
            let more = full && !out.is_full(OUT_BYTES) || left.packets == Rest::More && self.takes_more(intake, out);
            // Not before all that has come is dealt with: a goodbye may be in it, and the end of the stream behind it.
            let may_read =
                left.packets == Rest::Nothing && (!full || out.is_full(OUT_BYTES)) && self.takes_more(intake, out);
            // Where nothing else is to be done, it is read below.
            let read = if may_read && (more || intake.needs_place()) { at_once(intake.read(reader)) } else { None };
            // Silence is measured only while we listen, from when we begin to.
            let listens = may_read && !intake.is_in_line();
            if !std::mem::replace(&mut listened, listens) || !listens {
                self.duty.excuse();
            }
            if read.as_ref().is_some_and(|read| !self.has_read(read)) {
                return Ending::Lost;
            }
            // Whoever has more to say, or to hear, lets others have their turn: as long as sockets are ready, nothing below
            // would give way before it has gone round a hundred times.
            if more {
                tokio::task::yield_now().await;
            }
            if more || read.is_some() {
                continue;
            }
            let silent_at = [self.duty.silent_at(), intake.due()].into_iter().flatten().min().filter(|_| listens);
            let may_stall = self.duty.terms.watch == Watch::Doors;
            let stalled_at =
                (!out.is_empty() && !may_stall).then(|| *stalled_since.get_or_insert_with(Instant::now) + STALLED_MAX);
            let alarm = [silent_at, stalled_at, out.due().filter(|_| !may_stall)].into_iter().flatten().min();
            if alarm.is_some_and(|alarm| alarm < watch.deadline()) || watch.is_elapsed() {
                watch.as_mut().reset(alarm.unwrap_or_else(|| Instant::now() + NOTHING_DUE));
            }
            lent = self.lend(&left, out);
            // In this order: whatever it is, the next round looks at everything.
            tokio::select! {
                biased;
                read = intake.read(reader), if may_read => if !self.has_read(&read) {
                    return Ending::Lost;
                },
                written = writer.write(out.front()), if !out.is_empty() => if !self.written(&written, out, &mut stalled_since) {
                    return Ending::Lost;
                },
                () = self.seat.outbox.rung() => {}
                () = self.duty.settled() => {}
                () = tokio::time::sleep(BREATH), if left.retained == Rest::More => {}
                () = &mut watch => if let Some(ending) = self.alarmed(alarm, stalled_at, out) {
                    return ending;
                },
            }
        }
    }

    /// Is it time for one of these? A long message may take longer while there is room for all.
    fn alarmed(&self, alarm: Option<Instant>, stalled_at: Option<Instant>, out: &mut Output) -> Option<Ending> {
        if alarm? > Instant::now() {
            return None;
        }
        if alarm == stalled_at || alarm == out.due() && self.seat.outbox.is_filling() {
            return Some(Ending::TooSlow);
        }
        if alarm != out.due() {
            return Some(Ending::Silent);
        }
        out.put_off(Instant::now());
        None
    }

    /// Nothing to do but wait: what comes next may be written by whoever has it. Has the line been lent?
    fn lend(&self, left: &Left, out: &Output) -> bool {
        let nothing = out.is_empty() && left.retained == Rest::Nothing;
        let line = self.line.as_ref().filter(|_| nothing && self.duty.lends());
        line.inspect(|line| self.seat.outbox.lend(line, self.duty.next_id())).is_some()
    }

    /// The line is ours again.
    fn take_back(&mut self, out: &mut Output) {
        if let Some(qos) = self.seat.outbox.take_back(&mut out.bytes) {
            self.duty.launched(qos);
        }
    }

    /// False: the connection is gone.
    fn has_read(&self, read: &io::Result<Came>) -> bool {
        match *read {
            Ok(Came::Place) => true,
            Ok(Came::Bytes(count @ 1..)) => {
                self.seat.shared.stats.bytes_received.add(count as u64);
                true
            }
            Ok(Came::Bytes(0)) | Err(_) => false,
        }
    }

    /// False: the connection is gone.
    fn written(&self, written: &io::Result<usize>, out: &mut Output, stalled: &mut Option<Instant>) -> bool {
        let Ok(count @ 1..) = *written else { return false };
        out.advance(count);
        *stalled = None;
        self.seat.shared.stats.bytes_sent.add(count as u64);
        true
    }

    /// What can be done without waiting, up to a measure.
    fn work(&mut self, intake: &mut Intake, out: &mut Output) -> Result<Left, Ending> {
        // First: it may make room for more packets.
        if let Some(ending) = self.duty.take_settled(&mut out.bytes) {
            return Err(ending);
        }
        let packets = self.packets(intake, out, self.heard_up_to())?;
        if let Some(ending) = self.seat.outbox.ending() {
            return Err(ending);
        }
        let retained = self.duty.send(out, OUT_BYTES);
        self.duty.tell_rest(&mut out.bytes);
        Ok(Left { packets, retained })
    }

    /// Deals with packets that have come, up to a measure, while there is room for what they cause.
    fn packets(&mut self, intake: &mut Intake, out: &mut Output, most_out: usize) -> Result<Rest, Ending> {
        let mut filters = 0;
        for number in 0..PACKETS {
            if self.duty.is_full(intake.next_bytes()) || out.len() >= most_out || filters >= FILTER_BYTES {
                break;
            }
            let packet = match intake.next() {
                Ok(Some(frame)) => {
                    filters += frame.filter_bytes();
                    self.duty.decode(frame)
                }
                Ok(None) => return Ok(Rest::Nothing),
                Err(fault) => Err(fault),
            };
            self.duty.company = if number == 0 && intake.is_empty() { Company::Alone } else { Company::InRow };
            if let Some(ending) = self.duty.packet(packet.map_err(Ending::Fault)?, &mut out.bytes) {
                return Err(ending);
            }
        }
        Ok(Rest::More)
    }

    /// Deals with what the client had sent before its connection was of no use any more, waiting no longer than the rest of
    /// a burst takes: a goodbye may be in it, and then it is that which ended the connection.
    async fn hear_out<R>(&mut self, input: (&mut R, &mut Intake), out: &mut Output) -> Option<Ending>
    where
        R: AsyncRead + Unpin,
    {
        let (reader, intake) = input;
        let (mut bytes, until) = (0, Instant::now() + HEAR_OUT_MAX);
        while Instant::now() < until {
            if let ending @ Some(_) = self.duty.take_settled(&mut out.bytes) {
                return ending;
            }
            match self.packets(intake, out, usize::MAX) {
                Err(ending) => return Some(ending),
                Ok(Rest::More) if self.duty.is_full(intake.next_bytes()) => {
                    tokio::time::timeout_at(until, self.duty.settled()).await.ok()?;
                }
                Ok(Rest::More) => {}
                Ok(Rest::Nothing) if bytes >= UNHEARD_MAX => return None,
                Ok(Rest::Nothing) => {
                    let read = tokio::time::timeout(ON_ITS_WAY_MAX, intake.read(reader)).await.ok()?;
                    bytes +=
                        self.has_read(&read).then_some(if let Ok(Came::Bytes(count)) = read { count } else { 0 })?;
                }
            }
            tokio::task::yield_now().await;
        }
        None
    }

    /// Is there room for what a packet may cause?
    fn takes_more(&mut self, intake: &Intake, out: &Output) -> bool {
        !self.duty.is_full(intake.next_bytes()) && out.len() < self.heard_up_to()
    }

    /// How much output there may be. Whoever may sleep on it is heard all the same: the answers have room of their own.
    fn heard_up_to(&self) -> usize {
        if self.duty.terms.watch == Watch::Doors { 2 * OUT_BYTES } else { OUT_BYTES }
    }

    /// Sends what still waits, without acknowledgements being read: as much as the client's window takes.
    async fn drain<W: AsyncWrite + Unpin>(&mut self, writer: &mut W, out: &mut Output) {
        loop {
            let rest = self.duty.send(out, OUT_BYTES);
            if out.is_empty() {
                match rest {
                    Rest::Nothing => return,
                    Rest::More => tokio::task::yield_now().await,
                }
                continue;
            }
            match writer.write(out.front()).await {
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
        self.seat.shared.stats.faults.add(u64::from(matches!(ending, Ending::Fault(_))));
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
