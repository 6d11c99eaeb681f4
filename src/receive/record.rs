//! One numbered record as it arrived, whatever format brought it.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Map;

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::value::Value;
use crate::payload::json::Previous;

/// A sample or an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Who took it, where the topic or the payload says so.
    pub gateway: Option<Arc<str>>,
    /// Its number.
    pub number: Number,
    /// What it says about the epoch before.
    pub previous: Option<Previous>,
    /// Its own topic, as the `json` format with layout `tag` would have it.
    pub topic: Arc<str>,
    /// When it was taken, ms since 1970, if it says so.
    pub time_ms: Option<i64>,
    /// Where that is only the earliest it can have been (cause `clock`): the latest, if it says so.
    pub until_ms: Option<i64>,
    /// What it is.
    pub body: Body,
    /// A sample's object, where it says more than this version understands.
    pub whole: Option<Box<Map<String, serde_json::Value>>>,
}

/// The two kinds of record.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A sample of a tag.
    Sample {
        /// Its value; arrays and objects of a foreign encoder as their JSON text.
        value: Option<Value>,
        /// How far to trust it.
        quality: Grade,
        /// Why not further. A word this version does not know is kept.
        cause: Option<Cow<'static, str>>,
    },
    /// The whole JSON object, number included.
    Event(Map<String, serde_json::Value>),
}

/// Good, uncertain, bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Grade {
    /// As the device said it.
    Good = 0,
    /// There is a value, but with a doubt.
    Uncertain = 1,
    /// No value to rely on.
    Bad = 2,
}

impl Grade {
    /// By its word; one that is not known is a doubt.
    pub fn from_word(word: &str) -> Self {
        match word {
            "good" => Self::Good,
            "bad" => Self::Bad,
            _ => Self::Uncertain,
        }
    }

    /// The word in payloads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

/// A declared loss.
#[derive(Debug, Clone, PartialEq)]
pub struct GapRecord {
    /// Where it was published.
    pub topic: Arc<str>,
    /// Whose loss, by the topic.
    pub gateway: Arc<str>,
    /// Whose numbers.
    pub stream: Class,
    /// In which epoch.
    pub epoch: Epoch,
    /// First lost number.
    pub first: Seq,
    /// Last lost number.
    pub last: Seq,
    /// The whole record.
    pub body: Map<String, serde_json::Value>,
}

impl Record {
    /// As the object of layout `tag`, for lines of text.
    pub fn object(&self) -> Map<String, serde_json::Value> {
        if let Some(whole) = &self.whole {
            return (**whole).clone();
        }
        let (value, quality, cause) = match &self.body {
            Body::Event(object) => return object.clone(),
            Body::Sample { value, quality, cause } => (value, quality, cause),
        };
        let mut object = Map::new();
        object.insert("value".into(), value.as_ref().map_or(serde_json::Value::Null, json));
        object.insert("quality".into(), quality.as_str().into());
        if let Some(cause) = cause {
            object.insert("cause".into(), cause.as_ref().into());
        }
        if let Some(unix_ms) = self.time_ms {
            object.insert("time".into(), time_text(unix_ms).into());
        }
        if let Some(unix_ms) = self.until_ms {
            object.insert("time_until".into(), time_text(unix_ms).into());
        }
        object.insert("stream".into(), self.number.stream.as_str().into());
        object.insert("epoch".into(), self.number.epoch.0.into());
        object.insert("seq".into(), self.number.seq.0.into());
        if let Some(Previous { epoch, seq }) = self.previous {
            let mut previous = Map::new();
            previous.insert("epoch".into(), epoch.0.into());
            previous.extend(seq.map(|seq| ("seq".to_owned(), seq.0.into())));
            object.insert("previous".into(), previous.into());
        }
        object
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn time_text(unix_ms: i64) -> String {
    use crate::model::time::{Certainty, Wall};
    Wall { unix_ms, certainty: Certainty::Fixed }.to_string()
}

pub(super) fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(bit) => (*bit).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_ref().into(),
    }
}
