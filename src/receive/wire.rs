//! MQTT 5 or 3.1.1 on one connection: rumqttc's two clients behind one face.

use bytes::Bytes;
use rumqttc::mqttbytes::v4::{SubscribeFilter, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as Code5, Filter, LastWill as LastWill5, Packet as Packet5, Publish as Publish5,
    SubscribeReasonCode as Sub5,
};
use rumqttc::v5::{
    AsyncClient as Client5, ConnectionError as Error5, Event as Event5, EventLoop as EventLoop5,
    MqttOptions as Options5,
};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS,
    Transport,
};
use std::time::Duration;

/// Between messages, how long silence may last.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Limit from CONNECT to CONNACK, for links with seconds of round trip.
const ANSWER_MAX_S: u64 = 60;
/// None of our formats sends more; an MQTT 5 broker is told, and passes over what is larger.
const MESSAGE_BYTES_MAX: u32 = 16 << 20;
/// An MQTT 3.1.1 broker cannot be told. A larger message of a stranger that was refused would end the session, and come again
/// with the next one, for ever: so it is taken, up to MQTT's own limit (3.1.1, section 2.2.3), one at a time, and all but its
/// beginning forgotten.
const PACKET_BYTES_MAX: usize = 268_435_455 + 5;
/// What is kept of it: enough to be counted as what it is not.
const BEGINNING_BYTES: usize = 1024;

/// Which MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

/// What a session is begun with.
pub(super) struct Opening<'a> {
    pub(super) version: Version,
    pub(super) client_id: &'a str,
    pub(super) socket: String,
    pub(super) credentials: Option<(String, String)>,
    /// The broker keeps the session for so long, seconds (MQTT 3.1.1 cannot say how long); `None`: it does not.
    pub(super) kept_s: Option<u32>,
    /// Messages that may be on their way to us unacknowledged.
    pub(super) window: u16,
    /// What is retained there when we are gone: topic and payload.
    pub(super) will: Option<(String, String)>,
}

/// What can say something on a connection.
#[derive(Debug, Clone)]
pub(super) enum Speaker {
    V311(AsyncClient),
    V5(Client5),
}

impl Speaker {
    /// At QoS 1; false when the connection takes nothing now.
    pub(super) fn say(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.publish(topic, payload, false)
    }

    /// The same, retained.
    pub(super) fn leave(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.publish(topic, payload, true)
    }

    fn publish(&self, topic: &str, payload: Vec<u8>, kept: bool) -> bool {
        match self {
            Self::V311(client) => client.try_publish(topic, QoS::AtLeastOnce, kept, payload).is_ok(),
            Self::V5(client) => client.try_publish(topic, QoS5::AtLeastOnce, kept, payload).is_ok(),
        }
    }
}

/// A connection.
pub(super) enum Wire {
    V311(AsyncClient, Box<EventLoop>),
    V5(Client5, Box<EventLoop5>),
}

/// What came.
pub(super) enum Signal {
    Accepted,
    Subscribed,
    NotSubscribed,
    Publish(Box<Arrived>),
    Nothing,
}

/// A publish, with what acknowledges it.
#[derive(Debug)]
pub(super) enum Arrived {
    V311(Publish, AsyncClient),
    V5(Publish5, String, Client5),
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Broken {
    /// It may be better next time.
    Link(String),
    /// The broker does not speak this version.
    Version(String),
    /// The broker does not want us.
    Refused(String),
}

impl Wire {
    pub(super) fn new(opening: &Opening<'_>, requests: usize) -> Self {
        match opening.version {
            Version::V311 => {
                let mut options = MqttOptions::new(opening.client_id, &opening.socket, 0);
                options
                    .set_transport(Transport::Unix)
                    .set_clean_session(opening.kept_s.is_none())
                    .set_keep_alive(KEEP_ALIVE)
                    .set_manual_acks(true)
                    .set_max_packet_size(PACKET_BYTES_MAX, MESSAGE_BYTES_MAX as usize);
                if let Some((user, password)) = &opening.credentials {
                    options.set_credentials(user, password);
                }
                if let Some((topic, payload)) = &opening.will {
                    options.set_last_will(LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, true));
                }
                let (client, mut events) = AsyncClient::new(options, requests);
                events.network_options.set_connection_timeout(ANSWER_MAX_S);
                Self::V311(client, Box::new(events))
            }
            Version::V5 => {
                let mut options = Options5::new(opening.client_id, &opening.socket, 0);
                options
                    .set_transport(Transport::Unix)
                    .set_clean_start(opening.kept_s.is_none())
                    .set_keep_alive(KEEP_ALIVE)
                    .set_connection_timeout(ANSWER_MAX_S)
                    .set_session_expiry_interval(Some(opening.kept_s.unwrap_or(0)))
                    .set_receive_maximum(Some(opening.window))
                    .set_max_packet_size(Some(MESSAGE_BYTES_MAX))
                    .set_manual_acks(true);
                if let Some((user, password)) = &opening.credentials {
                    options.set_credentials(user, password);
                }
                if let Some((topic, payload)) = &opening.will {
                    options.set_last_will(LastWill5::new(topic, payload.clone(), QoS5::AtLeastOnce, true, None));
                }
                let (client, events) = Client5::new(options, requests);
                Self::V5(client, Box::new(events))
            }
        }
    }

    /// One SUBSCRIBE for all filters, at QoS 1; false when they are not valid.
    pub(super) fn subscribe(&self, filters: &[String]) -> bool {
        let filters = filters.iter().cloned();
        match self {
            Self::V311(client, _) => {
                client.try_subscribe_many(filters.map(|f| SubscribeFilter::new(f, QoS::AtLeastOnce))).is_ok()
            }
            Self::V5(client, _) => {
                client.try_subscribe_many(filters.map(|f| Filter::new(f, QoS5::AtLeastOnce))).is_ok()
            }
        }
    }

    /// What can say something as long as this connection stands.
    pub(super) fn speaker(&self) -> Speaker {
        match self {
            Self::V311(client, _) => Speaker::V311(client.clone()),
            Self::V5(client, _) => Speaker::V5(client.clone()),
        }
    }

    /// Waits for the next event.
    pub(super) async fn poll(&mut self) -> Result<Signal, Broken> {
        match self {
            Self::V311(client, events) => match events.poll().await.map_err(|error| broken(&error))? {
                Event::Incoming(Packet::ConnAck(_)) => Ok(Signal::Accepted),
                Event::Incoming(Packet::SubAck(ack)) => {
                    let refused = ack.return_codes.contains(&SubscribeReasonCode::Failure);
                    Ok(if refused { Signal::NotSubscribed } else { Signal::Subscribed })
                }
                Event::Incoming(Packet::Publish(mut publish)) => {
                    if publish.payload.len() > MESSAGE_BYTES_MAX as usize {
                        publish.payload = Bytes::copy_from_slice(&publish.payload[..BEGINNING_BYTES]);
                    }
                    Ok(Signal::Publish(Box::new(Arrived::V311(publish, client.clone()))))
                }
                _ => Ok(Signal::Nothing),
            },
            Self::V5(client, events) => match events.poll().await.map_err(|error| broken5(&error))? {
                Event5::Incoming(Packet5::ConnAck(_)) => Ok(Signal::Accepted),
                Event5::Incoming(Packet5::SubAck(ack)) => {
                    let granted = ack.return_codes.iter().all(|code| matches!(code, Sub5::Success(_)));
                    Ok(if granted { Signal::Subscribed } else { Signal::NotSubscribed })
                }
                Event5::Incoming(Packet5::Publish(publish)) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    Ok(Signal::Publish(Box::new(Arrived::V5(publish, topic, client.clone()))))
                }
                _ => Ok(Signal::Nothing),
            },
        }
    }
}

impl Arrived {
    pub(super) fn topic(&self) -> &str {
        match self {
            Self::V311(publish, _) => &publish.topic,
            Self::V5(_, topic, _) => topic,
        }
    }

    pub(super) const fn payload(&self) -> &Bytes {
        match self {
            Self::V311(publish, _) => &publish.payload,
            Self::V5(publish, ..) => &publish.payload,
        }
    }

    /// User properties.
    pub(super) fn user(&self) -> &[(String, String)] {
        match self {
            Self::V311(..) => &[],
            Self::V5(publish, ..) => publish.properties.as_ref().map_or(&[], |properties| &properties.user_properties),
        }
    }

    pub(super) fn acknowledge(self) {
        match self {
            Self::V311(publish, client) => drop(client.try_ack(&publish)),
            Self::V5(publish, _, client) => drop(client.try_ack(&publish)),
        }
    }
}

fn broken(error: &ConnectionError) -> Broken {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => {
            Broken::Link("the broker says: service unavailable".into())
        }
        ConnectionError::ConnectionRefused(code) => {
            Broken::Refused(format!("the broker refuses the session: {code:?}"))
        }
        other => Broken::Link(other.to_string()),
    }
}

fn broken5(error: &Error5) -> Broken {
    match error {
        Error5::ConnectionRefused(
            code @ (Code5::ServiceUnavailable
            | Code5::ServerUnavailable
            | Code5::ServerBusy
            | Code5::QuotaExceeded
            | Code5::ConnectionRateExceeded
            | Code5::UnspecifiedError),
        ) => Broken::Link(format!("the broker says: {code:?}")),
        Error5::ConnectionRefused(Code5::UnsupportedProtocolVersion | Code5::RefusedProtocolVersion) => {
            Broken::Version("the broker does not speak MQTT 5".into())
        }
        Error5::ConnectionRefused(code) => Broken::Refused(format!("the broker refuses the session: {code:?}")),
        other => Broken::Link(other.to_string()),
    }
}
