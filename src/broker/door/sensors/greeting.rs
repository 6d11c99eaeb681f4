//! How a sensor comes, leaves its will, sleeps, wakes and goes (sections 6.2 to 6.4, 6.11 and 6.14).
//!
//! A CONNECT that does not ask for a clean start goes on with what is there: the same connection if there is one, with its
//! subscriptions and topic ids, however the sensor got there (asleep, or its CONNACK was lost), also if it began clean: the
//! session comes to last then, since a sensor is not told whether there was one. Without a connection the broker's session is
//! gone on with. A will that was left before stays either way unless CONNECT brings another.

use bytes::Bytes;
use tokio::time::Instant;

use super::inner;
use super::translator::{Changes, End, Flow, Rest, Stage, Translator, code};
use crate::broker::clients::{Remembered, Taken};
use crate::broker::message::Qos;
use crate::broker::sn::{self, Asks, Code, Kept, Message, Quality, Start, WillTopic};
use crate::broker::wire::Will;
use crate::model::topic::check_topic;

/// How much longer a packet of MQTT is than its message here, at least: what fits there fits here.
const HEAD_BYTES: u16 = 4;

/// What the sensor is asked for.
#[derive(Debug)]
pub(super) struct Question {
    /// `None`: for the topic of its will; else for the content.
    topic: Option<WillTopic>,
    pub(super) due: Instant,
    tries: u16,
}

impl Question {
    fn message(&self) -> Message {
        if self.topic.is_none() { Message::WillTopicRequest } else { Message::WillMessageRequest }
    }
}

impl Translator {
    /// CONNECT has come.
    pub(super) fn greet(&mut self, now: Instant) -> Flow {
        if self.said.asks == Asks::ForWill {
            self.ask(None, now);
            return Flow::On;
        }
        self.greeted()
    }

    fn ask(&mut self, topic: Option<WillTopic>, now: Instant) {
        let question = Question { topic, due: now + self.rules.plan.retry, tries: 0 };
        self.out.push(question.message());
        self.question = Some(question);
    }

    /// No answer came. A connection that is there goes on as before: whoever has heard no CONNACK says CONNECT again.
    pub(super) fn ask_again(&mut self, now: Instant) -> Flow {
        let Some(question) = &mut self.question else { return Flow::On };
        if question.tries >= self.rules.plan.retries {
            if self.stage == Stage::Greeting {
                return Flow::End(End::Lost("did not tell its will"));
            }
            self.question = None;
            return Flow::On;
        }
        question.tries += 1;
        question.due = now + self.rules.plan.retry;
        self.repeats += 1;
        self.out.push(question.message());
        Flow::On
    }

    pub(super) fn will_topic(&mut self, topic: Option<WillTopic>, now: Instant) -> Flow {
        match (&self.question, topic) {
            (Some(Question { topic: None, .. }), None) => self.answered(None),
            (Some(Question { topic: None, .. }), Some(topic)) => {
                if will(&topic, Bytes::new()).is_none_or(|will| !self.may_leave(&will)) {
                    self.question = None;
                    return self.refuse(Code::NotSupported);
                }
                self.ask(Some(topic), now);
                Flow::On
            }
            (Some(question), Some(_)) => {
                self.out.push(question.message()); // it has not heard that it may go on
                Flow::On
            }
            _ => Flow::On,
        }
    }

    pub(super) fn will_message(&mut self, payload: Vec<u8>) -> Flow {
        let Some(Question { topic: Some(topic), .. }) = &self.question else { return Flow::On };
        let will = will(topic, payload.into());
        self.answered(will)
    }

    /// All is said; a connection that is there goes on with another will.
    fn answered(&mut self, will: Option<Will>) -> Flow {
        self.question = None;
        if self.stage == Stage::Greeting {
            self.will = will;
            return self.greeted();
        }
        if will.as_ref().is_some_and(|will| !self.may_leave(will)) {
            return self.refuse(Code::NotSupported); // as the broker would have at its first CONNECT
        }
        Flow::ChangeWill(will, Changes::AtConnect)
    }

    fn greeted(&mut self) -> Flow {
        self.stage = Stage::Entering;
        let clean = self.said.start == Start::Clean;
        let most = u32::from(self.rules.plan.datagram_bytes - HEAD_BYTES);
        Flow::Enter(Box::new(inner::connect(&self.said.client_id, clean, most, self.will.clone())))
    }

    /// The broker has let it in, or not.
    pub(super) fn connack(&mut self, reason: u8) -> Flow {
        match code(reason) {
            Code::Accepted => {
                self.taken_in();
                Flow::Entered
            }
            refused => self.refuse(refused),
        }
    }

    fn taken_in(&mut self) {
        (self.stage, self.fresh) = (Stage::Active, true);
        self.out.push(Message::Connack(Code::Accepted));
        self.look_again();
    }

    fn refuse(&mut self, code: Code) -> Flow {
        self.out.push(Message::Connack(code));
        Flow::End(End::Told)
    }

    /// CONNECT from somebody who has a connection.
    pub(super) fn connect_again(&mut self, said: sn::Connect, now: Instant) -> Flow {
        if let (Some(question), true) = (&self.question, said == self.said) {
            self.out.push(question.message());
            return Flow::On;
        }
        if said == self.said && self.stage == Stage::Entering {
            return Flow::On;
        }
        if said == self.said && self.fresh {
            self.out.push(Message::Connack(Code::Accepted));
            return Flow::On;
        }
        if said.start == Start::Clean || matches!(self.stage, Stage::Greeting | Stage::Entering) {
            return Flow::Renew(said);
        }
        self.names.doubt(); // it may have been started anew, also while it was thought to sleep
        self.begin_anew();
        self.to_last |= self.said.start == Start::Clean;
        (self.said, self.repeatable, self.question, self.fresh) = (said, None, None, false);
        if self.said.asks == Asks::ForWill {
            self.ask(None, now);
            return Flow::On;
        }
        self.taken_in();
        self.pump(now);
        Flow::On
    }

    /// There is no room for a session that lasts: as if it had asked for one at its first CONNECT.
    pub(super) fn refuse_to_last(&mut self) -> Flow {
        self.out = vec![Message::Connack(Code::Congestion)];
        Flow::End(End::Goodbye)
    }

    /// It goes, or sleeps.
    pub(super) fn disconnect(&mut self, duration: Option<u16>) -> Flow {
        self.out.push(Message::Disconnect(None));
        match duration {
            Some(duration @ 1..) if !matches!(self.stage, Stage::Greeting | Stage::Entering) => {
                self.stage = Stage::Asleep(duration);
                self.question = None;
                Flow::On
            }
            _ => Flow::End(End::Goodbye),
        }
    }

    /// With its id: it was asleep, and wants what has waited.
    pub(super) fn ping(&mut self, client_id: Option<&str>, now: Instant) {
        if client_id.is_some_and(|id| id != self.said.client_id) {
            return self.out.push(Message::Disconnect(None));
        }
        match (self.stage, client_id) {
            (Stage::Asleep(duration), Some(_)) => {
                self.stage = Stage::Awake(duration);
                self.doubt_rest();
                self.wake(now);
            }
            (Stage::Awake(_), Some(_)) => self.doubt_rest(), // PINGRESP is still to come
            _ => self.out.push(Message::Pong),
        }
    }

    /// The broker has nothing more for it, or had.
    pub(super) fn pong(&mut self) {
        let awake = matches!(self.stage, Stage::Awake(_));
        self.rest = if self.rest == Rest::Asked && awake { Rest::Known } else { Rest::Unknown };
    }

    /// It wakes: what was known of before counts no more.
    fn doubt_rest(&mut self) {
        self.rest = match self.rest {
            Rest::Asked | Rest::AskedBefore => Rest::AskedBefore,
            Rest::Unknown | Rest::Known => Rest::Unknown,
        };
    }

    /// One that is awake is told when it has got all that waited (section 6.14). The broker is asked: it answers a PINGREQ when
    /// nothing is left, in its queue or on its disk or on its way, and what went before the answer has come here before it.
    /// As long as more comes than the sensor takes it stays awake, as the specification has it; it may say when it sleeps.
    pub(super) fn look_for_rest(&mut self) {
        let Stage::Awake(duration) = self.stage else { return };
        if self.flight.is_some() || !self.waiting.is_empty() {
            return;
        }
        match self.rest {
            Rest::Asked | Rest::AskedBefore => {}
            Rest::Unknown => {
                self.rest = Rest::Asked;
                inner::ping(&mut self.packets);
            }
            Rest::Known => {
                self.stage = Stage::Asleep(duration);
                self.out.push(Message::Pong);
            }
        }
    }

    /// What its session remembers of it. A will that this door does not let it leave counts as none.
    pub(super) fn reminded(&mut self, remembered: Remembered) {
        self.predefined = remembered.predefined;
        self.names.remind(remembered.given);
        if self.said.asks == Asks::NoWill {
            self.will = remembered.will.filter(|will| self.may_leave(will));
        }
    }

    /// What its session is to remember of it.
    pub(super) fn to_remember(&self) -> Remembered {
        let given = self.names.given().clone();
        Remembered { will: self.will.clone(), predefined: self.predefined.clone(), given }
    }

    /// Is that something else since this was last asked?
    pub(super) fn take_learnt(&mut self) -> bool {
        self.names.take_learnt() | std::mem::take(&mut self.learnt)
    }

    pub(super) fn change_will_topic(&mut self, topic: Option<WillTopic>) -> Flow {
        let payload = self.will.as_ref().map(|will| will.payload.clone()).unwrap_or_default();
        let new = match topic {
            None => None,
            Some(topic) => match will(&topic, payload).filter(|will| self.may_leave(will)) {
                Some(will) => Some(will),
                None => {
                    self.out.push(Message::WillTopicResponse(Code::NotSupported));
                    return Flow::On;
                }
            },
        };
        Flow::ChangeWill(new, Changes::Topic)
    }

    pub(super) fn change_will_message(&mut self, payload: Vec<u8>) -> Flow {
        let new = self.will.as_ref().map(|will| Will { payload: payload.into(), ..will.clone() });
        match new.filter(|will| self.may_leave(will)) {
            Some(will) => Flow::ChangeWill(Some(will), Changes::Message),
            None => {
                self.out.push(Message::WillMessageResponse(Code::NotSupported));
                Flow::On
            }
        }
    }

    /// The broker has taken another will, or not, and then the one before stands; but at CONNECT, where whoever leaves one
    /// that the rules forbid has none, and is let in.
    pub(super) fn will_changed(&mut self, new: Option<Will>, how: Changes, taken: Taken) {
        let code = match taken {
            Taken::Yes => Code::Accepted,
            Taken::No => Code::NotSupported,
        };
        if taken == Taken::Yes {
            self.will = new;
            self.learnt = true;
        }
        match how {
            Changes::Topic => self.out.push(Message::WillTopicResponse(code)),
            Changes::Message => self.out.push(Message::WillMessageResponse(code)),
            Changes::AtConnect => {
                self.taken_in();
                self.pump(self.heard);
            }
        }
    }

    fn may_leave(&self, will: &Will) -> bool {
        self.rules.terms.judge_will(Some(will)).is_ok()
    }
}

/// As the broker has it; `None`: it cannot be left.
fn will(topic: &WillTopic, payload: Bytes) -> Option<Will> {
    check_topic(&topic.name).ok()?;
    Some(Will {
        topic: topic.name.clone(),
        payload,
        qos: qos(topic.quality)?,
        retain: (topic.kept == Kept::Yes).into(),
        delay: 0,
        expiry: None,
        forwarded: None,
    })
}

/// `None`: it is not one of a connection.
pub(super) const fn qos(quality: Quality) -> Option<Qos> {
    match quality {
        Quality::Zero => Some(Qos::AtMostOnce),
        Quality::One => Some(Qos::AtLeastOnce),
        Quality::Two => Some(Qos::ExactlyOnce),
        Quality::Unasked => None,
    }
}
