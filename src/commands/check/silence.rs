//! What of a configuration is looked at more seldom than it says: warnings of `ironbridge check`.
//!
//! A plan becomes warnings: of derived tags that nobody works out while their inputs are quiet, and of tags that are asked
//! with more patience than they are given to be silent.

use std::fmt;
use std::time::Duration;

use super::figures::device_name;
use super::page::Page;
use crate::config::plan::{LineMode, Plan, Source, TagPlan};
use crate::config::units::write_duration;
use crate::model::tag::BusIx;

/// Derived tags whose `heartbeat`, `unchanged_for` or `max_gap` is over before any input need have news.
pub fn of_derived(out: &mut Page, plan: &Plan) -> fmt::Result {
    let news = news(plan);
    for (tag, news) in plan.tags.iter().zip(news) {
        let Source::Derived(_) = tag.source else { continue };
        let keys = [
            ("heartbeat", tag.deadband.and(tag.heartbeat)),
            ("unchanged_for", tag.freshness.unchanged_for),
            ("max_gap", tag.compression.map(|compression| compression.max_gap)),
        ];
        let is_late = |wanted: Duration| news.is_none_or(|news| news > wanted);
        let late: Vec<&str> = keys.into_iter().filter(|(_, it)| it.is_some_and(is_late)).map(|(key, _)| key).collect();
        if !late.is_empty() {
            out.about(format!("tag {}/{}", device_name(plan, tag.device), tag.name));
            out.warn(format_args!(
                "{}/{}: {} looked at only when an input has news, and that may take longer. Give it a `poll`",
                device_name(plan, tag.device),
                tag.name,
                late.join(" and ") + if late.len() > 1 { " are" } else { " is" },
            ))?;
        }
    }
    Ok(())
}

/// How long each tag is without news at most while all is well; `None`: for ever.
fn news(plan: &Plan) -> Vec<Option<Duration>> {
    let mut news: Vec<Option<Duration>> = vec![None; plan.tags.len()];
    loop {
        let mut is_settled = true;
        for (at, tag) in plan.tags.iter().enumerate() {
            let looked = match &tag.source {
                Source::Derived(derivation) => {
                    let inputs = derivation.inputs.iter().filter_map(|ix| *news.get(ix.0 as usize)?);
                    derivation.every.or_else(|| inputs.min())
                }
                _ => Some(tag.poll).filter(|_| !is_listened_to(plan, tag)),
            };
            // With a deadband the heartbeat is news, when it is looked at.
            let heartbeat = tag.deadband.and(tag.heartbeat);
            let found = looked.map(|looked| heartbeat.map_or(looked, |heartbeat| heartbeat.max(looked)));
            is_settled &= news[at] == found;
            news[at] = found;
        }
        if is_settled {
            return news;
        }
    }
}

fn is_listened_to(plan: &Plan, tag: &TagPlan) -> bool {
    let bus = plan.device(tag.device).and_then(|device| device.bus);
    bus.is_some_and(|bus| plan[bus].line.as_ref().is_some_and(|line| line.mode == LineMode::Listen))
}

/// While a request is outstanding nobody looks who is silent.
pub fn of_bus(out: &mut Page, plan: &Plan, ix: BusIx) -> fmt::Result {
    let patience = plan[ix].response_timeout;
    let tags = plan.devices_on(ix).flat_map(|(_, device)| plan.tags_of(device)).map(|(_, tag)| tag);
    let hasty = tags.filter(|tag| tag.is_of_device() && !is_listened_to(plan, tag));
    let shortest = hasty.filter_map(|tag| Some((tag.freshness.stale_after?, tag))).min_by_key(|(longest, _)| *longest);
    let Some((longest, tag)) = shortest.filter(|(longest, _)| *longest < patience) else { return Ok(()) };
    out.warn(format_args!(
        "stale_after {} of {}/{} is below the response timeout: it is not looked at before an answer is there or given up",
        write_duration(longest),
        device_name(plan, tag.device),
        tag.name,
    ))
}
