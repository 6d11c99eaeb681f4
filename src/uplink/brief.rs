//! Sessions that carry records and are lost within a minute, one after the other.
//!
//! Two clients with one client id throw each other out so, and a broker that speaks MQTT 3.1.1 does not say why. If each
//! came back at once they would send the same records all day. So waits grow, but stay shorter than a session must stand to
//! be a long one: where it is the link that lasts no longer, more than half of the time is still there to send.

/// In a row, before somebody is asked whether another client has our client id.
const SUSPICIOUS: u32 = 3;

/// The waits grow as after so many failures at most: to 32 s where the first is 1 s.
const FAILURES_MAX: u32 = 5;

/// How many there were in a row.
#[derive(Debug, Default)]
pub(super) struct Brief {
    in_a_row: u32,
}

impl Brief {
    /// Another one; how many failures it counts as.
    pub(super) fn another(&mut self) -> u32 {
        let before = self.in_a_row;
        self.in_a_row = before.saturating_add(1);
        before.min(FAILURES_MAX)
    }

    /// A session ended in another way.
    pub(super) const fn over(&mut self) {
        self.in_a_row = 0;
    }

    /// How many there were, once it is no accident any more.
    pub(super) const fn suspicious(&self) -> Option<u32> {
        if self.in_a_row < SUSPICIOUS { None } else { Some(self.in_a_row) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::feeder::PROVED_AFTER;
    use super::*;
    use crate::road::backoff::Backoff;
    use crate::uplink::Timing;

    #[test]
    fn pauses_between_short_sessions_grow_and_never_outlast_a_short_session() {
        let timing = Timing::default();
        let (mut dice, mut brief) = (StdRng::seed_from_u64(3), Brief::default());
        let mut backoff = Backoff::new(timing.retry_first, timing.retry_max);
        let waits: Vec<Duration> = (0..200)
            .map(|_| {
                backoff.count_as(brief.another());
                backoff.next(&mut dice)
            })
            .collect();
        assert!(waits[0] <= timing.retry_first, "the first is an accident");
        assert!(waits.iter().all(|wait| *wait < PROVED_AFTER));
        let mean = waits.iter().sum::<Duration>() / 200;
        assert!(
            mean > Duration::from_secs(12) && mean < Duration::from_secs(20),
            "{mean:?}: 30 s of session, and that"
        );
    }

    #[test]
    fn one_session_that_ended_otherwise_and_the_count_begins_again() {
        let mut brief = Brief::default();
        let counted: Vec<_> = (0..4).map(|_| (brief.another(), brief.suspicious())).collect();
        assert_eq!(counted, [(0, None), (1, None), (2, Some(3)), (3, Some(4))]);
        brief.over();
        assert_eq!((brief.suspicious(), brief.another()), (None, 0));
    }
}
