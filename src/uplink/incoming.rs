//! What rumqttc says happened, in both versions, in our own words. Pure.

use std::time::Duration;

use rumqttc::{Event, Outgoing, Packet, v5};

use super::answer;
use super::client::{Agreed, Arrival, Happened, Receipt};
use super::ended::Ended;
use super::window::Answer;
use crate::model::message::Properties;

/// MQTT 3.1.1.
pub(super) fn of_v4(event: Event) -> Happened {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Happened::Accepted(Agreed::default()),
        Event::Outgoing(Outgoing::Publish(id)) => Happened::Left(id),
        Event::Outgoing(Outgoing::Unsubscribe(id)) => Happened::Raised(id),
        Event::Incoming(Packet::UnsubAck(ack)) => Happened::Passed(ack.pkid),
        Event::Incoming(Packet::PubAck(ack)) => Happened::Acknowledged(ack.pkid, Answer::Taken),
        Event::Incoming(Packet::SubAck(ack)) => {
            let failed = |code: &rumqttc::SubscribeReasonCode| matches!(code, rumqttc::SubscribeReasonCode::Failure);
            Happened::Subscribed { refused: places(&ack.return_codes, failed) }
        }
        Event::Incoming(Packet::Publish(publish)) => Happened::Asked(Box::new(Arrival {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            retain: publish.retain,
            dup: publish.dup,
            expiry: None,
            properties: Properties::default(),
            receipt: Receipt::V4(publish),
        })),
        _ => Happened::Nothing,
    }
}

/// MQTT 5, but for CONNACK.
pub(super) fn of_v5(event: v5::Event) -> Happened {
    use v5::Incoming as In;
    match event {
        v5::Event::Outgoing(Outgoing::Publish(id)) => Happened::Left(id),
        v5::Event::Outgoing(Outgoing::Unsubscribe(id)) => Happened::Raised(id),
        v5::Event::Incoming(In::UnsubAck(ack)) => Happened::Passed(ack.pkid),
        v5::Event::Incoming(In::PubAck(ack)) => Happened::Acknowledged(ack.pkid, answer::of_puback(ack.reason)),
        v5::Event::Incoming(In::SubAck(ack)) => {
            let granted = |code: &v5::mqttbytes::v5::SubscribeReasonCode| {
                matches!(code, v5::mqttbytes::v5::SubscribeReasonCode::Success(_))
            };
            Happened::Subscribed { refused: places(&ack.return_codes, |code| !granted(code)) }
        }
        v5::Event::Incoming(In::Publish(publish)) => {
            let properties = publish.properties.clone().unwrap_or_default();
            Happened::Asked(Box::new(Arrival {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.clone(),
                retain: publish.retain,
                dup: publish.dup,
                expiry: properties.message_expiry_interval.map(|s| Duration::from_secs(u64::from(s))),
                properties: Properties {
                    payload_format: properties.payload_format_indicator,
                    content_type: properties.content_type,
                    response_topic: properties.response_topic,
                    correlation: properties.correlation_data.map(|data| data.to_vec()),
                    user: properties.user_properties,
                },
                receipt: Receipt::V5(publish),
            }))
        }
        _ => Happened::Nothing,
    }
}

/// Where these are.
fn places<T>(all: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    all.iter().enumerate().filter(|(_, one)| wanted(one)).map(|(place, _)| place).collect()
}

/// CONNACK of MQTT 5.
pub(super) fn agreed(properties: v5::mqttbytes::v5::ConnAckProperties) -> Result<Agreed, Ended> {
    if properties.max_qos == Some(0) {
        return Err(Ended::Refused(
            "the broker takes QoS 0 only; QoS 1 is needed, or nothing would be acknowledged".into(),
        ));
    }
    let any = Agreed::default();
    // 0 in either is a protocol error of the broker (sections 3.2.2.3.3 and 3.2.2.3.6)
    let receive_max = properties.receive_max.unwrap_or(any.receive_max);
    let packet_bytes_max = properties.max_packet_size.map_or(any.packet_bytes_max, |bytes| bytes as usize);
    if receive_max == 0 || packet_bytes_max == 0 {
        return Err(Ended::Lost("the broker's CONNACK takes nothing: a maximum in it is 0".into()));
    }
    Ok(Agreed {
        receive_max,
        packet_bytes_max,
        alias_max: properties.topic_alias_max.unwrap_or(0),
        retains: properties.retain_available != Some(0),
        assigned_id: properties.assigned_client_identifier,
    })
}

/// A CONNACK that says nothing.
pub(super) fn no_properties() -> v5::mqttbytes::v5::ConnAckProperties {
    v5::mqttbytes::v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
