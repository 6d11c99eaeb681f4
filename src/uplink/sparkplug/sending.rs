//! The feeder's part of an edge node: what it heard, births before data, each telegram numbered as it is handed over, and a barrier
//! behind them.

use std::time::Duration;

use tokio::time::Instant;

use super::birth::scan_rate as scan_rate_told;
use super::commands::Heard;
use super::host::Standing;
use super::{Said, Telegram};
use crate::store::Ack;
use crate::uplink::client::{Client, Extras, Gone, Retained};
use crate::uplink::ended::Ended;
use crate::uplink::feeder::{Progress, give_up};
use crate::uplink::line::Line;
use crate::uplink::pack::{MQTT_BYTES, Message};
use crate::uplink::session::{End, Session};
use crate::uplink::source::{Lane, Source};
use crate::uplink::window::Sent;

/// Births in flight: they need not wait for each other, but a thin link is not to be filled with them.
const BIRTH_BYTES: usize = 64 << 10;
const BIRTHS: usize = 256;
/// How long a server of several is watched for the primary host.
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
        let Some(node) = self.packer.node() else { return Ok(Data::May) };
        let Heard { states, rebirth, next_server, show, scan_rate } = node.ears.take();
        for state in states {
            if let Some(host) = node.host() {
                host.hear(state);
                tracing::debug!(uplink = self.plan.name, online = state.online, "state of the primary host");
            }
        }
        if rebirth {
            node.ask_for_births();
        }
        let set = scan_rate.map(|every_ms| node.scan(every_ms));
        if let Some(wait) = set {
            self.packer.gather_for(wait.unwrap_or(self.plan.batch_interval));
        }
        if next_server {
            return Err(self.leave_for_host(client, line, "a host asks for the next server"));
        }
        if let Some(wait) = self.host_allows(client, line, progress)? {
            return Ok(wait);
        }
        self.count_proven(now);
        let Some(node) = self.packer.node() else { return Ok(Data::May) };
        if node.is_born() && node.has_changed() {
            node.ask_for_births();
        }
        if !node.is_born() || node.rebirth_due(now).is_some_and(|due| due <= now) {
            let Some(dictionary) = self.source.dictionary() else { return Ok(Data::MustWait) };
            node.learn(&dictionary);
            node.begin_births(now);
            tracing::info!(uplink = self.plan.name, devices = node.catalogue.devices.len(), "births are sent");
        }
        node.look(now);
        while !self.packer.node().is_none_or(|node| node.due.is_empty()) {
            let (messages, bytes) = line.flying();
            if bytes >= BIRTH_BYTES || messages >= BIRTHS {
                return Ok(Data::MustWait);
            }
            let Some(telegram) = self.packer.node().and_then(|node| node.next_due(now)) else { break };
            self.tell(client, line, progress, (telegram, Sent::Reply, Lane::Live))?;
        }
        if let (Some(_), Some(node)) = (set, self.packer.node()) {
            let telegram = scan_rate_told(node);
            self.tell(client, line, progress, (telegram, Sent::Reply, Lane::Live))?;
        }
        for alias in show {
            let Some(telegram) = self.packer.node().and_then(|node| node.present(alias)) else { continue };
            self.tell(client, line, progress, (telegram, Sent::Reply, Lane::Live))?;
        }
        // somebody does not know what our aliases mean: until the births are sent, data say nothing to him
        let waits = self.packer.node().is_some_and(|node| node.rebirth_due(now).is_some_and(|due| due <= now));
        Ok(if waits { Data::MustWait } else { Data::May })
    }

    /// What the primary host has to say to births and data; `None`: go on.
    fn host_allows(&mut self, client: &Client, line: &Line, progress: &Progress) -> Result<Option<Data>, End> {
        let several = self.plan.servers.len() > 1;
        let Some(node) = self.packer.node() else { return Ok(None) };
        let born = node.is_born();
        let Some(host) = node.host() else { return Ok(None) };
        if born && host.is_broken() {
            return Err(match host.standing() {
                Standing::Online => Ended::Anew(self.say_death(client, line, "the primary host began anew")?).into(),
                _ => self.leave_for_host(client, line, "the primary host went offline"),
            });
        }
        match host.standing() {
            Standing::Online => {
                host.greet();
                Ok(None)
            }
            Standing::Unknown | Standing::Offline if several && progress.stands_for() >= HOST_WAIT => {
                Err(self.leave_for_host(client, line, "the primary host is not at this server"))
            }
            Standing::Unknown | Standing::Offline => Ok(Some(Data::MustWait)),
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
    fn leave_for_host(&mut self, client: &Client, line: &Line, why: &str) -> End {
        self.say_death(client, line, why).map_or_else(End::from, |why| Ended::Host(why).into())
    }

    /// NDEATH, and the reason for it.
    fn say_death(&mut self, client: &Client, line: &Line, why: &str) -> Result<String, Gone> {
        if let Some(node) = self.packer.node().filter(|node| node.is_born()) {
            let (topic, payload) = (node.death_topic(), node.death());
            line.hand(Sent::Reply, Lane::Live, topic.len() + payload.len());
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
            let sent = if place == last { Sent::Owed(ack) } else { Sent::Reply };
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
        if line.in_flight() == 0 {
            progress.moved_at = Instant::now();
        }
        line.hand(sent, lane, bytes);
        progress.lanes.sent(lane, bytes);
        self.ways.sent(bytes);
        progress.unproven = true;
        Ok(client.tell(topic, payload)?)
    }
}
