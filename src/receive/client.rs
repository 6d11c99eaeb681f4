//! One MQTT session after another, until told to stop: subscribe at QoS 1, hand over what comes, acknowledge only what
//! the consumer has put away.
//!
//! rumqttc is driven as the uplink drives it: on any error the event loop is thrown away and a new one begins with one
//! SUBSCRIBE. What was not acknowledged is sent again by the broker, if the session is kept there.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rumqttc::mqttbytes::v4::{Publish, SubscribeFilter, SubscribeReasonCode};
use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet, QoS, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::flow::stop::Stop;
use crate::road::backoff::Backoff;
use crate::road::destination::{Destination, RoadError};
use crate::road::login::{Login, LoginFiles};
use crate::road::{Now, Relay, RelayEnd, Road};

/// First and longest wait before a reconnect: a person or a script waits for us.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Requests that may wait for rumqttc: acknowledgements of everything that may be on its way to the consumer.
const REQUESTS_MAX: usize = DELIVERIES_MAX * 2;
/// Messages between broker and consumer.
pub const DELIVERIES_MAX: usize = 1024;
/// Between messages, how long silence may last.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Limit from CONNECT to CONNACK, for links with seconds of round trip.
const ANSWER_MAX_S: u64 = 60;
/// How long a broken connection's relay is given to say why.
const CAUSE_MAX: Duration = Duration::from_millis(200);
/// MQTT's own limit (3.1.1, section 2.2.3) would let a stranger fill our memory; none of our formats sends more.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Whether the broker keeps our session while we are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Clean session 0: nothing is lost while we are away. Needs a client id that stays.
    Yes,
    /// Clean session 1.
    No,
}

/// What a client is made of.
pub struct ClientParts {
    /// Which broker.
    pub to: Destination,
    /// User and password file.
    pub login: LoginFiles,
    /// MQTT client id.
    pub client_id: String,
    /// Whether the broker keeps the session.
    pub kept: Kept,
    /// Filters to subscribe to, at least one, checked.
    pub filters: Vec<String>,
    /// A directory for the private socket of the road.
    pub run_dir: PathBuf,
    /// Dates certificates.
    pub now: Now,
}

/// Why a client gave up; a link that is down is not among it.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A file on this box must be mended.
    #[error("{0}")]
    Disabled(String),
    /// The broker does not want us, or we do not trust it.
    #[error("{0}")]
    Refused(String),
}

/// What happens to a client, for its owner to show.
#[derive(Debug)]
pub enum Happened {
    /// Connected and subscribed.
    Connected,
    /// The connection failed or ended; it will be tried again.
    Lost(String),
    /// A message.
    Message(Delivery),
}

/// One message, to be acknowledged when it is safe.
#[derive(Debug)]
pub struct Delivery {
    publish: Publish,
    client: AsyncClient,
}

impl Delivery {
    /// Where it was published.
    pub fn topic(&self) -> &str {
        &self.publish.topic
    }

    /// What was published.
    pub fn payload(&self) -> &Bytes {
        &self.publish.payload
    }

    /// Safe: the broker may forget it. Without effect when its session has ended (it will come again then).
    pub fn acknowledge(self) {
        drop(self.client.try_ack(&self.publish));
    }
}

/// A receiving MQTT client.
pub struct Client {
    parts: ClientParts,
    road: Road,
}

impl Client {
    /// Builds it; nothing is touched yet.
    pub fn new(parts: ClientParts) -> Self {
        let road = Road::new(parts.to.clone(), parts.now.clone(), parts.run_dir.clone());
        Self { parts, road }
    }

    /// Receives until `stop`, or until the consumer's end is gone.
    pub async fn run(mut self, into: mpsc::Sender<Happened>, stop: Stop) -> Result<(), ReceiveError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut dice = StdRng::from_os_rng();
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.begun() => return Ok(()),
                () = into.closed() => return Ok(()),
                ended = self.session(&into, &mut backoff) => ended?,
            };
            if into.send(Happened::Lost(ended)).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = stop.begun() => return Ok(()),
                () = tokio::time::sleep(backoff.next(&mut dice)) => {}
            }
        }
    }

    /// One session; the text says why it ended.
    async fn session(&mut self, into: &mpsc::Sender<Happened>, backoff: &mut Backoff) -> Result<String, ReceiveError> {
        let login = self.parts.login.read().await.map_err(|error| ReceiveError::Disabled(error.to_string()))?;
        let relay = match self.road.open().await {
            Ok(relay) => relay,
            Err(RoadError::Disabled(text)) => return Err(ReceiveError::Disabled(text)),
            Err(RoadError::Distrusted(text)) => return Err(ReceiveError::Refused(text)),
            Err(RoadError::Unreachable(text)) => return Ok(text),
        };
        let (client, mut events) = AsyncClient::new(self.options(&relay, login), REQUESTS_MAX);
        events.network_options.set_connection_timeout(ANSWER_MAX_S);
        let mut tasks = JoinSet::new(); // ends with the session
        tasks.spawn(relay.run());
        loop {
            let happened = match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let filters = self.parts.filters.iter().map(|f| SubscribeFilter::new(f.clone(), QoS::AtLeastOnce));
                    if client.try_subscribe_many(filters).is_err() {
                        return Err(ReceiveError::Refused("the topic filters are not valid".into()));
                    }
                    continue;
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                        return Err(ReceiveError::Refused("the broker refuses the subscription".into()));
                    }
                    backoff.reset();
                    Happened::Connected
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    Happened::Message(Delivery { publish, client: client.clone() })
                }
                Ok(_) => continue,
                Err(error) => {
                    let ended = timeout(CAUSE_MAX, tasks.join_next()).await;
                    return match ended {
                        Ok(Some(Ok(RelayEnd::Broken(cause)))) => Ok(cause),
                        Ok(Some(Ok(RelayEnd::Distrusted(cause)))) => Err(ReceiveError::Refused(cause)),
                        _ => lost(&error),
                    };
                }
            };
            if into.send(happened).await.is_err() {
                return Ok("stopped".into());
            }
        }
    }

    fn options(&self, relay: &Relay, login: Option<Login>) -> MqttOptions {
        let mut options = MqttOptions::new(&self.parts.client_id, relay.socket().to_string_lossy(), 0);
        options
            .set_transport(Transport::Unix)
            .set_clean_session(self.parts.kept == Kept::No)
            .set_keep_alive(KEEP_ALIVE)
            .set_manual_acks(true)
            .set_max_packet_size(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        if let Some(login) = login {
            options.set_credentials(login.username, login.password);
        }
        options
    }
}

fn lost(error: &ConnectionError) -> Result<String, ReceiveError> {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => {
            Ok("the broker says: service unavailable".into())
        }
        ConnectionError::ConnectionRefused(code) => {
            Err(ReceiveError::Refused(format!("the broker refuses the session: {code:?}")))
        }
        other => Ok(other.to_string()),
    }
}
