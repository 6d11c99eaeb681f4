//! What a survey found of each tag, and what it means under one way to read it. Pure.

use std::collections::BTreeMap;

use super::look::{self, Grade, Look};
use crate::config::plan::{Plan, TagPlan};
use crate::field::tags::exponent;
use crate::model::quality::{Cause, Quality};
use crate::model::tag::{Order, Table};
use crate::model::value::Value;
use crate::pipeline::limits;
use crate::pipeline::meaning::{Factor, Meaning};

/// What came of one tag.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// What an instrument said of it: the engineering value, as the gateway would publish it.
    Said(Option<Value>, Quality),
    /// Its registers.
    Words(Vec<u16>),
    /// A coil, a discrete input, or its bit of a register.
    Bit(bool),
    /// Nothing.
    Miss(Miss),
}

/// Why nothing came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The device (or a gateway before it) said so.
    Exception(u8),
    /// Silence.
    Timeout,
    /// Something, but no valid answer.
    Garbled,
    /// More than one request may carry.
    TooLong,
    /// The connection broke.
    Lost(String),
    /// The device has no such SunSpec model.
    Absent(String),
    /// Not asked for: its registers must not be read, or do not exist.
    NotAsked,
}

impl Miss {
    /// Did somebody answer?
    pub const fn is_answer(&self) -> bool {
        match self {
            Self::Exception(code) => !matches!(code, 10 | 11),
            other => matches!(other, Self::Absent(_)),
        }
    }

    /// The cause that the gateway would publish.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Exception(10 | 11) | Self::Timeout | Self::NotAsked => Cause::Timeout,
            Self::Exception(_) => Cause::Exception,
            Self::Garbled => Cause::Protocol,
            Self::TooLong | Self::Absent(_) => Cause::Config,
            Self::Lost(_) => Cause::Transport,
        }
    }
}

/// By the position of the tag in the plan.
pub type Harvest = BTreeMap<usize, Got>;

/// Where it was looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As configured.
    Configured,
    /// One register (or bit) lower.
    Lower,
    /// One higher.
    Higher,
    /// What is configured in the first table, in the second.
    OtherTable(Table, Table),
}

/// What a tag reads, and how that looks.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The engineering value.
    pub value: Option<Value>,
    /// As the gateway would publish it.
    pub quality: Quality,
    /// How it looks.
    pub look: Look,
}

impl Seen {
    fn missing(cause: Cause, look: Look) -> Self {
        Self { value: None, quality: Quality::Bad(cause), look }
    }
}

/// One tag of a harvest, its words in this order.
pub fn see(plan: &Plan, harvest: &Harvest, tag: usize, order: Order) -> Seen {
    let Some((plan_tag, got)) = plan.tags.get(tag).zip(harvest.get(&tag)) else {
        return Seen::missing(Cause::Timeout, Look::plain(Grade::Mute));
    };
    match factor(plan, harvest, plan_tag) {
        Ok(factor) => see_with(&TagPlan { order, ..plan_tag.clone() }, got, factor),
        Err(cause) => match got {
            Got::Miss(_) => see_with(plan_tag, got, Factor::None),
            _ => Seen::missing(cause, Look::because(Grade::Mute, "its scale factor (scale_from) has no value")),
        },
    }
}

/// The same with the scale factor at hand; `tag` need not be one of the plan.
pub fn see_with(tag: &TagPlan, got: &Got, factor: Factor) -> Seen {
    let (value, quality) = match got {
        Got::Miss(miss) => {
            let grade = if miss.is_answer() { Grade::Absurd } else { Grade::Mute };
            return Seen::missing(miss.cause(), Look::plain(grade));
        }
        Got::Said(value, quality) => return said(tag, value.as_ref(), *quality),
        Got::Bit(on) => Meaning::of(tag).read_bit(*on),
        Got::Words(words) => Meaning::of(tag).read(words, factor),
    };
    match (value, quality) {
        (Some(value), Quality::Good) => {
            let look = match got {
                Got::Words(words) => look::look(tag, tag.order, words, &value),
                _ => Look::plain(Grade::Mute),
            };
            let quality = limits::judge(limits::of(tag), &value);
            Seen { value: Some(value), quality, look }
        }
        (value @ Some(_), quality) => {
            Seen { value, quality, look: Look::because(Grade::Doubtful, "the map has no word for it") }
        }
        (None, quality) => Seen { value: None, quality, look: no_value(tag, quality) },
    }
}

/// Of text there is only the value to look at.
fn said(tag: &TagPlan, value: Option<&Value>, quality: Quality) -> Seen {
    let look = match (value, quality) {
        (None, _) => no_value(tag, quality),
        (Some(_), Quality::Uncertain(Cause::Range)) => {
            Look::because(Grade::Doubtful, "outside min and max of the configuration")
        }
        (Some(_), Quality::Uncertain(_)) => {
            Look::because(Grade::Doubtful, "the instrument itself has its doubts (status)")
        }
        (Some(_), _) => Look::plain(Grade::Mute),
    };
    Seen { value: value.cloned(), quality, look }
}

/// What says that it is no value: as expected, or by chance.
fn no_value(tag: &TagPlan, quality: Quality) -> Look {
    match quality.cause() {
        Some(Cause::Nan) if !tag.nan.is_empty() => Look::plain(Grade::Mute),
        Some(Cause::Nan) if tag.data_type.is_float() => Look::plain(Grade::Uneasy),
        _ => Look::because(Grade::Doubtful, format!("these registers are no {}", tag.data_type)),
    }
}

/// The scale factor of a tag, as it was found in the same harvest.
pub fn factor(plan: &Plan, harvest: &Harvest, tag: &TagPlan) -> Result<Factor, Cause> {
    let Some(ix) = tag.scale_from else { return Ok(Factor::None) };
    let place = usize::try_from(ix.0).unwrap_or(usize::MAX);
    let (Some(holder), Some(got)) = (plan.tags.get(place), harvest.get(&place)) else { return Err(Cause::Config) };
    match see_with(holder, got, Factor::None) {
        Seen { value: Some(value), .. } => exponent(&value).map(Factor::Known),
        Seen { quality, .. } => Err(quality.cause().unwrap_or(Cause::Nan)),
    }
}
