//! What is kept of a topic for those who come later.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Core, Sender, Shared};
use crate::broker::keeping::{self, End, Found};
use crate::broker::message::{Keep, Message, Retain};
use crate::broker::retained::Author;
use crate::disk::ledger::{Found as OnDisk, Row};
use crate::model::topic::Owner;

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
        if message.keep == Keep::Newest && core.retained.is_of_client(&message.topic) {
            self.take_from_client(core, &message.topic);
        }
        if message.payload.is_empty() {
            self.clear(core, &message.topic, &sender.author());
        } else {
            let kept = core.retained.put(Arc::clone(message), sender.author());
            debug_assert!(kept.is_ok(), "it was looked before whether there is room");
        }
    }

    /// Topics have become the gateway's: what clients have left there is gone for good. In memory the gateway's own message would
    /// take its place; on disk nothing would, and once the topic is a client's again an old value would be back.
    pub(in crate::broker) fn reclaim(&self) {
        let mut core = self.lock();
        let of_clients = core.retained.of_clients().map(|(message, _)| &message.topic);
        let lost = of_clients.filter(|topic| self.ownership.of(topic) != Owner::Client);
        let unserved = core.unserved.iter().filter(|topic| self.ownership.of(topic) != Owner::Client);
        for topic in lost.chain(unserved).cloned().collect::<Vec<_>>() {
            self.take_from_client(&mut core, &topic);
        }
        self.stats.retained.set(core.retained.len() as u64);
    }

    fn take_from_client(&self, core: &mut Core, topic: &Arc<str>) {
        core.retained.clear(topic);
        core.unserved.remove(topic);
        self.disk.change_at_leisure(Arc::clone(topic), None);
        self.stats.retained_dropped.one();
        if self.talk.allows() {
            tracing::warn!(topic = &**topic, "a client's retained message is dropped, its topic is the gateway's now");
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

    /// May there be a retained message that a clearing is to be noted for: here, on its way to the disk, or in a file that could
    /// not be read yet? Of that any topic may be one, and for ever new ones there is no room: when too much waits, it is counted
    /// what was not noted, and nothing that the file has is served.
    pub(super) fn may_be_kept(&self, core: &mut Core, topic: &str) -> bool {
        if core.retained.has(topic) || self.disk.is_changing(topic) {
            return true;
        }
        let may_be_unread = !self.disk.is_known();
        let has_room = may_be_unread && !self.disk.is_crowded();
        core.unnoted += u64::from(may_be_unread && !has_room);
        has_room
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
        let mut core = self.lock();
        if core.unserved.remove(topic) || self.may_be_kept(&mut core, topic) {
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
        if core.unnoted > 0 {
            self.drop_late(core, &rows);
            return;
        }
        if !self.limits.retain_available {
            core.unserved.extend(rows.into_iter().map(|row| row.topic));
            return;
        }
        for row in rows {
            let topic = Arc::clone(&row.topic);
            match keeping::message(row, &self.clock, &self.ownership, &self.access) {
                Some(_) if core.retained.has(&topic) => {}
                Some(found) => {
                    if !core.take_found(found) {
                        break;
                    }
                }
                None if core.retained.is_of_client(&topic) => {}
                None => self.disk.change_at_leisure(topic, None),
            }
        }
    }

    /// Some of these were cleared, and nobody knows which.
    fn drop_late(&self, core: &mut Core, rows: &[Row]) {
        let late: Vec<&Arc<str>> =
            rows.iter().map(|row| &row.topic).filter(|topic| !core.retained.is_of_client(topic)).collect();
        let (clearings, dropped) = (std::mem::take(&mut core.unnoted), late.len());
        tracing::error!(
            dropped,
            clearings,
            "retained messages that were read late are dropped: more topics were cleared meanwhile than could be noted"
        );
        self.stats.retained_dropped.add(dropped as u64);
        for topic in late {
            self.disk.change_at_leisure(Arc::clone(topic), None);
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use bytes::Bytes;

    use super::*;
    use crate::access::Access;
    use crate::broker::core::{Company, Origin, Surroundings};
    use crate::broker::message::Qos;
    use crate::broker::tree::ClientKey;
    use crate::config::plan::{BrokerLimits, BrokerPlan, SessionsPlan};
    use crate::disk::ledger::Ledger;
    use crate::flow::clock::{Clock, FakeTime};
    use crate::flow::command;
    use crate::flow::forward::ForwardEntry;
    use crate::model::time::Boot;
    use crate::model::topic::Ownership;

    fn shared(ledger: &Path) -> Shared {
        let (limits, bounds) = (BrokerLimits::default(), SessionsPlan::default());
        let plan = BrokerPlan { listeners: Vec::new(), limits, users_file: None, acl: Vec::new(), sessions: bounds };
        let (disk, found) = Ledger::open(ledger).expect("a thread");
        let around = Surroundings {
            access: Arc::new(Access::new(&plan)),
            ownership: Arc::new(Ownership::new([])),
            commands: command::road().0,
            forward: ForwardEntry::none(),
            clock: Clock::new(Arc::new(FakeTime::default()), Boot(1), 0),
            disk,
            bounds,
        };
        let shared = Shared::new(around, Vec::new(), Vec::new());
        shared.take_late(&mut shared.lock(), found.rows);
        shared
    }

    fn retain(shared: &Shared, topic: &str, payload: &'static str) {
        let own = Message::own(topic.into(), Bytes::from_static(payload.as_bytes()), Keep::Every);
        let message = Arc::new(Message { qos: Qos::AtMostOnce, ..own });
        let (client, company) = (ClientKey::NOBODY, Company::InRow);
        let from = Origin { client, who: None, packet_id: None, company, pressure: None, bridge: None };
        shared.publish(&message, Retain::Yes, from).expect("nobody is refused at QoS 0");
    }

    #[test]
    fn clearings_of_ever_new_topics_while_the_file_is_unread_are_bounded_and_none_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, away) = (dir.path().join("broker.db"), dir.path().join("away"));
        let before = shared(&path);
        retain(&before, "early", "10");
        retain(&before, "late", "10");
        before.disk.close();
        drop(before);
        std::fs::rename(&path, &away).expect("moved");
        std::os::unix::fs::symlink(dir.path(), &path).expect("something in the way");
        let broker = shared(&path);
        retain(&broker, "early", "");
        retain(&broker, "new", "11");
        let cleared = (0..1_000_000).take_while(|n| {
            retain(&broker, &format!("x/{n}"), "");
            !broker.disk.is_crowded()
        });
        assert!(cleared.count() < 10_000, "it is crowded in the end");
        retain(&broker, "late", "");
        assert!(!broker.disk.is_changing("late"), "no room for another");
        retain(&broker, "new", "");
        std::fs::rename(&away, &path).expect("moved back, and at no moment is there nothing");
        let began = Instant::now();
        while !broker.disk.is_known() {
            assert!(began.elapsed() < Duration::from_secs(60), "it is read in the end");
            assert_eq!(broker.take_found_late(), None);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(broker.stats.retained_dropped.get(), 1, "of the other one it was known");
        assert_eq!(broker.lock().retained.len(), 0);
        broker.disk.close();
        let (_, found) = Ledger::open(&path).expect("a thread");
        assert!(found.rows.is_empty(), "nor after a restart: {:?}", found.rows);
    }
}
