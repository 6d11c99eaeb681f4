//! The line: one MQTT connection as its users see it. The poller does nothing but `poll()` and note what happened;
//! the feeder asks for the news, the downlink takes what was asked for. Between them a lock that is held to move values,
//! never across an await.
//!
//! **How rumqttc 0.25.1 is driven, and why no other way.** It never tells its caller the packet id of a publish, and on a
//! reconnect without session it silently discards everything in flight and queued. So: one task does nothing but
//! `poll()`; one feeder is the only publisher and notes each message in a FIFO before it hands it over;
//! `Outgoing::Publish(id)` moves the head of the FIFO under its id, `PubAck(id)` acknowledges it to the store. On any
//! error the event loop is thrown away with all it holds, and the source is rewound to the first unacknowledged record.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::lock::Hold as _;
use crate::store::{Ack, Lane};

use super::answer;
use super::client::{Agreed, Events, Happened};
use super::ended::{self, Ended};
use super::intake::{Intake, Taken};
use super::overheard::Heard;
use super::sparkplug::Barrier;
use super::version::Greeting;
use super::window::{Alone, Answer, Confused, PACKET_IDS, Sent, Window};

/// What the feeder learns at once.
#[derive(Debug)]
pub(super) struct News {
    /// Answered since it last asked, in the order of the answers.
    pub(super) answered: Vec<(Sent, Answer)>,
    /// The broker has accepted the session, and taken our subscription if there is one.
    pub(super) accepted: Option<Agreed>,
    /// Messages in flight.
    pub(super) in_flight: usize,
    /// Set once the connection is gone.
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    barrier: Barrier,
    answered: Vec<(Sent, Answer)>,
    agreed: Option<Agreed>,
    in_flight_max: u16,
    /// From CONNECT to CONNACK.
    round_trip: Duration,
    /// Filters of the SUBSCRIBE.
    filters: Vec<String>,
    /// A SUBACK is waited for.
    subscribing: bool,
    /// That of another SUBSCRIBE is.
    subscribing_again: bool,
    /// So many UNSUBACKs are, of filters that are not wanted any more. Whoever has such has no barriers.
    unsubscribing: usize,
    ended: Option<Ended>,
    /// Why, as the relay knows it.
    cause: Option<Ended>,
    /// What the broker said that rumqttc did not hear.
    said: Option<Ended>,
    /// An answer overheard before the poller came to note that its message had left.
    early: Option<(u16, Answer)>,
    /// Refusals overheard that rumqttc has not told of.
    refusals: Vec<(u16, Answer)>,
}

/// Shared by poller, feeder and relay.
#[derive(Debug)]
pub(super) struct Line {
    state: Mutex<State>,
    changed: Notify,
}

impl Line {
    /// Where something is subscribed to, nothing is accepted before its SUBACK. Never more than `in_flight_max` are in flight.
    pub(super) fn new(filters: Vec<String>, in_flight_max: u16) -> Self {
        let state = State { subscribing: !filters.is_empty(), filters, in_flight_max, ..State::default() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// The poller; returns when the connection is gone. Everything rumqttc held goes with it.
    pub(super) async fn poll(&self, mut events: Events, intake: Option<Intake>) {
        let _gone = Gone(self);
        let begun = Instant::now();
        loop {
            let mut happened = events.next().await;
            if let Ok(Happened::Asked(arrival)) = happened {
                let taken = match &intake {
                    Some(intake) => intake.take(*arrival).await,
                    None => Taken::Done,
                };
                if taken == Taken::Done {
                    continue;
                }
                let why = "more comes down than is kept here in time; the broker sends it again";
                happened = Err(Ended::Lost(why.into()));
            }
            let mut state = self.lock();
            match happened {
                Ok(Happened::Nothing) => continue,
                Ok(happened) => {
                    if let Err(confused) = state.note(happened, begun) {
                        state.ended = Some(Ended::Lost(confused.to_string()));
                    }
                }
                // what was overheard is more exact
                Err(error) => _ = state.ended.get_or_insert(error),
            }
            let over = state.ended.is_some();
            drop(state);
            self.changed.notify_one();
            if over {
                return;
            }
        }
    }

    /// The relay knows better than rumqttc why the connection broke.
    pub(super) fn broke(&self, cause: Ended) {
        self.lock().cause = Some(cause);
        self.changed.notify_one();
    }

    /// The broker said something that rumqttc does not hear. A CONNACK of the old kind ends the session at once: rumqttc
    /// would wait for the rest of it.
    pub(super) fn overheard(&self, heard: Heard) {
        let mut state = self.lock();
        match heard {
            Heard::OldConnack if state.agreed.is_none() => {
                state.ended = Some(Ended::OtherVersion("the broker answers MQTT 5 with MQTT 3.1.1".into()));
            }
            Heard::OldConnack => {}
            Heard::Refusal(id, code) if state.refusals.len() < usize::from(PACKET_IDS) => {
                state.refusals.push((id, answer::of_overheard(code)));
            }
            Heard::Refusal(..) => {}
            Heard::Disconnect(code) => state.said = Some(ended::of_disconnect(code, None)),
            Heard::Answer(id, code) => {
                let answer = answer::of_overheard(code);
                // Rumqttc ends the session either way. The relay may be ahead of the poller: a message that is not known
                // under this id yet will be in a moment, for rumqttc tells of it before it reads the answer.
                match state.window.answered(id, answer, Instant::now().into_std()) {
                    Ok(what) => state.answered.push((what, answer)),
                    Err(Confused(_)) => _ = state.early.get_or_insert((id, answer)),
                }
                state.said = Some(Ended::Lost(format!("the broker answers a publish with reason 0x{code:02X}")));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// From CONNECT to CONNACK: the round trip, and what the broker takes to look us up.
    pub(super) fn round_trip(&self) -> Duration {
        self.lock().round_trip
    }

    /// Takes a packet id for another SUBSCRIBE, with these filters; false: there is none to spare now.
    pub(super) fn subscribes_again(&self, filters: Vec<String>) -> bool {
        let mut state = self.lock();
        let has_room = state.window.room(Lane::Live) > 0;
        if has_room {
            state.window.skip();
            state.filters = filters;
            state.subscribing_again = true;
        }
        has_room
    }

    /// So many filters are unsubscribed from, before anything is published.
    pub(super) fn unsubscribes(&self, filters: usize) {
        self.lock().unsubscribing = filters;
    }

    /// Has the broker answered for each of them?
    pub(super) fn has_unsubscribed(&self) -> bool {
        self.lock().unsubscribing == 0
    }

    /// Is a SUBACK still waited for?
    pub(super) fn is_subscribing(&self) -> bool {
        self.lock().subscribing
    }

    /// Has every SUBSCRIBE been answered?
    pub(super) fn has_subscribed(&self) -> bool {
        let state = self.lock();
        !state.subscribing && !state.subscribing_again
    }

    /// Has CONNACK come? Then a SUBSCRIBE may have, there.
    pub(super) fn is_agreed(&self) -> bool {
        self.lock().agreed.is_some()
    }

    /// Better known causes of the end, the broker's own words first.
    pub(super) fn cause(&self) -> Option<Ended> {
        let state = self.lock();
        state.said.clone().or_else(|| state.cause.clone())
    }

    /// The connection is gone: what the broker refused before it closed is an answer, also where rumqttc lost it.
    pub(super) fn last_words(&self) {
        let mut state = self.lock();
        for (id, answer) in std::mem::take(&mut state.refusals) {
            if let Ok(what) = state.window.answered(id, answer, Instant::now().into_std()) {
                state.answered.push((what, answer));
            }
        }
    }

    /// How the broker took our CONNECT; asked when the session is over. `None`: it was not waited for.
    pub(super) fn greeting(&self) -> Option<Greeting> {
        let state = self.lock();
        if state.agreed.is_some() {
            return Some(Greeting::Understood);
        }
        // "it does not accept our certificate" after the handshake: nothing was said about MQTT
        if matches!(state.cause, Some(Ended::Refused(_))) {
            return None;
        }
        Some(match state.ended.as_ref()? {
            Ended::OtherVersion(_) => Greeting::OtherVersion,
            Ended::Silence(_) => Greeting::Silence,
            Ended::Lost(_) => Greeting::Closed,
            _ => Greeting::Understood,
        })
    }

    /// Takes what happened since the last call.
    pub(super) fn news(&self) -> News {
        let mut state = self.lock();
        News {
            answered: std::mem::take(&mut state.answered),
            accepted: state.agreed.clone().filter(|_| !state.subscribing),
            in_flight: state.window.in_flight(),
            ended: state.ended.clone(),
        }
    }

    /// A message is about to be handed to rumqttc.
    pub(super) fn hand(&self, what: Sent, lane: Lane, bytes: usize) {
        self.lock().window.hand(what, lane, bytes, Instant::now().into_std());
    }

    /// How many more messages of this lane may be sent now.
    pub(super) fn room(&self, lane: Lane) -> usize {
        self.lock().window.room(lane)
    }

    /// Never more than so many bytes in flight.
    pub(super) fn bound(&self, bytes_max: usize) {
        self.lock().window.bound(bytes_max);
    }

    /// How large a message should be.
    pub(super) fn message_bytes(&self) -> usize {
        self.lock().window.message_bytes()
    }

    /// How many bytes the link should have in flight.
    pub(super) fn bytes_max(&self) -> usize {
        self.lock().window.bytes_max()
    }

    /// See [`Window::owed`].
    pub(super) fn owed(&self) -> u64 {
        self.lock().window.owed()
    }

    /// See [`Window::oldest`].
    pub(super) fn oldest(&self) -> Option<(Ack, Alone)> {
        self.lock().window.oldest()
    }

    /// See [`Window::replies`].
    pub(super) fn replies(&self) -> usize {
        self.lock().window.replies()
    }

    /// See [`Window::be_careful`].
    pub(super) fn be_careful(&self, careful: bool) {
        self.lock().window.be_careful(careful);
    }

    /// Messages in flight, and their bytes.
    pub(super) fn flying(&self) -> (usize, usize) {
        let state = self.lock();
        (state.window.in_flight(), state.window.bytes())
    }

    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().window.in_flight()
    }

    /// Waits for news; one waiter only. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.hold()
    }
}

impl State {
    fn note(&mut self, happened: Happened, begun: Instant) -> Result<(), Confused> {
        match happened {
            Happened::Accepted(agreed) => {
                self.round_trip = begun.elapsed();
                self.window.agree(agreed.receive_max.min(self.in_flight_max));
                self.agreed = Some(agreed);
            }
            Happened::Subscribed { refused } => {
                (self.subscribing, self.subscribing_again) = (false, false);
                let refused: Vec<&str> =
                    refused.iter().filter_map(|place| self.filters.get(*place)).map(String::as_str).collect();
                if !refused.is_empty() {
                    tracing::warn!(
                        refused = refused.join(" "),
                        "the broker refuses to send commands, states of a host, or what is to come down: no right to subscribe"
                    );
                }
            }
            Happened::Left(0) => self.window.left(self.barrier.left())?,
            Happened::Raised(_) if self.unsubscribing > 0 => {}
            Happened::Passed(_) if self.unsubscribing > 0 => self.unsubscribing -= 1,
            Happened::Raised(id) => self.barrier.raised(id),
            Happened::Passed(id) => {
                for proven in self.barrier.passed(id)? {
                    let what = self.window.answered(proven, Answer::Taken, Instant::now().into_std())?;
                    self.answered.push((what, Answer::Taken));
                }
            }
            Happened::Left(id) => {
                self.window.left(id)?;
                if let Some((_, answer)) = self.early.take_if(|(early, _)| *early == id) {
                    let what = self.window.answered(id, answer, Instant::now().into_std())?;
                    self.answered.push((what, answer));
                }
            }
            Happened::Acknowledged(id, answer) => {
                self.refusals.retain(|(told, _)| *told != id);
                let what = self.window.answered(id, answer, Instant::now().into_std())?;
                self.answered.push((what, answer));
            }
            Happened::Asked(_) | Happened::Nothing => {}
        }
        Ok(())
    }
}

/// However the poller ends, even by a panic inside rumqttc, the feeder hears of it.
struct Gone<'a>(&'a Line);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.lock().ended.get_or_insert_with(|| Ended::Lost("the MQTT client failed".into()));
        self.0.changed.notify_one();
    }
}
