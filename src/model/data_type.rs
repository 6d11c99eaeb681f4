//! The types a value may have on the wire, and their words in the config.
//!
//! Pure names and widths; how the bits are read stands in `registers`. Promises: [`DataType::from_name`] reads every text
//! that `Display` writes (the store keeps types by it).

use std::fmt;

/// The type of a tag on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// One bit, or a register that is not 0.
    Bool,
    /// 16 bits signed.
    Int16,
    /// 16 bits unsigned.
    Uint16,
    /// 32 bits signed.
    Int32,
    /// 32 bits unsigned.
    Uint32,
    /// 64 bits signed.
    Int64,
    /// 64 bits unsigned.
    Uint64,
    /// IEEE 754 half.
    Float16,
    /// IEEE 754 single.
    Float32,
    /// IEEE 754 double.
    Float64,
    /// Four decimal digits, one to a nibble.
    Bcd16,
    /// Eight decimal digits, one to a nibble.
    Bcd32,
    /// This many registers (2 ..= 4) of four decimal digits each: 0 ..= 9999, or all of them negative.
    Mod10(u8),
    /// Text of at most this many bytes, two to a register, 1..=250.
    Text(u8),
    /// This many bytes, two to a register, 1..=250; their value is hex text.
    Bytes(u8),
    /// Seconds since 1970-01-01 UTC, 32 bits unsigned.
    Unix32,
    /// Seconds since 1970-01-01 UTC, 64 bits signed.
    Unix64,
    /// `CP56Time2a` of IEC 60870-5-4, its seven bytes in four registers.
    Cp56,
}

/// What the engineering values of a tag are, for JSON and for commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`.
    Bool,
    /// Whole or real.
    Number,
    /// Text, hex, a time, the word of a map.
    Text,
}

impl DataType {
    /// All types without a length, in the order of `config/ironbridge.toml`.
    pub const SIMPLE: [Self; 18] = [
        Self::Bool,
        Self::Int16,
        Self::Uint16,
        Self::Int32,
        Self::Uint32,
        Self::Int64,
        Self::Uint64,
        Self::Float16,
        Self::Float32,
        Self::Float64,
        Self::Bcd16,
        Self::Bcd32,
        Self::Mod10(2),
        Self::Mod10(3),
        Self::Mod10(4),
        Self::Unix32,
        Self::Unix64,
        Self::Cp56,
    ];

    /// The type of this word in the config; `None` for anything else, a length outside 1 ..= 250 included.
    pub fn from_name(word: &str) -> Option<Self> {
        let length = |prefix: &str| -> Option<u8> {
            let digits = word.strip_prefix(prefix)?.strip_suffix(')')?;
            digits.parse().ok().filter(|length| (1..=250).contains(length))
        };
        let simple = Self::SIMPLE.into_iter().find(|simple| simple.to_string() == word);
        simple.or_else(|| length("string(").map(Self::Text)).or_else(|| length("bytes(").map(Self::Bytes))
    }

    /// How many registers one value takes.
    pub const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::Int16 | Self::Uint16 | Self::Float16 | Self::Bcd16 => 1,
            Self::Int32 | Self::Uint32 | Self::Float32 | Self::Bcd32 | Self::Unix32 => 2,
            Self::Int64 | Self::Uint64 | Self::Float64 | Self::Unix64 | Self::Cp56 => 4,
            Self::Mod10(registers) => registers as u16,
            Self::Text(bytes) | Self::Bytes(bytes) => bytes.div_ceil(2) as u16,
        }
    }

    /// True for int and uint types, whose bits are a binary number.
    pub const fn is_binary_integer(self) -> bool {
        matches!(self, Self::Int16 | Self::Uint16 | Self::Int32 | Self::Uint32 | Self::Int64 | Self::Uint64)
    }

    /// True for the binary integers with a sign.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// True for everything whose raw values are whole numbers.
    pub const fn is_integer(self) -> bool {
        self.is_binary_integer() || matches!(self, Self::Bcd16 | Self::Bcd32 | Self::Mod10(_))
    }

    /// True for the IEEE 754 types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32 | Self::Float64)
    }

    /// True for moments: their value is RFC 3339 text.
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Unix32 | Self::Unix64 | Self::Cp56)
    }

    /// True for what is a number to an engineer: no booleans, texts, bytes and times.
    pub const fn is_number(self) -> bool {
        self.is_integer() || self.is_float()
    }

    /// What its values are without a map.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Bool,
            _ if self.is_number() => Kind::Number,
            _ => Kind::Text,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Bool => "bool",
            Self::Int16 => "int16",
            Self::Uint16 => "uint16",
            Self::Int32 => "int32",
            Self::Uint32 => "uint32",
            Self::Int64 => "int64",
            Self::Uint64 => "uint64",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Bcd16 => "bcd16",
            Self::Bcd32 => "bcd32",
            Self::Unix32 => "unix32",
            Self::Unix64 => "unix64",
            Self::Cp56 => "cp56",
            Self::Mod10(registers) => return write!(f, "mod10_{registers}"),
            Self::Text(bytes) => return write!(f, "string({bytes})"),
            Self::Bytes(bytes) => return write!(f, "bytes({bytes})"),
        };
        f.write_str(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_own_word() {
        let lengths = (1..=250).flat_map(|length| [DataType::Text(length), DataType::Bytes(length)]);
        for data_type in DataType::SIMPLE.into_iter().chain(lengths) {
            assert_eq!(DataType::from_name(&data_type.to_string()), Some(data_type));
            assert!((1..=125).contains(&data_type.registers()));
        }
        for word in ["", "float", "string", "string(0)", "string(251)", "bytes(-1)", "mod10_5", "Int16", "string(07"] {
            assert_eq!(DataType::from_name(word), None, "{word}");
        }
    }
}
