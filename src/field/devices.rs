//! What a bus knows of each of its devices and polls. State without behaviour in time: the bus moves it.

use std::time::Duration;

use tokio::time::Instant;

use super::modbus::decode::Cut;
use super::schedule::PollIx;
use super::standing::Unit;
use super::tags::{Slot, Tags};
use crate::config::blocks::Block;
use crate::config::plan::Plan;
use crate::flow::hub::DeviceReport;
use crate::model::quality::Cause;
use crate::model::tag::{BusIx, DeviceIx, TagIx};
use crate::model::time::Stamp;

/// A device's place on its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat(pub usize);

/// One device.
#[derive(Debug)]
pub struct Device {
    /// Its place in the plan.
    pub ix: DeviceIx,
    /// For the log.
    pub name: String,
    /// Its address on the bus.
    pub unit_id: u8,
    /// How it stands.
    pub unit: Unit,
    /// Why its tags are bad while it is down.
    pub cause: Cause,
    /// All its polled tags.
    pub slots: Vec<Slot>,
    /// All its polls.
    pub polls: Vec<PollIx>,
    /// When it went down, for the log.
    pub down_since: Option<Stamp>,
    counts: Counts,
    reported: Option<DeviceReport>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    last_success: Option<Stamp>,
    requests: u64,
    timeouts: u64,
    exceptions: u64,
    errors: u64,
}

/// How a request to a device ended, for its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A good answer.
    Answer(Stamp),
    /// An exception.
    Exception(Stamp),
    /// Silence.
    Timeout,
    /// Broken frames, wrong lengths, a lost connection.
    Error,
}

impl Device {
    /// Counts one request.
    pub fn count(&mut self, ending: Ending) {
        let counts = &mut self.counts;
        counts.requests += 1;
        match ending {
            Ending::Answer(at) => counts.last_success = Some(at),
            Ending::Exception(at) => {
                counts.last_success = Some(at);
                counts.exceptions += 1;
            }
            Ending::Timeout => counts.timeouts += 1,
            Ending::Error => counts.errors += 1,
        }
    }

    /// The report, if it differs from the last one; `None` also before anything is known.
    pub fn news(&mut self) -> Option<DeviceReport> {
        let counts = self.counts;
        let report = DeviceReport {
            device: self.ix,
            standing: self.unit.told()?,
            last_success: counts.last_success,
            requests: counts.requests,
            timeouts: counts.timeouts,
            exceptions: counts.exceptions,
            errors: counts.errors,
        };
        if self.reported.as_ref() == Some(&report) {
            return None;
        }
        self.reported = Some(report.clone());
        Some(report)
    }
}

/// One block and what its reads have shown.
#[derive(Debug)]
pub struct Poll {
    /// Whose.
    pub seat: Seat,
    /// What is read.
    pub block: Block,
    /// Where its tags lie in the reading.
    pub cuts: Vec<(Slot, Cut)>,
    /// It was read at least once, so it makes a probe that a living device answers well.
    pub known_good: bool,
    /// "Busy" answers in a row.
    pub busy: u8,
    /// It was known to be good, and the device refuses it since then.
    pub refused_since: Option<Instant>,
}

impl Poll {
    fn new(seat: Seat, cuts: Vec<(Slot, Cut)>, block: Block) -> Self {
        Self { seat, block, cuts, known_good: false, busy: 0, refused_since: None }
    }
}

/// Devices and polls of one bus.
#[derive(Debug)]
pub struct Roster {
    /// In plan order.
    pub devices: Vec<Device>,
    /// By [`PollIx`].
    pub polls: Vec<Poll>,
}

impl Roster {
    /// The devices of these blocks, and every other device of the bus (a device may have tags that are only written).
    pub fn new(plan: &Plan, bus: BusIx, blocks: Vec<Block>, tags: &Tags) -> Self {
        let mut roster = Self { devices: Vec::new(), polls: Vec::new() };
        for (ix, device) in (0u32..).zip(&plan.devices).filter(|(_, device)| device.bus == Some(bus)) {
            roster.devices.push(Device {
                ix: DeviceIx(ix),
                name: device.name.clone(),
                unit_id: device.unit_id,
                unit: Unit::default(),
                cause: Cause::Starting,
                slots: Vec::new(),
                polls: Vec::new(),
                down_since: None,
                counts: Counts::default(),
                reported: None,
            });
        }
        for block in blocks {
            if let Some(seat) = roster.seat_of(block.device) {
                let cuts = tags.cuts(plan, &block);
                let device = &mut roster.devices[seat.0];
                device.slots.extend(cuts.iter().map(|(slot, _)| *slot));
                device.polls.push(roster.polls.len());
                roster.polls.push(Poll::new(seat, cuts, block));
            }
        }
        roster
    }

    /// Where a device sits.
    pub fn seat_of(&self, device: DeviceIx) -> Option<Seat> {
        self.devices.iter().position(|known| known.ix == device).map(Seat)
    }

    /// The shortest poll of a device that is known to be good, or else the shortest.
    pub fn probe_of(&self, seat: Seat) -> Option<PollIx> {
        let polls = &self.devices.get(seat.0)?.polls;
        polls.iter().copied().min_by_key(|ix| (!self.polls[*ix].known_good, self.polls[*ix].block.count))
    }

    /// A poll becomes two: the first keeps its place, the second gets the place `twin` that the schedule gave it.
    pub fn split(&mut self, ix: PollIx, twin: PollIx, parts: [(Vec<(Slot, Cut)>, Block); 2]) {
        let seat = self.polls[ix].seat;
        let [left, right] = parts.map(|(cuts, block)| Poll::new(seat, cuts, block));
        self.polls[ix] = left;
        debug_assert_eq!(self.polls.len(), twin, "schedule and roster grow together");
        self.polls.push(right);
        self.devices[seat.0].polls.push(twin);
    }

    /// The poll that reads a tag.
    pub fn poll_with(&self, tag: TagIx) -> Option<PollIx> {
        self.polls.iter().position(|poll| poll.block.tags.contains(&tag))
    }

    /// The periods of all polls, for the schedule.
    pub fn periods(&self) -> Vec<Duration> {
        self.polls.iter().map(|poll| poll.block.period).collect()
    }
}
