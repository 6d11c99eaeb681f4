//! One MQTT connection from CONNECT to its end: how rumqttc is set up, and what the end means for the next attempt.
//!
//! Poller and relay run beside the feeder and end with it.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, LastWill, MqttOptions, QoS, Transport};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::config::plan::UplinkPlan;
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::road::login::Login;
use crate::road::{Relay, RelayEnd};

use super::Timing;
use super::feeder::Progress;
use super::line::{Ended, Line};
use super::pack::Packer;
use super::source::Source;
use super::stats::UplinkStats;
use super::status;
use super::trouble::Trouble;
use super::window::PACKET_IDS;

/// Limit from CONNECT to CONNACK, and of a flush that the broker does not take. rumqttc's own 5 s are less than two
/// lost packets on a satellite link.
const ANSWER_MAX_S: u64 = 60;
/// We subscribe to nothing, so nothing large comes in.
const INCOMING_BYTES_MAX: usize = 64 << 10;
/// MQTT's own limit (3.1.1, section 2.2.3): what the store holds must never be too large for rumqttc.
const OUTGOING_BYTES_MAX: usize = 268_435_455;
/// How long a broken connection's relay is given to say why.
const CAUSE_MAX: Duration = Duration::from_millis(200);

/// Why a session is over.
pub(super) enum End {
    /// In order: the source ended or a stop was asked for.
    Finished,
    /// The connection is gone.
    Lost(String),
    /// The broker does not want us.
    Refused(String),
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Lost(reason) => Self::Lost(reason),
            Ended::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// What the next attempt must know.
pub(super) struct Outcome {
    pub(super) end: End,
    /// It carried an acknowledged record, or stood long enough: the next wait begins at its shortest again.
    pub(super) proved: bool,
}

/// What a session borrows from its uplink.
pub(super) struct Session<'a, S> {
    pub(super) plan: &'a UplinkPlan,
    pub(super) source: &'a mut S,
    pub(super) packer: &'a mut Packer,
    pub(super) clock: &'a Clock,
    pub(super) timing: Timing,
    pub(super) trouble: &'a mut Trouble,
    pub(super) stats: &'a UplinkStats,
    pub(super) lost_since: &'a mut Option<Instant>,
}

impl<S: Source> Session<'_, S> {
    pub(super) async fn run(mut self, relay: Relay, login: Option<Login>, stop: &Stop) -> Outcome {
        let (client, mut events) = AsyncClient::new(self.options(&relay, login), usize::from(PACKET_IDS));
        events.network_options.set_connection_timeout(ANSWER_MAX_S);
        let line = Arc::new(Line::default());
        let mut tasks = JoinSet::new(); // both end with the session, whatever state they are in
        let polled = Arc::clone(&line);
        tasks.spawn(async move { polled.poll(events).await });
        let relayed = Arc::clone(&line);
        tasks.spawn(async move {
            match relay.run().await {
                RelayEnd::Closed => {}
                RelayEnd::Broken(cause) => relayed.broke(Ended::Lost(cause)),
                RelayEnd::Distrusted(cause) => relayed.broke(Ended::Refused(cause)),
            }
        });
        let mut progress = Progress::new(Instant::now());
        let mut end = self.feed(&client, &line, &mut progress, stop).await;
        if matches!(end, End::Lost(_)) {
            let all = async { while tasks.join_next().await.is_some() {} };
            drop(timeout(CAUSE_MAX, all).await);
            if let Some(cause) = line.cause() {
                end = cause.into();
            }
        }
        Outcome { end, proved: progress.has_proved_itself() }
    }

    fn options(&self, relay: &Relay, login: Option<Login>) -> MqttOptions {
        let mut options = MqttOptions::new(&self.plan.client_id, relay.socket().to_string_lossy(), 0);
        let will = LastWill::new(self.packer.status_topic(), status::WILL, QoS::AtLeastOnce, true);
        options
            .set_transport(Transport::Unix)
            .set_clean_session(true)
            .set_keep_alive(self.plan.keep_alive.max(Duration::from_secs(1)))
            .set_inflight(PACKET_IDS)
            .set_max_packet_size(INCOMING_BYTES_MAX, OUTGOING_BYTES_MAX)
            .set_last_will(will);
        if let Some(login) = login {
            options.set_credentials(login.username, login.password);
        }
        options
    }
}
