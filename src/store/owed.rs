//! What the store hands to an uplink: records, gap records, and the tags they are of.

use std::sync::Arc;

use crate::model::message::ClientMessage;
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::quality::Quality;
use crate::model::tag::DataType;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::payload::json::Previous;

/// One entry of the dictionary: a tag as the store knows it. The id is stable for the life of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DictionaryTag {
    /// Stable id.
    pub id: u32,
    /// Device name.
    pub device: String,
    /// Tag name.
    pub name: String,
    /// Local topic, as last configured.
    pub topic: String,
    /// Type on the wire; a tag whose type changes is a new tag.
    pub data_type: DataType,
}

/// What an uplink is owed next.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A stored record.
    Record(Owed),
    /// A declared loss.
    Gap(OwedGap),
}

/// One stored record.
#[derive(Debug, Clone, PartialEq)]
pub struct Owed {
    /// Its number.
    pub number: Number,
    /// Set on the first record of an epoch whose predecessor is known.
    pub previous: Option<Previous>,
    /// What it is.
    pub body: OwedBody,
    /// When it was taken.
    pub at: Stamp,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq)]
pub enum OwedBody {
    /// A sample of a tag.
    Sample {
        /// Which tag.
        tag: Arc<DictionaryTag>,
        /// Its value.
        value: Option<Value>,
        /// Its quality.
        quality: Quality,
    },
    /// A JSON object on a topic.
    Event {
        /// Local topic.
        topic: Arc<str>,
        /// The object, without number.
        body: Arc<[u8]>,
    },
    /// A local client's message, as it is.
    Message {
        /// Local topic; in the store of a bridge, the topic on its other side.
        topic: Arc<str>,
        /// The message.
        message: Arc<ClientMessage>,
    },
}

/// A gap record owed to one uplink; leaves only when acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedGap {
    /// Names it towards the store.
    pub id: i64,
    /// Whose numbers are missing; times as stamps, worked out when sent.
    pub stream: Class,
    /// In which epoch.
    pub epoch: Epoch,
    /// First missing number.
    pub first: Seq,
    /// Last missing number.
    pub last: Seq,
    /// First lost sample, if known.
    pub from: Option<Stamp>,
    /// Last lost sample, if known.
    pub to: Option<Stamp>,
    /// `evicted`, `damaged`, `purged`, `refused` or `store`: README, "Bridge to a cloud".
    pub reason: String,
}
