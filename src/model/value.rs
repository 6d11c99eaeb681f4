//! A value as an engineer means it: boolean, whole number, real number or text.
//!
//! 64-bit integers stay integers all the way (never through `f64`). A `float32` is widened to `f64`, exactly.

use std::fmt;

/// One value of a tag. NaN and infinities are never stored here: they are "no value, bad, cause nan".
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A coil, a discrete input or one bit of a register.
    Bool(bool),
    /// A signed whole number, exact.
    Int(i64),
    /// An unsigned whole number, exact.
    Uint(u64),
    /// A real number; finite.
    Float(f64),
    /// Text of a `string(N)` tag, hex of bytes, a time in RFC 3339, or the word of a map.
    Text(Box<str>),
}

impl Value {
    /// The value as a real number, for limits and deadbands; `None` for text. Booleans are 0 and 1.
    /// Whole numbers above 2^53 are rounded here, and only here: never publish the result.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(bit) => Some(f64::from(u8::from(*bit))),
            Self::Int(number) => Some(*number as f64),
            Self::Uint(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Text(_) => None,
        }
    }

    /// A whole number, exact, signed or not; `None` for everything else.
    pub fn as_whole(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some((*number).into()),
            Self::Uint(number) => Some((*number).into()),
            Self::Bool(_) | Self::Float(_) | Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(bit) => bit.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Uint(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}
