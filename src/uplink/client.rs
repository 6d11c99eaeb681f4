//! The MQTT client in both versions behind one face: what is handed to it, and what it says happened.
//!
//! Feeder and downlink hand in, the poller asks [`Events::next`]. The version shows only here, in what CONNACK agreed to
//! (3.1.1 agrees to nothing: everything at its widest) and in how an acknowledgement may say no.

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5;

use super::alias::{Alias, Aliases};
use super::azure::Device;
use super::ended::{self, Ended};
use super::incoming;
use super::window::Answer;
use crate::config::plan::ReceiveQos;
use crate::model::lock::Hold as _;
use crate::model::message::Properties;

/// A ping is sent this often to a broker that asks for none (Server Keep Alive 0): rumqttc would ping without a pause.
const KEEP_ALIVE_OF_NONE: Duration = Duration::from_secs(300);

/// Nobody subscribes to it.
const NOBODYS_FILTER: &str = "-";

/// Which MQTT a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Spoken {
    /// 3.1.1
    V4,
    /// 5
    V5,
}

impl Spoken {
    /// In CONNECT (MQTT 5, section 3.1.2.2).
    pub(super) const fn level(self) -> u64 {
        match self {
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// What the broker agreed to in CONNACK (MQTT 5, section 3.2.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Unacknowledged publishes it takes, at least 1.
    pub(super) receive_max: u16,
    /// Largest packet it takes, bytes.
    pub(super) packet_bytes_max: usize,
    /// Topic aliases it takes.
    pub(super) alias_max: u16,
    /// Whether it keeps retained messages.
    pub(super) retains: bool,
    /// The client id it gave us, where it did not take ours.
    pub(super) assigned_id: Option<String>,
}

impl Default for Agreed {
    /// 3.1.1, and 5 where CONNACK is silent.
    fn default() -> Self {
        Self { receive_max: u16::MAX, packet_bytes_max: usize::MAX, alias_max: 0, retains: true, assigned_id: None }
    }
}

/// A publish from upstream on one of the topics we subscribed to.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) expiry: Option<Duration>,
    /// Of MQTT 5.
    pub(super) properties: Properties,
    pub(super) receipt: Receipt,
}

impl Arrival {
    /// Does the broker wait for its acknowledgement, and send it again if there is none?
    pub(super) fn is_owed(&self) -> bool {
        match &self.receipt {
            Receipt::V4(publish) => publish.qos != rumqttc::QoS::AtMostOnce,
            Receipt::V5(publish) => publish.qos != v5::mqttbytes::QoS::AtMostOnce,
        }
    }
}

/// One filter of the SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) filter: String,
    pub(super) qos: ReceiveQos,
    pub(super) handling: Handling,
}

/// When what is retained at the broker is of use. (3.1.1 has [`Handling::Always`] only.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// When the subscription is new.
    AtFirst,
    /// Whenever it is subscribed to.
    Always,
    /// Not at all.
    Never,
}

/// What acknowledges an [`Arrival`].
#[derive(Debug, Clone)]
pub(super) enum Receipt {
    V4(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
}

/// What the poller hears.
#[derive(Debug)]
pub(super) enum Happened {
    /// CONNACK.
    Accepted(Agreed),
    /// SUBACK; which of the filters were refused, counted from 0.
    Subscribed { refused: Vec<usize> },
    /// The next of the handed messages has this packet id; 0: it has none (QoS 0).
    Left(u16),
    /// A barrier has left with this packet id.
    Raised(u16),
    /// The broker has answered a barrier.
    Passed(u16),
    /// PUBACK.
    Acknowledged(u16, Answer),
    /// A command, perhaps.
    Asked(Box<Arrival>),
    /// Nothing to note.
    Nothing,
}

/// RETAIN of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retained {
    Yes,
    No,
}

/// What a publish says beside topic and payload; MQTT 3.1.1 has no place for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extras {
    /// 1: the payload is UTF-8 text.
    pub(super) payload_format: Option<u8>,
    /// Content type.
    pub(super) content_type: Option<Cow<'static, str>>,
    /// Seconds after which nobody needs it.
    pub(super) expiry_s: Option<u32>,
    /// Of the request that this answers.
    pub(super) correlation: Option<Vec<u8>>,
    /// Where an answer is wanted.
    pub(super) response_topic: Option<String>,
    /// User properties.
    pub(super) user: Vec<(String, String)>,
}

impl Extras {
    /// Of JSON.
    pub(super) fn json() -> Self {
        Self { payload_format: Some(1), content_type: Some(JSON.into()), ..Self::default() }
    }

    /// What they take in a packet, from above.
    pub(super) fn bytes(&self) -> usize {
        let text = |text: Option<usize>| text.map_or(0, |length| length + 3);
        let user: usize = self.user.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
        let texts = text(self.content_type.as_ref().map(|text| text.len()))
            + text(self.correlation.as_ref().map(Vec::len))
            + text(self.response_topic.as_ref().map(String::len));
        texts + user + 2 + 5
    }
}

/// JSON text (RFC 8259).
pub(super) const JSON: &str = "application/json";

/// The queue to rumqttc is closed or full: the session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the MQTT client takes nothing any more")]
pub(super) struct Gone;

/// Hands requests to rumqttc. Its queue is larger than the window, so it is never full; it is closed when the poller ended.
#[derive(Debug)]
pub(super) enum Client {
    /// Azure IoT Hub has its own idea of topics; it speaks 3.1.1 only.
    V4(rumqttc::AsyncClient, Option<Device>),
    /// With the aliases of this session; the lock only because the feeder shares us, nobody else publishes.
    V5(v5::AsyncClient, Mutex<Aliases>),
}

impl Client {
    /// CONNACK has come.
    pub(super) fn agree(&self, agreed: &Agreed) {
        if let Self::V5(_, aliases) = self {
            aliases.hold().offer(agreed.alias_max);
        }
    }

    /// Does what stands beside topic and payload go with them?
    pub(super) const fn has_properties(&self) -> bool {
        matches!(self, Self::V5(..))
    }

    /// At QoS 1, after everything handed in before.
    pub(super) fn publish(
        &self,
        topic: String,
        payload: Vec<u8>,
        retained: Retained,
        extras: Extras,
    ) -> Result<(), Gone> {
        let retain = retained == Retained::Yes;
        match self {
            Self::V4(client, device) => {
                let topic = match device {
                    Some(device) => device.topic(&topic, extras.content_type.as_deref()),
                    None => topic,
                };
                client.try_publish(topic, rumqttc::QoS::AtLeastOnce, retain, payload).map_err(|_| Gone)
            }
            Self::V5(client, aliases) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                // what is retained is sent once in a while: an alias would be taken from a topic that needs it
                let alias = match retained {
                    Retained::Yes => Alias::None,
                    Retained::No => aliases.hold().of(&topic),
                };
                let mut properties = v5::mqttbytes::v5::PublishProperties {
                    payload_format_indicator: extras.payload_format,
                    content_type: extras.content_type.map(Cow::into_owned),
                    message_expiry_interval: extras.expiry_s,
                    correlation_data: extras.correlation.map(Bytes::from),
                    response_topic: extras.response_topic,
                    user_properties: extras.user,
                    ..Default::default()
                };
                let topic = match alias {
                    Alias::None => topic,
                    Alias::New(alias) => {
                        properties.topic_alias = Some(alias);
                        topic
                    }
                    Alias::Known(alias) => {
                        properties.topic_alias = Some(alias);
                        String::new()
                    }
                };
                client.try_publish_with_properties(topic, qos, retain, payload, properties).map_err(|_| Gone)
            }
        }
    }

    /// At QoS 0, after everything handed in before: only a [`Self::barrier`] behind it shows that it came through.
    pub(super) fn tell(&self, topic: String, payload: Vec<u8>) -> Result<(), Gone> {
        match self {
            Self::V4(client, _) => {
                client.try_publish(topic, rumqttc::QoS::AtMostOnce, false, payload).map_err(|_| Gone)
            }
            Self::V5(client, _) => {
                client.try_publish(topic, v5::mqttbytes::QoS::AtMostOnce, false, payload).map_err(|_| Gone)
            }
        }
    }

    /// Something that the broker must answer, after everything handed in before (`sparkplug::barrier`). Only where nothing at
    /// QoS 1 is in flight beside it: rumqttc uses one circle of packet ids for all and does not look (rumqtt #1057).
    pub(super) fn barrier(&self) -> Result<(), Gone> {
        self.unsubscribe(NOBODYS_FILTER)
    }

    /// What rumqttc makes of packet ids holds here too: see [`Self::barrier`].
    pub(super) fn unsubscribe(&self, filter: &str) -> Result<(), Gone> {
        match self {
            Self::V4(client, _) => client.try_unsubscribe(filter).map_err(|_| Gone),
            Self::V5(client, _) => client.try_unsubscribe(filter).map_err(|_| Gone),
        }
    }

    /// One SUBSCRIBE with all filters. Handed in before CONNACK it is the first packet after it.
    pub(super) fn subscribe(&self, wanted: &[Wanted]) -> Result<(), Gone> {
        match self {
            Self::V4(client, _) => {
                let filter = |wanted: &Wanted| {
                    let qos = match wanted.qos {
                        ReceiveQos::AtMostOnce => rumqttc::QoS::AtMostOnce,
                        ReceiveQos::AtLeastOnce => rumqttc::QoS::AtLeastOnce,
                    };
                    rumqttc::SubscribeFilter::new(wanted.filter.clone(), qos)
                };
                client.try_subscribe_many(wanted.iter().map(filter)).map_err(|_| Gone)
            }
            Self::V5(client, _) => {
                use v5::mqttbytes::v5::{Filter, RetainForwardRule};
                // Retain As Published: a live command with RETAIN shows it and is refused. No Local: nothing of ours
                // comes back.
                let filter = |wanted: &Wanted| {
                    let qos = match wanted.qos {
                        ReceiveQos::AtMostOnce => v5::mqttbytes::QoS::AtMostOnce,
                        ReceiveQos::AtLeastOnce => v5::mqttbytes::QoS::AtLeastOnce,
                    };
                    let retain_forward_rule = match wanted.handling {
                        Handling::AtFirst => RetainForwardRule::OnNewSubscribe,
                        Handling::Always => RetainForwardRule::OnEverySubscribe,
                        Handling::Never => RetainForwardRule::Never,
                    };
                    let filter = Filter::new(wanted.filter.clone(), qos);
                    Filter { nolocal: true, preserve_retain: true, retain_forward_rule, ..filter }
                };
                client.try_subscribe_many(wanted.iter().map(filter)).map_err(|_| Gone)
            }
        }
    }

    /// DISCONNECT, after everything handed in before.
    pub(super) fn disconnect(&self) -> Result<(), Gone> {
        match self {
            Self::V4(client, _) => client.try_disconnect().map_err(|_| Gone),
            Self::V5(client, _) => client.try_disconnect().map_err(|_| Gone),
        }
    }

    /// Something that can acknowledge arrivals, for the downlink.
    pub(super) fn receiver(&self) -> Receiver {
        match self {
            Self::V4(client, _) => Receiver::V4(client.clone()),
            Self::V5(client, _) => Receiver::V5(client.clone()),
        }
    }
}

/// Acknowledges arrivals.
#[derive(Debug)]
pub(super) enum Receiver {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Receiver {
    /// PUBACK (nothing for QoS 0). What became of a command is said on its result topic: our PUBACK tells only the broker.
    pub(super) fn acknowledge(&self, receipt: &Receipt) -> Result<(), Gone> {
        match (self, receipt) {
            (Self::V4(client), Receipt::V4(publish)) => client.try_ack(publish).map_err(|_| Gone),
            (Self::V5(client), Receipt::V5(publish)) => client.try_ack(publish).map_err(|_| Gone),
            _ => Err(Gone), // of another session
        }
    }
}

/// rumqttc's event loop; one connection, then thrown away.
pub(super) enum Events {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

impl Events {
    /// What happens next. Not cancel-safe: polled by one task that does nothing else.
    pub(super) async fn next(&mut self) -> Result<Happened, Ended> {
        match self {
            Self::V4(events) => events.poll().await.map(incoming::of_v4).map_err(|error| ended::of_v4(&error)),
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(v5::Incoming::ConnAck(ack))) => {
                    let properties = ack.properties.unwrap_or_else(incoming::no_properties);
                    if properties.server_keep_alive == Some(0) {
                        events.options.set_keep_alive(KEEP_ALIVE_OF_NONE);
                    }
                    incoming::agreed(properties).map(Happened::Accepted)
                }
                Ok(event) => Ok(incoming::of_v5(event)),
                Err(error) => Err(ended::of_v5(&error)),
            },
        }
    }
}
