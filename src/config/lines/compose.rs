//! A frame as it goes over the wire: marks and checksum around what is said. Pure; the way back of [`super::framer`].

use super::checksum;
use crate::config::plan::{ChecksumForm, ChecksumKind, ChecksumPlace, ChecksumPlan, FrameCut, LinePlan};

/// The bytes of a frame that says this.
pub fn frame(plan: &LinePlan, said: &[u8]) -> Vec<u8> {
    let (start, end) = marks(&plan.cut);
    let mut bytes = start.to_vec();
    bytes.extend(said);
    match &plan.checksum {
        None => bytes.extend(end),
        Some(check) if check.place == ChecksumPlace::Behind => {
            bytes.extend(end);
            let sum = sum(check, &bytes[start.len()..]);
            bytes.extend(sum);
        }
        Some(check) => {
            let sum = sum(check, said);
            bytes.extend(&check.after);
            bytes.extend(sum);
            bytes.extend(end);
        }
    }
    bytes
}

/// What stands before and behind a frame.
pub fn marks(cut: &FrameCut) -> (&[u8], &[u8]) {
    match cut {
        FrameCut::Marks { start, end } => (start, end),
        FrameCut::Length { start, .. } => (start, &[]),
        FrameCut::Idle(_) => (&[], &[]),
    }
}

/// The checksum of these bytes as it is written.
pub fn sum(plan: &ChecksumPlan, counted: &[u8]) -> Vec<u8> {
    let sum = checksum::of(plan.kind, counted);
    match (plan.form, plan.width()) {
        (ChecksumForm::Hex, width) => format!("{sum:0width$X}").into_bytes(),
        (ChecksumForm::Binary, 2) if plan.kind == ChecksumKind::Crc16Modbus => sum.to_le_bytes().to_vec(),
        (ChecksumForm::Binary, 2) => sum.to_be_bytes().to_vec(),
        (ChecksumForm::Binary, _) => vec![sum.to_be_bytes()[1]],
    }
}
