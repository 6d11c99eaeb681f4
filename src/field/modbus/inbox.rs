//! What has come in on a wire, and what of it is the answer: one way of looking for each framing.
//!
//! Fed by the exchange with bytes, or with datagrams, where a frame never goes on in the next one. Judges with
//! [`super::frame`] and [`super::ascii`]. Promises: an [`Event::Answer`] is a whole valid answer to the question; all else
//! is counted once and dropped, and what it says of older questions is noted ([`super::owed`]); what is kept has a bound.

use std::sync::Arc;

use super::ascii::{self, Text};
use super::frame::{EchoRule, Expect, Found, MBAP_BYTES, Mbap, hunt, next_mbap, whole_reply};
use super::owed::Owed;
use super::timing::ModbusFraming;
use crate::config::plan::{BusLink, Carrier};
use crate::field::stats::BusStats;

/// Most bytes kept while looking for an answer: two of the longest frames at least. More is a line that babbles.
pub const BYTES_MAX: usize = 1024;

/// How bytes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parcels {
    /// One after the other: a frame may come in pieces.
    Stream,
    /// In datagrams: a frame is in one of them.
    Datagrams,
}

/// What is being waited for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// As it went on the wire.
    pub request: &'a [u8],
    /// What the answer must look like.
    pub expect: Expect,
    /// Its number, where the framing has one.
    pub transaction: u16,
    /// What bytes like the request's own are.
    pub echo: EchoRule,
}

/// Something that was found, counted and taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The answer.
    Answer,
    /// Our own request, come back.
    Echo,
    /// A whole frame of the unit we asked, but not the answer.
    Stale,
    /// A whole frame of another unit, or to another question.
    Foreign,
    /// Looked like the answer, but its check sum says no.
    Broken,
    /// Says that it is the answer, but is not of its shape: no better one will come.
    WrongShape,
}

/// There is no Modbus header where one should be: nothing behind it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfStep;

/// The bytes, and how to look at them.
pub struct Inbox {
    framing: ModbusFraming,
    parcels: Parcels,
    bytes: Vec<u8>,
    /// What may still come, beside the answer that is waited for.
    pub owed: Owed,
    stats: Arc<BusStats>,
}

impl Inbox {
    /// Nothing has come yet.
    pub fn new(link: &BusLink, stats: Arc<BusStats>) -> Self {
        let parcels = match link.carrier {
            Carrier::Udp { .. } => Parcels::Datagrams,
            Carrier::Tcp { .. } | Carrier::Tls(_) | Carrier::Listen { .. } | Carrier::Serial(_) => Parcels::Stream,
        };
        Self { framing: link.framing.into(), parcels, bytes: Vec::new(), owed: Owed::new(link), stats }
    }

    /// Bytes kept.
    pub const fn held(&self) -> usize {
        self.bytes.len()
    }

    /// More has come.
    pub fn fill(&mut self, bytes: &[u8]) {
        if self.parcels == Parcels::Datagrams {
            self.clear_as_garbage();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event; an answer is put into `ready` as the crate wants it (RTU for ASCII). `None`: wait for more.
    pub fn next(&mut self, question: Question<'_>, ready: &mut Vec<u8>) -> Result<Option<Event>, OutOfStep> {
        match self.framing {
            ModbusFraming::Mbap => self.next_mbap(Some(question), ready),
            ModbusFraming::Rtu => Ok(self.next_rtu(question, ready)),
            ModbusFraming::Ascii => Ok(self.next_ascii(Some(question), ready)),
        }
    }

    /// Nobody waits for what is there: frames are stale, the rest is garbage. In a numbered stream a torn frame stays, as
    /// its rest is still to come.
    pub fn discard(&mut self) -> Result<(), OutOfStep> {
        match self.framing {
            ModbusFraming::Mbap => while self.next_mbap(None, &mut Vec::new())?.is_some() {},
            ModbusFraming::Ascii => while self.next_ascii(None, &mut Vec::new()).is_some() {},
            ModbusFraming::Rtu => self.discard_rtu(),
        }
        if self.framing != ModbusFraming::Mbap || self.parcels == Parcels::Datagrams {
            self.clear_as_garbage();
        }
        Ok(())
    }

    fn clear_as_garbage(&mut self) {
        self.stats.garbage.add(self.bytes.len() as u64);
        self.bytes.clear();
    }

    fn discard_rtu(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() {
            match whole_reply(&self.bytes[at..]) {
                Some(length) => {
                    self.stats.stale.one();
                    self.owed.heard_rtu(&self.bytes[at..at + length]);
                    at += length;
                }
                None => {
                    self.stats.garbage.one();
                    at += 1;
                }
            }
        }
        self.bytes.clear();
    }

    fn next_rtu(&mut self, question: Question<'_>, ready: &mut Vec<u8>) -> Option<Event> {
        let Some(found) = hunt(&self.bytes, question.request, question.expect, question.echo) else {
            self.keep_within_bounds();
            return None;
        };
        let (event, range) = match found {
            Found::Answer(range) => {
                ready.extend_from_slice(&self.bytes[range.clone()]);
                (Event::Answer, range)
            }
            Found::Echo(range) => (Event::Echo, range),
            Found::Stale(range) => (Event::Stale, range),
            Found::Foreign(range) => (Event::Foreign, range),
            Found::Broken(range) => (Event::Broken, range.start..range.start + 1),
        };
        if matches!(event, Event::Stale | Event::Foreign) {
            self.owed.heard_rtu(&self.bytes[range.clone()]);
        }
        self.count(event);
        self.stats.garbage.add(range.start as u64);
        self.bytes.drain(..range.end);
        Some(event)
    }

    fn next_ascii(&mut self, question: Option<Question<'_>>, ready: &mut Vec<u8>) -> Option<Event> {
        let (range, event) = match self.next_text(question)? {
            Text::Broken(range) => (range, Event::Broken),
            Text::Frame(range, body) => {
                let (unit, pdu) = (body.first().copied().unwrap_or_default(), body.get(1..).unwrap_or_default());
                let event = match question {
                    None => Event::Stale,
                    Some(question)
                        if question.echo == EchoRule::Strip && self.bytes[range.clone()] == *question.request =>
                    {
                        Event::Echo
                    }
                    Some(question) if !question.expect.is_from(unit) => Event::Foreign,
                    Some(question) if question.expect.accepts(pdu) => {
                        ascii::to_rtu(&body, ready);
                        Event::Answer
                    }
                    Some(_) => Event::Stale,
                };
                if matches!(event, Event::Stale | Event::Foreign) {
                    self.owed.heard(unit, pdu);
                }
                (range, event)
            }
        };
        self.count(event);
        self.stats.garbage.add(range.start as u64);
        self.bytes.drain(..range.end);
        Some(event)
    }

    /// The next frame, or what looked like the answer and is broken; other broken ones are garbage.
    fn next_text(&mut self, question: Option<Question<'_>>) -> Option<Text> {
        loop {
            let Some(text) = ascii::first(&self.bytes) else {
                self.keep_within_bounds();
                return None;
            };
            let Text::Broken(range) = &text else { return Some(text) };
            let begins = ascii::head(&self.bytes[range.clone()]);
            if question.zip(begins).is_some_and(|(question, (unit, function))| question.expect.fits(unit, function)) {
                return Some(text);
            }
            self.stats.garbage.add(range.end as u64);
            self.bytes.drain(..range.end);
        }
    }

    fn next_mbap(&mut self, question: Option<Question<'_>>, ready: &mut Vec<u8>) -> Result<Option<Event>, OutOfStep> {
        let (transaction, unit, length) = match (next_mbap(&self.bytes), self.parcels) {
            (Mbap::Whole { length, .. }, Parcels::Datagrams) if length != self.bytes.len() => {
                self.clear_as_garbage();
                return Ok(None);
            }
            (Mbap::Whole { transaction, unit, length }, _) => (transaction, unit, length),
            (Mbap::Incomplete, Parcels::Stream) => return Ok(None),
            (Mbap::OutOfStep, Parcels::Stream) => {
                self.clear_as_garbage();
                return Err(OutOfStep);
            }
            (Mbap::Incomplete | Mbap::OutOfStep, Parcels::Datagrams) => {
                self.clear_as_garbage();
                return Ok(None);
            }
        };
        let frame = &self.bytes[..length];
        let event = match question.filter(|question| transaction == question.transaction) {
            None => Event::Stale,
            Some(question) if *frame == *question.request && question.echo == EchoRule::Strip => Event::Echo,
            Some(question) if !question.expect.is_from(unit) => Event::Foreign,
            Some(question) if question.expect.accepts(&frame[MBAP_BYTES..]) => {
                ready.extend_from_slice(frame);
                Event::Answer
            }
            Some(_) => {
                self.stats.garbage.add(length as u64);
                Event::WrongShape
            }
        };
        self.count(event);
        self.bytes.drain(..length);
        Ok(Some(event))
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::Answer => {
                self.owed.clear();
                self.stats.replies.one();
            }
            Event::Echo => self.stats.echo.one(),
            Event::Stale => self.stats.stale.one(),
            Event::Foreign => self.stats.foreign.one(),
            Event::Broken => self.stats.crc.one(),
            Event::WrongShape => {} // its bytes are counted as garbage
        }
    }

    fn keep_within_bounds(&mut self) {
        if self.bytes.len() > BYTES_MAX {
            self.stats.garbage.add(self.bytes.len() as u64 / 2);
            self.bytes.drain(..self.bytes.len() / 2);
        }
    }
}
