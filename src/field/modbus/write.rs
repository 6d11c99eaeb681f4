//! From an engineering value to what goes on the wire, and back from what is read back. Pure.
//!
//! Fed by the command file with values that the router has let pass; judged here once more, because a write that is
//! wrong moves a pump.

use super::decode::{Cut, wire_bit};
use super::session::Reading;
use crate::config::plan::TagPlan;
use crate::model::command::Refusal;
use crate::model::registers::{self, DoesNotFit};
use crate::model::tag::{DataType, Table};
use crate::model::value::Value;
use crate::pipeline::scale::{Raw, Scaling};

/// One write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// FC 5.
    Coil {
        /// Zero-based.
        address: u16,
        /// On or off.
        on: bool,
    },
    /// FC 6 for one register, FC 16 for more.
    Registers {
        /// Zero-based, of the first.
        address: u16,
        /// As they go on the wire.
        words: Vec<u16>,
    },
}

impl Write {
    /// Registers of data it carries.
    pub fn registers(&self) -> usize {
        match self {
            Self::Coil { .. } => 1,
            Self::Registers { words, .. } => words.len(),
        }
    }

    /// What has to be read to see whether it took: table, start, count.
    pub fn extent(&self) -> (Table, u16, u16) {
        match self {
            Self::Coil { address, .. } => (Table::Coil, *address, 1),
            Self::Registers { address, words } => {
                (Table::Holding, *address, u16::try_from(words.len()).unwrap_or(u16::MAX))
            }
        }
    }

    /// Does the device hold what was written, word for word?
    pub fn holds(&self, reading: &Reading) -> bool {
        match (self, reading) {
            (Self::Coil { on, .. }, Reading::Bits(bits)) => bits.as_slice() == [*on],
            (Self::Registers { words, .. }, Reading::Registers(read)) => words == read,
            _ => false,
        }
    }
}

/// What a command asks of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// One request.
    Write(Write),
    /// One bit of a register: read it, change the bit, write it (FC 3, FC 6).
    Bit {
        /// Zero-based register.
        address: u16,
        /// Place on the wire, 0 = least significant.
        bit: u8,
        /// Set or clear.
        on: bool,
    },
}

/// Checks a command's value against its tag and turns it into an intent.
pub fn intend(tag: &TagPlan, value: &Value) -> Result<Intent, Refusal> {
    let place = tag.register().filter(|place| matches!(place.table, Table::Holding | Table::Coil));
    let Some(place) = place.filter(|_| tag.access.writes()) else {
        return Err(Refusal::Access);
    };
    let value = &switch(tag.data_type, value);
    if let Some(number) = value.as_f64()
        && !(number.is_finite() && tag.write.limits.contain(number))
    {
        return Err(Refusal::Range);
    }
    let address = place.start;
    match (place.table, place.bit, value) {
        (Table::Coil, _, Value::Bool(on)) => Ok(Intent::Write(Write::Coil { address, on: *on })),
        (_, Some(bit), Value::Bool(on)) => Ok(Intent::Bit { address, bit: wire_bit(bit, tag.order), on: *on }),
        (Table::Coil, ..) | (_, Some(_), _) => Err(Refusal::Payload),
        _ => {
            let raw = if tag.data_type.is_integer() { Raw::Whole } else { Raw::Real };
            let raw = Scaling::new(tag.scale).invert(value, raw);
            let words = registers::encode(&raw, tag.data_type, tag.order).map_err(|error| match error {
                DoesNotFit::OutOfRange => Refusal::Range,
                DoesNotFit::WrongKind => Refusal::Payload,
            })?;
            if words.len() > super::session::REGISTERS_PER_WRITE_MAX || !within_limits_on_the_wire(tag, &words) {
                return Err(Refusal::Range);
            }
            Ok(Intent::Write(Write::Registers { address, words }))
        }
    }
}

/// A step of the scale may end beyond a limit that the value itself kept: 10 in steps of 4 is 12.
fn within_limits_on_the_wire(tag: &TagPlan, words: &[u16]) -> bool {
    let meant = read_back(tag, &Reading::Registers(words.to_vec())).and_then(|value| value.as_f64());
    !tag.data_type.is_integer() || meant.is_none_or(|number| tag.write.limits.contain(number))
}

/// 0 and 1 are as good as false and true for a switch.
fn switch(data_type: DataType, value: &Value) -> Value {
    match (data_type, value.as_f64()) {
        (DataType::Bool, Some(0.0)) => Value::Bool(false),
        (DataType::Bool, Some(1.0)) => Value::Bool(true),
        _ => value.clone(),
    }
}

/// The engineering value of a tag in a read of just its own registers.
pub fn read_back(tag: &TagPlan, reading: &Reading) -> Option<Value> {
    let raw = Cut::new(tag, tag.register()?.start)?.value(reading).ok()?;
    Scaling::new(tag.scale).apply(raw)
}
