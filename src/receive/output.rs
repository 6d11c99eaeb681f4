//! Lines for people, NDJSON, CSV: one line per record, each record once.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::message::is_event;
use crate::payload::table::{self, cell};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// The payload, with its topic in front.
    Ndjson,
    /// A header, then a row per record.
    Csv,
}

/// Where lines go.
pub struct Output {
    form: Form,
    sink: Sink,
}

enum Sink {
    Plain(Box<dyn Write + Send>),
    Csv(Box<csv::Writer<Box<dyn Write + Send>>>),
}

impl Output {
    /// Writes the header, if there is one to write (not when a file is continued).
    pub fn new(form: Form, into: Box<dyn Write + Send>, header: Header) -> io::Result<Self> {
        let sink = match form {
            Form::Csv => {
                let mut writer = csv::Writer::from_writer(into);
                if header == Header::Write {
                    writer.write_record(table::COLUMNS)?;
                }
                Sink::Csv(Box::new(writer))
            }
            Form::Text | Form::Ndjson => Sink::Plain(into),
        };
        Ok(Self { form, sink })
    }

    /// One record.
    pub fn write(&mut self, topic: &str, body: &Map<String, Value>) -> io::Result<()> {
        match &mut self.sink {
            Sink::Csv(writer) => Ok(writer.write_record(table::row(topic, body))?),
            Sink::Plain(into) if self.form == Form::Ndjson => {
                let mut line = format!(r#"{{"topic":{}"#, Value::from(topic));
                if body.is_empty() {
                    line.push('}');
                } else {
                    line.push(',');
                    line.push_str(&serde_json::to_string(body)?[1..]);
                }
                writeln!(into, "{line}")
            }
            Sink::Plain(into) => writeln!(into, "{}", text(topic, body)),
        }
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Csv(writer) => writer.flush(),
            Sink::Plain(into) => into.flush(),
        }
    }
}

/// Whether a CSV begins with its column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A new file.
    Write,
    /// A file that has one.
    Skip,
}

fn text(topic: &str, body: &Map<String, Value>) -> String {
    let number = format!("{} {} {}", cell(body, "stream"), cell(body, "epoch"), cell(body, "seq"));
    if !body.contains_key("quality") || is_event(body) {
        return format!("{topic}  {}", Value::Object(body.clone()));
    }
    let value = body.get("value").map_or_else(String::new, ToString::to_string);
    let cause = cell(body, "cause");
    let quality = cell(body, "quality");
    let quality = if cause.is_empty() { quality } else { format!("{quality} ({cause})") };
    format!("{}  {topic}  {value}  {quality}  [{}]", cell(body, "time"), number.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const ALARM: &str = r#"{"event":"high","state":"active","value":12.3,"quality":"good","limit":12.0,"time":"T","stream":"alarm","epoch":8,"seq":2}"#;

    fn written(form: Form, header: Header) -> String {
        let paper = Paper::default();
        let mut output = Output::new(form, Box::new(paper.clone()), header).expect("memory");
        let sample = r#"{"value":"a,b","quality":"bad","cause":"nan","time":"T","stream":"bulk","epoch":8,"seq":1}"#;
        for body in [sample, ALARM] {
            output.write("a/b", &serde_json::from_str(body).expect("json")).expect("memory");
        }
        output.flush().expect("memory");
        let bytes = paper.0.lock().unwrap().clone();
        String::from_utf8(bytes).expect("utf-8")
    }

    #[test]
    fn each_form_has_one_line_per_record() {
        let text = written(Form::Text, Header::Write);
        assert!(text.starts_with("T  a/b  \"a,b\"  bad (nan)  [bulk 8 1]\n"), "{text}");
        assert!(text.contains(r#"a/b  {"epoch":8,"event":"high","limit":12.0,"#), "{text}");
        let json = written(Form::Ndjson, Header::Write);
        for line in json.lines() {
            let value: Value = serde_json::from_str(line).expect("each line is JSON");
            assert_eq!(value["topic"], "a/b");
        }
        let csv = written(Form::Csv, Header::Write);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "topic,time,value,quality,cause,stream,epoch,seq,record");
        assert_eq!(lines[1], "a/b,T,\"a,b\",bad,nan,bulk,8,1,");
        assert!(lines[2].starts_with("a/b,T,12.3,good,,alarm,8,2,\"{"), "{}", lines[2]);
        assert!(lines[2].contains(r#"""event"":""high"",""limit"":12.0,"#), "{}", lines[2]);
        assert_eq!(written(Form::Csv, Header::Skip).lines().count(), 2);
    }
}
