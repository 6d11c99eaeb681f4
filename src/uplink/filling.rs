//! From the source to the lanes: how much is pulled of which lane, and when a message is closed before it is full.
//!
//! A message should take the link no longer than live values and pings can wait ([`super::pace`]): of the backlog no
//! more records are put together than that allows. Records that the broker refused in company go in small messages.

use tokio::time::Instant;

use crate::config::plan::Use;
use crate::model::number::Class;
use crate::store::{Ack, Item};

use super::feeder::Progress;
use super::lanes::WAITING_MAX;
use super::line::Line;
use super::outage::HELD_FROM;
use super::session::Session;
use super::source::{Lane, Pull, Source, Wants};

/// Items pulled at once: as many as the store reads at once.
const PULL_MAX: usize = 4096;
/// Messages that wait where some may not be sent for a budget or a window: live values must get past all of one pull.
const WITHHELD_MAX: usize = WAITING_MAX + PULL_MAX;
/// Bytes of packed messages that wait, where nothing is withheld: clients' messages may be large.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes of a record before any was sent: JSON.
const RECORD_BYTES: usize = 200;

impl<S: Source> Session<'_, S> {
    /// What is useful now; `None` for nothing.
    pub(super) fn wants(&self, line: &Line, progress: &Progress) -> Option<Wants> {
        if progress.source_ended || progress.paused || progress.births || self.forbidden.is_full() {
            return None;
        }
        let mut above = [None; 2];
        let mut useful = |lane: Lane, most: usize| {
            let first = progress.lanes.first(lane);
            above[lane as usize] = first;
            // Behind what waits already only something more urgent is of use.
            if first == Some(Class::Alarm) { 0 } else { most.min(self.packer.wants(lane)).min(PULL_MAX) }
        };
        let most = if self.bounds(Lane::Live) { together(line, progress, Lane::Live) } else { usize::MAX };
        let live = useful(Lane::Live, most);
        // Its next message is ready even while live ones fill the window: else it would never get its share.
        let most = if progress.pressed { 0 } else { together(line, progress, Lane::Backlog) };
        let backlog = useful(Lane::Backlog, most);
        if self.outage.holds_backlog() {
            // alarms and events are in no summary and wait for none
            let waits = above[Lane::Backlog as usize].map_or(HELD_FROM, |first| first.min(HELD_FROM));
            above[Lane::Backlog as usize] = Some(waits);
        }
        (live > 0 || backlog > 0).then_some(Wants { live, backlog, above })
    }

    /// Items to messages.
    pub(super) fn pack(&mut self, pull: Option<Pull>, line: &Line, progress: &mut Progress) {
        let now = Instant::now();
        let Some(Pull { lane, items }) = pull else {
            progress.source_ended = true;
            self.declare(progress.declarations.all());
            self.packer.flush();
            return;
        };
        // In strict order nothing live may overtake what is still open.
        if progress.lanes.changes_to(lane) {
            self.packer.flush();
            self.fetch(progress, now);
        }
        let mut company = None;
        for item in items {
            if self.withholds(&item, progress) || self.keeps_to_itself(&item) {
                continue;
            }
            progress.open_records[lane as usize] += 1;
            company = self.put(item, lane, company, now);
        }
        if company.is_some() || self.bounds(lane) && together(line, progress, lane) == 0 {
            self.packer.flush();
        }
    }

    /// Does a message of this lane have no more records than the link bears at once? A gateway has no more live values than it can
    /// carry, or they are as good as backlog; but what an edge node took while its births were on their way over a thin link would
    /// go as one, and that link with its pings and its births would be lost over it.
    fn bounds(&self, lane: Lane) -> bool {
        lane == Lane::Backlog || self.plan.sparkplug.is_some()
    }

    /// A bridge carries clients' messages and nothing else: what is missing among them is told here.
    fn keeps_to_itself(&mut self, item: &Item) -> bool {
        let (Use::Bridge(_), Item::Gap(gap)) = (self.plan.usage, item) else { return false };
        let count = (gap.last.0 + 1).saturating_sub(gap.first.0);
        tracing::error!(uplink = self.plan.name, count, reason = gap.reason, "messages for the other broker are lost");
        self.stats.bridge_lost.add(count);
        self.trouble.lost(count, &gap.reason);
        self.source.acknowledge(Ack::Gap(gap.id));
        true
    }

    /// Puts an item to others; `company`: how many more may be put to the last one, if it is suspect.
    fn put(&mut self, item: Item, lane: Lane, company: Option<u64>, now: Instant) -> Option<u64> {
        let size = self.refusals.company(&item);
        if size == Some(1) {
            self.goes_alone(&item);
        }
        let next = match (size, company) {
            (None, None) => None,
            (Some(size), Some(more)) if more > 0 => Some(more.min(size) - 1),
            (size, _) => {
                self.packer.flush();
                size.map(|size| size - 1)
            }
        };
        self.packer.put(item, lane, now);
        next
    }

    /// Takes what the packer has ready.
    pub(super) fn fetch(&mut self, progress: &mut Progress, now: Instant) {
        let most = if progress.withheld { WITHHELD_MAX } else { WAITING_MAX };
        while progress.lanes.len() < most
            && (progress.withheld || progress.lanes.bytes() < WAITING_BYTES_MAX)
            && let Some(message) = self.packer.next(now)
        {
            let records = usize::try_from(message.ack.count()).unwrap_or(1).max(1);
            let open = &mut progress.open_records[message.lane as usize];
            *open = open.saturating_sub(records);
            if self.bounds(message.lane) {
                let each = (message.bytes() / records).max(1);
                progress.record_bytes =
                    if progress.record_bytes == 0 { each } else { (3 * progress.record_bytes + each).div_ceil(4) };
            }
            progress.lanes.push(message);
        }
    }
}

/// How many more records the next message of a lane should have.
fn together(line: &Line, progress: &Progress, lane: Lane) -> usize {
    let each = if progress.record_bytes == 0 { RECORD_BYTES } else { progress.record_bytes };
    (line.message_bytes() / each).max(1).saturating_sub(progress.open_records[lane as usize])
}
