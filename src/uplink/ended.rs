//! How a connection ended, in words for a person, and who must do something about it.
//!
//! Reason codes: MQTT 3.1.1, section 3.2.2.3; MQTT 5, section 2.4.

use rumqttc::{ConnectReturnCode, ConnectionError, StateError, v5};

use v5::mqttbytes::v5::ConnectReturnCode as Code5;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The broker does not want us: a person must look at user, password, client id.
    Refused(String),
    /// Another client has our client id: a person must look which.
    TakenOver(String),
    /// Anything else.
    Lost(String),
    /// Nothing came in answer to CONNECT.
    Silence(String),
    /// The broker said that it does not speak this version of MQTT.
    OtherVersion(String),
    /// The broker does not keep retained messages, and our will is one.
    NoRetain,
    /// The broker did not understand one of our topic aliases.
    BadAlias,
    /// The broker takes so few publishes at once that 3.1.1 is better.
    Narrow(String),
    /// The broker sends us away, to another of the list.
    Elsewhere(String),
    /// Too much, too often: come again later.
    Busy(String),
    /// A host wants us elsewhere, or is not there: the next server.
    Host(String),
    /// The host that was told everything is another one now: the same server, from the start.
    Anew(String),
}

impl Ended {
    /// For log and page.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Refused(why)
            | Self::TakenOver(why)
            | Self::Lost(why)
            | Self::Silence(why)
            | Self::OtherVersion(why)
            | Self::Elsewhere(why)
            | Self::Narrow(why)
            | Self::Busy(why)
            | Self::Host(why)
            | Self::Anew(why) => why,
            Self::NoRetain => "the broker does not keep retained messages".into(),
            Self::BadAlias => "the broker did not understand a topic alias".into(),
        }
    }
}

const LOGIN: &str = "the broker refuses user name or password";
const NOT_AUTHORISED: &str = "the broker says: not authorised (user, password and client id are what it looks at)";
const CLIENT_ID: &str = "the broker refuses the client id";
const TAKEN_OVER: &str = "another client connected with our client id, and the broker ended this session for it (two gateways with one name?)";

pub(super) fn of_v4(error: &ConnectionError) -> Ended {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            Code::BadUserNamePassword => Ended::Refused(LOGIN.into()),
            Code::NotAuthorized => Ended::Refused(NOT_AUTHORISED.into()),
            Code::BadClientId => Ended::Refused(CLIENT_ID.into()),
            Code::RefusedProtocolVersion => Ended::OtherVersion("the broker does not speak MQTT 3.1.1".into()),
            Code::ServiceUnavailable | Code::Success => Ended::Lost("the broker says: service unavailable".into()),
        },
        ConnectionError::NetworkTimeout => Ended::Silence("the broker did not answer CONNECT in time".into()),
        ConnectionError::FlushTimeout => Ended::Lost("the broker takes nothing any more".into()),
        ConnectionError::MqttState(StateError::AwaitPingResp) => Ended::Lost("the broker did not answer a ping".into()),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Ended::Lost("the broker closed the connection".into())
        }
        other => Ended::Lost(other.to_string()),
    }
}

pub(super) fn of_v5(error: &v5::ConnectionError) -> Ended {
    use v5::ConnectionError as Error;
    match error {
        Error::ConnectionRefused(code) => of_connack(*code),
        Error::Timeout(_) => Ended::Silence("the broker did not answer CONNECT in time".into()),
        Error::MqttState(v5::StateError::ServerDisconnect { reason_code, reason_string }) => {
            of_disconnect(*reason_code as u8, reason_string.as_deref())
        }
        Error::MqttState(v5::StateError::AwaitPingResp) => Ended::Lost("the broker did not answer a ping".into()),
        Error::MqttState(v5::StateError::ConnectionAborted) => Ended::Lost("the broker closed the connection".into()),
        other => Ended::Lost(other.to_string()),
    }
}

fn of_connack(code: Code5) -> Ended {
    match code {
        Code5::UnsupportedProtocolVersion | Code5::RefusedProtocolVersion => {
            Ended::OtherVersion("the broker does not speak MQTT 5".into())
        }
        Code5::BadUserNamePassword | Code5::BadAuthenticationMethod => Ended::Refused(LOGIN.into()),
        Code5::NotAuthorized | Code5::Banned => Ended::Refused(NOT_AUTHORISED.into()),
        Code5::ClientIdentifierNotValid | Code5::BadClientId => Ended::Refused(CLIENT_ID.into()),
        Code5::TopicNameInvalid => Ended::Refused("the broker refuses the topic of our last will".into()),
        Code5::QoSNotSupported => Ended::Refused("the broker takes QoS 0 only; QoS 1 is needed".into()),
        Code5::RetainNotSupported => Ended::NoRetain,
        Code5::UseAnotherServer | Code5::ServerMoved => Ended::Lost("the broker says: use another server".into()),
        Code5::QuotaExceeded | Code5::ConnectionRateExceeded | Code5::ServerBusy => {
            Ended::Busy(format!("the broker says: {code:?}"))
        }
        other => Ended::Lost(format!("the broker refuses the session: {other:?}")),
    }
}

/// DISCONNECT from the broker, by its number: rumqttc does not see those without properties.
pub(super) fn of_disconnect(code: u8, reason: Option<&str>) -> Ended {
    let said = |what: &str| match reason {
        Some(reason) => format!("{what} ({reason})"),
        None => what.to_owned(),
    };
    match code {
        0x8E => Ended::TakenOver(said(TAKEN_OVER)),
        0x87 => Ended::Refused(said("the broker ended the session: not authorised")),
        0x98 => Ended::Refused(said("the broker ended the session: administrative action")),
        0x90 => Ended::Refused(said("the broker ended the session: it does not take one of our topics")),
        0x89 => Ended::Busy(said("the broker is busy")),
        0x96 => Ended::Busy(said("the broker says that we send too fast")),
        0x97 => Ended::Busy(said("the broker says that a quota is used up")),
        0x9F => Ended::Busy(said("the broker says that we connect too often")),
        0x8B => Ended::Lost(said("the broker is shutting down")),
        0x8D => Ended::Lost(said("the broker heard nothing of us for too long")),
        0x93 => Ended::Lost(said("the broker says that we sent more at once than it takes")),
        0x94 => Ended::BadAlias,
        0x95 => Ended::Lost(said("the broker says that a message was too large")),
        0x9A => Ended::NoRetain,
        0x9C | 0x9D => Ended::Elsewhere(said("the broker says: use another server")),
        0x00 => Ended::Lost(said("the broker closed the session")),
        other => Ended::Lost(said(&format!("the broker ended the session with reason 0x{other:02X}"))),
    }
}
