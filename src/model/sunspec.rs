//! Places in a SunSpec device: a point of a model, wherever the device has put that model.
//!
//! A SunSpec map is a chain of models in the holding registers: `"SunS"`, then for each model its number, the length of what
//! follows and its points, then the number 0xFFFF (SunSpec Device Information Model Specification 1.2, section 6). Which models a
//! device has, and where, is the maker's choice and changes with the firmware; the points within a model are published. So
//! a place is said as in the published tables, by the model's number and the offset in it: 0 is the model's number itself, 1 its
//! length, 2 its first point.
//!
//! ```text
//! sunspec:103:14          point 14 of model 103
//! sunspec:101|102|103:14  of whichever of these the device has
//! sunspec:160#2:10        of the second model 160
//! sunspec:120:7.3         bit 3 of point 7
//! ```

use std::fmt;

use super::tag::{Address, Table};

/// Most alternatives of one place.
pub const ALTERNATIVES_MAX: usize = 8;
/// The table a chain lies in.
pub const TABLE: Table = Table::Holding;
/// Registers of a model before its first point: number and length.
pub const HEADER_REGISTERS: u16 = 2;
/// Ends a chain; no model has this number.
pub const END: u16 = 0xFFFF;

/// Which model of a chain: one of some numbers, and the first, second … of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRef {
    /// Their numbers, 0 for none; one at least.
    numbers: [u16; ALTERNATIVES_MAX],
    /// From 1.
    nth: u8,
}

impl ModelRef {
    /// One of these numbers, the `nth` of them in the chain, from 1. `None`: no numbers or too many, or one that no model has.
    pub fn new(numbers: &[u16], nth: u8) -> Option<Self> {
        let mut own = [0; ALTERNATIVES_MAX];
        if numbers.is_empty() || nth == 0 || numbers.iter().any(|number| matches!(*number, 0 | END)) {
            return None;
        }
        own.get_mut(..numbers.len())?.copy_from_slice(numbers);
        Some(Self { numbers: own, nth })
    }

    /// Is it this one?
    pub fn is(&self, number: u16) -> bool {
        number != 0 && self.numbers.contains(&number)
    }

    /// The numbers it may have, as they were written.
    pub fn numbers(&self) -> impl Iterator<Item = u16> {
        self.numbers.into_iter().filter(|number| *number != 0)
    }

    /// Which of them in the chain: 1 for the first.
    pub const fn nth(&self) -> u8 {
        self.nth
    }
}

/// `101|102|103`, `160#2`
impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, number) in self.numbers().enumerate() {
            write!(f, "{}{number}", if place == 0 { "" } else { "|" })?;
        }
        if self.nth == 1 { Ok(()) } else { write!(f, "#{}", self.nth) }
    }
}

/// A point of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelPlace {
    /// Of which.
    pub model: ModelRef,
    /// From the model's number, which has the offset 0.
    pub offset: u16,
    /// A bit of that register, 0 = least significant, at most 15.
    pub bit: Option<u8>,
}

impl ModelPlace {
    /// As if its model began at register 0.
    pub const fn relative(&self) -> Address {
        Address { table: TABLE, start: self.offset, bit: self.bit }
    }

    /// Where it is when its model begins at this register; `None`: beyond the last register.
    pub fn at(&self, model_start: u16) -> Option<Address> {
        Some(Address { start: model_start.checked_add(self.offset)?, ..self.relative() })
    }
}

/// `sunspec:160#2:10.3`
impl fmt::Display for ModelPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sunspec:{}:{}", self.model, self.offset)?;
        self.bit.map_or(Ok(()), |bit| write!(f, ".{bit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_is_written() {
        let place = |numbers: &[u16], nth, bit| {
            let model = ModelRef::new(numbers, nth).expect("a model");
            ModelPlace { model, offset: 14, bit }.to_string()
        };
        assert_eq!(place(&[103], 1, None), "sunspec:103:14");
        assert_eq!(place(&[103, 101], 1, Some(3)), "sunspec:103|101:14.3");
        assert_eq!(place(&[160], 2, None), "sunspec:160#2:14");
    }

    #[test]
    fn what_no_chain_has_is_no_model() {
        assert!(ModelRef::new(&[], 1).is_none() && ModelRef::new(&[103], 0).is_none());
        assert!(ModelRef::new(&[0], 1).is_none() && ModelRef::new(&[END], 1).is_none());
        assert!(ModelRef::new(&[1; ALTERNATIVES_MAX + 1], 1).is_none());
        let inverter = ModelRef::new(&[101, 103], 1).expect("a model");
        assert!(inverter.is(103) && !inverter.is(102) && !inverter.is(0));
    }
}
