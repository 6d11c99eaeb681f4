//! From the lanes to the wire: the status when it is due, answers to commands, then records while the window has room; and
//! the goodbye.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::plan::{Notifications, Use};
use crate::flow::stop::Stop;
use crate::model::number::Class;

use super::client::{Client, Extras, Retained};
use super::feeder::{Progress, give_up, reply_waits};
use super::line::Line;
use super::outage::HELD_FROM;
use super::pack::Message;
use super::routing::Need;
use super::routing::costs;
use super::session::{End, Session};
use super::source::{Lane, Source};
use super::sparkplug::Data;
use super::status::{self, Newest};
use super::window::Sent;

/// What MQTT 5 adds to a publish: the length of the properties and an alias.
const ALIAS_BYTES: usize = 1 + 3;
/// Fixed header, packet id and properties of what is no record, from above.
const ENVELOPE_BYTES: usize = 128;
/// Messages sent before answers are looked at again; the first of them to leave wakes the feeder for more.
const IN_ONE_GO: usize = 64;
/// How long the offline status, and then the close of the connection, are waited for.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// The same for a close that must be quick.
const HURRIED_MAX: Duration = Duration::from_millis(200);

impl<S: Source> Session<'_, S> {
    /// The status when it is due, or births; then records while the window has room.
    pub(super) fn send(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        if self.packer.node().is_some() {
            progress.births = self.send_node(client, line, progress)? == Data::MustWait;
            if !progress.births {
                self.send_records(client, line, progress)?;
            }
            return Ok(progress.raise(client)?);
        }
        self.send_status_when_due(client, line, progress)?;
        self.send_replies(client, line, progress)?;
        self.send_summary(client, line, progress)?;
        self.send_records(client, line, progress)?;
        self.read_when_due(client, line, progress)
    }

    fn send_status_when_due(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        if Instant::now() >= progress.status.next && progress.status.in_flight == 0 {
            // A bridge says that it is there, once.
            let newest = if matches!(self.packer.usage(), Use::Bridge(_)) { Newest::new() } else { self.newest() };
            progress.status.next = Instant::now() + self.timing.status_every;
            if progress.status.told.as_ref() != Some(&newest) {
                let payload = match self.packer.usage() {
                    Use::Bridge(_) => status::BRIDGE_UP.to_vec(),
                    Use::Records | Use::Letters => status::online(self.clock.wall_now(), &newest),
                };
                self.send_status(client, line, progress, &payload)?;
                progress.status.told = Some(newest);
            }
        }
        Ok(())
    }

    fn send_records(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        line.be_careful(self.refusals.careful());
        progress.not_before = None;
        let mut more = IN_ONE_GO;
        while more > 0 {
            // What the first answer brings is looked at before a second record goes: the summary of an outage may be due.
            if progress.paused || progress.tries {
                break;
            }
            let now = Instant::now();
            self.fetch(progress, now);
            let Some(mut message) = self.choose(line, progress, now) else { break };
            if self.has_expired(client, progress.agreed.retains, &mut message) {
                line.be_careful(self.refusals.careful()); // it may have been what the care was for
                continue; // nobody answers it, and so nobody would wake us for the next
            }
            if message.retained == Retained::Yes {
                progress.reading.fence.went(&message.topic, &message.payload);
            }
            self.send_record(client, line, progress, message)?;
            more -= 1;
        }
        Ok(())
    }

    /// A client's message goes with what is left of its time, or not at all. Where its number goes with it, it has a second:
    /// see `pack::letter`. Where the other broker `retains` what it was to replace, an empty one goes in its place: that is
    /// not true any more, as if it had been there and expired (MQTT 5, section 3.3.1.3). But not on topics that go both ways:
    /// somebody there may have left a newer one since.
    fn has_expired(&mut self, client: &Client, retains: bool, message: &mut Message) -> bool {
        let Some(term) = message.term else { return false };
        let left = term.left(self.clock);
        let tells_number = self.packer.usage() == Use::Letters && client.has_properties();
        if left == 0 && !tells_number {
            tracing::debug!(uplink = self.plan.name, topic = message.topic, "a client's message has expired unsent");
            self.stats.expired.one();
            let is_both_ways = || self.down.is_some_and(|down| down.has_both_ways(&message.topic));
            if message.retained == Retained::Yes && retains && !is_both_ways() {
                (message.payload, message.extras) = (Vec::new(), Extras::default());
                return false;
            }
            self.source.acknowledge(message.ack);
            self.refusals.settled(message.ack);
            return true;
        }
        message.extras.expiry_s = Some(left.max(1));
        false
    }

    /// The next message that the window has room for and that may be sent.
    fn choose(&mut self, line: &Line, progress: &mut Progress, now: Instant) -> Option<Message> {
        let held = self.outage.holds_backlog();
        for lane in progress.lanes.order().into_iter().filter(|lane| line.room(*lane) > 0) {
            let may = |class: &Class| !(held && lane == Lane::Backlog && *class >= HELD_FROM);
            for class in Class::ALL.into_iter().filter(may) {
                let Some(message) = progress.lanes.pop(lane, class) else { continue };
                if progress.pressed && message.lane == Lane::Backlog {
                    progress.lanes.push_back(message);
                    continue;
                }
                match self.may_send(&message, line, now) {
                    Ok(()) => return Some(message),
                    Err(then) => {
                        progress.withheld |= !self.is_payable(&message, line);
                        progress.not_before = Some(progress.not_before.map_or(then, |before| before.min(then)));
                        progress.lanes.push_back(message);
                    }
                }
            }
        }
        None
    }

    fn send_record(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
        message: Message,
    ) -> Result<(), End> {
        let (ack, bytes) = (message.ack, message.bytes());
        if message.said.is_some() {
            self.forbidden.sent(ack);
            progress.withheld &= message.lane != Lane::Backlog;
            self.stats.published.one();
            return self.send_telegrams(client, line, progress, message);
        }
        if let Err(error) = message.check() {
            tracing::error!(uplink = self.plan.name, error = %error, "record given up: its topic is none");
            self.stats.unsendable.one();
            give_up(self.source, self.plan, self.stats, ack, None);
            return Ok(());
        }
        if bytes + ALIAS_BYTES > progress.agreed.packet_bytes_max {
            tracing::debug!(uplink = self.plan.name, bytes, "message is larger than the broker takes");
            let ruling = self.refusals.refused(ack);
            self.not_taken(ack, ruling, progress);
            return Ok(());
        }
        self.hand_over(line, progress, (Sent::Owed(ack), message.lane, bytes));
        progress.tries = !progress.proved;
        self.forbidden.sent(ack);
        progress.lanes.sent(message.lane, bytes);
        // What was withheld goes again, so nothing has to get past it.
        progress.withheld &= message.lane != Lane::Backlog;
        let retained = if progress.agreed.retains { message.retained } else { Retained::No };
        client.publish(message.topic, message.payload, retained, message.extras)?;
        self.stats.published.one();
        Ok(())
    }

    /// All that goes to the client goes through here first: it is in flight, it is paid for, and an answer is waited for.
    pub(super) fn hand_over(&mut self, line: &Line, progress: &mut Progress, (what, lane, bytes): (Sent, Lane, usize)) {
        if line.in_flight() == 0 {
            progress.moved_at = Instant::now();
        }
        line.hand(what, lane, bytes);
        self.routing.sent(bytes);
    }

    /// Answers to commands go before records: a person waits for them.
    fn send_replies(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        while line.room(Lane::Live) > 0
            && let Some(reply) = self.downlink.as_mut().and_then(|downlink| downlink.next())
        {
            let bytes = reply.topic.len() + reply.payload.len();
            if bytes + ENVELOPE_BYTES > progress.agreed.packet_bytes_max {
                self.stats.replies_lost.one();
                continue;
            }
            self.hand_over(line, progress, (Sent::Reply, Lane::Live, bytes));
            client.publish(reply.topic, reply.payload, Retained::No, reply.extras)?;
        }
        Ok(())
    }

    /// The summary of an outage goes before the samples it is about. It is paid for like them, or there is none.
    fn send_summary(&mut self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        while line.room(Lane::Backlog) > 0
            && self.routing.is_open_for(Need::Backlog)
            && let Some(part) = self.outage.next()
        {
            let (topic, payload) = self.packer.summary(part);
            if topic.len() + payload.len() + ENVELOPE_BYTES > progress.agreed.packet_bytes_max {
                tracing::debug!(uplink = self.plan.name, "a part of the summary is larger than the broker takes");
                continue;
            }
            let (messages, open) = line.flying();
            let bytes = topic.len() + payload.len();
            if !self.routing.can_pay(Need::Backlog, bytes, costs::in_flight(messages, open)) {
                tracing::info!(uplink = self.plan.name, "no budget for the summary of the outage");
                self.outage.drop_rest();
                return Ok(());
            }
            self.hand_over(line, progress, (Sent::Aside, Lane::Backlog, bytes));
            client.publish(topic, payload, Retained::No, Extras::default())?;
        }
        Ok(())
    }

    /// Of the streams that this uplink is owed; others will never come, and nobody upstream should wait for them.
    fn newest(&self) -> Newest {
        let mut newest = self.source.newest();
        newest.retain(|(class, ..)| self.plan.classes.contains(class));
        newest
    }

    fn send_status(
        &mut self,
        client: &Client,
        line: &Line,
        progress: &mut Progress,
        payload: &[u8],
    ) -> Result<(), End> {
        if self.packer.usage() == Use::Bridge(Notifications::None) {
            return Ok(());
        }
        let (topic, payload, retained, extras) = match self.packer.node() {
            // the last word of an edge node; births are not sent here
            Some(node) => (node.death_topic(), node.death(), Retained::No, Extras::default()),
            None => {
                let kept = progress.agreed.retains && self.device.is_none();
                let bridge = matches!(self.packer.usage(), Use::Bridge(_));
                let extras = if bridge { Extras::default() } else { Extras::json() };
                let retained = if kept { Retained::Yes } else { Retained::No };
                (self.packer.status_topic().to_owned(), payload.to_vec(), retained, extras)
            }
        };
        if topic.len() + payload.len() + ENVELOPE_BYTES > progress.agreed.packet_bytes_max {
            return Ok(()); // the records matter more, and rumqttc would end the session
        }
        progress.status.in_flight += 1;
        self.hand_over(line, progress, (Sent::Status, Lane::Live, topic.len() + payload.len()));
        Ok(client.publish(topic, payload, retained, extras)?)
    }

    /// Offline status, DISCONNECT, and the broker's close; each waited for a little.
    pub(super) async fn farewell(&mut self, client: &Client, line: &Line, progress: &mut Progress, stop: &Stop) -> End {
        let payload = match self.packer.usage() {
            Use::Bridge(_) => status::BRIDGE_DOWN.to_vec(),
            Use::Records | Use::Letters => status::offline(self.clock.wall_now(), &self.newest()),
        };
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
            if !leaving && self.send_replies(client, line, progress).is_err() {
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
                () = reply_waits(&mut self.downlink), if !leaving && line.room(Lane::Live) > 0 => {}
                () = stop.hurried(), if !leaving => {}
                () = sleep_until(limit) => {}
            }
        }
    }
}
