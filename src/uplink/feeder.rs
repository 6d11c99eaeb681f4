//! The feeder: the only one who publishes. It takes answers to the source, keeps the window full (`filling` pulls and packs,
//! `sending` publishes), notices a broker that no longer acknowledges, and sends again what was not taken.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::plan::{Delivery, UplinkPlan};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::model::time::{Stamp, millis};
use crate::store::Ack;

use super::BACKLOG_EVERY;
use super::answer;
use super::client::{Agreed, Client, Gone};
use super::downlink::Downlink;
use super::ended::Ended;
use super::lanes::Lanes;
use super::line::{Line, News};
use super::reading::Reading;
use super::refusal::{Heard, Ruling};
use super::routing;
use super::session::{End, Session};
use super::source::{Lane, Source, Wants};
use super::sparkplug::Ears;
use super::stats::UplinkStats;
use super::status::StatusProgress;
use super::version;
use super::window::{Answer, Sent};
use super::withhold::Declarations;

/// A session without anything to send has proved itself after this long.
pub(super) const PROVED_AFTER: Duration = Duration::from_secs(60);
/// Name, connection, proxy, TLS and websocket may each take a minute; a turn that takes longer than all of them never ends.
const STUCK_AFTER: Duration = Duration::from_secs(600);
/// A broker that is busy is told of when it is waited for as long as this.
const BUSY_LONG: Duration = Duration::from_secs(30);
/// Rounds without a complaint after which the broker takes everything again.
const QUIET_ROUNDS: u32 = 3;
/// Never asked for.
const NOTHING: Wants = Wants::of_each(0);

/// What changes while a session lives.
#[allow(clippy::struct_excessive_bools, reason = "each is a condition of its own, and they combine")]
pub(super) struct Progress {
    pub(super) lanes: Lanes,
    pub(super) source_ended: bool,
    /// The next message may not be sent before.
    pub(super) not_before: Option<Instant>,
    /// Some of what waits may not be sent for a budget or a window.
    pub(super) withheld: bool,
    /// What was not taken is sent again then.
    pub(super) round_at: Option<Instant>,
    /// Nothing is sent until then.
    pub(super) paused: bool,
    /// Bytes that a record takes in a message whose length is bounded; 0: not known.
    pub(super) record_bytes: usize,
    /// Bytes at QoS 0 that are on their way without a barrier behind them.
    pub(super) unproven: usize,
    /// Births, or a host that they wait for, keep data waiting.
    pub(super) births: bool,
    /// Hosts on this gateway's own broker have not got rid of what was sent: the backlog waits.
    pub(super) pressed: bool,
    /// By lane: records that were put into messages not yet fetched.
    pub(super) open_records: [usize; 2],
    heard: Heard,
    accepted_at: Option<Instant>,
    pub(super) agreed: Agreed,
    /// The last answer, or when the first message went out after a time without any in flight.
    pub(super) moved_at: Instant,
    /// Records of forbidden topics on the way to gap records.
    pub(super) declarations: Declarations,
    pub(super) status: StatusProgress,
    /// When the backlog figure was last worked out.
    backlog_at: Instant,
    stop_at: Option<Instant>,
    pub(super) reading: Reading,
    /// A record has arrived.
    pub(super) proved: bool,
    /// The first record is under way, and not answered.
    pub(super) tries: bool,
}

impl Progress {
    pub(super) fn new(delivery: Delivery, now: Instant) -> Self {
        Self {
            lanes: Lanes::new(delivery),
            source_ended: false,
            not_before: None,
            withheld: false,
            round_at: None,
            paused: false,
            record_bytes: 0,
            unproven: 0,
            births: false,
            pressed: false,
            open_records: [0; 2],
            heard: Heard::Nothing,
            accepted_at: None,
            agreed: Agreed::default(),
            moved_at: now,
            declarations: Declarations::default(),
            status: StatusProgress::new(now),
            backlog_at: now,
            stop_at: None,
            reading: Reading::default(),
            proved: false,
            tries: false,
        }
    }

    /// A barrier behind what was sent at QoS 0.
    pub(super) fn raise(&mut self, client: &Client) -> Result<(), Gone> {
        if std::mem::take(&mut self.unproven) > 0 { client.barrier() } else { Ok(()) }
    }

    /// How long the session stands.
    pub(super) fn stands_for(&self) -> Duration {
        self.accepted_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether the broker answered anything.
    pub(super) const fn heard(&self) -> Heard {
        self.heard
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
            turn();
            let news = line.news();
            self.take(&news, progress);
            if let Some(ended) = news.ended {
                return ended.into();
            }
            if let Some(agreed) = news.accepted
                && progress.accepted_at.is_none()
            {
                if self.may_narrow && version::is_narrow(agreed.receive_max, line.round_trip()) {
                    let at_once = agreed.receive_max;
                    let why = format!(
                        "the broker takes {at_once} publishes at once, too few over this link for records one by one"
                    );
                    return Ended::Narrow(why).into();
                }
                client.agree(&agreed);
                self.accepted(agreed, progress);
            }
            if progress.accepted_at.is_some_and(|at| at.elapsed() >= PROVED_AFTER) {
                self.trouble.clear_fleeting();
            }
            let accepted = progress.accepted_at.is_some();
            if accepted {
                self.begin_round_when_due(line, progress);
                self.declare_when_due(progress);
                if let Err(end) = self.send(client, line, progress) {
                    self.take(&line.news(), progress); // what was answered before the end counts
                    return end;
                }
            }
            let leaving = accepted && self.must_leave(Instant::now());
            if leaving && progress.stop_at.is_none() {
                progress.stop_at = Some(Instant::now() + self.timing.stop_wait);
            }
            if is_over(line, progress, stop) || leaving && line.in_flight() == 0 {
                return if accepted { self.farewell(client, line, progress, stop).await } else { End::Finished };
            }
            let in_flight = line.in_flight();
            let wants = self.wants(line, progress).filter(|_| accepted && !leaving);
            let wake = self.wake(progress, in_flight);
            let ears = self.packer.node().map(|node| node.ears());
            tokio::select! {
                biased;
                pull = self.source.next(wants.unwrap_or(NOTHING)), if wants.is_some() => self.pack(pull, line, progress),
                () = line.changed() => {}
                () = heard(ears.as_deref()), if accepted => {}
                () = self.outage.ready(), if accepted => {}
                () = reply_waits(&mut self.downlink), if accepted && line.room(Lane::Live) > 0 => {}
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

    /// What was not taken is sent again, as in a new session, once nothing is in flight any more.
    fn begin_round_when_due(&mut self, line: &Line, progress: &mut Progress) {
        if progress.round_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        progress.paused = true;
        if line.in_flight() > 0 {
            return;
        }
        (progress.round_at, progress.paused, progress.source_ended) = (None, false, false);
        progress.lanes.clear();
        progress.open_records = [0; 2];
        self.packer.clear();
        progress.declarations.clear();
        self.forbidden.begin_round(Instant::now().into_std());
        self.refusals.next_round();
        self.source.begin(self.plan.delivery);
    }

    /// Answers go to the source.
    pub(super) fn take(&mut self, news: &News, progress: &mut Progress) {
        let mut owed = 0;
        for (sent, answer) in &news.answered {
            match sent {
                Sent::Owed(ack) => match self.ruling(*ack, *answer, progress) {
                    None => {}
                    Some(Ruling::Taken) => {
                        self.received(*ack);
                        self.freed(*ack, progress);
                        owed += ack.count();
                    }
                    Some(ruling) => {
                        tracing::debug!(uplink = self.plan.name, answer = ?answer, "record not taken");
                        self.tell_of(*ack, *answer, ruling);
                        self.not_taken(*ack, ruling, progress);
                    }
                },
                Sent::Status => {
                    let refused = progress.status.answered(*answer, self.timing.refused_again, Instant::now());
                    self.trouble.status(refused.as_deref());
                }
                Sent::Reply => self.stats.replies_lost.add(u64::from(*answer != Answer::Taken)),
                Sent::Aside => {}
            }
        }
        if !news.answered.is_empty() {
            progress.moved_at = Instant::now();
            progress.heard = Heard::Something;
            progress.tries &= !news.answered.iter().any(|(sent, _)| matches!(sent, Sent::Owed(_)));
            self.trouble.clear_refused(); // CONNACK alone does not show that we may do anything here
        }
        // The first acknowledged record opens the window: a summary must be asked for before the backlog goes through it.
        let opens = owed > 0 && !progress.proved;
        if owed > 0 {
            progress.proved = true;
            if !self.forbidden.is_open() {
                self.trouble.taken(self.timing.refused_again * QUIET_ROUNDS, Instant::now());
            }
            self.stats.acknowledged_at(self.clock.now(), owed);
        }
        if self.packer.node().is_some() && self.routing.carries() {
            progress.moved_at = Instant::now();
        }
        self.stats.in_flight.set(news.in_flight as u64);
        if opens || news.in_flight == 0 || progress.backlog_at.elapsed() >= BACKLOG_EVERY {
            progress.backlog_at = Instant::now();
            self.stats.owes(self.source.backlog(), self.source.oldest(), self.clock);
            if progress.proved {
                let age = Duration::from_secs(self.stats.backlog_age_s.get());
                self.outage.look(age, self.routing.classes(), self.source.directory(), self.clock);
            }
        }
    }

    /// What only a person upstream can change is told, once: the record itself is kept.
    fn tell_of(&mut self, ack: Ack, answer: Answer, ruling: Ruling) {
        let Answer::TryLater(code) = answer else { return };
        if matches!(ruling, Ruling::Pause(wait) if wait < BUSY_LONG) {
            return;
        }
        let why = answer::why(code);
        let detail = format!("the broker does not take {}: {why}; it is kept and sent again", named(ack));
        self.trouble.not_taken(&detail, Instant::now());
    }

    /// A message was refused, or could not be sent at all.
    pub(super) fn not_taken(&mut self, ack: Ack, ruling: Ruling, progress: &mut Progress) {
        if ruling != Ruling::Taken {
            self.packer.untold();
        }
        let round_in = match ruling {
            Ruling::Taken => return,
            Ruling::Declare => {
                give_up(self.source, self.plan, self.stats, ack, self.refusals.taken_at(ack));
                self.trouble.record_refused(&named(ack));
                return;
            }
            Ruling::Pause(wait) => wait,
            Ruling::NextRound | Ruling::PauseForRound => self.timing.refused_again,
        };
        self.stats.not_taken.one();
        progress.paused |= ruling != Ruling::NextRound;
        let at = Instant::now() + round_in;
        let at = progress.round_at.map_or(at, |before| if progress.paused { before.max(at) } else { before.min(at) });
        progress.round_at = Some(at);
    }

    fn accepted(&mut self, agreed: Agreed, progress: &mut Progress) {
        let now = Instant::now();
        progress.accepted_at = Some(now);
        progress.status.next = now;
        let client_id = agreed.assigned_id.as_deref(); // only where the broker did not take ours
        let mqtt = self.stats.mqtt_level.get();
        tracing::debug!(uplink = self.plan.name, mqtt, client_id, receive_max = agreed.receive_max, "broker agrees");
        self.packer.agree(agreed.packet_bytes_max);
        progress.agreed = agreed;
        self.stats.accepted();
        self.routing.stands();
        let elapsed_ms = self.lost_since.take().map(|since| millis(since.elapsed()));
        tracing::info!(uplink = self.plan.name, elapsed_ms, "uplink connected");
    }

    /// When to look again without being told.
    fn wake(&self, progress: &Progress, in_flight: usize) -> Instant {
        let mut wake = Instant::now() + self.timing.status_every;
        // an edge node has no status: waiting for that, it would not wait at all
        if progress.accepted_at.is_some() && progress.status.in_flight == 0 && self.plan.sparkplug.is_none() {
            wake = wake.min(progress.status.next);
        }
        if progress.accepted_at.is_some() {
            wake = wake.min(Instant::now() + routing::TICK);
        }
        if in_flight > 0 {
            wake = wake.min(progress.moved_at + self.timing.stalled);
        }
        let declared = progress.declarations.due();
        let packed = self.packer.due().filter(|_| !progress.births);
        for at in [progress.not_before, packed, progress.round_at, declared].into_iter().flatten() {
            wake = wake.min(at);
        }
        progress.stop_at.map_or(wake, |at| wake.min(at))
    }
}

/// The uplink begins another turn, whether it is connected or not: it is not stuck.
pub(super) fn turn() {
    progress::step(STUCK_AFTER);
}

/// Is there nothing left to do here, or no time left to do it?
fn is_over(line: &Line, progress: &Progress, stop: &Stop) -> bool {
    let nothing_waits = progress.lanes.is_empty() && progress.round_at.is_none();
    let drained = progress.source_ended && nothing_waits && line.in_flight() == 0;
    let too_late = progress.stop_at.is_some_and(|at| Instant::now() >= at);
    let never_connected = stop.is_begun() && progress.accepted_at.is_none();
    drained || too_late || never_connected || stop.is_hurried()
}

/// Ready when something came in for an edge node; never for what is none.
async fn heard(ears: Option<&Ears>) {
    match ears {
        Some(ears) => ears.changed().await,
        None => std::future::pending().await,
    }
}

/// Ready when an answer to a command waits to be published; never without a downlink.
pub(super) async fn reply_waits(downlink: &mut Option<&mut Downlink>) {
    match downlink {
        Some(downlink) => downlink.ready().await,
        None => std::future::pending().await,
    }
}

/// A record that the broker will never take becomes a gap record.
pub(super) fn give_up<S: Source>(source: &mut S, plan: &UplinkPlan, stats: &UplinkStats, ack: Ack, at: Option<Stamp>) {
    let what = named(ack);
    tracing::error!(uplink = plan.name, what, "given up: the broker does not take it");
    stats.refused.add(ack.count());
    source.refuse(ack, at.map(|at| (at, at)));
}

/// For people.
pub(super) fn named(ack: Ack) -> String {
    match ack {
        Ack::Records { stream, epoch, first, last } if first == last => format!("{stream} {} of {}", first.0, epoch.0),
        Ack::Records { stream, epoch, first, last } => format!("{stream} {}-{} of {}", first.0, last.0, epoch.0),
        Ack::Gap(id) => format!("gap record {id}"),
    }
}
