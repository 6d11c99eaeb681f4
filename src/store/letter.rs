//! What a segment keeps of a client's message beside topic, payload and time. The payload lies in the segment as it came.
//!
//! ```text
//! 1 payload_format uint32 · 2 content_type string · 3 response_topic string · 4 correlation bytes · 5 user, repeated
//! { 1 name string, 2 value string } · 6 expiry uint32, seconds · 7 kept bool; those that were not given are absent
//! ```

use std::sync::Arc;

use crate::model::message::{ClientMessage, Kept, Properties};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(uint32, optional, tag = "1")]
    payload_format: Option<u32>,
    #[prost(string, optional, tag = "2")]
    content_type: Option<String>,
    #[prost(string, optional, tag = "3")]
    response_topic: Option<String>,
    #[prost(bytes = "vec", optional, tag = "4")]
    correlation: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    user: Vec<Pair>,
    #[prost(uint32, optional, tag = "6")]
    expiry: Option<u32>,
    #[prost(bool, tag = "7")]
    kept: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl Envelope {
    pub(super) fn of(message: &ClientMessage) -> Self {
        let Properties { payload_format, content_type, response_topic, correlation, user } = message.properties.clone();
        Self {
            payload_format: payload_format.map(u32::from),
            content_type,
            response_topic,
            correlation,
            user: user.into_iter().map(|(name, value)| Pair { name, value }).collect(),
            expiry: message.expiry_s,
            kept: message.kept == Kept::Yes,
        }
    }

    /// The message again; `None` for what was never written.
    pub(super) fn open(&self, payload: Arc<[u8]>) -> Option<ClientMessage> {
        let Self { payload_format, content_type, response_topic, correlation, user, expiry, kept } = self.clone();
        let properties = Properties {
            payload_format: payload_format.map(u8::try_from).transpose().ok()?,
            content_type,
            response_topic,
            correlation,
            user: user.into_iter().map(|pair| (pair.name, pair.value)).collect(),
        };
        let kept = if kept { Kept::Yes } else { Kept::No };
        Some(ClientMessage { payload, kept, expiry_s: expiry, properties })
    }
}
