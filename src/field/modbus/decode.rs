//! Cuts what belongs to a tag out of what a block's read brought. Pure; what it means is said by `pipeline::meaning`.

use super::session::Reading;
use crate::config::plan::TagPlan;

/// Where a tag lies in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    offset: usize,
    registers: usize,
    /// As it arrives.
    bit: Option<u8>,
}

/// What a reading has of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A coil, a discrete input or one bit of a register.
    Bit(bool),
    /// All its registers.
    Words(&'a [u16]),
    /// The reading is too short.
    Missing,
}

impl Cut {
    /// For a tag in a block that begins at `start`, at or before the tag, both counted from the beginning of the table or of
    /// the SunSpec model. `None`: it has no place on the wire.
    pub fn new(tag: &TagPlan, start: u16) -> Option<Self> {
        let address = tag.place()?;
        Some(Self {
            offset: usize::from(address.start.saturating_sub(start)),
            registers: tag.data_type.registers().into(),
            bit: address.bit.map(|bit| tag.order.wire_bit(bit)),
        })
    }

    /// Registers or bits a reading must have for it to be there.
    pub const fn end(&self) -> usize {
        self.offset + self.registers
    }

    /// The piece of this tag.
    pub fn piece<'a>(&self, reading: &'a Reading) -> Piece<'a> {
        match reading {
            Reading::Bits(bits) => bits.get(self.offset).map_or(Piece::Missing, |bit| Piece::Bit(*bit)),
            Reading::Registers(words) => match (words.get(self.offset..self.offset + self.registers), self.bit) {
                (None, _) => Piece::Missing,
                (Some(words), None) => Piece::Words(words),
                (Some(words), Some(bit)) => {
                    words.first().map_or(Piece::Missing, |word| Piece::Bit(word >> bit & 1 == 1))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tag::{Address, DataType, DeviceIx, Order, Table};

    fn cut(start: u16, bit: Option<u8>, data_type: DataType, order: Order) -> Cut {
        let address = Address { table: Table::Holding, start, bit };
        let tag = TagPlan { order, ..TagPlan::plain("t", DeviceIx(0), address, data_type) };
        Cut::new(&tag, 100).expect("a place")
    }

    #[test]
    fn each_tag_gets_its_own_words_and_bits() {
        let words = Reading::Registers(vec![0x8001, 0x4366, 0x3333]);
        assert_eq!(cut(101, None, DataType::Float32, Order::Abcd).piece(&words), Piece::Words(&[0x4366, 0x3333]));
        assert_eq!(cut(102, None, DataType::Float32, Order::Abcd).piece(&words), Piece::Missing);
        assert_eq!(cut(109, None, DataType::Uint16, Order::Abcd).piece(&words), Piece::Missing);
        for (bit, order, set) in [
            (0, Order::Abcd, true),
            (15, Order::Abcd, true),
            (7, Order::Abcd, false),
            (7, Order::Badc, true), // 0x8001 arrived with its bytes swapped: 0x0180
            (8, Order::Badc, true),
            (0, Order::Badc, false),
        ] {
            let cut = cut(100, Some(bit), DataType::Bool, order);
            assert_eq!(cut.piece(&words), Piece::Bit(set), "{bit} {order:?}");
        }
        let bits = Reading::Bits(vec![false, true]);
        assert_eq!(cut(101, None, DataType::Bool, Order::Abcd).piece(&bits), Piece::Bit(true));
        assert_eq!(cut(102, None, DataType::Bool, Order::Abcd).piece(&bits), Piece::Missing);
    }
}
