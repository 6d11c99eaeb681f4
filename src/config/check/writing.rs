//! `write = { … }` of a tag: function, limits, verify, retry; and what a broadcast can do.

use super::super::plan::{TagPlan, Verify, WriteFunction, WritePlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::tag::limits;
use crate::model::registers::BitField;
use crate::model::tag::{Access, Address, DataType, Table};

const FUNCTIONS: [(&str, WriteFunction); 4] = [
    ("auto", WriteFunction::Auto),
    ("single", WriteFunction::Single),
    ("multiple", WriteFunction::Multiple),
    ("mask", WriteFunction::Mask),
];
/// A write that three times got no answer is better looked at by a person.
const RETRIES_MAX: u16 = 3;

/// What is written: a place, the bits of it, and as what.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// As what.
    pub data_type: DataType,
    /// Which bits of it.
    pub field: Option<BitField>,
}

/// Limits on a tag that is only read have no effect: they may be written down before writing is allowed.
pub fn write(section: &Section<'_, '_>, access: Access, target: Option<Target>) -> WritePlan {
    // A clock that was set goes on: it is compared only where somebody insists.
    let moves = target.is_some_and(|target| target.data_type.is_time());
    let verify = if access.reads() && !moves { Verify::ReadBack } else { Verify::TrustReply };
    let plan = WritePlan { verify, ..WritePlan::default() };
    let Some(node) = section.get("write") else { return plan };
    let trail = Trail::Key(section.trail, "write");
    let Some(inner) = Section::open(section.cx, node, &trail, schema::WRITE) else { return plan };
    let verify = match inner.flag("verify") {
        None => verify,
        Some(Spot { value: true, .. }) => Verify::ReadBack,
        Some(_) => Verify::TrustReply,
    };
    let data_type = target.map(|target| target.data_type);
    if section.get("map").is_some() {
        for key in ["min", "max"] {
            if let Some(limit) = inner.get(key) {
                let message = format!("with a map the value is text, which has no `{key}`");
                inner.report(inner.wrong(key, limit.at, message));
            }
        }
    }
    WritePlan {
        function: function(&inner, target),
        limits: limits(&inner, data_type),
        verify,
        retries: inner.whole("retry", 0..=RETRIES_MAX).and_then(|retries| u8::try_from(retries).ok()).unwrap_or(0),
    }
}

fn function(inner: &Section<'_, '_>, target: Option<Target>) -> WriteFunction {
    let Some(function) = inner.choice("function", &FUNCTIONS) else { return WriteFunction::default() };
    let Some(Target { address, data_type, field }) = target else { return function.value };
    let registers = data_type.registers();
    let has_bits = address.bit.is_some() || field.is_some();
    let problem = match function.value {
        WriteFunction::Single if registers > 1 => {
            Some((format!("a {data_type} takes {registers} registers, and FC 6 writes one"), "auto, multiple"))
        }
        WriteFunction::Mask if address.table == Table::Coil => {
            Some(("a coil is one bit, and FC 22 changes bits of registers".to_owned(), "auto, single, multiple"))
        }
        WriteFunction::Mask if !has_bits || registers > 1 => {
            Some(("FC 22 changes some bits of one register".to_owned(), "a bit such as \"holding:7.3\", or a mask"))
        }
        _ => None,
    };
    if let Some((message, allowed)) = problem {
        inner.report(inner.wrong("function", function.at, message).allowed(allowed));
    }
    function.value
}

/// Unit 0 of a serial line is everybody, and nobody answers: its tags can only be written, and blindly.
pub fn check_broadcast(section: &Section<'_, '_>, at: At, tags: &[TagPlan]) {
    for tag in tags {
        let reads_first = tag.write.function != WriteFunction::Mask
            && (tag.field.is_some() || tag.register().is_some_and(|place| place.bit.is_some()));
        let why = if tag.access != Access::Write {
            "is read"
        } else if tag.write.verify == Verify::ReadBack {
            "is read back after a write"
        } else if tag.model().is_some() {
            "is in a SunSpec model, which is looked for before a write"
        } else if tag.scale_from.is_some() {
            "needs a scale factor that is read"
        } else if reads_first {
            "has some bits of a register, which is read before it is written"
        } else {
            continue;
        };
        let message =
            format!("unit 0 of a serial line is a broadcast, which nobody answers, but its tag {} {why}", tag.name);
        let allowed = "1 ..= 247; 0 for tags with access = \"write\" and verify = false";
        return section.report(section.wrong("unit_id", at, message).allowed(allowed));
    }
}
