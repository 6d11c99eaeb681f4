//! The file of an export: CSV, NDJSON or Parquet, one record after another.
//!
//! NDJSON: the payload of the uplink's JSON (layout `tag`), with `"topic"` in front. CSV: the columns of
//! [`crate::payload::table`], as the receiver writes them. Parquet: see `parquet`.

use std::io::{self, BufWriter, Write};

use serde_json::{Map, Value};

use crate::payload::{event, json, letter, table};

use super::super::OwedBody;
use super::Exported;
use super::parquet::Table;

/// Which kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A header, then a row per record.
    Csv,
    /// An object per line.
    Ndjson,
    /// Columns, zstd pages.
    Parquet,
}

/// A file that is being written.
pub struct Sheet(Kind);

enum Kind {
    Csv(Box<csv::Writer<Box<dyn Write + Send>>>),
    Ndjson(BufWriter<Box<dyn Write + Send>>),
    Parquet(Box<Table>),
}

impl Sheet {
    /// Begins it: a CSV has its header, whatever comes.
    pub fn new(form: Form, into: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self(match form {
            Form::Csv => {
                let mut writer = csv::Writer::from_writer(into);
                writer.write_record(table::COLUMNS).map_err(plain)?;
                Kind::Csv(Box::new(writer))
            }
            Form::Ndjson => Kind::Ndjson(BufWriter::new(into)),
            Form::Parquet => Kind::Parquet(Box::new(Table::new(into)?)),
        }))
    }

    /// One record.
    pub fn write(&mut self, record: &Exported) -> io::Result<()> {
        match &mut self.0 {
            Kind::Csv(writer) => writer.write_record(table::row(record.topic(), &object(record)?)).map_err(plain),
            Kind::Ndjson(into) => {
                write!(into, r#"{{"topic":{},"#, Value::from(record.topic()))?;
                into.write_all(&payload(record)[1..])?; // never empty: it has a number
                into.write_all(b"\n")
            }
            Kind::Parquet(table) => table.push(record),
        }
    }

    /// Ends the file; without this it is not whole.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Kind::Csv(mut writer) => writer.flush(),
            Kind::Ndjson(mut into) => into.flush(),
            Kind::Parquet(table) => table.finish(),
        }
    }
}

/// The error of who is written to, as it was: one who reads no more is told from a full disk by its kind.
fn plain(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// What the uplink would send; a client's message as an object that says its number.
pub(super) fn payload(record: &Exported) -> Vec<u8> {
    let Exported { number, previous, time, body } = record;
    match body {
        OwedBody::Sample { value, quality, .. } => {
            json::numbered_sample(value.as_ref(), *quality, *time, *number, *previous)
        }
        OwedBody::Event { body, .. } => event::numbered(body, *time, *number, *previous),
        OwedBody::Message { message, .. } => {
            Value::Object(letter::object(&message.payload, *number, Some(&time.to_string()))).to_string().into_bytes()
        }
    }
}

fn object(record: &Exported) -> io::Result<Map<String, Value>> {
    Ok(serde_json::from_slice(&payload(record))?)
}
