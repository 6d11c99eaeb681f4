//! The MQTT client in both versions behind one face: what is handed to it, and what it says happened.
//!
//! Feeder and downlink hand in, the poller asks [`Events::next`]. The version shows only here, in what CONNACK agreed to
//! (3.1.1 agrees to nothing: everything at its widest) and in how an acknowledgement may say no.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{Event, Outgoing, Packet, v5};

use super::alias::{Alias, Aliases};
use super::answer;
use super::azure::Device;
use super::ended::{self, Ended};
use super::window::Answer;

/// A ping is sent this often to a broker that asks for none (Server Keep Alive 0): rumqttc would ping without a pause.
const KEEP_ALIVE_OF_NONE: Duration = Duration::from_secs(300);

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
    pub(super) correlation: Option<Bytes>,
    pub(super) response_topic: Option<String>,
    pub(super) receipt: Receipt,
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
    /// SUBACK; how many of the filters were refused.
    Subscribed { refused: usize },
    /// The next of the handed messages has this packet id.
    Left(u16),
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
            aliases.lock().unwrap_or_else(PoisonError::into_inner).offer(agreed.alias_max);
        }
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
                    Retained::No => aliases.lock().unwrap_or_else(PoisonError::into_inner).of(&topic),
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

    /// One SUBSCRIBE with all filters, QoS 1. Handed in before CONNACK it is the first packet after it.
    pub(super) fn subscribe(&self, filters: &[String]) -> Result<(), Gone> {
        match self {
            Self::V4(client, _) => {
                let filter = |path: &String| rumqttc::SubscribeFilter::new(path.clone(), rumqttc::QoS::AtLeastOnce);
                client.try_subscribe_many(filters.iter().map(filter)).map_err(|_| Gone)
            }
            Self::V5(client, _) => {
                use v5::mqttbytes::v5::{Filter, RetainForwardRule};
                // Retain As Published: a live command with RETAIN shows it and is refused. What is retained at the
                // broker already need not even come.
                let filter = |path: &String| Filter {
                    nolocal: true,
                    preserve_retain: true,
                    retain_forward_rule: RetainForwardRule::Never,
                    ..Filter::new(path.clone(), v5::mqttbytes::QoS::AtLeastOnce)
                };
                client.try_subscribe_many(filters.iter().map(filter)).map_err(|_| Gone)
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
            Self::V4(events) => events.poll().await.map(of_v4).map_err(|error| ended::of_v4(&error)),
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(v5::Incoming::ConnAck(ack))) => {
                    let properties = ack.properties.unwrap_or_else(no_properties);
                    if properties.server_keep_alive == Some(0) {
                        events.options.set_keep_alive(KEEP_ALIVE_OF_NONE);
                    }
                    agreed(properties).map(Happened::Accepted)
                }
                Ok(event) => Ok(of_v5(event)),
                Err(error) => Err(ended::of_v5(&error)),
            },
        }
    }
}

fn of_v4(event: Event) -> Happened {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Happened::Accepted(Agreed::default()),
        Event::Outgoing(Outgoing::Publish(id)) => Happened::Left(id),
        Event::Incoming(Packet::PubAck(ack)) => Happened::Acknowledged(ack.pkid, Answer::Taken),
        Event::Incoming(Packet::SubAck(ack)) => {
            let failed = |code: &&rumqttc::SubscribeReasonCode| matches!(code, rumqttc::SubscribeReasonCode::Failure);
            Happened::Subscribed { refused: ack.return_codes.iter().filter(failed).count() }
        }
        Event::Incoming(Packet::Publish(publish)) => Happened::Asked(Box::new(Arrival {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            retain: publish.retain,
            dup: publish.dup,
            expiry: None,
            correlation: None,
            response_topic: None,
            receipt: Receipt::V4(publish),
        })),
        _ => Happened::Nothing,
    }
}

fn of_v5(event: v5::Event) -> Happened {
    use v5::Incoming as In;
    match event {
        v5::Event::Outgoing(Outgoing::Publish(id)) => Happened::Left(id),
        v5::Event::Incoming(In::PubAck(ack)) => Happened::Acknowledged(ack.pkid, answer::of_puback(ack.reason)),
        v5::Event::Incoming(In::SubAck(ack)) => {
            let granted = |code: &v5::mqttbytes::v5::SubscribeReasonCode| {
                matches!(code, v5::mqttbytes::v5::SubscribeReasonCode::Success(_))
            };
            Happened::Subscribed { refused: ack.return_codes.iter().filter(|code| !granted(code)).count() }
        }
        v5::Event::Incoming(In::Publish(publish)) => {
            let properties = publish.properties.clone().unwrap_or_default();
            Happened::Asked(Box::new(Arrival {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.clone(),
                retain: publish.retain,
                dup: publish.dup,
                expiry: properties.message_expiry_interval.map(|s| Duration::from_secs(u64::from(s))),
                correlation: properties.correlation_data,
                response_topic: properties.response_topic,
                receipt: Receipt::V5(publish),
            }))
        }
        _ => Happened::Nothing,
    }
}

fn agreed(properties: v5::mqttbytes::v5::ConnAckProperties) -> Result<Agreed, Ended> {
    if properties.max_qos == Some(0) {
        return Err(Ended::Refused(
            "the broker takes QoS 0 only; QoS 1 is needed, or nothing would be acknowledged".into(),
        ));
    }
    let any = Agreed::default();
    // 0 in either is a protocol error of the broker (sections 3.2.2.3.3 and 3.2.2.3.6)
    let receive_max = properties.receive_max.unwrap_or(any.receive_max);
    let packet_bytes_max = properties.max_packet_size.map_or(any.packet_bytes_max, |bytes| bytes as usize);
    if receive_max == 0 || packet_bytes_max == 0 {
        return Err(Ended::Lost("the broker's CONNACK takes nothing: a maximum in it is 0".into()));
    }
    Ok(Agreed {
        receive_max,
        packet_bytes_max,
        alias_max: properties.topic_alias_max.unwrap_or(0),
        retains: properties.retain_available != Some(0),
        assigned_id: properties.assigned_client_identifier,
    })
}

fn no_properties() -> v5::mqttbytes::v5::ConnAckProperties {
    v5::mqttbytes::v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
