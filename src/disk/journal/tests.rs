//! A thread that is gone, and a file that cannot be written for a while.

use super::*;
use std::time::Duration;

async fn answered(journal: &CommandJournal) {
    tokio::time::timeout(Duration::from_secs(30), journal.answers()).await.expect("it answers");
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
