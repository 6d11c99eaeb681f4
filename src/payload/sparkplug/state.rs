//! `spBv1.0/STATE/<host>`: whether a host application is there (specification, section 6.4.26).
//!
//! `{"online":true,"timestamp":1795204800123}`, retained by the broker, and as the host's last will with `false` and the same
//! timestamp. Further keys are none of our business.

use serde::Deserialize;

/// Nobody's is longer.
const BYTES_MAX: usize = 4096;

/// What a host says of itself. The newer one counts; one that is older than what was seen before is to be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct State {
    /// Is it there?
    pub online: bool,
    /// When its session began, UTC, ms.
    #[serde(rename = "timestamp")]
    pub timestamp_ms: u64,
}

/// Not a state: of an older version of Sparkplug, damaged, or something else. To be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the state of a host: JSON with online (true or false) and timestamp (ms) is")]
pub struct NoState;

/// Reads a payload on a STATE topic. An empty one (a retained message that was deleted) is none either.
pub fn decode_state(payload: &[u8]) -> Result<State, NoState> {
    if payload.len() > BYTES_MAX {
        return Err(NoState);
    }
    serde_json::from_slice(payload).map_err(|_| NoState)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_json_with_both_keys_and_nothing_else_is_one() {
        let online = State { online: true, timestamp_ms: 1_795_204_800_123 };
        assert_eq!(decode_state(br#"{"online":true,"timestamp":1795204800123}"#), Ok(online));
        assert_eq!(decode_state(br#" {"timestamp":1795204800123,"online":true,"bdSeq":3}"#), Ok(online));
        let deep = "[".repeat(4096);
        let long = format!(r#"{{"online":true,"timestamp":1{}}}"#, " ".repeat(BYTES_MAX));
        for wrong in [
            "",
            "ONLINE",
            "OFFLINE",
            "{}",
            r#"{"online":true}"#,
            r#"{"online":"true","timestamp":1}"#,
            r#"{"online":true,"timestamp":-1}"#,
            r#"{"online":true,"timestamp":null}"#,
            r#"{"online":true,"timestamp":1} x"#,
            r#"{"online":true,"online":false,"timestamp":1}"#,
            &deep,
            &long,
        ] {
            assert_eq!(decode_state(wrong.as_bytes()), Err(NoState), "{wrong}");
        }
    }
}
