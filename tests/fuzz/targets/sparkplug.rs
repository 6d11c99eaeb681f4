//! What hosts of Sparkplug send: commands, their states, topics.
//!
//! Promises: read or refused whole, never a panic, never more than the bounds; a value that is taken from a command is of the
//! kind that was asked for; a topic is read back as it was written.

use ironbridge::model::value::Value;
use ironbridge::payload::sparkplug::{DataType, METRICS_MAX, NAME_BYTES_MAX, Topic, decode_command, decode_state};

fn commands(payload: &[u8]) {
    let Ok(commands) = decode_command(payload) else { return };
    assert!(commands.len() <= METRICS_MAX);
    for command in &commands {
        let name = command.name.as_deref();
        assert!(name.is_some_and(|name| (1..=NAME_BYTES_MAX).contains(&name.len())) || command.alias.is_some());
        for kind in DataType::ALL {
            let Ok(value) = command.told.as_kind(kind) else { continue };
            let fits = match (&value, kind) {
                (Value::Bool(_), DataType::Boolean) => true,
                (Value::Float(number), DataType::Float | DataType::Double) => number.is_finite(),
                (Value::Text(_), DataType::String | DataType::Text | DataType::Uuid | DataType::DateTime) => true,
                (Value::Int(_) | Value::Uint(_), kind) => (kind as u32) <= DataType::UInt64 as u32,
                _ => false,
            };
            assert!(fits, "{value:?} for {kind:?}");
        }
    }
}

/// A byte that says what the rest is.
pub fn run(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 | 1 => commands(rest),
        2 => drop(decode_state(rest)),
        _ => {
            let Ok(topic) = std::str::from_utf8(rest) else { return };
            if let Some(parsed) = Topic::parse(topic) {
                assert_eq!(parsed.to_string(), topic);
            }
        }
    }
}
