//! Everything a store holds of a range, for other tools, also while the gateway writes it.
//!
//! Reads one segment at a time (`pages`), so that any store is exported in the same few megabytes. Class by
//! class, within a class in the order of the numbers. What was evicted or cannot be read is not there: its numbers are
//! counted in [`Summary`]. `sheet` CSV and NDJSON · `parquet` Parquet · `glob` names of tags.

mod glob;
mod parquet;
mod sheet;

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::time::Wall;
use crate::payload::json::{self, Previous};

use super::inspect::LookError;
use super::pages::{Page, Pages, Turned};
use super::segment::Body;
use super::{OwedBody, dictionary};

pub use glob::Glob;
pub use sheet::{Form, Sheet};

/// What is asked for; all conditions together.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Which streams, in this order.
    pub classes: Vec<Class>,
    /// Taken at or after this moment, ms since 1970.
    pub from_ms: Option<i64>,
    /// Taken before this moment.
    pub to_ms: Option<i64>,
    /// Only these numbers.
    pub numbers: RangeInclusive<u64>,
    /// Only this epoch.
    pub epoch: Option<u64>,
    /// Only these tags (and topics of events).
    pub tag: Option<Glob>,
}

impl Selection {
    fn may_have(&self, walls: Option<RangeInclusive<i64>>) -> bool {
        let Some(walls) = walls else { return true };
        self.from_ms.is_none_or(|from| *walls.end() >= from) && self.to_ms.is_none_or(|to| *walls.start() < to)
    }

    fn has(&self, time: Wall, seq: u64) -> bool {
        self.from_ms.is_none_or(|from| time.unix_ms >= from)
            && self.to_ms.is_none_or(|to| time.unix_ms < to)
            && self.numbers.contains(&seq)
    }
}

impl Default for Selection {
    fn default() -> Self {
        let classes = Class::ALL.to_vec();
        Self { classes, from_ms: None, to_ms: None, numbers: 1..=u64::MAX, epoch: None, tag: None }
    }
}

/// One record of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// Its number.
    pub number: Number,
    /// Set on the first record of an epoch whose predecessor is known.
    pub previous: Option<Previous>,
    /// When it was taken.
    pub time: Wall,
    /// What it is; the quality is honest about a time without a clock fix.
    pub body: OwedBody,
}

impl Exported {
    /// Local topic.
    pub fn topic(&self) -> &str {
        match &self.body {
            OwedBody::Sample { tag, .. } => &tag.topic,
            OwedBody::Event { topic, .. } | OwedBody::Message { topic, .. } => topic,
        }
    }
}

/// What an export came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records written.
    pub records: u64,
    /// Numbers that should be there and cannot be read, whether declared in a gap record or not.
    pub unreadable: u64,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be looked at.
    #[error(transparent)]
    Store(#[from] LookError),
    /// What was to be written could not be.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// How far an export is: numbers passed, of how many.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A store that can be exported: looked at before anything is written to where it goes.
pub struct Export {
    pages: Pages,
}

impl Export {
    /// `floor_ms` is the time no honest clock is before: of records of a boot that never had a clock fix it is all that is
    /// known. A store that is written meanwhile is exported as it was now.
    pub fn open(dir: &Path, floor_ms: i64) -> Result<Self, LookError> {
        Ok(Self { pages: Pages::with_floor(dir, floor_ms)? })
    }

    /// Writes what `selection` asks for.
    pub fn write(
        mut self,
        selection: &Selection,
        sheet: &mut Sheet,
        progress: Progress<'_>,
    ) -> Result<Summary, ExportError> {
        let done = (0, total(&self.pages, selection));
        let mut walk = Walk { selection, sheet, progress, done, summary: Summary::default() };
        for class in &selection.classes {
            walk.class(*class, &mut self.pages)?;
        }
        Ok(walk.summary)
    }
}

fn total(pages: &Pages, selection: &Selection) -> u64 {
    let lives = selection.classes.iter().flat_map(|class| &pages.stream(*class).epochs);
    lives.map(|life| life.last.saturating_sub(life.evicted)).sum()
}

struct Walk<'a> {
    selection: &'a Selection,
    sheet: &'a mut Sheet,
    progress: Progress<'a>,
    done: (u64, u64),
    summary: Summary,
}

impl Walk<'_> {
    fn class(&mut self, class: Class, pages: &mut Pages) -> Result<(), ExportError> {
        let end = pages.stream(class).end();
        let mut at = pages.start(class);
        loop {
            let next = match pages.turn(class, at, &|walls| self.selection.may_have(walls))? {
                Turned::End => return Ok(()),
                Turned::Skip { next, lost } => {
                    self.summary.unreadable += lost;
                    next
                }
                Turned::Page(page) => {
                    let next = page.next;
                    self.page(class, page, pages)?;
                    next
                }
            };
            if next.ordinal == at.ordinal {
                self.done.0 += next.seq.saturating_sub(at.seq);
                (self.progress)(self.done.0.min(self.done.1), self.done.1);
            }
            at = next;
            if at > end {
                return Ok(()); // what came since
            }
        }
    }

    fn page(&mut self, class: Class, page: Page, pages: &Pages) -> Result<(), ExportError> {
        let Page { epoch, previous, first, records, .. } = page;
        if self.selection.epoch.is_some_and(|wanted| wanted != epoch) {
            return Ok(());
        }
        for (seq, record) in (first..).zip(records) {
            let time = pages.clock().wall(record.at);
            if !self.selection.has(time, seq) {
                continue;
            }
            let body = match record.body {
                Body::Event { topic, body } => OwedBody::Event { topic, body },
                Body::Message { topic, message } => OwedBody::Message { topic, message },
                Body::Sample { tag, value, quality } => {
                    let tag = pages.tag(tag).unwrap_or_else(|| dictionary::unknown(tag));
                    let quality = json::honest(quality, time);
                    OwedBody::Sample { tag, value, quality }
                }
            };
            if self.selection.tag.as_ref().is_some_and(|glob| !is_meant(glob, &body)) {
                continue;
            }
            let number = Number { stream: class, epoch: Epoch(epoch), seq: Seq(seq) };
            self.sheet.write(&Exported { number, previous: previous.filter(|_| seq == 1), time, body })?;
            self.summary.records += 1;
        }
        Ok(())
    }
}

/// A tag by its name, by `device/tag`, or by its topic; an event by its topic.
fn is_meant(glob: &Glob, body: &OwedBody) -> bool {
    match body {
        OwedBody::Sample { tag, .. } => {
            glob.matches(&tag.name) || glob.matches(&format!("{}/{}", tag.device, tag.name)) || glob.matches(&tag.topic)
        }
        OwedBody::Event { topic, .. } | OwedBody::Message { topic, .. } => glob.matches(topic),
    }
}
