//! The command journal: written before it is acknowledged, remembered for a day, never begun twice.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ironbridge::disk::journal::{BYTES_MAX, Begun, CommandJournal, Entry, EntryId, Recalled};

const NOON: i64 = 1_795_204_800_000;

fn entry(key: Option<&str>, at_unix_ms: Option<i64>) -> Entry {
    Entry {
        key: key.map(Into::into),
        tag: "plant/pump/speed".into(),
        payload: b"42".to_vec(),
        origin: "local:hmi".into(),
        at_unix_ms,
    }
}

async fn new(journal: &CommandJournal, entry: Entry) -> EntryId {
    match journal.begin(entry).await.expect("written") {
        Begun::New(id) => id,
        known @ Begun::Known { .. } => panic!("it is new, not {known:?}"),
    }
}

/// A new journal on the same file, as after a crash: the old one is not closed in any order.
async fn again(path: &Path) -> CommandJournal {
    let journal = CommandJournal::open(path);
    assert!(journal.begin(entry(Some("opened"), None)).await.is_ok());
    journal
}

#[tokio::test]
async fn an_id_is_answered_with_its_old_result_for_a_day_across_restarts() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    let id = new(&journal, entry(Some("a"), Some(NOON))).await;
    assert_eq!(journal.begin(entry(Some("a"), Some(NOON + 5))).await.expect("known"), Begun::Known { result: None });
    journal.close(id, b"done".to_vec()).await.expect("written");
    new(&journal, entry(None, Some(NOON))).await;
    new(&journal, entry(None, Some(NOON))).await;
    let journal = again(&path).await;
    let day = 24 * 3600 * 1000;
    let known = Begun::Known { result: Some(b"done".to_vec()) };
    assert_eq!(journal.begin(entry(Some("a"), Some(NOON + day - 1))).await.expect("known"), known);
    assert_eq!(
        journal.begin(entry(Some("a"), None)).await.expect("known"),
        known,
        "without a clock nothing is forgotten"
    );
    new(&journal, entry(Some("a"), Some(NOON + day + 1))).await;
}

#[tokio::test]
async fn an_id_from_before_the_clock_was_known_or_when_it_was_ahead_is_remembered_for_a_day_and_not_for_ever() {
    let (day, year) = (24 * 3600 * 1000, 365 * 24 * 3600 * 1000);
    for at in [None, Some(NOON + 3 * year)] {
        let home = tempfile::tempdir().expect("a directory");
        let journal = CommandJournal::open(&home.path().join("commands.db"));
        let id = new(&journal, entry(Some("a"), at)).await;
        journal.close(id, b"done".to_vec()).await.expect("written");
        let recalled = |now| journal.recall("a".to_owned(), Some(now));
        let known = Begun::Known { result: Some(b"done".to_vec()) };
        assert_eq!(journal.begin(entry(Some("a"), Some(NOON))).await.expect("known"), known, "{at:?}");
        assert_eq!(recalled(NOON + day).await.expect("read"), Recalled::Ended(b"done".to_vec()), "{at:?}");
        assert_eq!(recalled(NOON + day + 1).await.expect("read"), Recalled::Unknown, "{at:?}");
        new(&journal, entry(Some("a"), Some(NOON + day + 1))).await;
    }
}

#[tokio::test]
async fn entries_without_a_time_do_not_keep_older_ones_from_being_forgotten() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    for at in [None; 110].into_iter().chain([Some(NOON); 5]) {
        let id = new(&journal, entry(None, at)).await;
        journal.close(id, b"done".to_vec()).await.expect("written");
    }
    let week = 7 * 24 * 3600 * 1000;
    for later in [NOON, NOON + week, NOON + week] {
        let id = new(&journal, entry(None, Some(later))).await;
        journal.close(id, b"done".to_vec()).await.expect("written");
    }
    drop(journal);
    let file = rusqlite::Connection::open(&path).expect("opens");
    let left: i64 = file.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).expect("counted");
    assert_eq!(left, 2);
}

#[tokio::test]
async fn an_id_whose_command_was_never_sent_is_free_at_once_and_after_a_restart() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    let refused = new(&journal, entry(Some("a"), Some(NOON))).await;
    journal.dismiss(refused, b"refused: paused".to_vec()).await.expect("written");
    assert_eq!(journal.recall("a".to_owned(), Some(NOON + 1)).await.expect("read"), Recalled::Unknown);
    let journal = again(&path).await;
    assert!(journal.unfinished().await.is_empty(), "it has ended all the same");
    let done = new(&journal, entry(Some("a"), Some(NOON + 2))).await;
    journal.close(done, b"done".to_vec()).await.expect("written");
    let known = Begun::Known { result: Some(b"done".to_vec()) };
    assert_eq!(journal.begin(entry(Some("a"), Some(NOON + 3))).await.expect("known"), known);
}

#[tokio::test]
async fn what_a_crash_left_open_is_found_once_and_can_be_closed() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    assert!(journal.unfinished().await.is_empty());
    let closed = new(&journal, entry(Some("a"), Some(NOON))).await;
    journal.close(closed, b"done".to_vec()).await.expect("written");
    let open = new(&journal, entry(Some("b"), Some(NOON))).await;
    let journal = again(&path).await;
    let unfinished = journal.unfinished().await;
    assert_eq!(unfinished.iter().map(|left| left.id).collect::<Vec<_>>(), [open]);
    assert_eq!(unfinished[0].entry, entry(Some("b"), Some(NOON)));
    journal.close(open, b"failed: unknown".to_vec()).await.expect("written");
    let known = Begun::Known { result: Some(b"failed: unknown".to_vec()) };
    assert_eq!(journal.begin(entry(Some("b"), Some(NOON))).await.expect("known"), known);
    assert!(journal.unfinished().await.is_empty());
}

#[tokio::test]
async fn a_damaged_journal_is_set_aside_and_a_new_one_begun() {
    for damage in [&b""[..], b"no database at all", &[0; 8192]] {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("commands.db");
        std::fs::write(&path, damage).expect("written");
        let journal = CommandJournal::open(&path);
        new(&journal, entry(Some("a"), Some(NOON))).await;
        assert!(home.path().join("quarantine/commands.db").exists());
    }
}

#[tokio::test]
async fn a_journal_whose_header_forbids_writing_is_set_aside_and_refuses_no_command() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    new(&journal, entry(Some("before"), Some(NOON))).await;
    end(journal, &path).await;
    let file = std::fs::File::options().write(true).open(&path).expect("opens");
    file.write_all_at(&[0x42], 18).expect("as a bit flips in the write version");
    let journal = CommandJournal::open(&path);
    new(&journal, entry(Some("after"), Some(NOON))).await;
    assert!(home.path().join("quarantine/commands.db").exists());
}

/// Ends it; what it wrote is in the file.
async fn end(journal: CommandJournal, path: &Path) {
    drop(journal);
    let (log, began) = (path.with_extension("db-wal"), Instant::now());
    while log.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "the last connection takes the log with it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Overwrites the first page of a table or an index.
fn garble(path: &Path, name: &str) {
    let file = rusqlite::Connection::open(path).expect("opens");
    let sql = "SELECT rootpage FROM sqlite_master WHERE name = ?1";
    let page: u64 = file.query_row(sql, [name], |row| row.get::<_, i64>(0)).expect("there").unsigned_abs();
    drop(file);
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.write_all_at(&[0xA5; 4096], (page - 1) * 4096).expect("written");
}

#[tokio::test]
async fn damage_behind_the_first_page_heals_when_it_is_found_and_only_the_last_damaged_file_is_kept() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    // Found when it is opened, when a command is looked for, when one is written.
    for part in ["entry_open", "entry_key", "entry"] {
        let journal = CommandJournal::open(&path);
        new(&journal, entry(Some("before"), Some(NOON))).await;
        end(journal, &path).await;
        garble(&path, part);
        let journal = CommandJournal::open(&path);
        new(&journal, entry(Some("after"), Some(NOON))).await;
        assert_eq!(journal.recall("before".to_owned(), Some(NOON)).await.expect("read"), Recalled::Unknown, "{part}");
        end(journal, &path).await;
        std::fs::remove_file(&path).expect("removed");
        let aside: Vec<_> = std::fs::read_dir(home.path().join("quarantine")).expect("there").flatten().collect();
        assert_eq!(aside.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>(), ["commands.db"], "{part}");
    }
}

#[tokio::test]
async fn a_command_under_way_when_damage_is_found_does_not_end_another_one() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    new(&journal, entry(Some("before"), Some(NOON))).await;
    end(journal, &path).await;
    garble(&path, "entry_key");
    let journal = CommandJournal::open(&path);
    let under_way = new(&journal, entry(None, Some(NOON))).await; // is not in that index
    let next = new(&journal, entry(Some("next"), Some(NOON))).await;
    assert!(home.path().join("quarantine/commands.db").exists() && next.0 > under_way.0);
    journal.close(under_way, b"done".to_vec()).await.expect("forgotten");
    assert_eq!(journal.recall("next".to_owned(), Some(NOON)).await.expect("read"), Recalled::UnderWay);
}

#[tokio::test]
async fn large_entries_make_the_oldest_go_before_they_are_many() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    let journal = CommandJournal::open(&path);
    let large = vec![b'1'; 1 << 20];
    let count = BYTES_MAX / (1 << 20) + 8;
    for n in 0..count {
        let id = new(&journal, Entry { payload: large.clone(), ..entry(Some(&n.to_string()), Some(NOON)) }).await;
        journal.close(id, b"done".to_vec()).await.expect("written");
    }
    assert_eq!(journal.recall("0".to_owned(), Some(NOON)).await.expect("read"), Recalled::Unknown);
    let newest = (count - 1).to_string();
    assert_eq!(journal.recall(newest, Some(NOON)).await.expect("read"), Recalled::Ended(b"done".to_vec()));
    end(journal, &path).await;
    assert!(std::fs::metadata(&path).expect("there").len() <= BYTES_MAX + (4 << 20));
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_refuses_and_works_once_it_can() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("not-yet/commands.db");
    std::fs::write(home.path().join("not-yet"), b"").expect("written");
    let journal = CommandJournal::open(&path);
    assert!(journal.begin(entry(Some("a"), Some(NOON))).await.is_err());
    std::fs::remove_file(home.path().join("not-yet")).expect("removed");
    new(&journal, entry(Some("a"), Some(NOON))).await;
}
