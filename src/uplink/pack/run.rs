//! Which records go into one message: a run of one stream and epoch without gaps, of one device and poll where the layout
//! says so, ended by a limit, by a record that does not fit, or by time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::plan::UplinkPlan;
use crate::model::number::Class;
use crate::model::time::Stamp;
use crate::store::{Owed, OwedBody};

use super::form::Form;
use crate::uplink::source::Lane;

/// A message that is to wait for nothing still waits this long for what is being read from the store behind it.
const LINGER: Duration = Duration::from_millis(20);
/// Blocks of one poll are answered within this time, also on a slow serial line; later replies are another poll's.
const POLL_MAX: Duration = Duration::from_millis(500);

/// When a message is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) records: usize,
    pub(super) bytes: usize,
    wait: Duration,
}

impl Limits {
    pub(super) fn new(plan: &UplinkPlan, form: &Form) -> Self {
        let records = form.records_max(plan.batch_samples as usize);
        let wait = if form.waits() { plan.batch_interval } else { Duration::ZERO };
        Self { records: records.max(1), bytes: form.bytes_max(), wait: wait.max(LINGER) }
    }
}

impl Limits {
    /// From now on a message that is not full waits so long.
    pub(super) fn wait_for(&mut self, wait: Duration) {
        self.wait = wait.max(LINGER);
    }
}

/// What the form says of a record.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// About how many bytes it takes in a payload.
    pub(super) bytes: usize,
    /// With whom it may share a message.
    pub(super) company: Company,
}

/// With whom a record may share a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Company {
    /// With nobody.
    Alone,
    /// With any that follow in the stream.
    Any,
    /// With those of the same device and poll on this topic.
    Device(Arc<str>),
}

/// A message being filled.
pub(super) struct Run {
    pub(super) lane: Lane,
    pub(super) records: Vec<Owed>,
    company: Company,
    bytes: usize,
    begun: Instant,
    latest: Instant,
}

impl Run {
    pub(super) fn begin(lane: Lane, owed: Owed, shape: Shape, now: Instant) -> Self {
        Self { lane, records: vec![owed], company: shape.company, bytes: shape.bytes, begun: now, latest: now }
    }

    pub(super) fn class(&self) -> Option<Class> {
        self.records.first().map(|owed| owed.number.stream)
    }

    /// Does this record go on where the run ends?
    pub(super) fn takes(&self, owed: &Owed, shape: &Shape) -> bool {
        let (Some(first), Some(last)) = (self.records.first(), self.records.last()) else { return true };
        let goes_on = last.number.epoch == owed.number.epoch && last.number.seq.0 + 1 == owed.number.seq.0;
        goes_on
            && shape.company == self.company
            && match &self.company {
                Company::Alone => false,
                Company::Any => true,
                Company::Device(_) => same_poll(first.at, owed.at) && name(owed) > name(last),
            }
    }

    pub(super) fn push(&mut self, owed: Owed, shape: &Shape, now: Instant) {
        self.records.push(owed);
        self.bytes += shape.bytes;
        self.latest = now;
    }

    pub(super) fn is_full(&self, limits: Limits) -> bool {
        self.company == Company::Alone || self.records.len() >= limits.records || self.bytes >= limits.bytes
    }

    /// When it goes in any case: a while after its first record, or, where that is no while, when nothing follows any more.
    pub(super) fn due(&self, limits: Limits) -> Instant {
        if limits.wait > LINGER { self.begun + limits.wait } else { self.latest + LINGER }
    }
}

fn same_poll(first: Stamp, later: Stamp) -> bool {
    first.boot == later.boot && u128::from(first.micros.abs_diff(later.micros)) < POLL_MAX.as_micros()
}

fn name(owed: &Owed) -> &[u8] {
    match &owed.body {
        OwedBody::Sample { tag, .. } => tag.name.as_bytes(),
        OwedBody::Event { .. } | OwedBody::Message { .. } => &[],
    }
}
