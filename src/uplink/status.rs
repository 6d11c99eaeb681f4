//! The retained status upstream, also the last will:
//! `{"state":"online","time":"2026-11-20T20:00:00.123Z","streams":{"telemetry":{"epoch":8123,"seq":4711}}}`.
//! Before the time stands `"quality":"uncertain","cause":"clock"` while nobody vouches for it. `seq` is the newest number in
//! the store, sent or not: what a receiver does not have yet is owed or lost.

use std::time::Duration;

use tokio::time::Instant;

use super::answer;
use super::window::Answer;
use crate::model::number::{Class, Epoch, Seq};
use crate::model::time::Wall;
use crate::payload::event;

/// The last will: the broker says it for us, so it knows neither time nor numbers.
pub(super) const WILL: &[u8] = br#"{"state":"offline"}"#;

/// A bridge's state, as mosquitto tells it: connected.
pub(super) const BRIDGE_UP: &[u8] = b"1";

/// Not connected.
pub(super) const BRIDGE_DOWN: &[u8] = b"0";

/// One that is refused again and again goes every 16 minutes in the end: it costs bytes, and says nothing.
const DOUBLINGS: u32 = 5;

/// Newest number per stream.
pub(super) type Newest = Vec<(Class, Epoch, Seq)>;

/// What is known of it in one session.
#[derive(Debug)]
pub(super) struct StatusProgress {
    pub(super) in_flight: u32,
    /// What the broker was told last; `None` before the first, and after one that it refused.
    pub(super) told: Option<Newest>,
    /// When it is due.
    pub(super) next: Instant,
    /// In a row.
    refusals: u32,
}

impl StatusProgress {
    /// Due at once.
    pub(super) const fn new(now: Instant) -> Self {
        Self { in_flight: 0, told: None, next: now, refusals: 0 }
    }

    /// The broker answered; why, if it did not take it. Then nobody knows what it said, and it goes again.
    pub(super) fn answered(&mut self, answer: Answer, again: Duration, now: Instant) -> Option<String> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let (Answer::TryLater(code) | Answer::Refused(code)) = answer else {
            self.refusals = 0;
            return None;
        };
        (self.told, self.next) = (None, now + again * 2_u32.pow(self.refusals.min(DOUBLINGS)));
        self.refusals += 1;
        Some(answer::why(code))
    }
}

/// Connected.
pub(super) fn online(time: Wall, newest: &Newest) -> Vec<u8> {
    payload("online", time, newest)
}

/// Ended in order.
pub(super) fn offline(time: Wall, newest: &Newest) -> Vec<u8> {
    payload("offline", time, newest)
}

fn payload(state: &str, time: Wall, newest: &Newest) -> Vec<u8> {
    let streams: Vec<String> = newest
        .iter()
        .map(|(class, epoch, seq)| format!(r#""{}":{{"epoch":{},"seq":{}}}"#, class.as_str(), epoch.0, seq.0))
        .collect();
    let mark = event::mark(time);
    format!(r#"{{"state":"{state}"{mark},"time":"{time}","streams":{{{}}}}}"#, streams.join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Certainty;

    #[test]
    fn a_status_that_was_refused_goes_again_and_later_each_time() {
        let (again, now) = (Duration::from_secs(30), Instant::now());
        let mut status = StatusProgress::new(now);
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                (status.in_flight, status.told) = (1, Some(Newest::new()));
                let why = status.answered(Answer::TryLater(0x87), again, now);
                assert_eq!(why.as_deref(), Some("not authorized to publish there (0x87)"));
                assert_eq!((status.in_flight, &status.told), (0, &None));
                (status.next - now).as_secs()
            })
            .collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 960, 960]);
        status.told = Some(Newest::new());
        assert_eq!((status.answered(Answer::Taken, again, now), status.told.is_some()), (None, true));
        assert!(status.answered(Answer::Refused(0x90), again, now).is_some());
        assert_eq!(status.next - now, again, "from the beginning");
    }

    #[test]
    fn status_names_the_newest_of_each_stream() {
        let time = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };
        let newest = vec![(Class::Event, Epoch(1), Seq(2)), (Class::Telemetry, Epoch(8123), Seq(4711))];
        assert_eq!(
            String::from_utf8_lossy(&online(time, &newest)),
            r#"{"state":"online","time":"2026-11-20T20:00:00.123Z","streams":{"event":{"epoch":1,"seq":2},"telemetry":{"epoch":8123,"seq":4711}}}"#
        );
        let unknown = online(Wall { certainty: Certainty::Floor, ..time }, &newest);
        let marked = r#"{"state":"online","quality":"uncertain","cause":"clock","time":"#;
        assert!(unknown.starts_with(marked.as_bytes()), "{}", String::from_utf8_lossy(&unknown));
        let bare: serde_json::Value = serde_json::from_slice(&offline(time, &Vec::new())).expect("json");
        assert_eq!(bare["streams"], serde_json::json!({}));
    }
}
