//! What a PUBACK says (MQTT 5, section 3.4.2.1). In 3.1.1 it can only say yes.

use rumqttc::v5::mqttbytes::v5::PubAckReason as Reason;

use super::window::Answer;

/// Does rumqttc 0.25.1 know this reason in a PUBACK? The session ends with any other.
pub(super) const fn is_known(code: u8) -> bool {
    matches!(code, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
}

/// The answer of one that it does not know, or did not come to tell.
pub(super) const fn of_overheard(code: u8) -> Answer {
    match code {
        ..0x80 => Answer::Taken, // section 2.4: below 0x80 it is no failure
        0x90 | 0x95 | 0x99 => Answer::Refused(code),
        _ => Answer::TryLater(code),
    }
}

/// The answer of a reason code.
pub(super) fn of_puback(reason: Reason) -> Answer {
    match reason {
        // nobody listens: the broker did what it was asked for
        Reason::Success | Reason::NoMatchingSubscribers => Answer::Taken,
        Reason::UnspecifiedError => Answer::TryLater(0x80),
        Reason::ImplementationSpecificError => Answer::TryLater(0x83),
        // a rule up there is at fault and can be mended; what is owed must not be given up for it
        Reason::NotAuthorized => Answer::TryLater(0x87),
        Reason::PacketIdentifierInUse => Answer::TryLater(0x91),
        Reason::QuotaExceeded => Answer::TryLater(0x97),
        Reason::TopicNameInvalid => Answer::Refused(0x90),
        Reason::PayloadFormatInvalid => Answer::Refused(0x99),
    }
}

/// What the broker means by a reason code, for people.
pub(super) fn why(code: u8) -> String {
    let why = match code {
        0x87 => "not authorized to publish there",
        0x97 => "a quota is used up",
        _ => "it does not say why",
    };
    format!("{why} (0x{code:02X})")
}
