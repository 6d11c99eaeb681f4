//! What a bus learned about its devices and wants to know again after a restart: where their blocks must be split.
//!
//! The bus gives and takes it through [`Memory`]; where it is kept is the app's business. Valid for one register map: with
//! another one ([`map_of`]) what was learned means nothing.

use std::time::Duration;

use crate::config::blocks::{Block, longest_read, width};
use crate::config::plan::{DevicePlan, TagPlan};
use crate::model::sunspec::ModelRef;
use crate::model::tag::Table;
use crate::model::time::millis;

/// A block is never read across this place: what begins at or behind it is another read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boundary {
    /// In which table.
    pub table: Table,
    /// In which SunSpec model; then `at` counts from its first register.
    pub model: Option<ModelRef>,
    /// Of the reads with this period.
    pub period: Duration,
    /// The first register or bit behind it.
    pub at: u16,
}

impl Boundary {
    /// Is it one of reads like this one?
    pub fn is_of(&self, read: &Block) -> bool {
        (self.table, self.model, self.period) == (read.table, read.model, read.period)
    }

    /// Does a read like this one reach over it?
    pub fn is_within(&self, read: &Block) -> bool {
        self.at > read.start && u32::from(self.at) < u32::from(read.start) + u32::from(read.count)
    }
}

/// Keeps boundaries over restarts. Neither call may block.
pub trait Memory: Send + Sync {
    /// What is known of a device with this register map.
    fn recall(&self, device: &str, map: u64) -> Vec<Boundary>;

    /// Replaces what is known of it.
    fn keep(&self, device: &str, map: u64, boundaries: &[Boundary]);
}

/// A number that changes when the device is another one: its unit, its limits, or which tags lie where.
pub fn map_of<'a>(device: &DevicePlan, tags: impl IntoIterator<Item = &'a TagPlan>) -> u64 {
    let limits = [Table::Holding, Table::Coil].map(|table| u64::from(longest_read(device, table)));
    let own = [u64::from(device.unit_id), limits[0], limits[1], device.max_gap.map_or(u64::MAX, u64::from)];
    let tag = |tag: &TagPlan| {
        let place = tag.place()?;
        let period = millis(tag.poll);
        let model =
            tag.model().into_iter().flat_map(|model| model.numbers().chain([model.nth().into()]).collect::<Vec<_>>());
        let own = [place.table as u64, u64::from(place.start), u64::from(width(tag)), period];
        Some(own.into_iter().chain(model.map(u64::from)))
    };
    let tags = tags.into_iter().filter_map(tag).flatten();
    own.into_iter().chain(tags).flat_map(u64::to_le_bytes).fold(FNV_OFFSET, fnv)
}

/// FNV-1a, 64 bit: the same number on every machine and in every version.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

const fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FNV_PRIME)
}

/// What is learned of one device, and when the next attempt is due to forget some of it.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    boundaries: Vec<Boundary>,
    /// Attempts in a row that brought nothing.
    in_vain: u32,
}

/// Before the first attempt to read a split block as a whole again …
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// … and at most between two of them.
const RETRY_LONGEST: Duration = Duration::from_secs(86_400);

impl Learned {
    /// Begins with what was kept.
    pub fn recalled(boundaries: Vec<Boundary>) -> Self {
        Self { boundaries, in_vain: 0 }
    }

    /// All of it.
    pub fn boundaries(&self) -> &[Boundary] {
        &self.boundaries
    }

    /// One more.
    pub fn add(&mut self, boundary: Boundary) {
        if let Err(place) = self.boundaries.binary_search(&boundary) {
            self.boundaries.insert(place, boundary);
        }
    }

    /// What lies within this read is not true any more.
    pub fn forget(&mut self, read: &Block) {
        self.boundaries.retain(|kept| !(kept.is_of(read) && kept.is_within(read)));
        self.in_vain = 0;
    }

    /// An attempt brought nothing.
    pub fn tried_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// How long to wait before the next attempt.
    pub fn wait(&self) -> Duration {
        RETRY_FIRST.saturating_mul(1 << self.in_vain.min(16)).min(RETRY_LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tag::{Address, BusIx, DataType, DeviceIx};

    const SECOND: Duration = Duration::from_secs(1);

    fn holding(at: u16) -> Boundary {
        Boundary { table: Table::Holding, model: None, period: SECOND, at }
    }

    fn read(table: Table, period: Duration, start: u16, count: u16) -> Block {
        Block { device: DeviceIx(0), table, model: None, start, count, period, tags: Vec::new() }
    }

    #[test]
    fn what_a_whole_read_disproves_is_forgotten_and_vain_attempts_become_rare() {
        let mut learned = Learned::default();
        for at in [40, 10, 20, 10] {
            learned.add(holding(at));
        }
        assert_eq!(learned.boundaries(), [holding(10), holding(20), holding(40)]);
        let waits: Vec<_> = (0..12)
            .map(|_| {
                let wait = learned.wait().as_secs();
                learned.tried_in_vain();
                wait
            })
            .collect();
        assert_eq!(waits[..3], [60, 120, 240]);
        assert_eq!(waits[11], 86_400);
        learned.forget(&read(Table::Holding, SECOND, 10, 30));
        assert_eq!(learned.boundaries(), [holding(10), holding(40)], "a read that begins or ends there says nothing");
        assert_eq!(learned.wait(), RETRY_FIRST);
        learned.forget(&read(Table::Input, SECOND, 0, 100));
        learned.forget(&Block { model: ModelRef::new(&[103], 1), ..read(Table::Holding, SECOND, 0, 100) });
        learned.forget(&read(Table::Holding, 2 * SECOND, 0, 100));
        assert_eq!(learned.boundaries().len(), 2);
    }

    #[test]
    fn another_register_map_is_another_number() {
        let device = DevicePlan::plain("d", BusIx(0), 1);
        let tag = |start| {
            TagPlan::plain("t", DeviceIx(0), Address { table: Table::Holding, start, bit: None }, DataType::Int16)
        };
        let map = map_of(&device, &[tag(1), tag(2)]);
        assert_eq!(map, map_of(&device, &[tag(1), TagPlan { name: "another".into(), ..tag(2) }]));
        assert_ne!(map, map_of(&device, &[tag(1), tag(3)]));
        assert_ne!(map, map_of(&DevicePlan { unit_id: 2, ..device.clone() }, &[tag(1), tag(2)]));
        assert_ne!(map, map_of(&DevicePlan { max_registers_per_read: 9, ..device }, &[tag(1), tag(2)]));
    }
}
