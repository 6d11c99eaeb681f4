//! Disks that are full or fail, files that are damaged or cannot be opened.

use std::path::PathBuf;

use super::*;
use crate::disk::image::REFUSING;

#[tokio::test]
async fn on_a_disk_in_trouble_what_gathers_is_bounded_and_once_it_works_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    drop(Ledger::open(&path).expect("a thread"));
    std::fs::rename(&path, dir.path().join("away")).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    assert!(!ledger.is_known());
    let name = |n: usize, byte: &str| -> Arc<str> { format!("{n}{}", byte.repeat(10_000)).into() };
    for n in 0..60 {
        assert!(!ledger.is_crowded(), "{n}");
        ledger.change_at_leisure(name(n, "x"), None);
        ledger.change_at_leisure(name(0, "x"), None);
    }
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    let mut filters = 0;
    while !ledger.is_crowded() {
        ledger.subscription(id, name(filters, "y"), None);
        filters += 1;
        assert!(filters < 60);
    }
    std::fs::remove_dir(&path).expect("gone");
    std::fs::rename(dir.path().join("away"), &path).expect("back");
    until("it works", || ledger.trouble().is_none()).await;
    assert!(!ledger.is_crowded() && !ledger.is_known(), "the broker has not been told");
    assert!(ledger.found_late().is_some() && ledger.is_known());
}

#[tokio::test]
async fn a_retained_message_that_is_cleared_before_its_file_can_be_read_does_not_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    for topic in ["before", "after", "kept"] {
        let (payload, properties) = ("1".into(), bytes::Bytes::new());
        let row = Row { topic: topic.into(), qos: 1, payload, properties, expires_unix_ms: None, source: None };
        assert_eq!(ledger.change(topic.into(), Some(row)).await.expect("told"), Ok(()));
    }
    drop(ledger);
    std::fs::rename(&path, dir.path().join("away")).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    ledger.change_at_leisure("before".into(), None);
    std::fs::remove_dir(&path).expect("gone");
    std::fs::rename(dir.path().join("away"), &path).expect("back");
    until("it works", || ledger.trouble().is_none()).await;
    ledger.change_at_leisure("after".into(), None);
    let late = ledger.found_late().expect("what the file held");
    assert_eq!(late.rows.iter().map(|row| &*row.topic).collect::<Vec<_>>(), ["kept"]);
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

#[tokio::test]
async fn on_a_full_disk_nothing_is_promised_nothing_grows_what_is_there_is_read_and_room_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = limited(&dir.path().join("broker.db"), 200);
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    let body = message(&"x".repeat(20_000));
    let mut kept = 0;
    while told(ledger.owe(body.clone(), &[(id, owing(kept + 1))], None)).await == Ok(()) {
        kept += 1;
    }
    assert!(ledger.trouble().expect("in trouble").contains("full") && kept > 20, "{kept}");
    for ordinal in 1..1000 {
        let refused = ledger.owe(body.clone(), &[(id, owing(kept + 1 + ordinal))], None);
        assert!(refused.is_err() || ledger.trouble().is_none());
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
    assert_eq!(told(taken).await, Ok(()));
    let large = message(&"x".repeat(1_000_000));
    // The second is refused at once, the disk being known to be full.
    for packet_id in [2, 3] {
        let refused = ledger.owe(large.clone(), &[(to, owing(packet_id.into()))], Some((from, packet_id)));
        assert_eq!(told(refused).await, Err(NotCommitted));
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
    assert_eq!(told(ledger.owe(message("1"), &[(old, owing(1))], None)).await, Ok(()));
    drop(ledger);
    std::fs::rename(&path, &away).expect("moved");
    std::fs::create_dir(&path).expect("something in the way");
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(ledger.trouble().is_some() && found.sessions.is_empty());
    let new = ledger.new_session();
    assert_ne!(new, old, "its keys are not known");
    ledger.session(session(new, "new"));
    assert!(ledger.owe(message("2"), &[(new, owing(1))], None).is_err());
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
async fn a_first_start_on_a_disk_that_takes_no_file_is_no_damage_and_the_file_is_made_once_it_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, draft) = (dir.path().join("broker.db"), dir.path().join("broker.db.draft"));
    std::fs::create_dir(&draft).expect("something in the way of the new file");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    until("it is told", || ledger.trouble().is_some()).await;
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    assert!(!path.exists());
    std::fs::remove_dir(&draft).expect("gone");
    until("it works", || ledger.trouble().is_none()).await;
    assert!(!ledger.is_damaged());
    drop(ledger);
    let (_, found) = Ledger::open(&path).expect("a thread");
    assert_eq!(found.sessions.iter().map(|kept| kept.session.clone()).collect::<Vec<_>>(), [session(id, "a")]);
    assert_eq!(found.set_aside, None);
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

#[test]
fn a_file_that_is_set_aside_takes_its_log_with_it_and_none_is_left_for_the_new_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name);
    let path = place("broker.db");
    for (file, log) in [("one", Some("log of one")), ("two", None), ("three", Some("log of three"))] {
        std::fs::write(&path, file).expect("written");
        if let Some(log) = log {
            std::fs::write(place("broker.db-wal"), log).expect("written");
        }
        assert_eq!(load::set_aside(&path), Ok(place("broker.db.damaged")));
        assert_eq!(std::fs::read_to_string(place("broker.db.damaged")).expect("there"), file);
        assert_eq!(std::fs::read_to_string(place("broker.db.damaged-wal")).ok().as_deref(), log);
        assert!(!path.exists() && !place("broker.db-wal").exists());
    }
    // A crash came between the two.
    std::fs::rename(place("broker.db.damaged-wal"), place("broker.db-wal")).expect("moved");
    load::open(&path).expect("a new one");
    assert_eq!(std::fs::read_to_string(place("broker.db.damaged-wal")).expect("there"), "log of three");
}

/// The file of a ledger with one session that is owed one message, moved out of the way of something that refuses reads.
async fn refused(dir: &Path) -> (PathBuf, PathBuf) {
    let (path, away) = (dir.join("broker.db"), dir.join("away"));
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    assert_eq!(told(ledger.owe(message("1"), &[(id, owing(1))], None)).await, Ok(()));
    drop(ledger);
    std::fs::rename(&path, &away).expect("moved");
    std::os::unix::fs::symlink(REFUSING, &path).expect("made");
    (path, away)
}

#[tokio::test]
async fn a_file_that_the_medium_refuses_is_no_damage_and_its_content_comes_once_it_is_given() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, away) = refused(dir.path()).await;
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(ledger.trouble().is_some() && !ledger.is_known() && !ledger.is_damaged());
    assert_eq!(found.set_aside, None);
    std::fs::rename(&away, &path).expect("back");
    until("it works", || ledger.trouble().is_none()).await;
    let late = ledger.found_late().expect("what the file held");
    assert_eq!((late.sessions[0].owed_count, late.set_aside), (1, None));
}

#[tokio::test]
async fn a_file_that_the_medium_refuses_for_ever_is_given_up_and_a_new_one_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, _) = refused(dir.path()).await;
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    until("it is given up", || ledger.is_damaged()).await;
    assert!(ledger.trouble().is_some() && !ledger.is_known());
    ledger.begin_anew();
    until("it works", || ledger.trouble().is_none()).await;
    assert!(ledger.is_known() && dir.path().join("broker.db.damaged").is_symlink());
    let id = ledger.new_session();
    ledger.session(session(id, "a"));
    assert_eq!(told(ledger.owe(message("2"), &[(id, owing(1))], None)).await, Ok(()));
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
        assert_eq!(told(ledger.owe(message("1"), &[(id, owing(1))], None)).await, Ok(()));
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

/// A ledger that was closed, and its file changed by a fault.
async fn changed_by(fault: impl FnOnce(&Path)) -> (tempfile::TempDir, Ledger, Found) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.db");
    let (ledger, _) = Ledger::open(&path).expect("a thread");
    for client in ["a", "b"] {
        ledger.session(session(ledger.new_session(), client));
    }
    assert_eq!(ledger.committed().await.expect("told"), Ok(()));
    drop(ledger);
    fault(&path);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    (dir, ledger, found)
}

#[tokio::test]
async fn a_file_whose_header_forbids_writing_is_set_aside_and_not_refused_for_ever() {
    use std::os::unix::fs::FileExt as _;
    let flip = |path: &Path| {
        let file = std::fs::File::options().write(true).open(path).expect("opens");
        file.write_all_at(&[0x82], 18).expect("as a bit flips in the write version");
    };
    let (_dir, ledger, found) = changed_by(flip).await;
    assert!(found.set_aside.is_some() && ledger.trouble().is_none(), "{:?}", ledger.trouble());
    ledger.session(session(ledger.new_session(), "a"));
    assert_eq!(ledger.committed().await.expect("told"), Ok(()));
}

#[tokio::test]
async fn a_row_that_counts_a_message_that_is_not_there_refuses_none_that_comes() {
    let put = |path: &Path| {
        let file = rusqlite::Connection::open(path).expect("opens");
        file.execute("INSERT INTO share VALUES (1, 7)", []).expect("put");
    };
    let (_dir, ledger, found) = changed_by(put).await;
    let [a, b] = [0, 1].map(|place: usize| found.sessions[place].session.id);
    assert_eq!(told(ledger.owe(message("1"), &[(a, owing(70_000)), (b, owing(70_000))], None)).await, Ok(()));
    for id in [a, b] {
        ledger.settle(id, 70_000);
    }
    assert_eq!(ledger.committed().await.expect("told"), Ok(()));
    assert!(ledger.trouble().is_none() && !ledger.is_damaged());
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
            assert_eq!(told(owed).await, Ok(()));
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
    assert!(ledger.owe(body.clone(), &[(id, owing(100))], None).is_err());
    ledger.begin_anew();
    ledger.session(session(id, "a"));
    until("it works", || ledger.trouble().is_none()).await;
    assert!(!ledger.is_damaged() && dir.path().join("broker.db.damaged").exists());
    assert_eq!(told(ledger.owe(body, &[(id, owing(101))], None)).await, Ok(()));
    let next = ledger.new_session();
    drop(ledger);
    let (ledger, found) = Ledger::open(&path).expect("a thread");
    assert!(found.sessions.len() == 1 && found.sessions[0].owed_count == 1 && ledger.new_session() >= next);
}
