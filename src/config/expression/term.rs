//! A value inside an expression, with how far to trust it.

use crate::model::quality::{Cause, Quality};
use crate::model::tag::DataType;
use crate::model::value::Value;

/// A value: whole numbers exact to 128 bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    /// A whole number.
    Whole(i128),
    /// A real number, finite.
    Real(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(Box<str>),
}

impl Datum {
    /// As a double; a text or a switch is none.
    #[expect(clippy::cast_precision_loss, reason = "where a double is asked for, beyond 2^53 the nearest one is meant")]
    pub fn real(&self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(*number as f64),
            Self::Real(number) => Some(*number),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

/// A value and its quality; bad ones have no value.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// The value; `None` exactly if it is bad.
    pub datum: Option<Datum>,
    /// How far to trust it.
    pub quality: Quality,
}

impl Term {
    /// A good one.
    pub const fn good(datum: Datum) -> Self {
        Self { datum: Some(datum), quality: Quality::Good }
    }

    /// One without a value.
    pub const fn bad(cause: Cause) -> Self {
        Self { datum: None, quality: Quality::Bad(cause) }
    }

    /// A tag's value.
    pub fn of(value: Option<&Value>, quality: Quality) -> Self {
        let datum = match value {
            _ if matches!(quality, Quality::Bad(_)) => return Self { datum: None, quality },
            None => return Self::bad(quality.cause().unwrap_or(Cause::Nan)),
            Some(Value::Bool(bit)) => Datum::Bool(*bit),
            Some(Value::Int(number)) => Datum::Whole((*number).into()),
            Some(Value::Uint(number)) => Datum::Whole((*number).into()),
            Some(Value::Float(number)) => Datum::Real(*number),
            Some(Value::Text(text)) => Datum::Text(text.clone()),
        };
        Self { datum: Some(datum), quality }
    }

    /// The same value, trusted no further than this.
    #[must_use]
    pub fn doubted(self, quality: Quality) -> Self {
        let quality = worst(self.quality, quality);
        Self { datum: self.datum.filter(|_| !matches!(quality, Quality::Bad(_))), quality }
    }
}

/// The worse of two qualities; of two alike the first.
pub(super) const fn worst(one: Quality, other: Quality) -> Quality {
    match (one, other) {
        (Quality::Bad(_), _) | (_, Quality::Good) => one,
        (_, Quality::Bad(_)) | (Quality::Good, _) => other,
        (Quality::Uncertain(_), Quality::Uncertain(_)) => one,
    }
}

/// As a value of a tag of this type.
pub(super) fn into_value(term: Term, data_type: DataType) -> (Option<Value>, Quality) {
    let Some(datum) = term.datum else { return (None, term.quality) };
    let value = match (data_type, datum) {
        (DataType::Bool, Datum::Bool(bit)) => Some(Value::Bool(bit)),
        (DataType::Text(bytes), Datum::Text(text)) => Some(Value::Text(cut(&text, bytes.into()).into())),
        (DataType::Int64, datum) => whole(&datum).and_then(|number| i64::try_from(number).ok()).map(Value::Int),
        (DataType::Uint64, datum) => whole(&datum).and_then(|number| u64::try_from(number).ok()).map(Value::Uint),
        (_, datum) => datum.real().map(Value::Float),
    };
    match value {
        Some(value) => (Some(value), term.quality),
        None => (None, Quality::Bad(Cause::Range)),
    }
}

/// The nearest whole number.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and what is that large fits no type")]
fn whole(datum: &Datum) -> Option<i128> {
    match datum {
        Datum::Whole(number) => Some(*number),
        Datum::Real(number) => Some(number.round() as i128),
        Datum::Bool(_) | Datum::Text(_) => None,
    }
}

/// As many whole characters as fit.
fn cut(text: &str, bytes: usize) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    &text[..ends.take_while(|end| *end <= bytes).last().unwrap_or(0)]
}
