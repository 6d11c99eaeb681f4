//! What faults make of a right reply: of its PDU, of its frame, and of the way it is said. Pure.

use std::time::Duration;

use super::behind::{Piece, Then, Utterance};
use super::faults::{Dice, Fault};
use super::frames::Request;
use super::pdu;
use crate::config::plan::Framing;
use crate::model::tag::Table;

/// Pieces of a reply that comes in pieces.
const PIECES: usize = 4;
/// Bytes of garbage before a reply, at most.
const GARBAGE_MAX: usize = 11;

/// The exception that a fault answers a request with, if it does.
pub(super) fn refusal(faults: &[Fault], request: &[u8]) -> Option<u8> {
    faults.iter().find_map(|fault| match fault {
        Fault::Exception(code) => Some(*code),
        Fault::Hole { table, first, last } => {
            let (asked, start, end) = span(request)?;
            (asked == *table && start <= u32::from(*last) && end > u32::from(*first)).then_some(pdu::ILLEGAL_ADDRESS)
        }
        Fault::Limit(count) => {
            let (asked, start, end) = span(request)?;
            (!asked.is_bits() && end - start > u32::from(*count)).then_some(pdu::ILLEGAL_VALUE)
        }
        _ => None,
    })
}

/// Table, first address and the one behind the last of a request.
fn span(request: &[u8]) -> Option<(Table, u32, u32)> {
    let [function, high, low, rest @ ..] = request else { return None };
    let table = match function {
        1 | 5 | 15 => Table::Coil,
        2 => Table::Discrete,
        3 | 6 | 16 | 22 => Table::Holding,
        4 => Table::Input,
        _ => return None,
    };
    let count = match (function, rest) {
        (5 | 6 | 22, _) => 1,
        (_, [high, low, ..]) => u16::from_be_bytes([*high, *low]),
        _ => return None,
    };
    let start = u32::from(u16::from_be_bytes([*high, *low]));
    Some((table, start, start + u32::from(count)))
}

/// How a connection ends with a request instead of answering it.
pub(super) fn end(faults: &[Fault]) -> Option<Then> {
    faults.iter().find_map(|fault| match fault {
        Fault::HangUp => Some(Then::HangUp),
        Fault::Reset => Some(Then::Reset),
        Fault::BlackHole => Some(Then::Mute),
        Fault::Unplug(time) => Some(Then::Unplug(*time)),
        _ => None,
    })
}

/// The reply's function and data, as the unit says them.
pub(super) fn of_pdu(faults: &[Fault], mut pdu: Vec<u8>) -> Vec<u8> {
    for fault in faults {
        match (fault, pdu.first()) {
            (Fault::Registers(count), Some(3 | 4)) => {
                let bytes = usize::from(*count) * 2;
                let data = pdu.split_off(2);
                pdu[1] = u8::try_from(bytes).unwrap_or(u8::MAX);
                pdu.extend(data.iter().copied().chain([0, 0]).cycle().take(bytes));
            }
            (Fault::WrongFunction, Some(function)) => {
                pdu[0] = match function {
                    1..=4 => (function + 1) % 4 + 1, // another table of the same kind of thing, or of the other
                    other => other ^ 1,
                };
            }
            _ => {}
        }
    }
    pdu
}

/// A reply as it comes over the wire: framed, damaged, in its time. Without a PDU there is no reply, only what a line does
/// by itself.
pub(super) fn said(
    faults: &[Fault],
    dice: &mut Dice,
    (framing, request): (Framing, &Request),
    pdu: Option<&[u8]>,
) -> Option<Utterance> {
    let mut unit_id = request.unit_id;
    if faults.contains(&Fault::WrongUnit) {
        unit_id = if unit_id >= 247 { 1 } else { unit_id + 1 };
    }
    let mut frame = pdu.map(|pdu| request.reply(framing, unit_id, pdu)).unwrap_or_default();
    let (mut after, mut gap) = (Duration::ZERO, None);
    let has_reply = !frame.is_empty();
    for fault in faults {
        match fault {
            Fault::Late(by) => after = *by,
            Fault::Pieces(pause) => gap = Some(*pause),
            Fault::Noise if has_reply => noise(framing, &mut frame),
            Fault::BitFlip if has_reply => {
                let bit = dice.below(frame.len() * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            Fault::Truncated if has_reply => frame.truncate(1 + dice.below(frame.len() - 1)),
            Fault::StaleNumber if has_reply && framing.is_numbered() => {
                let before = u16::from_be_bytes([frame[0], frame[1]]).wrapping_sub(1);
                frame[..2].copy_from_slice(&before.to_be_bytes());
            }
            _ => {}
        }
    }
    if has_reply && faults.contains(&Fault::Garbage) {
        let count = 1 + dice.below(GARBAGE_MAX);
        let garbage: Vec<u8> = (0..count).map(|_| dice.roll().to_le_bytes()[0]).collect();
        frame.splice(..0, garbage);
    }
    let mut pieces = cut(frame, gap);
    if faults.contains(&Fault::Echo) {
        pieces.insert(0, Piece { pause: Duration::ZERO, bytes: request.raw.clone() });
    }
    (!pieces.is_empty()).then_some(Utterance { after, pieces, then: Then::Stay })
}

fn noise(framing: Framing, frame: &mut [u8]) {
    let middle = frame.len() / 2;
    match framing {
        Framing::Mbap => frame[0] ^= 0x80,
        Framing::Rtu | Framing::Line => frame[middle] ^= 0x10,
        Framing::Ascii => frame[middle] ^= 1, // the digit beside it, or none at all
    }
}

fn cut(frame: Vec<u8>, gap: Option<Duration>) -> Vec<Piece> {
    if frame.is_empty() {
        return Vec::new();
    }
    let Some(gap) = gap else { return vec![Piece { pause: Duration::ZERO, bytes: frame }] };
    let size = frame.len().div_ceil(PIECES);
    let pieces = frame.chunks(size).enumerate();
    pieces
        .map(|(at, bytes)| Piece { pause: if at == 0 { Duration::ZERO } else { gap }, bytes: bytes.to_vec() })
        .collect()
}
