//! The consumer: windows of messages in, each record once into a database, a file or nowhere, and the books about it.
//!
//! [`Consumer::take`] is one window: when it returns Ok everything in it is safe and may be acknowledged. Pure but for its
//! target; knows nothing of MQTT.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use crate::disk::fault::Fault;
use crate::disk::received::Received;
use crate::payload::batch::{Batch, Dictionary, Entry};

use super::lag::{LagReport, Lags};
use super::ledger::{Ledger, Noted, Report};
use super::message::{self, Message};
use super::output::Output;
use super::record::Record;
use super::unfold::unfold;
use super::{keep, seed};

/// Batches that wait for their dictionary in memory, where there is no database to keep them: bytes.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Records that are decoded and put away together; one message may go beyond.
const RECORDS_AT_ONCE: usize = 65_536;

/// Where records go.
pub enum Target {
    /// Into a database.
    Database(Received),
    /// As lines.
    Lines(Output),
    /// Nowhere: only counted.
    Nothing,
}

/// Why a window could not be put away; nothing of it may be acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The database.
    #[error("the database cannot be written: {0}")]
    Database(#[from] Fault),
    /// The file, or whoever reads our output.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Where it was published.
    pub topic: &'a str,
    /// What was published.
    pub payload: &'a [u8],
    /// User properties of MQTT 5: a client's message that was forwarded has its number there.
    pub user: &'a [(String, String)],
}

/// Messages that held no record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Strays {
    /// Not ours: other things on the same broker.
    pub other: u64,
    /// Ours and not to be read, by what is wrong with them.
    pub broken: BTreeMap<&'static str, u64>,
    /// Batches whose dictionary has not come yet.
    pub waiting: u64,
}

/// Everything a receiver knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Which numbers came.
    #[serde(flatten)]
    pub report: Report,
    /// How late.
    pub lag: Vec<LagReport>,
    /// What else came.
    pub strays: Strays,
}

impl Account {
    /// Nothing is missing, nothing went untracked, and nothing waits to be understood.
    pub fn is_complete(&self) -> bool {
        self.report.is_complete() && self.strays.waiting == 0
    }
}

/// The books, and where records go.
pub struct Consumer {
    pub(super) books: Books,
    pub(super) dictionary: Dictionary,
    target: Target,
    waiting: Vec<Batch>,
    waiting_bytes: usize,
}

/// What is counted.
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) lags: Lags,
    pub(super) strays: Strays,
    pub(super) now_ms: Option<i64>,
}

impl Books {
    /// A record came; whether it is new.
    pub(super) fn note(&mut self, record: &Record) -> Noted {
        let noted = self.ledger.note_from(record.gateway.as_deref(), record.number, record.previous);
        if let (Noted::New, Some((time_ms, now_ms))) = (noted, record.time_ms.zip(self.now_ms)) {
            self.lags.note((record.number.stream, record.number.epoch), time_ms, now_ms);
        }
        noted
    }

    /// What is no record. Gap records are counted here too.
    pub(super) fn note_rest(&mut self, message: &Message) {
        match message {
            Message::Gap(gap) => {
                self.ledger.note_gap_from(Some(&gap.gateway), (gap.stream, gap.epoch), gap.first, gap.last);
            }
            Message::Status { gateway, newest } => {
                for (stream, epoch, seq) in newest {
                    self.ledger.note_newest_from(Some(gateway), *stream, *epoch, *seq);
                }
            }
            Message::Broken(why) => *self.strays.broken.entry(why).or_default() += 1,
            Message::Other => self.strays.other += 1,
            Message::Records(_) | Message::Batch(_) => {}
        }
    }
}

impl Consumer {
    /// Nothing came yet in this run.
    pub fn new(ledger: Ledger, target: Target) -> Self {
        let books = Books { ledger, lags: Lags::default(), strays: Strays::default(), now_ms: None };
        Self { books, dictionary: Dictionary::default(), target, waiting: Vec::new(), waiting_bytes: 0 }
    }

    /// Goes on with what a database holds already: what came in earlier runs is not missing. Reads all of its keys.
    pub fn go_on(&mut self, database: &crate::disk::received::Kept) -> Result<(), Fault> {
        self.books.strays.waiting += database.waiting()?;
        seed::seed(&mut self.books.ledger, &mut self.books.lags, database)
    }

    /// Puts a window of messages away. `now_ms`: UTC now, if it is known.
    pub fn take(&mut self, window: &[Arrival<'_>], now_ms: Option<i64>) -> Result<(), TakeError> {
        self.books.now_ms = now_ms;
        let mut rest = window.iter();
        loop {
            let part = read_some(&mut rest);
            if part.is_empty() {
                return Ok(());
            }
            let Self { books, dictionary, target, .. } = self;
            if let Target::Database(database) = target {
                database.window(|into| keep::Keeper { into, books, dictionary }.keep(&part))?;
                continue;
            }
            for (message, _) in part {
                self.write(message)?;
            }
            if let Target::Lines(output) = &mut self.target {
                output.flush()?;
            }
        }
    }

    fn write(&mut self, message: Message) -> io::Result<()> {
        self.books.note_rest(&message);
        match message {
            Message::Records(records) => self.lines(&records),
            Message::Gap(gap) => match &mut self.target {
                Target::Lines(output) => output.write(&gap.topic, &gap.body),
                _ => Ok(()),
            },
            Message::Batch(batch) => self.batch(*batch),
            Message::Status { .. } | Message::Other | Message::Broken(_) => Ok(()),
        }
    }

    fn lines(&mut self, records: &[Record]) -> io::Result<()> {
        for record in records {
            if self.books.note(record) == Noted::Duplicate {
                continue;
            }
            if let Target::Lines(output) = &mut self.target {
                output.write(&record.topic, &record.object())?;
            }
        }
        Ok(())
    }

    /// A batch, where its dictionary is kept in memory only.
    fn batch(&mut self, batch: Batch) -> io::Result<()> {
        let new = self.dictionary.learn(&batch);
        match self.dictionary.tags(&batch) {
            Some(tags) => self.lines(&unfold(&batch, &tags))?,
            None => self.wait(batch),
        }
        if new {
            for batch in std::mem::take(&mut self.waiting) {
                match self.dictionary.tags(&batch) {
                    Some(tags) => self.lines(&unfold(&batch, &tags))?,
                    None => self.waiting.push(batch),
                }
            }
            self.waiting_bytes = self.waiting.iter().map(size).sum();
        }
        self.books.strays.waiting = self.waiting.len() as u64;
        Ok(())
    }

    fn wait(&mut self, batch: Batch) {
        self.waiting_bytes += size(&batch);
        self.waiting.push(batch);
        while self.waiting_bytes > WAITING_BYTES_MAX && !self.waiting.is_empty() {
            // The oldest goes: its numbers are missing, and the report says so.
            let oldest = self.waiting.remove(0);
            self.waiting_bytes -= size(&oldest).min(self.waiting_bytes);
            *self.books.strays.broken.entry(NEVER_EXPLAINED).or_default() += 1;
        }
    }

    /// What is known. `now_ms`: UTC now, if it is known.
    pub fn account(&self, now_ms: Option<i64>) -> Account {
        let Books { ledger, lags, strays, .. } = &self.books;
        Account { report: ledger.report(), lag: lags.report(now_ms), strays: strays.clone() }
    }
}

/// Reads messages until enough of them lie in memory: a few small ones may unpack to very much.
fn read_some<'m, 'a>(rest: &mut impl Iterator<Item = &'m Arrival<'a>>) -> Vec<(Message, &'m Arrival<'a>)>
where
    'a: 'm,
{
    let (mut part, mut weight) = (Vec::new(), 0);
    for arrival in rest {
        let message = message::read_arrival(arrival);
        weight += match &message {
            Message::Records(records) => records.len(),
            Message::Batch(batch) => batch.records.len() + batch.entries.len(),
            _ => 1,
        };
        part.push((message, arrival));
        if weight >= RECORDS_AT_ONCE {
            break;
        }
    }
    part
}

/// For a batch that had to be given up.
pub(super) const NEVER_EXPLAINED: &str = "a batch whose dictionary never came";

/// What a batch takes in memory, about.
fn size(batch: &Batch) -> usize {
    64 * batch.records.len() + 1024
}

/// The tags of a batch.
pub(super) type Tags = Vec<Arc<Entry>>;
