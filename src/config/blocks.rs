//! Tags to wire reads: which registers are asked for together.
//!
//! Pure. `check` prints these blocks, the field room polls them; both see the same. The field room may call
//! [`plan_blocks_with`] again with the think time it measured, and splits a block that a device refuses; that is not
//! done here. Promises: every readable tag is in exactly one block, no value is split, no block is longer than its
//! device allows (a single value that is longer by itself stands alone; `check` refuses such a plan).

use std::time::Duration;

use super::plan::{BusLink, DevicePlan, Grouping, Parity, Plan, SerialPlan, TagPlan};
use crate::model::tag::{Address, BusIx, DeviceIx, Table, TagIx};

/// Most registers in one read (Modbus Application Protocol 1.1b3, sections 6.3 and 6.4).
pub const REGISTERS_PER_READ_MAX: u16 = 125;
/// Most bits in one read (sections 6.1 and 6.2).
pub const BITS_PER_READ_MAX: u16 = 2000;
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
}

/// The reads of one bus with the think time assumed for its kind.
pub fn plan_blocks(plan: &Plan, bus: BusIx) -> Vec<Block> {
    let think = plan.buses.get(bus.0 as usize).map_or(Duration::ZERO, |bus| think_assumed(&bus.link));
    plan_blocks_with(plan, bus, think)
}

/// The think time of a device nobody has measured yet.
pub const fn think_assumed(link: &BusLink) -> Duration {
    if link.framing.is_numbered() { TCP_THINK_ASSUMED } else { SERIAL_THINK_ASSUMED }
}

/// The reads of one bus when its devices take `think` to answer. Device by device, then by table, period and address.
pub fn plan_blocks_with(plan: &Plan, bus: BusIx, think: Duration) -> Vec<Block> {
    let Some(link) = plan.buses.get(bus.0 as usize).map(|bus| &bus.link) else {
        return Vec::new();
    };
    let devices = (0u32..).zip(&plan.devices).filter(|(_, device)| device.bus == Some(bus));
    devices.flat_map(|(ix, device)| device_blocks(plan, DeviceIx(ix), gap_assumed(link, device, think))).collect()
}

/// The largest hole that is read over, as configured, or what is quickest with this think time.
pub fn gap_assumed(link: &BusLink, device: &DevicePlan, think: Duration) -> u16 {
    // A pause the device asks for is saved with every request that is not made.
    device.max_gap.unwrap_or_else(|| max_gap(link, think + device.manners.delay_between_requests))
}

/// The reads of one device that read over holes up to this size; by table, period and address.
pub fn device_blocks(plan: &Plan, ix: DeviceIx, max_gap: u16) -> Vec<Block> {
    let Some(device) = plan.devices.get(ix.0 as usize) else {
        return Vec::new();
    };
    let mut order: Vec<(TagIx, &TagPlan, Address)> = (0u32..)
        .zip(&plan.tags)
        .skip(device.tags.start)
        .take(device.tags.len())
        .filter(|(_, tag)| tag.access.reads())
        .filter_map(|(position, tag)| Some((TagIx(position), tag, tag.register()?)))
        .collect();
    order.sort_by_key(|(ix, tag, place)| (place.table, tag.poll, place.start, place.bit, *ix));
    let mut blocks: Vec<Block> = Vec::new();
    for (tag_ix, tag, Address { table, start, .. }) in order {
        let Some(block) = blocks.last_mut().filter(|block| joins(block, tag, device, max_gap)) else {
            let count = width(tag);
            blocks.push(Block { device: ix, table, start, count, period: tag.poll, tags: vec![tag_ix] });
            continue;
        };
        block.count = block.count.max(start - block.start + width(tag));
        block.tags.push(tag_ix);
    }
    blocks
}

/// May this tag, which does not start before the block, be read with it?
fn joins(block: &Block, tag: &TagPlan, device: &DevicePlan, max_gap: u16) -> bool {
    let Some(place) = tag.register().filter(|place| block.table == place.table && block.period == tag.poll) else {
        return false;
    };
    let (start, block_start) = (u32::from(place.start), u32::from(block.start));
    let hole = start.saturating_sub(block_start + u32::from(block.count));
    let length = (start + u32::from(width(tag)) - block_start).max(u32::from(block.count));
    if device.grouping == Grouping::OneRequestPerTag && (start, width(tag)) != (block_start, block.count) {
        return false; // bits of one register, or two views of it, are one request all the same
    }
    // A register's worth of wire is 16 bits.
    let hole_max = u32::from(max_gap) * if block.table.is_bits() { 16 } else { 1 };
    hole <= hole_max
        && length <= u32::from(longest_read(device, block.table))
        && device.territory.allows(block.table, block_start, length)
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
    match tag.register() {
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
