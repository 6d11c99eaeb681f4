//! How the raw words of a tag are read: `nan`, `mask`, `shift`, `map`, `scale_from`, and the bytes of a text.
//!
//! Fed by `tag` with the type that was found; gives what the plan needs and reports what does not go together.

use std::sync::Arc;

use super::super::plan::{TagPlan, ValueMap};
use super::super::problem::Finding;
use super::super::raw::{Node, Trail, Value};
use super::super::section::{Section, Spot};
use crate::model::registers::{BitField, Encoding, Form, TextForm};
use crate::model::tag::{DataType, Order};
use crate::model::value;

/// Sentinels of one tag.
const SENTINELS_MAX: usize = 16;
/// Words of one map, and bytes of one word.
const WORDS_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 250;
const ENCODINGS: [(&str, Encoding); 3] =
    [("utf-8", Encoding::Utf8), ("latin-1", Encoding::Latin1), ("ascii", Encoding::Ascii)];
const BYTE_FORM: &str = "nul, space, cr, lf, or a byte such as \"0x2A\"";

/// What stands in a tag about its raw words.
#[derive(Debug, Default)]
pub struct Reading<'a> {
    /// The bits that count.
    pub field: Option<BitField>,
    /// The form of a text.
    pub text: TextForm,
    /// Sentinels.
    pub nan: Vec<u64>,
    /// Words for numbers.
    pub map: Option<Arc<ValueMap>>,
    /// The tag that holds the scale factor, to be looked up when all tags of the device are known.
    pub scale_from: Option<ScaleFrom<'a>>,
}

/// A `scale_from` that is not looked up yet.
#[derive(Debug)]
pub struct ScaleFrom<'a> {
    name: &'a str,
    finding: Finding,
}

/// Reads the keys; `in_address`: the bits that the address names.
pub fn reading<'a>(section: &Section<'a, '_>, data_type: DataType, in_address: Option<BitField>) -> Reading<'a> {
    let field = field(section, data_type, in_address);
    let map = map(section, data_type, field);
    Reading {
        field,
        text: text_form(section, data_type),
        nan: nan(section, data_type),
        map,
        scale_from: scale_from(section, data_type),
    }
}

/// Text of a hex or decimal number, or a number.
fn bits_of(node: &Node) -> Option<u64> {
    match &node.value {
        Value::Whole(number) => u64::try_from(*number).ok(),
        Value::Text(text) => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) if hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None => text.parse().ok(),
        },
        _ => None,
    }
}

fn field(section: &Section<'_, '_>, data_type: DataType, in_address: Option<BitField>) -> Option<BitField> {
    let width = u32::from(data_type.registers()) * 16;
    for key in ["mask", "shift"] {
        let Some(node) = section.get(key) else { continue };
        if in_address.is_some() {
            section.report(section.wrong(key, node.at, "the address names the bits already").allowed("one of the two"));
            return in_address;
        }
        if !data_type.is_binary_integer() {
            let message = format!("a {data_type} has no `{key}`: that is for int and uint types");
            section.report(section.wrong(key, node.at, message));
            return None;
        }
    }
    if section.get("mask").is_none() && section.get("shift").is_none() {
        return in_address;
    }
    let all = u64::MAX >> (64 - width);
    let shift = section.whole("shift", 0..=63).unwrap_or(0);
    let Some(node) = section.get("mask") else {
        if u32::from(shift) >= width {
            let at = section.get("shift").map_or(section.at, |node| node.at);
            section.report(section.wrong("shift", at, format!("leaves nothing of a {data_type}")));
            return None;
        }
        return Some(BitField { mask: all >> shift << shift, shift: u8::try_from(shift).unwrap_or(0) });
    };
    let problem = match bits_of(node) {
        None => "no mask: write the bits as hex, such as \"0x0FF0\"".to_owned(),
        Some(0) => "a mask without bits leaves nothing".to_owned(),
        Some(mask) if mask & !all != 0 => format!("has more bits than a {data_type}"),
        Some(mask) if u32::from(shift) > mask.trailing_zeros() => {
            format!("the shift of {shift} drops bits of the mask; it may be at most {}", mask.trailing_zeros())
        }
        Some(mask) if data_type.is_signed() && !is_one_run(mask) => {
            format!("bits in several places have no sign: read them as a u{data_type}")
        }
        Some(mask) => return Some(BitField { mask, shift: u8::try_from(shift).unwrap_or(0) }),
    };
    let allowed = format!("0x1 ..= {all:#X}");
    section.report(section.wrong("mask", node.at, problem).allowed(allowed));
    None
}

fn is_one_run(mask: u64) -> bool {
    let run = mask >> mask.trailing_zeros();
    run & run.wrapping_add(1) == 0
}

fn nan(section: &Section<'_, '_>, data_type: DataType) -> Vec<u64> {
    let Some(node) = section.get("nan") else { return Vec::new() };
    if !data_type.is_number() && !data_type.is_time() {
        let message = format!("a {data_type} has no `nan`: that is for numbers and times");
        section.report(section.wrong("nan", node.at, message));
        return Vec::new();
    }
    let texts = section.texts("nan").unwrap_or_default();
    if texts.len() > SENTINELS_MAX {
        section.report(section.wrong("nan", node.at, format!("at most {SENTINELS_MAX} values")));
    }
    let mut raws = Vec::with_capacity(texts.len());
    for Spot { value, at } in texts {
        match sentinel(value, data_type) {
            Ok(raw) => raws.extend(raw),
            Err(message) => {
                let digits = usize::from(data_type.registers()) * 4;
                let allowed = format!("raw words as 0x and {digits} hex digits, order undone; \"ieee\" for floats");
                section.report(section.wrong("nan", at, message).allowed(allowed));
            }
        }
    }
    raws
}

/// One sentinel; `None` for what is no value anyway.
fn sentinel(text: &str, data_type: DataType) -> Result<Option<u64>, String> {
    if text == "ieee" {
        let refused = || format!("a {data_type} has no NaN of IEEE 754");
        return if data_type.is_float() { Ok(None) } else { Err(refused()) };
    }
    let digits = usize::from(data_type.registers()) * 4;
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let raw = u64::from_str_radix(hex, 16).map_err(|_| "is no hex number".to_owned())?;
        if hex.len() != digits {
            return Err(format!("a {data_type} has {digits} hex digits, this has {}", hex.len()));
        }
        return Ok(Some(raw));
    }
    let number: i128 = text.parse().map_err(|_| "is neither a raw value nor \"ieee\"".to_owned())?;
    let form = Form::plain(data_type, Order::Abcd);
    let words = whole(number).filter(|_| data_type.is_integer()).and_then(|number| form.write(&number).ok());
    words.and_then(|words| form.raw(&words)).map(Some).ok_or_else(|| format!("is no value of a {data_type}"))
}

fn whole(number: i128) -> Option<value::Value> {
    let signed = i64::try_from(number).map(value::Value::Int);
    signed.or_else(|_| u64::try_from(number).map(value::Value::Uint)).ok()
}

/// `map`; problems are reported.
pub fn map(section: &Section<'_, '_>, data_type: DataType, field: Option<BitField>) -> Option<Arc<ValueMap>> {
    let node = section.get("map")?;
    if !data_type.is_integer() && data_type != DataType::Bool {
        let message = format!("a {data_type} has no `map`: that is for whole numbers and bits");
        section.report(section.wrong("map", node.at, message));
        return None;
    }
    for key in ["scale", "offset", "scale_from", "min", "max", "deadband", "compression", "alarm"] {
        if let Some(other) = section.get(key) {
            let message = format!("with a map the value is text, which has no `{key}`");
            section.report(section.wrong(key, other.at, message).also(node.at));
        }
    }
    let Value::Table(table) = &node.value else {
        let message = format!("expected a table such as {{ 0 = \"off\", 1 = \"on\" }}, found {}", node.value.kind());
        section.report(section.wrong("map", node.at, message).allowed("in a register map: 0=off|1=on"));
        return None;
    };
    let trail = Trail::Key(section.trail, "map");
    let form = Form { field, ..Form::plain(data_type, Order::Abcd) };
    let fits = |number: i128| match data_type {
        DataType::Bool => matches!(number, 0 | 1),
        _ => whole(number).is_some_and(|number| form.write(&number).is_ok()),
    };
    let mut entries: Vec<(i128, Arc<str>)> = Vec::new();
    for entry in &table.entries {
        let problem = match (number_of(&entry.key), &entry.node.value) {
            (None, _) => "the key is no whole number".to_owned(),
            (Some(number), _) if !fits(number) => format!("a {data_type} is never {number} here"),
            (Some(number), _) if entries.iter().any(|(known, _)| *known == number) => {
                "the same number twice".to_owned()
            }
            (Some(_), Value::Text(word)) if word.is_empty() || word.len() > WORD_BYTES_MAX => {
                format!("a word has 1 ..= {WORD_BYTES_MAX} bytes")
            }
            (Some(_), Value::Text(word)) if entries.iter().any(|(_, known)| **known == **word) => {
                "the same word twice: a command could not tell which number is meant".to_owned()
            }
            (Some(number), Value::Text(word)) => {
                entries.push((number, word.as_str().into()));
                continue;
            }
            (Some(_), other) => format!("expected a text in quotes, found {}", other.kind()),
        };
        section.report(Finding::line(entry.key_at, Trail::Key(&trail, &entry.key), problem));
    }
    if table.entries.is_empty() || table.entries.len() > WORDS_MAX {
        section.report(section.wrong("map", node.at, "out of range").allowed(format!("1 ..= {WORDS_MAX} words")));
    }
    entries.sort_by_key(|(number, _)| *number);
    Some(Arc::new(ValueMap { entries }))
}

fn number_of(key: &str) -> Option<i128> {
    match key.strip_prefix("0x").or_else(|| key.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => i128::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => key.parse().ok(),
    }
}

fn text_form(section: &Section<'_, '_>, data_type: DataType) -> TextForm {
    let standard = TextForm::default();
    for key in ["encoding", "pad", "terminator"] {
        if let (Some(node), false) = (section.get(key), matches!(data_type, DataType::Text(_))) {
            let message = format!("a {data_type} has no `{key}`: that is for string(N)");
            section.report(section.wrong(key, node.at, message));
            return standard;
        }
    }
    let encoding = section.choice("encoding", &ENCODINGS).map_or(standard.encoding, |spot| spot.value);
    let pad = section.text("pad").map(|text| (byte(text.value), text.at));
    if let Some((None, at)) = pad {
        section.report(section.wrong("pad", at, "is no byte").allowed(BYTE_FORM));
    }
    let terminator = match section.text("terminator") {
        None => standard.terminator,
        Some(text) if text.value == "none" => None,
        Some(text) => {
            let terminator = byte(text.value);
            if terminator.is_none() {
                let allowed = format!("none, {BYTE_FORM}");
                section.report(section.wrong("terminator", text.at, "is no byte").allowed(allowed));
            }
            terminator
        }
    };
    TextForm { encoding, pad: pad.and_then(|(pad, _)| pad).unwrap_or(standard.pad), terminator }
}

fn byte(text: &str) -> Option<u8> {
    match text {
        "nul" => Some(0),
        "space" => Some(b' '),
        "cr" => Some(b'\r'),
        "lf" => Some(b'\n'),
        other => other.strip_prefix("0x").filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()),
    }
}

fn scale_from<'a>(section: &Section<'a, '_>, data_type: DataType) -> Option<ScaleFrom<'a>> {
    let name = section.text("scale_from")?;
    if !data_type.is_number() {
        let message = format!("a {data_type} has no `scale_from`: that is for numbers");
        section.report(section.wrong("scale_from", name.at, message));
        return None;
    }
    Some(ScaleFrom { name: name.value, finding: section.wrong("scale_from", name.at, "") })
}

/// Looks the scale factors of a device up among its tags; the first of them has the index `first`. Reports to whom it may
/// concern.
pub fn resolve(
    tags: &mut [TagPlan],
    first: usize,
    pending: Vec<(usize, ScaleFrom<'_>)>,
    mut report: impl FnMut(Finding),
) {
    const ALLOWED: &str = "the name of an int16 of the same device that is read as it is";
    for (place, ScaleFrom { name, finding }) in pending {
        let found = tags.iter().position(|tag| tag.name == name);
        let problem = match found.map(|at| &tags[at]) {
            None => "this device has no tag of that name".to_owned(),
            Some(tag) if tag.data_type != DataType::Int16 || tag.place().is_none() => {
                format!("{name} is a {}, and a scale factor is an int16", tag.data_type)
            }
            Some(tag)
                if tag.field.is_some() || tag.map.is_some() || tag.scale != super::super::plan::Scale::IDENTITY =>
            {
                format!("{name} has a scale, a mask or a map of its own")
            }
            Some(tag) if tag.scale_from.is_some() || found == Some(place) => {
                format!("{name} has a scale factor itself")
            }
            Some(tag) if !tag.access.reads() => format!("{name} is never read"),
            // Models move independently of one another, and factors change: only what is read together belongs together.
            Some(tag) if tag.model() != tags[place].model() => {
                format!("{name} is not in the same SunSpec model")
            }
            Some(_) => {
                let ix = found.and_then(|at| u32::try_from(first + at).ok()).map(crate::model::tag::TagIx);
                tags[place].scale_from = ix;
                continue;
            }
        };
        report(finding.saying(problem).allowed(ALLOWED));
    }
}
