//! Every message as bytes, by hand from the specification, section 5.4; and bytes that are none.

use ironbridge::broker::sn::{
    Again, Asks, BadMessage, Code, Connect, Filter, Kept, Message, Publish, Quality, Start, Topic, WillTopic, enclose,
    open, read, write,
};

fn connect(start: Start, asks: Asks, duration: u16, client_id: &str) -> Message {
    Message::Connect(Connect { start, asks, duration, client_id: client_id.to_owned() })
}

#[allow(clippy::too_many_arguments, reason = "a row of the table has them all")]
fn publish(again: Again, quality: Quality, kept: Kept, topic: Topic, message_id: u16, payload: &[u8]) -> Message {
    Message::Publish(Publish { again, quality, kept, topic, message_id, payload: payload.to_vec() })
}

#[rustfmt::skip]
fn table() -> Vec<(&'static [u8], Message)> {
    let will = |name: &str, quality, kept| Some(WillTopic { name: name.to_owned(), quality, kept });
    let filter = |name: &str| Filter::Name(name.to_owned());
    vec![
        // length, type, body
        (b"\x05\x00\x07\x03\x84", Message::Advertise { gateway_id: 7, duration: 900 }),
        (b"\x03\x01\x02", Message::SearchGateway { radius: 2 }),
        (b"\x03\x02\x07", Message::GatewayInfo { gateway_id: 7, address: Vec::new() }),
        (b"\x07\x02\x07\x0a\x00\x00\x01", Message::GatewayInfo { gateway_id: 7, address: vec![10, 0, 0, 1] }),
        // flags, protocol 1, duration, id
        (b"\x08\x04\x04\x01\x00\x3Ct7", connect(Start::Clean, Asks::NoWill, 60, "t7")),
        (b"\x08\x04\x08\x01\x00\x00t7", connect(Start::Kept, Asks::ForWill, 0, "t7")),
        (b"\x03\x05\x00", Message::Connack(Code::Accepted)),
        (b"\x03\x05\x01", Message::Connack(Code::Congestion)),
        (b"\x03\x05\x03", Message::Connack(Code::NotSupported)),
        (b"\x02\x06", Message::WillTopicRequest),
        (b"\x06\x07\x30a/b", Message::WillTopic(will("a/b", Quality::One, Kept::Yes))),
        (b"\x02\x07", Message::WillTopic(None)),
        (b"\x02\x08", Message::WillMessageRequest),
        (b"\x06\x09gone", Message::WillMessage(b"gone".to_vec())),
        // topic id, message id
        (b"\x09\x0A\x00\x00\x00\x05a/b", Message::Register { topic_id: 0, message_id: 5, name: "a/b".to_owned() }),
        (b"\x07\x0B\x12\x34\x00\x05\x00", Message::Regack { topic_id: 0x1234, message_id: 5, code: Code::Accepted }),
        // flags, topic, message id, content
        (b"\x08\x0C\x00\x12\x34\x00\x00x", publish(Again::No, Quality::Zero, Kept::No, Topic::Id(0x1234), 0, b"x")),
        (b"\x08\x0C\xB1\x00\x01\x00\x09x", publish(Again::Yes, Quality::One, Kept::Yes, Topic::Predefined(1), 9, b"x")),
        (b"\x07\x0C\x42ab\x00\x09", publish(Again::No, Quality::Two, Kept::No, Topic::Short(*b"ab"), 9, b"")),
        (b"\x08\x0C\x61\x00\x01\x00\x00x", publish(Again::No, Quality::Unasked, Kept::No, Topic::Predefined(1), 0, b"x")),
        (b"\x07\x0D\x12\x34\x00\x09\x02", Message::Puback { topic_id: 0x1234, message_id: 9, code: Code::InvalidTopicId }),
        (b"\x04\x0E\x00\x09", Message::Pubcomp(9)),
        (b"\x04\x0F\x00\x09", Message::Pubrec(9)),
        (b"\x04\x10\x00\x09", Message::Pubrel(9)),
        // flags, message id, topic
        (b"\x08\x12\x20\x00\x06a/#", Message::Subscribe { again: Again::No, quality: Quality::One, message_id: 6, filter: filter("a/#") }),
        (b"\x07\x12\xC1\x00\x06\x00\x02", Message::Subscribe { again: Again::Yes, quality: Quality::Two, message_id: 6, filter: Filter::Predefined(2) }),
        (b"\x07\x12\x02\x00\x06ab", Message::Subscribe { again: Again::No, quality: Quality::Zero, message_id: 6, filter: Filter::Short(*b"ab") }),
        (b"\x08\x13\x40\x12\x34\x00\x06\x00", Message::Suback { quality: Quality::Two, topic_id: 0x1234, message_id: 6, code: Code::Accepted }),
        (b"\x08\x14\x00\x00\x06a/#", Message::Unsubscribe { message_id: 6, filter: filter("a/#") }),
        (b"\x07\x14\x01\x00\x06\x00\x02", Message::Unsubscribe { message_id: 6, filter: Filter::Predefined(2) }),
        (b"\x07\x14\x02\x00\x06ab", Message::Unsubscribe { message_id: 6, filter: Filter::Short(*b"ab") }),
        (b"\x04\x15\x00\x06", Message::Unsuback(6)),
        (b"\x02\x16", Message::Ping(None)),
        (b"\x04\x16t7", Message::Ping(Some("t7".to_owned()))),
        (b"\x02\x17", Message::Pong),
        (b"\x02\x18", Message::Disconnect(None)),
        (b"\x04\x18\x0E\x10", Message::Disconnect(Some(3600))),
        (b"\x06\x1A\x10a/b", Message::WillTopicUpdate(will("a/b", Quality::Zero, Kept::Yes))),
        (b"\x02\x1A", Message::WillTopicUpdate(None)),
        (b"\x03\x1B\x00", Message::WillTopicResponse(Code::Accepted)),
        (b"\x05\x1Cnew", Message::WillMessageUpdate(b"new".to_vec())),
        (b"\x03\x1D\x03", Message::WillMessageResponse(Code::NotSupported)),
    ]
}

#[test]
fn every_message_is_read_and_written_as_the_specification_has_it() {
    for (bytes, message) in table() {
        assert_eq!(read(bytes).as_ref(), Ok(&message), "{bytes:02x?}");
        assert_eq!(write(&message), bytes, "{message:?}");
        assert_eq!(open(bytes), Ok((None, bytes)));
    }
}

#[test]
fn a_message_of_256_bytes_and_more_has_three_bytes_of_length_and_a_short_one_may() {
    let payload = vec![b'x'; 300];
    let long = publish(Again::No, Quality::Zero, Kept::No, Topic::Id(5), 0, &payload);
    let mut bytes = vec![0x01, 0x01, 0x35, 0x0C, 0x00, 0x00, 0x05, 0x00, 0x00]; // 309 = 3 + 1 + 5 + 300
    bytes.extend_from_slice(&payload);
    assert_eq!(write(&long), bytes);
    assert_eq!(read(&bytes), Ok(long));
    assert_eq!(read(b"\x01\x00\x04\x17"), Ok(Message::Pong));
    let edge = |length: usize| write(&Message::WillMessage(vec![0; length]));
    assert_eq!((edge(253)[0], edge(253).len()), (255, 255));
    assert_eq!((&edge(254)[..3], edge(254).len()), (&[1, 1, 2][..], 258));
    assert!(write(&Message::WillMessage(vec![0; 70_000])).is_empty(), "what no length can say is not sent");
}

#[test]
#[rustfmt::skip]
fn bytes_that_are_no_message_are_refused_with_what_is_wrong_with_them() {
    let table: &[(&[u8], BadMessage)] = &[
        (b"", BadMessage::Length),                                  // nothing
        (b"\x00", BadMessage::Length),                              // no length is 0
        (b"\x01", BadMessage::Length),                              // the long form, cut
        (b"\x01\x00\x03\x17", BadMessage::Length),                  // shorter than its own head
        (b"\x02", BadMessage::Length),                              // no type
        (b"\x03\x17", BadMessage::Length),                          // less than it says
        (b"\x02\x17\x00", BadMessage::Length),                      // more than it says
        (b"\x01\x00\x05\x17", BadMessage::Length),                  // the same, long form
        (b"\x02\x03", BadMessage::Type(3)),                         // reserved
        (b"\x02\x11", BadMessage::Type(0x11)),
        (b"\x02\xFF", BadMessage::Type(0xFF)),
        (b"\x03\x17\x00", BadMessage::Body),                        // PINGRESP with a body
        (b"\x03\x18\x00", BadMessage::Body),                        // half a duration
        (b"\x05\x04\x04\x01\x00", BadMessage::Body),                // CONNECT without an end
        (b"\x07\x04\x04\x02\x00\x00a", BadMessage::Protocol(2)),    // of another protocol
        (b"\x08\x04\x04\x01\x00\x00\xC3\x28", BadMessage::Text),    // an id that is no UTF-8
        (b"\x07\x0C\x03\x00\x01\x00\x00", BadMessage::TopicKind),   // the fourth kind
        (b"\x07\x12\x03\x00\x01\x00\x00", BadMessage::TopicKind),
        (b"\x06\x12\x01\x00\x01\x00", BadMessage::Body),            // half a predefined id
        (b"\x08\x12\x02\x00\x01abc", BadMessage::Body),             // a short name of three
        (b"\x06\x0D\x00\x01\x00\x01", BadMessage::Body),            // PUBACK without a code
    ];
    for (bytes, bad) in table {
        assert_eq!(read(bytes), Err(*bad), "{bytes:02x?}");
    }
}

#[test]
fn what_a_forwarder_puts_around_a_message_comes_off_and_goes_on_again() {
    // length of the envelope, FE, control, node; then the message
    let bytes = b"\x05\xFE\x00\xAB\xCD\x02\x16";
    assert_eq!(open(bytes), Ok((Some(&b"\xAB\xCD"[..]), &b"\x02\x16"[..])));
    assert_eq!(enclose(b"\xAB\xCD", &write(&Message::Ping(None))), bytes);
    assert_eq!(open(b"\x02\xFE"), Err(BadMessage::Body), "no control byte");
    assert_eq!(open(b"\x06\xFE\x00\xAB"), Err(BadMessage::Length), "longer than what there is");
    let inner = open(b"\x03\xFE\x00").expect("an envelope").1;
    assert_eq!(read(inner), Err(BadMessage::Length), "nothing in it");
    // A forwarder behind a forwarder is not served.
    let twice = enclose(b"a", &enclose(b"b", b"\x02\x16"));
    assert_eq!(read(open(&twice).expect("an envelope").1), Err(BadMessage::Length));
}
