//! One connected sensor: moves messages between its mailbox, its translator, its pipe and its address, until one of them
//! ends.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gateway::Source;
use super::pipe::Pipe;
use super::port::Port;
use super::rules::{Guest, Rules, guest};
use super::translator::{Changes, End, Flow, Stage, Translator};
use crate::broker::clients::Taken;
use crate::broker::door::Porch;
use crate::broker::door::limits::Pass;
use crate::broker::door::regime::Regime;
use crate::broker::door::shown::{Peer, Shown};
use crate::broker::session::Ending;
use crate::broker::sn::{self, Message, Start};
use crate::broker::wire::{Connect, Will};

/// Packets for the broker beyond this: it has to take some before more messages are heard.
const PACKET_BYTES_MAX: usize = 16 * 1024;

/// A sensor's address, and the port that it hears us from.
pub(super) struct Post {
    pub port: Arc<Port>,
    pub source: Source,
}

/// What the task of a sensor is given.
pub(super) struct Link {
    /// `None`: the door is closed, and its port given back.
    pub post: Option<Post>,
    pub porch: Arc<Porch>,
    pub tracker: TaskTracker,
    pub regime: watch::Receiver<Regime>,
    pub mailbox: mpsc::Receiver<Message>,
    /// Somebody else speaks from this address now.
    pub gone: CancellationToken,
    /// As what it came in.
    pub guest: Guest,
    pub pass: Arc<Pass>,
}

impl Link {
    /// Serves it to its end.
    pub(super) async fn run(mut self, said: sn::Connect) {
        let mut next = Some(said);
        while let Some(said) = next.take() {
            let at_once = self.live(said).await.filter(|said| self.may_stay(&said.client_id));
            next = at_once.or_else(|| self.said_since());
        }
    }

    /// The CONNECT that came while the connection was being ended, if one did.
    fn said_since(&mut self) -> Option<sn::Connect> {
        let is_over = self.gone.is_cancelled() || self.porch.closed.is_cancelled() || self.porch.end.is_cancelled();
        let mut connect = None;
        while let Ok(message) = self.mailbox.try_recv() {
            if let Message::Connect(said) = message {
                connect = Some(said);
            }
        }
        connect.filter(|said| !is_over && self.may_stay(&said.client_id))
    }

    /// One connection; the CONNECT of the next one, if there is one.
    async fn live(&mut self, said: sn::Connect) -> Option<sn::Connect> {
        let client = said.client_id.clone();
        let rules = Rules::new(Arc::clone(&self.regime.borrow().plan), &self.porch);
        let (mut translator, mut flow) = Translator::new(rules, said, Instant::now());
        let mut pipe: Option<Pipe> = None;
        let mut sleeps = false;
        let end = loop {
            if std::mem::take(&mut translator.to_last) && self.let_last(pipe.as_ref()) == Taken::No {
                flow = translator.refuse_to_last();
            }
            self.say(&mut translator).await;
            if sleeps != matches!(translator.stage, Stage::Asleep(_) | Stage::Awake(_)) {
                sleeps = !sleeps;
                let asleep = &self.porch.shared.stats.sensors.asleep;
                if sleeps { asleep.up() } else { asleep.down() }
            }
            if let Some((_, outbox)) = pipe.as_ref().and_then(Pipe::place) {
                if matches!(translator.stage, Stage::Asleep(_)) { outbox.hold() } else { outbox.go_on() }
            }
            match flow {
                Flow::On => {}
                Flow::Enter(connect) => pipe = Some(self.enter(*connect)),
                Flow::Entered => self.remind(pipe.as_ref(), &mut translator),
                Flow::ChangeWill(will, how) => self.change_will(pipe.as_ref(), &mut translator, will, how),
                Flow::Renew(said) => break Err(said),
                Flow::End(end) => {
                    if self.porch.closed.is_cancelled() {
                        self.post = None; // that was its last word: the port is given back
                    }
                    break Ok(end);
                }
            }
            if translator.take_learnt()
                && let Some((key, outbox)) = pipe.as_ref().and_then(Pipe::place)
            {
                self.porch.shared.remember(*key, outbox, translator.to_remember());
            }
            flow = self.next(&mut translator, &mut pipe).await;
        };
        if sleeps {
            self.porch.shared.stats.sensors.asleep.down();
        }
        let place = pipe.as_ref().and_then(Pipe::place);
        let missed = place.map_or(0, |(_, outbox)| outbox.missed());
        self.porch.shared.stats.sensors.refused.add(translator.unsent() + missed);
        let goodbye = matches!(end, Ok(End::Goodbye) | Err(_));
        if let Ok(End::Lost(why)) = end {
            self.porch.shared.stats.sensors.lost.one();
            if self.porch.shared.talk.allows() {
                tracing::info!(client, why, "sensor lost");
            }
        }
        match pipe {
            Some(pipe) if goodbye => pipe.leave(translator.packets).await,
            Some(pipe) => pipe.vanish().await,
            None => {}
        }
        if let (Ok(End::NotAllowed), Some(post)) = (&end, &self.post) {
            post.send(&Message::Disconnect(None)).await; // its place is free: it may come as what it is now
            self.porch.shared.stats.sensors.sent.one();
        }
        end.err()
    }

    /// Waits for the next thing to happen, unless there is something to say, which goes first.
    async fn next(&mut self, translator: &mut Translator, pipe: &mut Option<Pipe>) -> Flow {
        if !translator.out.is_empty() {
            return Flow::On;
        }
        while let Some(heard) = pipe.as_mut().filter(|_| translator.takes_more()).and_then(Pipe::next) {
            match translator.packet(heard, Instant::now()) {
                Flow::On if translator.out.is_empty() => {}
                flow => return flow,
            }
        }
        if self.porch.closed.is_cancelled() {
            return Self::close(translator);
        }
        let (takes, asleep) = (translator.takes_more(), matches!(translator.stage, Stage::Asleep(_)));
        let has_pipe = pipe.is_some();
        if asleep && pipe.as_ref().is_some_and(Pipe::is_over) {
            return Flow::End(End::Told); // it will hear of it when it wakes
        }
        let (listens, due) = (translator.packets.len() < PACKET_BYTES_MAX, translator.due());
        let packets = &mut translator.packets;
        let turned = async {
            match pipe.as_mut() {
                // What was written for it before it slept is not to wait where its time stands still.
                Some(pipe) if asleep && pipe.has_room() => pipe.turn(true, packets).await,
                // What it said before it slept does not wait for its wake.
                Some(pipe) if asleep && !takes && packets.is_empty() => {
                    pipe.over().await;
                    Ok(0)
                }
                Some(pipe) => pipe.turn(takes, packets).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(message) = self.mailbox.recv(), if listens => translator.message(message, Instant::now()),
            turned = turned => match turned {
                Ok(1..) => Flow::On,
                _ => {
                    translator.out.push(Message::Disconnect(None));
                    Flow::End(End::Told)
                }
            },
            () = tokio::time::sleep_until(due) => translator.tick(Instant::now()),
            () = self.porch.closed.cancelled() => Self::close(translator),
            Ok(()) = self.regime.changed() => self.follow(translator, pipe.as_ref()),
            () = self.porch.end.cancelled(), if !has_pipe => Flow::End(End::Told),
            () = self.gone.cancelled() => Flow::End(End::Lost("somebody else comes from its address")),
        }
    }

    /// There is no such door any more.
    fn close(translator: &mut Translator) -> Flow {
        translator.out.push(Message::Disconnect(None));
        Flow::End(End::Told)
    }

    /// The door goes by other rules.
    fn follow(&mut self, translator: &mut Translator, pipe: Option<&Pipe>) -> Flow {
        let plan = Arc::clone(&self.regime.borrow_and_update().plan);
        if !self.may_stay(&translator.said.client_id) {
            if let Some((_, outbox)) = pipe.and_then(Pipe::place) {
                outbox.end(Ending::NotAllowed);
            }
            return Flow::End(End::NotAllowed);
        }
        translator.follow(&plan, Instant::now());
        Flow::On
    }

    /// Would it be let in by the rules of now, as what it came in?
    fn may_stay(&self, client_id: &str) -> bool {
        let Some(post) = &self.post else { return true }; // the door is closed
        let from = post.source.address.ip();
        guest(&self.regime.borrow().plan, self.porch.plan.anonymous, (client_id, from)).as_ref() == Some(&self.guest)
    }

    fn enter(&self, connect: Connect) -> Pipe {
        let address = self.post.as_ref().map(|post| post.source.address);
        let sensor = match &self.guest {
            Guest::Sensor(user) => Some(Arc::clone(user)),
            Guest::Anonymous => None,
        };
        let shown = Shown { peer: address.map_or(Peer::Gone, Peer::Address), certificate: None, sensor };
        Pipe::enter(&self.porch, &self.tracker, (shown, connect), Arc::clone(&self.pass))
    }

    fn let_last(&self, pipe: Option<&Pipe>) -> Taken {
        pipe.and_then(Pipe::place).map_or(Taken::No, |(key, outbox)| self.porch.shared.let_last(*key, outbox))
    }

    fn change_will(&self, pipe: Option<&Pipe>, translator: &mut Translator, will: Option<Will>, how: Changes) {
        let Some((key, outbox)) = pipe.and_then(Pipe::place) else {
            return translator.will_changed(will, how, Taken::No);
        };
        let shared = &self.porch.shared;
        let mut taken = shared.change_will(*key, outbox, will.clone());
        let mut will = will;
        if (taken, how) == (Taken::No, Changes::AtConnect) {
            will = None;
            taken = shared.change_will(*key, outbox, None);
        }
        translator.will_changed(will, how, taken);
    }

    /// It is in: goes on with what its session remembers of it. Its will was of the connection, as far as the broker knows.
    fn remind(&self, pipe: Option<&Pipe>, translator: &mut Translator) {
        translator.learnt = true;
        let Some((key, outbox)) = pipe.and_then(Pipe::place) else { return };
        if translator.said.start == Start::Kept {
            let (had, shared) = (translator.will.is_some(), &self.porch.shared);
            translator.reminded(shared.recall(*key, outbox, &translator.rules.plan.topics));
            if !had
                && translator.will.is_some()
                && shared.change_will(*key, outbox, translator.will.clone()) == Taken::No
            {
                translator.will = None; // rules are others now
            }
        }
    }

    /// Sends what there is to send.
    async fn say(&mut self, translator: &mut Translator) {
        let stats = &self.porch.shared.stats;
        stats.publishes_refused.add(std::mem::take(&mut translator.turned_down));
        stats.dropped_expired.add(std::mem::take(&mut translator.expired));
        let stats = &stats.sensors;
        stats.repeated.add(std::mem::take(&mut translator.repeats));
        stats.refused.add(std::mem::take(&mut translator.refused));
        for message in translator.out.drain(..) {
            if let Some(post) = &self.post {
                post.send(&message).await;
                stats.sent.one();
            }
        }
    }
}

impl Post {
    /// Sends one message. A network that does not take it has lost it: whatever matters is sent again.
    pub(super) async fn send(&self, message: &Message) {
        let datagram = sn::write(message);
        let datagram = match &self.source.node {
            Some(node) => sn::enclose(node, &datagram),
            None => datagram,
        };
        if let Err(error) = self.port.send(&datagram, self.source.address, self.source.to).await {
            tracing::debug!(peer = %self.source.address, %error, "a datagram was not sent");
        }
    }
}
