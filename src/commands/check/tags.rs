//! The tags of `ironbridge check --tags`: each with both forms of its address.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::figures::{device_name, millis, write_rows};
use super::page::Page;
use crate::config;
use crate::config::plan::{Plan, Source, TagPlan};
use crate::config::units::write_duration;
use crate::model::registers::BitField;

/// All of them for people.
pub fn write(out: &mut Page, plan: &Plan) -> fmt::Result {
    writeln!(out, "\ntags")?;
    let row = |tag: &TagPlan| {
        let data_type = if tag.data_type.registers() > 1 {
            format!("{} {}", tag.data_type, tag.order.as_str())
        } else {
            tag.data_type.to_string()
        };
        [
            tag.topic.to_string(),
            address(tag).unwrap_or_else(|| origin(tag)),
            tag.register().map(config::modicon).unwrap_or_default(),
            data_type,
            write_duration(tag.poll),
            tag.unit.clone(),
        ]
    };
    let rows: Vec<_> = plan.tags.iter().map(row).collect();
    write_rows(out, ["topic", "address", "modicon", "type", "poll", "unit"], &rows)
}

/// With the bits of a field, as a configuration would have it: `holding:7.4-11`; bits that are not in a row as a mask.
fn address(tag: &TagPlan) -> Option<String> {
    let text = tag.address_text()?;
    let Some(BitField { mask, shift }) = tag.field else { return Some(text) };
    let (low, high) = (mask.trailing_zeros(), mask.checked_ilog2().unwrap_or(0));
    let in_a_row = mask != 0 && mask >> low == u64::MAX >> (63 - (high - low)) && u32::from(shift) == low;
    Some(if in_a_row && high < 16 {
        format!("{text}.{low}-{high}")
    } else {
        format!("{text} mask 0x{mask:04X} shift {shift}")
    })
}

/// For scripts.
pub fn json(plan: &Plan, tag: &TagPlan) -> Value {
    json!({
        "device": device_name(plan, tag.device), "name": tag.name, "topic": &*tag.topic,
        "address": address(tag), "modicon": tag.register().map(config::modicon),
        "expression": expression(tag),
        "type": tag.data_type.to_string(), "order": tag.order.as_str(), "poll_ms": millis(tag.poll), "unit": tag.unit,
    })
}

/// Where a tag without a register comes from.
fn origin(tag: &TagPlan) -> String {
    match &tag.source {
        Source::Field(field) => format!("field {field}"),
        _ => format!("= {}", expression(tag).unwrap_or_default()),
    }
}

fn expression(tag: &TagPlan) -> Option<&str> {
    match &tag.source {
        Source::Derived(derivation) => Some(&derivation.text),
        Source::Register(_) | Source::Model(_) | Source::Field(_) => None,
    }
}
