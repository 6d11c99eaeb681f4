//! What the store knows in memory: streams, and for each uplink its cursors and the gap records it is owed.
//!
//! One lock, held for moments only and never during disk work. Changes that `meta.db` must learn are noted as edits,
//! which the writer takes with its next commit there.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::disk::chunk::TagRow;
use crate::disk::meta::{CursorRow, Edit, OwedRow};
use crate::disk::meter::MeterRow;
use crate::model::number::{Class, Epoch, PerClass, Seq};
use crate::model::time::{Boot, Stamp};

use super::cursor::{Cursor, Ends, Position, Span};
use super::join::{self, Joined};
use super::stream::{Found, Loss, Stream};
use super::{Ack, DictionaryTag, OwedGap};

/// One uplink's side.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) name: String,
    /// By class; `None` where it has no such class.
    pub(super) cursors: PerClass<Option<Cursor>>,
    pub(super) gaps: Vec<Owing>,
    /// Records acknowledged since the cursors were last saved.
    pub(super) unsaved: u64,
    /// Gap records that became part of others.
    pub(super) joined: Joined,
}

/// A gap record that is owed.
#[derive(Debug, Clone)]
pub(super) struct Owing {
    pub(super) id: i64,
    pub(super) class: Class,
    pub(super) loss: Loss,
}

impl Owing {
    /// What is handed out; `None` when its epoch is forgotten.
    fn record(&self, stream: &Stream) -> Option<OwedGap> {
        let Loss { span, reason, from, to } = self.loss.clone();
        let (epoch, first, last) = (Epoch(stream.life(span.ordinal)?.epoch), Seq(span.first), Seq(span.last));
        Some(OwedGap { id: self.id, stream: self.class, epoch, first, last, from, to, reason })
    }
}

/// What an uplink gets next in a stream.
pub(super) enum Next {
    /// This gap record, where its numbers begin; then go on there.
    Gap(OwedGap, Position, Position),
    /// See the stream.
    Found(Found),
}

#[derive(Debug)]
pub(super) struct State {
    /// False until the directory could be opened.
    pub(super) opened: bool,
    pub(super) streams: PerClass<Stream>,
    pub(super) ledgers: Vec<Ledger>,
    pub(super) dictionary: HashMap<u32, Arc<DictionaryTag>>,
    pub(super) edits: Vec<Edit>,
    /// As they were saved last.
    pub(super) meters: Vec<MeterRow>,
    /// Sessions of edge nodes begun so far, by uplink.
    pub(super) sessions: HashMap<String, u8>,
    /// When `meta.db` could not take them; `None` once it could.
    pub(super) refused_at: Option<Instant>,
    pub(super) next_gap: i64,
    /// Nothing more will be committed.
    pub(super) ended: bool,
    /// Salvage waits for a medium: nobody knows for how long.
    pub(super) stalled: bool,
}

impl State {
    pub(super) fn empty() -> Self {
        Self {
            opened: false,
            streams: PerClass::of(Stream::new),
            ledgers: Vec::new(),
            dictionary: HashMap::new(),
            edits: Vec::new(),
            meters: Vec::new(),
            sessions: HashMap::new(),
            refused_at: None,
            next_gap: 1,
            ended: false,
            stalled: false,
        }
    }

    pub(super) fn stream(&self, class: Class) -> &Stream {
        &self.streams[class]
    }

    pub(super) fn stream_mut(&mut self, class: Class) -> &mut Stream {
        &mut self.streams[class]
    }

    /// Numbers have no records and never will: remembered, and owed to every uplink that had not passed them.
    pub(super) fn declare(&mut self, class: Class, loss: &Loss) {
        self.remember(class, loss);
        self.owe(class, loss, &[]);
    }

    /// Numbers have no records and never will: those that were not known to be lost or evicted are from now on.
    pub(super) fn remember(&mut self, class: Class, loss: &Loss) {
        let stream = &mut self.streams[class];
        let mut span = loss.span;
        if let Some(life) = stream.life_mut(span.ordinal) {
            life.last = life.last.max(span.last);
            span.first = span.first.max(life.evicted + 1);
        }
        for span in stream.losses.iter().fold(vec![span], |left, old| old.span.take_out_of(left)) {
            if span.len() > 0 {
                let part = Loss { span, ..loss.clone() };
                self.edits.extend(stream.loss_row(&part).map(Edit::PutLoss));
                let place = stream.losses.partition_point(|old| old.span < span);
                stream.losses.insert(place, part);
            }
        }
    }

    /// Where in a span something begins that an uplink lacks.
    pub(super) fn begins(&self, class: Class, span: Span) -> Vec<u64> {
        let cursors = self.ledgers.iter().filter_map(|ledger| ledger.cursors[class].as_ref());
        cursors.flat_map(|cursor| cursor.missing_of(span)).map(|missing| missing.first).collect()
    }

    /// Owes a gap record to every uplink that has not passed the numbers; how many numbers that were, at most. `begins`
    /// says, where an uplink stands inside them, when what it lacks was taken.
    pub(super) fn owe(&mut self, class: Class, loss: &Loss, begins: &[(u64, Stamp)]) -> u64 {
        let stream = &self.streams[class];
        let mut owed = 0;
        for ledger in &mut self.ledgers {
            let Some(cursor) = &ledger.cursors[class] else { continue };
            let mine = ledger.gaps.iter().filter(|gap| gap.class == class);
            let missing = mine.fold(cursor.missing_of(loss.span), |missing, gap| gap.loss.span.take_out_of(missing));
            owed = owed.max(missing.iter().map(|span| span.len()).sum());
            for span in missing {
                let mut whole = Loss { span, ..loss.clone() };
                if let Some((_, at)) = begins.iter().filter(|(seq, _)| *seq <= span.first).max_by_key(|(seq, _)| *seq) {
                    whole.from = Some(*at);
                }
                // A gap that goes on is told again, whole, under a new id: an acknowledgement of the old one cannot
                // mean numbers it did not name.
                let goes_on = |gap: &Owing| {
                    let old = gap.loss.span;
                    gap.class == class
                        && gap.loss.reason == loss.reason
                        && old.ordinal == span.ordinal
                        && old.last + 1 == span.first
                };
                if let Some(place) = ledger.gaps.iter().position(goes_on) {
                    let old = ledger.gaps.remove(place);
                    self.edits.push(Edit::DropOwed(old.id));
                    whole.span.first = old.loss.span.first;
                    whole.from = old.loss.from;
                }
                let id = self.next_gap;
                self.next_gap += 1;
                if let Some(row) = stream.loss_row(&whole) {
                    self.edits.push(Edit::PutOwed(OwedRow { id, uplink: ledger.name.clone(), loss: row }));
                }
                ledger.gaps.push(Owing { id, class, loss: whole });
            }
            self.edits.extend(join::join(ledger, stream, &mut self.next_gap));
        }
        owed
    }

    /// An uplink's broker has taken something.
    pub(super) fn acknowledge(&mut self, uplink: usize, ack: Ack) {
        let Some(ledger) = self.ledgers.get_mut(uplink) else { return };
        let (class, span) = match ack {
            Ack::Records { stream: class, epoch, first, last } => {
                let Some(ordinal) = self.streams[class].ordinal_of(epoch.0) else { return };
                (class, Span { ordinal, first: first.0, last: last.0 })
            }
            Ack::Gap(id) => match ledger.gaps.iter().position(|gap| gap.id == id) {
                Some(place) => {
                    let gap = ledger.gaps.remove(place);
                    self.edits.push(Edit::DropOwed(id));
                    (gap.class, gap.loss.span)
                }
                None => match ledger.joined.part(id) {
                    Some(part) => part,
                    None => return,
                },
            },
        };
        let Some(cursor) = &mut ledger.cursors[class] else { return };
        if cursor.mark(span) {
            ledger.unsaved += ack.count();
        }
        cursor.advance(|ordinal| self.streams[class].ended(ordinal));
        // Records that were on their way when they were evicted may have arrived after all.
        let acked = cursor.acked;
        let edits = &mut self.edits;
        ledger.gaps.retain(|gap| {
            let passed =
                gap.class == class && Position { ordinal: gap.loss.span.ordinal, seq: gap.loss.span.last } <= acked;
            if passed {
                edits.push(Edit::DropOwed(gap.id));
            }
            !passed
        });
    }

    /// An uplink's broker will never take these: the gap records that say so, to this uplink alone.
    pub(super) fn refuse(&mut self, uplink: usize, ack: Ack, taken: Option<(Stamp, Stamp)>) -> Vec<OwedGap> {
        let Ack::Records { stream: class, epoch, first, last } = ack else {
            self.acknowledge(uplink, ack);
            return Vec::new();
        };
        let stream = &self.streams[class];
        let Some(ledger) = self.ledgers.get_mut(uplink) else { return Vec::new() };
        let (Some(cursor), Some(ordinal)) = (&ledger.cursors[class], stream.ordinal_of(epoch.0)) else {
            return Vec::new();
        };
        let mine = ledger.gaps.iter().filter(|gap| gap.class == class);
        let span = Span { ordinal, first: first.0, last: last.0 };
        let missing = mine.fold(cursor.missing_of(span), |missing, gap| gap.loss.span.take_out_of(missing));
        let mut records = Vec::new();
        for span in missing {
            let (from, to) = taken.unzip();
            let loss = Loss { span, reason: "refused".into(), from, to };
            let owing = Owing { id: self.next_gap, class, loss };
            self.next_gap += 1;
            if let Some(loss) = stream.loss_row(&owing.loss) {
                self.edits.push(Edit::PutOwed(OwedRow { id: owing.id, uplink: ledger.name.clone(), loss }));
            }
            records.extend(owing.record(stream));
            ledger.gaps.push(owing);
        }
        records
    }

    /// About when the oldest number was taken that an uplink is still owed: between the ends of its chunk in proportion.
    pub(super) fn oldest(&self, uplink: usize) -> Option<Stamp> {
        let ledger = self.ledgers.get(uplink)?;
        let gaps = ledger.gaps.iter().filter_map(|gap| gap.loss.from);
        let records = ledger.cursors.iter().filter_map(|(class, cursor)| {
            let stream = self.stream(class);
            let cursor = cursor.as_ref().filter(|cursor| cursor.acked < stream.end())?;
            stream.taken_at(cursor.acked.next())
        });
        gaps.chain(records).min_by_key(|at| (at.boot.0, at.micros))
    }

    /// The oldest boot of which there are records here, or of which a gap record tells.
    pub(super) fn oldest_boot(&self) -> Option<Boot> {
        let held = self.streams.values().flat_map(|stream| &stream.chunks).map(|held| held.times.first);
        let gaps = self.ledgers.iter().flat_map(|ledger| &ledger.gaps).flat_map(|gap| [gap.loss.from, gap.loss.to]);
        held.chain(gaps.flatten()).map(|at| at.boot).filter(|boot| *boot != Boot(0)).min()
    }

    /// What the uplink gets at this position.
    pub(super) fn next(&self, uplink: usize, class: Class, at: Position) -> Next {
        let stream = self.stream(class);
        let Some(ledger) = self.ledgers.get(uplink) else { return Next::Found(Found::NotYet(at)) };
        let gaps = || ledger.gaps.iter().filter(|gap| gap.class == class);
        // A gap is told where the numbers before it end, even where the stream itself skips them.
        let reached = match stream.find(at) {
            Found::In { at, .. } => at,
            Found::Hole(span) => Position { ordinal: span.ordinal, seq: span.first },
            Found::NotYet(at) => at,
        };
        let due = gaps().filter(|gap| {
            let start = Position { ordinal: gap.loss.span.ordinal, seq: gap.loss.span.first };
            let end = Position { seq: gap.loss.span.last, ..start };
            end >= at && start <= reached
        });
        if let Some(gap) = due.min_by_key(|gap| gap.loss.span) {
            let span = gap.loss.span;
            if let Some(gap) = gap.record(stream) {
                let begin = Position { ordinal: span.ordinal, seq: span.first };
                return Next::Gap(gap, begin, Position { seq: span.last + 1, ..begin });
            }
        }
        let mut found = stream.find(at);
        if let Found::In { at, upto, .. } = &mut found {
            let ahead =
                gaps().map(|gap| gap.loss.span).filter(|span| span.ordinal == at.ordinal && span.first > at.seq);
            *upto = ahead.map(|span| span.first - 1).min().map_or(*upto, |before| before.min(*upto));
        }
        Next::Found(found)
    }

    /// How far the streams have come that an uplink is sent.
    pub(super) fn ends(&self, uplink: usize) -> Ends {
        let Some(ledger) = self.ledgers.get(uplink) else { return Ends::default() };
        let sent = Class::ALL.into_iter().filter(|class| ledger.cursors[*class].is_some());
        Ends(sent.map(|class| (class, self.stream(class).end())).collect())
    }

    /// Is anything not acknowledged that was there then?
    pub(super) fn is_behind(&self, uplink: usize, ends: &Ends) -> bool {
        let acked = |class: Class| Some(self.ledgers.get(uplink)?.cursors[class].as_ref()?.acked);
        ends.0.iter().any(|(class, end)| acked(*class).is_some_and(|acked| acked < *end))
    }

    /// Numbers an uplink is still owed; a gap record counts as one.
    pub(super) fn backlog(&self, uplink: usize) -> u64 {
        Class::ALL.into_iter().map(|class| self.backlog_of(uplink, class)).sum()
    }

    /// Those of one class.
    pub(super) fn backlog_of(&self, uplink: usize, class: Class) -> u64 {
        let Some(ledger) = self.ledgers.get(uplink) else { return 0 };
        let Some(cursor) = &ledger.cursors[class] else { return 0 };
        let acked = cursor.acked;
        let ahead = self.stream(class).epochs.iter().filter(|life| life.ordinal >= acked.ordinal);
        let owed: u64 =
            ahead.map(|life| life.last.saturating_sub(if life.ordinal == acked.ordinal { acked.seq } else { 0 })).sum();
        let ranges: u64 = cursor.ranges().iter().map(|range| range.len()).sum();
        let gaps = ledger.gaps.iter().filter(|gap| gap.class == class);
        let gaps: u64 = gaps.map(|gap| gap.loss.span.len() - 1).sum();
        owed.saturating_sub(ranges).saturating_sub(gaps)
    }

    /// The rows that save an uplink's cursors.
    pub(super) fn cursor_rows(&self, ledger: &Ledger) -> Vec<Edit> {
        let mut rows = Vec::new();
        for (class, cursor) in ledger.cursors.iter() {
            let stream = self.stream(class);
            let Some(cursor) = cursor else { continue };
            let Some(life) = stream.life(cursor.acked.ordinal) else { continue };
            let text = |range: &Span| {
                stream.life(range.ordinal).map(|life| format!("{}:{}-{}", life.epoch, range.first, range.last))
            };
            let ranges: Vec<String> = cursor.ranges_to_save().iter().filter_map(text).collect();
            rows.push(Edit::PutCursor(CursorRow {
                uplink: ledger.name.clone(),
                class: class as u8,
                epoch: life.epoch,
                acked: cursor.acked.seq,
                ranges: ranges.join(" "),
            }));
        }
        rows
    }

    /// A tag by its stable id.
    pub(super) fn tag(&self, id: u32) -> Option<Arc<DictionaryTag>> {
        self.dictionary.get(&id).cloned()
    }

    /// The row of a tag.
    pub(super) fn tag_row(&self, id: u32) -> Option<TagRow> {
        self.dictionary.get(&id).map(|tag| super::dictionary::row(tag))
    }
}
