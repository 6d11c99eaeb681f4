//! Times and order of a batch: polls and their shapes (fields 14 to 17 of the published schema).
//!
//! The tags of a device are read together and come in the same order each time, so a poll of fifty samples is two small
//! numbers; only what differs from the usual costs more.

use std::collections::HashMap;

use super::BadBatch;

/// Where a record lies: in a column, or among the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Column(usize),
    Event,
}

/// Fields 14 to 17.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) sizes: Vec<u32>,
    pub(super) columns: Vec<i64>,
    pub(super) polls: Vec<i64>,
    pub(super) times: Vec<i64>,
}

/// What the writer must know of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) place: Place,
    /// Records of different devices are of different polls.
    pub(super) device: u32,
    pub(super) ticks: i64,
}

struct Poll {
    /// `None`: an event.
    shape: Option<u32>,
    ticks: i64,
}

/// Divides records into polls.
pub(super) fn lay_out(steps: &[Step], columns: usize, base: i64) -> Rows {
    let mut shapes = Shapes::default();
    let mut polls = Vec::new();
    let mut seen = vec![0_u32; columns]; // number of the poll that used the column last, from 1
    let mut poll = 0_u32;
    let mut open: Option<Step> = None;
    let mut shape: Vec<i64> = Vec::new();
    for step in steps {
        let Place::Column(column) = step.place else {
            close(&mut shapes, &mut shape, open.take(), &mut polls);
            polls.push(Poll { shape: None, ticks: step.ticks });
            continue;
        };
        let same = open.is_some_and(|open| open.ticks == step.ticks && open.device == step.device);
        if !same || seen[column] == poll {
            close(&mut shapes, &mut shape, open.take(), &mut polls);
            poll += 1;
            open = Some(*step);
        }
        seen[column] = poll;
        shape.push(i64::try_from(column).unwrap_or(i64::MAX));
    }
    close(&mut shapes, &mut shape, open, &mut polls);
    shapes.written(&polls, base)
}

fn close(shapes: &mut Shapes, shape: &mut Vec<i64>, open: Option<Step>, polls: &mut Vec<Poll>) {
    if let Some(step) = open {
        polls.push(Poll { shape: Some(shapes.number(shape)), ticks: step.ticks });
        shape.clear();
    }
}

#[derive(Default)]
struct Shapes {
    numbers: HashMap<Vec<i64>, u32>,
    rows: Rows,
    column_before: i64,
}

impl Shapes {
    fn number(&mut self, shape: &[i64]) -> u32 {
        if let Some(number) = self.numbers.get(shape) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(shape.to_vec(), number);
        self.rows.sizes.push(u32::try_from(shape.len()).unwrap_or(u32::MAX));
        let mut before = if number == 0 { -1 } else { self.column_before };
        for column in shape {
            self.rows.columns.push(column - before - 1);
            before = *column;
        }
        self.column_before = before;
        number
    }

    fn written(self, polls: &[Poll], base: i64) -> Rows {
        let mut rows = self.rows;
        let event = i64::try_from(rows.sizes.len()).unwrap_or(i64::MAX);
        let (mut shape_before, mut ticks_before) = (-1, base);
        for poll in polls {
            let shape = poll.shape.map_or(event, i64::from);
            rows.polls.push(shape - shape_before - 1);
            rows.times.push(poll.ticks.wrapping_sub(ticks_before));
            (shape_before, ticks_before) = (shape, poll.ticks);
        }
        rows
    }
}

/// The records in order: where each lies, and its time. Exactly `count`, each within `columns`.
pub(super) fn restore(rows: &Rows, columns: usize, count: usize, base: i64) -> Result<Vec<(Place, i64)>, BadBatch> {
    const WRONG: BadBatch = BadBatch::Damaged("its rows do not fit together");
    if rows.columns.len() > count || rows.sizes.len() > count || rows.polls.len() > count {
        return Err(WRONG);
    }
    let mut shapes: Vec<&[i64]> = Vec::with_capacity(rows.sizes.len());
    let mut all = Vec::with_capacity(rows.columns.len());
    let mut column = -1_i64;
    for step in &rows.columns {
        column = column.checked_add(*step).and_then(|column| column.checked_add(1)).ok_or(WRONG)?;
        usize::try_from(column).ok().filter(|column| *column < columns).ok_or(WRONG)?;
        all.push(column);
    }
    let mut rest = all.as_slice();
    for size in &rows.sizes {
        let (shape, after) = rest.split_at_checked(*size as usize).filter(|_| *size > 0).ok_or(WRONG)?;
        shapes.push(shape);
        rest = after;
    }
    if !rest.is_empty() || rows.polls.len() != rows.times.len() {
        return Err(WRONG);
    }
    let (mut records, mut shape, mut ticks) = (Vec::with_capacity(count), -1_i64, base);
    for (step, time) in rows.polls.iter().zip(&rows.times) {
        shape = shape.checked_add(*step).and_then(|shape| shape.checked_add(1)).ok_or(WRONG)?;
        ticks = ticks.wrapping_add(*time);
        let number = usize::try_from(shape).ok().filter(|number| *number <= shapes.len()).ok_or(WRONG)?;
        match shapes.get(number) {
            None => records.push((Place::Event, ticks)),
            Some(columns) if records.len() + columns.len() <= count => {
                let place = |column: &i64| Place::Column(usize::try_from(*column).unwrap_or(usize::MAX));
                records.extend(columns.iter().map(|column| (place(column), ticks)));
            }
            Some(_) => return Err(WRONG),
        }
    }
    if records.len() == count { Ok(records) } else { Err(WRONG) }
}

/// Field 25: the latest that the time of each record can have been, in ticks since `base`.
pub(super) fn until_runs(latest: impl Iterator<Item = Option<i64>>) -> Vec<i64> {
    let mut runs: Vec<i64> = Vec::new();
    for latest in latest {
        let code = latest.map_or(0, |ticks| if ticks < 0 { ticks } else { ticks.saturating_add(1) });
        match runs.as_mut_slice() {
            [.., last, length] if *last == code => *length += 1,
            _ => runs.extend([code, 1]),
        }
    }
    if let [.., 0, _] = runs.as_slice() {
        runs.truncate(runs.len() - 2);
    }
    runs
}

/// The way back, for `count` records.
pub(super) fn untils(runs: &[i64], count: usize) -> Result<Vec<Option<i64>>, BadBatch> {
    const WRONG: BadBatch = BadBatch::Damaged("its latest times do not fit its records");
    let mut all = Vec::new();
    for run in runs.chunks(2) {
        let [code, length] = run else { return Err(WRONG) };
        let length = usize::try_from(*length).ok().filter(|length| *length <= count - all.len()).ok_or(WRONG)?;
        let latest = if *code > 0 { Some(*code - 1) } else { Some(*code).filter(|ticks| *ticks < 0) };
        all.resize(all.len() + length, latest);
    }
    all.resize(count, None);
    Ok(all)
}
