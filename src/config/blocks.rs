//! Tags to wire reads: which registers are asked for together.
//!
//! Pure. `check` prints these blocks, the field room polls them; both see the same. The field room may call
//! [`plan_blocks_with`] again with the think time it measured, and splits a block that a device refuses; that is not
//! done here. The tags of a SunSpec model are planned within their model, as if it began at register 0: where it does, is found
//! out as it runs. Such a block begins with the model's header wherever that fits, so that one read shows both what the values are
//! and that they are this model's. Promises: every readable tag is in exactly one block, no value is split, no block is longer than its
//! device allows (a single value that is longer by itself stands alone; `check` refuses such a plan), and none reaches over two
//! models.

use std::time::Duration;

use super::plan::{BusLink, DevicePlan, Grouping, Parity, Plan, SerialPlan, TagPlan};
use crate::model::sunspec::{HEADER_REGISTERS, ModelRef, TABLE};
use crate::model::tag::{Address, BusIx, DeviceIx, Table, TagIx};

/// Most registers in one read (Modbus Application Protocol 1.1b3, sections 6.3 and 6.4).
pub const REGISTERS_PER_READ_MAX: u16 = 125;
/// Most bits in one read (sections 6.1 and 6.2).
pub const BITS_PER_READ_MAX: u16 = 2000;
/// Most registers in one write (section 6.12).
pub const REGISTERS_PER_WRITE_MAX: u16 = 123;
/// What a device on a serial line takes to think, until it has been measured.
pub const SERIAL_THINK_ASSUMED: Duration = Duration::from_millis(10);
/// What a device on TCP takes to think, network included, until it has been measured.
pub const TCP_THINK_ASSUMED: Duration = Duration::from_millis(2);

/// The line behind a serial server, whose settings only the server knows: what the standard asks for (Modbus over Serial
/// Line 1.02, section 2.5.1).
const LINE_ASSUMED: SerialPlan = SerialPlan { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
/// Above this rate the pause between frames is fixed (Modbus over Serial Line 1.02, section 2.5.1.1).
const FIXED_PAUSE_ABOVE_BAUD: u32 = 19_200;
const FIXED_PAUSE: Duration = Duration::from_micros(1750);
/// A fieldbus over Ethernet: 100 Mbit/s.
const ETHERNET_NANOS_PER_BYTE: u64 = 80;

/// One wire read that covers several tags of one device, table and period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Whom it asks.
    pub device: DeviceIx,
    /// Which table.
    pub table: Table,
    /// The SunSpec model it is in; then `start` counts from its first register.
    pub model: Option<ModelRef>,
    /// Zero-based first register or bit.
    pub start: u16,
    /// Registers, or bits for bit tables.
    pub count: u16,
    /// How often.
    pub period: Duration,
    /// The tags inside, by address.
    pub tags: Vec<TagIx>,
}

impl Block {
    /// Bytes of request and reply together, without what TCP/IP adds.
    pub fn transaction_bytes(&self, link: &BusLink) -> u32 {
        let data = if self.table.is_bits() { u32::from(self.count).div_ceil(8) } else { 2 * u32::from(self.count) };
        link.framing.transaction_bytes(data)
    }

    /// Does it show by itself which model it is of?
    pub const fn has_header(&self) -> bool {
        self.start == 0 && self.count >= HEADER_REGISTERS
    }
}

/// The reads of one bus with the think time assumed for its kind.
pub fn plan_blocks(plan: &Plan, bus: BusIx) -> Vec<Block> {
    let think = plan.bus(bus).map_or(Duration::ZERO, |bus| think_assumed(&bus.link));
    plan_blocks_with(plan, bus, think)
}

/// The think time of a device nobody has measured yet.
pub const fn think_assumed(link: &BusLink) -> Duration {
    if link.framing.is_numbered() { TCP_THINK_ASSUMED } else { SERIAL_THINK_ASSUMED }
}

/// The reads of one bus when its devices take `think` to answer. Device by device, then by table, period and address.
pub fn plan_blocks_with(plan: &Plan, bus: BusIx, think: Duration) -> Vec<Block> {
    let Some(link) = plan.bus(bus).map(|bus| &bus.link) else {
        return Vec::new();
    };
    plan.devices_on(bus).flat_map(|(ix, of)| device_blocks(plan, ix, gap_assumed(link, of, think))).collect()
}

/// The largest hole that is read over, as configured, or what is quickest with this think time.
pub fn gap_assumed(link: &BusLink, device: &DevicePlan, think: Duration) -> u16 {
    // A pause the device asks for is saved with every request that is not made.
    device.max_gap.unwrap_or_else(|| max_gap(link, think + device.manners.delay_between_requests))
}

/// The reads of one device that read over holes up to this size; by table, period and address.
pub fn device_blocks(plan: &Plan, ix: DeviceIx, max_gap: u16) -> Vec<Block> {
    let Some(device) = plan.device(ix) else {
        return Vec::new();
    };
    let read = plan.tags_of(device).filter(|(_, tag)| tag.access.reads());
    let mut order: Vec<(TagIx, &TagPlan, Address)> =
        read.filter_map(|(ix, tag)| Some((ix, tag, tag.place()?))).collect();
    order.sort_by_key(|(ix, tag, place)| (tag.model(), place.table, tag.poll, place.start, place.bit, *ix));
    let mut blocks: Vec<Block> = Vec::new();
    for (tag_ix, tag, Address { table, start, .. }) in order {
        let Some(block) = blocks.last_mut().filter(|block| joins(block, tag, device, max_gap)) else {
            let (start, count) = begins(tag, start, device);
            let model = tag.model();
            blocks.push(Block { device: ix, table, model, start, count, period: tag.poll, tags: vec![tag_ix] });
            continue;
        };
        block.count = block.count.max(start - block.start + width(tag));
        block.tags.push(tag_ix);
    }
    let together = reads_over_holes(device);
    for block in blocks.iter_mut().filter(|_| together) {
        take_factors_along(block, plan, device);
    }
    blocks
}

/// May what lies between tags of a model be read as far as one read reaches? A model has no holes, but a device may be said to.
pub fn reads_over_holes(device: &DevicePlan) -> bool {
    device.grouping == Grouping::Blocks && device.max_gap.is_none()
}

/// Where a block begins whose first tag is this one, and how long it is then: in a model with its header, if that fits.
fn begins(tag: &TagPlan, start: u16, device: &DevicePlan) -> (u16, u16) {
    let count = width(tag);
    let end = start.checked_add(count).map(|end| end.max(HEADER_REGISTERS));
    let near = device.grouping == Grouping::Blocks
        && device.max_gap.is_none_or(|gap| start <= HEADER_REGISTERS.saturating_add(gap));
    match end.filter(|end| near && *end <= longest_read(device, TABLE)) {
        Some(end) if tag.model().is_some() => (0, end),
        Some(_) | None => (start, count),
    }
}

/// Makes a block reach as far as the scale factors of its tags, if that fits, although they may be polled more seldom: a
/// value is worth only as much as the factor that was there at the same moment.
fn take_factors_along(block: &mut Block, plan: &Plan, device: &DevicePlan) {
    let longest = u32::from(longest_read(device, block.table));
    let tags = block.tags.iter().filter_map(|ix| plan.tag(*ix));
    let factors = tags.filter_map(|tag| plan.tag(tag.scale_from?));
    let places: Vec<(u32, u32)> = factors
        .filter(|factor| factor.model() == block.model)
        .filter_map(|factor| {
            let place = factor.place().filter(|place| place.table == block.table)?;
            Some((u32::from(place.start), u32::from(place.start) + u32::from(width(factor))))
        })
        .collect();
    for (factor_start, factor_end) in places {
        let (block_start, block_end) = (u32::from(block.start), u32::from(block.start) + u32::from(block.count));
        let (start, end) = (factor_start.min(block_start), factor_end.max(block_end));
        let hole = block_start.saturating_sub(factor_end).max(factor_start.saturating_sub(block_end));
        let reaches = block.model.is_some()
            || device.max_gap.is_none_or(|max_gap| hole <= max_gap.into())
                && device.territory.allows(block.table, start, end - start);
        if end - start <= longest
            && reaches
            && let (Ok(start), Ok(count)) = (u16::try_from(start), u16::try_from(end - start))
        {
            (block.start, block.count) = (start, count);
        }
    }
}

/// May this tag, which does not start before the block, be read with it?
fn joins(block: &Block, tag: &TagPlan, device: &DevicePlan, max_gap: u16) -> bool {
    let same = |place: &Address| block.model == tag.model() && block.table == place.table && block.period == tag.poll;
    let Some(place) = tag.place().filter(same) else {
        return false;
    };
    let (start, block_start) = (u32::from(place.start), u32::from(block.start));
    let hole = start.saturating_sub(block_start + u32::from(block.count));
    let length = (start + u32::from(width(tag)) - block_start).max(u32::from(block.count));
    if device.grouping == Grouping::OneRequestPerTag && (start, width(tag)) != (block_start, block.count) {
        return false; // bits of one register, or two views of it, are one request all the same
    }
    // A register's worth of wire is 16 bits. A model has no holes in it, and another read of it costs a look at its header.
    let hole_max = match (block.model, device.max_gap) {
        (Some(_), None) => u32::from(REGISTERS_PER_READ_MAX),
        _ if block.table.is_bits() => u32::from(max_gap) * 16,
        _ => u32::from(max_gap),
    };
    hole <= hole_max
        && length <= u32::from(longest_read(device, block.table))
        && (block.model.is_some() || device.territory.allows(block.table, block_start, length))
}

/// The longest read of a device, registers or bits: its own limit and the protocol's.
pub fn longest_read(device: &DevicePlan, table: Table) -> u16 {
    if table.is_bits() {
        device.max_bits_per_read.clamp(1, BITS_PER_READ_MAX)
    } else {
        device.max_registers_per_read.clamp(1, REGISTERS_PER_READ_MAX)
    }
}

/// Registers (or bits, in bit tables) that one value takes; a bit of a register takes that register.
pub const fn width(tag: &TagPlan) -> u16 {
    match tag.place() {
        Some(place) if !place.table.is_bits() => tag.data_type.registers(),
        _ => 1,
    }
}

/// The largest hole, in registers, that is cheaper to read than to begin a new request for:
/// `(8 + 5 chars + 2 t3.5 + think) / 2 chars` on RTU. Where there is no serial line a hole costs nothing.
pub fn max_gap(link: &BusLink, think: Duration) -> u16 {
    if link.framing.is_numbered() {
        return REGISTERS_PER_READ_MAX;
    }
    let line = link.line().unwrap_or(LINE_ASSUMED);
    let saved = char_time(line) * link.framing.transaction_bytes(0) + 2 * frame_pause(line) + think;
    let register = (char_time(line) * link.framing.register_chars()).as_nanos();
    u16::try_from(saved.as_nanos() / register.max(1)).unwrap_or(u16::MAX).min(REGISTERS_PER_READ_MAX)
}

/// How long request and reply of together this many bytes occupy the wire, pauses between frames included, think time
/// not.
pub fn wire_time(link: &BusLink, bytes: u32) -> Duration {
    match link.line() {
        None => Duration::from_nanos(u64::from(bytes) * ETHERNET_NANOS_PER_BYTE),
        Some(line) => char_time(line) * bytes + 2 * frame_pause(line),
    }
}

/// Time of one character.
pub fn char_time(serial: SerialPlan) -> Duration {
    Duration::from_nanos(u64::from(serial.bits_per_char()) * 1_000_000_000 / u64::from(serial.baud.max(1)))
}

/// t3.5, the silence before every frame.
pub fn frame_pause(serial: SerialPlan) -> Duration {
    if serial.baud > FIXED_PAUSE_ABOVE_BAUD { FIXED_PAUSE } else { char_time(serial) * 7 / 2 }
}
