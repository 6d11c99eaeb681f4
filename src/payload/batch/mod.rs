//! The payload of `format = "batch"`: numbered records in columns, protobuf in zstd, tags by reference to a dictionary.
//!
//! The format is published as `config/ironbridge-batch.proto`, which explains it to strangers; `schema` is that text in
//! Rust, `cells` values and qualities, `rows` times and order, `dictionary` who knows which tag, `encode` and `decode` put
//! them together. Nothing here knows the store, a clock or MQTT. Decoding is bounded whatever comes in: sizes, counts and
//! memory; what it accepts is what an encoder could have written.

mod cells;
mod decode;
mod dictionary;
mod encode;
mod rows;
mod schema;

use crate::model::number::Number;
use crate::model::quality::Quality;
use crate::model::value::Value;

use super::json::Previous;

pub use decode::decode;
pub(super) use decode::{decode_frame, unpack};
pub use dictionary::{Dictionary, Entry};
pub use encode::{Draft, Encoder, Head, Row, RowBody};

/// Records in one batch, at most.
pub const RECORDS_MAX: usize = 65_536;
/// Bytes of a batch unpacked, at most: ten times what the largest one takes that the gateway makes.
pub const RAW_BYTES_MAX: usize = 8 << 20;
/// Version of the content.
const VERSION: u32 = 1;
/// Most decimals that a kind names.
const DECIMALS_MAX: usize = 9;

/// A decoded batch. Its samples name their tags by id; [`Dictionary::tags`] says which those are.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The gateway's name.
    pub gateway: String,
    /// Number of the first record; the others follow without gaps.
    pub first: Number,
    /// What the first record says about the epoch before its own.
    pub previous: Option<Previous>,
    /// Entries for the dictionary, of any tags.
    pub entries: Vec<Entry>,
    /// The tag id of each column, ascending.
    pub columns: Vec<u32>,
    /// Of the columns' tags; see [`Dictionary::tags`].
    pub fingerprint: u64,
    /// In order of their seqs; at least one.
    pub records: Vec<Record>,
}

/// One record of a [`Batch`].
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// UTC, ms since 1970.
    pub unix_ms: i64,
    /// Where that is the earliest it can have been: the latest.
    pub until_ms: Option<i64>,
    /// What it is.
    pub body: RecordBody,
}

/// The two kinds of record.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordBody {
    /// A sample.
    Sample {
        /// Place of its tag in [`Batch::columns`], and in what [`Dictionary::tags`] answers.
        column: usize,
        /// Its value, if any.
        value: Option<Value>,
        /// Its quality.
        quality: Quality,
    },
    /// An event, or anything else that is a payload on a topic.
    Event {
        /// With the uplink's prefix.
        topic: String,
        /// Without its number ([`super::json::numbered_event`] puts that in).
        body: Vec<u8>,
    },
}

/// Why a payload cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// Not zstd, not a frame, or more than [`RAW_BYTES_MAX`].
    #[error("not a batch: {0}")]
    Foreign(&'static str),
    /// A newer gateway wrote it: this program is too old.
    #[error("batch of version {0}; this program knows version 1")]
    Newer(u32),
    /// The CRC is wrong, or its parts do not fit together.
    #[error("damaged batch: {0}")]
    Damaged(&'static str),
}
