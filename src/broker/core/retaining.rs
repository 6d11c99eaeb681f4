//! What is kept of a topic for those who come later.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Core, Sender, Shared};
use crate::broker::keeping::{self, End, Found};
use crate::broker::message::{Message, Retain};
use crate::broker::retained::Author;
use crate::disk::ledger::{Found as OnDisk, Row};

/// Retained messages whose ends are not settled.
#[derive(Default)]
pub(super) struct OpenEnds {
    /// Topics and versions of those of which nobody can say yet how long they live.
    ends: Vec<(Arc<str>, u64, End)>,
    /// There are rows whose ends are by a boot without a number: another process would not know when that is.
    pub(super) unnumbered: bool,
}

impl Shared {
    /// There is no room for a retained message, and nobody who could be told: it is sent on, and none is kept in place of an
    /// older one that is not true any more.
    pub(super) fn not_kept(&self, core: &mut Core, topic: &Arc<str>, sender: Sender<'_>) {
        self.clear(core, topic, &sender.author());
        self.stats.publishes_refused.one();
        if self.talk.allows() {
            tracing::warn!(
                topic = &**topic,
                "no room for more retained messages: it is sent on, and nothing is kept on its topic"
            );
        }
    }

    /// Keeps a message that is to be retained and for which there is room, or forgets its topic.
    pub(super) fn keep(&self, core: &mut Core, message: &Arc<Message>, retain: Retain, sender: Sender<'_>) {
        if retain == Retain::No {
            return;
        }
        if message.payload.is_empty() {
            self.clear(core, &message.topic, &sender.author());
        } else {
            let kept = core.retained.put(Arc::clone(message), sender.author());
            debug_assert!(kept.is_ok(), "it was looked before whether there is room");
        }
    }

    /// A clearing is on its way upstream, and what was retained there until then may be on its way down.
    pub(super) fn clear(&self, core: &mut Core, topic: &Arc<str>, author: &Author) {
        let goes_upstream = || self.forward.wants(topic, author.bridge().map(|bridge| &**bridge));
        if !matches!(author, Author::Nobody) && goes_upstream() {
            core.retained.clear_by(author, topic);
        } else {
            core.retained.clear(topic);
        }
    }

    /// What was on disk when nobody vouched for the clock, or knew of earlier boots, ends when it was to, as soon as somebody
    /// does. And as soon as this boot has a number, it is in the rows of all that ends.
    pub(super) fn judge_again(&self, core: &mut Core) {
        let Core { open_ends, retained, .. } = core;
        if !open_ends.ends.is_empty() && self.clock.is_fixed() {
            open_ends.ends.retain(|(topic, version, end)| {
                retained.ends(topic, *version, end.instant(&self.clock));
                end.is_open(&self.clock)
            });
        }
        if open_ends.unnumbered && self.clock.is_numbered() {
            open_ends.unnumbered = false;
            for (message, source) in retained.of_clients().filter(|(message, _)| message.expires.is_some()) {
                let row = keeping::row(message, source, &self.clock);
                self.disk.change_at_leisure(Arc::clone(&message.topic), Some(row));
            }
        }
    }

    /// Is there a retained message, or may there be one in a file that could not be read yet?
    pub(super) fn may_be_kept(&self, core: &Core, topic: &str) -> bool {
        core.retained.has(topic) || !self.disk.is_known()
    }

    /// Bytes of all retained payloads.
    pub(in crate::broker) fn retained_bytes(&self) -> usize {
        self.lock().retained.bytes()
    }

    /// Clients' retained messages are not available: these lie on disk.
    pub(in crate::broker) fn leave_unserved(&self, topics: impl IntoIterator<Item = Arc<str>>) {
        self.lock().unserved.extend(topics);
    }

    /// While they are not available, something came down to be retained on this topic, which is newer than what lies there:
    /// that must not come back one day as if it were still true.
    pub(super) fn outdate(&self, topic: &Arc<str>) {
        if self.lock().unserved.remove(topic) || !self.disk.is_known() {
            self.disk.change_at_leisure(Arc::clone(topic), None);
        }
    }

    /// Takes in what a file held that could be read at last, or says as what it was set aside, being damaged.
    pub(in crate::broker) fn take_found_late(&self) -> Option<PathBuf> {
        let mut core = self.lock();
        let OnDisk { rows, sessions, set_aside } = self.disk.found_late()?;
        self.take_late(&mut core, rows);
        self.take_in(&mut core, sessions);
        set_aside
    }

    /// What came meanwhile is newer.
    fn take_late(&self, core: &mut Core, rows: Vec<Row>) {
        if !self.limits.retain_available {
            core.unserved.extend(rows.into_iter().map(|row| row.topic));
            return;
        }
        for row in rows {
            let Some(found) = keeping::message(row, &self.clock, &self.ownership, &self.access) else { continue };
            if !core.retained.has(&found.message.topic) && !core.take_found(found) {
                break;
            }
        }
    }
}

impl Sender<'_> {
    fn author(self) -> Author {
        let bridge = if let Self::Client(from) = self { from.bridge } else { None };
        let bridge = || bridge.map_or(Author::Nobody, |bridge| Author::Bridge(Arc::clone(bridge)));
        self.who().map_or_else(bridge, |who| Author::Client(who.clone()))
    }
}

impl Core {
    /// Keeps what was on disk. False: there is no room.
    pub(super) fn take_found(&mut self, found: Found) -> bool {
        let Found { message, source, open, unnumbered } = found;
        let topic = Arc::clone(&message.topic);
        if self.retained.put(Arc::new(message), source.map_or(Author::Nobody, Author::Client)).is_err() {
            tracing::warn!("more retained messages on disk than fit into memory, the rest is not served");
            return false;
        }
        self.open_ends.ends.extend(open.map(|end| (topic, self.retained.version(), end)));
        self.open_ends.unnumbered |= unnumbered;
        true
    }
}
