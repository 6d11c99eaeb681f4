//! One sensor's side of its session, pure: messages of MQTT-SN and packets of MQTT and the time go in, both come out. No
//! socket, no clock.
//!
//! `greeting` CONNECT, the questions after the will, sleep and the end of it · `asking` what the sensor wants: register,
//! publish, subscribe · `anew` where it has forgotten what it wanted · `delivering` what it gets, one message at a time, sent
//! again until it is acknowledged.
//!
//! Acknowledgements are not ours to give: a PUBACK goes to the sensor when the broker has given one, and to the broker when
//! the sensor has. Message ids are the packet identifiers of the session, both ways; only REGISTER has its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::anew::Exchange;
use super::asking::Repeatable;
use super::delivering::{Flight, Waiting};
use super::greeting::Question;
use super::inner::Heard;
use super::names::Names;
use super::rules::Rules;
use crate::broker::sn::{self, Code, Message};
use crate::broker::wire::{self, AckKind, Will};
use crate::config::plan::MqttSnPlan;

/// Messages that have left the broker and not yet gone to the sensor; the others wait in the session's own queue.
pub(super) const WAITING_MAX: usize = 32;
pub(super) const WAITING_BYTES_MAX: usize = 32 * 1024;

/// A sensor without keep alive counts as lost after this long without a word: its place would never be free otherwise.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is asked for its will.
    Greeting,
    /// The broker has not answered yet.
    Entering,
    Active,
    /// For so many seconds; what comes for it waits.
    Asleep(u16),
    /// It gets what has waited, then sleeps again.
    Awake(u16),
}

/// What has to be done besides sending what there is to send.
#[derive(Debug)]
pub(super) enum Flow {
    On,
    /// Into the broker with it.
    Enter(Box<wire::Connect>),
    /// It is in: what its session remembers of it counts.
    Entered,
    /// It wants another will, or none: [`Translator::will_changed`] hears what became of that.
    ChangeWill(Option<Will>, Changes),
    /// It begins anew.
    Renew(sn::Connect),
    End(End),
}

/// How a sensor has changed its will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changes {
    AtConnect,
    Topic,
    Message,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It said so.
    Goodbye,
    /// It does not answer any more: `retries` or the keep alive.
    Lost(&'static str),
    /// The broker has ended it, or did not let it in.
    Told,
    /// The door's rules are others now. It hears that when the broker has let go of it.
    NotAllowed,
}

/// What a sensor has asked the broker for and got no answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Publish,
    Release,
    Subscribe,
    Unsubscribe,
}

/// Is there nothing left for one that is awake?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Unknown,
    /// The broker is asked; it answers when it has nothing more.
    Asked,
    /// It was asked before the sensor woke: its answer says nothing about now.
    AskedBefore,
    /// There was nothing left when the broker wrote its answer.
    Known,
}

/// The state.
#[derive(Debug)]
pub(super) struct Translator {
    pub(super) rules: Rules,
    pub(super) said: sn::Connect,
    pub(super) stage: Stage,
    /// Nothing has come since CONNACK: the same CONNECT once more means that it was not heard.
    pub(super) fresh: bool,
    pub(super) heard: Instant,
    pub(super) will: Option<Will>,
    pub(super) question: Option<Question>,
    pub(super) names: Names,
    /// Topics that it has subscribed to by their predefined ids.
    pub(super) predefined: BTreeSet<u16>,
    /// Its session was to end with the connection and is to last, as it says now; taken by whoever asks the broker.
    pub(super) to_last: bool,
    /// Something of what the session remembers is another since that was last asked.
    pub(super) learnt: bool,
    /// With the topic id that the answer has; `None`: the sensor was started anew since, and the answer is for nobody.
    pub(super) asked: HashMap<(Asked, u16), Option<u16>>,
    pub(super) exchanges: HashMap<u16, Exchange>,
    /// A publish whose id is not free yet; whatever else comes meanwhile under such an id comes again.
    pub(super) held: Option<sn::Publish>,
    /// The last SUBSCRIBE, which comes again if its SUBACK gets lost.
    pub(super) repeatable: Option<Repeatable>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) waiting_bytes: usize,
    pub(super) flight: Option<Flight>,
    pub(super) registers: u16,
    pub(super) rest: Rest,
    /// For the sensor.
    pub(super) out: Vec<Message>,
    /// For the broker.
    pub(super) packets: BytesMut,
    /// Sent again so far; taken by whoever counts.
    pub(super) repeats: u64,
    /// Messages that the sensor did not take; as above.
    pub(super) refused: u64,
    /// Messages for it whose time was over before it heard again; as above.
    pub(super) expired: u64,
    /// Publishes of the sensor that may not be, as it was told; as above.
    pub(super) turned_down: u64,
}

impl Translator {
    /// Of a client whose CONNECT has come.
    pub(super) fn new(rules: Rules, said: sn::Connect, now: Instant) -> (Self, Flow) {
        let mut new = Self {
            rules,
            said,
            stage: Stage::Greeting,
            fresh: false,
            heard: now,
            will: None,
            question: None,
            names: Names::default(),
            predefined: BTreeSet::new(),
            to_last: false,
            learnt: false,
            repeatable: None,
            asked: HashMap::new(),
            exchanges: HashMap::new(),
            held: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            flight: None,
            registers: 0,
            rest: Rest::Unknown,
            out: Vec::new(),
            packets: BytesMut::new(),
            repeats: 0,
            refused: 0,
            expired: 0,
            turned_down: 0,
        };
        let flow = new.greet(now);
        (new, flow)
    }

    /// A message came from the sensor.
    pub(super) fn message(&mut self, message: Message, now: Instant) -> Flow {
        self.heard = now;
        if let Message::Connect(said) = message {
            return self.connect_again(said, now);
        }
        if self.fresh
            && self.question.is_none()
            && matches!(message, Message::WillMessage(_) | Message::WillTopic(None))
        {
            self.out.push(Message::Connack(Code::Accepted)); // the first one was not heard
            return Flow::On;
        }
        self.fresh = false;
        let flow = match message {
            Message::Disconnect(duration) => self.disconnect(duration),
            Message::WillTopic(topic) => self.will_topic(topic, now),
            Message::WillMessage(payload) => self.will_message(payload),
            _ if matches!(self.stage, Stage::Greeting | Stage::Entering) => Flow::On,
            Message::WillTopicUpdate(topic) => self.change_will_topic(topic),
            Message::WillMessageUpdate(payload) => self.change_will_message(payload),
            other => {
                self.at_work(other, now);
                Flow::On
            }
        };
        self.pump(now);
        self.look_for_rest();
        flow
    }

    fn at_work(&mut self, message: Message, now: Instant) {
        match message {
            Message::Register { message_id, name, .. } => self.register(message_id, &name),
            Message::Publish(publish) => self.publish(&publish),
            Message::Pubrel(id) => self.let_go(id),
            Message::Subscribe { quality, message_id, filter, .. } => self.subscribe(quality, message_id, &filter),
            Message::Unsubscribe { message_id, filter } => self.unsubscribe(message_id, &filter),
            Message::Ping(client_id) => self.ping(client_id.as_deref(), now),
            Message::Regack { message_id, code, .. } => self.regack(message_id, code, now),
            Message::Puback { topic_id, message_id, code } => self.puback(topic_id, message_id, code, now),
            Message::Pubrec(id) => self.pubrec(id),
            Message::Pubcomp(id) => self.pubcomp(id),
            _ => {} // what only gateways say
        }
    }

    /// Another plan counts from now on. What a predefined id stood for and does no more is forgotten: what comes for the sensor
    /// goes by names that it is told, until it subscribes by that id again.
    pub(super) fn follow(&mut self, plan: &Arc<MqttSnPlan>, now: Instant) {
        let old = std::mem::replace(&mut self.rules.plan, Arc::clone(plan));
        let is_other = |id: u16| old.topic(id) != plan.topic(id);
        let before = self.predefined.len();
        self.predefined.retain(|id| !is_other(*id));
        self.learnt |= self.predefined.len() < before;
        self.forget_subscribe(is_other);
        self.name_flight_anew(is_other);
        self.pump(now);
        self.look_for_rest();
    }

    /// A packet came from the broker.
    pub(super) fn packet(&mut self, heard: Heard, now: Instant) -> Flow {
        let flow = match heard {
            Heard::Connack { reason } => self.connack(reason),
            Heard::Disconnect => {
                self.out.push(Message::Disconnect(None));
                Flow::End(End::Told)
            }
            other => {
                self.answer(other, now);
                Flow::On
            }
        };
        self.pump(now);
        self.look_for_rest();
        flow
    }

    fn answer(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Publish(delivery) => self.deliver(delivery),
            Heard::Ack(ack) if ack.kind == AckKind::Pubrel => self.release(ack.packet_id, now),
            Heard::Ack(ack) => self.settled(ack),
            Heard::Suback { packet_id, reason } => self.suback(packet_id, reason, now),
            Heard::Unsuback { packet_id } => self.unsuback(packet_id),
            Heard::Pong => self.pong(),
            Heard::Connack { .. } | Heard::Disconnect => {}
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Flow {
        if now >= self.silent_at() {
            self.out.push(Message::Disconnect(None));
            return Flow::End(End::Lost("silent for one and a half keep alives"));
        }
        if self.question.as_ref().is_some_and(|question| now >= question.due) {
            return self.ask_again(now);
        }
        self.send_again(now)
    }

    /// When [`Translator::tick`] is wanted.
    pub(super) fn due(&self) -> Instant {
        let question = self.question.as_ref().map(|question| question.due);
        let flight = self.flight.as_ref().and_then(Flight::due).filter(|_| self.is_listening());
        [question, flight].into_iter().flatten().fold(self.silent_at(), Instant::min)
    }

    /// Is there room for what the broker may send? Its answer to a PUBREC is always wanted: nothing would go on without it.
    pub(super) fn takes_more(&self) -> bool {
        let room = self.waiting.len() < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX;
        room || self.flight.as_ref().is_some_and(|flight| flight.due().is_none())
    }

    /// Does the sensor hear what is sent to it?
    pub(super) fn is_listening(&self) -> bool {
        matches!(self.stage, Stage::Active | Stage::Awake(_))
    }

    fn silent_at(&self) -> Instant {
        let seconds = match self.stage {
            Stage::Asleep(duration) | Stage::Awake(duration) => duration,
            _ => self.said.duration,
        };
        let silence = Duration::from_secs(seconds.into()) * 3 / 2;
        self.heard + if silence.is_zero() { SILENCE_MAX } else { silence }
    }
}

/// A reason of MQTT 5 in the words of MQTT-SN.
pub(super) const fn code(reason: u8) -> Code {
    match reason {
        0..0x80 => Code::Accepted,
        // a failure that passes, such as of the disk; unavailable, busy, shutting down, receive maximum, message rate, quota
        0x80 | 0x88 | 0x89 | 0x8B | 0x93 | 0x96 | 0x97 => Code::Congestion,
        _ => Code::NotSupported,
    }
}
