//! A sensor that was started anew and comes back to the connection that it had, by a CONNECT without a clean start: the broker
//! does not hear of that, and the sensor begins again with its first message ids.
//!
//! What it had asked for it has forgotten. The broker's answers to that are not passed on: under the same ids they would pass
//! for answers to what it asks now. And a QoS 2 publish whose PUBREL never came holds its id at the broker (MQTT 5,
//! section 4.3.3), which would take another message under it for the same one, acknowledge it, and publish it nowhere: so the
//! id is released first. Whether it is another message shows by what is in it, not by DUP: of a new one the first datagram may
//! have got lost. One that was not started anew (it slept) goes on as before, and asks again for what was not answered.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::inner;
use super::translator::{Asked, Translator};
use crate::broker::sn::{Publish, Quality};
use crate::broker::wire::AckKind;

/// A QoS 2 publish between its PUBLISH and its PUBCOMP.
#[derive(Debug)]
pub(super) struct Exchange {
    content: Content,
    /// The sensor has said CONNECT since, and may know nothing of it.
    is_old: bool,
}

/// Topic and payload, as far as a hash tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content(u64);

impl Content {
    pub(super) fn of(topic: &str, payload: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        (topic, payload).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Translator {
    /// CONNECT was said, and what is there is gone on with.
    pub(super) fn begin_anew(&mut self) {
        self.asked.values_mut().for_each(|answer| *answer = None);
        self.exchanges.values_mut().for_each(|exchange| exchange.is_old = true);
    }

    /// Has the broker still to answer something under the id of this publish? If that was asked before the sensor began anew,
    /// the publish is handed in when it has.
    pub(super) fn is_awaited(&mut self, publish: &Publish) -> bool {
        let asked = [Asked::Publish, Asked::Release].map(|kind| self.asked.get(&(kind, publish.message_id)));
        let answer = asked.into_iter().flatten().next().copied();
        if answer == Some(None) {
            self.held = Some(publish.clone());
        }
        answer.is_some()
    }

    /// Does the broker keep its id for another message, of before the sensor began anew? Then that is released, and the publish
    /// handed in when it has been.
    pub(super) fn is_another(&mut self, publish: &Publish, content: Content) -> bool {
        let id = publish.message_id;
        let old = self.exchanges.get(&id).filter(|exchange| exchange.is_old && exchange.content != content);
        let is_another = old.is_some() && publish.quality == Quality::Two;
        if is_another {
            inner::ack(&mut self.packets, AckKind::Pubrel, id, 0);
            self.asked.insert((Asked::Release, id), None);
            self.held = Some(publish.clone());
        }
        is_another
    }

    /// It is handed in at QoS 2. How many there are is bounded by our Receive Maximum: who has more is told to go.
    pub(super) fn begin_exchange(&mut self, id: u16, content: Content) {
        self.exchanges.entry(id).or_insert(Exchange { content, is_old: false }).is_old = false;
    }

    /// The broker has answered what the sensor has forgotten: what has waited for that goes on.
    pub(super) fn go_on(&mut self, id: u16) {
        if let Some(publish) = self.held.take_if(|held| held.message_id == id) {
            self.publish(&publish);
        }
    }
}
