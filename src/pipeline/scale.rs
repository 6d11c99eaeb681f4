//! Scale: `value = raw * factor + offset`, and back for writes.
//!
//! People write factors in decimal: 0.1 means "tenths", not the binary fraction next to it. A [`Scaling`] therefore
//! keeps factor and offset as whole numbers over a power of ten where it can, and 2305 tenths are exactly 230.5.
//! Promises: whole raw values with a decimal scale give the nearest double to the exact decimal result; identity and
//! whole-number scales keep integers exact, 64 bit included; the way back hits the raw value it came from.

use crate::config::plan::Scale;
use crate::model::value::Value;

/// A power of ten beyond this says that the factor is no decimal of a person's (10^15 is exact in a double).
const DIGITS_MAX: u32 = 15;
/// Doubles are exact up to here.
const EXACT_MAX: u128 = 1 << 53;

/// Ten to this power multiplies a scaled value: what a SunSpec scale factor (`sunssf`) holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exponent(i32);

impl Exponent {
    /// Largest exponent either way (SunSpec Device Information Model Specification, "Scale Factors").
    pub const MAX: i32 = 10;

    /// From the value of the tag that holds it; `None` when it is no scale factor.
    pub fn of(value: &Value) -> Option<Self> {
        let exponent = i32::try_from(value.as_whole()?).ok()?;
        (-Self::MAX..=Self::MAX).contains(&exponent).then_some(Self(exponent))
    }
}

/// A scale, made ready once per tag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    scale: Scale,
    decimal: Option<Decimal>,
}

/// `(raw * factor + offset) / 10^digits`, all whole.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Decimal {
    factor: i64,
    offset: i64,
    digits: u32,
}

impl Scaling {
    /// Makes a scale ready.
    pub fn new(scale: Scale) -> Self {
        Self { scale, decimal: decimal(scale) }
    }

    /// The same scale with its factor times ten to a power; the offset stays.
    #[must_use]
    pub fn times_ten_to(&self, Exponent(exponent): Exponent) -> Self {
        let scale = Scale { factor: self.scale.factor * 10f64.powi(exponent), ..self.scale };
        let ten = |times: u32| 10i64.checked_pow(times);
        let decimal = self.decimal.and_then(|Decimal { factor, offset, digits }| match exponent {
            0 => Some(Decimal { factor, offset, digits }),
            // Into the factor as far as it must, off the digits as far as it can.
            1.. => {
                let off = digits.min(exponent.unsigned_abs());
                let digits = if offset == 0 { digits - off } else { digits };
                let into = if offset == 0 { exponent.unsigned_abs() - off } else { exponent.unsigned_abs() };
                Some(Decimal { factor: factor.checked_mul(ten(into)?)?, offset, digits })
            }
            _ => {
                let digits = digits + exponent.unsigned_abs();
                let offset = offset.checked_mul(ten(exponent.unsigned_abs())?)?;
                (digits <= DIGITS_MAX).then_some(Decimal { factor, offset, digits })
            }
        });
        Self { scale, decimal }
    }

    /// Raw to engineering value. `None` when a number of the device's own choosing overflows to infinity.
    pub fn apply(&self, raw: Value) -> Option<Value> {
        if self.scale == Scale::IDENTITY || matches!(raw, Value::Bool(_) | Value::Text(_)) {
            return Some(raw);
        }
        let number = match (raw.as_whole(), self.decimal) {
            (Some(raw), Some(decimal)) => {
                let numerator = raw * i128::from(decimal.factor) + i128::from(decimal.offset);
                if decimal.digits == 0
                    && let Some(whole) = whole_value(numerator)
                {
                    return Some(whole);
                }
                divide(numerator, decimal.digits)
            }
            _ => self.apply_real(raw.as_f64()?),
        };
        number.is_finite().then_some(Value::Float(number))
    }

    fn apply_real(&self, raw: f64) -> f64 {
        match self.decimal {
            Some(Decimal { factor: 1, offset: 0, digits }) => raw / power(digits),
            _ => raw * self.scale.factor + self.scale.offset,
        }
    }

    /// Engineering to raw value: a whole number where a whole one is meant (`whole`), rounded to the nearest step of the
    /// scale. Without a scale the value is returned as it is: the type then decides whether it fits.
    #[expect(clippy::cast_precision_loss, reason = "factors beyond 2^53 are no decimals of a person's")]
    pub fn invert(&self, value: &Value, whole: Raw) -> Value {
        if self.scale == Scale::IDENTITY || matches!(value, Value::Bool(_) | Value::Text(_)) {
            return value.clone();
        }
        if let (Some(number), Some(decimal), Raw::Whole) = (value.as_whole(), self.decimal, whole) {
            let numerator = number * 10i128.pow(decimal.digits) - i128::from(decimal.offset);
            if let Some(raw) = whole_value(divide_rounding(numerator, i128::from(decimal.factor))) {
                return raw;
            }
        }
        let number = value.as_f64().unwrap_or(f64::NAN);
        let raw = match self.decimal {
            Some(Decimal { factor, offset, digits }) => (number * power(digits) - offset as f64) / factor as f64,
            None => (number - self.scale.offset) / self.scale.factor,
        };
        Value::Float(if whole == Raw::Whole { raw.round() } else { raw })
    }
}

/// What the raw value of a write has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// An integer type.
    Whole,
    /// A float type.
    Real,
}

/// Factor and offset over a common power of ten, if they are decimals a person would write.
fn decimal(scale: Scale) -> Option<Decimal> {
    let digits = digits_after_point(scale.factor)?.max(digits_after_point(scale.offset)?);
    if digits > DIGITS_MAX {
        return None;
    }
    Some(Decimal { factor: shifted(scale.factor, digits)?, offset: shifted(scale.offset, digits)?, digits })
}

/// Digits after the decimal point of the shortest text that reads as this number.
fn digits_after_point(number: f64) -> Option<u32> {
    let text = number.to_string();
    let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    u32::try_from(digits).ok()
}

/// `number * 10^digits`, from its text so that nothing is rounded.
fn shifted(number: f64, digits: u32) -> Option<i64> {
    let text = number.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let zeros = usize::try_from(digits).ok()?.checked_sub(fraction.len())?;
    format!("{whole}{fraction}{}", "0".repeat(zeros)).parse().ok()
}

fn whole_value(number: i128) -> Option<Value> {
    if number >= 0 {
        u64::try_from(number).ok().map(|number| i64::try_from(number).map_or(Value::Uint(number), Value::Int))
    } else {
        i64::try_from(number).ok().map(Value::Int)
    }
}

/// The double nearest to `numerator / 10^digits`.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, which is asked first")]
fn divide(numerator: i128, digits: u32) -> f64 {
    if numerator.unsigned_abs() < EXACT_MAX {
        return numerator as f64 / power(digits); // both exact, so one correct rounding
    }
    format!("{numerator}e-{digits}").parse().unwrap_or(f64::NAN)
}

/// Whole division, halves away from zero.
fn divide_rounding(numerator: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (numerator / divisor, numerator % divisor);
    let up = 2 * rest.abs() >= divisor.abs();
    if up { quotient + numerator.signum() * divisor.signum() } else { quotient }
}

/// 10^digits, exact up to [`DIGITS_MAX`], which is as far as anyone asks.
fn power(digits: u32) -> f64 {
    const POWERS: [f64; DIGITS_MAX as usize + 1] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    POWERS[digits.min(DIGITS_MAX) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(factor: f64, offset: f64) -> Scaling {
        Scaling::new(Scale { factor, offset })
    }

    #[test]
    fn tenths_are_tenths() {
        let cases = [
            (2305, 0.1, 0.0, 230.5),
            (15_321, 0.1, 0.0, 1532.1),
            (70_123, 0.001, 0.0, 70.123),
            (3, 0.05, 0.0, 0.15),
            (653, 0.1, -40.0, 25.3),
            (-7, 0.01, 0.0, -0.07),
            (1, 0.25, 0.5, 0.75),
            (9_007_199_254_740_993, 0.1, 0.0, 900_719_925_474_099.3),
        ];
        for (raw, factor, offset, value) in cases {
            assert_eq!(scaling(factor, offset).apply(Value::Int(raw)), Some(Value::Float(value)), "{raw} * {factor}");
        }
    }

    #[test]
    fn whole_scales_keep_whole_numbers_exact() {
        assert_eq!(scaling(1.0, 0.0).apply(Value::Uint(u64::MAX)), Some(Value::Uint(u64::MAX)));
        assert_eq!(scaling(1.0, -1.0).apply(Value::Uint(u64::MAX)), Some(Value::Uint(u64::MAX - 1)));
        assert_eq!(scaling(10.0, 0.0).apply(Value::Int(-5)), Some(Value::Int(-50)));
        assert_eq!(scaling(10.0, 0.0).apply(Value::Uint(u64::MAX)), Some(Value::Float(184_467_440_737_095_520_000.0)));
    }

    #[test]
    fn text_and_switches_are_not_scaled_and_infinity_is_no_value() {
        assert_eq!(scaling(0.1, 1.0).apply(Value::Bool(true)), Some(Value::Bool(true)));
        assert_eq!(scaling(0.1, 1.0).apply(Value::Text("7".into())), Some(Value::Text("7".into())));
        assert_eq!(scaling(1e300, 0.0).apply(Value::Float(1e300)), None);
        assert_eq!(scaling(0.5, 0.0).apply(Value::Float(3.0)), Some(Value::Float(1.5)));
    }

    #[test]
    fn a_write_goes_back_to_the_raw_value_it_names() {
        let tenths = scaling(0.1, 0.0);
        assert_eq!(tenths.invert(&Value::Float(4.2), Raw::Whole), Value::Float(42.0));
        assert_eq!(scaling(0.01, 0.0).invert(&Value::Float(0.07), Raw::Whole), Value::Float(7.0));
        assert_eq!(tenths.invert(&Value::Int(5), Raw::Whole), Value::Int(50));
        assert_eq!(tenths.invert(&Value::Float(4.26), Raw::Whole), Value::Float(43.0), "the nearest step");
        assert_eq!(scaling(0.1, -40.0).invert(&Value::Float(25.3), Raw::Whole), Value::Float(653.0));
        assert_eq!(scaling(0.5, 0.0).invert(&Value::Float(1.5), Raw::Real), Value::Float(3.0));
        assert_eq!(
            scaling(1.0, 0.0).invert(&Value::Float(1.5), Raw::Whole),
            Value::Float(1.5),
            "no scale, no rounding"
        );
    }

    /// The examples of the SunSpec specification's text: AC current 2077 with -2, energy 1234 with 1, and the like.
    #[test]
    fn a_scale_factor_moves_the_decimal_point_exactly() {
        let exponent = |exponent: i64| Exponent::of(&Value::Int(exponent)).expect("a scale factor");
        let plain = scaling(1.0, 0.0);
        for (raw, power, value) in [
            (2077, -2, Value::Float(20.77)),
            (2404, -1, Value::Float(240.4)),
            (4999, -2, Value::Float(49.99)),
            (-85, -3, Value::Float(-0.085)),
            (1234, 0, Value::Int(1234)),
            (1234, 1, Value::Int(12_340)),
            (7, 10, Value::Int(70_000_000_000)),
            (7, -10, Value::Float(7e-10)),
        ] {
            let scaled = plain.times_ten_to(exponent(power));
            assert_eq!(scaled.apply(Value::Int(raw)), Some(value.clone()), "{raw} * 10^{power}");
            assert_eq!(scaled.invert(&value, Raw::Whole).as_f64(), Value::Int(raw).as_f64(), "{value} / 10^{power}");
        }
        assert_eq!(scaling(0.1, -40.0).times_ten_to(exponent(-1)).apply(Value::Int(2530)), Some(Value::Float(-14.7)));
        assert_eq!(scaling(0.1, -40.0).times_ten_to(exponent(2)).apply(Value::Int(7)), Some(Value::Float(30.0)));
        assert_eq!(
            scaling(0.1, 0.0).times_ten_to(exponent(1)).apply(Value::Uint(u64::MAX)),
            Some(Value::Uint(u64::MAX))
        );
        assert_eq!(scaling(0.1, 0.0).times_ten_to(exponent(3)).apply(Value::Int(7)), Some(Value::Int(700)));
        for none in [Value::Int(-32_768), Value::Int(11), Value::Uint(65_535), Value::Float(1.0), Value::Bool(true)] {
            assert_eq!(Exponent::of(&none), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_register_value_survives_scaling_and_back(raw: i32, digits in 0u32..6, m in 1i32..50, offset in -400i32..400) {
            let factor = f64::from(m) / f64::from(10i32.pow(digits));
            let scaling = scaling(factor, f64::from(offset) / 10.0);
            let value = scaling.apply(Value::Int(raw.into())).expect("finite");
            let back = scaling.invert(&value, Raw::Whole);
            proptest::prop_assert_eq!(back.as_f64(), Some(f64::from(raw)));
        }
    }
}
