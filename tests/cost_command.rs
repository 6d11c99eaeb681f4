//! `ironbridge cost`: what is forecast rests on what was measured, and what a store saw takes the place of the forecast.

#[path = "support/config.rs"]
mod config;
#[path = "support/patience.rs"]
mod patience;
#[path = "support/store.rs"]
mod store;
#[path = "support/wire_plant.rs"]
mod wire_plant;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironbridge::commands::Failed;
use ironbridge::commands::cost::{Args, report};
use ironbridge::config::plan::{Format, Plan, Transport};
use ironbridge::config::wire::{self, Way};
use ironbridge::flow::clock::Fix;
use ironbridge::flow::hub::EventRecord;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::time::{Certainty, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::json;
use ironbridge::store::{MeterRow, Opening};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use store::{opening, start};

const UPLINK: &str = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://broker.example.com\"\nclient_id = \"gw\"\n";

fn text(tags: usize, uplink: &str) -> String {
    let mut text = format!("[gateway]\nname = \"gw\"\n{}{uplink}{}", config::BUS, config::DEVICE);
    for tag in 0..tags {
        let _ = write!(text, "[[device.tag]]\nname = \"tag-{tag}\"\naddress = \"holding:{tag}\"\ntype = \"uint16\"\n");
        text.push_str("poll = \"1s\"\ndeadband = 1\nheartbeat = \"100s\"\n");
    }
    text
}

fn plan(tags: usize, uplink: &str) -> Plan {
    config::parse(&text(tags, uplink)).unwrap_or_else(|problems| panic!("{problems}")).plan
}

struct Home(tempfile::TempDir);

impl Home {
    fn with(text: &str) -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        std::fs::write(home.config(), text).expect("written");
        home
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("ironbridge.toml")
    }

    fn report(&self, from_store: Option<&Path>, json: bool) -> Result<String, Failed> {
        let args = Args { config: self.config(), from_store: from_store.map(Path::to_path_buf), json };
        report(&args, &config::facts())
    }

    fn json(&self, from_store: Option<&Path>) -> serde_json::Value {
        let text = self.report(from_store, true).unwrap_or_else(|failed| panic!("{failed}"));
        serde_json::from_str(&text).expect("json")
    }
}

fn near(value: f64, expected: f64, percent: f64) {
    assert!((value - expected).abs() <= expected * percent / 100.0, "{value} is not {expected} ± {percent} %");
}

#[test]
fn the_forecast_gives_back_what_was_measured() {
    near(wire::message(150.0, 1000.0), 261.0, 1.0);
    let mut plan = plan(1000, UPLINK);
    plan.store.commit_interval = Duration::from_secs(1);
    for (samples, all, by_exception) in [(1000, 2.7, 5.1), (10_000, 1.09, 3.2), (60_000, 0.86, 2.7)] {
        let mut uplink = plan.uplinks[0].clone();
        uplink.format = Format::Batch;
        (uplink.batch_samples, uplink.batch_interval) = (samples, Duration::from_secs(3600));
        let mut load = wire::load(&plan, &uplink);
        load.samples.least = load.samples.most;
        let day = wire::samples_per_day(&plan, &uplink, &load, Way::Batch);
        near(day.most / load.samples.most / 86_400.0, all, 10.0);
        near(day.least / load.samples.most / 86_400.0, by_exception, 10.0);
    }
    assert_eq!(wire::STATUS_EVERY, ironbridge::uplink::Timing::default().status_every);
}

#[test]
fn a_message_per_sample_is_as_long_as_forecast() {
    let plan = plan(20, UPLINK);
    let load = wire::load(&plan, &plan.uplinks[0]);
    let number = Number { stream: Class::Telemetry, epoch: Epoch(8_123_456_789_012_345), seq: Seq(12_345_678) };
    let time = Wall { unix_ms: 1_795_204_800_123, certainty: Certainty::Fixed };
    let payload = json::numbered_sample(Some(&Value::Float(123.45)), Quality::Good, time, number, None);
    let bytes = wire::samples_per_day(&plan, &plan.uplinks[0], &load, Way::JsonTag).most / load.samples.most / 86_400.0;
    #[expect(clippy::cast_precision_loss, reason = "a short payload")]
    let real = wire::message(load.topic + wire::MQTT + payload.len() as f64, 20.0);
    near(bytes, real, 2.0);
}

/// The plant of `cargo bench --bench wire` as a configuration.
fn benched(samples: usize, deadband: &str) -> String {
    let (name, devices) = (wire_plant::GATEWAY, wire_plant::DEVICES);
    let mut text = format!(
        "[gateway]\nname = \"{name}\"\ntopic = \"acme/{{gateway}}/{{device}}/{{tag}}\"\n{UPLINK}format = \"batch\"\n\
         batch_samples = {samples}\nbatch_interval = \"1h\"\n[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\n\
         endpoint = \"192.0.2.1:502\"\n"
    );
    for device in 0..devices {
        let _ = write!(text, "[[device]]\nname = \"pump-{device:02}\"\nbus = \"net\"\nunit_id = {}\n", device + 1);
        for tag in 0..wire_plant::TAGS {
            let (kind, scale) = match (tag * 7) % 50 {
                0..30 => ("uint16", "scale = 0.01\n"),
                30..36 => ("float32", ""),
                36..42 => ("uint32", ""),
                42..46 => ("bool", ""),
                _ => ("uint16", ""),
            };
            let (tag_name, address) = (wire_plant::name(tag), 2 * tag);
            let _ = write!(
                text,
                "[[device.tag]]\nname = \"{tag_name}\"\naddress = \"holding:{address}\"\ntype = \"{kind}\"\n{scale}\
                 poll = \"1s\"\n{deadband}"
            );
        }
    }
    text
}

#[test]
fn the_forecast_is_within_a_fifth_of_what_the_benchmark_counts_for_that_plant() {
    let tags = wire_plant::Tags::new();
    for (size, by_exception) in [(1000, false), (10_000, false), (1000, true), (10_000, true)] {
        let samples = wire_plant::plant(5 * size, by_exception);
        let messages = wire_plant::batches(&tags, &samples, size);
        let counted: usize = messages[1..].iter().map(|(topic, payload)| wire_plant::wire(topic, payload.len())).sum();
        #[expect(clippy::cast_precision_loss, reason = "some thousand")]
        let counted = counted as f64 / (samples.len() - size) as f64;
        let deadband = if by_exception { "deadband = 0.0001\nheartbeat = \"1d\"\n" } else { "" };
        let home = Home::with(&benched(size, deadband));
        let row = &home.json(None)["uplinks"][0]["whole"]["formats"][3];
        assert_eq!(row["format"], "batch");
        let end = if by_exception { &row["likely"]["bytes_per_sample"] } else { &row["bytes_per_sample"]["most"] };
        println!("{size} {by_exception}: {counted} counted, {end} forecast");
        near(end.as_f64().expect("bytes"), counted, 20.0);
    }
}

#[test]
fn bytes_stand_against_budgets_and_prices() {
    let uplink = format!(
        "{UPLINK}budget = [\"200MiB/month\", \"64MiB/day\"]\n[[uplink.path]]\nname = \"wired\"\nsource = \"10.0.0.7\"\n\
         [[uplink.path]]\nname = \"lte\"\nsource = \"10.0.0.8\"\nclasses = [\"alarm\"]\nbudget = [\"1MiB/month\"]\n\
         price = \"2/MiB\"\n"
    );
    let home = Home::with(&text(10, &uplink));
    let all = home.json(None);
    let cloud = &all["uplinks"][0];
    assert_eq!((&cloud["configured"], &cloud["name"]), (&"json".into(), &"cloud".into()));
    let row = &cloud["whole"]["formats"][0];
    let per_day = row["bytes_per_day"]["most"].as_f64().expect("a number");
    let month = &row["budgets"][0];
    near(month["part"]["most"].as_f64().expect("a number"), per_day * 30.0 / f64::from(200 << 20), 0.1);
    near(month["lasts"]["most"].as_f64().expect("days"), f64::from(200 << 20) / per_day, 0.1);
    let lte = &cloud["paths"][1];
    assert_eq!(lte["classes"], serde_json::json!(["alarm"]));
    let quiet = &lte["formats"][0];
    assert_eq!(quiet["bytes_per_sample"]["most"], 0.0, "no tag is an alarm");
    let bytes = quiet["bytes_per_month"]["most"].as_f64().expect("a number");
    near(quiet["money_per_month"]["most"].as_f64().expect("money"), bytes / f64::from(1 << 20) * 2.0, 0.1);
    let names: Vec<_> = cloud["whole"]["formats"].as_array().expect("rows").iter().map(|row| &row["format"]).collect();
    assert_eq!(names.len(), 5);
    assert_eq!(cloud["whole"]["formats"][4]["format"], "sparkplug");
    let text = home.report(None, false).expect("a report");
    for words in ["all paths together", "path lte, if it carries all of alarm", "of 200MiB/month", "money (2/MiB)"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(text.contains("recommended: ") && text.contains("sparkplug"), "{text}");
}

#[test]
fn a_window_every_quarter_of_an_hour_costs_a_connect_each_and_no_pings_between() {
    let scheduled =
        format!("{UPLINK}[[uplink.path]]\nname = \"sat\"\nsource = \"10.0.0.7\"\nschedule = \"*/15min for 90s\"\n");
    let (always, windows) = (plan(1, UPLINK), plan(1, &scheduled));
    let (always, mut windows) = (wire::upkeep(&always.uplinks[0]), windows.uplinks[0].clone());
    let plain = wire::upkeep(&windows);
    near(plain.keep_alive, always.keep_alive / 10.0, 0.1);
    assert!((plain.connects.most - plain.connects.least).abs() < 1e-9 && plain.connects.most > always.connects.most);
    windows.servers[0].transport = Transport::Tls;
    near(wire::upkeep(&windows).connects.most, 96.0 * f64::from(wire::CONNECT_MUTUAL), 0.1);
}

#[test]
fn tags_that_are_worked_out_from_others_cost_what_tags_that_are_read_cost() {
    let bulk = |read: &str| read.replace("poll = \"1s\"", "class = \"bulk\"\npoll = \"1s\"");
    let derived = |with: &str| {
        let mut text = format!("{}[[device]]\nname = \"station\"\n", bulk(&text(100, UPLINK)));
        for tag in 0..100 {
            let _ = write!(text, "[[device.tag]]\nname = \"tag-{tag}\"\nexpression = \"{{d/tag-{tag}}} * 2\"\n{with}");
        }
        text.replacen("client_id", "classes = [\"telemetry\"]\nbudget = [\"1MiB/month\"]\nclient_id", 1)
    };
    let quiet = "deadband = 1\nheartbeat = \"100s\"\n";
    let row = |text: &str, format: usize| {
        let all = Home::with(text).json(None);
        let cloud = &all["uplinks"][0];
        assert_eq!(cloud["samples_per_second"]["most"], 100.0);
        assert_eq!(cloud["fits"], "never", "{cloud}");
        cloud["whole"]["formats"][format].clone()
    };
    for (format, dear) in [(2, 20.0), (3, 10.0)] {
        let bytes = |row: &serde_json::Value, end| row["bytes_per_sample"][end].as_f64().expect("bytes");
        let row = row(&derived(quiet), format);
        assert!((0.5..dear).contains(&bytes(&row, "most")), "{row}");
        assert!(bytes(&row, "least") > 0.5, "{row}");
        assert!(row["likely"]["samples_per_second"].as_f64().is_some_and(|rate| rate > 0.5), "{row}");
    }
}

#[test]
fn a_path_costs_what_it_costs_alone_with_its_own_connects_and_a_dictionary_for_each() {
    let path = |name: &str, more: &str| format!("[[uplink.path]]\nname = \"{name}\"\nsource = \"10.0.0.7\"\n{more}");
    let (wired, cellular) = (path("wired", ""), path("cellular", "schedule = \"*/15min for 2min\"\n"));
    let formats = |paths: &str, place: usize| {
        let all = Home::with(&text(200, &format!("{UPLINK}{paths}"))).json(None);
        all["uplinks"][0]["paths"][place]["formats"].clone()
    };
    let (alone, second) = (formats(&cellular, 0), formats(&format!("{wired}{cellular}"), 1));
    assert_eq!(alone, second);
    let quiet = |formats: &serde_json::Value| formats[3]["bytes_per_sample"]["least"].as_f64().expect("bytes");
    assert!(quiet(&second) > quiet(&formats(&wired, 0)), "96 dictionaries a day, not one");
}

#[test]
fn what_cannot_be_worked_out_is_refused_with_a_reason() {
    let none = Home::with(&text(1, ""));
    assert_eq!(none.report(None, false).expect_err("nothing to pay").code(), 64);
    let home = Home::with(&text(1, UPLINK));
    let nowhere = home.0.path().join("nowhere");
    assert_eq!(home.report(Some(&nowhere), false).expect_err("no store").code(), 64);
}

#[tokio::test]
async fn a_store_tells_real_rates_real_sizes_and_what_was_counted() {
    let home = Home::with(&text(4, UPLINK));
    let dir = home.0.path().join("store");
    std::fs::create_dir(&dir).expect("made");
    let running = start(opening(&dir));
    let fix = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 };
    running.clock.learn(fix);
    running.store.record_fix(fix);
    // Two hours: a telemetry sample every ten seconds, two bulk samples a second, which this uplink does not have.
    for step in 0..720 {
        running.emit(Class::Telemetry, [step]).await;
        running.emit(Class::Bulk, (0..20).map(|n| n + step)).await;
        running.time.advance(Duration::from_secs(10));
    }
    running.emit(Class::Telemetry, [720]).await;
    running.settled(720 * 21 + 1).await;
    // Beside the running gateway: what lies in the tail only counts too.
    let survey = ironbridge::store::survey(&dir).expect("a store");
    let held = |class| survey.streams.iter().find(|seen| seen.stream == class).map_or(0, |seen| seen.records);
    assert_eq!((held(Class::Telemetry), held(Class::Bulk)), (721, 14_400));
    let newest = survey.streams.iter().find(|seen| seen.stream == Class::Telemetry).expect("it has records");
    assert_eq!(newest.sample.last().map(|owed| owed.number.seq), Some(Seq(721)));
    let row = |path: &str, period, number, bytes| MeterRow {
        uplink: "cloud".into(),
        path: path.into(),
        period,
        number,
        bytes,
        bound: bytes,
        told: 0,
        behind: None,
    };
    running.store.save_meters(vec![row("", 0, 20_777, 123_000), row("", 1, 2026 * 12 + 10, 4_000_000)]);
    running.close().await;
    let uplink = format!("{UPLINK}classes = [\"alarm\", \"event\", \"telemetry\"]\n");
    std::fs::write(home.config(), text(4, &uplink)).expect("written");
    let all = home.json(Some(home.0.path()));
    near(all["seen"]["days"].as_f64().expect("days"), 1.0 / 12.0, 1.0);
    let streams = all["seen"]["streams"].as_array().expect("a list");
    let told: Vec<_> = streams.iter().map(|seen| (seen["stream"].as_str(), seen["records"].as_u64())).collect();
    let held = [(Some("telemetry"), Some(721)), (Some("bulk"), Some(14_400))];
    assert_eq!(told, [held[0], held[1], (Some("alarm"), Some(0)), (Some("event"), Some(0))], "none is left out");
    let cloud = &all["uplinks"][0];
    near(cloud["samples_per_second"]["most"].as_f64().expect("a rate"), 0.1, 1.0);
    let json = &cloud["whole"]["formats"][0];
    let bytes = json["bytes_per_sample"]["most"].as_f64().expect("bytes");
    assert!((280.0..420.0).contains(&bytes), "one alone: {bytes}");
    let per_day = json["bytes_per_day"]["least"].as_f64().expect("bytes");
    assert!((json["bytes_per_day"]["most"].as_f64().expect("bytes") - per_day).abs() > 1.0, "connects stay unknown");
    let spread = |format: usize| {
        let day = &cloud["whole"]["formats"][format]["bytes_per_day"];
        day["most"].as_f64().expect("bytes") - day["least"].as_f64().expect("bytes")
    };
    assert!(spread(3) > spread(0) + 23.0 * 10.0, "each connect has its dictionary: {} {}", spread(3), spread(0));
    assert!(cloud["recorded"].as_array().is_some_and(|rows| rows.len() == 2), "{cloud}");
    let text = home.report(Some(&dir), false).expect("a report");
    for words in [
        "telemetry 721 records",
        "alarm     0 records\n",
        "event     0 records\n",
        "123.0 kB in 2026-11-20",
        "4.0 MB in 2026-11\n",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[tokio::test]
async fn in_a_store_that_is_full_a_class_has_the_rate_of_what_is_held_of_it() {
    let home = Home::with(&text(4, UPLINK));
    let dir = home.0.path().join("store");
    std::fs::create_dir(&dir).expect("made");
    let running = start(Opening { max_size: 3 << 20, ..opening(&dir) });
    let fix = Fix { at: running.clock.now(), unix_ms: 1_795_204_800_000 };
    running.clock.learn(fix);
    running.store.record_fix(fix);
    // Two hours: a telemetry sample every ten seconds, and four times the store of what gives way first.
    let mut random = StdRng::seed_from_u64(1);
    for step in 1..=144 {
        running.emit(Class::Telemetry, (0..5).map(|n| 5 * step + n)).await;
        for _ in 0..40 {
            let body: Vec<u8> = (0..2000).map(|_| random.random()).collect();
            let (topic, at) = ("machines/press".into(), running.clock.now());
            running.hub.emit_event(EventRecord { topic, body, class: Class::Bulk, at, committed: None }).await;
        }
        running.settled(step * 45).await;
        running.time.advance(Duration::from_secs(50));
    }
    assert!(running.store.stats().evicted[Class::Bulk].get() > 144 * 20, "most of it is gone");
    running.close().await;
    let seen = home.json(Some(&dir));
    let rate = |class: &str| {
        let uplink = format!("{UPLINK}classes = [\"{class}\"]\n");
        std::fs::write(home.config(), text(4, &uplink)).expect("written");
        home.json(Some(&dir))["uplinks"][0]["samples_per_second"]["most"].as_f64().expect("a rate")
    };
    near(rate("telemetry"), 0.1, 5.0);
    near(rate("bulk"), 0.8, 10.0);
    let bulk = &seen["seen"]["streams"][1];
    assert!(bulk["days"].as_f64() < seen["seen"]["days"].as_f64(), "{seen}");
    let text = home.report(Some(&dir), false).expect("a report");
    assert!(text.contains(" a day, held since 2026-11-20T2"), "{text}");
}
