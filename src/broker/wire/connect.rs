//! CONNECT: tells the version, says who is there and what its last will is (3.1.1 and 5, section 3.1).

use bytes::Bytes;

use super::properties::{self, Place};
use super::reader::Reader;
use super::{Fault, Frame, Version};
use crate::broker::message::{Forwarded, Qos, Retain};
use crate::model::topic::check_topic;

/// CONNECT, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the packet, each of its own")]
pub(crate) struct Connect {
    pub version: Version,
    /// It speaks MQTT 3.1, whose CONNACK says nothing of sessions.
    pub legacy: bool,
    /// It is a broker that bridges, and said so: what it sends is not sent back, and it sees RETAIN as published.
    pub bridge: bool,
    /// May be empty: the server assigns one.
    pub client_id: String,
    /// `clean_session` in 3.1.1.
    pub clean_start: bool,
    /// Seconds; 0 = off.
    pub keep_alive: u16,
    pub session_expiry: u32,
    /// How many QoS 1 and 2 publishes it takes before it acknowledges.
    pub receive_maximum: u16,
    /// Topic aliases it takes from us.
    pub alias_maximum: u16,
    /// Longest packet it takes.
    pub maximum_packet: u32,
    /// It wants reason strings in acknowledgements.
    pub wants_reasons: bool,
    pub will: Option<Will>,
    pub user: Option<String>,
    pub password: Option<Password>,
}

/// What must not stand in a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub Bytes);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The last will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: Retain,
    /// Seconds after the end of the connection.
    pub delay: u32,
    pub expiry: Option<u32>,
    pub forwarded: Option<Box<Forwarded>>,
}

/// A CONNECT that cannot be served, and the version in which to say so; `None`: it gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotServed {
    pub version: Option<Version>,
    pub fault: Fault,
}

impl Connect {
    /// Reads the first packet of a connection.
    pub(crate) fn read(frame: Frame) -> Result<Self, NotServed> {
        let mut reader = Reader::new(frame.body);
        let version = if frame.first == 0x10 {
            version(&mut reader)
        } else {
            Err(Fault::Protocol("the first packet is not CONNECT"))
        };
        match version {
            Ok((version, level)) => read(reader, version, level)
                .map_err(|fault| NotServed { version: Some(version).filter(|_| is_told(version, fault)), fault }),
            // A version we do not speak is told in the words of 3.1.1, which all understand (3.1.2-2).
            Err(fault @ Fault::Version(level)) => {
                let version = if level > 5 { Version::V5 } else { Version::V311 };
                Err(NotServed { version: Some(version), fault })
            }
            Err(fault) => Err(NotServed { version: None, fault }),
        }
    }
}

/// Is a client of this version told what is wrong? In 3.1.1 not if its CONNECT breaks the rules (there 3.1.4-1); in
/// MQTT 5 we may, and do (3.1.4-2), unless it takes no packet long enough to be told in.
const fn is_told(version: Version, fault: Fault) -> bool {
    match version {
        Version::V311 => matches!(fault, Fault::ClientId(_) | Fault::Version(_)),
        Version::V5 => !matches!(fault, Fault::NoRoom),
    }
}

/// CONNACK with what every MQTT 5 client must know, and no more; who takes less than this takes nothing.
const CONNACK_BYTES: u32 = 16;

/// The level of MQTT 3.1.
const LEVEL_31: u8 = 3;

/// Bridges of mosquitto set the top bit of the level to say that they are one.
const BRIDGE: u8 = 0x80;

/// Longest client id of MQTT 3.1, characters (there section 3.1; "Identifier Rejected" otherwise).
const CLIENT_ID_31_MAX: usize = 23;

fn version(reader: &mut Reader) -> Result<(Version, u8), Fault> {
    let name = reader.text()?;
    let level = reader.byte()?;
    match (name.as_str(), level) {
        ("MQTT", 4 | 0x84) | ("MQIsdp", 3 | 0x83) => Ok((Version::V311, level)),
        ("MQTT", 5) => Ok((Version::V5, level)),
        ("MQTT" | "MQIsdp", level) => Err(Fault::Version(level)),
        _ => Err(Fault::Malformed("unknown protocol name")),
    }
}

fn read(mut reader: Reader, version: Version, level: u8) -> Result<Connect, Fault> {
    let flags = Flags::read(reader.byte()?, version)?;
    let keep_alive = reader.two()?;
    let said = properties::read(&mut reader, version, Place::Connect)?;
    if said.auth_method.is_some() {
        return Err(Fault::AuthMethod);
    }
    if said.auth_data {
        return Err(Fault::Protocol("authentication data without a method")); // section 3.1.2.11.10
    }
    if said.maximum_packet.is_some_and(|most| most < CONNACK_BYTES) {
        return Err(Fault::NoRoom);
    }
    let client_id = reader.text()?;
    if level & !BRIDGE == LEVEL_31 && !(1..=CLIENT_ID_31_MAX).contains(&client_id.chars().count()) {
        return Err(Fault::ClientId("MQTT 3.1 has client ids of 1 to 23 characters"));
    }
    let will = if flags.will { Some(read_will(&mut reader, version, flags)?) } else { None };
    let user = if flags.user { Some(reader.text()?) } else { None };
    let password = if flags.password { Some(Password(reader.binary()?)) } else { None };
    reader.end()?;
    Ok(Connect {
        version,
        legacy: level & !BRIDGE == LEVEL_31,
        bridge: level & BRIDGE != 0,
        client_id,
        clean_start: flags.clean,
        keep_alive,
        session_expiry: said.session_expiry.unwrap_or(0),
        receive_maximum: said.receive_maximum.unwrap_or(u16::MAX),
        alias_maximum: said.alias_maximum.unwrap_or(0),
        maximum_packet: said.maximum_packet.unwrap_or(u32::MAX),
        wants_reasons: said.problem_info != Some(0),
        will,
        user,
        password,
    })
}

/// The connect flags (section 3.1.2.3).
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "they are the bits of one byte of the standard")]
struct Flags {
    clean: bool,
    will: bool,
    will_qos: Qos,
    will_retain: bool,
    user: bool,
    password: bool,
}

impl Flags {
    fn read(byte: u8, version: Version) -> Result<Self, Fault> {
        let bit = |place: u8| byte & (1 << place) != 0;
        if bit(0) {
            return Err(Fault::Malformed("reserved connect flag is set"));
        }
        let will_qos = Qos::from_bits((byte >> 3) & 3).ok_or(Fault::Malformed("will QoS 3"))?;
        let flags = Self { clean: bit(1), will: bit(2), will_qos, will_retain: bit(5), user: bit(7), password: bit(6) };
        if !flags.will && (flags.will_retain || flags.will_qos != Qos::AtMostOnce) {
            return Err(Fault::Malformed("will flags without a will"));
        }
        if version == Version::V311 && flags.password && !flags.user {
            return Err(Fault::Malformed("password without user name"));
        }
        Ok(flags)
    }
}

fn read_will(reader: &mut Reader, version: Version, flags: Flags) -> Result<Will, Fault> {
    let said = properties::read(reader, version, Place::Will)?;
    let topic = reader.text()?;
    check_topic(&topic).map_err(Fault::Topic)?;
    Ok(Will {
        topic,
        payload: reader.binary()?,
        qos: flags.will_qos,
        retain: flags.will_retain.into(),
        delay: said.will_delay.unwrap_or(0),
        expiry: said.message_expiry,
        forwarded: said.forwarded,
    })
}
