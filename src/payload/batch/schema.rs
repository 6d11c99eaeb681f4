//! `config/ironbridge-batch.proto` in Rust, field by field; what the fields mean stands there. A test of `tests/` reads the
//! published text and compares it with what these types write.

/// `Frame`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Frame {
    #[prost(fixed32, tag = "1")]
    pub(super) crc: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) content: Vec<u8>,
}

/// `Content`; `stream` is the class's code, which is the enum's number.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Content {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(string, tag = "2")]
    pub(super) gateway: String,
    #[prost(enumeration = "Stream", tag = "3")]
    pub(super) stream: i32,
    #[prost(uint64, tag = "4")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "5")]
    pub(super) first: u64,
    #[prost(uint32, tag = "6")]
    pub(super) count: u32,
    #[prost(uint64, tag = "7")]
    pub(super) previous_epoch: u64,
    #[prost(uint64, tag = "8")]
    pub(super) previous_seq: u64,
    #[prost(uint32, tag = "9")]
    pub(super) ticks_per_second: u32,
    #[prost(sint64, tag = "10")]
    pub(super) base: i64,
    #[prost(message, repeated, tag = "11")]
    pub(super) dictionary: Vec<Tag>,
    #[prost(fixed64, tag = "12")]
    pub(super) fingerprint: u64,
    #[prost(sint64, repeated, tag = "13")]
    pub(super) tags: Vec<i64>,
    #[prost(uint32, repeated, tag = "14")]
    pub(super) shape_sizes: Vec<u32>,
    #[prost(sint64, repeated, tag = "15")]
    pub(super) shape_columns: Vec<i64>,
    #[prost(sint64, repeated, tag = "16")]
    pub(super) poll_shapes: Vec<i64>,
    #[prost(sint64, repeated, tag = "17")]
    pub(super) poll_times: Vec<i64>,
    #[prost(uint32, repeated, tag = "18")]
    pub(super) qualities: Vec<u32>,
    #[prost(uint32, repeated, tag = "19")]
    pub(super) kinds: Vec<u32>,
    #[prost(sint64, repeated, tag = "20")]
    pub(super) starts: Vec<i64>,
    #[prost(sint64, repeated, tag = "21")]
    pub(super) steps: Vec<i64>,
    #[prost(sint32, repeated, tag = "22")]
    pub(super) ulps: Vec<i32>,
    #[prost(string, repeated, tag = "23")]
    pub(super) texts: Vec<String>,
    #[prost(message, repeated, tag = "24")]
    pub(super) events: Vec<Event>,
    #[prost(sint64, repeated, tag = "25")]
    pub(super) untils: Vec<i64>,
}

/// `Stream`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Stream {
    Alarm = 0,
    Event = 1,
    Telemetry = 2,
    Bulk = 3,
}

/// `Tag`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tag {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(string, tag = "2")]
    pub(super) device: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) topic: String,
    #[prost(string, tag = "5")]
    pub(super) r#type: String,
}

/// `Event`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    #[prost(string, tag = "1")]
    pub(super) topic: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) body: Vec<u8>,
}
