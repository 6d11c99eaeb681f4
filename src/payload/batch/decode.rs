//! The payload of a batch to records. Never panics, never allocates more than a batch may hold.

use std::io::Read;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::model::number::{Class, Epoch, Number, Seq};
use crate::payload::json::Previous;

use super::cells::{self, Cells, Restored};
use super::dictionary::Entry;
use super::rows::{self, Place, Rows};
use super::schema::{Content, Event, Frame, Tag};
use super::{BadBatch, Batch, RAW_BYTES_MAX, RECORDS_MAX, Record, RecordBody, VERSION};

/// Epochs are exact in a double.
const EPOCH_MAX: u64 = (1 << 53) - 1;

/// A frame may ask for a window of 128 MiB before it says anything; ours need 4.
const WINDOW_LOG_MAX: u32 = 23;
/// Top-level fields of a content: every record may bring a text or an event, and every tag an entry.
const FIELDS_MAX: usize = 3 * RECORDS_MAX;

/// Reads a payload.
pub fn decode(payload: &[u8]) -> Result<Batch, BadBatch> {
    decode_frame(&unpack(payload)?)
}

/// Unpacks zstd, at most [`RAW_BYTES_MAX`].
pub(in crate::payload) fn unpack(payload: &[u8]) -> Result<Vec<u8>, BadBatch> {
    let broken = |_| BadBatch::Foreign("it is not zstd, or cut off");
    let mut raw = Vec::new();
    let mut reader = zstd::stream::read::Decoder::with_buffer(payload).map_err(broken)?;
    reader.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    reader.take(RAW_BYTES_MAX as u64 + 1).read_to_end(&mut raw).map_err(broken)?;
    if raw.len() > RAW_BYTES_MAX {
        return Err(BadBatch::Foreign("more than 8 MiB unpacked"));
    }
    Ok(raw)
}

/// Reads what [`unpack`] gave.
pub(in crate::payload) fn decode_frame(raw: &[u8]) -> Result<Batch, BadBatch> {
    let frame = Frame::decode(raw).map_err(|_| BadBatch::Foreign("it is not a frame"))?;
    if crc32fast::hash(&frame.content) != frame.crc {
        return Err(BadBatch::Damaged("its CRC is wrong"));
    }
    weigh(&frame.content).ok_or(BadBatch::Damaged("more or other fields than a batch has"))?;
    let content = Content::decode(frame.content.as_slice()).map_err(|_| BadBatch::Damaged("it is not a content"))?;
    if content.version != VERSION {
        return Err(BadBatch::Newer(content.version));
    }
    restore(content)
}

/// Would this unpack to more than a batch holds? Two bytes of an empty entry become a hundred in memory, so that is
/// looked at before. (Packed numbers take at least a byte of the 8 MiB each.) What is no protobuf at all is left to the
/// decoder.
fn weigh(mut content: &[u8]) -> Option<()> {
    let mut fields = 0;
    while let Ok((_, kind)) = decode_key(&mut content) {
        fields += 1;
        let skip = match kind {
            WireType::Varint => decode_varint(&mut content).map(|_| 0).ok(),
            WireType::ThirtyTwoBit => Some(4),
            WireType::SixtyFourBit => Some(8),
            WireType::LengthDelimited => decode_varint(&mut content).ok(),
            // proto3 has none, and the decoder would skip one together with all that could hide behind it
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let Some(skip) = skip else { break };
        content = content.get(usize::try_from(skip).ok()?..).unwrap_or_default();
    }
    (fields <= FIELDS_MAX).then_some(())
}

fn restore(content: Content) -> Result<Batch, BadBatch> {
    const NUMBERS: BadBatch = BadBatch::Damaged("its numbers do not exist");
    let count = content.count as usize;
    let class = u8::try_from(content.stream).ok().and_then(Class::from_code).ok_or(NUMBERS)?;
    let end = content.first.checked_add(count as u64);
    if !(1..=EPOCH_MAX).contains(&content.epoch) || content.first == 0 || end.is_none() {
        return Err(NUMBERS);
    }
    if !(1..=RECORDS_MAX).contains(&count) || content.tags.len() > count {
        return Err(BadBatch::Damaged("more or fewer records than a batch has"));
    }
    let ticks_per_ms = match content.ticks_per_second {
        1000 => 1,
        1_000_000 => 1000,
        _ => return Err(BadBatch::Damaged("its times have a strange unit")),
    };
    let columns = tag_ids(&content.tags)?;
    let order = Rows {
        sizes: content.shape_sizes,
        columns: content.shape_columns,
        polls: content.poll_shapes,
        times: content.poll_times,
    };
    let places = rows::restore(&order, columns.len(), count, content.base)?;
    let mut counts = vec![0_usize; columns.len()];
    for (place, _) in &places {
        if let Place::Column(column) = place {
            counts[*column] += 1;
        }
    }
    let untils = rows::untils(&content.untils, count)?;
    let cells = Cells {
        qualities: content.qualities,
        kinds: content.kinds,
        starts: content.starts,
        steps: content.steps,
        ulps: content.ulps,
        texts: content.texts,
    };
    let mut records = in_order(&places, cells::restore(cells, &counts)?, &counts, content.events, ticks_per_ms)?;
    for (record, until) in records.iter_mut().zip(untils) {
        record.until_ms = until.map(|ticks| ticks.wrapping_add(content.base).div_euclid(ticks_per_ms));
    }
    let previous = (content.previous_epoch != 0).then(|| Previous {
        epoch: Epoch(content.previous_epoch),
        seq: (content.previous_seq != 0).then_some(Seq(content.previous_seq)),
    });
    Ok(Batch {
        gateway: content.gateway,
        first: Number { stream: class, epoch: Epoch(content.epoch), seq: Seq(content.first) },
        previous,
        entries: content.dictionary.into_iter().map(entry).collect(),
        columns,
        fingerprint: content.fingerprint,
        records,
    })
}

/// Cells lie column after column; records come in the order of their places.
fn in_order(
    places: &[(Place, i64)],
    mut cells: Vec<Restored>,
    counts: &[usize],
    events: Vec<Event>,
    ticks_per_ms: i64,
) -> Result<Vec<Record>, BadBatch> {
    let mut end = 0;
    let begin = |count: &usize| {
        end += count;
        end - count
    };
    let mut next: Vec<usize> = counts.iter().map(begin).collect();
    let mut events = events.into_iter();
    let mut records = Vec::with_capacity(places.len());
    for (place, ticks) in places {
        let body = match place {
            Place::Event => {
                let event = events.next().ok_or(BadBatch::Damaged("an event is missing"))?;
                RecordBody::Event { topic: event.topic, body: event.body }
            }
            Place::Column(column) => {
                let cell = cells.get_mut(next[*column]).ok_or(BadBatch::Damaged("a cell is missing"))?;
                next[*column] += 1;
                RecordBody::Sample { column: *column, value: cell.0.take(), quality: cell.1 }
            }
        };
        records.push(Record { unix_ms: ticks.div_euclid(ticks_per_ms), until_ms: None, body });
    }
    if events.next().is_some() {
        return Err(BadBatch::Damaged("more events than records"));
    }
    Ok(records)
}

/// Ascending, so that no tag has two columns.
fn tag_ids(steps: &[i64]) -> Result<Vec<u32>, BadBatch> {
    let mut before = 0_u32;
    let id = |step: &i64| {
        let id = i64::from(before).checked_add(*step).and_then(|id| u32::try_from(id).ok());
        before = id.filter(|id| *id > before).ok_or(BadBatch::Damaged("its tags do not exist"))?;
        Ok(before)
    };
    steps.iter().map(id).collect()
}

fn entry(tag: Tag) -> Entry {
    Entry { id: tag.id, device: tag.device, name: tag.name, topic: tag.topic, data_type: tag.r#type }
}
