//! One record of a recording, to bytes and back. Pure.
//!
//! # The file
//!
//! ```text
//! file    header, records one behind the other; only ever appended to; it may end within a record (a crash)
//! header  "IBCAP\r\n" (7 bytes) | version u8: 1
//! record  length varint, bytes of the body | crc32 of the body, u32 little-endian | body
//! body    kind u8 | fields
//!
//! kind          fields
//! 1 head        begin: Unix ms, signed; i64::MIN: not known | version text, of the program | count | count × (name text,
//!               size, zstd frame of that many bytes): the configuration without its secrets, the main file first, then
//!               its register maps
//! 2 line        name text | type text, as in a configuration | place text: where it was | settings text: of a serial
//!               line, such as 19200-8E1, else empty | response timeout, µs
//! 3 opened      event
//! 4 not opened  event | error text
//! 5 sent        event | took, µs: from the first byte to the last | bytes to the end of the body
//! 6 received    event | took, µs | bytes to the end of the body
//! 7 closed      event | by u8: 0 us, 1 the other side, 2 the system | error text
//! 8 missed      event | how many events could not be kept since the one before it
//! 9 end         nothing; the recording was ended and not cut off
//!
//! event   time, signed: µs since the event before it (the first one: since the begin) | line: which of the line
//!         records, from 0 | connection of that line, from 0
//! ```
//!
//! A number without a type is a varint: seven bits a byte, low ones first, the top bit says that more follow; signed ones
//! are folded first (0, -1, 1, -2 …). A text is its length and UTF-8. A reader passes over kinds that it does not know: later
//! versions may add some.

use std::io::Read as _;
use std::time::Duration;

use super::varint::{number, put_number, put_signed, put_text, signed, take, text};
use crate::model::time::signed_micros;

/// What a file begins with: magic and version.
pub const HEADER: [u8; 8] = *b"IBCAP\r\n\x01";
/// No body is longer: a configuration of a hundred thousand tags has this much room.
pub const BODY_MAX: usize = 16 << 20;
/// A configuration has no more than this, unpacked.
const TEXT_MAX: u64 = 64 << 20;
const ZSTD_LEVEL: i32 = 9;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The first one.
    Head(Head),
    /// One for each bus, before its events.
    Line(Line),
    /// Something happened on a wire.
    Event(Event),
    /// The recording was ended and not cut off.
    End,
    /// Of a later version.
    Unknown(u8),
}

/// When and by what it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Unix time of its begin, ms; `None`: nobody vouched for the clock.
    pub began_unix_ms: Option<i64>,
    /// Of the program.
    pub version: String,
    /// Name and content: the configuration without its secrets, then its register maps.
    pub files: Vec<(String, String)>,
}

/// A bus as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As in the configuration.
    pub name: String,
    /// `modbus-rtu`
    pub kind: String,
    /// Where it was: an endpoint, or a port.
    pub place: String,
    /// `19200-8E1`, or nothing.
    pub settings: String,
    /// How long an answer was waited for.
    pub response_timeout: Duration,
}

impl Line {
    /// Does it come in datagrams, each of them whole?
    pub fn is_datagrams(&self) -> bool {
        matches!(self.kind.as_str(), "modbus-udp" | "modbus-rtu-over-udp")
    }
}

/// Something that happened on a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Since the begin.
    pub at: Duration,
    /// Which line, from 0.
    pub line: u32,
    /// Which of its connections, from 0.
    pub connection: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A connection stands, a port is open.
    Opened,
    /// An attempt failed.
    NotOpened(String),
    /// Bytes went out.
    Sent {
        /// From the first one to the last.
        took: Duration,
        /// They.
        bytes: Vec<u8>,
    },
    /// Bytes came in.
    Received {
        /// From the first one to the last.
        took: Duration,
        /// They.
        bytes: Vec<u8>,
    },
    /// It is over.
    Closed {
        /// Who ended it.
        by: By,
        /// What the system said; empty when we ended it.
        error: String,
    },
    /// Events that could not be kept.
    Missed(u64),
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Whoever recorded.
    Us,
    /// The device, in order.
    Them,
    /// A reset, an unplugged adapter.
    System,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A record, and how many bytes it took.
    Record(Record, usize),
    /// It is not all there.
    Incomplete,
    /// It is not what was written.
    Damaged,
}

/// Writes records behind one another, or reads them: both must know when the last event was.
#[derive(Debug, Clone, Default)]
pub struct Codec {
    last_micros: i64,
}

impl Codec {
    /// Appends a record.
    pub fn put(&mut self, record: &Record, out: &mut Vec<u8>) {
        let body = self.body(record);
        put_number(body.len() as u64, out);
        out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        out.extend_from_slice(&body);
    }

    /// Takes the first record.
    pub fn take(&mut self, bytes: &[u8]) -> Step {
        let mut rest = bytes;
        let Some(length) = number(&mut rest) else {
            return if bytes.len() < 10 { Step::Incomplete } else { Step::Damaged };
        };
        let Some(length) = usize::try_from(length).ok().filter(|length| (1..=BODY_MAX).contains(length)) else {
            return Step::Damaged;
        };
        let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Step::Incomplete };
        let Some(body) = rest.get(..length) else { return Step::Incomplete };
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Step::Damaged;
        }
        let used = bytes.len() - rest.len() + length;
        self.record(body).map_or(Step::Damaged, |record| Step::Record(record, used))
    }

    fn body(&mut self, record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        match record {
            Record::Head(head) => {
                out.push(1);
                put_signed(head.began_unix_ms.unwrap_or(i64::MIN), &mut out);
                put_text(&head.version, &mut out);
                put_number(head.files.len() as u64, &mut out);
                for (name, content) in &head.files {
                    put_text(name, &mut out);
                    let packed = zstd::bulk::compress(content.as_bytes(), ZSTD_LEVEL).unwrap_or_default();
                    put_number(packed.len() as u64, &mut out);
                    out.extend(packed);
                }
            }
            Record::Line(line) => {
                out.push(2);
                for text in [&line.name, &line.kind, &line.place, &line.settings] {
                    put_text(text, &mut out);
                }
                put_number(signed_micros(line.response_timeout).unsigned_abs(), &mut out);
            }
            Record::Event(event) => self.put_event(event, &mut out),
            Record::End => out.push(9),
            Record::Unknown(kind) => out.push(*kind),
        }
        out
    }

    fn put_event(&mut self, event: &Event, out: &mut Vec<u8>) {
        out.push(match &event.what {
            What::Opened => 3,
            What::NotOpened(_) => 4,
            What::Sent { .. } => 5,
            What::Received { .. } => 6,
            What::Closed { .. } => 7,
            What::Missed(_) => 8,
        });
        let at = signed_micros(event.at);
        put_signed(at - self.last_micros, out);
        self.last_micros = at;
        put_number(event.line.into(), out);
        put_number(event.connection.into(), out);
        match &event.what {
            What::Opened => {}
            What::NotOpened(error) => put_text(error, out),
            What::Sent { took, bytes } | What::Received { took, bytes } => {
                put_number(signed_micros(*took).unsigned_abs(), out);
                out.extend_from_slice(bytes);
            }
            What::Closed { by, error } => {
                out.push(match by {
                    By::Us => 0,
                    By::Them => 1,
                    By::System => 2,
                });
                put_text(error, out);
            }
            What::Missed(count) => put_number(*count, out),
        }
    }

    fn record(&mut self, body: &[u8]) -> Option<Record> {
        let (kind, mut rest) = body.split_first()?;
        let rest = &mut rest;
        Some(match kind {
            1 => {
                let began_unix_ms = Some(signed(rest)?).filter(|began| *began != i64::MIN);
                let version = text(rest)?;
                let count = number(rest)?;
                let files = (0..count).map(|_| file(rest)).collect::<Option<Vec<_>>>()?;
                Record::Head(Head { began_unix_ms, version, files })
            }
            2 => Record::Line(Line {
                name: text(rest)?,
                kind: text(rest)?,
                place: text(rest)?,
                settings: text(rest)?,
                response_timeout: Duration::from_micros(number(rest)?),
            }),
            3..=8 => Record::Event(self.event(*kind, rest)?),
            9 => Record::End,
            other => Record::Unknown(*other),
        })
    }

    fn event(&mut self, kind: u8, rest: &mut &[u8]) -> Option<Event> {
        self.last_micros = self.last_micros.checked_add(signed(rest)?)?;
        let at = Duration::from_micros(u64::try_from(self.last_micros).unwrap_or(0));
        let (line, connection) = (u32::try_from(number(rest)?).ok()?, u32::try_from(number(rest)?).ok()?);
        let what = match kind {
            3 => What::Opened,
            4 => What::NotOpened(text(rest)?),
            5 => What::Sent { took: Duration::from_micros(number(rest)?), bytes: rest.to_vec() },
            6 => What::Received { took: Duration::from_micros(number(rest)?), bytes: rest.to_vec() },
            7 => {
                let by = match take(rest, 1)?[0] {
                    0 => By::Us,
                    1 => By::Them,
                    _ => By::System,
                };
                What::Closed { by, error: text(rest)? }
            }
            _ => What::Missed(number(rest)?),
        };
        Some(Event { at, line, connection, what })
    }
}

fn file(rest: &mut &[u8]) -> Option<(String, String)> {
    let name = text(rest)?;
    let size = usize::try_from(number(rest)?).ok()?;
    let mut content = String::new();
    let packed = zstd::stream::read::Decoder::new(take(rest, size)?).ok()?;
    packed.take(TEXT_MAX).read_to_string(&mut content).ok()?;
    Some((name, content))
}

#[cfg(test)]
mod tests;
