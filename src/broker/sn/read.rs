//! Bytes of a datagram to what they mean.
//!
//! Stricter than the specification asks for where it costs a sensor nothing: bytes behind the end, a topic that is no UTF-8
//! and a kind of topic that does not exist are refused. Flags that a message does not use are passed over, as section
//! 5.3.4 has it.

use super::{
    Again, Asks, Code, Connect, Filter, Kept, Message, PROTOCOL, Publish, Quality, Start, Topic, WillTopic, flag,
    number,
};

/// Why a datagram is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Its length is not what it says.
    #[error("its length is not what it says")]
    Length,
    /// There is no such type.
    #[error("there is no message of type {0:#04x}")]
    Type(u8),
    /// Something is missing at its end, or there is too much.
    #[error("its body is too short or too long")]
    Body,
    /// A name that is no text.
    #[error("a name is no text")]
    Text,
    /// A kind of topic that there is not.
    #[error("a kind of topic that there is not")]
    TopicKind,
    /// CONNECT of another protocol.
    #[error("protocol {0} is not served")]
    Protocol(u8),
}

/// Takes what a forwarder has put around a message off: the wireless node it is from, if there is one, and the message.
pub fn open(datagram: &[u8]) -> Result<(Option<&[u8]>, &[u8]), BadMessage> {
    let (length, head) = length(datagram)?;
    if datagram.get(head) != Some(&number::FORWARDED) {
        return Ok((None, datagram));
    }
    // The length is that of the envelope alone (section 5.5.1).
    let envelope = datagram.get(head + 1..length).ok_or(BadMessage::Length)?;
    let [_control, node @ ..] = envelope else { return Err(BadMessage::Body) };
    Ok((Some(node), &datagram[length..]))
}

/// Reads one message, which is all of the datagram.
pub fn read(datagram: &[u8]) -> Result<Message, BadMessage> {
    let (length, head) = length(datagram)?;
    if length != datagram.len() {
        return Err(BadMessage::Length);
    }
    let (kind, body) = datagram.get(head..).and_then(<[u8]>::split_first).ok_or(BadMessage::Length)?;
    message(*kind, Body(body))
}

/// What the datagram says of its length, and where its type stands.
fn length(datagram: &[u8]) -> Result<(usize, usize), BadMessage> {
    match *datagram {
        [1, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length < 4 { Err(BadMessage::Length) } else { Ok((length, 3)) }
        }
        [length, ..] if length >= 2 => Ok((length.into(), 1)),
        _ => Err(BadMessage::Length),
    }
}

fn message(kind: u8, mut body: Body<'_>) -> Result<Message, BadMessage> {
    let message = match kind {
        number::ADVERTISE => Message::Advertise { gateway_id: body.byte()?, duration: body.word()? },
        number::SEARCHGW => Message::SearchGateway { radius: body.byte()? },
        number::GWINFO => Message::GatewayInfo { gateway_id: body.byte()?, address: body.rest() },
        number::CONNECT => Message::Connect(connect(&mut body)?),
        number::CONNACK => Message::Connack(body.code()?),
        number::WILLTOPICREQ => Message::WillTopicRequest,
        number::WILLTOPIC => Message::WillTopic(will_topic(&mut body)?),
        number::WILLMSGREQ => Message::WillMessageRequest,
        number::WILLMSG => Message::WillMessage(body.rest()),
        number::REGISTER => Message::Register { topic_id: body.word()?, message_id: body.word()?, name: body.text()? },
        number::REGACK => Message::Regack { topic_id: body.word()?, message_id: body.word()?, code: body.code()? },
        number::PUBLISH => Message::Publish(publish(&mut body)?),
        number::PUBACK => Message::Puback { topic_id: body.word()?, message_id: body.word()?, code: body.code()? },
        number::PUBCOMP => Message::Pubcomp(body.word()?),
        number::PUBREC => Message::Pubrec(body.word()?),
        number::PUBREL => Message::Pubrel(body.word()?),
        number::SUBSCRIBE => {
            let flags = body.byte()?;
            let (message_id, filter) = (body.word()?, filter(flags, &mut body)?);
            Message::Subscribe { again: again(flags), quality: quality(flags), message_id, filter }
        }
        number::SUBACK => {
            let quality = quality(body.byte()?);
            Message::Suback { quality, topic_id: body.word()?, message_id: body.word()?, code: body.code()? }
        }
        number::UNSUBSCRIBE => {
            let flags = body.byte()?;
            Message::Unsubscribe { message_id: body.word()?, filter: filter(flags, &mut body)? }
        }
        number::UNSUBACK => Message::Unsuback(body.word()?),
        number::PINGREQ => Message::Ping(if body.0.is_empty() { None } else { Some(body.text()?) }),
        number::PINGRESP => Message::Pong,
        number::DISCONNECT => Message::Disconnect(if body.0.is_empty() { None } else { Some(body.word()?) }),
        number::WILLTOPICUPD => Message::WillTopicUpdate(will_topic(&mut body)?),
        number::WILLTOPICRESP => Message::WillTopicResponse(body.code()?),
        number::WILLMSGUPD => Message::WillMessageUpdate(body.rest()),
        number::WILLMSGRESP => Message::WillMessageResponse(body.code()?),
        other => return Err(BadMessage::Type(other)),
    };
    if body.0.is_empty() { Ok(message) } else { Err(BadMessage::Body) }
}

fn connect(body: &mut Body<'_>) -> Result<Connect, BadMessage> {
    let flags = body.byte()?;
    let protocol = body.byte()?;
    if protocol != PROTOCOL {
        return Err(BadMessage::Protocol(protocol));
    }
    let start = if flags & flag::CLEAN == 0 { Start::Kept } else { Start::Clean };
    let asks = if flags & flag::WILL == 0 { Asks::NoWill } else { Asks::ForWill };
    Ok(Connect { start, asks, duration: body.word()?, client_id: body.text()? })
}

fn will_topic(body: &mut Body<'_>) -> Result<Option<WillTopic>, BadMessage> {
    if body.0.is_empty() {
        return Ok(None);
    }
    let flags = body.byte()?;
    Ok(Some(WillTopic { name: body.text()?, quality: quality(flags), kept: kept(flags) }))
}

fn publish(body: &mut Body<'_>) -> Result<Publish, BadMessage> {
    let flags = body.byte()?;
    let topic = body.pair()?;
    let id = u16::from_be_bytes(topic);
    let topic = match flags & flag::TOPIC {
        0 => Topic::Id(id),
        1 => Topic::Predefined(id),
        2 => Topic::Short(topic),
        _ => return Err(BadMessage::TopicKind),
    };
    let (again, quality, kept) = (again(flags), quality(flags), kept(flags));
    Ok(Publish { again, quality, kept, topic, message_id: body.word()?, payload: body.rest() })
}

fn filter(flags: u8, body: &mut Body<'_>) -> Result<Filter, BadMessage> {
    match flags & flag::TOPIC {
        0 => Ok(Filter::Name(body.text()?)),
        1 => Ok(Filter::Predefined(body.word()?)),
        2 => Ok(Filter::Short(body.pair()?)),
        _ => Err(BadMessage::TopicKind),
    }
}

fn again(flags: u8) -> Again {
    if flags & flag::DUP == 0 { Again::No } else { Again::Yes }
}

fn kept(flags: u8) -> Kept {
    if flags & flag::RETAIN == 0 { Kept::No } else { Kept::Yes }
}

fn quality(flags: u8) -> Quality {
    match flags & flag::QOS {
        0x00 => Quality::Zero,
        0x20 => Quality::One,
        0x40 => Quality::Two,
        _ => Quality::Unasked,
    }
}

/// The unread rest.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn byte(&mut self) -> Result<u8, BadMessage> {
        let (first, rest) = self.0.split_first().ok_or(BadMessage::Body)?;
        self.0 = rest;
        Ok(*first)
    }

    fn pair(&mut self) -> Result<[u8; 2], BadMessage> {
        let (pair, rest) = self.0.split_first_chunk().ok_or(BadMessage::Body)?;
        self.0 = rest;
        Ok(*pair)
    }

    fn word(&mut self) -> Result<u16, BadMessage> {
        self.pair().map(u16::from_be_bytes)
    }

    fn code(&mut self) -> Result<Code, BadMessage> {
        self.byte().map(Code::of)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn text(&mut self) -> Result<String, BadMessage> {
        String::from_utf8(self.rest()).map_err(|_| BadMessage::Text)
    }
}
