//! What a cell says, and how a value is written into one: each direction the inverse of the other, key kind by key kind.
//!
//! ```text
//! text     as it is; an empty cell is a key that is not there
//! number   1  -7  0.10  1e3  0x1F  0o17  0b101, as written; a decimal comma only where it was declared
//! bool     true, false; also TRUE, FALSE
//! list     a|b              in an item: \| a bar, \\ a backslash, "\ " a blank at an edge
//! words    0=off|1=on       in a key \= as well; blanks around keys and words are dropped
//! ```
//!
//! What does not look like its kind stays a text; the check says what it should have been.

use super::super::raw::{Entry, Node, Table, Value};
use super::super::schema::Kind;
use super::super::source::{At, Sources};

/// How numbers are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decimal {
    /// `0.1`
    #[default]
    Point,
    /// `0,1`, as spreadsheets of half the world save it.
    Comma,
}

/// Why a number cannot be what it looks like, with what was meant.
pub fn misread(text: &str, kind: Kind, decimal: Decimal) -> Option<String> {
    if !matches!(kind, Kind::Number) {
        return None;
    }
    match decimal {
        Decimal::Point if text.contains(',') => is_decimal(&text.replacen(',', ".", 1)).then(|| {
            format!("a decimal comma: write {} (ironbridge tags import --decimal-comma reads such files)", text.replacen(',', ".", 1))
        }),
        Decimal::Comma if text.contains('.') => is_decimal(&text.replace('.', "").replacen(',', ".", 1)).then(|| {
            "a decimal point in a file that was declared to have commas: a number beside it could be a thousand times larger"
                .to_owned()
        }),
        _ => None,
    }
}

/// A modicon number and a bit of one digit: `40008`, `1`. To a spreadsheet it looks like a number.
fn short_bit(text: &str) -> Option<(&str, &str)> {
    let (place, bit) = text.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (matches!(place.len(), 5 | 6) && bit.len() == 1 && digits(place) && digits(bit)).then_some((place, bit))
}

/// Why an address may have lost a nought at its end: spreadsheets write the number 40008.10 as 40008.1, which is another bit.
pub fn clipped_bit(text: &str) -> Option<String> {
    let (place, _) = short_bit(text).filter(|(_, bit)| *bit == "1")?;
    Some(format!(
        "may be bit 1 or bit 10, since spreadsheets clip {place}.10 to {place}.1: write {place}.01 or {place}.10"
    ))
}

/// An address with which no spreadsheet can do that: bits of modicon numbers have two digits.
pub fn whole_bit(text: &str) -> Option<String> {
    short_bit(text).map(|(place, bit)| format!("{place}.0{bit}"))
}

/// Digits with a point, and a percent sign at most behind them.
fn is_decimal(text: &str) -> bool {
    let number = text.trim_end_matches('%').trim_end();
    number.bytes().any(|byte| byte.is_ascii_digit()) && number.parse::<f64>().is_ok()
}

/// A number with a point instead of its comma, and any other text as it is. A comma that was not declared too: it is reported,
/// and need not be reported twice.
pub fn pointed(text: String, kind: Kind, decimal: Decimal) -> String {
    let has_comma =
        decimal == Decimal::Comma && matches!(kind, Kind::Number) || misread(&text, kind, decimal).is_some();
    if has_comma { text.replacen(',', ".", 1) } else { text }
}

/// The value of a cell that is not empty.
pub fn value(text: &str, kind: Kind, at: At) -> Value {
    let item = |text: String| Node { at, value: Value::Text(text) };
    match kind {
        Kind::List => Value::List(split(text, '|').iter().map(|part| item(unescape(part))).collect()),
        Kind::Words => words(text).map_or_else(
            || Value::Text(text.to_owned()),
            |words| {
                let entry = |(key, word)| Entry { key, key_at: at, node: item(word) };
                Value::Table(Table { entries: words.into_iter().map(entry).collect() })
            },
        ),
        Kind::Number => numeral(text),
        Kind::Bool if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Kind::Bool if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => Value::Text(text.to_owned()),
    }
}

fn numeral(text: &str) -> Value {
    match (whole(text), text.parse::<f64>()) {
        (Some(whole), _) => Value::Whole(whole),
        (None, Ok(number)) => Value::Number(number),
        (None, Err(_)) => Value::Text(text.to_owned()),
    }
}

const RADICES: [(&str, u32); 4] = [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)];

fn whole(text: &str) -> Option<i128> {
    match RADICES.iter().find_map(|(prefix, radix)| Some((text.strip_prefix(prefix)?, *radix))) {
        Some((digits, radix)) if digits.chars().all(|digit| digit.is_digit(radix)) => {
            i128::from_str_radix(digits, radix).ok()
        }
        Some(_) => None,
        None => text.parse().ok(),
    }
}

/// The parts between separators that are not behind a backslash.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut begin, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == separator && !escaped {
            parts.push(&text[begin..at]);
            begin = at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[begin..]);
    parts
}

/// `0=off|1=on`; `None` when a part has no `=`.
fn words(text: &str) -> Option<Vec<(String, String)>> {
    let entry = |part: &&str| {
        let key = *split(part, '=').first()?;
        let word = part.get(key.len() + 1..)?;
        Some((unescape(key), unescape(word)))
    };
    split(text, '|').iter().map(entry).collect()
}

const fn is_special(c: char) -> bool {
    matches!(c, '\\' | '|' | '=')
}

/// Without the blanks around it, and without the backslashes that kept something.
fn unescape(part: &str) -> String {
    let (mut text, mut kept) = (String::new(), 0);
    let mut chars = part.trim_start().chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && (is_special(*next) || next.is_whitespace()) => {
                text.push(*next);
                chars.next();
                kept = text.len();
            }
            _ => text.push(c),
        }
    }
    let end = text.trim_end().len().max(kept);
    text.truncate(end);
    text
}

fn escape(item: &str, separators: &[char]) -> String {
    let (first, last) = (item.len() - item.trim_start().len(), item.trim_end().len());
    let mut text = String::new();
    for (at, c) in item.char_indices() {
        let is_edge =
            c.is_whitespace() && (at == 0 && first > 0 || at + c.len_utf8() == item.len() && last < item.len());
        if c == '\\' || separators.contains(&c) || is_edge {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// A value of the tree as a cell; `None` for a key that says nothing.
pub fn written(node: &Node, kind: Kind, sources: &Sources) -> Option<String> {
    let text_of = |node: &Node| match &node.value {
        Value::Text(text) => text.clone(),
        _ => sources.excerpt(node.at).to_owned(),
    };
    let cell = match (&node.value, kind) {
        (Value::List(items), _) => {
            items.iter().map(|item| escape(&text_of(item), &['|'])).collect::<Vec<_>>().join("|")
        }
        (Value::Table(table), _) => {
            let mut entries: Vec<&Entry> = table.entries.iter().collect();
            entries.sort_by_key(|entry| entry.key_at.start); // as they were written
            let word = |entry: &&Entry| {
                format!("{}={}", escape(&entry.key, &['|', '=']), escape(&text_of(&entry.node), &['|']))
            };
            entries.iter().map(word).collect::<Vec<_>>().join("|")
        }
        // One text is a list of one.
        (Value::Text(item), Kind::List) => escape(item, &['|']),
        (Value::Bool(flag), _) => flag.to_string(),
        (Value::Whole(_) | Value::Number(_), Kind::Number) => sources.excerpt(node.at).replace('_', ""),
        (Value::Whole(number), _) => unquoted(sources.excerpt(node.at), *number),
        _ => text_of(node),
    };
    (!cell.is_empty()).then_some(cell)
}

/// A number where a text belongs, such as `address = 40101`: hex stays hex, the rest is read as decimal digits anyway.
fn unquoted(excerpt: &str, number: i128) -> String {
    if excerpt.starts_with("0x") && !excerpt.contains('_') { excerpt.to_owned() } else { number.to_string() }
}

/// A cell that is not empty as a value of TOML.
pub fn toml(text: &str, kind: Kind) -> String {
    match kind {
        Kind::List => {
            let items = split(text, '|').into_iter().map(|item| quoted(&unescape(item)));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Kind::Words => match words(text) {
            None => quoted(text),
            Some(words) => {
                let entries = words.iter().map(|(key, word)| format!("{} = {}", bare(key), quoted(word)));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
        },
        Kind::Number => number_toml(text),
        Kind::Bool if text.eq_ignore_ascii_case("true") => "true".to_owned(),
        Kind::Bool if text.eq_ignore_ascii_case("false") => "false".to_owned(),
        _ => quoted(text),
    }
}

/// TOML is stricter than spreadsheets: no `.5`, no `5.`, no leading zeros, 64 bits to a whole number.
fn number_toml(text: &str) -> String {
    let Some(number) = whole(text) else {
        return match text.parse::<f64>() {
            Ok(_) if is_toml_float(text) => text.to_owned(),
            Ok(number) => format!("{number:?}"),
            Err(_) => quoted(text),
        };
    };
    if i64::try_from(number).is_err() {
        return format!("{number}.0");
    }
    let digits = text.trim_start_matches(['+', '-']);
    if digits.starts_with("0X") {
        return text.replacen("0X", "0x", 1);
    }
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits.len() > 1 && digits.starts_with('0') { number.to_string() } else { text.to_owned() }
}

/// `[+-] digits [. digits] [e [+-] digits]` without leading zeros (TOML 1.0, Float).
fn is_toml_float(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = |part: &'_ str| part.strip_prefix(['+', '-']).unwrap_or(part).to_owned();
    let (number, exponent) =
        text.split_once(['e', 'E']).map_or((text, None), |(number, exponent)| (number, Some(exponent)));
    let number = unsigned(number);
    let (whole, part) = number.split_once('.').map_or((number.as_str(), None), |(whole, part)| (whole, Some(part)));
    digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && part.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(&unsigned(exponent)))
}

fn bare(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !key.is_empty() && key.chars().all(plain) { key.to_owned() } else { quoted(key) }
}

/// A text as TOML writes it.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.extend([format!("\\u{:04X}", u32::from(c))]),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::config::source::FileIx;

    const NOWHERE: At = At { file: FileIx(0), start: 0, end: 0 };

    fn node(value: Value) -> Node {
        Node { at: NOWHERE, value }
    }

    fn item() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec!["a", "|", "=", "\\", " ", "\t", "\n", "\"", ",", "\u{a0}", "°"]);
        prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn a_list_in_a_cell_is_the_list_again(items in prop::collection::vec(item(), 1..5)) {
            let list = Value::List(items.into_iter().map(|item| node(Value::Text(item))).collect());
            let cell = written(&node(list.clone()), Kind::List, &Sources::default());
            // An empty cell is a key that is not there.
            prop_assert_eq!(value(&cell.unwrap_or_default(), Kind::List, NOWHERE), list);
        }

        #[test]
        fn a_map_in_a_cell_is_the_map_again(words in prop::collection::vec((item(), item()), 1..5)) {
            let entry = |(key, word)| Entry { key, key_at: NOWHERE, node: node(Value::Text(word)) };
            let map = Value::Table(Table { entries: words.into_iter().map(entry).collect() });
            let cell = written(&node(map.clone()), Kind::Words, &Sources::default()).expect("at least an equals sign");
            prop_assert_eq!(value(&cell, Kind::Words, NOWHERE), map);
        }
    }

    #[test]
    fn numbers_keep_their_form_where_toml_knows_it() {
        for (cell, number) in [
            ("0x1F", "0x1F"),
            ("0X1f", "0x1f"),
            ("0.10", "0.10"),
            ("1e3", "1e3"),
            ("-7", "-7"),
            (".5", "0.5"),
            ("5.", "5.0"),
            ("007", "7"),
            ("99999999999999999999", "99999999999999999999.0"),
            ("1.5%", "\"1.5%\""),
        ] {
            assert_eq!(toml(cell, Kind::Number), number);
        }
    }
}
