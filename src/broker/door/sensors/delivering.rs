//! What a sensor gets: one message at a time, its topic registered first where it has to be (section 6.10), sent again
//! until it is acknowledged (6.13).
//!
//! The broker sends no second message above QoS 0 before it has heard of the first (Receive Maximum 1), and what it sends
//! at QoS 0 meanwhile is taken up to a bound and then left in its own queue. One that is awake and falls silent sleeps
//! again, and gets the same message when it wakes next, unless that has expired meanwhile.

use bytes::Bytes;
use tokio::time::Instant;

use super::inner::{self, Delivery};
use super::names::Known;
use super::translator::{End, Flow, Stage, Translator, WAITING_BYTES_MAX, WAITING_MAX};
use crate::broker::message::{Qos, Retain};
use crate::broker::sn::{Again, Code, Kept, Message, Publish, Quality, Topic};
use crate::broker::wire::AckKind;

/// "Quota exceeded" and "implementation specific error": the sensor could not take it (MQTT 5, 3.4.2.1).
const NO_ROOM: u8 = 0x97;
const NOT_TAKEN: u8 = 0x83;

/// How often a sensor may say that it does not know a topic it has just been told.
const TOLD_MAX: u8 = 3;

/// What has come for the sensor.
#[derive(Debug)]
pub(super) enum Waiting {
    Publish(Delivery),
    /// It has PUBREC of an earlier connection: PUBREL is next.
    Release(u16),
}

/// What the sensor is to answer.
#[derive(Debug)]
pub(super) struct Flight {
    step: Step,
    due: Instant,
    tries: u16,
    told: u8,
    /// How often the sensor has said that it has no room for it.
    postponed: u16,
}

#[derive(Debug)]
enum Step {
    /// The topic of a message, then the message.
    Register { topic_id: u16, message_id: u16, delivery: Delivery },
    /// PUBLISH: PUBACK, or PUBREC.
    Publish { message: Publish, name: String, expires: Option<Instant> },
    /// The broker has PUBREC and not answered yet.
    Received(u16),
    /// PUBREL: PUBCOMP.
    Release(u16),
}

impl Flight {
    /// When it is sent again.
    pub(super) fn due(&self) -> Option<Instant> {
        if matches!(self.step, Step::Received(_)) { None } else { Some(self.due) }
    }

    /// Is it of no use to send it again? At QoS 2 the sensor holds the identifier of what was sent to it.
    fn has_expired(&self, now: Instant) -> bool {
        match &self.step {
            Step::Register { delivery, .. } => delivery.is_expired(now),
            Step::Publish { message, expires, .. } => {
                message.quality != Quality::Two && expires.is_some_and(|expires| expires <= now)
            }
            Step::Received(_) | Step::Release(_) => false,
        }
    }
}

impl Translator {
    /// A message has come for the sensor.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        // While the broker's answer to a PUBREC is waited for, everything is taken: at QoS 0 there may be any number of them.
        let too_many = self.waiting.len() >= 2 * WAITING_MAX || self.waiting_bytes >= 2 * WAITING_BYTES_MAX;
        if too_many && delivery.qos == Qos::AtMostOnce {
            self.refused += 1;
            return;
        }
        self.waiting_bytes += delivery.topic.len() + delivery.payload.len();
        self.waiting.push_back(Waiting::Publish(delivery));
    }

    /// The connection ends: so many messages at QoS 0 have come and will never be sent. Above, a session that lasts owes them
    /// still.
    pub(super) fn unsent(&self) -> u64 {
        let passes = |delivery: &Delivery| delivery.qos == Qos::AtMostOnce;
        let waiting = self.waiting.iter().filter(|next| matches!(next, Waiting::Publish(delivery) if passes(delivery)));
        let register = self.flight.as_ref().map(|flight| &flight.step);
        let begun = matches!(register, Some(Step::Register { delivery, .. }) if passes(delivery));
        waiting.count() as u64 + u64::from(begun)
    }

    /// The broker says PUBREL.
    pub(super) fn release(&mut self, packet_id: u16, now: Instant) {
        match &self.flight {
            Some(Flight { step: Step::Received(id), .. }) if *id == packet_id => {
                self.flight = None;
                self.take_off(Step::Release(packet_id), now, 0);
            }
            _ => self.waiting.push_back(Waiting::Release(packet_id)),
        }
    }

    /// Sends what can be sent.
    pub(super) fn pump(&mut self, now: Instant) {
        while self.flight.is_none() && self.is_listening() {
            match self.waiting.pop_front() {
                None => return,
                Some(Waiting::Release(packet_id)) => self.take_off(Step::Release(packet_id), now, 0),
                Some(Waiting::Publish(delivery)) => {
                    self.waiting_bytes -= delivery.topic.len() + delivery.payload.len();
                    self.begin(delivery, now, 0);
                }
            }
        }
    }

    fn begin(&mut self, delivery: Delivery, now: Instant, told: u8) {
        if delivery.is_expired(now) {
            return self.expire(delivery.qos, delivery.packet_id);
        }
        if let Some(topic) = self.topic(&delivery.topic) {
            return self.send(delivery, topic, now, told);
        }
        match self.id(&delivery.topic) {
            None => self.give_up(delivery.qos, delivery.packet_id, NO_ROOM),
            Some((id, Known::Yes)) => self.send(delivery, Topic::Id(id), now, told),
            Some((topic_id, Known::NotYet)) => {
                self.registers = self.registers.checked_add(1).unwrap_or(1);
                let message_id = self.registers;
                self.take_off(Step::Register { topic_id, message_id, delivery }, now, told);
            }
        }
    }

    fn send(&mut self, delivery: Delivery, topic: Topic, now: Instant, told: u8) {
        let Delivery { again, qos, retain, packet_id, topic: name, payload, expires } = delivery;
        let message = Publish {
            again: if again { Again::Yes } else { Again::No },
            quality: match qos {
                Qos::AtMostOnce => Quality::Zero,
                Qos::AtLeastOnce => Quality::One,
                Qos::ExactlyOnce => Quality::Two,
            },
            kept: if retain == Retain::Yes { Kept::Yes } else { Kept::No },
            topic,
            message_id: packet_id,
            payload: payload.into(),
        };
        if qos == Qos::AtMostOnce {
            return self.out.push(Message::Publish(message));
        }
        self.take_off(Step::Publish { message, name, expires }, now, told);
    }

    fn take_off(&mut self, step: Step, now: Instant, told: u8) {
        self.flight = Some(Flight { step, due: now + self.rules.plan.retry, tries: 0, told, postponed: 0 });
        self.say_flight();
    }

    fn say_flight(&mut self) {
        let Some(flight) = &self.flight else { return };
        self.out.push(match &flight.step {
            Step::Register { topic_id, message_id, delivery } => {
                Message::Register { topic_id: *topic_id, message_id: *message_id, name: delivery.topic.clone() }
            }
            Step::Publish { message, .. } => Message::Publish(message.clone()),
            Step::Release(id) => Message::Pubrel(*id),
            Step::Received(_) => return,
        });
    }

    /// No answer came: once more, or never again.
    pub(super) fn send_again(&mut self, now: Instant) -> Flow {
        if self.has_dropped_flight(now) {
            self.pump(now);
            self.look_for_rest();
            return Flow::On;
        }
        let retry = self.rules.plan.retry;
        let Some(flight) = self.flight.as_mut().filter(|flight| flight.due().is_some_and(|due| now >= due)) else {
            return Flow::On;
        };
        if flight.tries >= self.rules.plan.retries || flight.postponed > self.rules.plan.retries {
            match self.stage {
                Stage::Awake(duration) => self.stage = Stage::Asleep(duration),
                Stage::Active => {
                    self.out.push(Message::Disconnect(None));
                    return Flow::End(End::Lost("does not acknowledge"));
                }
                _ => {}
            }
            return Flow::On;
        }
        flight.tries += 1;
        flight.due = now + retry;
        self.repeat();
        Flow::On
    }

    fn repeat(&mut self) {
        if let Some(Flight { step: Step::Publish { message, .. }, .. }) = &mut self.flight {
            message.again = Again::Yes;
        }
        self.repeats += 1;
        self.say_flight();
    }

    /// It hears again: what it may have missed comes at once, and has all its tries.
    pub(super) fn wake(&mut self, now: Instant) {
        let retry = self.rules.plan.retry;
        if !self.has_dropped_flight(now)
            && let Some(flight) = &mut self.flight
        {
            (flight.due, flight.tries, flight.postponed) = (now + retry, 0, 0);
            self.repeat();
        }
    }

    /// As [`Translator::wake`], when time will tell.
    pub(super) fn look_again(&mut self) {
        let heard = self.heard;
        if let Some(flight) = &mut self.flight {
            (flight.due, flight.tries) = (heard, 0);
        }
    }

    pub(super) fn regack(&mut self, id: u16, code: Code, now: Instant) {
        let asked = |flight: &mut Flight| matches!(flight.step, Step::Register { message_id, .. } if message_id == id);
        if code == Code::Congestion {
            return self.postpone(asked, now);
        }
        let Some(Flight { step: Step::Register { topic_id, delivery, .. }, told, .. }) = self.flight.take_if(asked)
        else {
            return;
        };
        if code == Code::Accepted {
            self.names.set_known(topic_id, Known::Yes);
            return self.begin(delivery, now, told);
        }
        self.give_up(delivery.qos, delivery.packet_id, NOT_TAKEN);
    }

    pub(super) fn puback(&mut self, topic_id: u16, id: u16, code: Code, now: Instant) {
        let own =
            |flight: &mut Flight| matches!(&flight.step, Step::Publish { message, .. } if message.message_id == id);
        if id == 0 && code != Code::Accepted {
            self.refused += 1; // at QoS 0: it is gone
        }
        if code == Code::Congestion {
            return self.postpone(own, now);
        }
        let flight = self.flight.take_if(own);
        if code == Code::InvalidTopicId {
            self.names.set_known(topic_id, Known::NotYet);
            if flight.is_none() {
                self.learnt |= self.predefined.remove(&topic_id); // of which kind it was is not said
            }
        }
        let Some(Flight { step: Step::Publish { message, name, expires }, told, .. }) = flight else { return };
        let qos = qos_of(&message);
        match code {
            Code::Accepted if qos == Qos::AtLeastOnce => {
                inner::ack(&mut self.packets, AckKind::Puback, id, 0);
            }
            Code::InvalidTopicId if told < TOLD_MAX && !matches!(message.topic, Topic::Short(_)) => {
                if let Topic::Predefined(id) = message.topic {
                    self.learnt |= self.predefined.remove(&id); // then by a registered one
                }
                self.begin(delivery_of(message, name, expires), now, told + 1);
            }
            _ => self.give_up(qos, id, NOT_TAKEN),
        }
    }

    /// These predefined ids stand for something else: what is on its way under one of them goes by its name.
    pub(super) fn name_flight_anew(&mut self, is_other: impl Fn(u16) -> bool) {
        let by_such = |message: &Publish| matches!(message.topic, Topic::Predefined(id) if is_other(id));
        let own = |flight: &mut Flight| matches!(&flight.step, Step::Publish { message, .. } if by_such(message));
        let step = self.flight.take_if(own).map(|flight| flight.step);
        let Some(Step::Publish { message, name, expires }) = step else { return };
        let delivery = Delivery { again: true, ..delivery_of(message, name, expires) }; // it may have it
        self.waiting_bytes += delivery.topic.len() + delivery.payload.len();
        self.waiting.push_front(Waiting::Publish(delivery));
    }

    /// The sensor has no room for it now: again after `wait`, and not for ever. One that is awake may sleep on, and gets it at
    /// its next wake.
    fn postpone(&mut self, own: impl FnOnce(&mut Flight) -> bool, now: Instant) {
        let (retry, wait) = (self.rules.plan.retry, self.rules.plan.wait);
        let Some(flight) = &mut self.flight else { return };
        if !own(flight) || flight.due > now + retry {
            return; // it has said so already
        }
        (flight.due, flight.tries, flight.postponed) = (now + wait.max(retry), 0, flight.postponed + 1);
        if let Stage::Awake(duration) = self.stage {
            self.stage = Stage::Asleep(duration);
            self.out.push(Message::Pong);
        }
    }

    pub(super) fn pubrec(&mut self, id: u16) {
        match &mut self.flight {
            Some(flight)
                if matches!(&flight.step, Step::Publish { message, .. }
                if message.message_id == id && message.quality == Quality::Two) =>
            {
                flight.step = Step::Received(id);
                inner::ack(&mut self.packets, AckKind::Pubrec, id, 0);
            }
            Some(Flight { step: Step::Release(released), .. }) if *released == id => self.say_flight(),
            _ => {}
        }
    }

    pub(super) fn pubcomp(&mut self, id: u16) {
        let own = |flight: &mut Flight| matches!(flight.step, Step::Release(released) if released == id);
        if self.flight.take_if(own).is_some() {
            inner::ack(&mut self.packets, AckKind::Pubcomp, id, 0);
        }
    }

    /// The sensor cannot have it: the broker need not keep it.
    fn give_up(&mut self, qos: Qos, packet_id: u16, reason: u8) {
        self.refused += 1;
        self.settle(qos, packet_id, reason);
    }

    /// What is in flight, if its time is over: a sensor that slept would act on it hours later.
    fn has_dropped_flight(&mut self, now: Instant) -> bool {
        match self.flight.take_if(|flight| flight.has_expired(now)).map(|flight| flight.step) {
            Some(Step::Register { delivery, .. }) => self.expire(delivery.qos, delivery.packet_id),
            Some(Step::Publish { message, .. }) => self.expire(Qos::AtLeastOnce, message.message_id),
            _ => return false,
        }
        true
    }

    /// Nobody is to get it any more.
    fn expire(&mut self, qos: Qos, packet_id: u16) {
        self.expired += 1;
        self.settle(qos, packet_id, NOT_TAKEN);
    }

    fn settle(&mut self, qos: Qos, packet_id: u16, reason: u8) {
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => inner::ack(&mut self.packets, AckKind::Puback, packet_id, reason),
            Qos::ExactlyOnce => inner::ack(&mut self.packets, AckKind::Pubrec, packet_id, reason),
        }
    }
}

/// Of what was sent above QoS 0.
fn qos_of(message: &Publish) -> Qos {
    if message.quality == Quality::One { Qos::AtLeastOnce } else { Qos::ExactlyOnce }
}

/// What was sent, as it came from the broker.
fn delivery_of(message: Publish, topic: String, expires: Option<Instant>) -> Delivery {
    Delivery {
        again: message.again == Again::Yes,
        qos: qos_of(&message),
        retain: (message.kept == Kept::Yes).into(),
        packet_id: message.message_id,
        topic,
        payload: Bytes::from(message.payload),
        expires,
    }
}
