//! What a line said when it was recorded, by question and by time. Pure.
//!
//! Fed by the `replay` command. Promises: a question that was recorded is answered as it was at that point of the recording,
//! its faults included; one that asks for a part, or for several parts, of what was recorded gets the registers as they were
//! then; anything else is told to be not recorded, never made up.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::behind::{Piece, Then, Utterance};
use super::frames::Request;
use super::pdu;
use crate::config::plan::Framing;

/// Bytes with a longer pause before them are said on their own: others may have something to say meanwhile.
const BREATH: Duration = Duration::from_millis(200);

/// A recorded question and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// When it was asked, since the begin.
    pub at: Duration,
    /// Whom.
    pub unit_id: u8,
    /// Function and data.
    pub request: Vec<u8>,
    /// MBAP: its transaction id.
    pub number: u16,
    /// What came, times counted from the question's last byte.
    pub heard: Vec<Heard>,
    /// What of it was the answer: function and data.
    pub answer: Option<Vec<u8>>,
    /// From the question's last byte to the answer's.
    pub answered_after: Duration,
    /// What became of the connection, and when.
    pub then: Option<(Duration, Then)>,
}

/// Bytes that came without a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When the last of them was there.
    pub by: Duration,
    /// They.
    pub bytes: Vec<u8>,
}

/// Something that happened to the line itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// All connections end.
    HangUp,
    /// Nobody can be reached from now on.
    Gone,
    /// Somebody can be reached again.
    Back,
}

/// What a question gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// What it got when it was recorded.
    Recorded(Vec<Utterance>),
    /// Registers out of other questions.
    Image(Vec<Utterance>),
    /// An exception that says so.
    NotRecorded(Vec<u8>),
    /// Nothing: this unit was never asked.
    Nobody,
}

/// Everything that one line said.
#[derive(Debug, Default)]
pub struct Script {
    takes: Vec<Take>,
    cues: Vec<(Duration, Cue)>,
    length: Duration,
    by_request: HashMap<(u8, Vec<u8>), Vec<usize>>,
    /// By unit and function: first address, how many, its takes.
    blocks: BTreeMap<(u8, u8), Vec<Block>>,
}

#[derive(Debug)]
struct Block {
    start: u32,
    end: u32,
    takes: Vec<usize>,
}

impl Script {
    /// Out of what was recorded; `length`: of the whole recording.
    pub fn new(mut takes: Vec<Take>, mut cues: Vec<(Duration, Cue)>, length: Duration) -> Self {
        takes.sort_by_key(|take| take.at);
        cues.sort_by_key(|(at, _)| *at);
        let mut script = Self { takes, cues, length, ..Self::default() };
        for (ix, take) in script.takes.iter().enumerate() {
            script.by_request.entry((take.unit_id, take.request.clone())).or_default().push(ix);
            let Some((function, start, end)) = range(&take.request) else { continue };
            let blocks = script.blocks.entry((take.unit_id, function)).or_default();
            match blocks.iter_mut().find(|block| (block.start, block.end) == (start, end)) {
                Some(block) => block.takes.push(ix),
                None => blocks.push(Block { start, end, takes: vec![ix] }),
            }
        }
        script
    }

    /// How long the recording is.
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// What happened to the line itself, by time.
    pub fn cues(&self) -> &[(Duration, Cue)] {
        &self.cues
    }

    /// The units that were asked, and how often.
    pub fn units(&self) -> BTreeMap<u8, usize> {
        let mut units = BTreeMap::new();
        self.takes.iter().for_each(|take| *units.entry(take.unit_id).or_default() += 1);
        units
    }

    /// What a question gets at a point of the recording.
    pub fn reply(&self, at: Duration, framing: Framing, request: &Request) -> Reply {
        let (unit_id, asked) = (request.unit_id, &request.pdu);
        if let Some(takes) = self.by_request.get(&(unit_id, asked.clone())) {
            return Reply::Recorded(self.at(at, takes).map(|take| take.said(framing, request)).unwrap_or_default());
        }
        if !self.takes.iter().any(|take| take.unit_id == unit_id) {
            return Reply::Nobody;
        }
        let function = asked.first().copied().unwrap_or_default();
        let Some((_, start, end)) = range(asked) else {
            return Reply::NotRecorded(pdu::exception(function, pdu::ILLEGAL_FUNCTION));
        };
        match self.image(at, (unit_id, function), start..end) {
            Some(Part::Said(answer, after)) => {
                Reply::Image(vec![Utterance::frame(after, request.reply(framing, unit_id, &answer))])
            }
            Some(Part::Silence) => Reply::Image(Vec::new()),
            None => Reply::NotRecorded(pdu::exception(function, pdu::ILLEGAL_ADDRESS)),
        }
    }

    /// The last of these takes at that time, or the first one of all.
    fn at(&self, at: Duration, takes: &[usize]) -> Option<&Take> {
        let passed = takes.partition_point(|ix| self.takes[*ix].at <= at);
        takes.get(passed.saturating_sub(1)).map(|ix| &self.takes[*ix])
    }

    /// The same of those that were answered with registers or bits.
    fn answered_at(&self, at: Duration, takes: &[usize]) -> Option<&Take> {
        let is_answered = |ix: &&usize| self.takes[**ix].data().is_some();
        let passed = takes.partition_point(|ix| self.takes[*ix].at <= at);
        let last = takes[..passed].iter().rev().find(is_answered);
        last.or_else(|| takes[passed..].iter().find(is_answered)).map(|ix| &self.takes[*ix])
    }

    /// Addresses as they were then; `None`: not all of them were ever recorded.
    fn image(&self, at: Duration, key: (u8, u8), range: std::ops::Range<u32>) -> Option<Part> {
        let blocks = self.blocks.get(&key)?;
        let touched = || blocks.iter().filter(|block| block.start < range.end && block.end > range.start);
        let newest = touched().filter_map(|block| self.at(at, &block.takes)).max_by_key(|take| take.at)?;
        match newest.answer.as_deref() {
            None => return Some(Part::Silence),
            // What it does not have here it may have had in other questions.
            Some([function, 1..=3]) if function & 0x80 != 0 => {}
            Some(exception @ [function, _]) if function & 0x80 != 0 => {
                return Some(Part::Said(exception.to_vec(), newest.answered_after));
            }
            Some(_) => {}
        }
        let mut cells: Vec<Option<(Duration, u16)>> = vec![None; (range.end - range.start) as usize];
        for block in touched() {
            let Some(take) = self.answered_at(at, &block.takes) else { continue };
            let Some(data) = take.data() else { continue };
            for address in block.start.max(range.start)..block.end.min(range.end) {
                let cell = &mut cells[(address - range.start) as usize];
                let value = cell_of(key.1, data, (address - block.start) as usize);
                if cell.is_none_or(|(when, _)| when < take.at) {
                    *cell = value.map(|value| (take.at, value)).or(*cell);
                }
            }
        }
        let values: Vec<u16> = cells.into_iter().map(|cell| cell.map(|(_, value)| value)).collect::<Option<_>>()?;
        Some(Part::Said(answer(key.1, &values), newest.answered_after))
    }
}

/// What a part of the image says.
enum Part {
    /// An answer, this long after its question.
    Said(Vec<u8>, Duration),
    /// Nothing.
    Silence,
}

/// Function, first address and the one behind the last of a read.
fn range(request: &[u8]) -> Option<(u8, u32, u32)> {
    let [function @ 1..=4, a, b, c, d] = *request else { return None };
    let (start, count) = (u32::from(u16::from_be_bytes([a, b])), u32::from(u16::from_be_bytes([c, d])));
    let most = if function < 3 { 2000 } else { 125 };
    ((1..=most).contains(&count)).then_some((function, start, start + count))
}

fn cell_of(function: u8, data: &[u8], place: usize) -> Option<u16> {
    if function < 3 {
        return data.get(place / 8).map(|byte| u16::from(byte >> (place % 8) & 1));
    }
    data.get(place * 2..place * 2 + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn answer(function: u8, values: &[u16]) -> Vec<u8> {
    let data: Vec<u8> = if function < 3 {
        let byte = |bits: &[u16]| bits.iter().rev().fold(0u8, |byte, bit| byte << 1 | u8::from(*bit != 0));
        values.chunks(8).map(byte).collect()
    } else {
        values.iter().flat_map(|word| word.to_be_bytes()).collect()
    };
    let length = u8::try_from(data.len()).unwrap_or(u8::MAX); // 250 bytes at most, see `range`
    [&[function, length][..], &data].concat()
}

impl Take {
    /// The registers or bits of its answer.
    fn data(&self) -> Option<&[u8]> {
        match self.answer.as_deref() {
            Some([1..=4, _, data @ ..]) => Some(data),
            _ => None,
        }
    }

    /// What it got, for somebody who asks the same again.
    fn said(&self, framing: Framing, request: &Request) -> Vec<Utterance> {
        let mut bytes: Vec<u8> = self.heard.iter().flat_map(|heard| heard.bytes.iter().copied()).collect();
        if framing.is_numbered() {
            renumber(&mut bytes, self.number, u16::from_be_bytes([request.numbers[0], request.numbers[1]]));
        }
        let mut said: Vec<Utterance> = Vec::new();
        let (mut rest, mut before) = (&bytes[..], Duration::ZERO);
        for heard in &self.heard {
            let (own, others) = rest.split_at(heard.bytes.len());
            rest = others;
            let pause = heard.by.saturating_sub(before);
            match said.last_mut().filter(|_| pause < BREATH) {
                Some(last) => last.pieces.push(Piece { pause, bytes: own.to_vec() }),
                None => said.push(Utterance::frame(heard.by, own.to_vec())),
            }
            before = heard.by;
        }
        if let Some((after, then)) = self.then {
            said.push(Utterance { after, ..Utterance::end(then) });
        }
        said
    }
}

/// Gives recorded MBAP frames the number of today's question; one that had another number is as far from it as it was.
fn renumber(bytes: &mut [u8], recorded: u16, asked: u16) {
    let mut rest = bytes;
    while let [first, second, 0, 0, high, low, body @ ..] = rest {
        let number = u16::from_be_bytes([*first, *second]).wrapping_sub(recorded).wrapping_add(asked);
        [*first, *second] = number.to_be_bytes();
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((_, next)) = body.split_at_mut_checked(length) else { return };
        rest = next;
    }
}

#[cfg(test)]
mod tests;
