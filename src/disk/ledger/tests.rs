//! The ledger as the broker uses it, and in `trouble`.

mod trouble;

use std::sync::Arc;

use super::*;
use crate::disk::database;

fn ready(mut committed: Committed) -> Option<Result<(), NotCommitted>> {
    committed.try_recv().ok()
}

async fn told(entered: Result<Committed, NotCommitted>) -> Result<(), NotCommitted> {
    entered?.await.expect("told")
}

fn message(payload: &str) -> Arc<MessageRow> {
    let payload = payload.to_owned().into();
    Arc::new(MessageRow { topic: "t".into(), qos: 1, payload, properties: bytes::Bytes::new(), expires_unix_ms: None })
}

fn owing(ordinal: u64) -> Owing {
    Owing { ordinal, qos: 1, retain: false, identifiers: vec![7, 268_435_455] }
}

fn session(id: SessionId, client: &str) -> SessionRow {
    let (client_id, owner) = (client.into(), "anonymous".into());
    SessionRow { id, client_id, owner, version: 5, expiry_s: 60, left_unix_ms: None, dropped: 0, sent_below: None }
}

#[tokio::test]
async fn what_is_owed_is_there_after_a_reopen_until_it_is_settled() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(found.sessions.is_empty());
    let (a, b) = (ledger.new_session(), ledger.new_session());
    for (id, client) in [(a, "a"), (b, "b")] {
        ledger.session(session(id, client));
        let filter: Arc<str> = "x/#".into();
        ledger.subscription(id, filter.clone(), Some(SubscriptionRow { filter, options: 1, identifier: Some(9) }));
    }
    let first = ledger.owe(message("1"), &[(a, owing(1)), (b, owing(1))], None);
    let second = ledger.owe(message("2"), &[(a, owing(2))], Some((b, 5)));
    assert_eq!((told(first).await, told(second).await), (Ok(()), Ok(())));
    let page = ledger.page(a, 1, 1000).await.expect("told").expect("read");
    assert_eq!(page.iter().map(|row| &row.message.payload[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(page[0].identifiers, [7, 268_435_455]);
    let cancelled = ledger.owe(message("3"), &[(a, owing(3))], None);
    ledger.settle(a, 3);
    assert_eq!(ready(cancelled.expect("taken")), Some(Ok(())), "nobody is owed it any more");
    ledger.settle(a, 1);
    assert_eq!(ledger.release(a, 2).await.expect("told"), Ok(()));
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    let kept = &found.sessions;
    assert_eq!(kept.iter().map(|kept| kept.session.clone()).collect::<Vec<_>>(), [session(a, "a"), session(b, "b")]);
    assert_eq!((kept[0].owed_count, kept[0].owed_bytes, kept[1].owed_count, kept[1].owed_bytes), (1, 0, 1, 10));
    assert_eq!((kept[1].received.as_slice(), kept[1].subscriptions.len()), (&[5][..], 1));
    assert!(kept[0].next_ordinal >= 1027, "{}", kept[0].next_ordinal);
    assert_eq!(kept[0].next_ordinal % u64::from(OWED_IDS), (2 + 1024) % u64::from(OWED_IDS));
    let page = ledger.page(a, 0, 1000).await.expect("told").expect("read");
    assert!(page.len() == 1 && page[0].released && page[0].ordinal == 2);
    assert!(ledger.new_session() > b);
    assert_eq!(ledger.finish(b, 5).await.expect("told"), Ok(()));
    assert_eq!(ledger.finish(b, 5).await.expect("told"), Ok(()), "it is gone already");
}

#[tokio::test]
async fn what_has_ended_is_found_but_for_what_was_sent_at_qos_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ledger, _) = Ledger::open(&dir.path().join("broker.db")).expect("a thread");
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    for (ordinal, qos) in [(1, 2), (2, 1), (3, 2), (4, 1)] {
        let message = MessageRow { expires_unix_ms: Some(7), ..MessageRow::clone(&message("x")) };
        let entered = ledger.owe(Arc::new(message), &[(id, Owing { qos, ..owing(ordinal) })], None);
        assert_eq!(told(entered).await, Ok(()));
    }
    for (begun_below, found) in [(0, vec![1, 2, 3, 4]), (3, vec![2, 3, 4]), (u64::MAX, vec![2, 4])] {
        let ended = ledger.ended(id, begun_below, |expires| expires == 7).await.expect("told");
        assert_eq!(ended.iter().map(|ended| ended.ordinal).collect::<Vec<_>>(), found, "{begun_below}");
    }
}

#[tokio::test]
async fn in_a_file_that_is_begun_anew_ordinals_go_on_where_they_were() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let id = ledger.new_session();
    let away = || SessionRow { sent_below: Some(5000), ..session(id, "a") };
    ledger.session(away());
    assert_eq!(told(ledger.owe(message("1"), &[(id, owing(4999))], None)).await, Ok(()));
    ledger.begin_anew();
    ledger.session(away());
    ledger.ordinals_below(id, 5000);
    assert_eq!(ledger.committed().await.expect("told"), Ok(()));
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    let kept = &found.sessions[0];
    assert_eq!((kept.next_ordinal, kept.session.sent_below, kept.owed_count), (5000, Some(5000), 0));
    assert_eq!(told(ledger.owe(message("2"), &[(id, owing(5000))], None)).await, Ok(()));
    drop(ledger);
    let (_, found) = Ledger::open(&path).expect("a thread");
    assert!(found.sessions[0].next_ordinal >= 5001 + 1024);
}

#[test]
fn a_packet_id_may_be_used_again_only_when_its_removal_is_on_disk_however_often_that_is_asked_for() {
    let (to, from) = (SessionId(1), SessionId(2));
    let mut entered = pending::Entered::default();
    let untouched = || pending::Retained::Untouched;
    let publish =
        Publish { message: message("1"), to: &[(to, owing(1))], received: Some((from, 7)), retained: untouched() };
    entered.owe(publish, oneshot::channel().0);
    entered.take().committed();
    let ask = |entered: &mut pending::Entered| {
        let (told, committed) = oneshot::channel();
        entered.finish(from, 7, told);
        committed
    };
    let (mut first, mut again) = (ask(&mut entered), ask(&mut entered));
    let batch = entered.take();
    let mut under_way = ask(&mut entered);
    for waits in [&mut first, &mut again, &mut under_way] {
        assert!(waits.try_recv().is_err());
    }
    batch.committed();
    assert_eq!((ready(first), ready(again)), (Some(Ok(())), Some(Ok(()))));
    assert!(under_way.try_recv().is_err());
    entered.take().committed();
    assert_eq!(ready(under_way), Some(Ok(())));
}

#[test]
fn what_a_failed_commit_gave_up_is_told_once_and_what_was_settled_before_or_comes_after_is_no_part_of_it() {
    let id = SessionId(1);
    let mut entered = pending::Entered::default();
    let owe = |entered: &mut pending::Entered, ordinal| {
        let (to, (told, mut committed)) = ([(id, owing(ordinal))], oneshot::channel());
        let retained = pending::Retained::Untouched;
        entered.owe(Publish { message: message("123"), to: &to, received: None, retained }, told);
        assert!(committed.try_recv().is_err());
    };
    (0..3).for_each(|ordinal| owe(&mut entered, ordinal));
    assert!(entered.settle(id, 0), "by a subscriber that is quick");
    let under_way = entered.take();
    assert!(entered.settle(id, 1), "while it is being committed");
    owe(&mut entered, 3);
    assert_eq!(entered.failed(under_way), 3, "two under way, one behind them");
    let lost = GivenUp { rows: 2, bytes: 2 * (1 + 3 + 8) };
    assert_eq!(entered.take_given_up(), HashMap::from([(id, lost)]));
    assert!(!entered.settle(id, 2) && !entered.settle(id, 3), "its charge has been given back already");
    owe(&mut entered, 4);
    entered.take().committed();
    assert!(entered.settle(id, 4));
    assert!(entered.take_given_up().is_empty());
}

#[test]
fn a_session_that_was_never_on_disk_leaves_nothing_to_be_done_when_it_ends() {
    let id = SessionId(1);
    let mut entered = pending::Entered::default();
    entered.session(session(id, "a"));
    entered.subscription(id, "f".into(), None);
    entered.forget(id);
    assert!(!entered.batch().has_changes());
    entered.session(session(id, "a"));
    let batch = entered.take();
    entered.forget(id);
    assert!(entered.batch().has_changes(), "it may be on disk by then");
    entered.failed(batch);
    assert!(entered.batch().has_changes());
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn retained_messages_of_the_time_before_sessions_are_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, before) = (dir.path().join("broker.db"), dir.path().join("retained.db"));
    let made = database::open(&before).expect("opens");
    made.execute_batch(
        "CREATE TABLE retained (topic TEXT PRIMARY KEY, qos INTEGER NOT NULL, payload BLOB NOT NULL,
             properties BLOB NOT NULL, expires INTEGER) WITHOUT ROWID;
         PRAGMA user_version = 1;
         INSERT INTO retained VALUES ('a', 2, x'31', x'32', 5), ('b', 2, x'31', x'32', 5);",
    )
    .expect("made");
    drop(made);
    let row = |topic: &str| {
        let (payload, properties) = ("1".into(), "2".into());
        Row { topic: topic.into(), qos: 2, payload, properties, expires_unix_ms: Some(5), source: None }
    };
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.rows, [row("a"), row("b")]);
    assert!(!before.exists() && path.exists());
    assert_eq!(ledger.change("a".into(), None).await.expect("told"), Ok(()));
    drop(ledger);
    let (_, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.rows, [row("b")]);
}

#[tokio::test]
async fn who_left_a_retained_message_is_kept_with_it_and_an_older_program_may_go_on_with_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let row = |topic: &str, client: Option<&str>| {
        let (payload, properties) = ("1".into(), bytes::Bytes::new());
        let source = client.map(|client| Source { owner: "user:x".into(), client: client.into() });
        Row { topic: topic.into(), qos: 1, payload, properties, expires_unix_ms: None, source }
    };
    let put = async |ledger: &Ledger, row: Row| {
        assert_eq!(ledger.change(Arc::clone(&row.topic), Some(row)).await.expect("told"), Ok(()));
    };
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    for (topic, client) in [("a", Some("1")), ("b", Some("2")), ("c", None), ("d", Some("3"))] {
        put(&ledger, row(topic, client)).await;
    }
    put(&ledger, row("a", Some("4"))).await;
    put(&ledger, row("d", None)).await;
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.rows, [row("a", Some("4")), row("b", Some("2")), row("c", None), row("d", None)]);
    drop(ledger);
    // What a program does that knows nothing of sources.
    let older = |sql: &str| rusqlite::Connection::open(&path).expect("open").execute_batch(sql).expect("done");
    older("INSERT OR REPLACE INTO retained VALUES ('a', 1, x'31', x'', NULL); DELETE FROM retained WHERE topic = 'b'");
    older("INSERT INTO retained VALUES ('b', 1, x'31', x'', NULL)");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.rows, ["a", "b", "c", "d"].map(|topic| row(topic, None)));
    drop(ledger);
    // And what it wrote before there were any.
    older("DROP TRIGGER retained_anew; DROP TRIGGER retained_gone; DROP TABLE source");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!((found.rows.len(), found.set_aside), (4, None));
    put(&ledger, row("c", Some("5"))).await;
    drop(ledger);
    let (_, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.rows[2], row("c", Some("5")));
}

#[tokio::test]
async fn what_a_sensor_is_known_by_lies_with_its_session_and_goes_with_it_whatever_program_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let row = |payload: &str| {
        let will = WillRow { topic: "wills/a".into(), payload: payload.to_owned().into(), qos: 2, retain: true };
        SensorRow { will: Some(will), known: vec![(1, 0), (0xFFFE, u64::MAX)] }
    };
    let sensors = |found: Found| found.sessions.into_iter().map(|kept| kept.sensor).collect::<Vec<_>>();
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let ids = [0; 3].map(|_| ledger.new_session());
    for (id, client) in ids.into_iter().zip(["a", "b", "c"]) {
        ledger.session(session(id, client));
        ledger.sensor(id, row("1"));
    }
    ledger.sensor(ids[0], row("2"));
    ledger.sensor(ids[1], SensorRow::default());
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(sensors(found), [Some(row("2")), Some(SensorRow::default()), Some(row("1"))]);
    ledger.forget(ids[1]);
    drop(ledger);
    // What a program does that knows nothing of sensors, and what it wrote before there were any.
    let older = |sql: &str| rusqlite::Connection::open(&path).expect("open").execute_batch(sql).expect("done");
    older(&format!("DELETE FROM session WHERE id = {}", ids[0].0));
    let count = |table| {
        let sql = format!("SELECT count(*) FROM {table}");
        rusqlite::Connection::open(&path).expect("open").query_row(&sql, [], |row| row.get(0))
    };
    assert_eq!((count("session"), count("sensor")), (Ok(1), Ok(1)));
    older("DROP TRIGGER session_gone; DROP TABLE sensor");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert_eq!((found.set_aside.clone(), sensors(found)), (None, vec![None]));
    ledger.sensor(ids[2], row("3"));
    drop(ledger);
    assert_eq!(sensors(Ledger::open(&path).expect("a thread").1), [Some(row("3"))]);
}

#[tokio::test]
async fn a_queue_that_fills_and_drains_gives_its_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    let body = message(&"x".repeat(10_000));
    let size = || std::fs::metadata(&path).map_or(0, |file| file.len());
    let mut ordinal = 0;
    let mut most = 0;
    for _ in 0..3 {
        let first = ordinal + 1;
        for _ in 0..1000 {
            ordinal += 1;
            assert!(ledger.owe(body.clone(), &[(id, owing(ordinal))], None).is_ok());
        }
        assert_eq!(ledger.committed().await.expect("told"), Ok(()));
        most = most.max(size());
        (first..=ordinal).for_each(|ordinal| assert!(ledger.settle(id, ordinal)));
        assert_eq!(ledger.committed().await.expect("told"), Ok(()));
    }
    assert!(most < 16 << 20, "it does not grow with every round: {most}");
    until("given back", || {
        drop(ledger.committed());
        size() < 3 << 20
    })
    .await;
    let figures = ledger.figures();
    assert!(figures.rows == 3000 && figures.written_bytes > 30_000_000, "{figures:?}");
    drop(ledger);
    assert!(size() < 3 << 20, "{}", size());
}
