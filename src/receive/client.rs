//! One MQTT session after another, until told to stop: subscribe at QoS 1, hand over what comes, acknowledge only what
//! the consumer has put away.
//!
//! rumqttc is driven as the uplink drives it: on any error the event loop is thrown away and a new one begins with one
//! SUBSCRIBE. What was not acknowledged is sent again by the broker, if the session is kept there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::plan::MqttVersion;
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::model::lock::Hold as _;
use crate::model::sparkplug::state_topic;
use crate::road::backoff::Backoff;
use crate::road::destination::{Destination, RoadError};
use crate::road::login::LoginFiles;
use crate::road::{Now, RelayEnd, Road};

use super::wire::{Arrived, Broken, Opening, Signal, Speaker, Version, Wire};

/// First and longest wait before a reconnect: a person or a script waits for us.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Requests that may wait for rumqttc: acknowledgements of everything that may be on its way to the consumer.
const REQUESTS_MAX: usize = DELIVERIES_MAX * 2;
/// Messages between broker and consumer.
pub const DELIVERIES_MAX: usize = 1024;
/// Unacknowledged messages that an MQTT 5 broker may have on their way to us (its receive maximum).
const WINDOW: u16 = 1024;
/// How long a broken connection's relay is given to say why.
const CAUSE_MAX: Duration = Duration::from_millis(200);
/// How long an MQTT 5 broker is asked to keep our session, unless told otherwise.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

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
pub struct Delivery(Box<Arrived>);

impl Delivery {
    /// Where it was published.
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// What was published.
    pub fn payload(&self) -> &Bytes {
        self.0.payload()
    }

    /// User properties of MQTT 5.
    pub fn user(&self) -> &[(String, String)] {
        self.0.user()
    }

    /// Safe: the broker may forget it. Without effect when its session has ended (it will come again then).
    pub fn acknowledge(self) {
        self.0.acknowledge();
    }
}

/// Says something where a client is connected; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Mouth(Arc<Mutex<Option<Speaker>>>);

impl Mouth {
    /// At QoS 1, not retained. False: there is no connection, or it is full; nothing is kept for later.
    pub fn say(&self, topic: &str, payload: Vec<u8>) -> bool {
        let speaker = self.0.hold().clone();
        speaker.is_some_and(|speaker| speaker.say(topic, payload))
    }

    fn open(&self, speaker: Option<Speaker>) {
        *self.0.hold() = speaker;
    }
}

/// How a client is known as a host of Sparkplug.
#[derive(Clone)]
pub struct Presence {
    /// Its host id.
    pub host: String,
    /// For the time in its state.
    pub clock: Clock,
}

impl Presence {
    /// Where it says so, that it is there, and that it is not: both with the time of this connection (Sparkplug 3.0,
    /// tck-id-host-topic-phid-birth-payload and tck-id-host-topic-phid-death-payload).
    fn words(&self) -> (String, String, String) {
        let unix_ms = self.clock.wall_now().unix_ms;
        let words = |online: bool| format!(r#"{{"online":{online},"timestamp":{unix_ms}}}"#);
        (state_topic(&self.host), words(true), words(false))
    }
}

/// A receiving MQTT client.
pub struct Client {
    mouth: Mouth,
    presence: Option<Presence>,
    parts: ClientParts,
    road: Road,
    kept_for: Duration,
    asked: MqttVersion,
    version: Version,
    /// A broker has accepted a session of this version: it stays.
    known: bool,
}

impl Client {
    /// Builds it; nothing is touched yet. Speaks MQTT 5, and 3.1.1 where the broker does not know 5.
    pub fn new(parts: ClientParts) -> Self {
        let road = Road::new(parts.to.clone(), parts.now.clone(), parts.run_dir.clone());
        let (mouth, presence) = (Mouth::default(), None);
        Self {
            mouth,
            presence,
            parts,
            road,
            kept_for: KEPT,
            asked: MqttVersion::Auto,
            version: Version::V5,
            known: false,
        }
    }

    /// Speaks this version.
    #[must_use]
    pub fn speaking(mut self, version: MqttVersion) -> Self {
        self.asked = version;
        self.version = if version == MqttVersion::V311 { Version::V311 } else { Version::V5 };
        self
    }

    /// What is said with this is said on its connection; and with a presence it is known as a host of Sparkplug, as long as it
    /// is connected.
    #[must_use]
    pub fn heard(mut self, mouth: Mouth, presence: Option<Presence>) -> Self {
        (self.mouth, self.presence) = (mouth, presence);
        self
    }

    /// An MQTT 5 broker is asked to keep the session for so long.
    #[must_use]
    pub fn kept_for(mut self, time: Duration) -> Self {
        self.kept_for = time;
        self
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
            self.mouth.open(None);
            let text = match ended {
                Ended::Lost(text) => text,
                // Asked again at once, in the other version.
                Ended::Version(text) => {
                    tracing::debug!(error = text, "the broker is asked again with mqtt 3.1.1");
                    continue;
                }
            };
            if into.send(Happened::Lost(text)).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = stop.begun() => return Ok(()),
                () = tokio::time::sleep(backoff.next(&mut dice)) => {}
            }
        }
    }

    /// One session.
    async fn session(&mut self, into: &mpsc::Sender<Happened>, backoff: &mut Backoff) -> Result<Ended, ReceiveError> {
        let login = self.parts.login.read().await.map_err(|error| ReceiveError::Disabled(error.to_string()))?;
        let relay = match self.road.open().await {
            Ok(relay) => relay,
            Err(RoadError::Disabled(text)) => return Err(ReceiveError::Disabled(text)),
            Err(RoadError::Distrusted(text)) => return Err(ReceiveError::Refused(text)),
            Err(RoadError::Unreachable(text)) => return Ok(Ended::Lost(text)),
        };
        let kept_s = u32::try_from(self.kept_for.as_secs()).unwrap_or(u32::MAX);
        let presence = self.presence.as_ref().map(Presence::words);
        let opening = Opening {
            will: presence.as_ref().map(|(topic, _, gone)| (topic.clone(), gone.clone())),
            version: self.version,
            client_id: &self.parts.client_id,
            socket: relay.socket().to_string_lossy().into_owned(),
            credentials: login.map(|login| (login.username, login.password)),
            kept_s: (self.parts.kept == Kept::Yes).then_some(kept_s),
            window: WINDOW,
        };
        let mut wire = Wire::new(&opening, REQUESTS_MAX);
        let mut tasks = JoinSet::new(); // ends with the session
        tasks.spawn(relay.run());
        let mut accepted = false;
        loop {
            let happened = match wire.poll().await {
                Ok(Signal::Accepted) => {
                    (accepted, self.known) = (true, true);
                    if !wire.subscribe(&self.parts.filters) {
                        return Err(ReceiveError::Refused("the topic filters are not valid".into()));
                    }
                    continue;
                }
                Ok(Signal::NotSubscribed) => {
                    return Err(ReceiveError::Refused("the broker refuses the subscription".into()));
                }
                Ok(Signal::Subscribed) => {
                    backoff.reset();
                    let speaker = wire.speaker();
                    if let Some((topic, here, _)) = &presence {
                        speaker.leave(topic, here.clone().into_bytes()); // the first of its requests: there is room
                    }
                    self.mouth.open(Some(speaker));
                    Happened::Connected
                }
                Ok(Signal::Publish(arrived)) => Happened::Message(Delivery(arrived)),
                Ok(Signal::Nothing) => continue,
                Err(broken) => {
                    let cause = timeout(CAUSE_MAX, tasks.join_next()).await;
                    return match (cause, broken) {
                        (Ok(Some(Ok(RelayEnd::Distrusted(cause)))), _) => Err(ReceiveError::Refused(cause)),
                        (_, Broken::Refused(text)) => Err(ReceiveError::Refused(text)),
                        (_, Broken::Version(text)) if self.asked == MqttVersion::V5 => Err(ReceiveError::Refused(text)),
                        (Ok(Some(Ok(RelayEnd::Broken(text)))), _) | (_, Broken::Link(text) | Broken::Version(text)) => {
                            Ok(self.other_version(text, accepted))
                        }
                    };
                }
            };
            if into.send(happened).await.is_err() {
                return Ok(Ended::Lost("stopped".into()));
            }
        }
    }

    /// A connection that ends before the broker has said anything may mean that it does not know MQTT 5.
    fn other_version(&mut self, text: String, accepted: bool) -> Ended {
        if accepted || self.known || self.asked != MqttVersion::Auto {
            return Ended::Lost(text);
        }
        if self.version == Version::V5 {
            self.version = Version::V311;
            return Ended::Version(text);
        }
        self.version = Version::V5; // the link itself, it seems
        Ended::Lost(text)
    }
}

/// How a session ended.
enum Ended {
    /// The link is down; the text says why.
    Lost(String),
    /// Perhaps only the version was wrong.
    Version(String),
}
