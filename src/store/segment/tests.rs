//! What a segment takes, gives back and outlives.

use super::*;
use crate::model::message::{Kept, Properties};
use crate::model::quality::Cause;
use proptest::prelude::*;

const PLACE: Place = Place { class: Class::Telemetry, epoch: 77 };

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(|bit| Some(Value::Bool(bit))),
        any::<i64>().prop_map(|number| Some(Value::Int(number))),
        any::<u64>().prop_map(|number| Some(Value::Uint(number))),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|number| Some(Value::Float(number))),
        any::<f32>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| Some(Value::Float(f64::from(n)))),
        (-99_999i32..99_999, 0u8..8).prop_map(|(raw, k)| Some(Value::Float(f64::from(raw) / 10f64.powi(i32::from(k))))),
        (-99_999i32..99_999).prop_map(|raw| Some(Value::Float(f64::from(raw) * 0.1))),
        Just(Some(Value::Float(-0.0))),
        ".{0,12}".prop_map(|text| Some(Value::Text(text.into()))),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let body = prop_oneof![
        9 => (0u32..6, value(), any::<bool>()).prop_map(|(tag, value, good)| Body::Sample {
            tag,
            value,
            quality: if good { Quality::Good } else { Quality::Bad(Cause::Timeout) },
        }),
        1 => (".{0,9}", prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(topic, body)| Body::Event { topic: topic.into(), body: body.into() }),
        1 => (".{0,9}", message()).prop_map(|(topic, message)| {
            Body::Message { topic: topic.into(), message: Arc::new(message) }
        }),
    ];
    (body, any::<i64>()).prop_map(|(body, micros)| Record { body, at: Stamp { boot: Boot(3), micros } })
}

fn message() -> impl Strategy<Value = ClientMessage> {
    let text = || prop::option::of(".{0,5}");
    let user = prop::collection::vec((".{0,4}", ".{0,4}"), 0..3);
    let properties =
        (prop::option::of(0u8..2), text(), text(), prop::option::of(prop::collection::vec(any::<u8>(), 0..5)), user)
            .prop_map(|(payload_format, content_type, response_topic, correlation, user)| Properties {
                payload_format,
                content_type,
                response_topic,
                correlation,
                user,
            });
    let payload = prop::collection::vec(any::<u8>(), 0..20);
    (payload, any::<bool>(), prop::option::of(any::<u32>()), properties).prop_map(
        |(payload, kept, expiry_s, properties)| ClientMessage {
            payload: payload.into(),
            kept: if kept { Kept::Yes } else { Kept::No },
            expiry_s,
            properties,
        },
    )
}

/// `==` on f64 takes 0.0 for -0.0; the bits must be the same.
fn bits(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{record:?}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn records_come_back_bit_by_bit_in_the_order_they_arrived(records in prop::collection::vec(record(), 1..80)) {
        let row = pack(PLACE, 5, &records);
        prop_assert_eq!((row.first, row.last), (5, 4 + records.len() as u64));
        prop_assert_eq!(bits(&unpack(PLACE, &row).expect("whole")), bits(&records));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let sample = Body::Sample { tag: 1, value: Some(Value::Uint(u64::MAX)), quality: Quality::Good };
        let record = Record { body: sample, at: Stamp { boot: Boot(3), micros: 9 } };
        let mut row = pack(PLACE, 5, &[record]);
        let index = place.index(row.body.len());
        row.body[index] ^= 1 << bit;
        prop_assert!(unpack(PLACE, &row).is_err());
    }
}

#[test]
fn segments_of_the_version_before_with_times_by_column_are_read() {
    let record = |tag, micros| {
        let body = Body::Sample { tag, value: Some(Value::Int(micros)), quality: Quality::Good };
        Record { body, at: Stamp { boot: Boot(3), micros } }
    };
    let records = [record(7, 100), record(9, 100), record(7, 130), record(9, 160), record(7, 131)];
    let row = pack(PLACE, 5, &records);
    let raw = zstd::bulk::decompress(&row.body, row.raw as usize).expect("packed");
    let mut packed: Packed = prost::Message::decode(raw.as_slice()).expect("whole");
    assert_eq!((packed.stamps.as_slice(), packed.shared.as_slice()), (&[0, 30, 30, -29][..], &[2, 1, 1, 1][..]));
    (packed.stamps, packed.shared) = (Vec::new(), Vec::new());
    packed.times = vec![0, 30, 1, 0, 60];
    assert_eq!(restore(&packed, Boot(3)).expect("fits"), records);
}

#[test]
fn a_segment_of_another_stream_is_not_taken_for_ours() {
    let sample = Body::Sample { tag: 1, value: Some(Value::Int(i64::MIN)), quality: Quality::Good };
    let row = pack(PLACE, 5, &[Record { body: sample, at: Stamp { boot: Boot(3), micros: 9 } }]);
    assert!(unpack(Place { epoch: 78, ..PLACE }, &row).is_err());
    assert!(unpack(PLACE, &SegmentRow { first: 6, last: 6, ..row.clone() }).is_err());
    assert!(unpack(PLACE, &row).is_ok());
}
