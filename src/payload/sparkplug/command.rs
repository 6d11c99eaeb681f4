//! NCMD and DCMD: what a host wants written. Strangers send it, so it is bounded in every direction before anything is made
//! of it, and a value is taken only in the kind that the metric has.
//!
//! Hosts differ: some name the metric, some give its alias, some both; some say the datatype, some leave it to the birth; a
//! whole number may stand in `int_value` or `long_value`. All of that is read. A payload of which one metric is no command
//! is refused whole: half of what was wanted is not what was wanted.

use prost::Message as _;

use super::kind::DataType;
use super::proto::{self, MetricValue};
use super::squeeze;
use crate::model::time::{Certainty, Wall};
use crate::model::value::Value;

/// Bytes of a command, packed or not, at most.
pub const BYTES_MAX: usize = 256 << 10;
/// Metrics of a command, at most: a recipe fits, a flood does not.
pub const METRICS_MAX: usize = 1000;
/// Bytes of a name, at most: that of the longest topic.
pub const NAME_BYTES_MAX: usize = crate::model::topic::TOPIC_BYTES_MAX;
/// Bytes of a text value, at most: more than the longest `string(N)`, in any encoding.
const TEXT_BYTES_MAX: usize = 1024;

/// One metric that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// As in the birth. At least one of name and alias is there.
    pub name: Option<String>,
    /// As in the birth.
    pub alias: Option<u64>,
    /// When the host wanted it, UTC, ms: what the metric says, or else its payload, which has to (tck-id-payloads-dcmd-timestamp).
    pub timestamp_ms: Option<u64>,
    /// What to write.
    pub told: Told,
}

/// A value as the host said it; [`Told::as_kind`] makes one of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    datatype: Option<DataType>,
    value: MetricValue,
}

/// Why something is no command. Nothing of it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Larger than anyone needs.
    #[error("larger than a message may be")]
    Size,
    /// More metrics than anyone needs.
    #[error("more metrics than one message may have")]
    Count,
    /// No payload of Sparkplug B.
    #[error("not a payload of Sparkplug B")]
    Malformed,
    /// A metric with neither name nor alias, or with an endless one.
    #[error("a metric without name and alias")]
    Nameless,
    /// Null, a data set, a template, bytes: nothing that could be written.
    #[error("a metric without a value that can be written")]
    Valueless,
    /// Not of the type that the metric has in its birth, or not in its range.
    #[error("a value of another type than the metric has")]
    Kind,
}

/// Reads the payload of an NCMD or DCMD. It may be compressed.
pub fn decode_command(payload: &[u8]) -> Result<Vec<Command>, Refused> {
    let payload = decode_within(payload, (BYTES_MAX, METRICS_MAX))?;
    payload.metrics.into_iter().map(|metric| command(metric, payload.timestamp)).collect()
}

/// A payload of at most so many bytes and metrics, unpacked where it is compressed; its time may stand outside alone.
pub(super) fn decode_within(
    payload: &[u8],
    (bytes_max, metrics_max): (usize, usize),
) -> Result<proto::Payload, Refused> {
    let decoded = decode(payload, (bytes_max, metrics_max))?;
    if decoded.uuid.as_deref() != Some(squeeze::UUID) {
        return Ok(decoded);
    }
    let algorithm = decoded.metrics.iter().find_map(|metric| match &metric.value {
        Some(MetricValue::StringValue(text)) if metric.name.as_deref() == Some("algorithm") => Some(text.as_str()),
        _ => None,
    });
    let body = decoded.body.as_deref().unwrap_or_default();
    let plain = squeeze::unpack(body, algorithm.unwrap_or(squeeze::DEFLATE), bytes_max).ok_or(Refused::Malformed)?;
    let inner = decode(&plain, (bytes_max, metrics_max))?;
    Ok(proto::Payload { timestamp: said(inner.timestamp).or(decoded.timestamp), ..inner })
}

/// A time of 0 is none.
fn said(timestamp: Option<u64>) -> Option<u64> {
    timestamp.filter(|unix_ms| *unix_ms > 0)
}

fn decode(payload: &[u8], (bytes_max, metrics_max): (usize, usize)) -> Result<proto::Payload, Refused> {
    if payload.len() > bytes_max {
        return Err(Refused::Size);
    }
    if metrics(payload)? > metrics_max {
        return Err(Refused::Count);
    }
    proto::Payload::decode(payload).map_err(|_| Refused::Malformed)
}

/// How many metrics there will be: two bytes can make one that takes hundreds, so they are counted before they are made.
fn metrics(payload: &[u8]) -> Result<usize, Refused> {
    let (mut rest, mut count) = (payload, 0);
    while !rest.is_empty() {
        let key = prost::decode_length_delimiter(&mut rest).map_err(|_| Refused::Malformed)?;
        let skip = match key & 7 {
            0 => {
                while rest.first().is_some_and(|byte| *byte >= 0x80) {
                    rest = &rest[1..];
                }
                1
            }
            1 => 8,
            2 => prost::decode_length_delimiter(&mut rest).map_err(|_| Refused::Malformed)?,
            5 => 4,
            _ => return Err(Refused::Malformed), // groups are of no schema that anybody uses here
        };
        count += usize::from(key >> 3 == 2);
        rest = rest.get(skip..).ok_or(Refused::Malformed)?;
    }
    Ok(count)
}

fn command(metric: proto::Metric, sent: Option<u64>) -> Result<Command, Refused> {
    let name = metric.name.filter(|name| !name.is_empty());
    if name.is_none() && metric.alias.is_none() || name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Refused::Nameless);
    }
    let datatype = match metric.datatype {
        None | Some(0) => None,
        Some(code) => Some(DataType::from_code(code).ok_or(Refused::Valueless)?),
    };
    let value = match metric.value {
        Some(MetricValue::BytesValue(_)) | None => None,
        Some(MetricValue::StringValue(text)) if text.len() > TEXT_BYTES_MAX => None,
        value => value,
    };
    let value = value.filter(|_| metric.is_null != Some(true)).ok_or(Refused::Valueless)?;
    let timestamp_ms = said(metric.timestamp).or(sent);
    Ok(Command { name, alias: metric.alias, timestamp_ms, told: Told { datatype, value } })
}

impl Told {
    /// The value for a metric of this type. Whole numbers for whole ones, within its range; any number for a real one; nothing
    /// else is changed into something else.
    pub fn as_kind(&self, kind: DataType) -> Result<Value, Refused> {
        let value = match kind {
            DataType::Boolean => self.boolean().map(Value::Bool),
            DataType::Float | DataType::Double => self.real().map(Value::Float),
            DataType::String | DataType::Text | DataType::Uuid => self.text().map(|text| Value::Text(text.into())),
            DataType::DateTime => self.moment(),
            whole => self.whole(whole).filter(|number| fits(*number, whole)).and_then(narrow),
        };
        value.ok_or(Refused::Kind)
    }

    /// `true`, as the commands of "Node Control/…" have it.
    pub fn is_true(&self) -> bool {
        self.boolean() == Some(true)
    }

    fn boolean(&self) -> Option<bool> {
        match (self.datatype, &self.value) {
            (None | Some(DataType::Boolean), MetricValue::BooleanValue(bit)) => Some(*bit),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match (self.datatype, &self.value) {
            (None | Some(DataType::String | DataType::Text | DataType::Uuid), MetricValue::StringValue(text)) => {
                Some(text)
            }
            _ => None,
        }
    }

    /// The number in the type that the host gave it, or else in that of the birth.
    fn whole(&self, birth: DataType) -> Option<i128> {
        use DataType as D;
        let kind = self.datatype.unwrap_or(birth);
        match (kind, &self.value) {
            (D::Int8 | D::Int16 | D::Int32, MetricValue::IntValue(bits)) => Some(bits.cast_signed().into()),
            (D::UInt8 | D::UInt16 | D::UInt32 | D::Int64 | D::UInt64, MetricValue::IntValue(bits)) => {
                Some((*bits).into())
            }
            (D::UInt64 | D::UInt32, MetricValue::LongValue(bits)) => Some((*bits).into()),
            (kind, MetricValue::LongValue(bits)) if is_whole(kind) => Some(bits.cast_signed().into()),
            _ => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a setpoint that is real anyway; beyond 2^53 it is rounded")]
    fn real(&self) -> Option<f64> {
        let number = match (self.datatype, &self.value) {
            // As it was written: the shortest decimal number that is this float. Bit by bit 10.1 would be 10.1000003814697…,
            // and so lie beyond a limit of 10.1.
            (None | Some(DataType::Float), MetricValue::FloatValue(number)) => number.to_string().parse().ok()?,
            (None | Some(DataType::Double), MetricValue::DoubleValue(number)) => *number,
            (Some(kind), MetricValue::IntValue(_) | MetricValue::LongValue(_)) if is_whole(kind) => {
                self.whole(kind)? as f64
            }
            _ => return None,
        };
        number.is_finite().then_some(number)
    }

    fn moment(&self) -> Option<Value> {
        let MetricValue::LongValue(bits) = self.value else { return None };
        let kind = self.datatype.unwrap_or(DataType::DateTime);
        let whole = matches!(kind, DataType::DateTime | DataType::Int64 | DataType::UInt64);
        let unix_ms = i64::try_from(bits).ok().filter(|_| whole)?;
        Some(Value::Text(Wall { unix_ms, certainty: Certainty::Fixed }.to_string().into()))
    }
}

const fn is_whole(kind: DataType) -> bool {
    (kind as u8) <= DataType::UInt64 as u8
}

fn fits(number: i128, kind: DataType) -> bool {
    let range: (i128, i128) = match kind {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    };
    (range.0..=range.1).contains(&number)
}

fn narrow(number: i128) -> Option<Value> {
    i64::try_from(number).map(Value::Int).or_else(|_| u64::try_from(number).map(Value::Uint)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::sparkplug::{Metric, Payload, REBIRTH, Value as Sent};

    fn told(datatype: Option<DataType>, value: Sent<'_>) -> Told {
        let mut payload = Payload::new(1, None);
        payload.push(&Metric {
            name: Some("x"),
            alias: None,
            timestamp_ms: None,
            datatype,
            historical: false,
            value,
            properties: &[],
        });
        decode_command(&payload.encode()).expect("a command").remove(0).told
    }

    #[test]
    fn a_value_is_taken_in_the_kind_of_its_metric_and_in_no_other() {
        use DataType as D;
        let minus_one = Sent::Int(u32::MAX);
        let whole = |number: i64| Ok(Value::Int(number));
        for (datatype, sent, kind, taken) in [
            (Some(D::Int32), minus_one, D::Int32, whole(-1)),
            (None, minus_one, D::Int32, whole(-1)),
            (Some(D::Int16), minus_one, D::Int32, whole(-1)),
            (Some(D::UInt32), minus_one, D::Int64, whole(4_294_967_295)),
            (Some(D::UInt32), minus_one, D::Int32, Err(Refused::Kind)),
            (None, minus_one, D::Int64, whole(4_294_967_295)),
            (Some(D::UInt32), Sent::Long(7), D::Int32, whole(7)), // npm puts it there
            (Some(D::Int64), Sent::Long(u64::MAX), D::Int32, whole(-1)),
            (Some(D::UInt64), Sent::Long(u64::MAX), D::UInt64, Ok(Value::Uint(u64::MAX))),
            (Some(D::UInt64), Sent::Long(u64::MAX), D::Int64, Err(Refused::Kind)),
            (None, Sent::Long(u64::MAX), D::UInt64, Ok(Value::Uint(u64::MAX))),
            (Some(D::Double), Sent::Double(4.0), D::Int32, Err(Refused::Kind)),
            (Some(D::Boolean), Sent::Bool(true), D::Int32, Err(Refused::Kind)),
            (Some(D::Int32), Sent::Double(4.0), D::Int32, Err(Refused::Kind)),
            (Some(D::Double), Sent::Double(4.5), D::Float, Ok(Value::Float(4.5))),
            (Some(D::Float), Sent::Float(4.5), D::Double, Ok(Value::Float(4.5))),
            (Some(D::Float), Sent::Float(10.1), D::Float, Ok(Value::Float(10.1))), // a limit may lie exactly there
            (None, Sent::Float(f32::MAX), D::Double, Ok(Value::Float(3.402_823_5e38))),
            (None, Sent::Float(f32::MIN_POSITIVE), D::Double, Ok(Value::Float(1.175_494_4e-38))),
            (None, Sent::Float(f32::NAN), D::Float, Err(Refused::Kind)),
            (None, Sent::Double(4.5), D::Float, Ok(Value::Float(4.5))),
            (Some(D::Int32), minus_one, D::Double, Ok(Value::Float(-1.0))),
            (None, minus_one, D::Double, Err(Refused::Kind)),
            (Some(D::Double), Sent::Double(f64::NAN), D::Double, Err(Refused::Kind)),
            (Some(D::Float), Sent::Float(f32::INFINITY), D::Float, Err(Refused::Kind)),
            (Some(D::Boolean), Sent::Bool(false), D::Boolean, Ok(Value::Bool(false))),
            (Some(D::Int32), Sent::Int(1), D::Boolean, Err(Refused::Kind)),
            (Some(D::String), Sent::Str("auto"), D::String, Ok(Value::Text("auto".into()))),
            (Some(D::String), Sent::Str("4"), D::Int32, Err(Refused::Kind)),
            (None, Sent::Long(0), D::DateTime, Ok(Value::Text("1970-01-01T00:00:00.000Z".into()))),
            (Some(D::DateTime), Sent::Long(u64::MAX), D::DateTime, Err(Refused::Kind)),
            (Some(D::DateTime), Sent::Long(5), D::Int64, Err(Refused::Kind)),
        ] {
            assert_eq!(told(datatype, sent).as_kind(kind), taken, "{datatype:?} {sent:?} for {kind:?}");
        }
        assert!(told(Some(D::Boolean), Sent::Bool(true)).is_true() && told(None, Sent::Bool(true)).is_true());
        assert!(!told(None, Sent::Bool(false)).is_true() && !told(Some(D::Int32), Sent::Int(1)).is_true());
        assert!(!told(Some(D::String), Sent::Str("true")).is_true());
    }

    fn encoded(metrics: Vec<proto::Metric>) -> Vec<u8> {
        proto::Payload { metrics, ..proto::Payload::default() }.encode_to_vec()
    }

    fn rebirth() -> proto::Metric {
        let value = Some(MetricValue::BooleanValue(true));
        proto::Metric { name: Some(REBIRTH.to_owned()), value, ..proto::Metric::default() }
    }

    #[test]
    fn what_is_no_command_is_refused_whole_and_says_why() {
        assert_eq!(decode_command(&[]), Ok(Vec::new()));
        let good = decode_command(&encoded(vec![rebirth()])).expect("a command");
        assert_eq!((good.len(), good[0].name.as_deref(), good[0].told.is_true()), (1, Some(REBIRTH), true));
        let nameless = proto::Metric { name: Some(String::new()), ..rebirth() };
        let endless = proto::Metric { name: Some("x".repeat(NAME_BYTES_MAX + 1)), ..rebirth() };
        let null = proto::Metric { is_null: Some(true), ..rebirth() };
        let empty = proto::Metric { value: None, ..rebirth() };
        let bytes = proto::Metric { value: Some(MetricValue::BytesValue(vec![1])), ..rebirth() };
        let set = proto::Metric { datatype: Some(16), ..rebirth() };
        let text = proto::Metric { value: Some(MetricValue::StringValue("x".repeat(1025))), ..rebirth() };
        for (metric, why) in [
            (nameless, Refused::Nameless),
            (endless, Refused::Nameless),
            (null, Refused::Valueless),
            (empty, Refused::Valueless),
            (bytes, Refused::Valueless),
            (set, Refused::Valueless),
            (text, Refused::Valueless),
        ] {
            assert_eq!(decode_command(&encoded(vec![rebirth(), metric.clone()])), Err(why), "{metric:?}");
        }
    }

    fn packed(plain: &[u8], algorithm: Option<&str>, timestamp: Option<u64>) -> Vec<u8> {
        let metric = |text: &str| proto::Metric {
            name: Some("algorithm".to_owned()),
            value: Some(MetricValue::StringValue(text.to_owned())),
            ..proto::Metric::default()
        };
        let (uuid, body) = (Some(squeeze::UUID.to_owned()), Some(squeeze::gzip(plain)));
        let metrics = algorithm.map(metric).into_iter().collect();
        proto::Payload { timestamp, metrics, uuid, body, ..proto::Payload::default() }.encode_to_vec()
    }

    #[test]
    fn a_command_is_as_old_as_its_metric_says_or_else_its_payload_packed_or_not() {
        let plain = |metric, payload| {
            let metrics = vec![proto::Metric { timestamp: metric, ..rebirth() }];
            proto::Payload { timestamp: payload, metrics, ..proto::Payload::default() }.encode_to_vec()
        };
        let sent = |bytes: &[u8]| decode_command(bytes).expect("a command")[0].timestamp_ms;
        for (metric, inner, outer, plainly, packedly) in [
            (Some(5), Some(6), Some(7), Some(5), Some(5)),
            (None, Some(6), Some(7), Some(6), Some(6)),
            (Some(0), Some(6), None, Some(6), Some(6)),
            (None, None, Some(7), None, Some(7)),
            (None, None, None, None, None),
        ] {
            let plain = plain(metric, inner);
            let told = (sent(&plain), sent(&packed(&plain, Some("GZIP"), outer)));
            assert_eq!(told, (plainly, packedly), "{metric:?} {inner:?} {outer:?}");
        }
    }

    #[test]
    fn hostile_bytes_are_bounded_before_anything_is_made_of_them() {
        let two_bytes_a_metric = [0x12, 0x00].repeat(METRICS_MAX + 1);
        assert_eq!(decode_command(&two_bytes_a_metric), Err(Refused::Count));
        assert_eq!(decode_command(&vec![0; BYTES_MAX + 1]), Err(Refused::Size));
        let far = [0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        let deep: Vec<u8> = [0x0B].repeat(1000); // a group in a group in a group
        let endless_varint = [0x08].into_iter().chain([0x80].repeat(64)).collect::<Vec<u8>>();
        for wrong in [&far[..], &deep, &endless_varint, &[0x12], &[0x12, 0x05, 0x00], b"{\"value\":1}", &[0xFF; 64]] {
            assert_eq!(decode_command(wrong), Err(Refused::Malformed), "{}", wrong.escape_ascii());
        }
        let packed = |plain: &[u8], algorithm| packed(plain, algorithm, None);
        let plain = encoded(vec![rebirth()]);
        assert_eq!(decode_command(&packed(&plain, Some("GZIP"))), decode_command(&plain));
        assert_eq!(decode_command(&packed(&plain, None)), Err(Refused::Malformed), "that would be DEFLATE");
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packer, &plain).expect("memory takes everything");
        let (uuid, body) = (Some(squeeze::UUID.to_owned()), packer.finish().ok());
        let deflated = proto::Payload { uuid, body, ..proto::Payload::default() };
        assert_eq!(decode_command(&deflated.encode_to_vec()), decode_command(&plain), "what Tahu means without a word");
        assert_eq!(decode_command(&packed(&plain, Some("LZW"))), Err(Refused::Malformed));
        assert_eq!(decode_command(&packed(&vec![0; 64 << 20], Some("GZIP"))), Err(Refused::Malformed), "a bomb");
        assert_eq!(decode_command(&packed(&two_bytes_a_metric, Some("GZIP"))), Err(Refused::Count));
    }
}
