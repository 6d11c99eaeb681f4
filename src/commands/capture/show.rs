//! `ironbridge capture --show`: a recording, readable: a line for each question, and for what happened to connections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::takes::{Asked, Found, Item, Take, Takes};
use crate::commands::{self, Failed};
use crate::field::modbus::frame::Expect;
use crate::model::time::{Certainty, Wall, micros, millis};
use crate::recording::{By, Event, Head, Line, NotRead, Reader, Record, Tail, What};

/// Words of an answer that are shown as text; all of them are in the JSON.
const WORDS_SHOWN: usize = 16;
/// Bytes of something that is no answer.
const BYTES_SHOWN: usize = 40;

/// Prints a recording.
pub fn run(file: &Path, json: bool) -> Result<(), Failed> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer { json, began: None, lines: Vec::new(), counts: BTreeMap::new(), stopped: None };
    let mut reader = Reader::open(file).map_err(|error| not_read(&error))?;
    let mut takes = Takes::default();
    while let Some(record) = reader.read().map_err(|error| not_read(&error))? {
        match record {
            Record::Head(head) => printer.head(&mut out, &head),
            Record::Line(line) => {
                takes.line(&line);
                printer.line(&mut out, line);
            }
            Record::Event(event) => takes.push(event, &mut |item| printer.item(&mut out, &item)),
            Record::End | Record::Unknown(_) => {}
        }
        if let Some(error) = printer.stopped {
            return commands::printed(Err(error));
        }
    }
    takes.finish(&mut |item| printer.item(&mut out, &item));
    printer.end(&mut out, reader.tail());
    commands::printed(printer.stopped.map_or_else(|| out.flush(), Err))
}

/// A file that cannot be read is the user's mistake, or a disk's.
pub fn not_read(error: &NotRead) -> Failed {
    match error {
        NotRead::Refused { path, error } => Failed::unread(path.display(), error),
        NotRead::Foreign(_) | NotRead::Newer { .. } => Failed::Usage(error.to_string()),
    }
}

/// How a file ends, if not as it should.
pub fn tail_text(tail: Tail) -> Option<String> {
    match tail {
        Tail::Ended => None,
        Tail::Open => Some("the recording was cut off, or is still under way".to_owned()),
        Tail::Torn(bytes) => Some(format!("the recording was cut off within a record; its {bytes} bytes are left out")),
        Tail::Damaged(at) => Some(format!("what follows byte {at} is not what was written; it is left out")),
    }
}

struct Printer {
    json: bool,
    began: Option<i64>,
    lines: Vec<Line>,
    counts: BTreeMap<&'static str, u64>,
    stopped: Option<io::Error>,
}

impl Printer {
    fn put(&mut self, out: &mut impl io::Write, text: &str) {
        if self.stopped.is_none() {
            self.stopped = writeln!(out, "{text}").err();
        }
    }

    fn head(&mut self, out: &mut impl io::Write, head: &Head) {
        self.began = head.began_unix_ms;
        let began = self.began.map(|unix_ms| Wall { unix_ms, certainty: Certainty::Fixed }.to_string());
        let files: Vec<&String> = head.files.iter().map(|(name, _)| name).collect();
        let text = if self.json {
            json!({ "kind": "head", "began": began, "version": head.version, "files": files }).to_string()
        } else {
            let began = began.unwrap_or_else(|| "at a time that nobody knew".to_owned());
            format!("recorded {began} by ironbridge {}", head.version)
        };
        self.put(out, &text);
    }

    fn line(&mut self, out: &mut impl io::Write, line: Line) {
        let timeout = line.response_timeout.as_millis();
        let text = if self.json {
            json!({ "kind": "line", "name": line.name, "type": line.kind, "place": line.place, "serial": line.settings, "response_timeout_ms": millis(line.response_timeout) })
                .to_string()
        } else {
            let Line { name, kind, place, settings, .. } = &line;
            format!("{name}  {kind}  {place} {settings}  timeout {timeout} ms")
        };
        self.put(out, &text);
        self.lines.push(line);
    }

    fn item(&mut self, out: &mut impl io::Write, item: &Item) {
        let text = match (item, self.json) {
            (Item::Take(take), true) => self.take_json(take).to_string(),
            (Item::Take(take), false) => self.take_text(take),
            (Item::Note(event), _) => self.note(event),
        };
        if let Item::Take(take) = item {
            *self.counts.entry(word(&take.found)).or_default() += 1;
        }
        self.put(out, &text);
    }

    fn end(&mut self, out: &mut impl io::Write, tail: Tail) {
        let (tail, counts) = (tail_text(tail), &self.counts);
        let text = if self.json {
            json!({ "kind": "end", "questions": counts, "tail": tail }).to_string()
        } else {
            let total: u64 = counts.values().sum();
            let mut text = format!("{total} questions");
            for (word, count) in counts {
                let _ = write!(text, ", {count} {word}");
            }
            tail.map_or(text.clone(), |tail| format!("{text}\n{tail}"))
        };
        self.put(out, &text);
    }

    fn name(&self, line: u32, connection: u32) -> String {
        let name = self.lines.get(line as usize).map_or("?", |line| line.name.as_str());
        if connection == 0 { name.to_owned() } else { format!("{name}/{}", connection + 1) }
    }

    /// `12:30:01.234567`, or seconds since the begin where nobody knew the time.
    fn time(&self, at: Duration) -> String {
        let Some(began) = self.began else { return format!("{:12.6}", at.as_secs_f64()) };
        let unix_ms = began + i64::try_from(at.as_millis()).unwrap_or(0);
        let text = Wall { unix_ms, certainty: Certainty::Fixed }.to_string();
        format!("{}{:03}", text.get(11..23).unwrap_or_default(), at.subsec_micros() % 1000)
    }

    fn take_text(&self, take: &Take) -> String {
        let mut text = format!("{}  {}  ", self.time(take.at), self.name(take.line, take.connection));
        text.push_str(&take.asked.as_ref().map_or_else(|| format!("no whole request: {}", hex(&take.sent)), asked));
        let took =
            take.answered_after.map(|after| format!("  {:.1} ms", after.as_secs_f64() * 1e3)).unwrap_or_default();
        let _ = match &take.found {
            Found::Answer(pdu) => write!(text, "{took}  {}", answer(pdu)),
            Found::Silence => write!(text, "  no answer within {:.0} ms", take.lasted.as_secs_f64() * 1e3),
            Found::Broadcast => write!(text, "  to all"),
            other => write!(text, "  {}: {}", word(other), hex(&all_bytes(take))),
        };
        let noise = take.noise;
        for (count, what) in [
            (noise.crc, "wrong check sums"),
            (noise.stale, "answers to other questions"),
            (noise.foreign, "frames of other units"),
            (noise.echo, "echoes"),
            (noise.garbage, "bytes of no frame"),
        ] {
            if count > 0 {
                let _ = write!(text, "  [{count} {what}]");
            }
        }
        if let Some((_, by)) = take.closed {
            text.push_str(if by == By::Them { "  [then it hung up]" } else { "  [then the connection broke]" });
        }
        text
    }

    fn take_json(&self, take: &Take) -> Json {
        let mut object = json!({
            "kind": "question",
            "at_us": micros(take.at),
            "bus": self.name(take.line, take.connection),
            "result": word(&take.found),
            "answered_after_us": take.answered_after.map(micros),
            "request": hex_all(&take.sent),
            "received": take.pieces.iter().map(|piece| json!({
                "after_us": micros(piece.after), "took_us": micros(piece.took), "bytes": hex_all(&piece.bytes)
            })).collect::<Vec<_>>(),
            "crc": take.noise.crc, "stale": take.noise.stale, "foreign": take.noise.foreign,
            "echo": take.noise.echo, "garbage": take.noise.garbage,
            "hung_up": take.closed.is_some(),
        });
        if let Some(began) = self.began {
            let unix_ms = began + i64::try_from(take.at.as_millis()).unwrap_or(0);
            object["time"] = json!(Wall { unix_ms, certainty: Certainty::Fixed }.to_string());
        }
        if let Some(Asked { unit, pdu, .. }) = &take.asked {
            object["unit"] = json!(unit);
            object["function"] = json!(pdu.first());
            if let Some((start, count)) = span(pdu) {
                object["address"] = json!(start);
                object["count"] = json!(count);
            }
        }
        if let Found::Answer(pdu) = &take.found {
            match &pdu[..] {
                [function, code] if function & 0x80 != 0 => object["exception"] = json!(code),
                [3 | 4, _, data @ ..] => object["words"] = json!(words(data)),
                [1 | 2, _, data @ ..] => object["bits"] = json!(hex_all(data)),
                _ => {}
            }
        }
        object
    }

    fn note(&self, event: &Event) -> String {
        let what = match &event.what {
            What::Opened => "connected".to_owned(),
            What::NotOpened(error) => format!("cannot connect: {error}"),
            What::Closed { by: By::Us, .. } => "closed by us".to_owned(),
            What::Closed { by: By::Them, .. } => "the other side hung up".to_owned(),
            What::Closed { by: By::System, error } => format!("the connection broke: {error}"),
            What::Missed(count) => format!("{count} events are missing here: the disk was too slow"),
            What::Sent { bytes, .. } => format!("sent \"{}\"", bytes.escape_ascii()),
            What::Received { bytes, .. } => format!("heard \"{}\"", bytes.escape_ascii()),
        };
        let bus = self.name(event.line, event.connection);
        if self.json {
            let at_us = micros(event.at);
            return json!({ "kind": "note", "at_us": at_us, "bus": bus, "text": what }).to_string();
        }
        format!("{}  {bus}  {what}", self.time(event.at))
    }
}

/// One word for each outcome, the same in text and JSON.
fn word(found: &Found) -> &'static str {
    match found {
        Found::Answer(pdu) if pdu.first().is_some_and(|function| function & 0x80 != 0) => "exception",
        Found::Answer(_) => "answer",
        Found::Broadcast => "broadcast",
        Found::NotJudged => "not judged",
        Found::Silence => "silence",
        Found::Echo => "echo only",
        Found::Garbage => "garbage",
        Found::Foreign => "another unit",
        Found::Stale => "another answer",
        Found::Broken => "wrong check sum",
        Found::WrongShape => "wrong shape",
        Found::OutOfStep => "no Modbus",
    }
}

/// First address and how many, of the functions that have them.
fn span(pdu: &[u8]) -> Option<(u16, u16)> {
    let [function, high, low, rest @ ..] = pdu else { return None };
    let count = match function {
        1..=4 | 15 | 16 => u16::from_be_bytes([*rest.first()?, *rest.get(1)?]),
        5 | 6 | 22 => 1,
        _ => return None,
    };
    Some((u16::from_be_bytes([*high, *low]), count))
}

fn asked(asked: &Asked) -> String {
    question(asked.unit, &asked.pdu)
}

/// A request for people: `unit 3 FC 3 holding:100 × 2`.
pub fn question(unit: u8, pdu: &[u8]) -> String {
    let function = pdu.first().copied().unwrap_or_default();
    let what = match function {
        1 | 5 | 15 => "coil",
        2 => "discrete",
        3 | 6 | 16 | 22 => "holding",
        4 => "input",
        _ => return format!("unit {} FC {function}: {}", unit, hex(pdu)),
    };
    let verb = if Expect::of_request(unit, pdu).is_some() && function > 4 { " write" } else { "" };
    let (start, count) = span(pdu).unwrap_or_default();
    format!("unit {unit} FC {function}{verb} {what}:{start} × {count}")
}

fn answer(pdu: &[u8]) -> String {
    match pdu {
        [function, code] if function & 0x80 != 0 => format!("exception {code}: {}", exception(*code)),
        [3 | 4, _, data @ ..] => {
            let words = words(data);
            let mut text =
                words.iter().take(WORDS_SHOWN).map(|word| format!("{word:04X}")).collect::<Vec<_>>().join(" ");
            if words.len() > WORDS_SHOWN {
                text.push_str(" …");
            }
            text
        }
        [1 | 2, _, data @ ..] => format!("bits {}", hex(data)),
        _ => "done".to_owned(),
    }
}

/// MODBUS Application Protocol V1.1b3, section 7.
const fn exception(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "device failure",
        5 => "acknowledged, still working",
        6 => "busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target gave no answer",
        _ => "not of the specification",
    }
}

fn words(data: &[u8]) -> Vec<u16> {
    data.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
}

fn all_bytes(take: &Take) -> Vec<u8> {
    take.pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
}

/// The first of them, for people.
fn hex(bytes: &[u8]) -> String {
    match bytes.get(..BYTES_SHOWN) {
        Some(first) => format!("{} … ({} bytes)", hex_all(first), bytes.len()),
        None => hex_all(bytes),
    }
}

fn hex_all(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
