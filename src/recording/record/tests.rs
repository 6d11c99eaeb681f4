//! The format byte by byte, cut off anywhere and damaged anywhere.

use super::*;

fn all() -> Vec<Record> {
    let event =
        |micros, what| Record::Event(Event { at: Duration::from_micros(micros), line: 1, connection: 300, what });
    let error = || "Connection refused".to_owned();
    vec![
        Record::Head(Head {
            began_unix_ms: Some(1_790_000_000_123),
            version: "0.1.0".into(),
            files: vec![("site.toml".into(), "[gateway]\n".repeat(200)), ("maps/ä.csv".into(), String::new())],
        }),
        Record::Line(Line {
            name: "rs485-1".into(),
            kind: "modbus-rtu".into(),
            place: "/dev/ttyUSB0".into(),
            settings: "19200-8E1".into(),
            response_timeout: Duration::from_millis(300),
        }),
        event(5, What::NotOpened(error())),
        event(1_000_000, What::Opened),
        event(1_000_500, What::Sent { took: Duration::ZERO, bytes: vec![1, 3, 0, 0, 0, 1, 0x84, 0x0A] }),
        event(1_000_400, What::Received { took: Duration::from_micros(2_300), bytes: vec![] }),
        event(u64::from(u32::MAX) * 1000, What::Missed(u64::MAX)),
        event(u64::from(u32::MAX) * 1001, What::Closed { by: By::System, error: error() }),
        Record::Unknown(77),
        Record::End,
    ]
}

fn bytes_of(records: &[Record]) -> Vec<u8> {
    let (mut codec, mut bytes) = (Codec::default(), Vec::new());
    for record in records {
        codec.put(record, &mut bytes);
    }
    bytes
}

/// What can be read, and how it ends.
fn read(mut bytes: &[u8]) -> (Vec<Record>, Option<Step>) {
    let (mut codec, mut records) = (Codec::default(), Vec::new());
    while !bytes.is_empty() {
        match codec.take(bytes) {
            Step::Record(record, used) => {
                records.push(record);
                bytes = &bytes[used..];
            }
            end => return (records, Some(end)),
        }
    }
    (records, None)
}

#[test]
fn every_record_comes_back_as_it_was() {
    assert_eq!(read(&bytes_of(&all())), (all(), None));
}

#[test]
fn the_bytes_of_a_question_are_those_of_the_format() {
    let sent = What::Sent { took: Duration::from_micros(300), bytes: vec![0xAA, 0xBB] };
    let bytes = bytes_of(&[Record::Event(Event { at: Duration::from_micros(5), line: 2, connection: 0, what: sent })]);
    let body = [
        5,  // sent
        10, // 5 µs after the begin, folded
        2, 0, // line, connection
        0xAC, 2, // took 300 µs
        0xAA, 0xBB,
    ];
    let crc = crc32fast::hash(&body).to_le_bytes();
    assert_eq!(bytes, [&[8][..], &crc, &body].concat());
}

#[test]
fn a_file_that_ends_anywhere_gives_what_was_whole_before() {
    let whole = bytes_of(&all());
    for end in 0..whole.len() {
        let (records, rest) = read(&whole[..end]);
        assert_eq!(records, all()[..records.len()], "cut at {end}");
        assert!(matches!(rest, None | Some(Step::Incomplete)), "cut at {end}: {rest:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_flipped_bit_is_taken_for_what_was_written(bit in 0usize..8 * 400) {
        let mut bytes = bytes_of(&all()[2..]);
        let bit = bit % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (records, _) = read(&bytes);
        proptest::prop_assert!(records.len() < all().len() - 2, "bit {bit}");
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        read(&bytes);
    }
}
