//! Limits: a value outside `min..=max` of its tag is kept, but only with the quality uncertain, cause range.
//!
//! Fed by the bus with scaled values. Booleans and text have no limits.

use crate::config::plan::Limits;
use crate::model::quality::{Cause, Quality};
use crate::model::value::Value;

/// How far to trust a scaled value.
pub fn judge(limits: Limits, value: &Value) -> Quality {
    let number = match value {
        Value::Bool(_) | Value::Text(_) => None,
        number => number.as_f64(),
    };
    match number {
        Some(number) if !limits.contain(number) => Quality::Uncertain(Cause::Range),
        _ => Quality::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_its_limits_is_uncertain_and_the_limits_themselves_are_good() {
        let limits = Limits { min: Some(-1.0), max: Some(16.0) };
        for (value, quality) in [
            (Value::Float(16.0), Quality::Good),
            (Value::Int(-1), Quality::Good),
            (Value::Float(16.1), Quality::Uncertain(Cause::Range)),
            (Value::Uint(17), Quality::Uncertain(Cause::Range)),
            (Value::Text("17".into()), Quality::Good),
            (Value::Bool(true), Quality::Good),
        ] {
            assert_eq!(judge(limits, &value), quality, "{value}");
        }
        assert_eq!(judge(Limits::default(), &Value::Float(1e300)), Quality::Good);
    }
}
