//! `example`: a frame as an instrument's manual or a terminal shows it. Pure.
//!
//! People paste what they have: the whole frame with its marks, or what stands between them; with its checksum, or without.
//! A checksum that is there must be right, and the finding says which one would be.

use super::{Framer, Heard, checksum, compose};
use crate::config::plan::{ChecksumForm, ChecksumPlace, ChecksumPlan, FrameCut, LinePlan};

/// What the frame says, without its marks and checksum; or what is wrong with it, for people.
pub fn said(plan: &LinePlan, shown: &[u8]) -> Result<Vec<u8>, String> {
    let bare = match whole(plan, shown) {
        Some(found) => return found,
        None => without_marks(plan, shown)?,
    };
    let frame = compose::frame(plan, &bare);
    match whole(plan, &frame) {
        Some(Ok(said)) if said == bare => Ok(said),
        _ => Err(misfit(plan, &bare)),
    }
}

/// The only frame in these bytes, if they are a frame from the first byte to the last.
fn whole(plan: &LinePlan, bytes: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let mut framer = Framer::new(plan);
    let mut heard: Vec<Heard> = framer.push(bytes).collect();
    if matches!(plan.cut, FrameCut::Idle(_)) {
        heard.extend(framer.silence());
    }
    match (heard.pop(), heard.as_slice(), framer.held()) {
        (Some(Heard::Frame(said)), [], 0) => Some(Ok(said)),
        (Some(Heard::Damaged), [], 0) if !matches!(plan.cut, FrameCut::Idle(_)) => Some(Err(wrong_sum(plan, bytes))),
        _ => None,
    }
}

/// The bytes between the marks, where they are shown (line ends cannot be seen on a terminal), without a checksum.
fn without_marks(plan: &LinePlan, shown: &[u8]) -> Result<Vec<u8>, String> {
    let (start, end) = compose::marks(&plan.cut);
    let shown = shown.strip_prefix(start).unwrap_or(shown);
    let shown = shown.strip_suffix(end).unwrap_or(shown);
    let Some(check) = plan.checksum.as_ref().filter(|check| check.place == ChecksumPlace::Inside) else {
        return Ok(shown.to_vec());
    };
    if let Some(said) = checksum::strip(check, shown) {
        return Ok(said.to_vec());
    }
    match body(check, shown) {
        Some(body) => Err(told(check, body, &shown[shown.len() - check.width()..])),
        None => Ok(shown.to_vec()),
    }
}

/// What a checksum of hex digits stands behind, where one does: its mark and digits are there.
fn body<'f>(check: &ChecksumPlan, shown: &'f [u8]) -> Option<&'f [u8]> {
    let (body, digits) = shown.split_at(shown.len().checked_sub(check.width())?);
    let is_sum = check.form == ChecksumForm::Hex && !check.after.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    body.strip_suffix(check.after.as_slice()).filter(|_| is_sum)
}

fn wrong_sum(plan: &LinePlan, frame: &[u8]) -> String {
    let Some(check) = &plan.checksum else { return misfit(plan, frame) };
    let (start, end) = compose::marks(&plan.cut);
    let behind = if check.place == ChecksumPlace::Behind { 0 } else { end.len() };
    let counted = &frame[start.len()..frame.len() - behind];
    let (rest, sum) = counted.split_at(counted.len().saturating_sub(check.width()));
    match rest.strip_suffix(check.after.as_slice()) {
        Some(rest) => told(check, rest, sum),
        None => "has no checksum where the bus says there is one".to_owned(),
    }
}

fn told(check: &ChecksumPlan, counted: &[u8], found: &[u8]) -> String {
    let text = |bytes: &[u8]| match check.form {
        ChecksumForm::Hex => bytes.escape_ascii().to_string(),
        ChecksumForm::Binary => bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" "),
    };
    format!("its checksum is {}, and these bytes have {}", text(found), text(&compose::sum(check, counted)))
}

fn misfit(plan: &LinePlan, said: &[u8]) -> String {
    let bytes = said.len() + plan.checksum.as_ref().map_or(0, |check| check.width() + check.after.len());
    match &plan.cut {
        _ if said.is_empty() => "says nothing".to_owned(),
        FrameCut::Length { length, .. } => format!("has {bytes} bytes, and frame_length is {length}"),
        _ if said.len() > plan.max_frame => format!("has {} bytes, and max_frame is {}", said.len(), plan.max_frame),
        _ => "is no frame of this bus: it holds one of its marks".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{ChecksumKind, LineMode};
    use std::time::Duration;

    fn plan(cut: FrameCut, checksum: Option<ChecksumPlan>) -> LinePlan {
        LinePlan { mode: LineMode::Poll, cut, max_frame: 20, checksum }
    }

    fn check(kind: ChecksumKind, form: ChecksumForm, after: &[u8], place: ChecksumPlace) -> ChecksumPlan {
        ChecksumPlan { kind, form, after: after.to_vec(), place }
    }

    fn marks(start: &[u8], end: &[u8]) -> FrameCut {
        FrameCut::Marks { start: start.to_vec(), end: end.to_vec() }
    }

    #[test]
    fn a_frame_may_be_shown_with_its_marks_and_checksum_or_without() {
        let nmea = check(ChecksumKind::Xor, ChecksumForm::Hex, b"*", ChecksumPlace::Inside);
        let nmea = plan(marks(b"$", b"\r\n"), Some(nmea));
        for shown in [&b"$GPX,1*52\r\n"[..], b"$GPX,1*52", b"$GPX,1", b"GPX,1*52", b"GPX,1"] {
            assert_eq!(said(&nmea, shown).as_deref(), Ok(&b"GPX,1"[..]), "{}", shown.escape_ascii());
        }
        for wrong in [&b"$GPX,1*65\r\n"[..], b"$GPX,1*65", b"GPX,1*65"] {
            assert_eq!(said(&nmea, wrong), Err("its checksum is 65, and these bytes have 52".into()));
        }
        assert_eq!(said(&nmea, b"$GPX,1\r\n"), Err("has no checksum where the bus says there is one".into()));
        let block = check(ChecksumKind::Xor, ChecksumForm::Binary, b"", ChecksumPlace::Behind);
        let block = plan(marks(&[2], &[3]), Some(block));
        let frame = compose::frame(&block, b"12.5");
        assert_eq!(frame, [2, b'1', b'2', b'.', b'5', 3, b'1' ^ b'2' ^ b'.' ^ b'5' ^ 3]);
        assert_eq!(said(&block, &frame).as_deref(), Ok(&b"12.5"[..]));
        assert_eq!(said(&block, b"12.5").as_deref(), Ok(&b"12.5"[..]));
        assert_eq!(said(&block, b"\x0212.5\x03\x00"), Err("its checksum is 00, and these bytes have 1B".into()));
    }

    #[test]
    fn what_is_no_frame_of_the_bus_is_told_so() {
        let lines = plan(marks(b"", b"\n"), None);
        assert!(said(&lines, b"one\ntwo").is_err_and(|told| told.contains("one of its marks")));
        assert!(said(&lines, b"123456789012345678901").is_err_and(|told| told.contains("max_frame is 20")));
        assert_eq!(said(&lines, b""), Err("says nothing".into()));
        let crc = check(ChecksumKind::Crc16Modbus, ChecksumForm::Binary, b"", ChecksumPlace::Inside);
        let fixed = plan(FrameCut::Length { start: Vec::new(), length: 6 }, Some(crc));
        assert_eq!(said(&fixed, b"1234").as_deref(), Ok(&b"1234"[..]));
        assert_eq!(said(&fixed, b"123"), Err("has 5 bytes, and frame_length is 6".into()));
        let idle = plan(FrameCut::Idle(Duration::from_millis(20)), None);
        assert_eq!(said(&idle, b"4006381333931").as_deref(), Ok(&b"4006381333931"[..]));
    }
}
