//! The feeder: the only one who publishes. It takes acknowledgements to the source, keeps the window full, refreshes the
//! status, notices a broker that no longer acknowledges, and says goodbye.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::flow::stop::Stop;

use super::BACKLOG_EVERY;
use super::client::{Agreed, Client, Extras, JSON, Retained};
use super::downlink::Downlink;
use super::line::{Line, News};
use super::pack::Message;
use super::session::{End, Session};
use super::source::{Lane, Pull, Source, Wants};
use super::status::{self, Newest};
use super::window::{Answer, Sent};

/// What MQTT 5 adds to a publish: the length of the properties and an alias.
const ALIAS_BYTES: usize = 1 + 3;
/// Items pulled at once.
const PULL_MAX: usize = 64;
/// A session without anything to send has proved itself after this long.
const PROVED_AFTER: Duration = Duration::from_secs(60);
/// How long the offline status, and then the close of the connection, are waited for.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// The same for a close that must be quick.
const HURRIED_MAX: Duration = Duration::from_millis(200);

/// What changes while a session lives.
pub(super) struct Progress {
    pending: VecDeque<Message>,
    source_ended: bool,
    /// The next message may not be sent before.
    not_before: Option<Instant>,
    accepted_at: Option<Instant>,
    agreed: Agreed,
    /// The last acknowledgement, or when the first message went out after a time without any in flight.
    moved_at: Instant,
    status: StatusProgress,
    /// When the backlog figure was last worked out.
    backlog_at: Instant,
    stop_at: Option<Instant>,
    proved: bool,
}

struct StatusProgress {
    in_flight: u32,
    /// What the last one said; `None` before the first.
    told: Option<Newest>,
    next: Instant,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pending: VecDeque::new(),
            source_ended: false,
            not_before: None,
            accepted_at: None,
            agreed: Agreed::default(),
            moved_at: now,
            status: StatusProgress { in_flight: 0, told: None, next: now },
            backlog_at: now,
            stop_at: None,
            proved: false,
        }
    }

    /// It carried an acknowledged record, or stood long enough without one to carry.
    pub(super) fn has_proved_itself(&self) -> bool {
        self.proved || self.accepted_at.is_some_and(|at| at.elapsed() >= PROVED_AFTER)
    }
}

impl<S: Source> Session<'_, S> {
    /// The feeder's loop: news, then sending, then waiting for whatever comes first.
    pub(super) async fn feed(&mut self, client: &Client, line: &Line, progress: &mut Progress, stop: &Stop) -> End {
        loop {
            let news = line.news();
            self.take(&news, progress);
            if let Some(ended) = news.ended {
                return ended.into();
            }
            if let Some(agreed) = news.accepted
                && progress.accepted_at.is_none()
            {
                client.agree(&agreed);
                self.accepted(agreed, progress);
            }
            if progress.accepted_at.is_some_and(|at| at.elapsed() >= PROVED_AFTER) {
                self.trouble.clear_taken_over();
                self.trouble.clear_refused();
            }
            let accepted = progress.accepted_at.is_some();
            if accepted && let Err(end) = self.send(client, line, progress) {
                return end;
            }
            if is_over(line, progress, stop) {
                return if accepted { self.farewell(client, line, progress, stop).await } else { End::Finished };
            }
            let in_flight = line.in_flight();
            let room = if accepted && progress.pending.is_empty() && !progress.source_ended { line.room() } else { 0 };
            let room = room.min(PULL_MAX).min(self.packer.wants(Lane::Backlog));
            let wants = Wants { live: room, backlog: room };
            let wake = self.wake(progress, in_flight);
            tokio::select! {
                biased;
                pull = self.source.next(wants), if wants.backlog > 0 => self.pack(pull, progress),
                () = line.changed() => {}
                () = reply_waits(&mut self.downlink), if accepted && line.room() > 0 => {}
                () = stop.begun(), if progress.stop_at.is_none() => {
                    progress.stop_at = Some(Instant::now() + self.timing.stop_wait);
                }
                () = stop.hurried(), if progress.stop_at.is_some() => {}
                () = sleep_until(wake) => {
                    if in_flight > 0 && progress.moved_at.elapsed() >= self.timing.stalled {
                        let seconds = self.timing.stalled.as_secs();
                        return End::lost(format!("nothing was acknowledged for {seconds} s"));
                    }
                }
            }
        }
    }

    /// Items to messages.
    fn pack(&mut self, pull: Option<Pull>, progress: &mut Progress) {
        let now = Instant::now();
        match pull {
            Some(pull) => pull.items.into_iter().for_each(|item| self.packer.put(item, pull.lane, now)),
            None => {
                progress.source_ended = true;
                self.packer.flush();
            }
        }
    }

    /// May this message be handed over now? `Err`: not before then.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the place where budgets are asked")]
    fn may_send(&mut self, _message: &Message, _now: Instant) -> Result<(), Instant> {
        Ok(())
    }

    /// Acknowledgements go to the source.
    fn take(&mut self, news: &News, progress: &mut Progress) {
        let mut owed = 0;
        for (sent, answer) in &news.answered {
            match sent {
                Sent::Owed(_) if *answer != Answer::Taken => {}
                Sent::Owed(ack) => {
                    self.source.acknowledge(*ack);
                    owed += ack.count();
                }
                Sent::Status => progress.status.in_flight = progress.status.in_flight.saturating_sub(1),
                Sent::Reply => {}
            }
        }
        if !news.answered.is_empty() {
            progress.moved_at = Instant::now();
            self.trouble.clear_refused(); // CONNACK alone does not show that we may do anything here
        }
        if owed > 0 {
            progress.proved = true;
            self.stats.acknowledged_at(self.clock.now(), owed);
        }
        self.stats.in_flight.set(news.in_flight as u64);
        if news.in_flight == 0 || progress.backlog_at.elapsed() >= BACKLOG_EVERY {
            progress.backlog_at = Instant::now();
            self.stats.backlog.set(self.source.backlog());
        }
    }

    fn accepted(&mut self, agreed: Agreed, progress: &mut Progress) {
        let now = Instant::now();
        progress.accepted_at = Some(now);
        progress.status.next = now;
        progress.agreed = agreed;
        self.stats.accepted();
        let elapsed_ms = self.lost_since.take().map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(0));
        tracing::info!(uplink = self.plan.name, elapsed_ms, "uplink connected");
    }

    /// The status when it is due, then records while the window has room.
    fn send(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        if Instant::now() >= progress.status.next && progress.status.in_flight == 0 {
            let newest = self.newest();
            progress.status.next = Instant::now() + self.timing.status_every;
            if progress.status.told.as_ref() != Some(&newest) {
                self.send_status(client, line, progress, &status::online(self.clock.wall_now(), &newest))?;
                progress.status.told = Some(newest);
            }
        }
        self.send_replies(client, line, progress)?;
        progress.not_before = None;
        while line.room() > 0 {
            let now = Instant::now();
            progress.pending.extend(std::iter::from_fn(|| self.packer.next(now)));
            let Some(message) = progress.pending.pop_front() else { break };
            if let Err(then) = self.may_send(&message, now) {
                progress.not_before = Some(then);
                progress.pending.push_front(message);
                break;
            }
            let fits = message.bytes() + ALIAS_BYTES <= progress.agreed.packet_bytes_max;
            if let Err(error) = message.check().map_err(|error| error.to_string()).and_then(|()| {
                if fits { Ok(()) } else { Err(format!("{} bytes are more than the broker takes", message.bytes())) }
            }) {
                tracing::error!(uplink = self.plan.name, error, "record given up: no broker would take it");
                self.stats.unsendable.one();
                self.source.acknowledge(message.ack);
                continue;
            }
            if line.in_flight() == 0 {
                progress.moved_at = Instant::now();
            }
            line.hand(Sent::Owed(message.ack), message.bytes());
            client.publish(message.topic, message.payload, Retained::No, Extras::default())?;
            self.stats.published.one();
        }
        Ok(())
    }

    /// Answers to commands go before records: a person waits for them.
    fn send_replies(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        while line.room() > 0
            && let Some(reply) = self.downlink.as_mut().and_then(|downlink| downlink.next())
        {
            if line.in_flight() == 0 {
                progress.moved_at = Instant::now();
            }
            line.hand(Sent::Reply, reply.topic.len() + reply.payload.len());
            client.publish(reply.topic, reply.payload, Retained::No, reply.extras)?;
        }
        Ok(())
    }

    /// Of the streams that this uplink is owed; others will never come, and nobody upstream should wait for them.
    fn newest(&self) -> Newest {
        let mut newest = self.source.newest();
        newest.retain(|(class, ..)| self.plan.classes.contains(class));
        newest
    }

    fn send_status(&self, client: &Client, line: &Line, progress: &mut Progress, payload: &[u8]) -> Result<(), End> {
        if line.in_flight() == 0 {
            progress.moved_at = Instant::now();
        }
        progress.status.in_flight += 1;
        let topic = self.packer.status_topic().to_owned();
        line.hand(Sent::Status, topic.len() + payload.len());
        let retained = if progress.agreed.retains && self.device.is_none() { Retained::Yes } else { Retained::No };
        let extras = Extras { content_type: Some(JSON), ..Extras::default() };
        Ok(client.publish(topic, payload.to_vec(), retained, extras)?)
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
        for at in [progress.not_before, self.packer.due()].into_iter().flatten() {
            wake = wake.min(at);
        }
        progress.stop_at.map_or(wake, |at| wake.min(at))
    }

    /// Offline status, DISCONNECT, and the broker's close; each waited for a little.
    async fn farewell(&mut self, client: &Client, line: &Line, progress: &mut Progress, stop: &Stop) -> End {
        let payload = status::offline(self.clock.wall_now(), &self.newest());
        if self.send_status(client, line, progress, &payload).is_err() {
            return End::Finished;
        }
        // A broker that acknowledged nothing all the time will not begin with this.
        let mute = line.in_flight() > 1 && progress.moved_at.elapsed() >= FAREWELL_MAX;
        let patience = if mute { HURRIED_MAX } else { FAREWELL_MAX };
        let mut limit = Instant::now() + patience;
        let mut leaving = false;
        loop {
            let news = line.news();
            self.take(&news, progress);
            if news.ended.is_some() || leaving && Instant::now() >= limit {
                return End::Finished;
            }
            if !leaving && (progress.status.in_flight == 0 || Instant::now() >= limit || stop.is_hurried()) {
                leaving = true;
                limit = Instant::now() + if stop.is_hurried() { HURRIED_MAX } else { patience };
                if client.disconnect().is_err() {
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

/// Is there nothing left to do here, or no time left to do it?
fn is_over(line: &Line, progress: &Progress, stop: &Stop) -> bool {
    let drained = progress.source_ended && progress.pending.is_empty() && line.in_flight() == 0;
    let too_late = progress.stop_at.is_some_and(|at| Instant::now() >= at);
    let never_connected = stop.is_begun() && progress.accepted_at.is_none();
    drained || too_late || never_connected || stop.is_hurried()
}

/// Ready when an answer to a command waits to be published; never without a downlink.
async fn reply_waits(downlink: &mut Option<&mut Downlink>) {
    match downlink {
        Some(downlink) => downlink.ready().await,
        None => std::future::pending().await,
    }
}
