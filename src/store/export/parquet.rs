//! Parquet by the `parquet` crate: row groups of at most [`ROWS`] records, zstd pages, dictionaries for texts.
//!
//! ```text
//! topic   string              local topic
//! time    timestamp (ms, UTC)
//! value   double, nullable    numbers; true and false are 1 and 0; null where there is none, or a text
//! text    string, nullable    texts; whole numbers beyond ±2^53, which a double cannot hold, digit by digit
//! quality string, nullable    good, uncertain, bad; null for events
//! cause   string, nullable
//! stream  string   epoch int64   seq int64
//! record  string, nullable    events: the whole object; so too samples whose time is an estimate with a known end (time_until)
//! ```

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::model::value::Value;

use super::super::OwedBody;
use super::{Exported, sheet};

/// Records and bytes of texts in a row group: what is held in memory.
const ROWS: usize = 65_536;
const TEXT_BYTES: usize = 8 << 20;
/// Below this every whole number is exact in a double.
const EXACT: i128 = 1 << 53;

const SCHEMA: &str = "message record {
    required binary topic (STRING);
    required int64 time (TIMESTAMP(MILLIS,true));
    optional double value;
    optional binary text (STRING);
    optional binary quality (STRING);
    optional binary cause (STRING);
    required binary stream (STRING);
    required int64 epoch;
    required int64 seq;
    optional binary record (STRING);
}";

/// A Parquet file that is being written.
pub(super) struct Table {
    writer: SerializedFileWriter<Box<dyn Write + Send>>,
    group: Group,
}

/// The columns of the row group to come.
#[derive(Default)]
struct Group {
    topic: Vec<ByteArray>,
    time: Vec<i64>,
    value: Optional<f64>,
    text: Optional<ByteArray>,
    quality: Optional<ByteArray>,
    cause: Optional<ByteArray>,
    stream: Vec<ByteArray>,
    epoch: Vec<i64>,
    seq: Vec<i64>,
    record: Optional<ByteArray>,
    bytes: usize,
}

/// Values that are there, and for each record whether it has one.
struct Optional<T> {
    values: Vec<T>,
    there: Vec<i16>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self { values: Vec::new(), there: Vec::new() }
    }
}

impl<T> Optional<T> {
    fn push(&mut self, value: Option<T>) {
        self.there.push(i16::from(value.is_some()));
        self.values.extend(value);
    }
}

impl Table {
    pub(super) fn new(into: Box<dyn Write + Send>) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(wrong)?;
        let level = ZstdLevel::try_new(3).map_err(wrong)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = SerializedFileWriter::new(into, Arc::new(schema), Arc::new(properties)).map_err(wrong)?;
        Ok(Self { writer, group: Group::default() })
    }

    pub(super) fn push(&mut self, record: &Exported) -> io::Result<()> {
        self.group.push(record);
        if self.group.seq.len() >= ROWS || self.group.bytes >= TEXT_BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.writer.close().map_err(wrong).map(|_| ())
    }

    fn flush(&mut self) -> io::Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.seq.is_empty() {
            return Ok(());
        }
        let mut rows = self.writer.next_row_group().map_err(wrong)?;
        group.write(&mut rows).and_then(|()| rows.close().map(|_| ())).map_err(wrong)
    }
}

impl Group {
    fn push(&mut self, record: &Exported) {
        let mut bytes = record.topic().len();
        self.topic.push(record.topic().into());
        self.time.push(record.time.unix_ms);
        self.stream.push(record.number.stream.as_str().into());
        self.epoch.push(record.number.epoch.0.cast_signed());
        self.seq.push(record.number.seq.0.cast_signed());
        match &record.body {
            OwedBody::Sample { value, quality, .. } => {
                self.value.push(value.as_ref().and_then(Value::as_f64));
                let text = value.as_ref().and_then(exact_text);
                bytes += text.as_ref().map_or(0, String::len);
                self.text.push(text.map(|text| ByteArray::from(text.into_bytes())));
                self.quality.push(Some(quality.as_str().into()));
                self.cause.push(quality.cause().map(|cause| cause.as_str().into()));
                let doubtful = record.time.until_ms().map(|_| sheet::payload(record));
                bytes += doubtful.as_ref().map_or(0, Vec::len);
                self.record.push(doubtful.map(ByteArray::from));
            }
            OwedBody::Event { .. } | OwedBody::Message { .. } => {
                let payload = sheet::payload(record);
                bytes += payload.len();
                self.value.push(None);
                self.text.push(None);
                self.quality.push(None);
                self.cause.push(None);
                self.record.push(Some(ByteArray::from(payload)));
            }
        }
        self.bytes += bytes;
    }

    /// The columns in the order of the schema.
    fn write(self, rows: &mut SerializedRowGroupWriter<'_, Box<dyn Write + Send>>) -> Result<(), ParquetError> {
        column::<ByteArrayType>(rows, &self.topic, None)?;
        column::<Int64Type>(rows, &self.time, None)?;
        column::<DoubleType>(rows, &self.value.values, Some(&self.value.there))?;
        for optional in [&self.text, &self.quality, &self.cause] {
            column::<ByteArrayType>(rows, &optional.values, Some(&optional.there))?;
        }
        column::<ByteArrayType>(rows, &self.stream, None)?;
        column::<Int64Type>(rows, &self.epoch, None)?;
        column::<Int64Type>(rows, &self.seq, None)?;
        column::<ByteArrayType>(rows, &self.record.values, Some(&self.record.there))
    }
}

fn column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, Box<dyn Write + Send>>,
    values: &[T::T],
    there: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut writer) = rows.next_column()? else {
        return Err(ParquetError::General("the schema has fewer columns than are written".into()));
    };
    writer.typed::<T>().write_batch(values, there, None)?;
    writer.close()
}

/// A text, or a whole number that a double would round.
fn exact_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_string()),
        other => other.as_whole().filter(|whole| whole.abs() > EXACT).map(|whole| whole.to_string()),
    }
}

fn wrong(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error, // such as a closed pipe: the caller looks at its kind
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
