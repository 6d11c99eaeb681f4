//! The live check for people: bus by bus, device by device, a line per tag.

use std::fmt::{self, Write as _};

use super::Survey;
use super::advice;
use super::seen::Got;
use super::verdict::{DeviceReport, TagReport, Verdict};
use crate::commands::check::figures::counted;
use crate::commands::field::ask::{value_text, words};
use crate::config::plan::Plan;
use crate::field::modbus::session::Reading;

/// Longer values are cut in the table.
const VALUE_MAX: usize = 24;

/// All of it.
pub fn write(out: &mut String, plan: &Plan, survey: &Survey) -> fmt::Result {
    for bus in &survey.buses {
        let of = &plan[bus.survey.bus];
        writeln!(out, "\nbus {}: {}", of.name, of.link)?;
        if let Some(error) = &bus.survey.not_open {
            writeln!(out, "  ! {}", advice::not_open(plan, &bus.survey, error))?;
            continue;
        }
        let answering = bus.answering(plan);
        for device in &bus.devices {
            write_device(out, plan, device)?;
            if !device.survey.answered() && !device.tags.is_empty() {
                writeln!(out, "    ! {}", advice::silence(plan, &bus.survey, device, &answering))?;
            }
        }
    }
    write_sum(out, survey)
}

fn write_device(out: &mut String, plan: &Plan, device: &DeviceReport) -> fmt::Result {
    let of = &plan[device.device];
    let fine = device.tags.iter().filter(|tag| tag.verdict.is_fine()).count();
    let how = match device.tags.len() {
        0 => "nothing to read".to_owned(),
        _ if !device.survey.answered() => format!("no answer, {}", counted(device.tags.len(), "tag")),
        all if fine == all => format!("all {} good", counted(all, "tag")),
        all => format!("{fine} of {} good", counted(all, "tag")),
    };
    let speed = device.survey.slowest.map(|slowest| format!(", answers within {} ms", slowest.as_millis().max(1)));
    let unit = if of.talk.is_some() { String::new() } else { format!(" (unit {})", of.unit_id) };
    writeln!(out, "  device {}{unit}: {how}{}", of.name, speed.unwrap_or_default())?;
    if let Some(finding) = &device.finding {
        writeln!(out, "    ! {}", advice::finding(device, finding))?;
    }
    for note in advice::notes(device) {
        writeln!(out, "    ! {note}")?;
    }
    if device.survey.answered() {
        write_tags(out, plan, device)?;
    }
    Ok(())
}

fn write_tags(out: &mut String, plan: &Plan, device: &DeviceReport) -> fmt::Result {
    let name = |tag: &TagReport| plan.tags[tag.tag].name.as_str();
    let names = device.tags.iter().map(|tag| name(tag).chars().count()).max().unwrap_or(0);
    let values: Vec<String> = device.tags.iter().map(|tag| value(plan, tag)).collect();
    let width = values.iter().map(|text| text.chars().count()).max().unwrap_or(0).min(VALUE_MAX);
    for (tag, value) in device.tags.iter().zip(&values) {
        let mark = if tag.verdict.is_fine() { ' ' } else { '!' };
        let place = place(plan, device, tag);
        let raw = if tag.verdict == Verdict::Good { String::new() } else { raw(&tag.got) };
        let row =
            format!("    {mark} {:names$}  {value:width$}  {:12}  {place}  {raw}", name(tag), tag.verdict.as_str());
        writeln!(out, "{}", row.trim_end())?;
        if let Some(advice) = advice::tag(device, tag) {
            writeln!(out, "      {:names$}  {advice}", "")?;
        }
    }
    Ok(())
}

/// As configured; of a tag in a SunSpec model where that is here.
fn place(plan: &Plan, device: &DeviceReport, tag: &TagReport) -> String {
    let configured = plan.tags[tag.tag].address_text().unwrap_or_default();
    let found = device.survey.plan.tags[tag.tag].register().filter(|_| plan.tags[tag.tag].model().is_some());
    found.map_or_else(|| configured.clone(), |found| format!("{configured} = {found}"))
}

fn value(plan: &Plan, tag: &TagReport) -> String {
    value_text(&plan.tags[tag.tag], tag.seen.value.as_ref())
}

/// The registers, as people compare them with a manual.
pub fn raw(got: &Got) -> String {
    match got {
        Got::Words(registers) => words(&Reading::Registers(registers.clone())),
        Got::Bit(on) => u8::from(*on).to_string(),
        Got::Said(..) | Got::Miss(_) => String::new(),
    }
}

fn write_sum(out: &mut String, survey: &Survey) -> fmt::Result {
    let tags = || survey.tags();
    let all = tags().count();
    let count = |verdict: Verdict| tags().filter(|tag| tag.verdict == verdict).count();
    let mut parts = vec![format!("{} good", count(Verdict::Good))];
    let kinds = [
        Verdict::NoValue,
        Verdict::Suspicious,
        Verdict::Range,
        Verdict::Uncertain,
        Verdict::NotANumber,
        Verdict::Exception,
        Verdict::Timeout,
        Verdict::Garbled,
        Verdict::NotRead,
    ];
    for verdict in kinds {
        if count(verdict) > 0 {
            parts.push(format!("{} {}", count(verdict), verdict.as_str()));
        }
    }
    if survey.unread > 0 {
        parts.push(format!("{} on buses that did not open", survey.unread));
    }
    write!(out, "\n{} read once: {}", counted(all + survey.unread, "tag"), parts.join(", "))?;
    if survey.derived > 0 {
        write!(out, "; {} worked out from others, not read", survey.derived)?;
    }
    if survey.write_only > 0 {
        write!(out, "; {} with access = \"write\", not read", survey.write_only)?;
    }
    writeln!(out)
}
