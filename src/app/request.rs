//! What a command's payload says: a bare JSON value, or `{"value":4.2,"id":"abc","expires":"2026-11-20T20:01:00Z"}`.
//! Pure; the router decides what follows.

use serde_json::Value as Json;

use crate::model::command::Refusal;
use crate::model::data_type::Kind;
use crate::model::value::Value;

/// Longest id we remember, bytes.
const ID_BYTES_MAX: usize = 256;

/// Longest payload we journal, bytes: no tag holds more than 250 bytes of text.
const PAYLOAD_BYTES_MAX: usize = 4096;

/// A payload that reads as a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The engineering value to write.
    pub value: Value,
    /// Names the command for 24 h.
    pub id: Option<String>,
    /// Not to be carried out after this moment, ms since 1970.
    pub expires_ms: Option<i64>,
}

/// Reads a payload for a tag whose values are of this kind.
pub fn read(payload: &[u8], kind: Kind) -> Result<Wanted, Refusal> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::Payload);
    }
    let json: Json = serde_json::from_slice(payload).map_err(|_| Refusal::Payload)?;
    let Json::Object(mut object) = json else {
        return Ok(Wanted { value: fit(&json, kind)?, id: None, expires_ms: None });
    };
    let value = fit(&object.remove("value").ok_or(Refusal::Payload)?, kind)?;
    let id = object.remove("id").map(|id| read_id(&id)).transpose()?;
    let expires_ms = object.remove("expires").map(|time| read_time(&time)).transpose()?;
    if object.is_empty() { Ok(Wanted { value, id, expires_ms }) } else { Err(Refusal::Payload) }
}

/// The id alone, for the answer to a payload that is refused otherwise.
pub fn id_of(payload: &[u8]) -> Option<String> {
    let payload = payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload);
    let json: Json = serde_json::from_slice(payload).ok()?;
    read_id(json.get("id")?).ok()
}

fn read_id(id: &Json) -> Result<String, Refusal> {
    let text = match id {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        _ => return Err(Refusal::Payload),
    };
    if text.is_empty() || text.len() > ID_BYTES_MAX { Err(Refusal::Payload) } else { Ok(text) }
}

fn read_time(time: &Json) -> Result<i64, Refusal> {
    let text = time.as_str().ok_or(Refusal::Payload)?;
    text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond).map_err(|_| Refusal::Payload)
}

/// A JSON value as a value of the tag's kind. HMIs write booleans as 0 and 1 too.
fn fit(json: &Json, kind: Kind) -> Result<Value, Refusal> {
    match (kind, json) {
        (Kind::Bool, Json::Bool(bit)) => Ok(Value::Bool(*bit)),
        (Kind::Bool, Json::Number(number)) => match number.as_u64() {
            Some(0) => Ok(Value::Bool(false)),
            Some(1) => Ok(Value::Bool(true)),
            _ => Err(Refusal::Payload),
        },
        (Kind::Text, Json::String(text)) => Ok(Value::Text(text.as_str().into())),
        (Kind::Bool | Kind::Text, _) => Err(Refusal::Payload),
        (Kind::Number, Json::Number(number)) => {
            let whole = number.as_u64().map(Value::Uint).or_else(|| number.as_i64().map(Value::Int));
            whole.or_else(|| number.as_f64().map(Value::Float)).ok_or(Refusal::Payload)
        }
        (Kind::Number, _) => Err(Refusal::Payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_value_and_an_object_are_both_commands() {
        let bare = |value| Wanted { value, id: None, expires_ms: None };
        assert_eq!(read(b"4.2", Kind::Number), Ok(bare(Value::Float(4.2))));
        assert_eq!(read(b"18446744073709551615", Kind::Number), Ok(bare(Value::Uint(u64::MAX))));
        assert_eq!(read(b"-5", Kind::Number), Ok(bare(Value::Int(-5))));
        assert_eq!(read(b"1", Kind::Bool), Ok(bare(Value::Bool(true))));
        assert_eq!(read(b"\"on\"", Kind::Text), Ok(bare(Value::Text("on".into()))));
        let full = read(br#"{"value":true,"id":"abc","expires":"2026-11-20T20:01:00Z"}"#, Kind::Bool);
        let expires_ms = Some(1_795_204_860_000);
        assert_eq!(full, Ok(Wanted { value: Value::Bool(true), id: Some("abc".into()), expires_ms }));
    }

    #[test]
    fn anything_else_is_refused_not_guessed() {
        let wrong: [&[u8]; 11] = [
            b"",
            b"on",
            b"null",
            b"[1]",
            b"{}",
            br#"{"value":1,"idd":"x"}"#,
            br#"{"value":1,"id":""}"#,
            br#"{"value":1,"expires":5}"#,
            br#"{"value":1,"expires":"soon"}"#,
            b"true",
            b"\"5\"",
        ];
        for payload in wrong {
            assert_eq!(read(payload, Kind::Number), Err(Refusal::Payload), "{payload:?}");
        }
        assert_eq!(read(b"2", Kind::Bool), Err(Refusal::Payload));
        assert_eq!(read(&[b' '; 5000], Kind::Bool), Err(Refusal::Payload));
        assert_eq!(id_of(br#"{"value":"wrong","id":7}"#), Some("7".to_owned()));
    }
}
