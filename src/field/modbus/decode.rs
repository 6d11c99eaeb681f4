//! Cuts the value of a tag out of what a block's read brought. Pure.

use super::session::Reading;
use crate::config::plan::TagPlan;
use crate::model::registers::{self, Unreadable};
use crate::model::tag::{DataType, Order};
use crate::model::value::Value;

/// Where a tag lies in its block and what it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    offset: usize,
    bit: Option<u8>,
    data_type: DataType,
    order: Order,
}

impl Cut {
    /// For a tag in a block that begins at `start`, at or before the tag. `None`: it has no place on the wire.
    pub fn new(tag: &TagPlan, start: u16) -> Option<Self> {
        let address = tag.register()?;
        let offset = usize::from(address.start.saturating_sub(start));
        Some(Self { offset, bit: address.bit, data_type: tag.data_type, order: tag.order })
    }

    /// The raw value.
    pub fn value(&self, reading: &Reading) -> Result<Value, Unreadable> {
        match reading {
            Reading::Bits(bits) => bits.get(self.offset).map(|bit| Value::Bool(*bit)).ok_or(Unreadable::TooShort),
            Reading::Registers(words) => {
                let words = words.get(self.offset..).ok_or(Unreadable::TooShort)?;
                match self.bit {
                    None => registers::decode(words, self.data_type, self.order),
                    Some(bit) => {
                        let word = words.first().ok_or(Unreadable::TooShort)?;
                        Ok(Value::Bool(word >> wire_bit(bit, self.order) & 1 == 1))
                    }
                }
            }
        }
    }
}

/// Where bit `bit` of a register (0 = least significant) arrives when the order swaps the bytes of each register.
pub const fn wire_bit(bit: u8, order: Order) -> u8 {
    if order.bytes_swapped() { (bit & 15) ^ 8 } else { bit & 15 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(offset: usize, bit: Option<u8>, data_type: DataType, order: Order) -> Cut {
        Cut { offset, bit, data_type, order }
    }

    #[test]
    fn each_tag_gets_its_own_words_and_bits() {
        let words = Reading::Registers(vec![0x8001, 0x4366, 0x3333]);
        let value = |cut: Cut| cut.value(&words);
        assert_eq!(value(cut(1, None, DataType::Float32, Order::Abcd)), Ok(Value::Float(f64::from(230.2f32))));
        assert_eq!(value(cut(2, None, DataType::Float32, Order::Abcd)), Err(Unreadable::TooShort));
        assert_eq!(value(cut(9, None, DataType::Uint16, Order::Abcd)), Err(Unreadable::TooShort));
        for (bit, order, set) in [
            (0, Order::Abcd, true),
            (15, Order::Abcd, true),
            (7, Order::Abcd, false),
            (7, Order::Badc, true), // 0x8001 arrived with its bytes swapped: 0x0180
            (8, Order::Badc, true),
            (0, Order::Badc, false),
        ] {
            assert_eq!(value(cut(0, Some(bit), DataType::Bool, order)), Ok(Value::Bool(set)), "{bit} {order:?}");
        }
        let bits = Reading::Bits(vec![false, true]);
        assert_eq!(cut(1, None, DataType::Bool, Order::Abcd).value(&bits), Ok(Value::Bool(true)));
        assert_eq!(cut(2, None, DataType::Bool, Order::Abcd).value(&bits), Err(Unreadable::TooShort));
    }
}
