//! A record as a row of text: the columns of every CSV this product writes.

use serde_json::{Map, Value};

/// The columns; `record` holds what has no column of its own (events, gap records, samples with a doubtful
/// time and its `time_until`), as JSON. Cells are exact: nothing is put before a text that a spreadsheet takes for a formula.
pub const COLUMNS: [&str; 9] = ["topic", "time", "value", "quality", "cause", "stream", "epoch", "seq", "record"];

/// The row of a JSON payload.
pub fn row(topic: &str, body: &Map<String, Value>) -> Vec<String> {
    let mut row = vec![topic.to_owned()];
    row.extend(COLUMNS[1..8].iter().map(|column| cell(body, column)));
    let told = |key: &String| COLUMNS.contains(&key.as_str()) || key == "previous";
    let whole = body.contains_key("quality") && body.keys().all(told);
    row.push(if whole { String::new() } else { Value::Object(body.clone()).to_string() });
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
