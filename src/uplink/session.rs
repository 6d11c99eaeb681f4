//! One MQTT connection from CONNECT to its end: how rumqttc is set up, and what the end means for the next attempt.
//!
//! Poller, relay and downlink run beside the feeder and end with it. Both versions begin clean and leave nothing at the
//! broker (MQTT 5: no session expiry): what is owed stands in the store, and no command may wait out an outage. Only where
//! topics come down, and so no commands, does the session persist.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, LastWill, MqttOptions, QoS, Transport, v5};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::plan::{Format, KEEP_ALIVE_MIN_V5, UplinkPlan, Use};
use crate::config::preset::Limits;
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::road::login::Login;
use crate::road::{Relay, RelayEnd};

use super::Timing;
use super::alias::Aliases;
use super::azure::Device;
use super::client::{Client, Events, Gone, JSON, Retained, Spoken, Wanted};
use super::down::{self, Down};
use super::downlink::Downlink;
use super::ended::Ended;
use super::feeder::Progress;
use super::forbidden::Forbidden;
use super::intake::{ARRIVALS_MAX, Intake};
use super::line::Line;
use super::outage::Outage;
use super::overheard::Ear;
use super::pack::Packer;
use super::rate::Rate;
use super::reading::Reading;
use super::refusal::Refusals;
use super::routing::Routing;
use super::source::Source;
use super::stats::UplinkStats;
use super::trouble::Trouble;
use super::version::{Greeting, Known};
use super::window::PACKET_IDS;

/// Limit from CONNECT to CONNACK, and of a flush that the broker does not take. rumqttc's own 5 s are less than two
/// lost packets on a satellite link.
const ANSWER_MAX_S: u64 = 60;
/// Limit from CONNECT to SUBACK.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(2 * ANSWER_MAX_S);
/// Commands are small; nothing else comes in.
const INCOMING_BYTES_MAX: u32 = 64 << 10;
/// What comes down: as large as the local broker takes, with its properties.
#[expect(clippy::cast_possible_truncation, reason = "a mebibyte and a bit")]
const DOWN_BYTES_MAX: u32 = (down::MESSAGE_BYTES_MAX + (64 << 10)) as u32;
/// And from a broker that cannot be told so: what is larger than we take is acknowledged and counted, so that it does not
/// come again for ever; memory sets the bound.
const ANY_BYTES_MAX: usize = 32 << 20;
/// MQTT's own limit (3.1.1, section 2.2.3): what the store holds must never be too large for rumqttc.
const OUTGOING_BYTES_MAX: usize = 268_435_455;
/// Requests that may wait for rumqttc: more than the window, the commands to acknowledge, SUBSCRIBE and DISCONNECT.
const REQUESTS_MAX: usize = PACKET_IDS as usize;
/// A broker that falls over a record closes the connection at once; one that went silent has not fallen over anything.
const FALL_MAX: Duration = Duration::from_secs(10);
/// How long our DISCONNECT may be on its way until the broker has closed the connection, as in a farewell: over a satellite
/// it lies in the private socket for a second, and a connection that ends before has the broker speak our will.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// How long a broken connection's relay is given to say why; and a broker to close one that is left in a hurry.
const CAUSE_MAX: Duration = Duration::from_millis(200);

/// Why a session is over.
pub(super) enum End {
    /// In order: the source ended or a stop was asked for.
    Finished,
    /// The connection is gone, or never was one.
    Ended(Ended),
}

impl End {
    /// The connection is of no use any more.
    pub(super) fn lost(reason: impl Into<String>) -> Self {
        Self::Ended(Ended::Lost(reason.into()))
    }
}

impl From<Gone> for End {
    fn from(gone: Gone) -> Self {
        Self::lost(gone.to_string())
    }
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// What the next attempt must know.
pub(super) struct Outcome {
    pub(super) end: End,
    /// It carried an acknowledged record, or stood long enough: the next wait begins at its shortest again.
    pub(super) proved: bool,
    /// How long it stood.
    pub(super) stood: Duration,
    /// How the broker took our CONNECT; `None` when we did not wait for it.
    pub(super) greeting: Option<Greeting>,
}

/// What a session borrows from its uplink.
pub(super) struct Session<'a, S> {
    /// Host and port.
    pub(super) server: String,
    pub(super) plan: &'a UplinkPlan,
    pub(super) source: &'a mut S,
    pub(super) packer: &'a mut Packer,
    pub(super) clock: &'a Clock,
    pub(super) timing: Timing,
    pub(super) trouble: &'a mut Trouble,
    pub(super) stats: &'a Arc<UplinkStats>,
    pub(super) lost_since: &'a mut Option<Instant>,
    pub(super) downlink: Option<&'a mut Downlink>,
    /// Never beside a downlink (checked with the configuration): its session persists.
    pub(super) down: Option<&'a Down>,
    pub(super) routing: &'a mut Routing,
    pub(super) rate: &'a mut Rate,
    /// Where the uplink leads to Azure IoT Hub.
    pub(super) device: Option<&'a Device>,
    /// What the preset says.
    pub(super) limits: &'static Limits,
    /// A session in which too few publishes fit may be given up for one with the other version.
    pub(super) may_narrow: bool,
    pub(super) refusals: &'a mut Refusals,
    pub(super) forbidden: &'a mut Forbidden,
    pub(super) outage: &'a mut Outage,
}

impl<S: Source> Session<'_, S> {
    pub(super) async fn run(mut self, relay: Relay, login: Option<Login>, known: &mut Known, stop: &Stop) -> Outcome {
        self.forbidden.begin_session(Instant::now().into_std());
        let spoken = known.spoken(Instant::now().into_std());
        self.stats.mqtt_level.set(spoken.level());
        let stale = self.find_stale().await;
        let reading = self.begin_reading(known).await;
        let (client, events) = self.connect(spoken, &relay, login, known);
        let mut tasks = JoinSet::new(); // all end with the session, whatever state they are in
        let (intake, filters) = self.subscribe(&client, &mut tasks, (&reading, &stale)).unzip();
        let line = Arc::new(Line::new(filters.unwrap_or_default(), self.limits.in_flight_max));
        line.unsubscribes(stale.len());
        if let Some(bytes_max) = self.packer.node().and_then(|node| node.ears().in_flight_max()) {
            line.bound(bytes_max);
        }
        let polled = Arc::clone(&line);
        tasks.spawn(async move { polled.poll(events, intake).await });
        let relayed = Arc::clone(&line);
        tasks.spawn(async move {
            let (mut ear, listener) = (Ear::default(), Arc::clone(&relayed));
            let heard = move |bytes: &[u8]| {
                if spoken == Spoken::V5 {
                    ear.hear(bytes).into_iter().for_each(|heard| listener.overheard(heard));
                }
            };
            match relay.run_overheard(heard).await {
                RelayEnd::Closed => {}
                RelayEnd::Broken(cause) => relayed.broke(Ended::Lost(cause)),
                RelayEnd::Distrusted(cause) => relayed.broke(Ended::Refused(cause)),
            }
        });
        // Numbers of clients' messages, and what stands beside those that come down, are in what only MQTT 5 has.
        let plain = self.plan.usage == Use::Records && self.down.is_none();
        let single = plain && self.plan.format == Format::Json && self.plan.batch_samples == 1;
        self.may_narrow = single && known.may_narrow(Instant::now().into_std());
        let mut progress = Progress::new(self.plan.delivery, Instant::now());
        progress.reading = reading;
        let mut end = tokio::select! {
            end = self.feed(&client, &line, &mut progress, stop) => end,
            () = unsubscribed(&line) => End::lost("the broker did not answer the subscription to commands"),
        };
        if let End::Ended(Ended::Narrow(_) | Ended::Host(_) | Ended::Anew(_)) = end {
            self.leave(&client, &line, &mut progress, stop).await;
        }
        if matches!(end, End::Ended(Ended::Lost(_))) {
            let all = async { while tasks.join_next().await.is_some() {} };
            drop(timeout(CAUSE_MAX, all).await);
            if let Some(cause) = line.cause() {
                end = cause.into();
            }
        }
        line.last_words();
        self.take(&line.news(), &mut progress);
        progress.reading.leave(&line, known);
        self.forget_stale(&stale, &line).await;
        self.stats.replies_lost.add(line.replies() as u64); // nobody sends them again
        let left = line.oldest();
        if is_fall(&end) && progress.moved_at.elapsed() <= FALL_MAX {
            self.fallen(left, progress.heard());
        }
        let (proved, stood) = (progress.has_proved_itself(), progress.stands_for());
        Outcome { end, proved, stood, greeting: line.greeting() }
    }

    fn connect(&mut self, spoken: Spoken, relay: &Relay, login: Option<Login>, known: &Known) -> (Client, Events) {
        match spoken {
            Spoken::V4 => {
                let (client, mut events) = AsyncClient::new(self.options_v4(relay, login), REQUESTS_MAX);
                events.network_options.set_connection_timeout(ANSWER_MAX_S);
                (Client::V4(client, self.device.cloned()), Events::V4(Box::new(events)))
            }
            Spoken::V5 => {
                let (client, events) = v5::AsyncClient::new(self.options_v5(relay, login, known), REQUESTS_MAX);
                let aliases = if known.aliases { Aliases::default() } else { Aliases::banned() };
                (Client::V5(client, aliases.into()), Events::V5(Box::new(events)))
            }
        }
    }

    /// DISCONNECT without another word: nobody upstream needs to know more, and the will is not to be spoken. What is answered
    /// meanwhile counts.
    async fn leave(&mut self, client: &Client, line: &Line, progress: &mut Progress, stop: &Stop) {
        if client.disconnect().is_err() {
            return;
        }
        let mut patience = pin!(patience(stop));
        loop {
            let news = line.news();
            self.take(&news, progress);
            if news.ended.is_some() {
                return;
            }
            tokio::select! {
                () = line.changed() => {}
                () = &mut patience => return,
            }
        }
    }

    /// Hands in the SUBSCRIBE, before anything else, and lets the downlink run. The way in, and the filters.
    fn subscribe(
        &mut self,
        client: &Client,
        tasks: &mut JoinSet<()>,
        (reading, stale): (&Reading, &[String]),
    ) -> Option<(Intake, Vec<String>)> {
        let names = |wanted: &[Wanted]| wanted.iter().map(|wanted| wanted.filter.clone()).collect();
        if let Some(node) = self.packer.node() {
            let filters = node.filters();
            client.subscribe(&filters).ok()?;
            let (intake, serving) = node.serve(self.stats, client.receiver());
            tasks.spawn(serving);
            return Some((intake, names(&filters)));
        }
        if let Some(down) = self.down {
            let filters = down.filters(reading.first);
            client.subscribe(&filters).ok()?;
            stale.iter().try_for_each(|filter| client.unsubscribe(filter)).ok()?;
            let (intake, arrivals) = down.intake();
            tasks.spawn(down.serve(arrivals, client.receiver(), reading));
            return Some((intake, names(&filters)));
        }
        let downlink = self.downlink.as_deref().filter(|downlink| !downlink.filters().is_empty())?;
        // the queue is empty and has room for it; if it were closed, the poller would say so in a moment
        client.subscribe(downlink.filters()).ok()?;
        let (intake, arrivals) = downlink.intake();
        tasks.spawn(downlink.serve(arrivals, client.receiver()));
        Some((intake, names(downlink.filters())))
    }

    fn options_v4(&mut self, relay: &Relay, login: Option<Login>) -> MqttOptions {
        let mut options = MqttOptions::new(&self.plan.client_id, relay.socket().to_string_lossy(), 0);
        let will = self.packer.will().map(|(topic, payload, retained)| {
            let topic = self.device.map_or_else(|| topic.clone(), |device| device.topic(&topic, Some(JSON)));
            let retain = retained == Retained::Yes && self.device.is_none();
            LastWill::new(topic, payload, QoS::AtLeastOnce, retain)
        });
        let incoming = if self.down.is_some() { ANY_BYTES_MAX } else { INCOMING_BYTES_MAX as usize };
        options
            .set_transport(Transport::Unix)
            .set_clean_session(self.down.is_none())
            .set_keep_alive(self.plan.keep_alive.max(Duration::from_secs(1)))
            .set_inflight(PACKET_IDS)
            .set_max_packet_size(incoming, OUTGOING_BYTES_MAX)
            .set_manual_acks(true);
        if let Some(will) = will {
            options.set_last_will(will);
        }
        if let Some(login) = login {
            options.set_credentials(login.username, login.password);
        }
        options
    }

    fn options_v5(&mut self, relay: &Relay, login: Option<Login>, known: &Known) -> v5::MqttOptions {
        let mut options = v5::MqttOptions::new(&self.plan.client_id, relay.socket().to_string_lossy(), 0);
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let will = self.packer.will().map(|(topic, payload, retained)| {
            let retain = retained == Retained::Yes && known.retains;
            v5::mqttbytes::v5::LastWill::new(topic, payload, qos, retain, None)
        });
        let incoming = if self.down.is_some() { DOWN_BYTES_MAX } else { INCOMING_BYTES_MAX };
        options
            .set_transport(Transport::Unix)
            .set_clean_start(self.down.is_none())
            .set_keep_alive(self.plan.keep_alive.max(KEEP_ALIVE_MIN_V5)) // it panics below
            .set_outgoing_inflight_upper_limit(PACKET_IDS)
            .set_max_packet_size(Some(incoming))
            .set_receive_maximum(Some(ARRIVALS_MAX))
            .set_connection_timeout(ANSWER_MAX_S)
            .set_manual_acks(true);
        if self.down.is_some() {
            options.set_session_expiry_interval(u32::try_from(self.plan.session_expiry.as_secs()).ok());
        }
        if let Some(will) = will {
            options.set_last_will(will);
        }
        if let Some(login) = login {
            options.set_credentials(login.username, login.password);
        }
        options
    }
}

/// May a record be what the broker fell over? Not where we left by ourselves for the sake of a host.
const fn is_fall(end: &End) -> bool {
    match end {
        End::Finished | End::Ended(Ended::Host(_) | Ended::Anew(_)) => false,
        End::Ended(_) => true,
    }
}

/// As long as leaving may take.
async fn patience(stop: &Stop) {
    tokio::select! {
        () = sleep(LEAVE_MAX) => {}
        () = stop.hurried() => sleep(CAUSE_MAX).await,
    }
}

/// Ready when a SUBSCRIBE has not been answered in time, and never otherwise.
async fn unsubscribed(line: &Line) {
    sleep(SUBSCRIBED_MAX).await;
    if !line.is_subscribing() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disconnect_has_time_for_a_satellite_unless_everybody_is_in_a_hurry() {
        let took = async |stop: &Stop| {
            let begun = Instant::now();
            patience(stop).await;
            begun.elapsed()
        };
        let stop = Stop::new();
        assert_eq!(took(&stop).await, LEAVE_MAX);
        stop.hurry();
        assert_eq!(took(&stop).await, CAUSE_MAX);
    }

    #[test]
    fn leaving_for_a_host_is_no_fall_over_a_record() {
        let why = || "why".to_owned();
        assert!(is_fall(&End::lost(why())));
        assert!(is_fall(&Ended::Silence(why()).into()));
        for end in [End::Finished, Ended::Host(why()).into(), Ended::Anew(why()).into()] {
            assert!(!is_fall(&end));
        }
    }
}
