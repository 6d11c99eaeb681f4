//! What a bus knows of each of its devices and polls. State without behaviour in time: the bus moves it.

use std::time::Duration;

use tokio::time::Instant;

use super::memory::{Learned, map_of};
use super::modbus::decode::Cut;
use super::refusals::Refusals;
use super::schedule::PollIx;
use super::spread::Spread;
use super::standing::Unit;
use super::stats::Noise;
use super::sunspec::discovery::Discovery;
use super::tags::{Slot, Tags};
use super::think::Think;
use crate::config::blocks::{Block, longest_read, reads_over_holes, width};
use crate::config::plan::Plan;
use crate::flow::hub::{DeviceReport, Diagnosis};
use crate::model::quality::Cause;
use crate::model::tag::{DeviceIx, TagIx};
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
    /// What was learned of its blocks, under which register map, and when some of it is tried again.
    pub learned: Learned,
    /// See [`map_of`].
    pub map: u64,
    /// When the next attempt to read a split block as a whole is due.
    pub whole_again: Instant,
    /// How long it thinks.
    pub think: Think,
    /// Where it has its SunSpec models.
    pub discovery: Discovery,
    /// What it refuses to be read.
    pub refusals: Refusals,
    spread: Spread,
    counts: Counts,
    reported: Option<DeviceReport>,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    last_success: Option<Stamp>,
    requests: u64,
    timeouts: u64,
    exceptions: u64,
    errors: u64,
    diagnosis: Diagnosis,
}

/// How a request to a device ended, for its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A good answer.
    Answer(Stamp),
    /// An exception.
    Exception(Stamp, u8),
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
            Ending::Exception(at, code) => {
                counts.last_success = Some(at);
                counts.exceptions += 1;
                let codes = &mut counts.diagnosis.exception_codes;
                match codes.binary_search_by_key(&code, |(known, _)| *known) {
                    Ok(place) => codes[place].1 += 1,
                    Err(place) => codes.insert(place, (code, 1)),
                }
            }
            Ending::Timeout => counts.timeouts += 1,
            Ending::Error => counts.errors += 1,
        }
    }

    /// An answer took this long.
    pub fn took(&mut self, took: Duration) {
        self.spread.add(took);
    }

    /// What was heard during its transaction that was no answer.
    pub fn heard(&mut self, noise: Noise) {
        let diagnosis = &mut self.counts.diagnosis;
        diagnosis.crc += noise.crc;
        diagnosis.stale += noise.stale;
        diagnosis.garbage += noise.garbage;
        diagnosis.foreign += noise.foreign;
    }

    /// Nothing of what was counted and measured is worth anything any more: somebody has worked on it.
    pub fn forget(&mut self) {
        (self.spread, self.counts, self.think) = (Spread::default(), Counts::default(), Think::default());
        self.discovery.doubt();
    }

    /// Periods of a poll were missed.
    pub fn skipped(&mut self, periods: u64) {
        self.counts.diagnosis.skipped += periods;
    }

    /// The report, if it differs from the last one; `None` also before anything is known.
    pub fn news(&mut self, bus_load: u8) -> Option<DeviceReport> {
        let counts = &self.counts;
        let response = self.spread.percentiles();
        let report = DeviceReport {
            device: self.ix,
            standing: self.unit.told()?,
            last_success: counts.last_success,
            requests: counts.requests,
            timeouts: counts.timeouts,
            exceptions: counts.exceptions,
            errors: counts.errors,
            diagnosis: Diagnosis { response, bus_load, ..counts.diagnosis.clone() },
        };
        let unchanged = |last: &DeviceReport| {
            // How busy the bus is alone is no news of this device.
            let load = last.diagnosis.bus_load;
            *last
                == DeviceReport {
                    diagnosis: Diagnosis { bus_load: load, ..report.diagnosis.clone() },
                    ..report.clone()
                }
        };
        if self.reported.as_ref().is_some_and(unchanged) {
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
    /// Readings in a row that showed another model than the one that was found there.
    pub moved: u8,
    /// When the chain of models was last put in doubt because the device refused this.
    pub doubted: Option<Instant>,
    /// Scale factors of its tags that are polled at another time, and lie in its readings all the same …
    pub factors: Vec<(Slot, Cut)>,
    /// … or near the header of its model, and where there.
    pub head: Vec<(Slot, Cut)>,
    /// See [`Self::head`].
    pub steady: Vec<u16>,
}

impl Poll {
    /// Its tags bytewise by name: in this order their samples are numbered.
    fn new(seat: Seat, plan: &Plan, mut block: Block, tags: &Tags) -> Self {
        let name = |ix: &TagIx| plan.tag(*ix).map(|tag| tag.name.as_bytes());
        block.tags.sort_by(|one, other| name(one).cmp(&name(other)));
        let cuts = tags.cuts(plan, &block);
        let (factors, head, steady) = beside(plan, &block, tags);
        Self {
            seat,
            block,
            cuts,
            known_good: false,
            busy: 0,
            refused_since: None,
            moved: 0,
            doubted: None,
            factors,
            head,
            steady,
        }
    }
}

impl Poll {
    /// What its readings had shown before its bus went on with other devices, or with other reads.
    pub fn go_on(&mut self, before: &Self) {
        self.known_good = before.known_good;
        self.busy = before.busy;
        self.refused_since = before.refused_since;
        self.moved = before.moved;
        self.doubted = before.doubted;
    }
}

/// Where the scale factors of a block's tags are found that are not among its tags: in its readings, or near the header.
#[expect(clippy::type_complexity, reason = "three columns of a poll, made in one go")]
fn beside(plan: &Plan, block: &Block, tags: &Tags) -> (Vec<(Slot, Cut)>, Vec<(Slot, Cut)>, Vec<u16>) {
    let (mut factors, mut head, mut steady) = (Vec::new(), Vec::new(), Vec::new());
    let of = |ix: &TagIx| plan.tag(*ix);
    let mut wanted: Vec<TagIx> = block.tags.iter().filter_map(|ix| of(ix)?.scale_from).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let (start, end) = (block.start, u32::from(block.start) + u32::from(block.count));
    let of_device = plan.device(block.device);
    let together = of_device.filter(|device| reads_over_holes(device));
    let longest = together.map_or(0, |device| longest_read(device, block.table));
    let apart = block.model.is_some() && !block.has_header();
    for ix in wanted.into_iter().filter(|ix| !block.tags.contains(ix)) {
        let (Some(tag), Some(slot)) = (of(&ix), tags.slot(ix)) else { continue };
        let Some(place) = tag.place().filter(|place| place.table == block.table && tag.model() == block.model) else {
            continue;
        };
        if place.start >= start && u32::from(place.start) + u32::from(width(tag)) <= end {
            factors.extend(Cut::new(tag, start).map(|cut| (slot, cut)));
        } else if apart && place.start < longest {
            head.extend(Cut::new(tag, 0).map(|cut| (slot, cut)));
            steady.push(place.start);
        }
    }
    (factors, head, steady)
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
    /// These devices, without a poll: one may have tags that are only written.
    pub fn new(plan: &Plan, devices: &[DeviceIx], now: Instant) -> Self {
        let device = |ix: &DeviceIx| {
            let of = plan.device(*ix)?;
            Some(Device {
                ix: *ix,
                name: of.name.clone(),
                unit_id: of.unit_id,
                unit: Unit::new(of.manners.retries),
                cause: Cause::Starting,
                slots: Vec::new(),
                polls: Vec::new(),
                down_since: None,
                learned: Learned::default(),
                map: map_of(of, plan.tags.get(of.tags.clone()).unwrap_or_default()),
                whole_again: now,
                think: Think::default(),
                discovery: Discovery::default(),
                refusals: Refusals::default(),
                spread: Spread::default(),
                counts: Counts::default(),
                reported: None,
            })
        };
        Self { devices: devices.iter().filter_map(device).collect(), polls: Vec::new() }
    }

    /// Begins anew with these blocks; what is known of the devices stays. Tags are sorted bytewise by name, in polls and
    /// in devices, so that samples come out in the order in which they are numbered.
    pub fn set_polls(&mut self, plan: &Plan, blocks: Vec<Block>, tags: &Tags) {
        let name = |ix: &TagIx| plan.tag(*ix).map(|tag| tag.name.as_bytes());
        self.polls.clear();
        for device in &mut self.devices {
            let of = plan.device(device.ix).map(|device| device.tags.clone()).unwrap_or_default();
            let mut own: Vec<TagIx> = (0u32..).map(TagIx).skip(of.start).take(of.len()).collect();
            own.sort_by(|one, other| name(one).cmp(&name(other)));
            device.slots = own.iter().filter_map(|ix| tags.slot(*ix)).collect();
            device.polls.clear();
        }
        for block in blocks {
            if let Some(seat) = self.seat_of(block.device) {
                self.devices[seat.0].polls.push(self.polls.len());
                self.polls.push(Poll::new(seat, plan, block, tags));
            }
        }
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
    pub fn split(&mut self, [ix, twin]: [PollIx; 2], parts: [Block; 2], plan: &Plan, tags: &Tags) {
        let seat = self.polls[ix].seat;
        let [left, right] = parts.map(|block| Poll::new(seat, plan, block, tags));
        self.polls[ix] = left;
        debug_assert_eq!(self.polls.len(), twin, "schedule and roster grow together");
        self.polls.push(right);
        self.devices[seat.0].polls.push(twin);
    }

    /// A poll reads this from now on.
    pub fn replace(&mut self, ix: PollIx, block: Block, plan: &Plan, tags: &Tags) {
        self.polls[ix] = Poll::new(self.polls[ix].seat, plan, block, tags);
    }

    /// The poll that reads a tag.
    pub fn poll_with(&self, tag: TagIx) -> Option<PollIx> {
        self.polls.iter().position(|poll| poll.block.tags.contains(&tag))
    }

    /// The blocks of all polls.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.polls.iter().map(|poll| &poll.block)
    }

    /// The periods of all polls, for the schedule.
    pub fn periods(&self) -> Vec<Duration> {
        self.polls.iter().map(|poll| poll.block.period).collect()
    }
}
