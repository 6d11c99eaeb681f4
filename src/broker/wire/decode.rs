//! Every packet after CONNECT, by the letter of the standard: reserved flags, packet identifiers, lengths.

use super::packet::{Ack, AckKind, Filter, Incoming, Publish, RetainHandling, Subscribe};
use super::properties::{self, Place};
use super::reader::Reader;
use super::{FILTERS_MAX, Fault, Frame, Version};
use crate::broker::message::{Qos, Retain};
use crate::model::topic::check_topic;

/// Reads a packet of a connected client.
pub(in crate::broker) fn decode(frame: Frame, version: Version) -> Result<Incoming, Fault> {
    let reader = Reader::new(frame.body);
    // Each type with the flags it must have (section 2.1.3).
    match (frame.first >> 4, frame.first & 0x0F) {
        (3, flags) => read_publish(reader, flags, version),
        (4, 0) => read_ack(reader, AckKind::Puback, version),
        (5, 0) => read_ack(reader, AckKind::Pubrec, version),
        (6, 2) => read_ack(reader, AckKind::Pubrel, version),
        (7, 0) => read_ack(reader, AckKind::Pubcomp, version),
        (8, 2) => read_subscribe(reader, version),
        (10, 2) => read_unsubscribe(reader, version),
        (12, 0) => reader.end().map(|()| Incoming::Ping),
        (14, 0) => read_disconnect(reader, version),
        (1, _) => Err(Fault::Protocol("a second CONNECT")),
        // We offered no authentication method, so there is nothing to go on with (section 4.12).
        (15, 0) if version == Version::V5 => Err(Fault::Protocol("AUTH without a method")),
        (2 | 9 | 11 | 13, _) => Err(Fault::Protocol("a packet that only servers send")),
        _ => Err(Fault::Malformed("packet type or its flags are reserved")),
    }
}

/// Slashes in a topic or filter at most; as mosquitto.
const DEPTH_MAX: usize = 200;

fn is_too_deep(topic: &str) -> bool {
    topic.bytes().filter(|byte| *byte == b'/').count() > DEPTH_MAX
}

/// Section 3.3.
fn read_publish(mut reader: Reader, flags: u8, version: Version) -> Result<Incoming, Fault> {
    let qos = Qos::from_bits((flags >> 1) & 3).ok_or(Fault::Malformed("QoS 3"))?;
    let again = flags & 8 != 0;
    if again && qos == Qos::AtMostOnce {
        return Err(Fault::Malformed("DUP at QoS 0"));
    }
    let topic = reader.text()?;
    if is_too_deep(&topic) {
        return Err(Fault::Protocol("more than 200 topic levels"));
    }
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { reader.packet_id()? };
    let said = properties::read(&mut reader, version, Place::Publish)?;
    if topic.is_empty() && version == Version::V5 {
        if said.topic_alias.is_none() {
            return Err(Fault::Protocol("neither topic nor alias"));
        }
    } else {
        check_topic(&topic).map_err(Fault::Topic)?;
    }
    Ok(Incoming::Publish(Publish {
        again,
        qos,
        retain: Retain::from(flags & 1 != 0),
        topic,
        alias: said.topic_alias,
        packet_id,
        expiry: said.message_expiry,
        forwarded: said.forwarded,
        payload: reader.rest(),
    }))
}

/// Sections 3.4 to 3.7. In MQTT 5 reason code and properties may be left out.
fn read_ack(mut reader: Reader, kind: AckKind, version: Version) -> Result<Incoming, Fault> {
    let packet_id = reader.packet_id()?;
    let mut reason = 0;
    if version == Version::V5 && !reader.is_empty() {
        reason = reader.byte()?;
        if !reader.is_empty() {
            properties::read(&mut reader, version, Place::Ack)?;
        }
    }
    reader.end()?;
    if !known_reasons(kind).contains(&reason) {
        return Err(Fault::Protocol("reason code that this packet does not have"));
    }
    Ok(Incoming::Ack(Ack { kind, packet_id, reason }))
}

/// Tables 3-4, 3-5, 3-6 and 3-7.
const fn known_reasons(kind: AckKind) -> &'static [u8] {
    match kind {
        AckKind::Puback | AckKind::Pubrec => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        AckKind::Pubrel | AckKind::Pubcomp => &[0, 0x92],
    }
}

/// What a client may say in DISCONNECT (table 3-10).
const GOODBYES: [u8; 14] = [0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

/// Section 3.8.
fn read_subscribe(mut reader: Reader, version: Version) -> Result<Incoming, Fault> {
    let packet_id = reader.packet_id()?;
    let said = properties::read(&mut reader, version, Place::Subscribe)?;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = read_filter(&mut reader, filters.len())?;
        filters.push(read_options(filter, reader.byte()?, version)?);
    }
    if filters.is_empty() {
        return Err(Fault::Protocol("SUBSCRIBE without a filter"));
    }
    Ok(Incoming::Subscribe(Subscribe { packet_id, id: said.subscription_id, filters }))
}

/// Behind so many: neither empty (4.7.3-1) nor too deep; whether it is a filter is answered for each by itself.
fn read_filter(reader: &mut Reader, before: usize) -> Result<String, Fault> {
    if before == FILTERS_MAX {
        return Err(Fault::Filters);
    }
    let filter = reader.text()?;
    if filter.is_empty() || is_too_deep(&filter) {
        return Err(Fault::Malformed("topic filter of no or of more than 200 levels"));
    }
    Ok(filter)
}

fn read_options(filter: String, options: u8, version: Version) -> Result<Filter, Fault> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if options & reserved != 0 {
        return Err(Fault::Malformed("reserved subscription options are set"));
    }
    let qos = Qos::from_bits(options & 3).ok_or(Fault::Malformed("QoS 3"))?;
    let retain_handling = match (options >> 4) & 3 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(Fault::Malformed("retain handling 3")),
    };
    let no_local = options & 4 != 0;
    if no_local && filter.starts_with("$share/") {
        return Err(Fault::Protocol("no local on a shared subscription")); // 3.8.3-4
    }
    Ok(Filter { filter, qos, no_local, retain_as_published: options & 8 != 0, retain_handling })
}

/// Section 3.10.
fn read_unsubscribe(mut reader: Reader, version: Version) -> Result<Incoming, Fault> {
    let packet_id = reader.packet_id()?;
    properties::read(&mut reader, version, Place::Unsubscribe)?;
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(read_filter(&mut reader, filters.len())?);
    }
    if filters.is_empty() {
        return Err(Fault::Protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Incoming::Unsubscribe { packet_id, filters })
}

/// Section 3.14. Nothing at all means "normal".
fn read_disconnect(mut reader: Reader, version: Version) -> Result<Incoming, Fault> {
    let (mut reason, mut session_expiry) = (0, None);
    if version == Version::V5 && !reader.is_empty() {
        reason = reader.byte()?;
        if !reader.is_empty() {
            session_expiry = properties::read(&mut reader, version, Place::Disconnect)?.session_expiry;
        }
    }
    reader.end()?;
    if !GOODBYES.contains(&reason) {
        return Err(Fault::Protocol("reason code that only servers give"));
    }
    Ok(Incoming::Disconnect { reason, session_expiry })
}
