//! MQTT-SN 1.2: the messages of sensors that cannot afford TCP, as bytes and as what they mean. Pure, without I/O.
//!
//! One datagram is one message (specification of 14 November 2013, section 5.2):
//!
//! ```text
//! short:  length (1 byte, 2 to 255)              type   body
//! long:   0x01   length (2 bytes, big-endian)    type   body       length counts all of it, itself included
//! ```
//!
//! | type | message | body |
//! |---|---|---|
//! | 00 | ADVERTISE | gateway id, duration (2, seconds) |
//! | 01 | SEARCHGW | radius |
//! | 02 | GWINFO | gateway id, address of it (empty when it says so itself) |
//! | 04 | CONNECT | flags, protocol id 01, duration (2, seconds), client id |
//! | 05 | CONNACK | code |
//! | 06, 08 | WILLTOPICREQ, WILLMSGREQ | |
//! | 07, 1A | WILLTOPIC, WILLTOPICUPD | flags, topic; or nothing: no will |
//! | 09, 1C | WILLMSG, WILLMSGUPD | content |
//! | 0A | REGISTER | topic id (2), message id (2), name |
//! | 0B, 0D | REGACK, PUBACK | topic id (2), message id (2), code |
//! | 0C | PUBLISH | flags, topic id or short name (2), message id (2), content |
//! | 0E, 0F, 10 | PUBCOMP, PUBREC, PUBREL | message id (2) |
//! | 12, 14 | SUBSCRIBE, UNSUBSCRIBE | flags, message id (2), name or topic id (2) or short name (2) |
//! | 13 | SUBACK | flags, topic id (2), message id (2), code |
//! | 15 | UNSUBACK | message id (2) |
//! | 16 | PINGREQ | client id, of one that wakes; or nothing |
//! | 17 | PINGRESP | |
//! | 18 | DISCONNECT | duration (2, seconds) of a sleep; or nothing |
//! | 1B, 1D | WILLTOPICRESP, WILLMSGRESP | code |
//! | FE | one of the above, forwarded | control, wireless node id; then the message, which length does not count |
//!
//! Flags: DUP 80, QoS 60 (11: −1, without a connection), RETAIN 10, WILL 08, CLEAN 04, kind of topic 03 (00 name or
//! registered id, 01 predefined id, 10 short name).
//!
//! `read` bytes to messages, `write` back. Promises: any bytes are read without a panic and without allocating more than
//! they are; what is read and written again reads as the same.

mod read;
mod write;

pub use read::{BadMessage, open, read};
pub use write::{enclose, write};

/// Protocol id of CONNECT.
const PROTOCOL: u8 = 1;

/// What a message asked for came to (section 5.3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Accepted,
    /// No room, or no time: later.
    Congestion,
    /// There is no topic of this id.
    InvalidTopicId,
    /// Never.
    NotSupported,
    /// One that the specification does not know; counts as never.
    Other(u8),
}

impl Code {
    /// As a byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::Congestion => 1,
            Self::InvalidTopicId => 2,
            Self::NotSupported => 3,
            Self::Other(byte) => byte,
        }
    }

    /// From a byte.
    pub const fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Accepted,
            1 => Self::Congestion,
            2 => Self::InvalidTopicId,
            3 => Self::NotSupported,
            _ => Self::Other(byte),
        }
    }
}

/// QoS of PUBLISH, SUBSCRIBE and wills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// At most once.
    Zero,
    /// At least once.
    One,
    /// Exactly once.
    Two,
    /// −1: at most once, without a connection.
    Unasked,
}

/// DUP of PUBLISH and SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Sent for the first time.
    No,
    /// Sent again.
    Yes,
}

/// RETAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Passing by.
    No,
    /// To be kept, or it was kept.
    Yes,
}

/// CLEAN of CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Goes on with what was kept.
    Kept,
    /// Begins anew.
    Clean,
}

/// WILL of CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// It leaves none now.
    NoWill,
    /// It wants to be asked for its will.
    ForWill,
}

/// How a topic is named where a name does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Registered by this client or for it.
    Id(u16),
    /// Known to both sides beforehand.
    Predefined(u16),
    /// A name of two bytes.
    Short([u8; 2]),
}

/// What SUBSCRIBE and UNSUBSCRIBE name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// With or without wildcards.
    Name(String),
    /// Known to both sides beforehand.
    Predefined(u16),
    /// A name of two bytes.
    Short([u8; 2]),
}

/// Topic of a will, and how it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillTopic {
    /// Where.
    pub name: String,
    /// How surely.
    pub quality: Quality,
    /// Whether it is kept.
    pub kept: Kept,
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Begins anew?
    pub start: Start,
    /// Wants to be asked for a will?
    pub asks: Asks,
    /// Keep alive, seconds.
    pub duration: u16,
    /// Who.
    pub client_id: String,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Sent before?
    pub again: Again,
    /// How surely.
    pub quality: Quality,
    /// To be kept?
    pub kept: Kept,
    /// Where.
    pub topic: Topic,
    /// 0 below QoS 1.
    pub message_id: u16,
    /// Content.
    pub payload: Vec<u8>,
}

/// A message; two numbers that belong together stand as in the table above.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum Message {
    Advertise { gateway_id: u8, duration: u16 },
    SearchGateway { radius: u8 },
    GatewayInfo { gateway_id: u8, address: Vec<u8> },
    Connect(Connect),
    Connack(Code),
    WillTopicRequest,
    WillTopic(Option<WillTopic>),
    WillMessageRequest,
    WillMessage(Vec<u8>),
    Register { topic_id: u16, message_id: u16, name: String },
    Regack { topic_id: u16, message_id: u16, code: Code },
    Publish(Publish),
    Puback { topic_id: u16, message_id: u16, code: Code },
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
    Subscribe { again: Again, quality: Quality, message_id: u16, filter: Filter },
    Suback { quality: Quality, topic_id: u16, message_id: u16, code: Code },
    Unsubscribe { message_id: u16, filter: Filter },
    Unsuback(u16),
    Ping(Option<String>),
    Pong,
    Disconnect(Option<u16>),
    WillTopicUpdate(Option<WillTopic>),
    WillTopicResponse(Code),
    WillMessageUpdate(Vec<u8>),
    WillMessageResponse(Code),
}

/// The numbers of the messages.
mod number {
    pub const ADVERTISE: u8 = 0x00;
    pub const SEARCHGW: u8 = 0x01;
    pub const GWINFO: u8 = 0x02;
    pub const CONNECT: u8 = 0x04;
    pub const CONNACK: u8 = 0x05;
    pub const WILLTOPICREQ: u8 = 0x06;
    pub const WILLTOPIC: u8 = 0x07;
    pub const WILLMSGREQ: u8 = 0x08;
    pub const WILLMSG: u8 = 0x09;
    pub const REGISTER: u8 = 0x0A;
    pub const REGACK: u8 = 0x0B;
    pub const PUBLISH: u8 = 0x0C;
    pub const PUBACK: u8 = 0x0D;
    pub const PUBCOMP: u8 = 0x0E;
    pub const PUBREC: u8 = 0x0F;
    pub const PUBREL: u8 = 0x10;
    pub const SUBSCRIBE: u8 = 0x12;
    pub const SUBACK: u8 = 0x13;
    pub const UNSUBSCRIBE: u8 = 0x14;
    pub const UNSUBACK: u8 = 0x15;
    pub const PINGREQ: u8 = 0x16;
    pub const PINGRESP: u8 = 0x17;
    pub const DISCONNECT: u8 = 0x18;
    pub const WILLTOPICUPD: u8 = 0x1A;
    pub const WILLTOPICRESP: u8 = 0x1B;
    pub const WILLMSGUPD: u8 = 0x1C;
    pub const WILLMSGRESP: u8 = 0x1D;
    pub const FORWARDED: u8 = 0xFE;
}

/// The bits of the flags.
mod flag {
    pub const DUP: u8 = 0x80;
    pub const QOS: u8 = 0x60;
    pub const RETAIN: u8 = 0x10;
    pub const WILL: u8 = 0x08;
    pub const CLEAN: u8 = 0x04;
    pub const TOPIC: u8 = 0x03;
}
