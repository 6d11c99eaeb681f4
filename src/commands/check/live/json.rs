//! The live check for scripts: the same as the text, as one object.

use serde_json::{Value as Json, json};

use super::seen::Got;
use super::verdict::{DeviceReport, TagReport};
use super::{BusReport, Survey, advice};
use crate::commands::field::ask::value_json;
use crate::config::plan::Plan;
use crate::model::quality::Cause;
use crate::model::tag::DataType;
use crate::model::time::millis;

/// All of it.
pub fn of(plan: &Plan, survey: &Survey) -> Json {
    json!({
        "ok": survey.is_fine(),
        "buses": survey.buses.iter().map(|report| bus(plan, report)).collect::<Vec<_>>(),
        "tags": survey.tags().count() + survey.unread,
        "good": survey.tags().filter(|tag| tag.verdict.is_fine()).count(),
        "not_read": { "derived": survey.derived, "write_only": survey.write_only, "bus_not_open": survey.unread },
    })
}

fn bus(plan: &Plan, report: &BusReport) -> Json {
    let of = &plan[report.survey.bus];
    let answering = report.answering(plan);
    let devices = report.devices.iter().map(|one| {
        let silent = !one.survey.answered() && !one.tags.is_empty();
        device(plan, one, silent.then(|| advice::silence(plan, &report.survey, one, &answering)).as_deref())
    });
    json!({
        "name": of.name, "link": of.link.to_string(),
        "open": report.survey.not_open.is_none(),
        "error": report.survey.not_open.as_ref().map(|error| advice::not_open(plan, &report.survey, error)),
        "devices": devices.collect::<Vec<_>>(),
    })
}

fn device(plan: &Plan, report: &DeviceReport, silence: Option<&str>) -> Json {
    let of = &plan[report.device];
    let state = if silence.is_some() { "silent" } else { "answering" };
    let finding = report.finding.as_ref().map(|finding| {
        let shift = match finding.theory.view {
            super::seen::View::Lower => -1,
            super::seen::View::Higher => 1,
            _ => 0,
        };
        json!({
            "text": advice::finding(report, finding),
            "confidence": finding.confidence.as_str(),
            "address_shift": shift,
            "tags": finding.mended.iter().map(|tag| plan.tags[*tag].name.as_str()).collect::<Vec<_>>(),
        })
    });
    json!({
        "name": of.name, "unit_id": of.unit_id, "state": state, "silence": silence,
        "slowest_ms": report.survey.slowest.map(millis),
        "finding": finding,
        "notes": advice::notes(report),
        "tags": report.tags.iter().map(|one| tag(plan, report, one)).collect::<Vec<_>>(),
    })
}

fn tag(plan: &Plan, device: &DeviceReport, report: &TagReport) -> Json {
    let of = &plan.tags[report.tag];
    let proposal = report.proposal.as_ref().map(|proposal| {
        let named = proposal.key.as_ref().filter(|(key, _)| *key == "type").map(|(_, value)| value);
        let read_as = named.and_then(|name| DataType::from_name(name)).unwrap_or(of.data_type);
        json!({
            "key": proposal.key.as_ref().map(|(key, _)| key),
            "value": proposal.key.as_ref().map(|(_, value)| value),
            "reads": value_json(proposal.reads.as_ref(), read_as),
            "confidence": proposal.confidence.as_str(),
        })
    });
    json!({
        "name": of.name, "topic": &*of.topic, "address": of.address_text(),
        "found_at": device.survey.plan.tags[report.tag].register().filter(|_| of.model().is_some()).map(|at| at.to_string()),
        "type": of.data_type.to_string(), "order": of.order.as_str(), "unit": of.unit,
        "verdict": report.verdict.as_str(),
        "value": value_json(report.seen.value.as_ref(), of.data_type),
        "quality": report.seen.quality.as_str(), "cause": report.seen.quality.cause().map(Cause::as_str),
        "words": match &report.got {
            Got::Words(words) => json!(words),
            Got::Bit(on) => json!(on),
            Got::Said(..) | Got::Miss(_) => Json::Null,
        },
        "advice": advice::tag(device, report),
        "proposal": proposal,
    })
}
