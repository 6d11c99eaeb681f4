//! One MQTT connection from CONNECT to its end, seen by its feeder: the only one who publishes.
//!
//! It takes acknowledgements to the source, keeps the window full, refreshes the status, notices a broker that no longer
//! acknowledges, and says goodbye. The poller and the relay run beside it and end with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, LastWill, MqttOptions, QoS, Transport};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::plan::UplinkPlan;
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::road::login::Login;
use crate::road::{Relay, RelayEnd};

use super::Timing;
use super::line::{Ended, Line, News};
use super::pack::{Message, Packer};
use super::source::Source;
use super::stats::UplinkStats;
use super::status::{self, Newest};
use super::trouble::Trouble;
use super::window::{PACKET_IDS, Sent};

/// Limit from CONNECT to CONNACK, and of a flush that the broker does not take. rumqttc's own 5 s are less than two
/// lost packets on a satellite link.
const ANSWER_MAX_S: u64 = 60;
/// Items pulled at once.
const PULL_MAX: usize = 64;
/// We subscribe to nothing, so nothing large comes in.
const INCOMING_BYTES_MAX: usize = 64 << 10;
/// MQTT's own limit (3.1.1, section 2.2.3): what the store holds must never be too large for rumqttc.
const OUTGOING_BYTES_MAX: usize = 268_435_455;
/// How long the offline status, and then the close of the connection, are waited for.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// The same for a close that must be quick.
const HURRIED_MAX: Duration = Duration::from_millis(200);
/// How long a broken connection's relay is given to say why.
const CAUSE_MAX: Duration = Duration::from_millis(200);
/// A session without anything to send has proved itself after this long.
const PROVED_AFTER: Duration = Duration::from_secs(60);

/// Why a session is over.
pub(super) enum End {
    /// In order: the source ended or a stop was asked for.
    Finished,
    /// The connection is gone.
    Lost(String),
    /// The broker does not want us.
    Refused(String),
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
    pub(super) packer: &'a Packer,
    pub(super) clock: &'a Clock,
    pub(super) timing: Timing,
    pub(super) trouble: &'a mut Trouble,
    pub(super) stats: &'a UplinkStats,
    pub(super) lost_since: &'a mut Option<Instant>,
}

/// What changes while a session lives.
struct Progress {
    pending: VecDeque<Message>,
    source_ended: bool,
    accepted_at: Option<Instant>,
    /// The last acknowledgement, or when the first message went out after a time without any in flight.
    moved_at: Instant,
    status: StatusProgress,
    stop_at: Option<Instant>,
    proved: bool,
}

struct StatusProgress {
    in_flight: u32,
    /// What the last one said; `None` before the first.
    told: Option<Newest>,
    next: Instant,
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
            if let RelayEnd::Broken(cause) = relay.run().await {
                relayed.broke(cause);
            }
        });
        let now = Instant::now();
        let mut progress = Progress {
            pending: VecDeque::new(),
            source_ended: false,
            accepted_at: None,
            moved_at: now,
            status: StatusProgress { in_flight: 0, told: None, next: now },
            stop_at: None,
            proved: false,
        };
        let mut end = self.feed(&client, &line, &mut progress, stop).await;
        if let End::Lost(reason) = &mut end {
            let all = async { while tasks.join_next().await.is_some() {} };
            drop(timeout(CAUSE_MAX, all).await);
            if let Some(cause) = line.cause() {
                *reason = cause;
            }
        }
        let stood = progress.accepted_at.is_some_and(|at| at.elapsed() >= PROVED_AFTER);
        Outcome { end, proved: progress.proved || stood }
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

    /// The feeder's loop: news, then sending, then waiting for whatever comes first.
    async fn feed(&mut self, client: &AsyncClient, line: &Line, progress: &mut Progress, stop: &Stop) -> End {
        loop {
            let news = line.news();
            self.take(&news, progress);
            match news.ended {
                Some(Ended::Lost(reason)) => return End::Lost(reason),
                Some(Ended::Refused(reason)) => return End::Refused(reason),
                None => {}
            }
            if news.accepted && progress.accepted_at.is_none() {
                self.accepted(progress);
            }
            let accepted = progress.accepted_at.is_some();
            if accepted && let Err(end) = self.send(client, line, progress) {
                return end;
            }
            if self.is_over(line, progress, stop) {
                return if accepted { self.farewell(client, line, progress, stop).await } else { End::Finished };
            }
            let in_flight = line.in_flight();
            let room = if accepted && progress.pending.is_empty() && !progress.source_ended { line.room() } else { 0 };
            let wake = self.wake(progress, in_flight);
            tokio::select! {
                biased;
                () = line.changed() => {}
                () = stop.begun(), if progress.stop_at.is_none() => {
                    progress.stop_at = Some(Instant::now() + self.timing.stop_wait);
                }
                () = stop.hurried(), if progress.stop_at.is_some() => {}
                () = sleep_until(wake) => {
                    if in_flight > 0 && progress.moved_at.elapsed() >= self.timing.stalled {
                        let seconds = self.timing.stalled.as_secs();
                        return End::Lost(format!("nothing was acknowledged for {seconds} s"));
                    }
                }
                items = self.source.next(room.min(PULL_MAX)), if room > 0 => match items {
                    Some(items) => progress.pending.extend(items.iter().map(|item| self.packer.pack(item))),
                    None => progress.source_ended = true,
                },
            }
        }
    }

    /// Acknowledgements go to the source.
    fn take(&mut self, news: &News, progress: &mut Progress) {
        let mut owed = 0;
        for sent in &news.acknowledged {
            match sent {
                Sent::Owed(ack) => {
                    self.source.acknowledge(*ack);
                    owed += 1;
                }
                Sent::Status => progress.status.in_flight = progress.status.in_flight.saturating_sub(1),
            }
        }
        if !news.acknowledged.is_empty() {
            progress.moved_at = Instant::now();
        }
        if owed > 0 {
            progress.proved = true;
            self.stats.acknowledged_at(self.clock.now(), owed);
        }
        self.stats.in_flight.set(news.in_flight as u64);
        self.stats.backlog.set(self.source.backlog());
    }

    fn accepted(&mut self, progress: &mut Progress) {
        let now = Instant::now();
        progress.accepted_at = Some(now);
        progress.status.next = now;
        self.trouble.clear_refused();
        self.stats.accepted();
        let elapsed_ms = self.lost_since.take().map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(0));
        tracing::info!(uplink = self.plan.name, elapsed_ms, "uplink connected");
    }

    /// The status when it is due, then records while the window has room.
    fn send(&mut self, client: &AsyncClient, line: &Line, progress: &mut Progress) -> Result<(), End> {
        if Instant::now() >= progress.status.next && progress.status.in_flight == 0 {
            let newest = self.source.newest();
            progress.status.next = Instant::now() + self.timing.status_every;
            if progress.status.told.as_ref() != Some(&newest) {
                self.send_status(client, line, progress, &status::online(self.clock.wall_now(), &newest))?;
                progress.status.told = Some(newest);
            }
        }
        while line.room() > 0
            && let Some(message) = progress.pending.pop_front()
        {
            if let Err(error) = message.check() {
                tracing::error!(uplink = self.plan.name, error = %error, "record given up: its topic is none");
                self.stats.unsendable.one();
                self.source.acknowledge(message.ack);
                continue;
            }
            if line.in_flight() == 0 {
                progress.moved_at = Instant::now();
            }
            line.hand(Sent::Owed(message.ack), message.bytes());
            hand_over(client, message.topic, message.payload, Retained::No)?;
            self.stats.published.one();
        }
        Ok(())
    }

    fn send_status(
        &self,
        client: &AsyncClient,
        line: &Line,
        progress: &mut Progress,
        payload: &[u8],
    ) -> Result<(), End> {
        if line.in_flight() == 0 {
            progress.moved_at = Instant::now();
        }
        progress.status.in_flight += 1;
        let topic = self.packer.status_topic().to_owned();
        line.hand(Sent::Status, topic.len() + payload.len());
        hand_over(client, topic, payload.to_vec(), Retained::Yes)
    }

    fn is_over(&self, line: &Line, progress: &Progress, stop: &Stop) -> bool {
        let drained = progress.source_ended && progress.pending.is_empty() && line.in_flight() == 0;
        let too_late = progress.stop_at.is_some_and(|at| Instant::now() >= at);
        let never_connected = stop.is_begun() && progress.accepted_at.is_none();
        drained || too_late || never_connected || stop.is_hurried()
    }

    /// When to look again without being told.
    fn wake(&self, progress: &Progress, in_flight: usize) -> Instant {
        let mut wake = Instant::now() + self.timing.status_every;
        if progress.accepted_at.is_some() && progress.status.in_flight == 0 {
            wake = wake.min(progress.status.next);
        }
        if in_flight > 0 {
            wake = wake.min(progress.moved_at + self.timing.stalled);
        }
        progress.stop_at.map_or(wake, |at| wake.min(at))
    }

    /// Offline status, DISCONNECT, and the broker's close; each waited for a little.
    async fn farewell(&mut self, client: &AsyncClient, line: &Line, progress: &mut Progress, stop: &Stop) -> End {
        let payload = status::offline(self.clock.wall_now(), &self.source.newest());
        if self.send_status(client, line, progress, &payload).is_err() {
            return End::Finished;
        }
        let mut limit = Instant::now() + FAREWELL_MAX;
        let mut leaving = false;
        loop {
            let news = line.news();
            self.take(&news, progress);
            if news.ended.is_some() || leaving && Instant::now() >= limit {
                return End::Finished;
            }
            if !leaving && (progress.status.in_flight == 0 || Instant::now() >= limit || stop.is_hurried()) {
                leaving = true;
                limit = Instant::now() + if stop.is_hurried() { HURRIED_MAX } else { FAREWELL_MAX };
                if client.try_disconnect().is_err() {
                    return End::Finished;
                }
            }
            tokio::select! {
                () = line.changed() => {}
                () = stop.hurried(), if !leaving => {}
                () = sleep_until(limit) => {}
            }
        }
    }
}

enum Retained {
    Yes,
    No,
}

/// rumqttc's queue is larger than the window, so it is never full; it is closed when the poller has ended.
fn hand_over(client: &AsyncClient, topic: String, payload: Vec<u8>, retained: Retained) -> Result<(), End> {
    client
        .try_publish(topic, QoS::AtLeastOnce, matches!(retained, Retained::Yes), payload)
        .map_err(|error| End::Lost(error.to_string()))
}
