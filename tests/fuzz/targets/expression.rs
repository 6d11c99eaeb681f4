//! Expressions of derived tags.
//!
//! Promises: read, or refused with a place inside the text; what is read and fits gives a value of the kind that was
//! promised, finite, or none with a reason; never a panic, however deep.

use ironbridge::config::expression::{Datum, EXPRESSION_BYTES_MAX, Formula, Kind, Term};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::tag::DataType;

use super::Bytes;

fn term(bytes: &mut Bytes<'_>, kind: Kind) -> Term {
    let (what, number) = (bytes.byte(), i64::from_be_bytes(std::array::from_fn(|_| bytes.byte())));
    match (what % 4, kind) {
        (0, _) => Term::bad(Cause::Timeout),
        (1, Kind::Number) => Term::good(Datum::Whole(i128::from(number) << (what >> 2 & 63))),
        (_, Kind::Number) => match f64::from_bits(number.cast_unsigned()) {
            real if real.is_finite() => Term::good(Datum::Real(real)),
            _ => Term::bad(Cause::Nan),
        },
        (_, Kind::Bool) => Term::good(Datum::Bool(what & 4 == 0)),
        (_, Kind::Text) => Term::good(Datum::Text(number.to_string().into())),
    }
}

/// Values first, the text behind them.
pub fn run(data: &[u8]) {
    let (values, text) = data.split_at(data.len().min(32));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let formula = match Formula::read(text) {
        Ok(formula) => formula,
        Err(wrong) => {
            assert!(wrong.at <= text.len() && !wrong.message.is_empty(), "{wrong:?}");
            return;
        }
    };
    assert!(text.len() <= EXPRESSION_BYTES_MAX && formula.names().len() <= text.len());
    let mut bytes = Bytes(values);
    let kinds: Vec<Kind> = formula
        .names()
        .iter()
        .map(|_| [Kind::Number, Kind::Number, Kind::Bool, Kind::Text][usize::from(bytes.byte() % 4)])
        .collect();
    let kind = match formula.kind(&kinds) {
        Ok(kind) => kind,
        Err(wrong) => return assert!(wrong.at <= text.len(), "{wrong:?}"),
    };
    let terms: Vec<Term> = kinds.iter().map(|kind| term(&mut bytes, *kind)).collect();
    let value = formula.value(&terms);
    assert_eq!(value.datum.is_none(), matches!(value.quality, Quality::Bad(_)), "{value:?}");
    match (&value.datum, kind) {
        (None, _) | (Some(Datum::Whole(_)), Kind::Number) | (Some(Datum::Bool(_)), Kind::Bool) => {}
        (Some(Datum::Text(_)), Kind::Text) => {}
        (Some(Datum::Real(real)), Kind::Number) => assert!(real.is_finite(), "{real}"),
        other => panic!("{other:?}"),
    }
    for data_type in [DataType::Float64, DataType::Int64, DataType::Bool] {
        let (value, quality) = value.clone().into_value(data_type);
        assert_eq!(value.is_none(), matches!(quality, Quality::Bad(_)));
    }
}
