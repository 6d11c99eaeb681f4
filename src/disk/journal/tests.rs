//! A thread that is gone, a file that cannot be written for a while, a clock that is put.

use super::*;
use std::time::Duration;

async fn answered(journal: &CommandJournal) {
    tokio::time::timeout(Duration::from_secs(30), journal.answers(None)).await.expect("it answers");
}

#[tokio::test]
async fn a_thread_that_is_gone_is_not_waited_for_and_one_that_works_answers() {
    let home = tempfile::tempdir().expect("a directory");
    let (requests, inbox) = mpsc::channel(1);
    let (told, trouble) = watch::channel(None);
    drop((inbox, told));
    let gone = CommandJournal { requests, trouble };
    answered(&gone).await;
    assert!(gone.trouble().changed().await.is_err(), "who looks knows that it is gone");
    let works = CommandJournal::open(&home.path().join("commands.db"));
    answered(&works).await;
    assert!(works.trouble().has_changed().is_ok_and(|changed| !changed), "there was none");
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_says_so_before_the_first_command_and_tries_again_without_one() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    std::fs::create_dir(&path).expect("made");
    let journal = CommandJournal::open(&path);
    answered(&journal).await;
    let trouble = journal.trouble();
    assert!(trouble.borrow().as_ref().is_some_and(|why| !why.is_empty()), "nobody has sent a command yet");
    answered(&journal).await;
    assert!(trouble.borrow().is_some(), "it still is");
    std::fs::remove_dir(&path).expect("mended");
    answered(&journal).await;
    assert_eq!(*trouble.borrow(), None);
}

#[tokio::test]
async fn a_file_that_opens_and_cannot_be_written_is_known_before_the_first_command() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    answered(&CommandJournal::open(&path)).await;
    // It opens and is read, as one of another user does.
    let other = Connection::open(&path).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("nobody else may write");
    let journal = CommandJournal::open(&path);
    answered(&journal).await;
    assert!(journal.trouble().borrow().is_some());
    drop(other);
    answered(&journal).await;
    assert_eq!(*journal.trouble().borrow(), None);
}

const NOON: i64 = 1_795_204_800_000;
const DAY: i64 = 24 * 3600 * 1000;
/// When the boot began by a right clock.
const BEGAN: i64 = NOON - DAY;

async fn begun(journal: &CommandJournal, key: &str, at: i64) -> Begun {
    let (key, tag, payload) = (Some(key.to_owned()), "plant/pump".to_owned(), b"42".to_vec());
    journal.begin(Entry { key, tag, payload, origin: "cloud".into(), at_unix_ms: Some(at) }).await.expect("written")
}

async fn done(journal: &CommandJournal, key: &str, at: i64) {
    let Begun::New(id) = begun(journal, key, at).await else { panic!("{key} is new") };
    journal.close(id, b"done".to_vec()).await.expect("written");
}

async fn recalled(journal: &CommandJournal, key: &str, at: i64) -> Recalled {
    journal.recall(key.to_owned(), Some(at)).await.expect("read")
}

#[tokio::test]
async fn a_clock_that_is_put_forward_forgets_no_command_and_neither_does_the_way_back() {
    let home = tempfile::tempdir().expect("a directory");
    let journal = CommandJournal::open(&home.path().join("commands.db"));
    let (known, ended) = (Begun::Known { result: Some(b"done".to_vec()) }, Recalled::Ended(b"done".to_vec()));
    journal.reckon(BEGAN).await;
    done(&journal, "a", NOON).await;
    for glitch in 1..=3 {
        let ahead = 2 * DAY * glitch;
        journal.reckon(BEGAN + ahead).await;
        done(&journal, &format!("other {glitch}"), NOON + ahead + 1000).await;
        assert_eq!(recalled(&journal, "a", NOON + ahead + 2000).await, ended);
        assert_eq!(begun(&journal, "a", NOON + ahead + 3000).await, known, "it was done a moment ago");
        journal.reckon(BEGAN).await;
        assert_eq!(begun(&journal, "a", NOON + 5000).await, known);
    }
    for (key, later) in [("a", 0), ("other 1", 1000)] {
        assert_eq!(recalled(&journal, key, NOON + DAY + later).await, ended, "for a day");
        assert_eq!(recalled(&journal, key, NOON + DAY + 5001).await, Recalled::Unknown, "and not for ever");
    }
}

#[tokio::test]
async fn steps_too_small_to_be_followed_one_by_one_are_followed_together() {
    let home = tempfile::tempdir().expect("a directory");
    let journal = CommandJournal::open(&home.path().join("commands.db"));
    journal.reckon(BEGAN).await;
    done(&journal, "a", NOON).await;
    for step in 1..=2 * DAY / SLACK_MS {
        journal.reckon(BEGAN + step * SLACK_MS).await;
        assert_ne!(recalled(&journal, "a", NOON + step * SLACK_MS).await, Recalled::Unknown);
    }
}

#[tokio::test]
async fn a_step_before_the_first_command_of_a_run_is_seen_too() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("commands.db");
    done(&CommandJournal::open(&path), "a", NOON).await;
    let journal = CommandJournal::open(&path);
    journal.answers(None).await;
    journal.answers(Some(BEGAN)).await;
    journal.answers(Some(BEGAN + 2 * DAY)).await;
    journal.reckon(BEGAN + 2 * DAY).await;
    assert_eq!(recalled(&journal, "a", NOON + 2 * DAY + 1000).await, Recalled::Ended(b"done".to_vec()));
}
