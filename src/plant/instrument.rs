//! One instrument on a bus of type line: the examples of its configuration, spoken with their numbers moving. Pure.
//!
//! A number with a decimal point moves by up to a twentieth, or within `min` and `max` of its tag where it has both; a whole
//! number (a code, a time of day) only in the second case. It always takes as many characters as in the example, so that
//! the frame stays one that its pattern fits; should it not, the example is spoken as it is.

use std::ops::Range;
use std::time::Duration;

use crate::config::lines::{Reader, compose};
use crate::config::plan::{DevicePlan, LinePlan, Plan, Source, TagPlan, TalkPlan};
use crate::model::data_type::Kind;
use crate::model::tag::DeviceIx;
use crate::model::value::Value;
use crate::pipeline::scale::{Raw, Scaling};

use super::waves::{Span, Wave};

/// Part of a number by which it moves.
const PART: f64 = 0.05;
/// One full swing of the first number of an instrument; each further one takes this much longer.
const SWING: Duration = Duration::from_secs(23);
const LONGER: Duration = Duration::from_secs(7);

/// What an instrument is asked, and what it says.
#[derive(Debug)]
pub struct Instrument {
    question: Vec<u8>,
    period: Duration,
    reader: Reader,
    sayings: Vec<Saying>,
    next: usize,
}

#[derive(Debug)]
struct Saying {
    said: Vec<u8>,
    /// By place, none within another.
    numbers: Vec<Number>,
}

/// A number in a saying.
#[derive(Debug)]
struct Number {
    at: Range<usize>,
    decimals: usize,
    wave: Wave,
}

impl Instrument {
    /// Of a device; `None`: it speaks no lines, or there is no example of what it says.
    pub fn of(plan: &Plan, ix: DeviceIx) -> Option<Self> {
        let device = plan.device(ix)?;
        let talk = device.talk.as_ref().filter(|talk| !talk.examples.is_empty())?;
        let tags = own(plan, device);
        Some(Self {
            question: talk.send.clone(),
            period: tags.iter().map(|tag| tag.poll).min().unwrap_or(Duration::from_secs(1)),
            reader: Reader::new(plan, ix)?,
            sayings: talk.examples.iter().map(|said| Saying::of(said, talk, &tags)).collect(),
            next: 0,
        })
    }

    /// What it is asked; empty where nobody asks.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// How often it speaks by itself.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// What it says in one period, one frame after the other.
    pub fn period_of_frames(&mut self, frames: &LinePlan, since_start: Duration) -> Vec<Vec<u8>> {
        self.next = 0;
        (0..self.sayings.len()).map(|_| self.frame(frames, since_start)).collect()
    }

    /// The frame of the next example, after the last the first again.
    pub fn frame(&mut self, frames: &LinePlan, since_start: Duration) -> Vec<u8> {
        let saying = &self.sayings[self.next];
        self.next = (self.next + 1) % self.sayings.len();
        let moved = saying.at(since_start);
        let values =
            |said: &[u8]| self.reader.read(said).map(|readings| readings.iter().filter(|it| it.raw.is_ok()).count());
        let said = if values(&moved) == values(&saying.said) { &moved } else { &saying.said };
        compose::frame(frames, said)
    }
}

fn own<'p>(plan: &'p Plan, device: &DevicePlan) -> Vec<&'p TagPlan> {
    plan.tags.get(device.tags.clone()).unwrap_or_default().iter().filter(|tag| tag.is_of_device()).collect()
}

impl Saying {
    fn of(said: &[u8], talk: &TalkPlan, tags: &[&TagPlan]) -> Self {
        let mut numbers: Vec<Number> = Vec::new();
        let status = talk.status.as_ref().map(|status| status.field.as_str());
        let Some(groups) = talk.patterns.iter().find_map(|pattern| pattern.read(said)) else {
            return Self { said: said.to_vec(), numbers };
        };
        for tag in tags.iter().filter(|tag| tag.data_type.kind() != Kind::Text && tag.kind() != Kind::Text) {
            let Source::Field(field) = &tag.source else { continue };
            let Some(group) = groups.name(field).filter(|_| status != Some(field)) else { continue };
            let Some(digits) = digits(said, group.range()) else { continue };
            let is_free = numbers.iter().all(|other| other.at.end <= digits.start || digits.end <= other.at.start);
            if let (true, Some(number)) = (is_free, Number::of(said, digits, tag, numbers.len())) {
                numbers.push(number);
            }
        }
        Self { said: said.to_vec(), numbers }
    }

    fn at(&self, since_start: Duration) -> Vec<u8> {
        let mut said = self.said.clone();
        for number in &self.numbers {
            let value = number.wave.at(since_start).as_f64().unwrap_or(0.0);
            let text = format!("{value:0width$.decimals$}", width = number.at.len(), decimals = number.decimals);
            if text.len() == number.at.len() {
                said[number.at.clone()].copy_from_slice(text.as_bytes());
            }
        }
        said
    }
}

/// The digits at the end of a group, with their decimal point; a sign and blanks before them stay as they are.
fn digits(said: &[u8], group: Range<usize>) -> Option<Range<usize>> {
    let text = said[group.clone()].trim_ascii_end();
    let end = group.start + text.len();
    let count = text.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let found = end - count..end;
    let number = std::str::from_utf8(&said[found.clone()]).ok()?;
    (number.parse::<f64>().is_ok() && number.starts_with(|first: char| first.is_ascii_digit())).then_some(found)
}

impl Number {
    /// `None`: it does not move.
    fn of(said: &[u8], at: Range<usize>, tag: &TagPlan, place: usize) -> Option<Self> {
        let text = std::str::from_utf8(&said[at.clone()]).ok()?;
        let value: f64 = text.parse().ok()?;
        let (whole, decimals) = text.split_once('.').map_or((text, 0), |(whole, rest)| (whole, rest.len()));
        let is_negative = said[..at.start].trim_ascii_end().ends_with(b"-");
        let raw = |limit: Option<f64>| match Scaling::new(tag.scale).invert(&Value::Float(limit?), Raw::Real) {
            Value::Float(raw) => Some(raw),
            whole => whole.as_f64(),
        };
        let limits = raw(tag.limits.min).zip(raw(tag.limits.max)).filter(|_| !is_negative);
        let (low, high) = match limits {
            Some((one, other)) => (one.min(other), one.max(other)),
            None if decimals > 0 => (value * (1.0 - PART), value * (1.0 + PART)),
            None => return None,
        };
        let grid = 10f64.powi(-i32::try_from(decimals).ok()?);
        let digits = i32::try_from(whole.len()).ok()?;
        let smallest = if whole.starts_with('0') { 0.0 } else { 10f64.powi(digits - 1) };
        let (low, high) = (low.max(smallest), high.min(10f64.powi(digits) - grid));
        let steps = u32::try_from(place).ok()?;
        let wave = Wave::Sine { range: Span { low, high, grid }, period: SWING + LONGER * steps };
        (low < high).then_some(Self { at, decimals, wave })
    }
}
