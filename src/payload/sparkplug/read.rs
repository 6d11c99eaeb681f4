//! Births, data and deaths as a host reads them: what an edge node of any make says. Strangers send it, so it is bounded before
//! anything is made of it.
//!
//! Libraries differ in where they put a value; [`Read::value`] takes each form that is seen in the wild: 16 bits with or without
//! their sign carried on, 32 bits in `long_value`. A type that is not said is that of the birth.

use super::command::{Refused, decode_within};
use super::kind::DataType;
use super::proto::{self, MetricValue, PropertyValueValue};
use super::{BD_SEQ, QUALITY};
use crate::model::time::{Certainty, Wall};
use crate::model::value::Value;

/// Bytes of a message, packed or not, at most: the birth of a device with tens of thousands of tags.
pub const BYTES_MAX: usize = 4 << 20;
/// Metrics of a message, at most.
pub const METRICS_MAX: usize = 100_000;

/// One message of an edge node.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When it was sent, UTC, ms.
    pub timestamp_ms: Option<u64>,
    /// Its place among the messages of its session, 0 to 255; a death has none.
    pub seq: Option<u8>,
    /// In their order.
    pub metrics: Vec<Read>,
}

/// One metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// In births always, in data perhaps.
    pub name: Option<String>,
    /// Perhaps.
    pub alias: Option<u64>,
    /// When it was taken, UTC, ms.
    pub timestamp_ms: Option<u64>,
    /// In births always, in data perhaps; `None` also for data sets, templates and the like.
    pub datatype: Option<DataType>,
    /// It is older than what was told before.
    pub historical: bool,
    /// `Quality`; where it is not said it is 192, good.
    pub quality: Option<i32>,
    value: Option<MetricValue>,
}

/// Reads the payload of a birth, of data or of a death. It may be compressed.
pub fn decode_reading(payload: &[u8]) -> Result<Reading, Refused> {
    let proto::Payload { timestamp, metrics, seq, .. } = decode_within(payload, (BYTES_MAX, METRICS_MAX))?;
    let seq = match seq.map(u8::try_from) {
        None => None,
        Some(Ok(seq)) => Some(seq),
        Some(Err(_)) => return Err(Refused::Malformed), // section 6.4.15: 0 to 255
    };
    Ok(Reading { timestamp_ms: timestamp, seq, metrics: metrics.into_iter().map(read).collect() })
}

fn read(metric: proto::Metric) -> Read {
    let quality = metric.properties.as_ref().and_then(|properties| {
        let at = properties.keys.iter().position(|key| key == QUALITY)?;
        match properties.values.get(at)?.value {
            Some(PropertyValueValue::IntValue(bits)) => Some(bits.cast_signed()),
            Some(PropertyValueValue::LongValue(bits)) => i32::try_from(bits.cast_signed()).ok(),
            _ => None,
        }
    });
    Read {
        name: metric.name.filter(|name| !name.is_empty()),
        alias: metric.alias,
        timestamp_ms: metric.timestamp,
        datatype: metric.datatype.and_then(DataType::from_code),
        historical: metric.is_historical == Some(true),
        quality,
        value: metric.value.filter(|_| metric.is_null != Some(true)),
    }
}

impl Reading {
    /// bdSeq of an NBIRTH or NDEATH.
    pub fn bd_seq(&self) -> Option<u64> {
        let metric = self.metrics.iter().find(|metric| metric.name.as_deref() == Some(BD_SEQ))?;
        match metric.value {
            Some(MetricValue::LongValue(number)) => Some(number),
            Some(MetricValue::IntValue(number)) => Some(number.into()),
            _ => None,
        }
    }
}

impl Read {
    /// Its value in the type that its birth has, or in its own; `None`: null, or bytes and the like.
    pub fn value(&self, birth: Option<DataType>) -> Option<Value> {
        let kind = self.datatype.or(birth);
        Some(match self.value.as_ref()? {
            MetricValue::IntValue(bits) => whole((*bits).into(), u64::from(*bits), kind),
            MetricValue::LongValue(bits) if kind == Some(DataType::DateTime) => moment(*bits)?,
            MetricValue::LongValue(bits) => whole(*bits, *bits, kind),
            MetricValue::FloatValue(number) => Value::Float(shortest(*number)),
            MetricValue::DoubleValue(number) => Value::Float(*number),
            MetricValue::BooleanValue(bit) => Value::Bool(*bit),
            MetricValue::StringValue(text) => Value::Text(text.as_str().into()),
            MetricValue::BytesValue(_) => return None,
        })
    }
}

/// In the type that it has, whichever of both fields it stood in.
#[expect(clippy::cast_possible_truncation, reason = "the bits that a type has")]
fn whole(bits: u64, plain: u64, kind: Option<DataType>) -> Value {
    match kind {
        Some(DataType::Boolean) => Value::Bool(bits != 0),
        Some(DataType::Int8) => Value::Int(i64::from((bits as u8).cast_signed())),
        Some(DataType::Int16) => Value::Int(i64::from((bits as u16).cast_signed())),
        Some(DataType::Int32) => Value::Int(i64::from((bits as u32).cast_signed())),
        Some(DataType::Int64) => Value::Int(bits.cast_signed()),
        _ => i64::try_from(plain).map_or(Value::Uint(plain), Value::Int),
    }
}

/// 12.3 as it was meant, and not 12.300000190734863: the shortest number that is the same one in 32 bits.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

fn moment(bits: u64) -> Option<Value> {
    let unix_ms = i64::try_from(bits).ok()?;
    Some(Value::Text(Wall { unix_ms, certainty: Certainty::Fixed }.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn metric(datatype: u32, value: MetricValue) -> proto::Metric {
        proto::Metric { alias: Some(7), datatype: Some(datatype), value: Some(value), ..proto::Metric::default() }
    }

    fn value(metric: proto::Metric, birth: Option<DataType>) -> Option<Value> {
        let payload = proto::Payload { metrics: vec![metric], ..proto::Payload::default() };
        decode_reading(&payload.encode_to_vec()).expect("a message").metrics[0].value(birth)
    }

    #[test]
    fn a_value_is_read_as_it_was_meant_in_whichever_field_it_stands() {
        use MetricValue as M;
        for (code, sent, meant) in [
            (2, M::IntValue(0xFFFF), Value::Int(-1)),
            (2, M::IntValue(0xFFFF_FFFF), Value::Int(-1)),
            (1, M::IntValue(0x80), Value::Int(-128)),
            (3, M::IntValue(0x8000_0000), Value::Int(-2_147_483_648)),
            (7, M::IntValue(0xFFFF_FFFF), Value::Int(4_294_967_295)),
            (7, M::LongValue(0xFFFF_FFFF), Value::Int(4_294_967_295)),
            (4, M::LongValue(u64::MAX), Value::Int(-1)),
            (8, M::LongValue(u64::MAX), Value::Uint(u64::MAX)),
            (9, M::FloatValue(12.3), Value::Float(12.3)),
            (10, M::DoubleValue(0.1), Value::Float(0.1)),
            (11, M::BooleanValue(true), Value::Bool(true)),
            (12, M::StringValue("é".into()), Value::Text("é".into())),
            (13, M::LongValue(0), Value::Text("1970-01-01T00:00:00.000Z".into())),
        ] {
            let told = metric(code, sent);
            let untold = proto::Metric { datatype: None, ..told.clone() };
            assert_eq!(value(told, None), Some(meant.clone()), "{code}");
            assert_eq!(value(untold, DataType::from_code(code)), Some(meant), "{code} by its birth");
        }
        assert_eq!(value(proto::Metric { is_null: Some(true), ..metric(3, M::IntValue(5)) }, None), None);
        assert_eq!(value(metric(17, M::BytesValue(vec![1])), None), None);
    }

    #[test]
    fn hostile_messages_are_bounded_and_a_seq_is_a_byte() {
        assert_eq!(decode_reading(&vec![0; BYTES_MAX + 1]), Err(Refused::Size));
        assert_eq!(decode_reading(&[0x12, 0x00].repeat(METRICS_MAX + 1)), Err(Refused::Count));
        assert_eq!(decode_reading(&[0xFF; 64]), Err(Refused::Malformed));
        let payload = |seq| proto::Payload { seq: Some(seq), ..proto::Payload::default() }.encode_to_vec();
        assert_eq!(decode_reading(&payload(255)).map(|read| read.seq), Ok(Some(255)));
        assert_eq!(decode_reading(&payload(256)), Err(Refused::Malformed));
    }
}
