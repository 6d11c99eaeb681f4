//! The retained status upstream, also the last will:
//! `{"state":"online","time":"2026-11-20T20:00:00.123Z","streams":{"telemetry":{"epoch":8123,"seq":4711}}}`.
//! Before the time stands `"quality":"uncertain","cause":"clock"` while nobody vouches for it. `seq` is the newest number in
//! the store, sent or not: what a receiver does not have yet is owed or lost.

use crate::model::number::{Class, Epoch, Seq};
use crate::model::time::Wall;
use crate::payload::event;

/// The last will: the broker says it for us, so it knows neither time nor numbers.
pub(super) const WILL: &[u8] = br#"{"state":"offline"}"#;

/// A bridge's state, as mosquitto tells it: connected.
pub(super) const BRIDGE_UP: &[u8] = b"1";

/// Not connected.
pub(super) const BRIDGE_DOWN: &[u8] = b"0";

/// Newest number per stream.
pub(super) type Newest = Vec<(Class, Epoch, Seq)>;

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
