//! The format `batch`, from rows to bytes and back: exact, in order, never readable with the wrong dictionary, and proof
//! against whatever else arrives on its topic.

use std::time::{Duration, Instant};

use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{BadBatch, Batch, Dictionary, Encoder, Entry, Head, RecordBody, Row, RowBody, decode};
use ironbridge::payload::json::{self, Previous};
use proptest::prelude::*;

const FIRST: Number = Number { stream: Class::Telemetry, epoch: Epoch((1 << 53) - 1), seq: Seq(1) };
const HEAD: Head = Head { first: FIRST, previous: Some(Previous { epoch: Epoch(7), seq: Some(Seq(9)) }) };

fn entry(id: u32) -> Entry {
    let (device, name) = (format!("pump-{}", id % 3), format!("tag-{id}"));
    let topic = format!("up/acme/{device}/{name}");
    Entry { id, device, name, topic, data_type: "float64".into() }
}

fn encoder(tags: u32) -> Encoder {
    let mut encoder = Encoder::new("gw");
    (1..=tags).for_each(|id| encoder.know(entry(id)));
    encoder
}

/// One record that a test owns.
#[derive(Debug, Clone)]
struct Mine {
    unix_ms: i64,
    until_ms: Option<i64>,
    body: MyBody,
}

#[derive(Debug, Clone)]
enum MyBody {
    Sample { tag: u32, value: Option<Value>, quality: Quality },
    Event { topic: String, body: Vec<u8> },
}

fn rows(mine: &[Mine]) -> Vec<Row<'_>> {
    mine.iter()
        .map(|mine| Row {
            unix_ms: mine.unix_ms,
            until_ms: mine.until_ms,
            body: match &mine.body {
                MyBody::Sample { tag, value, quality } => {
                    RowBody::Sample { tag: *tag, value: value.as_ref(), quality: *quality }
                }
                MyBody::Event { topic, body } => RowBody::Event { topic, body },
            },
        })
        .collect()
}

fn number(place: usize) -> Number {
    Number { seq: Seq(FIRST.seq.0 + place as u64), ..FIRST }
}

fn previous(place: usize) -> Option<Previous> {
    HEAD.previous.filter(|_| place == 0)
}

/// Topic and JSON payload of each record, as the other format would send them.
fn as_json_sends(mine: &[Mine]) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8(bytes).expect("json");
    let one = |(place, mine): (usize, &Mine)| match &mine.body {
        MyBody::Sample { tag, value, quality } => {
            let time = Wall { unix_ms: mine.unix_ms, certainty: Certainty::Fixed };
            let payload = json::numbered_sample(value.as_ref(), *quality, time, number(place), previous(place));
            (entry(*tag).topic, text(payload))
        }
        MyBody::Event { topic, body } => {
            (topic.clone(), format!("{:?}", json::numbered_event(body, number(place), previous(place))))
        }
    };
    mine.iter().enumerate().map(one).collect()
}

/// The same out of a decoded batch.
fn as_json_would_say(batch: &Batch, dictionary: &Dictionary) -> Vec<(String, String)> {
    let tags = dictionary.tags(batch).expect("known");
    let numbers = (batch.first.seq.0..).map(|seq| Number { seq: Seq(seq), ..batch.first });
    let one = |(number, record): (Number, &ironbridge::payload::batch::Record)| {
        let previous = batch.previous.filter(|_| number == batch.first);
        match &record.body {
            RecordBody::Sample { column, value, quality } => {
                let time = Wall { unix_ms: record.unix_ms, certainty: Certainty::Fixed };
                let payload = json::numbered_sample(value.as_ref(), *quality, time, number, previous);
                (tags[*column].topic.clone(), String::from_utf8(payload).expect("json"))
            }
            RecordBody::Event { topic, body } => {
                (topic.clone(), format!("{:?}", json::numbered_event(body, number, previous)))
            }
        }
    };
    numbers.zip(&batch.records).map(one).collect()
}

fn untils(batch: &Batch) -> Vec<Option<i64>> {
    batch.records.iter().map(|record| record.until_ms).collect()
}

fn bits(batch: &Batch) -> Vec<String> {
    let value = |record: &ironbridge::payload::batch::Record| match &record.body {
        RecordBody::Sample { value, .. } => shown(value.as_ref()),
        RecordBody::Event { .. } => String::new(),
    };
    batch.records.iter().map(value).collect()
}

/// `==` on f64 takes 0.0 for -0.0; the bits must be the same.
fn shown(value: Option<&Value>) -> String {
    match value {
        Some(Value::Float(real)) => format!("f64 {:016x}", real.to_bits()),
        other => format!("{other:?}"),
    }
}

fn any_value() -> impl Strategy<Value = Option<Value>> {
    let float = |real: f64| Some(Value::Float(real));
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(|bit| Some(Value::Bool(bit))),
        any::<i64>().prop_map(|number| Some(Value::Int(number))),
        any::<u64>().prop_map(|number| Some(Value::Uint(number))),
        any::<f64>().prop_filter("finite", |real| real.is_finite()).prop_map(float),
        any::<f32>().prop_filter("finite", |real| real.is_finite()).prop_map(move |real| float(f64::from(real))),
        (-99_999_i32..99_999, 0_i32..12).prop_map(move |(raw, k)| float(f64::from(raw) / 10_f64.powi(k))),
        (-99_999_i32..99_999).prop_map(move |raw| float(f64::from(raw) * 0.1)),
        (-9999_i16..9999, 0_i16..99).prop_map(move |(raw, by)| float(f64::from(raw) * 0.05 - f64::from(by))),
        (-9999_i16..9999).prop_map(move |raw| float(f64::from(f32::from(raw) / 100.0))),
        Just(float(-0.0)),
        Just(float(9_007_199_254_740_993.0)),
        ".{0,12}".prop_map(|text| Some(Value::Text(text.into()))),
    ]
}

fn any_quality() -> impl Strategy<Value = Quality> {
    let cause = || prop::sample::select(Cause::ALL.to_vec());
    prop_oneof![
        6 => Just(Quality::Good),
        1 => cause().prop_map(Quality::Uncertain),
        1 => cause().prop_map(Quality::Bad),
    ]
}

fn any_record() -> impl Strategy<Value = Mine> {
    let sample =
        (1_u32..9, any_value(), any_quality()).prop_map(|(tag, value, quality)| MyBody::Sample { tag, value, quality });
    let event =
        (".{0,9}", prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(topic, body)| MyBody::Event { topic, body });
    let time = prop_oneof![1_795_204_800_000_i64..1_795_204_800_004, -(1_i64 << 50)..(1_i64 << 50)];
    let until = prop_oneof![3 => Just(None), 1 => any::<i32>().prop_map(Some)];
    (time, until, prop_oneof![9 => sample, 1 => event]).prop_map(|(unix_ms, until, body)| Mine {
        unix_ms,
        until_ms: until.map(|ms| unix_ms + i64::from(ms)),
        body,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn records_come_back_bit_by_bit_with_the_number_topic_and_text_that_json_gives(
        mine in prop::collection::vec(any_record(), 1..120),
    ) {
        let draft = encoder(9).draft(HEAD, &rows(&mine), Instant::now());
        let batch = decode(&draft.payload).expect("whole");
        let mut dictionary = Dictionary::default();
        dictionary.learn(&batch);
        prop_assert_eq!((batch.first, batch.previous), (HEAD.first, HEAD.previous));
        prop_assert_eq!(as_json_would_say(&batch, &dictionary), as_json_sends(&mine));
        let values: Vec<_> = mine.iter().map(|mine| match &mine.body {
            MyBody::Sample { value, .. } => shown(value.as_ref()),
            MyBody::Event { .. } => String::new(),
        }).collect();
        prop_assert_eq!(bits(&batch), values);
        prop_assert_eq!(untils(&batch), mine.iter().map(|mine| mine.until_ms).collect::<Vec<_>>());
    }

    #[test]
    fn columns_of_one_kind_come_back_too_whatever_the_tag_sent_before(
        columns in prop::collection::vec(prop::collection::vec(any_value(), 1..2), 1..40),
    ) {
        let mut encoder = encoder(1);
        for values in columns {
            let mine: Vec<_> = values.into_iter().map(|value| sample(1, value)).collect();
            let draft = encoder.draft(HEAD, &rows(&mine), Instant::now());
            let values: Vec<_> = mine.iter().map(|mine| match &mine.body {
                MyBody::Sample { value, .. } => shown(value.as_ref()),
                MyBody::Event { .. } => String::new(),
            }).collect();
            prop_assert_eq!(bits(&decode(&draft.payload).expect("whole")), values);
        }
    }

    #[test]
    fn a_damaged_payload_is_refused_and_never_taken_for_another(
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mine: Vec<_> = (0..300).map(|n| sample(1 + n % 9, Some(Value::Int(i64::from(n))))).collect();
        let whole = encoder(9).draft(HEAD, &rows(&mine), Instant::now()).payload;
        let good = decode(&whole).expect("whole");
        prop_assert!(decode(&whole[..cut.index(whole.len())]).is_err());
        let mut flipped = whole.clone();
        flipped[at.index(whole.len())] ^= 1 << bit;
        // zstd has bits that mean nothing; what is accepted must be what was sent
        prop_assert!(decode(&flipped).is_err() || decode(&flipped) == Ok(good));
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&noise).is_err());
        let packed = zstd::bulk::compress(&noise, 1).expect("memory");
        prop_assert!(decode(&packed).is_err());
        // also behind a right CRC
        prop_assert!(decode(&zstd::bulk::compress(&framed(&noise), 1).expect("memory")).is_err());
    }
}

fn sample(tag: u32, value: Option<Value>) -> Mine {
    let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Cause::Timeout) };
    Mine { unix_ms: 1_795_204_800_123, until_ms: None, body: MyBody::Sample { tag, value, quality } }
}

#[test]
fn a_bomb_is_refused_before_it_fills_the_memory() {
    let zeros = vec![0_u8; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 19).expect("memory");
    assert!(bomb.len() < 10_000, "{} bytes", bomb.len());
    assert_eq!(decode(&bomb), Err(BadBatch::Foreign("more than 8 MiB unpacked")));
    // entries of nothing: two bytes each, a hundred in memory; alone, and behind a group, which a decoder skips as a whole
    for before in [&[0x08, 1][..], &[0x08, 1, 0xa3, 0x06, 0xa4, 0x06]] {
        let mut content = before.to_vec();
        (0..1_000_000).for_each(|_| content.extend([0x5a, 0]));
        let bomb = zstd::bulk::compress(&framed(&content), 3).expect("memory");
        assert_eq!(decode(&bomb), Err(BadBatch::Damaged("more or other fields than a batch has")));
    }
}

/// A content behind its right CRC.
fn framed(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x0d];
    frame.extend(crc32fast::hash(content).to_le_bytes());
    frame.push(0x12);
    let mut length = content.len();
    while length > 127 {
        frame.push(u8::try_from(length & 127).expect("seven bits") | 128);
        length >>= 7;
    }
    frame.push(u8::try_from(length).expect("seven bits"));
    frame.extend(content);
    frame
}

#[test]
fn a_value_that_is_no_number_is_none_and_spoils_no_other() {
    let mine: Vec<Mine> =
        [1.5, f64::NAN, f64::NEG_INFINITY, 2.5].map(|real| sample(1, Some(Value::Float(real)))).into();
    let payload = encoder(1).draft(HEAD, &rows(&mine), Instant::now()).payload;
    let batch = decode(&payload).expect("a batch");
    let real = |real| shown(Some(&Value::Float(real)));
    assert_eq!(bits(&batch), [real(1.5), shown(None), shown(None), real(2.5)]);
}

#[test]
fn a_late_consumer_waits_and_then_reads_and_never_uses_a_wrong_dictionary() {
    let (mut now, mut sender) = (Instant::now(), encoder(200));
    let mine: Vec<_> = (0..200).map(|n| sample(n + 1, Some(Value::Int(i64::from(n))))).collect();
    let send = |encoder: &mut Encoder, now: Instant| {
        let draft = encoder.draft(HEAD, &rows(&mine), now);
        encoder.sent(&draft, now);
        decode(&draft.payload).expect("whole")
    };
    let begin = send(&mut sender, now);
    assert_eq!(begin.entries.len(), 200, "the first batch of a session brings all it uses");
    let (mut punctual, mut late) = (Dictionary::default(), Dictionary::default());
    punctual.learn(&begin);
    let mut batches = 0;
    while {
        let batch = send(&mut sender, now);
        assert!(batch.entries.len() <= 1, "{} entries for 200 records", batch.entries.len());
        assert!(punctual.tags(&batch).is_some());
        late.learn(&batch);
        late.tags(&batch).is_none()
    } {
        batches += 1;
        now += Duration::from_secs(1);
    }
    assert!((390..=401).contains(&batches), "400 records per tag heal a table; it took {batches} batches of one");
    // the same ids mean something else now, as after a factory reset
    let mut reset = Encoder::new("gw");
    (1..=200).for_each(|id| reset.know(Entry { name: format!("other-{id}"), ..entry(id) }));
    let first = send(&mut reset, now);
    assert!(punctual.tags(&first).is_none(), "known ids, other tags");
    let then = send(&mut reset, now);
    punctual.learn(&first);
    assert_eq!(punctual.tags(&then).expect("healed")[0].name, "other-1");
    // a topic that changes is told at once, and only that
    sender.know(Entry { topic: "new/place".into(), ..entry(5) });
    assert_eq!(send(&mut sender, now).entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [5]);
    // an hour later everything again; in a new session too
    now += Duration::from_secs(3601);
    assert_eq!(send(&mut sender, now).entries.len(), 200);
    sender.forget();
    assert_eq!(send(&mut sender, now).entries.len(), 200);
}
