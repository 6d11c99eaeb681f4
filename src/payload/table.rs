//! A record as a row of text: the columns of every CSV this product writes.

use serde_json::{Map, Value};

/// The columns; `record` holds what has no column of its own (events, gap records), as JSON.
pub const COLUMNS: [&str; 9] = ["topic", "time", "value", "quality", "cause", "stream", "epoch", "seq", "record"];

/// The row of a JSON payload.
pub fn row(topic: &str, body: &Map<String, Value>) -> Vec<String> {
    let mut row = vec![topic.to_owned()];
    row.extend(COLUMNS[1..8].iter().map(|column| cell(body, column)));
    let is_sample = body.contains_key("quality");
    row.push(if is_sample { String::new() } else { Value::Object(body.clone()).to_string() });
    row
}

/// One key as text: texts without quotes, null and what is not there as nothing.
pub fn cell(body: &Map<String, Value>, key: &str) -> String {
    match body.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
