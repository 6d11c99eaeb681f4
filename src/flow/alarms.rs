//! Alarms on their way to the local broker: one slot per condition; what is newer replaces what was not yet taken.
//!
//! Fed by the hub, which has given the same to the store; emptied by the publisher. Bounded by the conditions of the
//! plan. A condition that came and went before anybody looked is seen as gone: the store has both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::sync::{Notify, oneshot};

use crate::model::alarm::{Condition, Level};
use crate::model::lock::Hold as _;
use crate::model::number::Number;
use crate::model::stats::Counter;
use crate::model::tag::TagIx;

/// A condition that began or ended.
#[derive(Debug)]
pub struct AlarmNews {
    /// Begin or end.
    pub condition: Condition,
    /// The JSON object, without its number.
    pub body: Vec<u8>,
    /// Comes with the store's commit; dropped if the store cannot.
    pub number: oneshot::Receiver<Number>,
}

/// Whose news, and of which condition.
pub type AlarmKey = (TagIx, Level);

/// The slots.
#[derive(Debug, Default)]
pub struct AlarmSlots {
    inner: Mutex<Inner>,
    changed: Notify,
    /// News replaced before the publisher took them.
    pub replaced: Counter,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: BTreeMap<AlarmKey, AlarmNews>,
    active: BTreeSet<AlarmKey>,
    closed: bool,
}

impl AlarmSlots {
    /// Puts one in, newest wins.
    pub fn put(&self, key: AlarmKey, news: AlarmNews) {
        let old = {
            let mut inner = self.inner.hold();
            match news.condition {
                Condition::Active => inner.active.insert(key),
                Condition::Cleared => inner.active.remove(&key),
            };
            inner.waiting.insert(key, news)
        };
        if old.is_some() {
            self.replaced.one();
        }
        self.changed.notify_one();
    }

    /// Before anything else: what was active when the gateway went down.
    pub fn resume(&self, keys: impl IntoIterator<Item = AlarmKey>) {
        self.inner.hold().active.extend(keys);
    }

    /// Tags have other places now, or none: what is active goes with them, or is forgotten.
    pub fn moved(&self, place: impl Fn(AlarmKey) -> Option<TagIx>) {
        let mut inner = self.inner.hold();
        let active = std::mem::take(&mut inner.active);
        inner.active = active.into_iter().filter_map(|key| Some((place(key)?, key.1))).collect();
        let waiting = std::mem::take(&mut inner.waiting);
        inner.waiting = waiting.into_iter().filter_map(|(key, news)| Some(((place(key)?, key.1), news))).collect();
    }

    /// What is active now.
    pub fn active(&self) -> Vec<AlarmKey> {
        self.inner.hold().active.iter().copied().collect()
    }

    /// No more will come.
    pub fn close(&self) {
        self.inner.hold().closed = true;
        self.changed.notify_one();
    }

    /// Waits for news and takes all of them; `None` after [`AlarmSlots::close`]. One taker only. Cancel-safe.
    pub async fn take(&self) -> Option<BTreeMap<AlarmKey, AlarmNews>> {
        loop {
            {
                let mut inner = self.inner.hold();
                if !inner.waiting.is_empty() {
                    return Some(std::mem::take(&mut inner.waiting));
                }
                if inner.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}
