//! Cutting lines out of a stream.
//!
//! Promises: the same frames however the bytes come; never more held than a frame and its marks; frames no longer than
//! allowed, check sums right; every byte is in a frame, a mark or counted; behind garbage and an end the next frame is found.

use std::time::Duration;

use ironbridge::config::lines::framer::{Framer, Heard};
use ironbridge::config::plan::{ChecksumForm, ChecksumKind, ChecksumPlace, ChecksumPlan, FrameCut, LineMode, LinePlan};

use super::Bytes;

fn plan(bytes: &mut Bytes<'_>) -> LinePlan {
    let kinds =
        [ChecksumKind::Xor, ChecksumKind::Sum8, ChecksumKind::Lrc, ChecksumKind::Crc16Modbus, ChecksumKind::Crc16Ccitt];
    let (shape, sum, size) = (bytes.byte(), bytes.byte(), usize::from(bytes.byte()));
    let mark = |bytes: &mut Bytes<'_>, least: usize| {
        let mut mark = bytes.take(usize::from(shape >> 4 & 3)).to_vec();
        mark.resize(mark.len().max(least), b'\n');
        mark
    };
    let cut = match shape & 3 {
        0 | 1 => {
            let (start, end) = (mark(bytes, 0), mark(bytes, 1));
            // The check refuses an end with a start in it.
            let is_inside = !start.is_empty() && end.windows(start.len()).any(|part| part == start);
            FrameCut::Marks { start: if is_inside { Vec::new() } else { start }, end }
        }
        2 => FrameCut::Length { start: mark(bytes, 0), length: 1 + size % 40 },
        _ => FrameCut::Idle(Duration::from_millis(50)),
    };
    let is_behind = matches!(cut, FrameCut::Marks { .. }) && sum & 0x20 != 0;
    let checksum = (sum & 0x80 != 0).then(|| ChecksumPlan {
        kind: kinds[usize::from(sum & 7) % 5],
        form: if sum & 0x10 == 0 { ChecksumForm::Hex } else { ChecksumForm::Binary },
        // Behind the end mark nothing else stands before it: the check sees to that.
        after: bytes.take(if is_behind { 0 } else { usize::from(sum >> 6 & 1) }).to_vec(),
        place: if is_behind { ChecksumPlace::Behind } else { ChecksumPlace::Inside },
    });
    LinePlan { mode: LineMode::Listen, cut, max_frame: 1 + size % 64, checksum }
}

fn marks(plan: &LinePlan) -> usize {
    let behind = plan.checksum.as_ref().map_or(0, ChecksumPlan::width);
    match &plan.cut {
        FrameCut::Marks { start, end } => start.len() + end.len() + behind,
        FrameCut::Length { start, length } => start.len() + length,
        FrameCut::Idle(_) => 0,
    }
}

/// Noise in a row is one, wherever it was cut.
fn joined(heard: impl IntoIterator<Item = Heard>) -> Vec<Heard> {
    let mut all: Vec<Heard> = Vec::new();
    for one in heard {
        match (all.last_mut(), one) {
            (Some(Heard::Noise(before)), Heard::Noise(more)) => *before += more,
            (_, one) => all.push(one),
        }
    }
    all
}

/// A plan, the sizes of the pieces, and the stream.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let plan = plan(&mut bytes);
    let piece = 1 + usize::from(bytes.byte());
    let stream = bytes.0;
    let most = plan.max_frame + marks(&plan);

    let mut whole = Framer::new(&plan);
    let mut at_once: Vec<Heard> = whole.push(stream).collect();
    let mut pieces = Framer::new(&plan);
    let mut by_piece = Vec::new();
    for piece in stream.chunks(piece) {
        by_piece.extend(pieces.push(piece));
        assert!(pieces.held() <= most, "{} bytes held, at most {most}", pieces.held());
    }
    assert_eq!(whole.held(), pieces.held());
    at_once.extend(whole.silence());
    by_piece.extend(pieces.silence());
    let heard = joined(at_once);
    assert_eq!(heard, joined(by_piece), "{plan:?}");

    let mut told = whole.held();
    for one in &heard {
        told += match one {
            Heard::Frame(body) => {
                let length = if let FrameCut::Length { length, .. } = plan.cut { length } else { plan.max_frame };
                assert!(body.len() <= length, "{} bytes in {plan:?}", body.len());
                assert!(stream.windows(body.len().max(1)).any(|part| part == body) || body.is_empty(), "never came");
                body.len()
            }
            Heard::Damaged => 0,
            Heard::Noise(bytes) => *bytes,
        };
    }
    assert!(told <= stream.len(), "{told} bytes told of {}", stream.len());
    next_frame(&plan, whole);
}

/// After an end, a frame begins.
fn next_frame(plan: &LinePlan, mut framer: Framer) {
    let FrameCut::Marks { start, end } = &plan.cut else { return };
    if plan.checksum.is_some() {
        return;
    }
    let letter =
        (b'a'..=b'z').find(|letter| !start.contains(letter) && !end.contains(letter)).expect("marks are short");
    let first = framer.push(&[&[letter][..], end].concat()).count();
    let body = vec![letter; plan.max_frame.min(5)];
    let heard: Vec<Heard> = framer.push(&[start, &body[..], end].concat()).collect();
    assert_eq!(heard.last(), Some(&Heard::Frame(body)), "{plan:?} after {first}");
}
