//! What is meant to the bytes of a datagram.

use super::{
    Again, Asks, Code, Connect, Filter, Kept, Message, PROTOCOL, Publish, Quality, Start, Topic, WillTopic, flag,
    number,
};

/// One message as a datagram. Nothing that is longer than its length can say is ever made: it is empty then.
pub fn write(message: &Message) -> Vec<u8> {
    let mut body = Vec::with_capacity(32);
    let kind = put(message, &mut body);
    framed(kind, &body)
}

/// A message as it goes to a wireless node behind a forwarder.
pub fn enclose(node: &[u8], message: &[u8]) -> Vec<u8> {
    let mut envelope = Vec::with_capacity(node.len() + 1);
    envelope.push(0); // it may be broadcast by nobody but the forwarder itself
    envelope.extend_from_slice(node);
    let mut datagram = framed(number::FORWARDED, &envelope);
    datagram.extend_from_slice(message);
    datagram
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(body.len() + 4);
    match (u8::try_from(body.len() + 2), u16::try_from(body.len() + 4)) {
        (Ok(length), _) => datagram.push(length),
        (_, Ok(length)) => {
            datagram.push(1);
            datagram.extend_from_slice(&length.to_be_bytes());
        }
        _ => return datagram,
    }
    datagram.push(kind);
    datagram.extend_from_slice(body);
    datagram
}

fn put(message: &Message, body: &mut Vec<u8>) -> u8 {
    match message {
        Message::Advertise { gateway_id, duration } => {
            body.push(*gateway_id);
            body.extend_from_slice(&duration.to_be_bytes());
            number::ADVERTISE
        }
        Message::SearchGateway { radius } => {
            body.push(*radius);
            number::SEARCHGW
        }
        Message::GatewayInfo { gateway_id, address } => {
            body.push(*gateway_id);
            body.extend_from_slice(address);
            number::GWINFO
        }
        Message::Connect(said) => connect(said, body),
        Message::Connack(code) => coded(number::CONNACK, *code, body),
        Message::WillTopicRequest => number::WILLTOPICREQ,
        Message::WillTopic(topic) => will_topic(number::WILLTOPIC, topic.as_ref(), body),
        Message::WillMessageRequest => number::WILLMSGREQ,
        Message::WillMessage(payload) => content(number::WILLMSG, payload, body),
        Message::Register { topic_id, message_id, name } => {
            words(number::REGISTER, [*topic_id, *message_id], body);
            content(number::REGISTER, name.as_bytes(), body)
        }
        Message::Regack { topic_id, message_id, code } => {
            words(number::REGACK, [*topic_id, *message_id], body);
            coded(number::REGACK, *code, body)
        }
        Message::Publish(said) => publish(said, body),
        Message::Puback { topic_id, message_id, code } => {
            words(number::PUBACK, [*topic_id, *message_id], body);
            coded(number::PUBACK, *code, body)
        }
        Message::Pubcomp(id) => words(number::PUBCOMP, [*id], body),
        Message::Pubrec(id) => words(number::PUBREC, [*id], body),
        Message::Pubrel(id) => words(number::PUBREL, [*id], body),
        Message::Subscribe { again, quality, message_id, filter } => {
            body.push(dup(*again) | qos(*quality) | kind_of(filter));
            named(number::SUBSCRIBE, *message_id, filter, body)
        }
        Message::Suback { quality, topic_id, message_id, code } => {
            body.push(qos(*quality));
            words(number::SUBACK, [*topic_id, *message_id], body);
            coded(number::SUBACK, *code, body)
        }
        Message::Unsubscribe { message_id, filter } => {
            body.push(kind_of(filter));
            named(number::UNSUBSCRIBE, *message_id, filter, body)
        }
        Message::Unsuback(id) => words(number::UNSUBACK, [*id], body),
        Message::Ping(client_id) => content(number::PINGREQ, client_id.as_deref().unwrap_or("").as_bytes(), body),
        Message::Pong => number::PINGRESP,
        Message::Disconnect(None) => number::DISCONNECT,
        Message::Disconnect(Some(duration)) => words(number::DISCONNECT, [*duration], body),
        Message::WillTopicUpdate(topic) => will_topic(number::WILLTOPICUPD, topic.as_ref(), body),
        Message::WillTopicResponse(code) => coded(number::WILLTOPICRESP, *code, body),
        Message::WillMessageUpdate(payload) => content(number::WILLMSGUPD, payload, body),
        Message::WillMessageResponse(code) => coded(number::WILLMSGRESP, *code, body),
    }
}

fn connect(said: &Connect, body: &mut Vec<u8>) -> u8 {
    let clean = if said.start == Start::Clean { flag::CLEAN } else { 0 };
    let will = if said.asks == Asks::ForWill { flag::WILL } else { 0 };
    body.extend_from_slice(&[clean | will, PROTOCOL]);
    body.extend_from_slice(&said.duration.to_be_bytes());
    content(number::CONNECT, said.client_id.as_bytes(), body)
}

fn publish(said: &Publish, body: &mut Vec<u8>) -> u8 {
    let (kind, topic) = match said.topic {
        Topic::Id(id) => (0, id.to_be_bytes()),
        Topic::Predefined(id) => (1, id.to_be_bytes()),
        Topic::Short(name) => (2, name),
    };
    body.push(dup(said.again) | qos(said.quality) | retain(said.kept) | kind);
    body.extend_from_slice(&topic);
    body.extend_from_slice(&said.message_id.to_be_bytes());
    content(number::PUBLISH, &said.payload, body)
}

fn will_topic(number: u8, topic: Option<&WillTopic>, body: &mut Vec<u8>) -> u8 {
    if let Some(topic) = topic {
        body.push(qos(topic.quality) | retain(topic.kept));
        body.extend_from_slice(topic.name.as_bytes());
    }
    number
}

fn named(number: u8, message_id: u16, filter: &Filter, body: &mut Vec<u8>) -> u8 {
    words(number, [message_id], body);
    match filter {
        Filter::Name(name) => content(number, name.as_bytes(), body),
        Filter::Predefined(id) => words(number, [*id], body),
        Filter::Short(name) => content(number, name, body),
    }
}

fn content(number: u8, content: &[u8], body: &mut Vec<u8>) -> u8 {
    body.extend_from_slice(content);
    number
}

fn words<const N: usize>(number: u8, words: [u16; N], body: &mut Vec<u8>) -> u8 {
    for word in words {
        body.extend_from_slice(&word.to_be_bytes());
    }
    number
}

fn coded(number: u8, code: Code, body: &mut Vec<u8>) -> u8 {
    body.push(code.byte());
    number
}

const fn dup(again: Again) -> u8 {
    match again {
        Again::No => 0,
        Again::Yes => flag::DUP,
    }
}

const fn retain(kept: Kept) -> u8 {
    match kept {
        Kept::No => 0,
        Kept::Yes => flag::RETAIN,
    }
}

const fn qos(quality: Quality) -> u8 {
    match quality {
        Quality::Zero => 0x00,
        Quality::One => 0x20,
        Quality::Two => 0x40,
        Quality::Unasked => 0x60,
    }
}

const fn kind_of(filter: &Filter) -> u8 {
    match filter {
        Filter::Name(_) => 0,
        Filter::Predefined(_) => 1,
        Filter::Short(_) => 2,
    }
}
