//! What a scan found, for people and for scripts: devices, what else was heard, what was not asked, lines to paste.

use serde_json::{Value as Json, json};

use super::examine::Told;
use super::found::{Found, Survey};
use super::prober::Sign;
use super::{Place, advice, guess, snippet};
use crate::commands::{self, Failed};
use crate::field::modbus::identity::Identity;
use crate::model::time::millis;

/// Prints the survey on standard output.
pub fn print(survey: &Survey, place: &Place, as_json: bool) -> Result<(), Failed> {
    let text = if as_json { format!("{}\n", object(survey, place)) } else { text(survey, place) };
    commands::print(text)
}

fn text(survey: &Survey, place: &Place) -> String {
    let mut parts = vec![match survey.devices.len() {
        0 => format!("nothing found on {}\n", place.name),
        1 => format!("1 device on {}\n", place.name),
        count => format!("{count} devices on {}\n", place.name),
    }];
    parts.extend(survey.cut_short.iter().map(|why| format!("not finished: {why}\n")));
    if !survey.devices.is_empty() {
        let table = table(&survey.devices);
        let legend = if table.contains('(') { LEGEND } else { "" };
        parts.push(format!("\n{table}{legend}"));
    }
    let left_out = survey.left_out.iter().map(|what| format!("not asked: {what} (--all leaves nothing out)"));
    let lines: Vec<String> = advice::notes(survey, place).into_iter().chain(left_out).collect();
    if !lines.is_empty() {
        parts.push(format!("\n- {}\n", lines.join("\n- ")));
    }
    if !survey.devices.is_empty() {
        parts.push(format!("\nfor the configuration:\n\n{}", snippet::snippet(survey, place)));
    }
    parts.concat()
}

const LEGEND: &str = "      (in parentheses: it knows the table, but has nothing at the address that was asked for)\n";

/// A head and a row for each device, columns as wide as they must be.
fn table(devices: &[Found]) -> String {
    let on_a_line = devices.iter().any(|device| !device.settings.is_empty());
    let head = ["unit", "line", "device", "tables", "says so by"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(devices.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let line = |row: &[String; 5]| {
        let setting = if on_a_line { format!("{:<w$}  ", row[1], w = widths[1]) } else { String::new() };
        let [unit, _, device, tables, source] = row;
        let text = format!("{unit:>4}  {setting}{device:<d$}  {tables:<t$}  {source}", d = widths[2], t = widths[3]);
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(found: &Found) -> [String; 5] {
    let (name, source) = match &found.portrait.identity {
        Some((source, identity)) => (name(identity), source.as_str()),
        None => ("does not say".to_owned(), ""),
    };
    [found.unit.to_string(), found.settings.join(", "), name, tables(found), source.to_owned()]
}

fn name(identity: &Identity) -> String {
    let words = [identity.vendor(), identity.product(), identity.revision()];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Those that it has. In parentheses: it knows the function, but has nothing at address 0, or says so with another
/// exception than "illegal address" (2). Without "illegal function" (1).
fn tables(found: &Found) -> String {
    if found.sign == Sign::OtherId {
        return "answers under another unit id".into();
    }
    let (mut has, mut knows) = (Vec::new(), Vec::new());
    for (table, told) in &found.portrait.tables {
        match told {
            Told::Data => has.push(table.as_str()),
            Told::Exception(2) => knows.push(table.as_str().to_owned()),
            Told::Exception(1) | Told::Nothing => {}
            Told::Exception(code) => knows.push(format!("{}: exception {code}", table.as_str())),
            Told::Odd => knows.push(format!("{}: odd answers", table.as_str())),
        }
    }
    match (has.join(" "), knows.join(" ")) {
        (has, knows) if has.is_empty() && knows.is_empty() => "none".into(),
        (has, knows) if knows.is_empty() => has,
        (has, knows) => format!("{has} ({knows})").trim_start().to_owned(),
    }
}

fn object(survey: &Survey, place: &Place) -> Json {
    json!({
        "place": place.name,
        "type": place.kind,
        "complete": survey.cut_short.is_none(),
        "cut_short": survey.cut_short,
        "asked": survey.asked(),
        "devices": survey.devices.iter().map(device).collect::<Vec<_>>(),
        "alike": survey.alike.as_ref().map(|alike| {
            json!({ "unit_id": alike.unit, "unit_ids": alike.units, "exception": alike.exception })
        }),
        "heard": survey.tallies.iter().map(|tally| {
            json!({
                "serial": (!tally.setting.is_empty()).then_some(&tally.setting),
                "asked": tally.asked,
                "found": tally.found,
                "noise": tally.noisy,
                "absent": tally.absent,
                "hung_up": tally.hung_up,
                "late": tally.late,
                "unasked": { "frames": tally.unasked.stale, "bytes": tally.unasked.garbage },
            })
        }).collect::<Vec<_>>(),
        "notes": advice::notes(survey, place),
        "left_out": survey.left_out,
        "config": (!survey.devices.is_empty()).then(|| snippet::snippet(survey, place)),
    })
}

fn device(found: &Found) -> Json {
    let (source, identity) = found
        .portrait
        .identity
        .as_ref()
        .map_or((None, None), |(source, identity)| (Some(source.as_str()), Some(identity)));
    let objects = identity.map(|identity| {
        let named = identity.objects.iter().map(|(object, text)| {
            (Identity::name(*object).map_or_else(|| format!("object_{object}"), str::to_owned), json!(text))
        });
        named.collect::<serde_json::Map<_, _>>()
    });
    let tables = found.portrait.tables.iter().map(|(table, told)| {
        let told = match told {
            Told::Data => "data".to_owned(),
            Told::Exception(code) => format!("exception {code}"),
            Told::Odd => "odd".to_owned(),
            Told::Nothing => "silence".to_owned(),
        };
        (table.as_str().to_owned(), json!(told))
    });
    json!({
        "unit_id": found.unit,
        "serial": found.settings,
        "vendor": identity.and_then(Identity::vendor),
        "product": identity.and_then(Identity::product),
        "revision": identity.and_then(Identity::revision),
        "identity": objects,
        "identity_from": source,
        "tables": tables.collect::<serde_json::Map<_, _>>(),
        "other_unit_id": found.sign == Sign::OtherId,
        "profiles": guess::profiles(&found.portrait),
        "elapsed_ms": millis(found.took),
    })
}
