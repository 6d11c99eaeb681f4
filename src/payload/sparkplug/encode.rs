//! Metrics to bytes: a payload grows metric by metric, and is numbered and stamped at the last moment.
//!
//! A payload is kept as the bytes of its metrics, so that its size is known while it is filled, and nothing is held twice.
//! On the wire: `timestamp`, `metrics` in the order of [`Payload::push`], `seq` (fields 1, 2, 3 of `Payload`).

use prost::Message as _;

use super::kind::{DataType, Value};
use super::proto::{self, MetricValue, PropertyValueValue};
use super::squeeze;

/// Key of `Payload.metrics`: field 2, length-delimited.
const METRICS: u8 = 2 << 3 | 2;
/// The metric beside a compressed body that names its algorithm, as Tahu has it.
const ALGORITHM: &str = "algorithm";

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric<'a> {
    /// In births, and where there is no alias.
    pub name: Option<&'a str>,
    /// In births and data.
    pub alias: Option<u64>,
    /// Of the value, UTC, ms.
    pub timestamp_ms: Option<u64>,
    /// In births.
    pub datatype: Option<DataType>,
    /// To be filed under its time, not shown as the newest.
    pub historical: bool,
    /// In the form that [`super::value_of`] gives for its type.
    pub value: Value<'a>,
    /// Quality, unit, limits.
    pub properties: &'a [(&'static str, Property<'a>)],
}

/// The value of a property.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Property<'a> {
    /// Int32
    Int(i32),
    /// Double
    Double(f64),
    /// Boolean
    Bool(bool),
    /// String
    Text(&'a str),
}

/// A payload that is being filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    timestamp_ms: u64,
    seq: Option<u8>,
    count: usize,
    metrics: Vec<u8>,
}

impl Payload {
    /// An empty one. A death has no seq.
    pub fn new(timestamp_ms: u64, seq: Option<u8>) -> Self {
        Self { timestamp_ms, seq, count: 0, metrics: Vec::new() }
    }

    /// When it is sent, and as which number: for a payload that was filled before that was known.
    pub const fn stamp(&mut self, timestamp_ms: u64, seq: Option<u8>) {
        (self.timestamp_ms, self.seq) = (timestamp_ms, seq);
    }

    /// Puts a metric behind the others.
    pub fn push(&mut self, metric: &Metric<'_>) {
        self.metrics.push(METRICS);
        let metric = proto::Metric::from(metric);
        metric.encode_length_delimited(&mut self.metrics).expect("memory takes everything");
        self.count += 1;
    }

    /// Metrics in it.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// No metric in it?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of [`Self::encode`].
    pub fn encoded_len(&self) -> usize {
        self.head().encoded_len() + self.metrics.len() + self.tail().encoded_len()
    }

    /// As it goes out.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.head().encode(&mut out).expect("memory takes everything");
        out.extend_from_slice(&self.metrics);
        self.tail().encode(&mut out).expect("memory takes everything");
        out
    }

    /// The same in a compressed body (`SPBV1.0_COMPRESSED`, GZIP), or as it is where that is not shorter. The outer payload
    /// has timestamp and seq too: hosts count by them before they unpack.
    pub fn compressed(self) -> Vec<u8> {
        let (timestamp, seq) = (Some(self.timestamp_ms), self.seq.map(u64::from));
        let plain = self.encode();
        let algorithm = proto::Metric {
            name: Some(ALGORITHM.to_owned()),
            datatype: Some(DataType::String as u32),
            value: Some(MetricValue::StringValue(squeeze::GZIP.to_owned())),
            ..proto::Metric::default()
        };
        let outer = proto::Payload {
            timestamp,
            metrics: vec![algorithm],
            seq,
            uuid: Some(squeeze::UUID.to_owned()),
            body: Some(squeeze::gzip(&plain)),
        };
        if outer.encoded_len() < plain.len() { outer.encode_to_vec() } else { plain }
    }

    fn head(&self) -> proto::Payload {
        proto::Payload { timestamp: Some(self.timestamp_ms), ..proto::Payload::default() }
    }

    fn tail(&self) -> proto::Payload {
        proto::Payload { seq: self.seq.map(u64::from), ..proto::Payload::default() }
    }
}

impl From<&Metric<'_>> for proto::Metric {
    fn from(metric: &Metric<'_>) -> Self {
        let value = match metric.value {
            Value::Null => None,
            Value::Int(bits) => Some(MetricValue::IntValue(bits)),
            Value::Long(bits) => Some(MetricValue::LongValue(bits)),
            Value::Float(number) => Some(MetricValue::FloatValue(number)),
            Value::Double(number) => Some(MetricValue::DoubleValue(number)),
            Value::Bool(bit) => Some(MetricValue::BooleanValue(bit)),
            Value::Str(text) => Some(MetricValue::StringValue(text.to_owned())),
        };
        Self {
            name: metric.name.map(str::to_owned),
            alias: metric.alias,
            timestamp: metric.timestamp_ms,
            datatype: metric.datatype.map(|kind| kind as u32),
            is_historical: metric.historical.then_some(true),
            is_transient: None,
            is_null: value.is_none().then_some(true),
            properties: properties(metric.properties),
            value,
        }
    }
}

fn properties(all: &[(&'static str, Property<'_>)]) -> Option<proto::PropertySet> {
    let value = |(_, property): &(&str, Property<'_>)| {
        let (kind, value) = match property {
            Property::Int(number) => (DataType::Int32, PropertyValueValue::IntValue(number.cast_unsigned())),
            Property::Double(number) => (DataType::Double, PropertyValueValue::DoubleValue(*number)),
            Property::Bool(bit) => (DataType::Boolean, PropertyValueValue::BooleanValue(*bit)),
            Property::Text(text) => (DataType::String, PropertyValueValue::StringValue((*text).to_owned())),
        };
        proto::PropertyValue { r#type: Some(kind as u32), is_null: None, value: Some(value) }
    };
    (!all.is_empty()).then(|| proto::PropertySet {
        keys: all.iter().map(|(key, _)| (*key).to_owned()).collect(),
        values: all.iter().map(value).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::sparkplug::{QUALITY, decode_command};

    fn metric(alias: u64, value: Value<'_>) -> Metric<'_> {
        Metric {
            name: None,
            alias: Some(alias),
            timestamp_ms: Some(1_795_204_800_123),
            datatype: None,
            historical: false,
            value,
            properties: &[],
        }
    }

    #[test]
    fn a_payload_comes_out_byte_by_byte() {
        let mut payload = Payload::new(0, None);
        payload.push(&Metric { historical: true, ..metric(300, Value::Int(0xFFFF_FFFF)) });
        payload.push(&metric(5, Value::Null));
        payload.stamp(1, Some(0));
        assert_eq!((payload.len(), payload.is_empty()), (2, false));
        let bytes = [
            &[0x08, 0x01][..],                                                             // timestamp 1
            &[0x12, 18],                                                                   // a metric of 18 bytes
            &[0x10, 0xAC, 0x02],                                                           // alias 300
            &[0x18, 0xFB, 0xBC, 0xAD, 0xD4, 0x9F, 0x34], // timestamp 1 795 204 800 123
            &[0x28, 0x01],                               // historical
            &[0x50, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],       // int_value -1
            &[0x12, 11, 0x10, 0x05, 0x18, 0xFB, 0xBC, 0xAD, 0xD4, 0x9F, 0x34, 0x38, 0x01], // alias, timestamp, null
            &[0x18, 0x00],                               // seq 0
        ];
        assert_eq!(payload.encoded_len(), bytes.concat().len());
        assert_eq!(payload.encode(), bytes.concat());
    }

    #[test]
    fn a_birth_says_name_alias_type_value_and_properties() {
        let properties =
            [(QUALITY, Property::Int(192)), ("engUnit", Property::Text("bar")), ("engHigh", Property::Double(16.0))];
        let mut payload = Payload::new(7, Some(255));
        payload.push(&Metric {
            name: Some("hydraulics/pressure"),
            datatype: Some(DataType::Float),
            properties: &properties,
            ..metric(9, Value::Float(1.5))
        });
        let decoded = proto::Payload::decode(&payload.encode()[..]).expect("valid");
        assert_eq!((decoded.timestamp, decoded.seq, decoded.metrics.len()), (Some(7), Some(255), 1));
        let metric = &decoded.metrics[0];
        assert_eq!(metric.name.as_deref(), Some("hydraulics/pressure"));
        assert_eq!((metric.alias, metric.datatype, metric.is_null), (Some(9), Some(9), None));
        assert_eq!(metric.value, Some(MetricValue::FloatValue(1.5)));
        let properties = metric.properties.as_ref().expect("some");
        assert_eq!(properties.keys, [QUALITY, "engUnit", "engHigh"]);
        let kinds: Vec<_> = properties.values.iter().map(|value| value.r#type).collect();
        assert_eq!(kinds, [Some(3), Some(12), Some(10)]);
        assert_eq!(properties.values[0].value, Some(PropertyValueValue::IntValue(192)));
    }

    #[test]
    fn a_compressed_payload_is_counted_outside_and_whole_inside_and_never_longer() {
        let filled = |metrics| {
            let mut payload = Payload::new(7, Some(3));
            (0..metrics).for_each(|alias| payload.push(&metric(alias, Value::Float(0.5))));
            payload
        };
        let packed = filled(1000).compressed();
        let outer = proto::Payload::decode(&packed[..]).expect("valid");
        assert_eq!((outer.timestamp, outer.seq, outer.uuid.as_deref()), (Some(7), Some(3), Some("SPBV1.0_COMPRESSED")));
        let plain = filled(1000).encode();
        let body = outer.body.expect("a body");
        assert_eq!(squeeze::unpack(&body, squeeze::GZIP, plain.len()), Some(plain.clone()));
        assert_eq!(squeeze::unpack(&body, squeeze::GZIP, plain.len() - 1), None, "a bomb is not unpacked");
        assert_eq!(squeeze::unpack(&body[..body.len() - 1], squeeze::GZIP, plain.len()), None);
        assert_eq!(decode_command(&packed), decode_command(&plain), "it is read as what it holds");
        assert_eq!(filled(1).compressed(), filled(1).encode());
    }
}
