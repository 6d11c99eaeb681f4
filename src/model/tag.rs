//! What a tag is: its place in a device, its type on the wire, who may write it.

use std::fmt;

pub use super::data_type::DataType;

/// Position of a tag in [`crate::config::plan::Plan::tags`]; valid for one plan only (the store has ids of its own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagIx(pub u32);

/// Position of a device in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIx(pub u32);

/// Position of a bus in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusIx(pub u32);

/// The four tables of Modbus (Application Protocol 1.1b3, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// 16 bits, read-write: FC 3, 6, 16, 22.
    Holding,
    /// 16 bits, read-only: FC 4.
    Input,
    /// One bit, read-write: FC 1, 5, 15.
    Coil,
    /// One bit, read-only: FC 2.
    Discrete,
}

impl Table {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Holding, Self::Input, Self::Coil, Self::Discrete];

    /// The word before the colon of an address.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::Input => "input",
            Self::Coil => "coil",
            Self::Discrete => "discrete",
        }
    }

    /// The table with this word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }

    /// True for coils and discrete inputs.
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }
}

/// Where a tag starts; always zero-based here, whatever style the config declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Which table.
    pub table: Table,
    /// Zero-based register or bit, as on the wire.
    pub start: u16,
    /// A bit of a register, 0 = least significant, at most 15.
    pub bit: Option<u8>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.as_str(), self.start)?;
        self.bit.map_or(Ok(()), |bit| write!(f, ".{bit}"))
    }
}

/// Byte order of a value over its registers, named by where the bytes A (most significant) … D arrive.
/// 64-bit values reverse all four words (CDAB) or swap the bytes of each word (BADC); for one register CDAB = ABCD and
/// DCBA = BADC. Text: BADC and DCBA swap the two bytes of each register, word order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// Big-endian, as the Modbus specification has it.
    #[default]
    Abcd,
    /// Words reversed.
    Cdab,
    /// Bytes swapped in each word.
    Badc,
    /// Both.
    Dcba,
}

impl Order {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Abcd, Self::Cdab, Self::Badc, Self::Dcba];

    /// The word in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abcd => "ABCD",
            Self::Cdab => "CDAB",
            Self::Badc => "BADC",
            Self::Dcba => "DCBA",
        }
    }

    /// Where bit `bit` of a register (0 = least significant) arrives when the bytes of each register are swapped.
    pub const fn wire_bit(self, bit: u8) -> u8 {
        if self.bytes_swapped() { (bit & 15) ^ 8 } else { bit & 15 }
    }

    /// True when the words of a value arrive least significant first.
    pub const fn words_reversed(self) -> bool {
        matches!(self, Self::Cdab | Self::Dcba)
    }

    /// True when the two bytes of each word are swapped.
    pub const fn bytes_swapped(self) -> bool {
        matches!(self, Self::Badc | Self::Dcba)
    }
}

/// Who may do what with a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Polled, never written.
    #[default]
    Read,
    /// Polled and written.
    ReadWrite,
    /// Written, never polled.
    Write,
}

impl Access {
    /// May a command reach it?
    pub const fn writes(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Write)
    }

    /// Is it polled?
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }
}
