//! What is watched and what is kept of a tag: `alarm`, `deadband`, `compression`, `stale_after`, `unchanged_for`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{AlarmPlan, Compression, Freshness, Limits};
use super::super::raw::{Node, Trail, Value};
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::units::write_duration;
use super::tag::only_numbers;
use crate::model::alarm::Level;
use crate::model::data_type::Kind;
use crate::model::number::Class;
use crate::model::tag::{Access, DataType};

const DAY: Duration = Duration::from_secs(86_400);
const DELAY_RANGE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
const GAP_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const STALE_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30 * 86_400);
/// A straight line of a swinging door is told after this long at the latest.
const MAX_GAP: Duration = Duration::from_secs(600);
/// The keys of the limits, from the lowest: each must not be above the next.
const RISING: [Level; 4] = [Level::LowLow, Level::Low, Level::High, Level::HighHigh];

/// `alarm = { … }`
pub fn alarm(section: &Section<'_, '_>, access: Access, data_type: Option<DataType>) -> Option<Box<AlarmPlan>> {
    let node = section.get("alarm")?;
    let trail = Trail::Key(section.trail, "alarm");
    let inner = Section::open(section.cx, node, &trail, schema::ALARM)?;
    let wrong = |message: &str| section.report(section.wrong("alarm", node.at, message));
    if !access.reads() {
        wrong("a tag that is never read raises no alarm");
    }
    let limits = limits_of(&inner, data_type);
    let state = inner.flag("state").map(|spot| spot.value);
    match data_type {
        Some(text) if text.kind() == Kind::Text => {
            wrong(&format!("a {text} has no alarm: that is for numbers and switches"));
        }
        Some(DataType::Bool) if state.is_none() => inner.missing("state", "the state that is an alarm, true or false"),
        Some(kind) if kind.is_number() => {
            if let Some(state) = inner.get("state") {
                inner.report(inner.wrong("state", state.at, format!("a {kind} has no state: that is for bool")));
            }
            let asked = RISING.iter().any(|level| inner.get(level.as_str()).is_some());
            if !asked {
                wrong("an alarm needs at least one of high_high, high, low, low_low");
            }
        }
        _ => {}
    }
    Some(Box::new(AlarmPlan {
        hysteresis: hysteresis(&inner, data_type, &limits),
        limits: limits.into_iter().map(|(level, spot)| (level, spot.value)).collect(),
        state,
        delay: inner.duration("delay", DELAY_RANGE).unwrap_or_default(),
        off_delay: inner.duration("off_delay", DELAY_RANGE).unwrap_or_default(),
        class: inner.choice_of("class", &Class::ALL, Class::as_str).map_or(Class::Alarm, |spot| spot.value),
    }))
}

/// The limits from the lowest to the highest.
fn limits_of(inner: &Section<'_, '_>, data_type: Option<DataType>) -> Vec<(Level, Spot<f64>)> {
    let mut limits: Vec<(Level, Spot<f64>)> = Vec::new();
    for level in RISING {
        let key = level.as_str();
        only_numbers(inner, key, data_type);
        let Some(spot) = inner.number(key) else { continue };
        if let Some((below, first)) = limits.last().filter(|(_, first)| first.value >= spot.value) {
            let message = format!("{key} must be above {below}");
            inner.report(inner.wrong(key, spot.at, message).also(first.at));
        }
        limits.push((level, spot));
    }
    limits
}

fn hysteresis(inner: &Section<'_, '_>, data_type: Option<DataType>, limits: &[(Level, Spot<f64>)]) -> f64 {
    only_numbers(inner, "hysteresis", data_type);
    let Some(hysteresis) = inner.number("hysteresis") else { return 0.0 };
    let of = |level| limits.iter().find(|(found, _)| *found == level).map(|(_, spot)| spot.value);
    let room = of(Level::High).zip(of(Level::Low)).map(|(high, low)| high - low);
    if hysteresis.value < 0.0 {
        inner.report(inner.wrong("hysteresis", hysteresis.at, "out of range").allowed("0 or more"));
    } else if let Some(room) = room.filter(|room| hysteresis.value >= *room) {
        let message = "the value could never come back far enough between low and high";
        inner.report(inner.wrong("hysteresis", hysteresis.at, message).allowed(format!("less than {room}")));
    }
    hysteresis.value
}

/// `deadband = 0.05`, or `"1%"` of the span `min..max`: in engineering units.
pub fn deadband(section: &Section<'_, '_>, data_type: Option<DataType>, limits: Limits) -> Option<f64> {
    let node = section.get("deadband")?;
    if let Some(text) = data_type.filter(|data_type| data_type.kind() == Kind::Text) {
        section.report(section.wrong("deadband", node.at, format!("a {text} has no deadband: that is for numbers")));
    }
    let percent = match &node.value {
        Value::Text(text) => text.trim_end().strip_suffix('%').map(|number| number.trim().parse::<f64>()),
        _ => None,
    };
    match percent {
        Some(percent) => part_of_span(section, node, percent.ok(), limits),
        None => {
            let deadband = section.number("deadband")?;
            if deadband.value < 0.0 {
                section.report(section.wrong("deadband", deadband.at, "out of range").allowed("0 or more"));
            }
            Some(deadband.value)
        }
    }
}

fn part_of_span(section: &Section<'_, '_>, node: &Node, percent: Option<f64>, limits: Limits) -> Option<f64> {
    let Some(percent) = percent.filter(|percent| (0.0..=100.0).contains(percent)) else {
        section.report(section.wrong("deadband", node.at, "not a percentage").allowed("0% ..= 100%"));
        return None;
    };
    let (Some(min), Some(max)) = (limits.min, limits.max) else {
        let message = "a deadband in percent is of the span min..max: this tag does not have both";
        section
            .report(section.wrong("deadband", node.at, message).allowed("min and max, or a number in the tag's unit"));
        return None;
    };
    Some((max - min) * percent / 100.0)
}

/// `compression = { swing, max_gap }`; a heartbeat makes the gap shorter.
pub fn compression(
    section: &Section<'_, '_>,
    data_type: Option<DataType>,
    heartbeat: Option<Duration>,
) -> Option<Compression> {
    let node = section.get("compression")?;
    let wrong = |message: String| section.report(section.wrong("compression", node.at, message));
    if let Some(kind) = data_type.filter(|kind| !kind.is_number()) {
        wrong(format!("a {kind} has no compression: that is for numbers"));
    }
    if let Some(deadband) = section.get("deadband") {
        let message = "either compression or deadband: together their errors would add up";
        section.report(section.wrong("compression", node.at, message).also(deadband.at));
    }
    let trail = Trail::Key(section.trail, "compression");
    let inner = Section::open(section.cx, node, &trail, schema::COMPRESSION)?;
    if inner.get("swing").is_none() {
        inner.missing("swing", "how far a straight line may be from the values it stands for, in the unit of the tag");
    }
    let swing = inner.number("swing")?;
    if swing.value <= 0.0 {
        inner.report(inner.wrong("swing", swing.at, "out of range").allowed("more than 0"));
    }
    let max_gap = inner.duration("max_gap", GAP_RANGE).unwrap_or(MAX_GAP);
    Some(Compression { swing: swing.value, max_gap: heartbeat.map_or(max_gap, |heartbeat| heartbeat.min(max_gap)) })
}

/// `stale_after`, `unchanged_for`
pub fn freshness(section: &Section<'_, '_>, poll: Duration) -> Freshness {
    let stale_after = section.duration("stale_after", STALE_RANGE);
    if let (Some(node), true) = (section.get("stale_after"), stale_after.is_some_and(|longest| longest <= poll)) {
        let message = "the tag would be stale between two polls";
        section.report(
            section.wrong("stale_after", node.at, message).allowed(format!("more than {}", write_duration(poll))),
        );
    }
    Freshness { stale_after, unchanged_for: section.duration("unchanged_for", GAP_RANGE) }
}
