//! Says while commands cannot be journalled, and so are refused: event `commands_not_journalled`.
//!
//! Ends when the thread of the journal is gone: then nothing mends it but a new start of the gateway.

use tokio::sync::watch;

use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;

/// Tells until stopping begins.
pub(super) async fn tell(mut trouble: watch::Receiver<Option<String>>, notices: Notices, stop: Stop) {
    let notice =
        |phase, detail| Notice { event: "commands_not_journalled", phase, subject: "commands.db".to_owned(), detail };
    let mut told = false;
    loop {
        let why = trouble.borrow_and_update().clone();
        let fails = why.is_some();
        match why {
            Some(why) => notices.tell(notice(Phase::Active, format!("every command is refused: {why}"))),
            None if told => notices.tell(notice(Phase::Cleared, "commands are journalled again".to_owned())),
            None => {}
        }
        told = fails;
        tokio::select! {
            () = stop.begun() => return,
            changed = trouble.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::supervisor::Crew;
    use crate::flow::notice::notices;
    use crate::flow::progress::Progress;

    #[tokio::test]
    async fn a_journal_that_fails_is_told_until_it_works_and_one_whose_thread_is_gone_ends_the_gateway() {
        let (journal, trouble) = watch::channel(None);
        let ((notices, mut told), stop, (broken, broke)) = (notices(), Stop::new(), watch::channel(None));
        let crew = Crew::new(&Progress::default(), &stop, &broken);
        let telling = tokio::spawn(crew.keep("journal", "", tell(trouble, notices, stop)));
        for (why, phase) in [(Some("read-only"), Phase::Active), (None, Phase::Cleared)] {
            journal.send_replace(why.map(str::to_owned));
            let notice = told.recv().await.expect("told");
            assert_eq!((notice.event, notice.phase), ("commands_not_journalled", phase));
            assert!(why.is_none_or(|why| notice.detail.contains(why)), "{notice:?}");
        }
        assert_eq!(*broke.borrow(), None);
        drop(journal);
        telling.await.expect("runs");
        assert_eq!(*broke.borrow(), Some("journal"));
        assert!(told.recv().await.is_none(), "no more is told");
    }
}
