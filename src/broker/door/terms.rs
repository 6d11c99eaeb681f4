//! What this door and the limits let a client do, as its CONNACK says: up to which QoS it may publish, whether it may leave
//! retained messages, how long a content may be. Pure.
//!
//! A content that is too long is refused and the client stays; for the other two the standard has the connection end
//! (MQTT 5, sections 3.2.2.3.4 and 3.2.2.3.5).

use crate::broker::message::{Qos, Retain};
use crate::broker::session::Ending;
use crate::broker::wire::{Incoming, Will};
use crate::config::plan::BrokerLimits;

/// Reasons for CONNACK (MQTT 5, section 3.2.2.2).
const PACKET_TOO_LARGE: u8 = 0x95;
const RETAIN_NOT_SUPPORTED: u8 = 0x9A;
const QOS_NOT_SUPPORTED: u8 = 0x9B;

/// Of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub max_qos: Qos,
    pub retain_available: bool,
    payload_bytes: u32,
    pub watch: Watch,
}

/// Who watches whether a client is there still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Watch {
    /// We: by its keep alive, and by what it takes.
    #[default]
    Ours,
    /// Whoever stands between the client and us. It may sleep for hours: what comes then waits in its outbox. A PINGREQ asks
    /// whether that is all, and is answered when it is.
    #[cfg_attr(not(feature = "mqtt-sn"), allow(dead_code, reason = "only its doors do"))]
    Doors,
}

impl Terms {
    pub(super) fn new(max_qos: u8, limits: &BrokerLimits) -> Self {
        let max_qos = Qos::from_bits(max_qos).unwrap_or(Qos::ExactlyOnce);
        let BrokerLimits { retain_available, payload_bytes, .. } = *limits;
        Self { max_qos, retain_available, payload_bytes, watch: Watch::default() }
    }

    /// Of the gateway itself, whatever clients may do.
    pub(super) const fn inside() -> Self {
        Self { max_qos: Qos::ExactlyOnce, retain_available: true, payload_bytes: u32::MAX, watch: Watch::Ours }
    }

    /// May this will be left? The error is CONNACK's reason (3.2.2-12, 3.2.2-13).
    pub(super) fn judge_will(self, will: Option<&Will>) -> Result<(), u8> {
        match will {
            Some(will) if will.qos > self.max_qos => Err(QOS_NOT_SUPPORTED),
            Some(will) if self.forbids(will.retain) => Err(RETAIN_NOT_SUPPORTED),
            Some(will) if self.is_too_long(&will.payload) => Err(PACKET_TOO_LARGE),
            _ => Ok(()),
        }
    }

    /// What ends the connection, if a packet does. A subscription is granted no more than there is (3.2.2-11).
    pub(super) fn judge(self, packet: &mut Incoming) -> Result<(), Ending> {
        match packet {
            Incoming::Publish(publish) if publish.qos > self.max_qos => Err(Ending::QosNotSupported),
            Incoming::Publish(publish) if self.forbids(publish.retain) => Err(Ending::RetainNotSupported),
            Incoming::Subscribe(subscribe) => {
                for filter in &mut subscribe.filters {
                    filter.qos = filter.qos.min(self.max_qos);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Is a message with this content not taken?
    pub(super) fn is_too_long(self, payload: &[u8]) -> bool {
        payload.len() > self.payload_bytes as usize
    }

    fn forbids(self, retain: Retain) -> bool {
        retain == Retain::Yes && !self.retain_available
    }
}
