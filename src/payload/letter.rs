//! The number of a client's message in MQTT 5 user properties, written and read.
//!
//! `gateway`, `stream`, `epoch`, `seq`, `time`; `previous_epoch` and `previous_seq` on the first record of an epoch whose
//! predecessor is known. They stand behind what the client wrote itself, so of each name the last one counts.

use serde_json::{Map, Value};

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::time::Wall;

use super::json::Previous;

/// Names and values.
pub fn number(gateway: &str, number: Number, previous: Option<Previous>, time: Wall) -> Vec<(String, String)> {
    let mut properties = vec![
        ("gateway", gateway.to_owned()),
        ("stream", number.stream.as_str().to_owned()),
        ("epoch", number.epoch.0.to_string()),
        ("seq", number.seq.0.to_string()),
        ("time", time.to_string()),
    ];
    if let Some(Previous { epoch, seq }) = previous {
        properties.push(("previous_epoch", epoch.0.to_string()));
        properties.extend(seq.map(|seq| ("previous_seq", seq.0.to_string())));
    }
    properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered<'a> {
    /// Who stored it.
    pub gateway: &'a str,
    /// Its number.
    pub number: Number,
    /// What it says about the epoch before.
    pub previous: Option<Previous>,
    /// When it came to the gateway, RFC 3339.
    pub time: Option<&'a str>,
}

/// Reads them; `None` where there is no number.
pub fn numbered(user: &[(String, String)]) -> Option<Numbered<'_>> {
    let last = |name: &str| user.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let whole = |name: &str| last(name)?.parse::<u64>().ok();
    let number =
        Number { stream: Class::from_name(last("stream")?)?, epoch: Epoch(whole("epoch")?), seq: Seq(whole("seq")?) };
    let previous = || Some(Previous { epoch: Epoch(whole("previous_epoch")?), seq: whole("previous_seq").map(Seq) });
    // A predecessor is named on the first record only; elsewhere the word is the client's.
    let previous = if number.seq.0 == 1 { previous() } else { None };
    Some(Numbered { gateway: last("gateway")?, number, previous, time: last("time") })
}

/// A client's message as a row of text or a JSON object, for files and databases: its payload as text where it is text,
/// else in hex.
pub fn object(payload: &[u8], number: Number, time: Option<&str>) -> Map<String, Value> {
    let mut object = Map::new();
    match std::str::from_utf8(payload) {
        Ok(text) => object.insert("payload".into(), text.into()),
        Err(_) => {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
            let hex: String = payload.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            object.insert("payload_hex".into(), hex.into())
        }
    };
    object.extend(time.map(|time| ("time".to_owned(), time.into())));
    object.insert("stream".into(), number.stream.as_str().into());
    object.insert("epoch".into(), number.epoch.0.into());
    object.insert("seq".into(), number.seq.0.into());
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Certainty;

    #[test]
    fn a_number_is_read_as_it_was_written_whatever_the_client_wrote_before() {
        let number_of = |seq| Number { stream: Class::Bulk, epoch: Epoch(8), seq: Seq(seq) };
        let time = Wall { unix_ms: 1_700_000_000_123, certainty: Certainty::Fixed };
        let previous = Some(Previous { epoch: Epoch(7), seq: Some(Seq(9)) });
        let mut user = vec![("seq".to_owned(), "77".to_owned()), ("color".to_owned(), "red".to_owned())];
        user.extend(number("gw", number_of(1), previous, time));
        let found = numbered(&user).expect("numbered");
        assert_eq!((found.gateway, found.number, found.previous), ("gw", number_of(1), previous));
        assert_eq!(found.time.map(str::to_owned), Some(time.to_string()));
        assert_eq!(numbered(&user[..2]), None, "a client's own word is no number");
    }
}
