//! What comes over MQTT from strangers: batches, compressed text, JSON records, commands.
//!
//! Promises: read or refused, never a panic, never more than the formats allow; the records of a batch stand in its columns,
//! its numbers in a row; a value that is taken from a command is of the kind that was asked for.

use ironbridge::app::request;
use ironbridge::model::data_type::Kind;
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Batch, RECORDS_MAX, RecordBody};
use ironbridge::payload::packed::{self, Opened};
use ironbridge::receive::decode;

/// Fields of a frame, and the wire types that protobuf gives them: fixed32 and bytes.
const CRC: u8 = 1 << 3 | 5;
const CONTENT: u8 = 2 << 3 | 2;

/// A frame of a batch around a content (config/ironbridge-batch.proto), with a right CRC: nothing would get further else.
fn framed(content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut frame = vec![CONTENT];
    while length > 0x7F {
        frame.push(u8::try_from(length & 0x7F).expect("seven bits") | 0x80);
        length >>= 7;
    }
    frame.push(u8::try_from(length).expect("seven bits"));
    frame.extend_from_slice(content);
    frame.push(CRC);
    frame.extend(crc32fast::hash(content).to_le_bytes());
    frame
}

fn is_whole(batch: &Batch) {
    assert!(batch.records.len() <= RECORDS_MAX);
    for record in &batch.records {
        if let RecordBody::Sample { column, .. } = &record.body {
            assert!(*column < batch.columns.len(), "column {column} of {}", batch.columns.len());
        }
    }
}

/// A byte that says what the rest is.
pub fn run(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 => match packed::open(rest) {
            Ok(Opened::Batch(batch)) => is_whole(&batch),
            Ok(Opened::Text(text)) => assert!(text.len() <= rest.len() || rest.starts_with(&[0x28, 0xB5, 0x2F, 0xFD])),
            Err(_) => {}
        },
        1 => {
            if let Ok(Opened::Batch(batch)) = packed::open(&packed::compress(&framed(rest))) {
                is_whole(&batch);
            }
        }
        2 => {
            for topic in ["g/d/t", "p/ironbridge/g/gap", "ironbridge/g/status"] {
                drop(decode::decode(topic, rest));
            }
        }
        _ => {
            for kind in [Kind::Number, Kind::Bool, Kind::Text] {
                let Ok(wanted) = request::read(rest, kind) else { continue };
                let fits = match (&wanted.value, kind) {
                    (Value::Bool(_), Kind::Bool) | (Value::Text(_), Kind::Text) => true,
                    (Value::Float(number), Kind::Number) => number.is_finite(),
                    (Value::Int(_) | Value::Uint(_), Kind::Number) => true,
                    _ => false,
                };
                assert!(fits, "{wanted:?} for {kind:?}");
                assert!(wanted.id.is_none() || wanted.id == request::id_of(rest));
            }
        }
    }
}
