//! The ledger as the broker uses it.

use std::sync::Arc;

use super::*;

fn ready(mut committed: Committed) -> Option<Result<(), NotCommitted>> {
    committed.try_recv().ok()
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
    assert_eq!((first.await.expect("told"), second.await.expect("told")), (Ok(()), Ok(())));
    let page = ledger.page(a, 1, 1000).await.expect("told").expect("read");
    assert_eq!(page.iter().map(|row| &row.message.payload[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(page[0].identifiers, [7, 268_435_455]);
    let cancelled = ledger.owe(message("3"), &[(a, owing(3))], None);
    ledger.settle(a, 3);
    assert_eq!(ready(cancelled), Some(Ok(())), "nobody is owed it any more");
    ledger.settle(a, 1);
    assert_eq!(ledger.release(a, 2).await.expect("told"), Ok(()));
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    let kept = &found.sessions;
    assert_eq!(kept.iter().map(|kept| kept.session.clone()).collect::<Vec<_>>(), [session(a, "a"), session(b, "b")]);
    assert_eq!((kept[0].owed_count, kept[0].owed_bytes, kept[1].owed_count, kept[1].owed_bytes), (1, 0, 1, 10));
    assert_eq!((kept[1].received.as_slice(), kept[1].subscriptions.len()), (&[5][..], 1));
    assert!(kept[0].next_ordinal >= 1027, "{}", kept[0].next_ordinal);
    assert_eq!(kept[0].next_ordinal % PACKET_IDS, (2 + 1024) % PACKET_IDS);
    let page = ledger.page(a, 0, 1000).await.expect("told").expect("read");
    assert!(page.len() == 1 && page[0].released && page[0].ordinal == 2);
    assert!(ledger.new_session() > b);
    assert_eq!(ledger.finish(b, 5).await.expect("told"), Ok(()));
    assert_eq!(ledger.finish(b, 5).await.expect("told"), Ok(()), "it is gone already");
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

/// A ledger on an open file that has been limited to so many pages: a full disk.
fn limited(path: &Path, pages: u32) -> Ledger {
    let opened = load::open(path).expect("opens");
    opened.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).expect("limited");
    let shared = Arc::new(Shared::new(State::default()));
    let writer = Writer::new(&shared, path, Some(opened.connection));
    let thread = std::thread::spawn(move || writer.run());
    Ledger { shared, thread: Mutex::new(Some(thread)) }
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
async fn on_a_full_disk_nothing_is_promised_nothing_grows_what_is_there_is_read_and_room_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = limited(&dir.path().join("broker.db"), 200);
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    let body = message(&"x".repeat(20_000));
    let mut kept = 0;
    while ledger.owe(body.clone(), &[(id, owing(kept + 1))], None).await.expect("told") == Ok(()) {
        kept += 1;
    }
    assert!(ledger.trouble().expect("in trouble").contains("full") && kept > 20, "{kept}");
    for ordinal in 1..1000 {
        let refused = ledger.owe(body.clone(), &[(id, owing(kept + 1 + ordinal))], None);
        assert!(ready(refused) != Some(Ok(())) || ledger.trouble().is_none());
        ledger.change_at_leisure("still".into(), None);
    }
    assert!(ledger.shared.lock().entered.batch().bytes < 25_000, "refused, not kept");
    let page = ledger.page(id, 0, usize::MAX).await.expect("told").expect("read");
    assert!(page.len() as u64 >= kept, "what was acknowledged can be read");
    assert!(ledger.figures().refused > 0);
    ledger.settle(id, 1);
    ledger.settle(id, 2);
    until("it works again", || ledger.trouble().is_none()).await;
    assert_eq!(ledger.committed().await.expect("told"), Ok(()));
    let page = ledger.page(id, 0, 1).await.expect("told").expect("read");
    assert_eq!((page.len(), page[0].ordinal), (1, 3));
}

#[tokio::test]
async fn a_publish_that_was_refused_is_not_confirmed_when_its_sender_asks_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = limited(&dir.path().join("broker.db"), 40);
    let (to, from) = (ledger.new_session(), ledger.new_session());
    ledger.session(session(to, "a"));
    ledger.session(session(from, "b"));
    let taken = ledger.owe(message("small"), &[(to, owing(1))], Some((from, 1)));
    assert_eq!(taken.await.expect("told"), Ok(()));
    let large = message(&"x".repeat(1_000_000));
    // The second is refused at once, the disk being known to be full.
    for packet_id in [2, 3] {
        let refused = ledger.owe(large.clone(), &[(to, owing(packet_id.into()))], Some((from, packet_id)));
        assert_eq!(refused.await.expect("told"), Err(NotCommitted));
    }
    until("there is room", || ledger.trouble().is_none()).await;
    assert_eq!(ledger.confirm(from, 1).await.expect("told"), Ok(()));
    for packet_id in [2, 3] {
        assert_eq!(ledger.confirm(from, packet_id).await.expect("told"), Err(NotCommitted));
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_at_start_is_told_and_its_content_comes_once_it_can() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, away) = (dir.path().join("broker.db"), dir.path().join("away"));
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let old = ledger.new_session();
    ledger.session(session(old, "old"));
    assert_eq!(ledger.owe(message("1"), &[(old, owing(1))], None).await.expect("told"), Ok(()));
    drop(ledger);
    std::fs::rename(&path, &away).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(ledger.trouble().is_some() && found.sessions.is_empty());
    let new = ledger.new_session();
    assert_ne!(new, old, "its keys are not known");
    ledger.session(session(new, "new"));
    assert_eq!(ready(ledger.owe(message("2"), &[(new, owing(1))], None)), Some(Err(NotCommitted)));
    assert_eq!(ready(ledger.change("r".into(), None)), Some(Err(NotCommitted)));
    std::fs::remove_dir(&path).expect("gone");
    std::fs::rename(&away, &path).expect("back");
    until("it works", || ledger.trouble().is_none()).await;
    let late = ledger.found_late().expect("what the file held");
    assert_eq!((late.sessions.len(), late.sessions[0].session.id, late.sessions[0].owed_count), (1, old, 1));
    assert_eq!(ledger.page(old, 0, 100).await.expect("told").expect("read").len(), 1);
    drop(ledger);
    let (_, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.sessions.iter().map(|kept| kept.session.id).collect::<Vec<_>>(), [old, new]);
}

#[tokio::test]
async fn retained_messages_of_the_time_before_sessions_are_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, before) = (dir.path().join("broker.db"), dir.path().join("retained.db"));
    let (file, _) = crate::disk::retained::RetainedFile::open(&before).expect("a thread");
    let row = |topic: &str| {
        let (payload, properties) = ("1".into(), "2".into());
        Row { topic: topic.into(), qos: 2, payload, properties, expires_unix_ms: Some(5), source: None }
    };
    for topic in ["a", "b"] {
        assert_eq!(file.change(topic.into(), Some(row(topic))).await.expect("told"), Ok(()));
    }
    drop(file);
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
async fn a_damaged_file_is_set_aside_at_start_and_an_emptied_one_too() {
    for content in [&[0x55; 8192][..], b""] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("broker.db");
        std::fs::write(&path, content).expect("written");
        let (ledger, found) = Ledger::open(&path).expect("a thread");
        let aside = found.set_aside.expect("told");
        assert_eq!(aside, dir.path().join("broker.db.damaged"));
        assert!(aside.exists());
        assert_eq!(ledger.change("a".into(), None).await.expect("told"), Ok(()));
    }
}

#[tokio::test]
async fn a_number_on_disk_that_nobody_can_have_counted_to_is_damage_and_no_panic() {
    let wrong = [
        "UPDATE session SET mark = -1",
        "UPDATE session SET mark = 9223372036854775807",
        "UPDATE session SET sent = -5",
        "UPDATE session SET id = -7",
        "UPDATE session SET id = 9223372036854775807",
        "UPDATE owed SET ordinal = -1",
        "UPDATE owed SET ordinal = 9223372036854775807",
        "UPDATE owed SET bytes = -9223372036854775808",
        "UPDATE mark SET number = 9223372036854775807",
    ];
    for sql in wrong {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("broker.db");
        let (ledger, _) = Ledger::open(&path).expect("a thread");
        let id = ledger.new_session();
        ledger.session(session(id, "a"));
        assert_eq!(ledger.owe(message("1"), &[(id, owing(1))], None).await.expect("told"), Ok(()));
        drop(ledger);
        let connection = rusqlite::Connection::open(&path).expect("open");
        connection.execute(sql, []).expect("changed");
        drop(connection);
        let (ledger, found) = Ledger::open(&path).expect("a thread");
        assert!(found.set_aside.is_some() && found.sessions.is_empty(), "{sql}");
        let id = ledger.new_session();
        ledger.session(session(id, "a"));
        assert_eq!(ledger.committed().await.expect("told"), Ok(()), "{sql}");
    }
}

#[tokio::test]
async fn damage_found_in_use_stops_all_promises_until_a_new_file_is_asked_for() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    let body = message(&"x".repeat(100_000));
    for ordinal in 1..100 {
        let owed = ledger.owe(body.clone(), &[(id, owing(ordinal))], None);
        if ordinal % 30 == 0 {
            assert_eq!(owed.await.expect("told"), Ok(()));
        }
    }
    let log = path.with_file_name("broker.db-wal");
    for file in [&path, &log] {
        let file = std::fs::File::options().write(true).open(file).expect("open");
        for page in 2..file.metadata().expect("there").len() / 4096 {
            file.write_all_at(&[0xFF; 4096], page * 4096).expect("written");
        }
    }
    let read = ledger.page(id, 0, usize::MAX).await.expect("told");
    assert!(read.is_err() && ledger.is_damaged(), "{:?}", ledger.trouble());
    assert_eq!(ready(ledger.owe(body.clone(), &[(id, owing(100))], None)), Some(Err(NotCommitted)));
    ledger.begin_anew();
    ledger.session(session(id, "a"));
    until("it works", || ledger.trouble().is_none()).await;
    assert!(!ledger.is_damaged() && dir.path().join("broker.db.damaged").exists());
    assert_eq!(ledger.owe(body, &[(id, owing(101))], None).await.expect("told"), Ok(()));
    let next = ledger.new_session();
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(found.sessions.len() == 1 && found.sessions[0].owed_count == 1 && ledger.new_session() >= next);
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
            drop(ledger.owe(body.clone(), &[(id, owing(ordinal))], None));
        }
        assert_eq!(ledger.committed().await.expect("told"), Ok(()));
        most = most.max(size());
        (first..=ordinal).for_each(|ordinal| ledger.settle(id, ordinal));
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
