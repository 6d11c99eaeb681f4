//! The uplinks of `ironbridge check`: where each goes, by which ways, what it may cost and what it will.
//!
//! Bytes and money are those of `ironbridge cost` for the format that is configured; there every format stands beside
//! the others. Pure.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::figures::{budget_text, bytes_text, rate_json, span};
use super::files;
use super::page::Page;
use crate::commands::cost::bill::{Bill, Course, Row, bill};
use crate::config::plan::{
    Bind, Budget, KEEP_ALIVE_MIN_V5, MqttVersion, Overrun, PathPlan, Plan, Preset, Schedule, Transport, UplinkPlan,
};
use crate::config::preset;
use crate::config::units::{write_duration, write_size};
use crate::model::number::Class;

/// A listener of ours asks a client that says nothing after 10 min, and gives its place away after 30 (`road::quic`). Through
/// a NAT that has forgotten the client its question does not come, so one lost packet of the client must not be too many.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(20 * 60);

/// One uplink for people.
pub fn write(out: &mut Page, plan: &Plan, uplink: &UplinkPlan) -> fmt::Result {
    let bill = bill(plan, uplink, None);
    out.about(format!("uplink {}", uplink.name));
    writeln!(out, "\nuplink {}: as {}, {}", uplink.name, uplink.client_id, classes(&uplink.classes))?;
    let servers: Vec<String> = uplink.servers.iter().map(ToString::to_string).collect();
    writeln!(out, "  servers {}", servers.join(", then "))?;
    if uplink.is_local() {
        return writeln!(out, "  the broker of this gateway: no network, no bill");
    }
    warn_of_keep_alive(out, uplink)?;
    if let Some(trouble) = files::of_uplink(uplink) {
        out.warn(format_args!("disabled until this is put right: {trouble}"))?;
    }
    if let Some(proxy) = &uplink.proxy {
        writeln!(out, "  by the proxy {}:{}", proxy.host, proxy.port)?;
    }
    if uplink.preset != Preset::Plain {
        writeln!(out, "  within what {} takes", preset::limits(uplink.preset).cloud)?;
    }
    write_spending(out, uplink)?;
    write_course(out, &bill, &bill.whole)?;
    for (place, (path, course)) in (1..).zip(uplink.paths.iter().zip(&bill.paths)) {
        out.about(format!("uplink {}, path {}", uplink.name, path.name));
        writeln!(out, "  path {place} {}: {}", path.name, path_words(path))?;
        write_course(out, &bill, course)?;
    }
    Ok(())
}

/// Where it is not what the other side would see of it, or too long for the way there. Of bridges, too.
pub fn warn_of_keep_alive(out: &mut Page, uplink: &UplinkPlan) -> fmt::Result {
    let keep_alive = write_duration(uplink.keep_alive);
    let speaks_five =
        uplink.mqtt_version != MqttVersion::V311 && preset::limits(uplink.preset).version != Some(MqttVersion::V311);
    if speaks_five && uplink.keep_alive < KEEP_ALIVE_MIN_V5 {
        let least = write_duration(KEEP_ALIVE_MIN_V5);
        out.warn(format_args!(
            "keep_alive {keep_alive} is taken for {least} over MQTT 5; mqtt_version = \"3.1.1\" takes it as it is"
        ))?;
    }
    if uplink.servers.iter().any(|server| server.transport == Transport::Quic) && uplink.keep_alive > QUIC_KEEP_ALIVE {
        out.warn(format_args!(
            "keep_alive {keep_alive} is long for quic://: an Ironbridge listener ends a connection after 30 min without a \
             packet, which behind a NAT is a connect each time; at most {} is safe",
            write_duration(QUIC_KEEP_ALIVE)
        ))?;
    }
    Ok(())
}

/// `budget 200MiB/month, 20 % of it kept for alarms and live values, then stop; at most 32KiB/s`
fn write_spending(out: &mut Page, uplink: &UplinkPlan) -> fmt::Result {
    let mut words: Vec<String> =
        uplink.budgets.iter().map(|budget| format!("budget {}", budget_text(*budget))).collect();
    let limited = !uplink.budgets.is_empty() || uplink.paths.iter().any(|path| !path.budgets.is_empty());
    if limited {
        words.push(format!("{:.0} % kept for alarms and live values", uplink.reserve * 100.0));
        words.push(format!("when it is used up: {}", overrun(uplink.overrun)));
    }
    words.extend(uplink.max_rate.map(|rate| format!("at most {}/s", write_size(rate))));
    if words.is_empty() { Ok(()) } else { writeln!(out, "  {}", words.join(", ")) }
}

/// The bytes, and with a price the money, of the format as configured.
fn write_course(out: &mut Page, bill: &Bill, course: &Course) -> fmt::Result {
    let Some(row) = configured(bill, course) else { return Ok(()) };
    let indent = if course.path.is_some() { "    if it carries all of them" } else { " " };
    write!(
        out,
        "{indent} {}: wire bytes per day {}, per month {}",
        bill.way.as_str(),
        span(row.per_day, bytes_text),
        span(row.per_month(), bytes_text)
    )?;
    if let Some(price) = course.price_per_mib {
        let money = |amount: f64| format!("{amount:.2}");
        write!(
            out,
            "; money {} a day, {} a month",
            span(row.money_per_day(price), money),
            span(row.money(price), money)
        )?;
    }
    writeln!(out)?;
    for used in row.budgets.iter().filter(|used| used.part.most > 1.0) {
        let percent = span(used.part, |part| format!("{:.0} %", part * 100.0));
        out.warn(format_args!("{percent} of the budget of {}; see ironbridge cost", budget_text(used.budget)))?;
    }
    Ok(())
}

fn configured<'a>(bill: &Bill, course: &'a Course) -> Option<&'a Row> {
    course.rows.iter().find(|row| row.way == bill.way)
}

fn path_words(path: &PathPlan) -> String {
    let bind = match &path.bind {
        Bind::Interface(name) => format!("interface {name}"),
        Bind::Source(address) => format!("source {address}"),
        Bind::System => "as the system routes".to_owned(),
    };
    let mut words = vec![bind, classes(&path.classes)];
    words.extend(path.budgets.iter().map(|budget| format!("budget {}", budget_text(*budget))));
    words.extend(path.max_rate.map(|rate| format!("at most {}/s", write_size(rate))));
    words.extend(path.schedule.map(schedule_text));
    words.extend(path.price_per_mib.map(|price| format!("{price}/MiB")));
    words.join(", ")
}

/// For scripts; bytes are wire bytes.
pub fn json(plan: &Plan, uplink: &UplinkPlan) -> Value {
    let bill = bill(plan, uplink, None);
    let costs = |course: &Course| {
        configured(&bill, course).map(|row| {
            json!({
                "wire_bytes_per_day": rate_json(row.per_day), "wire_bytes_per_month": rate_json(row.per_month()),
                "money_per_day": course.price_per_mib.map(|price| rate_json(row.money_per_day(price))),
                "money_per_month": course.price_per_mib.map(|price| rate_json(row.money(price))),
            })
        })
    };
    let budgets = |budgets: &[Budget]| budgets.iter().map(|budget| budget_text(*budget)).collect::<Vec<_>>();
    let path = |(path, course): (&PathPlan, &Course)| {
        json!({
            "name": path.name, "bind": match &path.bind {
                Bind::Interface(name) => json!({ "interface": name }),
                Bind::Source(address) => json!({ "source": address.to_string() }),
                Bind::System => Value::Null,
            },
            "classes": path.classes.iter().map(|class| class.as_str()).collect::<Vec<_>>(),
            "budgets": budgets(&path.budgets), "max_rate": path.max_rate,
            "schedule": path.schedule.map(schedule_text), "price_per_mib": path.price_per_mib, "costs": costs(course),
        })
    };
    let whole = configured(&bill, &bill.whole).filter(|_| !uplink.is_local());
    json!({
        "name": uplink.name, "trouble": files::of_uplink(uplink), "servers": uplink.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "format": bill.way.as_str(), "wire_bytes_per_day": whole.map(|row| rate_json(row.per_day)),
        "wire_bytes_per_month": whole.map(|row| rate_json(row.per_month())),
        "budgets": budgets(&uplink.budgets), "reserve": uplink.reserve, "overrun": overrun(uplink.overrun),
        "max_rate": uplink.max_rate,
        "paths": uplink.paths.iter().zip(&bill.paths).map(path).collect::<Vec<_>>(),
    })
}

fn classes(classes: &[Class]) -> String {
    let words: Vec<&str> = classes.iter().map(|class| class.as_str()).collect();
    words.join(" ")
}

const fn overrun(overrun: Overrun) -> &'static str {
    match overrun {
        Overrun::Stop => "stop",
        Overrun::Alarms => "alarms",
    }
}

/// As it stands in the configuration.
fn schedule_text(schedule: Schedule) -> String {
    format!("*/{} for {}", write_duration(schedule.every), write_duration(schedule.lasts))
}
