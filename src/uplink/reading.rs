//! What is retained on topics that go both ways (a bridge's `both`): when it is read from the other broker, and what of it
//! is too old for this one.
//!
//! It came from here, perhaps, and while something newer still waits in the store for its turn it must not take the place
//! of that. So where a session begins with anything owed, nothing retained is asked for on those topics; when all of that
//! has arrived, and all that came since is on the line, they are subscribed to once more, with what is retained: that comes
//! behind it, so what is sent is what came there last, and both sides have the same. Only MQTT 5 can ask for nothing; such
//! a bridge speaks no other.
//!
//! What a client publishes here while it is on its way is newer than any of it ([`Fence`]). What a session has not come to
//! read is read in the next. It is read anew also where the other broker has kept our session: of a topic that both sides
//! have published on meanwhile, what waited there comes down and what waited here goes up, and each would keep the other's;
//! and its queue may have been full, of which nobody would tell us.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::feeder::Progress;
use super::line::Line;
use super::session::{End, Session};
use super::source::Source;
use super::version::Known;
use crate::store::Ends;

/// So long after it was asked for it is on its way: no longer, or what was published there later would be held for old.
const COMING_FOR: Duration = Duration::from_secs(60);

/// Of one session.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) stage: Stage,
    pub(super) fence: Arc<Fence>,
}

/// How far it has come.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// It is known here, or nothing goes both ways.
    #[default]
    Done,
    /// When all this has arrived.
    Due(Ends),
    /// The SUBSCRIBE that asks for it is not answered yet.
    Asked,
}

/// What clients have published here since the session began stays, whatever comes down as retained.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// Of what is retained here.
    version: u64,
    until: OnceLock<Instant>,
}

impl Fence {
    fn raise(&self) {
        self.until.get_or_init(|| Instant::now() + COMING_FOR);
    }

    /// While it stands: what is newer here than this stays.
    pub(super) fn version(&self) -> Option<u64> {
        self.until.get().filter(|until| Instant::now() < **until).map(|_| self.version)
    }
}

impl Reading {
    /// Has it not come to its end?
    fn is_open(&self, line: &Line) -> bool {
        match self.stage {
            Stage::Done => false,
            Stage::Due(_) => true,
            Stage::Asked => !line.has_subscribed(),
        }
    }

    /// For the next session: what the other broker has is not known as long as it may have heard that we do not ask.
    pub(super) fn leave(&self, line: &Line, known: &mut Known) {
        if line.is_agreed() {
            known.unread = self.is_open(line);
        }
    }
}

impl<S: Source> Session<'_, S> {
    /// Before the first SUBSCRIBE.
    pub(super) fn begin_reading(&self, known: &Known) -> Reading {
        let Some(down) = self.down.filter(|down| down.goes_round()) else { return Reading::default() };
        let fence = Arc::new(Fence { version: down.version(), until: OnceLock::new() });
        if self.source.backlog() > 0 {
            return Reading { stage: Stage::Due(self.source.ends()), fence };
        }
        fence.raise();
        Reading { stage: if known.unread { Stage::Asked } else { Stage::Done }, fence }
    }

    /// Asks for it when it is due: TCP keeps that behind all that is on its way.
    pub(super) fn read_when_due(&self, client: &Client, line: &Line, progress: &mut Progress) -> Result<(), End> {
        let Some(down) = self.down else { return Ok(()) };
        if !progress.reading.is_open(line) {
            progress.reading.stage = Stage::Done;
        }
        let Stage::Due(ends) = &progress.reading.stage else { return Ok(()) };
        let waits = !progress.lanes.is_empty() || self.source.backlog() > line.owed();
        if waits || self.source.is_behind(ends) {
            return Ok(());
        }
        let wanted = down.filters_again();
        if !line.subscribes_again(wanted.iter().map(|wanted| wanted.filter.clone()).collect()) {
            return Ok(());
        }
        progress.reading.fence.raise();
        progress.reading.stage = Stage::Asked;
        Ok(client.subscribe(&wanted)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_long_after_it_was_asked_for_is_not_held_for_old() {
        let fence = Fence { version: 7, until: OnceLock::new() };
        assert_eq!(fence.version(), None, "nothing was asked for");
        fence.raise();
        assert_eq!(fence.version(), Some(7));
        tokio::time::advance(COMING_FOR).await;
        fence.raise();
        assert_eq!(fence.version(), None);
    }
}
