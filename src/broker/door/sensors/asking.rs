//! What a sensor wants: topic ids, to publish, to subscribe (sections 6.5 to 6.9). Ids become names, and the broker decides.

use tokio::time::Instant;

use super::anew::Content;
use super::greeting::qos;
use super::inner::{self, Said};
use super::names::Known;
use super::translator::{Asked, Translator, code};
use crate::broker::message::Qos;
use crate::broker::sn::{Again, Code, Filter, Kept, Message, Publish, Quality, Topic};
use crate::broker::wire::{Ack, AckKind};
use crate::model::topic::{check_filter, check_topic};

/// A SUBSCRIBE that may come again, and what it was answered.
#[derive(Debug)]
pub(super) struct Repeatable {
    quality: Quality,
    message_id: u16,
    filter: Filter,
    /// And when.
    answer: Option<(Message, Instant)>,
}

/// What a sensor may have asked for without an answer; the specification has it wait for each.
const ASKED_MAX: usize = 16;

impl Translator {
    pub(super) fn register(&mut self, message_id: u16, name: &str) {
        let (topic_id, code) = match check_topic(name) {
            Err(_) => (0, Code::NotSupported),
            Ok(()) => self.names.register(name).map_or((0, Code::Congestion), |id| (id, Code::Accepted)),
        };
        self.out.push(Message::Regack { topic_id, message_id, code });
    }

    pub(super) fn publish(&mut self, publish: &Publish) {
        if let Err(code) = self.hand_in(publish) {
            self.turned_down += u64::from(code != Code::Congestion);
            let (topic_id, message_id) = (number(publish.topic), publish.message_id);
            self.out.push(Message::Puback { topic_id, message_id, code });
        }
    }

    fn hand_in(&mut self, publish: &Publish) -> Result<(), Code> {
        let Publish { again, quality, kept, message_id, ref payload, .. } = *publish;
        let Some(qos) = qos(quality) else { return Ok(()) }; // without a connection: the door's matter
        let name = self.name(publish.topic).ok_or(Code::InvalidTopicId)?;
        let (surely, retains) = (qos != Qos::AtMostOnce, kept == Kept::Yes);
        let terms = self.rules.terms;
        let forbidden = qos > terms.max_qos || retains && !terms.retain_available || terms.is_too_long(payload);
        if check_topic(&name).is_err() || forbidden || surely && message_id == 0 {
            return Err(Code::NotSupported);
        }
        if surely {
            let content = Content::of(&name, payload);
            if self.is_awaited(publish) {
                return Ok(());
            }
            if self.asked.len() >= ASKED_MAX {
                return Err(Code::Congestion);
            }
            if self.is_another(publish, content) {
                return Ok(());
            }
            if qos == Qos::ExactlyOnce {
                self.begin_exchange(message_id, content);
            }
            self.asked.insert((Asked::Publish, message_id), Some(number(publish.topic)));
        }
        let said = Said {
            again: again == Again::Yes,
            qos,
            retain: retains.into(),
            packet_id: message_id,
            topic: &name,
            payload,
        };
        inner::publish(&mut self.packets, said);
        Ok(())
    }

    /// PUBREL: what it has published at QoS 2 is over for it.
    pub(super) fn let_go(&mut self, message_id: u16) {
        let asked = (Asked::Release, message_id);
        if self.asked.contains_key(&asked) {
            return;
        }
        if self.asked.len() < ASKED_MAX {
            self.asked.insert(asked, Some(0));
        }
        inner::ack(&mut self.packets, AckKind::Pubrel, message_id, 0);
    }

    /// The broker has acknowledged what the sensor has published.
    pub(super) fn settled(&mut self, ack: Ack) {
        let Ack { kind, packet_id: message_id, reason } = ack;
        let code = code(reason);
        let asked = if kind == AckKind::Pubcomp { Asked::Release } else { Asked::Publish };
        let answer = self.asked.remove(&(asked, message_id));
        if matches!((kind, code == Code::Accepted), (AckKind::Pubcomp, true) | (AckKind::Pubrec, false)) {
            self.exchanges.remove(&message_id);
        }
        if answer == Some(None) {
            return self.go_on(message_id);
        }
        self.out.push(match kind {
            AckKind::Pubcomp => Message::Pubcomp(message_id),
            AckKind::Pubrec if code == Code::Accepted => Message::Pubrec(message_id),
            _ => Message::Puback { topic_id: answer.flatten().unwrap_or(0), message_id, code },
        });
    }

    pub(super) fn subscribe(&mut self, quality: Quality, message_id: u16, filter: &Filter) {
        if self.asked.contains_key(&(Asked::Subscribe, message_id)) {
            return;
        }
        if let Some(answer) = self.said_before(quality, message_id, filter) {
            return self.out.push(answer); // it was not heard; what is kept has been sent
        }
        match self.judge(quality, message_id, filter) {
            Ok((name, qos, topic_id)) => {
                self.asked.insert((Asked::Subscribe, message_id), Some(topic_id));
                if let Filter::Predefined(id) = filter {
                    self.learnt |= self.predefined.insert(*id);
                }
                self.repeatable = Some(Repeatable { quality, message_id, filter: filter.clone(), answer: None });
                inner::subscribe(&mut self.packets, message_id, &name, qos);
            }
            Err(code) => self.out.push(Message::Suback { quality: Quality::Zero, topic_id: 0, message_id, code }),
        }
    }

    /// These predefined ids stand for something else: the last SUBSCRIBE by one of them is not answered for what it stood for.
    pub(super) fn forget_subscribe(&mut self, is_other: impl Fn(u16) -> bool) {
        let by_such = |last: &mut Repeatable| matches!(last.filter, Filter::Predefined(id) if is_other(id));
        let last = self.repeatable.take_if(by_such);
        let asked = last.and_then(|last| self.asked.get_mut(&(Asked::Subscribe, last.message_id)));
        if let Some(answer) = asked {
            *answer = None; // it asks again
        }
    }

    /// What this very SUBSCRIBE was answered, no longer ago than a sensor tries.
    fn said_before(&self, quality: Quality, message_id: u16, filter: &Filter) -> Option<Message> {
        let last = self.repeatable.as_ref()?;
        let is_same = (last.quality, last.message_id, &last.filter) == (quality, message_id, filter);
        let (answer, at) = last.answer.as_ref().filter(|_| is_same)?;
        let plan = &self.rules.plan;
        (self.heard <= *at + plan.retry * u32::from(plan.retries + 1)).then(|| answer.clone())
    }

    /// Name, QoS and the topic id that SUBACK has: 0 where there is none.
    fn judge(&mut self, quality: Quality, message_id: u16, filter: &Filter) -> Result<(String, Qos, u16), Code> {
        let qos = qos(quality).filter(|_| message_id > 0).ok_or(Code::NotSupported)?;
        if self.asked.len() >= ASKED_MAX {
            return Err(Code::Congestion);
        }
        let name = self.filter(filter).ok_or(Code::InvalidTopicId)?;
        check_filter(&name).map_err(|_| Code::NotSupported)?;
        let topic_id = match filter {
            Filter::Predefined(id) => *id,
            Filter::Short(_) => 0,
            Filter::Name(_) if check_topic(&name).is_err() || name.starts_with("$share/") => 0,
            Filter::Name(_) => self.names.register(&name).ok_or(Code::Congestion)?,
        };
        Ok((name, qos, topic_id))
    }

    /// The broker has answered SUBSCRIBE.
    pub(super) fn suback(&mut self, message_id: u16, reason: u8, now: Instant) {
        let asked = self.asked.remove(&(Asked::Subscribe, message_id));
        if asked == Some(None) {
            return;
        }
        let topic_id = asked.flatten().unwrap_or(0);
        let (quality, topic_id, code) = match (code(reason), reason) {
            (Code::Accepted, 0) => (Quality::Zero, topic_id, Code::Accepted),
            (Code::Accepted, 1) => (Quality::One, topic_id, Code::Accepted),
            (Code::Accepted, _) => (Quality::Two, topic_id, Code::Accepted),
            (refused, _) => (Quality::Zero, 0, refused),
        };
        let answer = Message::Suback { quality, topic_id, message_id, code };
        if let Some(last) = self.repeatable.as_mut().filter(|last| last.message_id == message_id) {
            last.answer = (code == Code::Accepted).then(|| (answer.clone(), now));
        }
        self.out.push(answer);
    }

    pub(super) fn unsubscribe(&mut self, message_id: u16, filter: &Filter) {
        let asked = (Asked::Unsubscribe, message_id);
        if self.asked.contains_key(&asked) || self.asked.len() >= ASKED_MAX || message_id == 0 {
            return; // UNSUBACK has no code to say so
        }
        match self.filter(filter).filter(|name| check_filter(name).is_ok()) {
            Some(name) => {
                if let Filter::Predefined(id) = filter {
                    self.learnt |= self.predefined.remove(id);
                }
                self.repeatable = None;
                self.asked.insert(asked, Some(0));
                inner::unsubscribe(&mut self.packets, message_id, &name);
            }
            None => self.out.push(Message::Unsuback(message_id)), // it has no such subscription
        }
    }

    /// The broker has answered UNSUBSCRIBE.
    pub(super) fn unsuback(&mut self, message_id: u16) {
        if self.asked.remove(&(Asked::Unsubscribe, message_id)) != Some(None) {
            self.out.push(Message::Unsuback(message_id));
        }
    }

    /// What a topic is called.
    fn name(&self, topic: Topic) -> Option<String> {
        match topic {
            Topic::Id(id) => self.names.name(id).map(ToOwned::to_owned),
            Topic::Predefined(id) => self.rules.plan.topic(id).map(ToOwned::to_owned),
            Topic::Short(name) => String::from_utf8(name.to_vec()).ok(),
        }
    }

    fn filter(&self, filter: &Filter) -> Option<String> {
        match filter {
            Filter::Name(name) => Some(name.clone()),
            Filter::Predefined(id) => self.name(Topic::Predefined(*id)),
            Filter::Short(name) => self.name(Topic::Short(*name)),
        }
    }

    /// How the sensor knows a name, if it does.
    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        if let &[first, second] = name.as_bytes() {
            return Some(Topic::Short([first, second]));
        }
        let mut known = self.rules.plan.topics.iter().filter(|(id, _)| self.predefined.contains(id));
        known.find(|(_, known)| known == name).map(|(id, _)| Topic::Predefined(*id))
    }

    /// The id of a name, and whether the sensor knows it; `None`: there is no room for one more.
    pub(super) fn id(&mut self, name: &str) -> Option<(u16, Known)> {
        let id = self.names.assign(name)?;
        Some((id, self.names.known(id)))
    }
}

/// As an acknowledgement names it.
const fn number(topic: Topic) -> u16 {
    match topic {
        Topic::Id(id) | Topic::Predefined(id) => id,
        Topic::Short(name) => u16::from_be_bytes(name),
    }
}
