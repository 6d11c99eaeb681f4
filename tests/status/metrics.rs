//! `/metrics` of a real gateway: by the rules of the format, complete, and small however large the plant is.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use crate::gateway::{Home, Plc, config, tag, until, uplink};
use crate::web::{Answer, get};

/// A family as it was read.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: bool,
    /// Name and labels as written, value.
    rows: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads a scrape by the rules of OpenMetrics 1.0; panics where one is broken.
fn read(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it ends with # EOF:\n{text}"));
    let (mut families, mut current) = (BTreeMap::<String, Family>::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        assert!(!line.is_empty() && line.trim() == line, "{line:?}");
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (word, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
            assert!(is_name(name), "{line}");
            if word == "HELP" {
                assert!(!families.contains_key(name), "a family comes once: {name}");
                name.clone_into(&mut current);
            }
            assert_eq!(name, current, "{line}");
            let family = families.entry(current.clone()).or_default();
            assert!(family.rows.is_empty(), "what is said of a family comes before its rows: {line}");
            match word {
                "HELP" => family.help = !rest.is_empty() && rest.ends_with('.'),
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{rest}")), "{line}");
                    family.unit = Some(rest.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "a row comes once: {line}");
        let (name, labels, value) = row(line);
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family: {line}"));
        let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} in {current}"));
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            kind => panic!("{kind}: {line}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        assert!(family.kind == "gauge" || value >= 0.0, "{line}");
        family.rows.push((name, labels, value));
    }
    families.values().for_each(check);
    families
}

/// What holds of a whole family.
fn check(family: &Family) {
    assert!(family.help && !family.kind.is_empty() && !family.rows.is_empty(), "{family:?}");
    if family.kind != "histogram" {
        return;
    }
    let (mut cells, mut last) = (BTreeMap::<String, Vec<f64>>::new(), BTreeMap::new());
    for (name, labels, value) in &family.rows {
        let mut others = labels.clone();
        let le = others.remove("le");
        let whose = format!("{others:?}");
        if name.ends_with("_bucket") {
            cells.entry(whose.clone()).or_default().push(*value);
            last.insert(whose, le.expect("an upper end"));
        }
    }
    for (_, labels, value) in family.rows.iter().filter(|(name, ..)| name.ends_with("_count")) {
        let whose = format!("{labels:?}");
        assert!(cells[&whose].is_sorted() && cells[&whose].last() == Some(value), "cells add up: {family:?}");
        assert_eq!(last[&whose], "+Inf");
    }
}

/// `name{label="value",…} number`
fn row(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.split_at(1) {
                (",", after) => rest = after,
                ("}", after) => {
                    rest = after;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
    (name.to_owned(), labels, value)
}

fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                c => panic!("\\{c}"),
            }),
            c => value.push(c),
        }
    }
    panic!("not closed: {text}");
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Everything there is to configure that counts: an uplink with a budget, a path and nobody at its end, a bridge.
fn whole(plc: std::net::SocketAddr) -> String {
    let mut text = config(plc).replace("name = \"plc\"", "name = 'p\"l\\c'");
    text += &tag("level", "holding:0", "uint16", "alarm = { high = 80.0 }");
    text += &tag("gone", "holding:5000", "uint16", "");
    text += &uplink("cloud", ([127, 0, 0, 1], 9).into());
    text += "budget = [\"20MiB/day\"]\n[[uplink.path]]\nname = \"wan\"\nsource = \"127.0.0.1\"\nbudget = [\"1GiB/month\"]\n";
    text += "[[bridge]]\nname = \"other\"\nurl = \"mqtt://127.0.0.1:9\"\nclient_id = \"gw-other\"\n\
        [[bridge.topic]]\nfilter = \"b/#\"\ndirection = \"both\"\n";
    text
}

/// Scrapes until it has this row.
async fn scraped(page: std::net::SocketAddr, row: &str) -> Answer {
    let begun = std::time::Instant::now();
    loop {
        let answer = get(page, "/metrics", "").await;
        if answer.body.contains(row) {
            return answer;
        }
        assert!(begun.elapsed() < crate::gateway::PATIENCE, "in vain: {row} in\n{}", answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_scrape_keeps_the_rules_of_the_format_and_has_every_room_and_every_name_of_the_dashboard() {
    let plc = Plc::start().await;
    plc.set(0, &[90]);
    let home = Home::new(&whole(plc.line.address()));
    let daemon = home.run();
    let page = daemon.page().await;
    scraped(page, "ironbridge_device_exceptions_by_code_total").await;
    scraped(page, "ironbridge_alarms_active 1").await;
    let answer = scraped(page, "ironbridge_uplink_budget_used_bytes{").await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let older = get(page, "/metrics", "Accept: text/plain;version=0.0.4\r\n").await;
    assert_eq!(older.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let families = read(&answer.body);
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let (family, _) = families
            .iter()
            .find(|(family, _)| {
                name.starts_with(family.as_str()) && { families[*family].rows.iter().any(|(row, ..)| row == name) }
            })
            .unwrap_or_else(|| panic!("{name} in\n{}", answer.body));
        let mut rows = families[family].rows.iter().filter(|(row, labels, _)| {
            row == name && wanted.iter().all(|(label, value)| labels.get(*label).is_some_and(|found| found == value))
        });
        rows.next().unwrap_or_else(|| panic!("{name} {wanted:?}")).2
    };
    assert!(value("ironbridge_bus_requests_total", &[("bus", "line")]) > 0.0);
    assert!(value("ironbridge_bus_response_seconds_count", &[("bus", "line")]) > 0.0);
    assert!(value("ironbridge_device_exceptions_total", &[("bus", "line"), ("device", "p\"l\\c")]) > 0.0);
    assert!(value("ironbridge_store_records_total", &[("store", "gateway"), ("class", "telemetry")]) > 0.0);
    assert!(value("ironbridge_store_commit_seconds_count", &[("store", "gateway")]) > 0.0);
    assert!((value("ironbridge_uplink_connected", &[("uplink", "cloud")]) - 0.0).abs() < 1e-9);
    assert!((value("ironbridge_uplink_budget_bytes", &[("path", ""), ("span", "day")]) - 20_971_520.0).abs() < 1e-9);
    assert!((value("ironbridge_uplink_connected", &[("uplink", "other")]) - 0.0).abs() < 1e-9);
    assert!((value("ironbridge_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) - 1.0).abs() < 1e-9);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
    let all: BTreeSet<&str> =
        families.values().flat_map(|family| &family.rows).map(|(name, ..)| name.as_str()).collect();
    for name in named_by_the_dashboard() {
        assert!(all.contains(name.as_str()), "the dashboard shows {name}, which there is not");
    }
    assert_eq!(daemon.stop().await, Some(0));
}

/// Queries of the panels of the dashboard with this in their titles, with what stands beside their curves.
fn dashboard(title: &str) -> Vec<(String, String)> {
    let text = include_str!("../../config/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let mut queries = Vec::new();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    for panel in panels.filter(|panel| panel["title"].as_str().is_some_and(|own| own.contains(title))) {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(panel["type"] == "row" || !targets.is_empty(), "{panel}");
        let word = |target: &serde_json::Value, of: &str| target[of].as_str().expect("a text").to_owned();
        queries.extend(targets.iter().map(|target| (word(target, "expr"), word(target, "legendFormat"))));
    }
    queries
}

/// Names of ours in the queries of the dashboard.
fn named_by_the_dashboard() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (query, _) in dashboard("") {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.extend(
            words.filter(|word| word.starts_with("ironbridge_") || word.starts_with("process_")).map(str::to_owned),
        );
    }
    assert!(names.len() > 20, "{names:?}");
    names
}

/// Counters whose names sound like a loss, and why the panel of records lost has them not.
const NOT_A_RECORD_LOST: &[(&str, &str)] = &[
    ("uplink_unsendable_records", "each is counted as refused, too"),
    ("uplink_bridge_lost", "each was lost by the bridge's store, or refused"),
    ("samples_spilled", "each is lost by the store, for the reason `store`"),
    ("uplink_commands_refused", "no record"),
    ("uplink_commands_dropped", "no record"),
    ("uplink_down_refused", "no record"),
    ("uplink_down_dropped", "no record"),
    ("uplink_replies_lost", "no record"),
    ("broker_sessions_expired", "no record"),
    ("broker_connects_refused", "no record"),
    ("broker_publishes_refused", "its client knows"),
    ("broker_dropped_messages", "the broker is a window"),
    ("broker_retained_dropped", "no record"),
    ("mqtt_sn_dropped_datagrams", "no record"),
    ("mqtt_sn_lost_clients", "no record"),
    ("mqtt_sn_refused_messages", "the broker is a window"),
    ("status_refused_host", "no record"),
    ("log_lines_lost", "no record"),
];

#[test]
fn records_lost_on_the_dashboard_are_those_of_every_way_to_lose_one_and_each_once() {
    let sounds_like_a_loss = |name: &&str| {
        let parts: Vec<&str> = name.split('_').collect();
        ["lost", "dropped", "refused", "expired", "unsendable", "spilled"].iter().any(|word| parts.contains(word))
    };
    let written = figures();
    let texts: BTreeSet<&str> = written.split('"').filter(|text| is_name(text) && text.contains('_')).collect();
    let losses: BTreeSet<&str> = texts.into_iter().filter(sounds_like_a_loss).collect();
    let not_of_it: BTreeSet<&str> = NOT_A_RECORD_LOST.iter().map(|(name, _)| *name).collect();
    let shown: BTreeSet<&str> = losses.difference(&not_of_it).copied().collect();
    assert!(not_of_it.is_subset(&losses), "there is no such counter any more: {:?}", not_of_it.difference(&losses));
    let queries: Vec<String> = dashboard("Records lost").into_iter().map(|(query, _)| query).collect();
    for name in &shown {
        let summed = format!("increase(ironbridge_{name}_total{{instance=~\"$instance\"}}[$__range])");
        assert_eq!(queries.iter().filter(|query| query.contains(&summed)).count(), 1, "{name}");
    }
    assert_eq!(queries.len(), shown.len(), "{shown:?}: {queries:?}");
}

#[test]
fn figures_of_several_gateways_stay_apart_on_the_dashboard() {
    for (query, legend) in dashboard("") {
        assert!(legend.contains("{{instance}}"), "{query}: {legend}");
        let sums = query.matches("sum ").count() + query.matches("sum(").count();
        assert_eq!(query.matches("sum by (instance").count(), sums, "{query}");
    }
}

/// The public counters of a struct, by the source.
fn fields(file: &str, of: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap();
    let body = text.split(&format!("pub struct {of} {{\n")).nth(1).unwrap_or_else(|| panic!("{of} in {file}"));
    let lines = body.split("\n}").next().unwrap().lines();
    let counted = lines.filter(|line| ["Counter", "Gauge", "Histogram", "u64"].iter().any(|kind| line.contains(kind)));
    let names =
        counted.filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':')).map(|(name, _)| name.to_owned());
    names.collect()
}

/// The source of what writes the scrape.
fn figures() -> String {
    let figures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/app");
    let mut written = std::fs::read_to_string(figures.join("figures.rs")).unwrap();
    for file in std::fs::read_dir(figures.join("figures")).unwrap() {
        written += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    written
}

#[test]
fn every_counter_of_every_room_has_a_place_in_the_scrape() {
    let (written, mut counted) = (figures(), 0);
    for (file, of) in [
        ("field/stats.rs", "BusStats"),
        ("flow/hub/report.rs", "DeviceReport"),
        ("flow/hub/report.rs", "Diagnosis"),
        ("flow/hub.rs", "HubStats"),
        ("flow/latest.rs", "Latest"),
        ("flow/alarms.rs", "AlarmSlots"),
        ("store/stats.rs", "StoreStats"),
        ("broker/stats.rs", "BrokerStats"),
        ("access/mod.rs", "AccessStats"),
        ("uplink/stats.rs", "UplinkStats"),
        ("status/mod.rs", "StatusStats"),
    ] {
        // Taken apart by name, so that the compiler knows of a new field; where some are private, by its `..`.
        assert!(["Latest", "AlarmSlots"].contains(&of) || written.contains(&format!("let {of} {{")), "{of}");
        for field in fields(file, of) {
            let used = written.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == field);
            assert!(used, "{of}::{field} is not in src/app/figures");
            counted += 1;
        }
    }
    assert!(counted > 90, "{counted}");
}

#[tokio::test]
async fn a_scrape_of_ten_thousand_tags_is_as_small_as_one_of_ten() {
    let mut image = ironbridge::plant::image::Image::new();
    image.set_words(ironbridge::model::tag::Table::Holding, 0, &vec![7; 10_000]);
    let plc = Plc::with(image).await;
    let mut text = config(plc.line.address()).replace("poll = \"100ms\"", "poll = \"2s\"");
    for n in 0..10_000 {
        write!(text, "[[device.tag]]\nname = \"needle-{n}\"\naddress = \"holding:{n}\"\ntype = \"uint16\"\n").unwrap();
    }
    let home = Home::new(&text);
    let daemon = home.run();
    let page = daemon.page().await;
    until("all are polled", || plc.requests() >= 100).await;
    let answer = scraped(page, "ironbridge_tags 10000").await;
    read(&answer.body);
    assert!(!answer.body.contains("needle"), "no tag has a row of its own");
    assert!(answer.body.len() < 64 * 1024, "{} bytes", answer.body.len());
    assert_eq!(daemon.stop().await, Some(0));
}
