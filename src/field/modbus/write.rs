//! From an engineering value to what goes on the wire, and back from what is read back. Pure.
//!
//! Fed by the command file with values that the router has let pass; judged here once more, because a write that is
//! wrong moves a pump. Functions (Application Protocol 1.1b3, sections 6.5, 6.6, 6.11, 6.12, 6.16):
//!
//! ```text
//!            a coil     one register   more registers   some bits of registers
//! auto       5 (15)     6 (16)         16               read, change, write as in the columns before
//! single     5          6              -                read, change, 6
//! multiple   15         16             16               read, change, 16
//! mask       -          -              -                22: result = (held AND and) OR (or AND NOT and)
//! ```
//!
//! In brackets: after exception 1, "illegal function", which says that nothing was done.

use tokio_modbus::Request;

use super::decode::{Cut, Piece};
use super::session::Reading;
use crate::config::blocks::REGISTERS_PER_WRITE_MAX;
use crate::config::plan::{TagPlan, WriteFunction};
use crate::model::command::Refusal;
use crate::model::registers::DoesNotFit;
use crate::model::tag::{Address, DataType, Table};
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::meaning::{Factor, Meaning};

/// One write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A coil.
    Coil {
        /// Zero-based.
        address: u16,
        /// On or off.
        on: bool,
        /// FC 5 or 15.
        by: By,
    },
    /// Holding registers.
    Registers {
        /// Zero-based, of the first.
        address: u16,
        /// As they go on the wire.
        words: Vec<u16>,
        /// FC 6 (one register only) or 16.
        by: By,
    },
    /// FC 22: some bits of one holding register.
    Mask {
        /// Zero-based.
        address: u16,
        /// Bits that stay.
        and: u16,
        /// Of the others, those that are set.
        or: u16,
    },
}

/// Which of two functions a write uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// FC 5 or 6.
    Single,
    /// FC 15 or 16.
    Multiple,
}

impl Write {
    /// As the crate sends it; `None` for more registers than one request may carry, or none.
    pub fn request(&self) -> Option<Request<'_>> {
        Some(match self {
            Self::Coil { address, on, by: By::Single } => Request::WriteSingleCoil(*address, *on),
            Self::Coil { address, on, by: By::Multiple } => Request::WriteMultipleCoils(*address, vec![*on].into()),
            Self::Registers { address, words, by } => match (words.as_slice(), by) {
                ([], _) => return None,
                ([word], By::Single) => Request::WriteSingleRegister(*address, *word),
                (words, _) if words.len() > usize::from(REGISTERS_PER_WRITE_MAX) => return None,
                (words, _) => Request::WriteMultipleRegisters(*address, words.into()),
            },
            Self::Mask { address, and, or } => Request::MaskWriteRegister(*address, *and, *or),
        })
    }

    /// Bytes of data it carries, at most.
    pub fn data_bytes(&self) -> u32 {
        match self {
            Self::Coil { .. } => 2,
            Self::Registers { words, .. } => u32::try_from(words.len() * 2).unwrap_or(u32::MAX),
            Self::Mask { .. } => 4,
        }
    }

    /// True where a good answer is byte for byte the request: FC 5, 6 and 22.
    pub fn answers_like_an_echo(&self) -> bool {
        match self {
            Self::Coil { by, .. } => *by == By::Single,
            Self::Registers { words, by, .. } => *by == By::Single && words.len() == 1,
            Self::Mask { .. } => true,
        }
    }

    /// The same with the function for several; `None` when it is that already.
    fn by_multiple(&self) -> Option<Self> {
        match self.clone() {
            Self::Coil { address, on, by: By::Single } => Some(Self::Coil { address, on, by: By::Multiple }),
            Self::Registers { address, words, by: By::Single } if words.len() == 1 => {
                Some(Self::Registers { address, words, by: By::Multiple })
            }
            _ => None,
        }
    }
}

/// What a command asks of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    place: Address,
    change: Change,
    function: WriteFunction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// A coil.
    Coil(bool),
    /// Whole registers.
    Words(Vec<u16>),
    /// Of each register the bits of its mask.
    Bits { mask: Vec<u16>, bits: Vec<u16> },
}

impl Intent {
    /// What has to be read to see what is there: table, start, count.
    pub fn extent(&self) -> (Table, u16, u16) {
        let count = match &self.change {
            Change::Coil(_) => 1,
            Change::Words(words) | Change::Bits { bits: words, .. } => words.len(),
        };
        (self.place.table, self.place.start, u16::try_from(count).unwrap_or(u16::MAX))
    }

    /// Must the registers be read before they can be written?
    pub const fn needs_reading(&self) -> bool {
        matches!(self.change, Change::Bits { .. }) && !matches!(self.function, WriteFunction::Mask)
    }

    /// The request, given what the registers hold (if [`Self::needs_reading`]); `None` when that is missing or of the wrong
    /// length.
    pub fn write(&self, held: Option<&Reading>) -> Option<Write> {
        let address = self.place.start;
        let by = if self.function == WriteFunction::Multiple { By::Multiple } else { By::Single };
        Some(match (&self.change, held) {
            (Change::Coil(on), _) => Write::Coil { address, on: *on, by },
            (Change::Words(words), _) => Write::Registers { address, words: words.clone(), by },
            (Change::Bits { mask, bits }, _) if self.function == WriteFunction::Mask => match (&mask[..], &bits[..]) {
                ([mask], [bits]) => Write::Mask { address, and: !mask, or: *bits },
                _ => return None,
            },
            (Change::Bits { mask, bits }, Some(Reading::Registers(held))) if held.len() == bits.len() => {
                let changed = held.iter().zip(mask).zip(bits).map(|((held, mask), bits)| held & !mask | bits);
                Write::Registers { address, words: changed.collect(), by }
            }
            (Change::Bits { .. }, _) => return None,
        })
    }

    /// What to try when the device does not know the function of this request.
    pub fn instead_of(&self, write: &Write) -> Option<Write> {
        if self.function == WriteFunction::Auto { write.by_multiple() } else { None }
    }

    /// Does the device hold what was wanted, bit for bit?
    pub fn holds(&self, reading: &Reading) -> bool {
        match (&self.change, reading) {
            (Change::Coil(on), Reading::Bits(bits)) => bits.as_slice() == [*on],
            (Change::Words(words), Reading::Registers(read)) => words == read,
            (Change::Bits { mask, bits }, Reading::Registers(read)) => {
                read.len() == bits.len()
                    && read.iter().zip(mask).zip(bits).all(|((read, mask), bits)| read & mask == *bits)
            }
            _ => false,
        }
    }
}

/// Checks a command's value against its tag and turns it into an intent.
pub fn intend(tag: &TagPlan, factor: Factor, value: &Value) -> Result<Intent, Refusal> {
    let place = tag.register().filter(|place| matches!(place.table, Table::Holding | Table::Coil));
    let Some(place) = place.filter(|_| tag.access.writes()) else {
        return Err(Refusal::Access);
    };
    if let Some(number) = value.as_f64()
        && !(number.is_finite() && limits::of_writes(tag).contain(number))
    {
        return Err(Refusal::Range);
    }
    let meaning = Meaning::of(tag);
    let change = change(place, tag, &meaning, factor, value).map_err(|error| match error {
        DoesNotFit::OutOfRange => Refusal::Range,
        DoesNotFit::WrongKind => Refusal::Payload,
    })?;
    if let Change::Words(words) | Change::Bits { bits: words, .. } = &change
        && (words.len() > usize::from(REGISTERS_PER_WRITE_MAX)
            || !within_limits_on_the_wire(tag, &meaning, factor, words))
    {
        return Err(Refusal::Range);
    }
    Ok(Intent { place, change, function: tag.write.function })
}

fn change(
    place: Address,
    tag: &TagPlan,
    meaning: &Meaning,
    factor: Factor,
    value: &Value,
) -> Result<Change, DoesNotFit> {
    if tag.data_type != DataType::Bool {
        let bits = meaning.write(value, factor)?;
        return Ok(match meaning.form().mask_words() {
            Some(mask) => Change::Bits { mask, bits },
            None => Change::Words(bits),
        });
    }
    let on = meaning.write_bit(value)?;
    Ok(match (place.table, place.bit) {
        (Table::Coil, _) => Change::Coil(on),
        (_, None) => Change::Words(meaning.form().write(&Value::Bool(on))?),
        (_, Some(bit)) => {
            let mask = 1 << tag.order.wire_bit(bit);
            Change::Bits { mask: vec![mask], bits: vec![if on { mask } else { 0 }] }
        }
    })
}

/// A step of the scale may end beyond a limit that the value itself kept: 10 in steps of 4 is 12.
fn within_limits_on_the_wire(tag: &TagPlan, meaning: &Meaning, factor: Factor, words: &[u16]) -> bool {
    let meant = meaning.read(words, factor).0.and_then(|value| value.as_f64());
    !tag.data_type.is_integer() || meant.is_none_or(|number| tag.write.limits.contain(number))
}

/// The engineering value of a tag in a read of just its own registers.
pub fn read_back(tag: &TagPlan, factor: Factor, reading: &Reading) -> Option<Value> {
    let meaning = Meaning::of(tag);
    match Cut::new(tag, tag.register()?.start)?.piece(reading) {
        Piece::Bit(on) => meaning.read_bit(on).0,
        Piece::Words(words) => meaning.read(words, factor).0,
        Piece::Missing => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registers::BitField;
    use crate::model::tag::{Access, DeviceIx, Order};

    fn field(data_type: DataType, function: WriteFunction) -> TagPlan {
        let address = Address { table: Table::Holding, start: 7, bit: None };
        let mut tag = TagPlan::plain("t", DeviceIx(0), address, data_type);
        (tag.access, tag.order, tag.write.function) = (Access::ReadWrite, Order::Cdab, function);
        tag.field = Some(BitField { mask: 0x0F_F000, shift: 12 });
        tag
    }

    #[test]
    fn a_field_over_two_registers_changes_its_own_bits_and_no_others() {
        let tag = field(DataType::Uint32, WriteFunction::Auto);
        let intent = intend(&tag, Factor::None, &Value::Uint(0xAB)).expect("fits");
        assert!(intent.needs_reading() && intent.write(None).is_none());
        assert_eq!(intent.extent(), (Table::Holding, 7, 2));
        let held = Reading::Registers(vec![0x1234, 0x5678]); // 0x56781234, words reversed
        let words = vec![0xB234, 0x567A];
        let written = Write::Registers { address: 7, words: words.clone(), by: By::Single };
        assert_eq!(intent.write(Some(&held)), Some(written));
        assert!(intent.holds(&Reading::Registers(words)));
        assert!(intent.holds(&Reading::Registers(vec![0xB000, 0xFFFA])), "the other bits are not its own");
        assert!(!intent.holds(&Reading::Registers(vec![0xB000, 0xFFF5])));
        assert_eq!(intend(&tag, Factor::None, &Value::Uint(0x100)), Err(Refusal::Range));
    }

    #[test]
    fn a_setpoint_at_its_limit_may_be_written_back_as_it_is_read() {
        let mut tag = field(DataType::Float32, WriteFunction::Auto);
        tag.field = None;
        tag.write.limits.max = Some(10.1);
        let read = f64::from(10.1f32);
        assert!(read > 10.1 && intend(&tag, Factor::None, &Value::Float(read)).is_ok());
        assert!(intend(&tag, Factor::None, &Value::Float(10.1)).is_ok());
        assert_eq!(intend(&tag, Factor::None, &Value::Float(10.101)), Err(Refusal::Range));
    }

    #[test]
    fn a_mask_write_says_what_stays_and_what_is_set() {
        let mut tag = field(DataType::Uint16, WriteFunction::Mask);
        tag.field = Some(BitField { mask: 0x0FF0, shift: 4 });
        let intent = intend(&tag, Factor::None, &Value::Uint(0x12)).expect("fits");
        assert!(!intent.needs_reading());
        let write = intent.write(None).expect("one register");
        assert_eq!(write, Write::Mask { address: 7, and: 0xF00F, or: 0x0120 });
        assert!(write.answers_like_an_echo() && intent.instead_of(&write).is_none());
    }
}
