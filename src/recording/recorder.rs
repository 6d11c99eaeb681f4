//! Writing a recording: wires tell what happens, a thread of its own writes it down.
//!
//! Fed by the wires of a bus through [`Tape`]s. Promises: a wire never waits for the disk, what finds no place is counted
//! and written as a number, before the next event or before the end; every record is handed to the system within
//! [`FLUSH_AFTER`], so that a killed program loses no more, and to the disk every [`SYNC_AFTER`]; the file never grows beyond
//! its bound, and the recording ends there.
//!
//! Bytes that come in without a pause of [`PAUSE_MIN`] are one record with a begin and a duration: a serial line hands its
//! bytes on in crumbs, and a reply that comes in pieces is one with pauses that can be felt. A datagram is always a record of
//! its own: two that come together are not one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::record::{Codec, Event, HEADER, Head, Line, Record, What};
use crate::model::stats::Counter;

/// Events that may wait for the disk: a second of a busy site.
const WAITING_MAX: usize = 8192;
/// What happened is with the system after this long.
pub const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// And on the disk after this long.
pub const SYNC_AFTER: Duration = Duration::from_secs(10);
/// Between two pieces of a reply; less is how ports and networks hand bytes on.
pub const PAUSE_MIN: Duration = Duration::from_millis(3);
/// No record of bytes is longer, whatever babbles.
const BYTES_MAX: usize = 4096;

/// How large a recording may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the file.
    pub bytes_max: u64,
}

/// What anybody may know of a recording under way.
#[derive(Debug, Default)]
pub struct RecordingStats {
    /// Bytes of the file.
    pub bytes: Counter,
    /// Events in it.
    pub events: Counter,
    /// Events that found no place.
    pub missed: Counter,
    /// Not 0 once the bound was reached.
    pub full: Counter,
}

/// An event on its way to the disk.
#[derive(Debug)]
struct Noted {
    at: Instant,
    line: u32,
    connection: u32,
    what: What,
}

/// Where one connection of one line tells what happens; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tape {
    notes: SyncSender<Noted>,
    line: u32,
    connection: u32,
    told: Arc<RecordingStats>,
}

impl Tape {
    /// Something happened, at that moment. Never waits.
    pub fn note(&self, at: Instant, what: What) {
        let noted = Noted { at, line: self.line, connection: self.connection, what };
        match self.notes.try_send(noted) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.told.missed.one(),
        }
    }
}

/// A recording under way. Ends when it is told to, and when all its tapes are gone.
#[derive(Debug)]
pub struct Recorder {
    notes: SyncSender<Noted>,
    told: Arc<RecordingStats>,
    writer: JoinHandle<io::Result<()>>,
}

impl Recorder {
    /// Makes the file, which must not exist yet, and writes who is recorded.
    pub fn start(path: &Path, bounds: Bounds, head: Head, lines: Vec<Line>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let told = Arc::<RecordingStats>::default();
        let mut scribe =
            Scribe { file, codec: Codec::default(), bounds, out: HEADER.to_vec(), told: Arc::clone(&told) };
        scribe.put(&Record::Head(head));
        let datagrams = (0..).zip(&lines).filter(|(_, line)| line.is_datagrams()).map(|(ix, _)| ix).collect();
        for line in lines {
            scribe.put(&Record::Line(line));
        }
        scribe.flush()?;
        let (notes, noted) = sync_channel(WAITING_MAX);
        let began = Instant::now();
        let writer = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || Writer { began, scribe, datagrams, pending: BTreeMap::new(), missed: 0 }.run(&noted))?;
        Ok(Self { notes, told, writer })
    }

    /// For one connection of a line, by their positions.
    pub fn tape(&self, line: u32, connection: u32) -> Tape {
        Tape { notes: self.notes.clone(), line, connection, told: Arc::clone(&self.told) }
    }

    /// How it goes.
    pub fn told(&self) -> &Arc<RecordingStats> {
        &self.told
    }

    /// Has the writer given up?
    pub fn is_over(&self) -> bool {
        self.writer.is_finished()
    }

    /// Waits until everything is on disk; all tapes must be gone. Blocks.
    pub fn end(self) -> io::Result<()> {
        drop(self.notes);
        self.writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer of the recording panicked")))
    }
}

/// The file, and what is about to go there.
struct Scribe {
    file: File,
    codec: Codec,
    bounds: Bounds,
    out: Vec<u8>,
    told: Arc<RecordingStats>,
}

impl Scribe {
    fn put(&mut self, record: &Record) {
        self.codec.put(record, &mut self.out);
    }

    /// Would this much more fit, with an end behind it, and what was missed before that? These are 42 bytes at most.
    fn has_room(&self, more: usize) -> bool {
        self.told.bytes.get() + (self.out.len() + more) as u64 + 64 <= self.bounds.bytes_max
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.file.write_all(&self.out)?;
            self.told.bytes.add(self.out.len() as u64);
            self.out.clear();
        }
        Ok(())
    }
}

struct Writer {
    began: Instant,
    scribe: Scribe,
    /// Lines whose bytes come in datagrams.
    datagrams: BTreeSet<u32>,
    /// Bytes that came in and may go on, with the moment of the last of them.
    pending: BTreeMap<(u32, u32), (Noted, Instant)>,
    missed: u64,
}

impl Writer {
    fn run(mut self, noted: &Receiver<Noted>) -> io::Result<()> {
        let mut synced = Instant::now();
        loop {
            match noted.recv_timeout(FLUSH_AFTER) {
                Ok(first) => {
                    // Whatever waits by now goes with it, in one call to the system.
                    for noted in std::iter::once(first).chain(noted.try_iter().take(WAITING_MAX)) {
                        if !self.take(noted) {
                            return self.end();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.settle(),
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            self.scribe.flush()?;
            if synced.elapsed() >= SYNC_AFTER {
                self.scribe.file.sync_data()?;
                synced = Instant::now();
            }
        }
    }

    /// Takes one event; false: there is no room for it.
    fn take(&mut self, noted: Noted) -> bool {
        let key = (noted.line, noted.connection);
        if let (What::Received { bytes, .. }, Some((begun, last))) = (&noted.what, self.pending.get_mut(&key))
            && let What::Received { took, bytes: all } = &mut begun.what
            && !self.datagrams.contains(&noted.line)
            && noted.at.saturating_duration_since(*last) < PAUSE_MIN
            && all.len() + bytes.len() <= BYTES_MAX
        {
            all.extend_from_slice(bytes);
            *took = noted.at.saturating_duration_since(begun.at);
            *last = noted.at;
            return true;
        }
        if let Some((before, _)) = self.pending.remove(&key)
            && !self.write(before)
        {
            return false;
        }
        if matches!(noted.what, What::Received { .. }) {
            let at = noted.at;
            self.pending.insert(key, (noted, at));
            return true;
        }
        self.write(noted)
    }

    /// Nothing has happened for a while.
    fn settle(&mut self) {
        for (_, (noted, _)) in std::mem::take(&mut self.pending) {
            self.write(noted);
        }
    }

    fn write(&mut self, noted: Noted) -> bool {
        let Noted { at, line, connection, what } = noted;
        let at = at.saturating_duration_since(self.began);
        let size = match &what {
            What::Sent { bytes, .. } | What::Received { bytes, .. } => bytes.len(),
            What::NotOpened(error) | What::Closed { error, .. } => error.len(),
            What::Opened | What::Missed(_) => 0,
        };
        if !self.scribe.has_room(size + 128) {
            self.scribe.told.full.one();
            return false;
        }
        self.own_up(at, line, connection);
        self.scribe.put(&Record::Event(Event { at, line, connection, what }));
        self.scribe.told.events.one();
        true
    }

    /// Says how many events found no place since the last time, ahead of the next one or of the end.
    fn own_up(&mut self, at: Duration, line: u32, connection: u32) {
        let missed = self.scribe.told.missed.get();
        if missed > self.missed {
            let what = What::Missed(missed - self.missed);
            self.scribe.put(&Record::Event(Event { at, line, connection, what }));
            self.missed = missed;
        }
    }

    fn end(mut self) -> io::Result<()> {
        self.settle();
        self.own_up(self.began.elapsed(), 0, 0); // whosever they were; the room for an end has place for it
        self.scribe.put(&Record::End);
        self.scribe.flush()?;
        self.scribe.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Reader, Tail};

    fn head() -> Head {
        Head { began_unix_ms: None, version: "test".into(), files: Vec::new() }
    }

    fn events(path: &Path) -> (Vec<Event>, Tail) {
        let mut reader = Reader::open(path).expect("a recording");
        let mut events = Vec::new();
        while let Some(record) = reader.read().expect("readable") {
            if let Record::Event(event) = record {
                events.push(event);
            }
        }
        (events, reader.tail())
    }

    fn received(bytes: &[u8]) -> What {
        What::Received { took: Duration::ZERO, bytes: bytes.to_vec() }
    }

    #[test]
    fn crumbs_of_one_reply_are_one_record_and_pieces_with_a_pause_are_two() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("site.capture");
        let recorder = Recorder::start(&path, Bounds { bytes_max: 1 << 20 }, head(), Vec::new()).expect("starts");
        let (tape, other) = (recorder.tape(0, 0), recorder.tape(1, 0));
        let begin = Instant::now();
        let after = |micros| begin + Duration::from_micros(micros);
        tape.note(after(0), What::Sent { took: Duration::ZERO, bytes: vec![9] });
        tape.note(after(10_000), received(&[1]));
        other.note(after(10_500), received(&[7]));
        tape.note(after(11_000), received(&[2, 3]));
        tape.note(after(60_000), received(&[4]));
        drop((tape, other));
        recorder.end().expect("written");
        let (events, tail) = events(&path);
        let mut own: Vec<_> = events.iter().filter(|event| event.line == 0).map(|event| event.what.clone()).collect();
        assert_eq!(own.remove(0), What::Sent { took: Duration::ZERO, bytes: vec![9] });
        assert_eq!(own, [What::Received { took: Duration::from_millis(1), bytes: vec![1, 2, 3] }, received(&[4])]);
        assert_eq!(tail, Tail::Ended);
        let again = Recorder::start(&path, Bounds { bytes_max: 1 << 20 }, head(), Vec::new());
        assert_eq!(again.err().map(|error| error.kind()), Some(io::ErrorKind::AlreadyExists), "nothing is overwritten");
    }

    #[test]
    fn two_datagrams_that_come_together_are_two_records() {
        let home = tempfile::tempdir().expect("temporary directory");
        let line = |kind: &str| Line {
            name: kind.to_owned(),
            kind: kind.to_owned(),
            place: "plc:502".to_owned(),
            settings: String::new(),
            response_timeout: Duration::from_secs(1),
        };
        let lines = vec![line("modbus-udp"), line("modbus-rtu-over-udp"), line("modbus-tcp")];
        let path = home.path().join("site.capture");
        let recorder = Recorder::start(&path, Bounds { bytes_max: 1 << 20 }, head(), lines).expect("starts");
        let begin = Instant::now();
        for line in 0..3 {
            let tape = recorder.tape(line, 0);
            tape.note(begin, received(&[1]));
            tape.note(begin + Duration::from_micros(100), received(&[2]));
        }
        recorder.end().expect("written");
        let (events, _) = events(&path);
        let count = |line| events.iter().filter(|event| event.line == line).count();
        assert_eq!([0, 1, 2].map(count), [2, 2, 1]);
    }

    #[test]
    fn what_found_no_place_behind_the_last_event_is_in_the_file_too() {
        let home = tempfile::tempdir().expect("temporary directory");
        for (name, bytes_max, kept) in [("roomy", 1 << 20, 20), ("full", 1000, 5)] {
            let (path, told, began) = (home.path().join(name), Arc::<RecordingStats>::default(), Instant::now());
            let file = File::create_new(&path).expect("made");
            let (bounds, out) = (Bounds { bytes_max }, HEADER.to_vec());
            let mut scribe = Scribe { file, codec: Codec::default(), bounds, out, told: Arc::clone(&told) };
            scribe.put(&Record::Head(head()));
            let mut writer = Writer { began, scribe, datagrams: BTreeSet::new(), pending: BTreeMap::new(), missed: 0 };
            let what = What::Sent { took: Duration::ZERO, bytes: vec![0; 50] };
            let note = || Noted { at: Instant::now(), line: 0, connection: 0, what: what.clone() };
            let taken = (0..20).take_while(|_| writer.take(note())).count();
            told.missed.add(u64::MAX);
            writer.end().expect("written");
            let (events, tail) = events(&path);
            assert!(taken >= kept && events.len() == taken + 1, "{name}: {taken} and {}", events.len());
            assert_eq!(events[taken].what, What::Missed(u64::MAX), "{name}");
            assert_eq!(tail, Tail::Ended);
            assert!(std::fs::metadata(&path).expect("there").len() <= bytes_max, "{name}");
        }
    }

    #[test]
    fn a_recording_ends_at_its_bound_and_says_so() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("site.capture");
        let recorder = Recorder::start(&path, Bounds { bytes_max: 2000 }, head(), Vec::new()).expect("starts");
        let tape = recorder.tape(0, 0);
        for _ in 0..100 {
            tape.note(Instant::now(), What::Sent { took: Duration::ZERO, bytes: vec![0; 100] });
        }
        drop(tape);
        let told = Arc::clone(recorder.told());
        recorder.end().expect("written");
        let size = std::fs::metadata(&path).expect("there").len();
        let (events, tail) = events(&path);
        assert!(size <= 2000 && events.len() >= 10, "{size} bytes, {} events", events.len());
        assert!(told.full.get() > 0);
        assert_eq!((tail, told.bytes.get()), (Tail::Ended, size));
    }
}
