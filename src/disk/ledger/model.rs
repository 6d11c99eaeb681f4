//! Random operations against a plain model: transactions cut anywhere, failed before and after they were written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::batch::Batch;
use super::pending::{Entered, Publish, Retained};
use super::rows::{GivenUp, MessageRow, Owing, SessionId, SessionRow, SubscriptionRow};
use super::{Committed, NotCommitted, Row, Source, load, page, tables};

#[derive(Debug, Clone)]
enum Step {
    Come(u8),
    Forget(u8),
    Subscribe(u8, u8, bool),
    Owe { to: u8, received: Option<u8>, retained: Option<(u8, bool)> },
    Settle(u8, usize),
    Release(u8, usize),
    Finish(u8, u8),
    Disown(u8, u8),
    Retain(u8, bool),
    Take,
    Commit,
    Fail { written: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let topic = 0..3u8;
    let step = prop_oneof![
        2 => (0..3u8).prop_map(Step::Come),
        1 => (0..3u8).prop_map(Step::Forget),
        2 => (0..3u8, 0..3u8, any::<bool>()).prop_map(|(of, filter, there)| Step::Subscribe(of, filter, there)),
        8 => (0..8u8, proptest::option::of(0..4u8), proptest::option::weighted(0.2, (0..3u8, any::<bool>())))
            .prop_map(|(to, received, retained)| Step::Owe { to, received, retained }),
        6 => (0..3u8, 0..4usize).prop_map(|(of, which)| Step::Settle(of, which)),
        3 => (0..3u8, 0..4usize).prop_map(|(of, which)| Step::Release(of, which)),
        3 => (0..3u8, 0..4u8).prop_map(|(of, packet)| Step::Finish(of, packet)),
        2 => (0..3u8, 0..4u8).prop_map(|(of, packet)| Step::Disown(of, packet)),
        2 => (topic, any::<bool>()).prop_map(|(topic, there)| Step::Retain(topic, there)),
        3 => Just(Step::Take),
        4 => Just(Step::Commit),
        2 => any::<bool>().prop_map(|written| Step::Fail { written }),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A session as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Session {
    dropped: u64,
    filters: BTreeSet<u8>,
    received: BTreeSet<u16>,
    /// Ordinal to payload, or to nothing once released.
    owed: BTreeMap<u64, Option<u64>>,
}

/// Everything as it should be on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct World {
    sessions: BTreeMap<SessionId, Session>,
    retained: BTreeMap<String, u64>,
}

/// A message that was entered.
struct Wait {
    payload: u64,
    to: Vec<(SessionId, u64)>,
    received: Option<(SessionId, u16)>,
    retained: bool,
    committed: Committed,
}

struct Run {
    connection: Connection,
    entered: Entered,
    world: World,
    /// A transaction under way, and the world when it began.
    taken: Option<(Batch, World)>,
    now: [Option<SessionId>; 3],
    next_session: u64,
    next_ordinal: BTreeMap<SessionId, u64>,
    count: u64,
    waits: Vec<Wait>,
}

fn told() -> (oneshot::Sender<Result<(), NotCommitted>>, Committed) {
    oneshot::channel()
}

/// Goes with a payload as its subscription identifier.
fn mark(payload: u64) -> u32 {
    u32::try_from(payload).expect("few steps")
}

fn filter(n: u8) -> Arc<str> {
    format!("f/{n}").into()
}

impl Run {
    fn new() -> Self {
        let connection = Connection::open_in_memory().expect("memory");
        connection.execute_batch(tables::TABLES).expect("tables");
        connection.execute_batch(tables::LATER).expect("two more");
        Self {
            connection,
            entered: Entered::default(),
            world: World::default(),
            taken: None,
            now: [None; 3],
            next_session: 1,
            next_ordinal: BTreeMap::new(),
            count: 0,
            waits: Vec::new(),
        }
    }

    fn row(&mut self, topic: u8, there: bool) -> Option<Row> {
        self.count += 1;
        let name = format!("r/{topic}");
        if !there {
            self.world.retained.remove(&name);
            return None;
        }
        self.world.retained.insert(name.clone(), self.count);
        let (payload, properties) = (self.count.to_string().into(), bytes::Bytes::new());
        // Every other one has somebody who left it.
        let source =
            self.count.is_multiple_of(2).then(|| Source { owner: "o".into(), client: self.count.to_string().into() });
        Some(Row { topic: name.into(), qos: 1, payload, properties, expires_unix_ms: None, source })
    }

    /// The nth row that a session is owed, if it has one.
    fn nth(&self, of: u8, which: usize) -> Option<(SessionId, u64)> {
        let id = self.now[usize::from(of)]?;
        let owed = &self.world.sessions[&id].owed;
        owed.keys().nth(which % owed.len().max(1)).map(|ordinal| (id, *ordinal))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Come(of) => self.come(of),
            Step::Forget(of) => {
                if let Some(id) = self.now[usize::from(of)].take() {
                    self.entered.forget(id);
                    self.world.sessions.remove(&id);
                    self.check_waits();
                }
            }
            Step::Subscribe(of, name, there) => {
                if let Some(id) = self.now[usize::from(of)] {
                    let row = SubscriptionRow { filter: filter(name), options: 1, identifier: None };
                    self.entered.subscription(id, filter(name), there.then_some(row));
                    let filters = &mut self.world.sessions.get_mut(&id).expect("known").filters;
                    if there {
                        filters.insert(name)
                    } else {
                        filters.remove(&name)
                    };
                }
            }
            Step::Owe { to, received, retained } => self.owe(to, received, retained),
            Step::Settle(of, which) => {
                if let Some((id, ordinal)) = self.nth(of, which) {
                    assert!(self.entered.settle(id, ordinal), "it was owed");
                    self.world.sessions.get_mut(&id).expect("known").owed.remove(&ordinal);
                    self.check_waits();
                }
            }
            Step::Release(of, which) => {
                if let Some((id, ordinal)) = self.nth(of, which)
                    && !self.waits.iter().any(|wait| wait.to.contains(&(id, ordinal)))
                {
                    self.entered.release(id, ordinal, told().0);
                    self.world.sessions.get_mut(&id).expect("known").owed.insert(ordinal, None);
                }
            }
            Step::Finish(of, packet) => {
                if let Some(id) = self.now[usize::from(of)]
                    && !self.waits.iter().any(|wait| wait.received == Some((id, packet.into())))
                {
                    let (told, mut committed) = told();
                    self.entered.finish(id, packet.into(), told);
                    self.world.sessions.get_mut(&id).expect("known").received.remove(&packet.into());
                    assert!(committed.try_recv().is_err(), "an earlier removal may be on its way to the disk");
                }
            }
            Step::Disown(of, packet) => {
                if let Some(id) = self.now[usize::from(of)] {
                    self.entered.disown(id, packet.into());
                    self.world.sessions.get_mut(&id).expect("known").received.remove(&packet.into());
                    let its = |wait: &&mut Wait| wait.received == Some((id, packet.into()));
                    self.waits.iter_mut().filter(its).for_each(|wait| wait.received = None);
                }
            }
            Step::Retain(topic, there) => {
                let row = self.row(topic, there);
                self.entered.retained(format!("r/{topic}").into(), row);
            }
            Step::Take => {
                if self.taken.is_none() {
                    self.taken = Some((self.entered.take(), self.world.clone()));
                }
            }
            Step::Commit => self.commit(),
            Step::Fail { written } => self.fail(written),
        }
    }

    fn come(&mut self, of: u8) {
        let id = self.now[usize::from(of)].unwrap_or_else(|| {
            self.next_session += 1;
            SessionId(self.next_session)
        });
        self.now[usize::from(of)] = Some(id);
        self.count += 1;
        let (client_id, owner) = (format!("c{of}").into(), "o".into());
        let dropped = self.count;
        self.entered.session(SessionRow {
            id,
            client_id,
            owner,
            version: 5,
            expiry_s: 9,
            left_unix_ms: None,
            dropped,
            sent_below: None,
        });
        self.world.sessions.entry(id).or_default().dropped = dropped;
    }

    fn owe(&mut self, mask: u8, received: Option<u8>, retained: Option<(u8, bool)>) {
        self.count += 1;
        let payload = self.count;
        let sessions = (0..3).filter(|of| mask & (1 << of) != 0).filter_map(|of| self.now[of]);
        let to: Vec<(SessionId, Owing)> = sessions
            .map(|id| {
                let ordinal = self.next_ordinal.entry(id).or_insert(0);
                *ordinal += 1;
                (id, Owing { ordinal: *ordinal, qos: 2, retain: true, identifiers: vec![mark(payload)] })
            })
            .collect();
        // A packet id is in use until it is finished; the publisher is the first session.
        let received = received.zip(self.now[0]).map(|(packet, id)| (id, u16::from(packet)));
        let received = received.filter(|(id, packet)| !self.world.sessions[id].received.contains(packet));
        let is_retained = retained.is_some();
        let (mut topic, mut change) = ("t".into(), Retained::Untouched);
        if let Some((name, there)) = retained {
            (topic, change) = (format!("r/{name}").into(), Retained::Changed(self.row(name, there)));
        }
        let (body, properties) = (payload.to_string().into(), bytes::Bytes::new());
        let message = Arc::new(MessageRow { topic, qos: 2, payload: body, properties, expires_unix_ms: Some(7) });
        let (told, committed) = told();
        self.entered.owe(Publish { message, to: &to, received, retained: change }, told);
        for (id, owing) in &to {
            self.world.sessions.get_mut(id).expect("known").owed.insert(owing.ordinal, Some(payload));
        }
        let received = received.filter(|_| is_retained || !to.is_empty());
        if let Some((id, packet)) = received {
            self.world.sessions.get_mut(&id).expect("known").received.insert(packet);
        }
        let to = to.into_iter().map(|(id, owing)| (id, owing.ordinal)).collect();
        self.waits.push(Wait { payload, to, received, retained: is_retained, committed });
        self.check_waits();
    }

    /// Whoever waits for something that nobody is owed any more has been told, and only those.
    fn check_waits(&mut self) {
        let under_way = self.taken.as_ref().map_or(0, |(batch, _)| batch.debts.len());
        for (place, wait) in std::mem::take(&mut self.waits).into_iter().enumerate() {
            let mut wait = wait;
            let owed = |(id, ordinal): &(SessionId, u64)| {
                self.world.sessions.get(id).is_some_and(|session| session.owed.contains_key(ordinal))
            };
            let gone = !wait.retained && !wait.to.iter().any(owed);
            if place >= under_way && gone {
                assert_eq!(wait.committed.try_recv(), Ok(Ok(())), "told at once: {}", wait.payload);
                if let Some((id, packet)) = wait.received {
                    // It was never written, so there is nothing to remember it by.
                    self.world.sessions.get_mut(&id).map(|session| session.received.remove(&packet));
                }
            } else {
                assert!(wait.committed.try_recv().is_err(), "not told before it is so: {}", wait.payload);
                self.waits.push(wait);
            }
        }
    }

    fn commit(&mut self) {
        let (batch, then) = self.taken.take().unwrap_or_else(|| (self.entered.take(), self.world.clone()));
        let debts = batch.debts.len();
        tables::write(&mut self.connection, &batch).expect("written");
        batch.committed();
        for wait in self.waits.drain(..debts) {
            assert_eq!(wait.committed.blocking_recv(), Ok(Ok(())));
        }
        assert_eq!(self.read(), then, "exactly what had been entered when the transaction began");
    }

    fn fail(&mut self, written: bool) {
        let (batch, _) = self.taken.take().unwrap_or_else(|| (self.entered.take(), World::default()));
        if written {
            tables::write(&mut self.connection, &batch).expect("written");
        }
        self.entered.failed(batch);
        let mut given_up: HashMap<SessionId, GivenUp> = HashMap::new();
        for wait in std::mem::take(&mut self.waits) {
            assert_eq!(wait.committed.blocking_recv(), Ok(Err(NotCommitted)), "nobody is left waiting");
            for (id, ordinal) in wait.to {
                let was_owed = self.world.sessions.get_mut(&id).and_then(|session| session.owed.remove(&ordinal));
                given_up.entry(id).or_default().rows += u64::from(was_owed.is_some());
                assert!(was_owed.is_none() || !self.entered.settle(id, ordinal));
            }
            if let Some((id, packet)) = wait.received {
                self.world.sessions.get_mut(&id).map(|session| session.received.remove(&packet));
            }
        }
        given_up.retain(|_, given_up| given_up.rows > 0);
        let told = self.entered.take_given_up().into_iter().filter(|(_, given_up)| given_up.rows > 0);
        let told: HashMap<_, _> = told.map(|(id, given_up)| (id, GivenUp { bytes: 0, ..given_up })).collect();
        assert_eq!(told, given_up, "exactly what sessions were owed until now");
        assert_eq!(self.entered.batch().bytes, 0, "nothing of them is kept");
        assert!(self.entered.batch().debts.is_empty());
    }

    /// What is on disk; bodies exactly those that are owed.
    fn read(&self) -> World {
        let mut world = World::default();
        let (kept, _, remains) = load::read_sessions(&self.connection).expect("read");
        assert_eq!(remains, [], "nothing is left of sessions that are gone");
        for kept in kept {
            let id = kept.session.id;
            let rows = page::read(&self.connection, id, 0, usize::MAX, None).expect("read");
            assert!(rows.is_sorted_by_key(|row| row.ordinal));
            assert!(rows.last().is_none_or(|row| row.ordinal + 1024 <= kept.next_ordinal));
            let bytes: usize = rows.iter().map(|row| row.message.bytes_with(&row.identifiers)).sum();
            assert_eq!((kept.owed_count, kept.owed_bytes), (rows.len() as u64, bytes as u64));
            let number = |text: &[u8]| std::str::from_utf8(text).expect("text").parse::<u64>().expect("a number");
            let owed = rows.into_iter().map(|row| {
                let payload = (!row.released).then(|| number(&row.message.payload));
                assert!(row.qos == 2 && row.retain);
                assert!(payload.is_none_or(|payload| row.identifiers == [mark(payload)]));
                (row.ordinal, payload)
            });
            let owed = owed.collect();
            let filters = kept.subscriptions.iter().map(|row| row.filter.as_bytes()[2] - b'0').collect();
            let received = kept.received.into_iter().collect();
            world.sessions.insert(id, Session { dropped: kept.session.dropped, filters, received, owed });
        }
        for row in load::read_retained(&self.connection).expect("read") {
            let payload: u64 = std::str::from_utf8(&row.payload).expect("text").parse().expect("a number");
            let left_by = row.source.map(|source| source.client.to_string());
            assert_eq!(
                left_by,
                payload.is_multiple_of(2).then(|| payload.to_string()),
                "of this message, or of nobody"
            );
            world.retained.insert(row.topic.to_string(), payload);
        }
        self.check_bodies();
        world
    }

    fn check_bodies(&self) {
        let wrong = "SELECT
            (SELECT count(*) FROM message WHERE id NOT IN (SELECT message FROM owed WHERE message NOT NULL))
          + (SELECT count(*) FROM owed WHERE message NOT NULL AND message NOT IN (SELECT id FROM message))
          + (SELECT count(*) FROM share WHERE rows <> (SELECT count(*) FROM owed WHERE owed.message = share.message))
          + (SELECT count(*) FROM (SELECT message FROM owed WHERE message NOT NULL GROUP BY message HAVING count(*) > 1)
             WHERE message NOT IN (SELECT message FROM share))";
        let wrong: i64 = self.connection.query_row(wrong, [], |row| row.get(0)).expect("read");
        assert_eq!(wrong, 0, "each body lies there once, and as long as it is owed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_is_cut_or_fails_the_disk_holds_what_had_been_entered_and_nobody_is_told_otherwise(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.commit();
        run.commit();
        prop_assert!(run.entered.batch().is_empty());
    }
}
