//! Buses of type `line`: how bytes become frames, what devices are asked, and what their patterns name.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{
    ChecksumForm, ChecksumKind, ChecksumPlace, ChecksumPlan, FrameCut, LineMode, LinePlan, Pattern, Source, StatusPlan,
    TalkPlan,
};
use super::super::raw::{Trail, Value};
use super::super::schema;
use super::super::section::{Section, Spot};

/// Keys of a bus that only this type has.
pub const BUS_KEYS: [&str; 10] = [
    "mode",
    "frame_start",
    "frame_end",
    "frame_length",
    "frame_idle",
    "max_frame",
    "checksum",
    "checksum_form",
    "checksum_after",
    "checksum_place",
];
/// Keys of a device that only this type has.
pub const DEVICE_KEYS: [&str; 4] = ["send", "match", "status", "example"];
/// Keys of a device that mean nothing here.
const NOT_OF_DEVICE: [&str; 15] = [
    "unit_id",
    "profile",
    "address_style",
    "max_registers_per_read",
    "max_bits_per_read",
    "max_gap",
    "fill_gaps",
    "one_request_per_tag",
    "readable",
    "forbidden",
    "pause_after_connect",
    "delay_between_requests",
    "delay_on_unit_change",
    "ignore_unit_id",
    "retries",
];
/// Keys of a bus that mean nothing here.
const NOT_OF_BUS: [&str; 8] = [
    "pause_after_connect",
    "delay_between_requests",
    "delay_on_unit_change",
    "close_after_cycle",
    "max_connections",
    "ignore_unit_id",
    "retries",
    "turnaround",
];
/// Keys of a tag that mean nothing here: there are no registers.
const NOT_OF_TAG: [&str; 11] =
    ["address", "order", "access", "write", "mask", "shift", "nan", "scale_from", "encoding", "pad", "terminator"];
const MODES: [(&str, LineMode); 2] = [("poll", LineMode::Poll), ("listen", LineMode::Listen)];
const KINDS: [(&str, Option<ChecksumKind>); 6] = [
    ("none", None),
    ("xor", Some(ChecksumKind::Xor)),
    ("sum8", Some(ChecksumKind::Sum8)),
    ("lrc", Some(ChecksumKind::Lrc)),
    ("crc16-modbus", Some(ChecksumKind::Crc16Modbus)),
    ("crc16-ccitt", Some(ChecksumKind::Crc16Ccitt)),
];
const FORMS: [(&str, ChecksumForm); 2] = [("binary", ChecksumForm::Binary), ("hex", ChecksumForm::Hex)];
const PLACES: [(&str, ChecksumPlace); 2] = [("inside", ChecksumPlace::Inside), ("behind", ChecksumPlace::Behind)];
const IDLE_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
const FRAME_RANGE: RangeInclusive<u16> = 1..=4096;
const MAX_FRAME: u16 = 256;
const MARK_MAX: usize = 8;
const SEND_MAX: usize = 256;
const PATTERNS_MAX: usize = 32;
/// How bytes are written.
pub const BYTES_FORM: &str = "text such as \"\\r\\n\", or \"hex:02 0D\"";

/// Is nobody asked on this bus?
pub fn listens(section: &Section<'_, '_>) -> bool {
    matches!(section.get("mode").map(|node| &node.value), Some(Value::Text(mode)) if mode == "listen")
}

/// The frames of a bus; problems are reported.
pub fn frames(section: &Section<'_, '_>) -> Option<LinePlan> {
    refuse(section, &NOT_OF_BUS, "belongs to Modbus; a bus of type line has no such key");
    let mode = section.choice("mode", &MODES).map_or(LineMode::Poll, |spot| spot.value);
    let max_frame = usize::from(section.whole("max_frame", FRAME_RANGE).unwrap_or(MAX_FRAME));
    let checksum = checksum(section);
    let cut = cut(section, max_frame)?;
    if let (LineMode::Listen, FrameCut::Length { start, .. }, Some(node)) = (mode, &cut, section.get("frame_length"))
        && start.is_empty()
    {
        let message = "nobody could tell where a frame begins: who listens needs frame_start, or another end";
        section.report(section.wrong("frame_length", node.at, message));
    }
    if let (Some(node), Some(ChecksumPlan { place: ChecksumPlace::Behind, .. })) =
        (section.get("checksum_place"), &checksum)
        && !matches!(cut, FrameCut::Marks { .. })
    {
        section.report(section.wrong("checksum_place", node.at, "is behind `frame_end`, which is missing"));
    }
    Some(LinePlan { mode, cut, max_frame, checksum })
}

fn cut(section: &Section<'_, '_>, max_frame: usize) -> Option<FrameCut> {
    let ends = ["frame_end", "frame_length", "frame_idle"];
    let written: Vec<&str> = ends.into_iter().filter(|key| section.get(key).is_some()).collect();
    match written.as_slice() {
        [] => {
            section.missing("frame_end", "how a frame ends, such as \"\\r\\n\"; or frame_length, or frame_idle");
            return None;
        }
        [_] => {}
        [_, second, ..] => {
            let at = section.get(second)?.at;
            let message = format!("a frame ends in one way, and `{}` says how", written[0]);
            section.report(section.wrong(second, at, message).allowed("frame_end, frame_length or frame_idle"));
        }
    }
    let start = bytes(section, "frame_start", MARK_MAX).unwrap_or_default();
    if let Some(end) = section.get("frame_end") {
        let found = bytes(section, "frame_end", MARK_MAX)?;
        let begins_anew = !start.is_empty() && found.windows(start.len()).any(|part| part == start);
        if found.is_empty() || begins_anew {
            let message =
                "must be there, and must not have frame_start in it: a new frame would begin before this one ends";
            section.report(section.wrong("frame_end", end.at, message).allowed(BYTES_FORM));
        }
        return Some(FrameCut::Marks { start, end: found });
    }
    if section.get("frame_length").is_some() {
        let longest = u16::try_from(max_frame).unwrap_or(MAX_FRAME);
        return Some(FrameCut::Length { start, length: section.whole("frame_length", 1..=longest)?.into() });
    }
    if let Some(node) = section.get("frame_start") {
        section.report(section.wrong("frame_start", node.at, "has no meaning with frame_idle: silence cuts frames"));
    }
    section.duration("frame_idle", IDLE_RANGE).map(FrameCut::Idle)
}

fn checksum(section: &Section<'_, '_>) -> Option<ChecksumPlan> {
    let kind = section.choice("checksum", &KINDS).and_then(|spot| spot.value);
    let Some(kind) = kind else {
        let keys = ["checksum_form", "checksum_after", "checksum_place"];
        refuse(section, &keys, "says how a checksum is written, and there is no `checksum`");
        return None;
    };
    let place = section.choice("checksum_place", &PLACES).map_or(ChecksumPlace::Inside, |spot| spot.value);
    // An exclusive or between the marks is that of NMEA 0183: `*` and two digits.
    let nmea = kind == ChecksumKind::Xor && place == ChecksumPlace::Inside;
    let standard = if nmea { ChecksumForm::Hex } else { ChecksumForm::Binary };
    let form = section.choice("checksum_form", &FORMS).map_or(standard, |spot| spot.value);
    let star = if nmea && form == ChecksumForm::Hex { b"*".to_vec() } else { Vec::new() };
    let after = bytes(section, "checksum_after", MARK_MAX).unwrap_or(star);
    if let (Some(node), ChecksumPlace::Behind, false) = (section.get("checksum_after"), place, after.is_empty()) {
        section.report(section.wrong("checksum_after", node.at, "is frame_end itself where the checksum is behind it"));
    }
    Some(ChecksumPlan { kind, form, after, place })
}

/// What a device says; `mode` of its bus, if that could be read.
pub fn talk(section: &Section<'_, '_>, mode: Option<LineMode>) -> Option<TalkPlan> {
    refuse(section, &NOT_OF_DEVICE, "belongs to Modbus; a device on a bus of type line has no such key");
    let send = bytes(section, "send", SEND_MAX).unwrap_or_default();
    match (mode, section.get("send")) {
        (Some(LineMode::Listen), Some(node)) => {
            section.report(section.wrong("send", node.at, "its bus listens: nothing is sent there"));
        }
        (Some(LineMode::Poll), None) => section.missing("send", "what the device is asked, such as \"SI\\r\\n\""),
        (Some(LineMode::Poll), Some(node)) if send.is_empty() => {
            section.report(section.wrong("send", node.at, "must not be empty").allowed(BYTES_FORM));
        }
        _ => {}
    }
    let patterns = patterns(section);
    let status = status(section, &patterns);
    (!patterns.is_empty()).then_some(TalkPlan { send, patterns, status, examples: Vec::new() })
}

fn patterns(section: &Section<'_, '_>) -> Vec<Pattern> {
    if section.get("match").is_none() {
        section.missing("match", "a regular expression with a named group for each tag");
        return Vec::new();
    }
    let texts = one_or_more(section, "match");
    if let (Some(node), true) = (section.get("match"), texts.is_empty() || texts.len() > PATTERNS_MAX) {
        let allowed = format!("1 ..= {PATTERNS_MAX} patterns");
        section.report(section.wrong("match", node.at, format!("has {} patterns", texts.len())).allowed(allowed));
    }
    let read = |text: Spot<&str>| {
        let pattern = Pattern::new(text.value);
        let allowed = "such as \"^S (?P<state>[SD]) +(?P<weight>[-0-9.]+) g\"";
        pattern.map_err(|message| section.report(section.wrong("match", text.at, message).allowed(allowed))).ok()
    };
    texts.into_iter().take(PATTERNS_MAX).filter_map(read).collect()
}

fn status(section: &Section<'_, '_>, patterns: &[Pattern]) -> Option<StatusPlan> {
    let node = section.get("status")?;
    let trail = Trail::Key(section.trail, "status");
    let table = Section::open(section.cx, node, &trail, schema::STATUS_TEXTS)?;
    let field = table.required_text("field", "the group that holds the status")?;
    known(&table, field, patterns);
    let list = |key| -> Vec<String> {
        table.texts(key).unwrap_or_default().into_iter().map(|text| text.value.to_owned()).collect()
    };
    Some(StatusPlan { field: field.value.to_owned(), good: list("good"), uncertain: list("uncertain") })
}

/// Where a tag of a line bus comes from.
pub fn field(section: &Section<'_, '_>, patterns: &[Pattern]) -> Option<Source> {
    refuse(section, &NOT_OF_TAG, "a tag on a bus of type line is a `field` of a frame, and read-only");
    let field = section.required_text("field", "the name of a group in the `match` of its device")?;
    known(section, field, patterns);
    Some(Source::Field(field.value.to_owned()))
}

/// A text, or a list of them.
pub fn one_or_more<'a>(section: &Section<'a, '_>, key: &str) -> Vec<Spot<&'a str>> {
    match section.get(key).map(|node| &node.value) {
        Some(Value::Text(_)) => section.text(key).into_iter().collect(),
        Some(_) => section.texts(key).unwrap_or_default(),
        None => Vec::new(),
    }
}

/// Reports a group that no pattern has.
fn known(section: &Section<'_, '_>, field: Spot<&str>, patterns: &[Pattern]) {
    if patterns.is_empty() || patterns.iter().any(|pattern| pattern.has(field.value)) {
        return; // patterns with problems were reported
    }
    let mut names: Vec<&str> = patterns.iter().flat_map(Pattern::fields).collect();
    names.sort_unstable();
    names.dedup();
    let message = "no pattern in `match` has a group of this name";
    section.report(section.wrong("field", field.at, message).allowed(names.join(", ")));
}

/// Reports keys that do not belong there.
pub fn refuse(section: &Section<'_, '_>, keys: &[&str], message: &str) {
    for key in keys {
        if let Some(node) = section.get(key) {
            section.report(section.wrong(key, node.at, message));
        }
    }
}

/// Bytes as text, or as hexadecimal digits behind `hex:`.
fn bytes(section: &Section<'_, '_>, key: &str, longest: usize) -> Option<Vec<u8>> {
    section.get(key)?;
    let text = section.text(key)?;
    let found = bytes_of(text.value, longest);
    if found.is_none() {
        let allowed = format!("at most {longest} bytes: {BYTES_FORM}");
        section.report(section.wrong(key, text.at, "are no such bytes").allowed(allowed));
    }
    found
}

/// The same of a text alone.
pub fn bytes_of(text: &str, longest: usize) -> Option<Vec<u8>> {
    let found = match text.strip_prefix("hex:") {
        None => Some(text.as_bytes().to_vec()),
        Some(digits) => {
            let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b' ').collect();
            let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let whole = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
            digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>().filter(|_| whole)
        }
    };
    found.filter(|bytes| bytes.len() <= longest)
}
