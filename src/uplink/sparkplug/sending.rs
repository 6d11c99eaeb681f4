//! The feeder's part of an edge node: what it heard, births before data, each telegram numbered as it is handed over, and a barrier
//! behind them.

use std::time::Duration;

use tokio::time::Instant;

use super::commands::Heard;
use super::host::Standing;
use super::{Said, Telegram};
use crate::store::Ack;
use crate::uplink::client::{Client, Extras, Gone, Retained};
use crate::uplink::ended::Ended;
use crate::uplink::feeder::{Progress, give_up};
use crate::uplink::line::Line;
use crate::uplink::pack::{MQTT_BYTES, Message};
use crate::uplink::routing;
use crate::uplink::routing::Born;
use crate::uplink::routing::costs;
use crate::uplink::session::{End, Session};
use crate::uplink::source::{Lane, Source};
use crate::uplink::window::Sent;

/// Births in flight: they need not wait for each other, but a thin link is not to be filled with them. Less where it carries less.
const BIRTH_BYTES: usize = 64 << 10;
const BIRTHS: usize = 256;
/// A barrier behind so many bytes, or more where the link carries them in a moment; a barrier costs some 40.
const BARRIER_BYTES: usize = 4 << 10;
/// How long a server of several is watched for the primary host, where it does not say that it is not there.
const HOST_WAIT: Duration = Duration::from_secs(30);

/// May data go?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::uplink) enum Data {
    May,
    MustWait,
}

impl<S: Source> Session<'_, S> {
    /// Everything that goes before data.
    pub(in crate::uplink) fn send_node(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
    ) -> Result<Data, End> {
        let now = Instant::now();
        if self.packer.node().is_none() {
            return Ok(Data::May);
        }
        progress.not_before = None;
        self.hear(client, line, progress, now)?;
        progress.pressed = self.packer.node().is_some_and(|node| node.ears.is_pressed());
        if let Some(wait) = self.host_allows(client, line, progress)? {
            return Ok(wait);
        }
        self.count_proven(now);
        if self.send_births(client, line, progress, now)? == Data::MustWait {
            return Ok(Data::MustWait);
        }
        self.send_answers(client, line, progress, now)?;
        Ok(Data::May)
    }

    /// Takes over what came in.
    fn hear(&mut self, client: &Client, line: &Line, progress: &mut Progress, now: Instant) -> Result<(), End> {
        let several = self.plan.servers.len() > 1;
        let Some(node) = self.packer.node() else { return Ok(()) };
        let Heard { states, on_state, rebirth, next_server, show, scan_rate } = node.ears.take();
        if let Some(host) = node.host().filter(|_| on_state) {
            host.overhear();
        }
        for state in states {
            if let Some(host) = node.host() {
                host.hear(state);
                tracing::debug!(uplink = self.plan.name, online = state.online, "state of the primary host");
            }
        }
        if rebirth {
            node.ask_for_births();
            if node.host().is_some_and(|host| host.began_anew(now)) {
                tracing::info!(uplink = self.plan.name, "the primary host began anew: what did not count goes again");
                progress.round_at = Some(now);
            }
        }
        node.show(show);
        if let Some(every_ms) = scan_rate {
            node.scan(every_ms);
        }
        if !next_server {
            return Ok(());
        }
        if several && self.packer.node().is_some_and(|node| node.may_move(now)) {
            return Err(self.leave_for_host(client, line, progress, "a host asks for the next server"));
        }
        self.stats.commands_refused.one();
        tracing::debug!(uplink = self.plan.name, several, "a host asks for the next server, too soon or where is none");
        Ok(())
    }

    /// Births and deaths, before anything else.
    fn send_births(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
        now: Instant,
    ) -> Result<Data, End> {
        let Some(node) = self.packer.node() else { return Ok(Data::May) };
        if node.is_born() && node.has_changed() {
            node.ask_for_births();
        }
        // never before those that are on their way are out: who asks again and again would never get to the last of them
        if node.due.is_empty() && (!node.is_born() || node.rebirth_due(now).is_some_and(|due| due <= now)) {
            let Some(dictionary) = self.source.dictionary() else { return Ok(Data::MustWait) };
            let (cost, born) = (node.births_cost(), if node.is_born() { Born::Yes } else { Born::No });
            let (messages, bytes) = line.flying();
            let paid = self.routing.pays_births(cost, costs::in_flight(messages, bytes), born);
            let Some(node) = self.packer.node() else { return Ok(Data::May) };
            if paid {
                node.learn(&dictionary);
                node.begin_births(now);
                tracing::info!(uplink = self.plan.name, devices = node.catalogue.devices.len(), "births are sent");
            } else if born == Born::No {
                return Ok(Data::MustWait);
            } else {
                node.put_births_off(now + routing::TICK);
            }
        }
        let Some(node) = self.packer.node() else { return Ok(Data::May) };
        node.look(now);
        let wait = node.gather();
        self.packer.gather_for(wait);
        while !self.packer.node().is_none_or(|node| node.due.is_empty()) {
            let (messages, bytes) = line.flying();
            if bytes >= BIRTH_BYTES.min(line.bytes_max()) || messages >= BIRTHS {
                return Ok(Data::MustWait);
            }
            if let Err(then) = self.rate.take(now) {
                progress.not_before = Some(then);
                return Ok(Data::MustWait);
            }
            let Some(telegram) = self.packer.node().and_then(|node| node.next_due(now)) else { break };
            self.tell(client, line, progress, (telegram, Sent::Aside, Lane::Live))?;
        }
        let Some(node) = self.packer.node() else { return Ok(Data::May) };
        node.births_out(Instant::now());
        // somebody does not know what our aliases mean: until the births are sent, data say nothing to him
        let waits = node.rebirth_due(now).is_some_and(|due| due <= now);
        Ok(if waits { Data::MustWait } else { Data::May })
    }

    /// What hosts wait for, as far as there is room.
    fn send_answers(&mut self, client: &Client, line: &Line, progress: &mut Progress, now: Instant) -> Result<(), End> {
        while line.room(Lane::Live) > 0 && self.packer.node().is_some_and(|node| node.has_answers()) {
            if let Err(then) = self.rate.take(now) {
                progress.not_before = Some(then);
                break;
            }
            let Some(telegram) = self.packer.node().and_then(|node| node.answer(now)) else { break };
            self.tell(client, line, progress, (telegram, Sent::Aside, Lane::Live))?;
        }
        Ok(())
    }

    /// What the primary host has to say to births and data; `None`: go on.
    fn host_allows(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<Option<Data>, End> {
        let servers = self.plan.servers.len();
        let Some(node) = self.packer.node() else { return Ok(None) };
        let born = node.is_born();
        let Some(host) = node.host() else { return Ok(None) };
        if born && host.is_broken() {
            return Err(match host.standing() {
                Standing::Online => {
                    Ended::Anew(self.say_death(client, line, progress, "the primary host went and is back")?).into()
                }
                _ => self.leave_for_host(client, line, progress, "the primary host went offline"),
            });
        }
        match host.standing() {
            Standing::Online => {
                if host.greet(Instant::now()) {
                    (progress.round_at, progress.paused) = (Some(Instant::now()), true);
                }
                self.trouble.host_is_there();
                Ok(None)
            }
            Standing::Unknown | Standing::Offline
                if host.walks_on(servers) || servers > 1 && progress.stands_for() >= HOST_WAIT =>
            {
                Err(self.leave_for_host(client, line, progress, "the primary host is not at this server"))
            }
            Standing::Unknown | Standing::Offline => {
                let now = Instant::now();
                host.keep_waiting(now);
                if let Some(detail) = node.misses_host(now) {
                    self.trouble.host_awaited(&detail);
                }
                Ok(Some(Data::MustWait))
            }
        }
    }

    /// What is proven counts at the source once the primary host was there for long enough after it.
    fn count_proven(&mut self, now: Instant) {
        while let Some(ack) = self.packer.node().and_then(|node| node.host()?.counts(now)) {
            self.source.acknowledge(ack);
        }
    }

    /// The broker has something that is owed: does that count now?
    pub(in crate::uplink) fn received(&mut self, ack: Ack) {
        match self.packer.node().and_then(|node| node.host()) {
            Some(host) => host.prove(ack, Instant::now()),
            None => self.source.acknowledge(ack),
        }
    }

    /// NDEATH; the caller disconnects, and asks the next server.
    fn leave_for_host(&mut self, client: &Client, line: &Line, progress: &mut Progress, why: &str) -> End {
        self.say_death(client, line, progress, why).map_or_else(End::from, |why| Ended::Host(why).into())
    }

    /// NDEATH, and the reason for it.
    fn say_death(&mut self, client: &Client, line: &Line, progress: &mut Progress, why: &str) -> Result<String, Gone> {
        if let Some(node) = self.packer.node().filter(|node| node.is_born()) {
            let (topic, payload) = (node.death_topic(), node.death());
            self.hand_over(line, progress, (Sent::Aside, Lane::Live, topic.len() + payload.len()));
            client.publish(topic, payload, Retained::No, Extras::default())?;
        }
        Ok(why.to_owned())
    }

    /// Records, as an edge node says them: each telegram behind the birth that it needs. The last one stands for the receipt of all.
    pub(in crate::uplink) fn send_telegrams(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
        message: Message,
    ) -> Result<(), End> {
        let Message { said, ack, lane, .. } = message;
        let Some(said) = said.filter(Said::has_topics) else {
            tracing::error!(uplink = self.plan.name, "record given up: its device can have no topic");
            self.stats.unsendable.one();
            give_up(self.source, self.plan, self.stats, ack, None);
            return Ok(());
        };
        let bytes_max = self.packer.bytes_max();
        let telegrams = self.packer.node().map(|node| node.say(said, bytes_max, Instant::now())).unwrap_or_default();
        let Some(last) = telegrams.len().checked_sub(1) else {
            self.received(ack); // all that it says was said by a death
            return Ok(());
        };
        for (place, telegram) in telegrams.into_iter().enumerate() {
            if place > 0 {
                self.rate.owe(Instant::now()); // may_send() took the first
            }
            let sent = if place == last { Sent::Owed(ack) } else { Sent::Aside };
            self.tell(client, line, progress, (telegram, sent, lane))?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
        (telegram, sent, lane): (Telegram, Sent, Lane),
    ) -> Result<(), End> {
        let Some(node) = self.packer.node() else { return Ok(()) };
        let (topic, payload) = node.seal(telegram);
        let bytes = topic.len() + payload.len() + MQTT_BYTES;
        self.hand_over(line, progress, (sent, lane, bytes));
        progress.lanes.sent(lane, bytes);
        progress.unproven += bytes;
        client.tell(topic, payload)?;
        // A thin link takes long for what is behind one barrier, and until its answer nothing shows that it does.
        if progress.unproven >= line.message_bytes().max(BARRIER_BYTES) {
            progress.raise(client)?;
        }
        Ok(())
    }
}
