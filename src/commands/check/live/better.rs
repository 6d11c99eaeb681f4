//! A better reading for one tag whose value makes no sense: another order, then another type of the same length. Pure.

use super::look::{Grade, bytes_turned, turned};
use super::seen::{Got, Harvest, factor, see, see_with};
use super::theory::Confidence;
use crate::commands::decode::readings;
use crate::config::plan::{Plan, TagPlan};
use crate::model::quality::Quality;
use crate::model::tag::{DataType, Order};
use crate::model::value::Value;

/// What to change, and what comes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// A key of the tag and its new value; `None`: not of the tag alone.
    pub key: Option<(&'static str, String)>,
    /// What is read then.
    pub reads: Option<Value>,
    /// How sure that is.
    pub confidence: Confidence,
}

/// As plausible as `ironbridge decode` must find a reading.
const PLAUSIBLE: i32 = 50;
/// And to be sure of it.
const SURELY: i32 = 80;
/// Another type is that much less likely than another order.
const OTHER_TYPE: i32 = 6;

/// The best other reading of a tag, if there is one that makes sense.
pub fn reading(plan: &Plan, harvest: &Harvest, tag: usize) -> Option<Proposal> {
    let of = plan.tags.get(tag)?;
    let Some(got @ Got::Words(words)) = harvest.get(&tag) else { return None };
    if of.field.is_some() || of.map.is_some() || !of.data_type.is_number() {
        return None;
    }
    let factor = factor(plan, harvest, of).ok()?;
    let now = see(plan, harvest, tag, of.order).look.grade;
    let all = readings::readings(words, 0);
    let mut best: Option<(i32, Proposal)> = None;
    for (data_type, order) in candidates(of) {
        let other = TagPlan { data_type, order, ..of.clone() };
        let seen = see_with(&other, got, factor);
        let plausible = plausibility(&all, data_type, order);
        if seen.quality != Quality::Good
            || seen.look.grade > Grade::Fits
            || plausible < PLAUSIBLE
            || seen.look.grade >= now
        {
            continue;
        }
        let cost = if data_type == of.data_type { 0 } else { OTHER_TYPE };
        let score = plausible - cost + if seen.look.grade == Grade::Crisp { 10 } else { 0 };
        if best.as_ref().is_some_and(|(known, _)| *known >= score) {
            continue;
        }
        let key = if data_type == of.data_type {
            ("order", order.as_str().to_owned())
        } else {
            ("type", data_type.to_string())
        };
        let confidence = if score >= SURELY { Confidence::Likely } else { Confidence::Possible };
        best = Some((score, Proposal { key: Some(key), reads: seen.value, confidence }));
    }
    best.map(|(_, proposal)| proposal)
}

/// The orders, then the types of the same length in the configured order.
fn candidates(tag: &TagPlan) -> Vec<(DataType, Order)> {
    let mut all = Vec::new();
    if tag.data_type.registers() > 1 {
        for order in [turned(tag.order), bytes_turned(tag.order), turned(bytes_turned(tag.order))] {
            all.push((tag.data_type, order));
        }
    }
    let types: &[DataType] = match tag.data_type.registers() {
        1 => &[DataType::Int16],
        2 => &[DataType::Float32, DataType::Uint32, DataType::Int32],
        4 => &[DataType::Float64, DataType::Uint64, DataType::Int64],
        _ => &[],
    };
    let others = types.iter().filter(|data_type| **data_type != tag.data_type);
    all.extend(others.map(|data_type| (*data_type, tag.order)));
    all
}

fn plausibility(all: &[readings::Reading], data_type: DataType, order: Order) -> i32 {
    let one = all.iter().filter(|reading| reading.values.len() == 1);
    let named = |reading: &&readings::Reading| {
        (reading.data_type, reading.order) == (data_type, order) || reading.alike.contains(&(data_type, order))
    };
    one.filter(named).map(|reading| reading.score).max().unwrap_or(0)
}
