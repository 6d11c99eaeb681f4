//! A local client's message that goes upstream through the store as it is: payload, and what MQTT 5 says beside it.

use std::sync::Arc;

/// One message, without its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// As it was published; any bytes.
    pub payload: Arc<[u8]>,
    /// Was it to be kept by the broker? Bridges say so on the other side; uplinks do not.
    pub kept: Kept,
    /// Seconds from its arrival after which nobody needs it (MQTT 5, section 3.3.2.3.3).
    pub expiry_s: Option<u32>,
    /// What travels with it to MQTT 5 clients.
    pub properties: Properties,
}

/// RETAIN as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kept {
    /// Set.
    Yes,
    /// Not set.
    #[default]
    No,
}

/// MQTT 5, section 3.3.2.3: what a broker hands on unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// 1: the payload is UTF-8 text.
    pub payload_format: Option<u8>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where an answer is wanted.
    pub response_topic: Option<String>,
    /// Goes back with the answer.
    pub correlation: Option<Vec<u8>>,
    /// Names and values, in order; a name may stand there more than once.
    pub user: Vec<(String, String)>,
}

impl ClientMessage {
    /// Bytes that it takes in memory and on the wire, about; without its topic.
    pub fn bytes(&self) -> usize {
        let Properties { content_type, response_topic, correlation, user, .. } = &self.properties;
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() + 3);
        let user: usize = user.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
        let correlation = correlation.as_ref().map_or(0, |data| data.len() + 3);
        self.payload.len() + text(content_type) + text(response_topic) + correlation + user
    }
}
