//! What a simulated device holds: four tables, each with only the addresses that were put there.
//!
//! Pure. An address that was never set does not exist, so that a read over it is answered with exception 2, as a strict
//! device would. Writes reach existing addresses only and touch all of them or none.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::tag::Table;

/// The registers and bits of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    holding: BTreeMap<u16, u16>,
    input: BTreeMap<u16, u16>,
    coil: BTreeMap<u16, bool>,
    discrete: BTreeMap<u16, bool>,
}

/// The request touches an address that this unit does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmapped;

impl Image {
    /// Nothing is mapped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps registers from `start` on, or overwrites them. Words for a table of bits count as "not 0".
    pub fn set_words(&mut self, table: Table, start: u16, words: &[u16]) {
        for (address, word) in (start..=u16::MAX).zip(words) {
            match table {
                Table::Holding => _ = self.holding.insert(address, *word),
                Table::Input => _ = self.input.insert(address, *word),
                Table::Coil => _ = self.coil.insert(address, *word != 0),
                Table::Discrete => _ = self.discrete.insert(address, *word != 0),
            }
        }
    }

    /// Maps one bit: of a table of bits, or bit `bit` (0 = least significant) of a register, other bits kept.
    pub fn set_bit(&mut self, table: Table, start: u16, bit: Option<u8>, value: bool) {
        let mask = 1u16 << bit.unwrap_or(0).min(15);
        let registers = match table {
            Table::Coil | Table::Discrete => return self.set_words(table, start, &[value.into()]),
            Table::Holding => &mut self.holding,
            Table::Input => &mut self.input,
        };
        let word = registers.entry(start).or_insert(0);
        *word = if value { *word | mask } else { *word & !mask };
    }

    /// Registers of a holding or input table.
    pub fn words(&self, table: Table, start: u16, count: u16) -> Result<Vec<u16>, Unmapped> {
        let registers = if table == Table::Input { &self.input } else { &self.holding };
        read(registers, start, count)
    }

    /// Bits of a coil or discrete table.
    pub fn bits(&self, table: Table, start: u16, count: u16) -> Result<Vec<bool>, Unmapped> {
        let bits = if table == Table::Discrete { &self.discrete } else { &self.coil };
        read(bits, start, count)
    }

    /// A client's write of holding registers: all or none.
    pub fn write_words(&mut self, start: u16, words: &[u16]) -> Result<(), Unmapped> {
        write(&mut self.holding, start, words)
    }

    /// A client's write of coils: all or none.
    pub fn write_bits(&mut self, start: u16, bits: &[bool]) -> Result<(), Unmapped> {
        write(&mut self.coil, start, bits)
    }
}

/// The addresses of a request; beyond 65535 there is nothing.
fn span(start: u16, count: usize) -> Range<u32> {
    let start = u32::from(start);
    start..start.saturating_add(u32::try_from(count).unwrap_or(u32::MAX))
}

fn read<T: Copy>(cells: &BTreeMap<u16, T>, start: u16, count: u16) -> Result<Vec<T>, Unmapped> {
    span(start, count.into())
        .map(|address| u16::try_from(address).ok().and_then(|address| cells.get(&address).copied()).ok_or(Unmapped))
        .collect()
}

fn write<T: Copy>(cells: &mut BTreeMap<u16, T>, start: u16, values: &[T]) -> Result<(), Unmapped> {
    read(cells, start, u16::try_from(values.len()).map_err(|_| Unmapped)?)?;
    for (address, value) in (start..=u16::MAX).zip(values) {
        cells.insert(address, *value);
    }
    Ok(())
}
