//! Limits: a value outside `min..=max` of its tag is kept, but only with the quality uncertain, cause range.
//!
//! Fed by the bus with scaled values, and with those of commands, which are refused outside theirs. Booleans and text have no
//! limits. A value exactly at a limit is inside, also where its type cannot hold the limit as it was written ([`met`]).

use crate::config::plan::{Limits, Scale, Source, TagPlan};
use crate::model::quality::{Cause, Quality};
use crate::model::value::Value;

/// The limits of a tag as its values meet them; made ready once.
pub fn of(tag: &TagPlan) -> Limits {
    let Limits { min, max } = tag.limits;
    Limits { min: min.map(|limit| met(tag, limit)), max: max.map(|limit| met(tag, limit)) }
}

/// The limits of a tag's commands. What is read at a limit may be written back as it was read, so each is as wide as it was
/// written or as the registers hold it, whichever is wider.
pub fn of_writes(tag: &TagPlan) -> Limits {
    let Limits { min, max } = tag.write.limits;
    Limits { min: min.map(|limit| met(tag, limit).min(limit)), max: max.map(|limit| met(tag, limit).max(limit)) }
}

/// A limit as the values of a tag meet it: the number nearest to it that the registers can hold. A float32 that was set to 10.1 is
/// 10.100000381. What is scaled comes from another number, and is as near to it as can be.
pub fn met(tag: &TagPlan, limit: f64) -> f64 {
    let in_registers = matches!(tag.source, Source::Register(_) | Source::Model(_));
    if !in_registers || !tag.data_type.is_float() || tag.scale != Scale::IDENTITY || tag.scale_from.is_some() {
        return limit;
    }
    let form = tag.form();
    let held = form.write(&Value::Float(limit)).ok().and_then(|words| form.read(&words).ok());
    held.and_then(|held| held.as_f64()).unwrap_or(limit)
}

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
    use crate::model::tag::{Address, DataType, DeviceIx, Table};

    #[test]
    fn a_float_at_its_limit_is_good_although_its_type_cannot_hold_the_limit() {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let tag = |data_type, limits| TagPlan { limits, ..TagPlan::plain("t", DeviceIx(0), address, data_type) };
        for data_type in [DataType::Float32, DataType::Float16, DataType::Float64] {
            for limit in [10.1, 0.7, -0.3, 1e4] {
                let form = tag(data_type, Limits::default()).form();
                let held = |number| form.read(&form.write(&Value::Float(number)).expect("fits")).expect("a number");
                for (limits, beyond) in [
                    (Limits { min: None, max: Some(limit) }, limit + limit.abs() * 0.01),
                    (Limits { min: Some(limit), max: None }, limit - limit.abs() * 0.01),
                ] {
                    let limits = of(&tag(data_type, limits));
                    assert_eq!(judge(limits, &held(limit)), Quality::Good, "{data_type} {limits:?}");
                    assert_eq!(
                        judge(limits, &held(beyond)),
                        Quality::Uncertain(Cause::Range),
                        "{data_type} {limits:?}"
                    );
                }
            }
        }
        let huge = Limits { min: Some(-1e300), max: Some(1e300) };
        assert_eq!(of(&tag(DataType::Float32, huge)), huge, "no such float32: nothing meets it");
        let scaled = TagPlan {
            scale: Scale { factor: 0.1, offset: 0.0 },
            ..tag(DataType::Float32, Limits { min: None, max: Some(10.1) })
        };
        assert_eq!(of(&scaled), scaled.limits);
    }

    #[test]
    fn a_command_may_bring_a_limit_as_it_was_written_and_as_it_is_read_back() {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let mut tag = TagPlan::plain("t", DeviceIx(0), address, DataType::Float32);
        for (limit, read) in [(10.1, 10.1f32), (0.7, 0.7), (-0.3, -0.3)] {
            let read = f64::from(read);
            tag.write.limits = Limits { min: None, max: Some(limit) };
            assert!(of_writes(&tag).contain(limit) && of_writes(&tag).contain(read), "at most {limit}");
            assert!(!of_writes(&tag).contain(limit + 1e-3));
            tag.write.limits = Limits { min: Some(limit), max: None };
            assert!(of_writes(&tag).contain(limit) && of_writes(&tag).contain(read), "at least {limit}");
            assert!(!of_writes(&tag).contain(limit - 1e-3));
        }
        assert_eq!(of_writes(&TagPlan { data_type: DataType::Int16, ..tag.clone() }), tag.write.limits);
    }

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
