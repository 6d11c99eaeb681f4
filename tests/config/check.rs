//! `ironbridge check`: the plan and what it costs, for people and for scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use ironbridge::commands::Failed;
use ironbridge::commands::check::{Args, report};
use ironbridge::config::HostFacts;
use serde_json::Value;
use tempfile::TempDir;

const LINE: &str = r#"
[[uplink]]
name = "cloud"
url = "mqtt://broker"
classes = ["telemetry"]

[[bus]]
name = "line"
type = "modbus-rtu"
port = "/dev/ttyS9"
serial = "9600-8E1"

[[device]]
name = "plc"
bus = "line"
unit_id = 3
delay_between_requests = "30ms"

[[device.tag]]
name = "a"
address = "holding:0"
type = "uint16"

[[device.tag]]
name = "b"
address = "holding:10"
type = "float32"
deadband = 1.0
heartbeat = "10s"

[[device.tag]]
name = "far"
address = "holding:1000"
type = "uint16"
class = "alarm"

[[device.tag]]
name = "command"
address = "coil:0"
access = "write"
"#;

fn check(text: &str, set: impl FnOnce(&mut Args)) -> (String, Result<(), Failed>) {
    let directory = TempDir::new().expect("a temporary directory");
    let config = directory.path().join("ironbridge.toml");
    std::fs::write(&config, text).expect("written");
    let mut args = Args {
        config,
        tags: false,
        json: false,
        against_running: false,
        strict: false,
        socket: None,
        live: false,
        bus: Vec::new(),
        device: Vec::new(),
    };
    set(&mut args);
    report(&args, &HostFacts { hostname: "box".into(), credentials_dir: None })
}

fn json(text: &str) -> Value {
    serde_json::from_str(&check(text, |args| (args.json, args.tags) = (true, true)).0).expect("one JSON object")
}

#[test]
fn reads_cycle_and_load_follow_from_baud_and_turnaround() {
    let bus = &json(LINE)["buses"][0];
    let reads = bus["reads"].as_array().expect("a list");
    let spans: Vec<_> = reads.iter().map(|read| (read["start"].as_u64(), read["count"].as_u64())).collect();
    assert_eq!(spans, [(Some(0), Some(12)), (Some(1000), Some(1))], "ten registers of hole are cheaper than a request");
    // 8 + 5 + 24 characters of 11 bits, two pauses of 3.5, 10 ms to think, 30 ms of pause that the device wants.
    let char_ms = 11.0 / 9.6;
    let expected = [37.0 * char_ms + 7.0 * char_ms + 40.0, 15.0 * char_ms + 7.0 * char_ms + 40.0];
    for (read, expected) in reads.iter().zip(expected) {
        let takes = read["takes_ms"].as_f64().expect("a number");
        assert!((takes - expected).abs() < 0.01, "{takes} is not {expected}");
    }
    let cycle: f64 = expected.iter().sum();
    assert!((bus["cycle_ms"].as_f64().expect("a number") - cycle).abs() < 0.01);
    assert!((bus["load"].as_f64().expect("a number") - cycle / 1000.0).abs() < 1e-4, "everything is read each second");
}

#[test]
fn samples_and_bytes_lie_between_quiet_and_busy() {
    let report = json(LINE);
    assert_eq!(report["samples_per_second"]["most"], 3.0);
    assert_eq!(report["samples_per_second"]["least"], 2.1);
    // The uplink has telemetry only: 2 samples a second, which leave alone and not by the thousand, and a session.
    let bytes = report["uplinks"][0]["wire_bytes_per_day"]["most"].as_f64().expect("a number");
    let sample = bytes / (2.0 * 86_400.0);
    assert!((261.0..400.0).contains(&sample), "{sample}");
    assert!(report["flash_bytes_per_day"]["most"].as_f64() > report["flash_bytes_per_day"]["least"].as_f64());
}

#[test]
fn warnings_are_counted_in_the_last_line_and_fail_only_a_strict_check() {
    let last = |text: &str| text.trim_end().lines().last().unwrap_or_default().to_owned();
    let (text, ended) = check(LINE, |args| args.strict = true);
    assert!(ended.is_ok() && last(&text) == "valid, no warnings", "{text}");
    assert_eq!(json(LINE)["warnings"], Value::Array(Vec::new()));
    let warned = LINE.replacen(
        "classes = [\"telemetry\"]",
        "classes = [\"telemetry\"]\nca_file = \"/nowhere/ca.pem\"\nbudget = [\"64KiB/day\"]",
        1,
    );
    let warned = warned.replace("mqtt://", "mqtts://");
    let (text, ended) = check(&warned, |_| {});
    assert!(ended.is_ok(), "the configuration is right");
    let lines = text.lines().filter(|line| line.trim_start().starts_with("! ")).count();
    assert_eq!(lines, 2, "{text}");
    assert!(last(&text).starts_with("valid, 2 warnings"), "{text}");
    let (strict, ended) = check(&warned, |args| args.strict = true);
    assert_eq!((last(&strict), ended.map_err(|failed| failed.code())), (last(&text), Err(1)));
    let json = json(&warned);
    assert_eq!(json["ok"], true);
    let warnings = json["warnings"].as_array().expect("a list");
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|one| one["about"] == "uplink cloud" && one["message"].is_string()), "{json}");
}

/// What is warned of, of a plant with so much more in it.
fn warned(more: &str, [old, new]: [&str; 2]) -> Vec<String> {
    let text = format!("{LINE}{more}");
    assert!(text.contains(old), "{old}");
    let report = json(&text.replacen(old, new, 1));
    let warnings = report["warnings"].as_array().expect("a list");
    warnings.iter().map(|one| format!("{}: {}", one["about"], one["message"])).collect()
}

#[test]
fn a_derived_tag_that_is_looked_at_more_seldom_than_it_asks_for_is_warned_of() {
    let derived = |keys: &str| {
        format!(
            "[[device]]\nname = \"station\"\n[[device.tag]]\nname = \"y\"\nexpression = \"{{plc/b}} + 0\"\n{keys}\n\
             [[device.tag]]\nname = \"z\"\nexpression = \"{{y}} + 0\"\n"
        )
    };
    let same = ["[[device]]"; 2];
    // Its input has news every 10 s at least.
    for quiet in
        ["unchanged_for = \"3s\"", "deadband = 1\nheartbeat = \"3s\"", "compression = { swing = 1, max_gap = \"3s\" }"]
    {
        let found = warned(&derived(quiet), same);
        let key = quiet.split(" = \"").next().and_then(|key| key.rsplit(['\n', ' ']).next()).expect("a key");
        assert!(found.len() == 1 && found[0].starts_with("\"tag station/y\"") && found[0].contains(key), "{found:?}");
        assert_eq!(warned(&derived(&quiet.replace("3s", "30s")), same), [""; 0]);
        assert_eq!(warned(&derived(&format!("{quiet}\npoll = \"1s\"")), same), [""; 0], "worked out so often");
        assert_eq!(warned(&derived(quiet), ["deadband = 1.0\nheartbeat = \"10s\"", ""]), [""; 0], "news every second");
    }
    let never = derived("unchanged_for = \"1d\"").replace("{plc/b} + 0", "1 + 1");
    assert_eq!(warned(&never, same).len(), 1, "a constant has no news");
}

#[test]
fn a_tag_that_is_asked_with_more_patience_than_it_may_be_silent_is_warned_of() {
    let slow = ["type = \"modbus-rtu\"", "type = \"modbus-rtu\"\nresponse_timeout = \"20s\""];
    let tag = |stale| {
        format!("[[device.tag]]\nname = \"c\"\naddress = \"holding:20\"\ntype = \"int16\"\nstale_after = \"{stale}\"\n")
    };
    let found = warned(&tag("2s"), slow);
    assert!(found.len() == 1 && found[0].contains("bus line") && found[0].contains("plc/c"), "{found:?}");
    assert_eq!(warned(&tag("20s"), slow), [""; 0]);
    assert_eq!(warned(&tag("2s"), ["[[device]]"; 2]), [""; 0]);
}

#[test]
fn bits_of_a_register_are_told_as_they_were_written() {
    let field = "name = \"b\"\naddress = \"holding:7.4-11\"\ntype = \"uint16\"\n";
    let text = LINE.replacen(
        "name = \"a\"\naddress = \"holding:0\"\ntype = \"uint16\"",
        &field.replace("\"b\"", "\"field\""),
        1,
    );
    let mask = "type = \"uint16\"\nmask = \"0x0F0F\"\nclass = \"alarm\"";
    let text = text.replacen("type = \"uint16\"\nclass = \"alarm\"", mask, 1);
    let report = json(&text);
    let address = |ix: usize| report["tag_list"][ix]["address"].as_str().unwrap_or_default().to_owned();
    assert_eq!((address(0).as_str(), address(2).as_str()), ("holding:7.4-11", "holding:1000 mask 0x0F0F shift 0"));
    let (text, _) = check(&text, |args| args.tags = true);
    assert!(text.contains("holding:7.4-11 ") && text.contains("holding:1000 mask 0x0F0F shift 0"), "{text}");
}

#[test]
fn the_text_tells_both_forms_of_every_address() {
    let (text, ended) = check(LINE, |args| args.tags = true);
    assert!(ended.is_ok());
    for words in [
        "bus line: modbus-rtu /dev/ttyS9 9600-8E1, response timeout 1s",
        "holding:0 ..= 11 (400001 ..= 400012)",
        "2 reads, ",
        "10ms turnaround assumed",
        "holding:1000  401001",
        "coil:0        000001",
        "uplink cloud: as box, telemetry",
        "servers mqtt://broker:1883",
        "  json: wire bytes per day ",
        "4 tags on 1 device",
        "flash bytes per day",
        "a 4 GB MLC eMMC lasts ",
    ] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
}

const PATHS: &str = r#"
urls = ["mqtt://broker", "wss://second/mqtt"]
ca_file = "ca.pem"
preset = "emqx"
format = "batch"
budget = ["200MiB/month"]
max_rate = "32KiB/s"
overrun = "alarms"

[[uplink.path]]
name = "dsl"
interface = "eth1"

[[uplink.path]]
name = "cellular"
source = "10.0.0.7"
classes = ["telemetry"]
budget = ["64KiB/day"]
max_rate = "16KiB/s"
schedule = "*/15min for 2min"
price = "0.03/MiB"
"#;

#[test]
fn an_uplink_shows_its_servers_its_ways_in_their_order_and_what_they_cost() {
    let plant = LINE.replace("url = \"mqtt://broker\"\nclasses = [\"telemetry\"]\n", PATHS);
    let (text, ended) = check(&plant, |_| ());
    assert!(ended.is_ok(), "{ended:?}");
    for words in [
        "servers mqtt://broker:1883, then wss://second:443/mqtt",
        "within what EMQX Cloud takes",
        "budget 200MiB/month, 20 % kept for alarms and live values, when it is used up: alarms, at most 32KiB/s",
        "  batch: wire bytes per day ",
        "path 1 dsl: interface eth1, ",
        "path 2 cellular: source 10.0.0.7, telemetry, budget 64KiB/day, at most 16KiB/s, */15m for 2m, 0.03/MiB",
        "; money ",
        " a month",
    ] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
    assert!(text.contains("  ! ") && text.contains("of the budget of 64KiB/day"), "it is too small:\n{text}");
    let report = json(&plant);
    let uplink = &report["uplinks"][0];
    assert_eq!(uplink["servers"][1], "wss://second:443/mqtt");
    assert_eq!(uplink["paths"][1]["bind"]["source"], "10.0.0.7");
    assert_eq!(uplink["paths"][1]["budgets"][0], "64KiB/day");
    let costs = &uplink["paths"][1]["costs"];
    let (bytes, money) = (costs["wire_bytes_per_month"]["most"].as_f64(), costs["money_per_month"]["most"].as_f64());
    let (Some(bytes), Some(money)) = (bytes, money) else { panic!("figures: {costs}") };
    assert!((money - bytes / 1_048_576.0 * 0.03).abs() < 1e-6, "{money} for {bytes}");
    assert!(report["store"]["years_of_4_gb_mlc"]["most"].as_f64() > Some(1.0));
}

#[test]
fn what_the_data_directory_holds_at_most_is_told_part_by_part() {
    let plain = "data_dir holds 720MiB at most: samples 512MiB, sessions of local clients 64MiB, their subscriptions \
                 48MiB, what clients leave retained 32MiB, commands 64MiB";
    let text = check(LINE, |_| ()).0;
    assert!(text.contains(plain), "{text}");
    assert_eq!(json(LINE)["store"]["content_max_size"], 720 << 20);
    let bridge =
        "[[bridge]]\nname = \"b\"\nurl = \"mqtt://h\"\nmax_size = \"100MiB\"\n[[bridge.topic]]\nfilter = \"x/#\"\n";
    let text = check(&format!("{LINE}\n{bridge}"), |_| ()).0;
    assert!(text.contains("holds 820MiB at most: samples 512MiB, bridges 100MiB, "), "{text}");
}

#[test]
fn a_keep_alive_that_is_too_long_for_quic_behind_a_nat_is_told() {
    let plant = |keep_alive: &str| {
        let url = format!("url = \"quic://broker\"\nca_file = \"ca.pem\"\nkeep_alive = \"{keep_alive}\"");
        check(&LINE.replace("url = \"mqtt://broker\"", &url), |_| ()).0
    };
    assert!(plant("30m").contains("  ! keep_alive 30m is long for quic://"), "{}", plant("30m"));
    assert!(!plant("20m").contains("keep_alive"), "{}", plant("20m"));
}

#[test]
fn a_keep_alive_that_mqtt_5_makes_longer_is_told() {
    let plant = |keys: &str| {
        check(&LINE.replace("url = \"mqtt://broker\"", &format!("url = \"mqtt://broker\"\n{keys}")), |_| ()).0
    };
    let told = plant("keep_alive = \"2s\"");
    assert!(told.contains("  ! keep_alive 2s is taken for 5s over MQTT 5"), "{told}");
    for as_it_is in ["keep_alive = \"5s\"", "keep_alive = \"2s\"\nmqtt_version = \"3.1.1\""] {
        assert!(!plant(as_it_is).contains("keep_alive"), "{as_it_is}");
    }
    let bridge =
        "[[bridge]]\nname = \"far\"\nurl = \"mqtt://far\"\nkeep_alive = \"1s\"\n[[bridge.topic]]\nfilter = \"o/#\"\n";
    let told = check(&format!("{LINE}{bridge}"), |_| ()).0;
    assert!(told.contains("  ! keep_alive 1s is taken for 5s over MQTT 5"), "{told}");
}

#[test]
fn ignore_unit_id_on_a_line_of_several_units_is_told_and_on_one_that_numbers_its_answers_not() {
    let second = "\n[[device]]\nname = \"second\"\nbus = \"line\"\nunit_id = 4\n\
                  [[device.tag]]\nname = \"v\"\naddress = \"holding:0\"\ntype = \"uint16\"\n";
    let lax = LINE.replace("unit_id = 3", "unit_id = 3\nignore_unit_id = true");
    let told = |plant: &str| check(plant, |_| ()).0.contains("  ! plc has ignore_unit_id on a line of several units");
    assert!(told(&(lax.clone() + second)));
    assert!(!told(&lax), "nobody else is there");
    let by_tcp = (lax + second)
        .replace("modbus-rtu", "modbus-tcp")
        .replace("port = \"/dev/ttyS9\"\nserial = \"9600-8E1\"", "endpoint = \"127.0.0.1:1\"");
    assert!(!told(&by_tcp));
}

#[test]
fn a_bus_that_cannot_keep_up_is_told() {
    let busy = LINE.replace("unit_id = 3", "unit_id = 3\npoll = \"100ms\"");
    assert!(check(&busy, |_| ()).0.contains("more than the bus can do"));
    let nearly = LINE.replace("unit_id = 3", "unit_id = 3\npoll = \"190ms\"");
    assert!(check(&nearly, |_| ()).0.contains("little room"));
    assert!(!check(LINE, |_| ()).0.contains('!'));
}

#[test]
fn problems_end_with_78_as_text_and_as_json() {
    let wrong = LINE.replace("9600-8E1", "9600-7E1");
    let (text, ended) = check(&wrong, |_| ());
    let Err(failed) = ended else { panic!("this is wrong") };
    assert_eq!((text.as_str(), failed.code()), ("", 78));
    assert!(failed.to_string().contains("ironbridge.toml:11:10"), "{failed}");
    let (text, ended) = check(&wrong, |args| args.json = true);
    assert_eq!(ended.map_err(|failed| failed.code()), Err(78));
    let report: Value = serde_json::from_str(&text).expect("one JSON object");
    let problem = &report["problems"][0];
    assert_eq!(report["ok"], false);
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (Some(11), Some(10)));
    assert_eq!((problem["path"].as_str(), problem["value"].as_str()), (Some("bus[0].serial"), Some("\"9600-7E1\"")));
}

#[test]
fn a_missing_file_is_78() {
    let (_, ended) = check(LINE, |args| args.config = PathBuf::from("/nowhere/at/all.toml"));
    assert_eq!(ended.map_err(|failed| failed.code()), Err(78));
}

#[test]
fn a_bus_of_instruments_shows_what_is_asked_and_what_the_examples_mean() {
    let (text, ended) = check(include_str!("../../config/scale.toml"), |_| {});
    assert!(ended.is_ok());
    for line in [
        "  device scale: asked `SI\\r\\n` every 500ms, 2 tags",
        "    says `S S     100.00 g`: weight = 100 g, state = S",
        "    says `S D     101.50 g`: weight = 101.5 g (uncertain, exception), state = D",
        "    says `S +`: weight = no value (bad, exception), state = +",
        // 4 characters out and 18 back at 9600 baud, and 10 ms to think
        "  1 question, 32.9 ms for all of them once (10ms turnaround assumed), load 6.6 %",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("unit 1") && !text.contains("nothing to read"), "{text}");
    let (text, _) = check(include_str!("../../config/gps.toml"), |_| {});
    assert!(
        text.contains("  device gps: heard about every 1s, 12 tags") && text.contains("altitude = 545.4 m"),
        "{text}"
    );
    assert!(text.contains("  listens, nothing is sent; load 28.5 %"), "{text}");
    let (text, _) = check(include_str!("../../config/scale.toml"), |args| args.json = true);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let weight = &json["buses"][0]["talks"][0]["examples"][2]["tags"][0];
    assert_eq!((weight["tag"].as_str(), weight["quality"].as_str()), (Some("weight"), Some("uncertain")), "{json}");
}

#[test]
fn what_is_wrong_with_the_certificate_of_a_door_is_said_and_makes_no_configuration_wrong() {
    let home = TempDir::new().expect("a temporary directory");
    let made = |name: &str, years: (i32, i32)| {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    };
    let put = |name: &str, content: &str, mode: u32| {
        let path = home.path().join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its own");
    };
    let ((good, key), (ended, ended_key), (_, foreign)) =
        (made("a", (2020, 2090)), made("b", (2020, 2021)), made("c", (2020, 2090)));
    put("good.crt", &good, 0o644);
    put("good.key", &key, 0o640);
    put("open.key", &key, 0o644);
    put("ended.crt", &ended, 0o644);
    put("ended.key", &ended_key, 0o600);
    put("foreign.key", &foreign, 0o600);
    put("text.crt", "no PEM", 0o644);
    let door = |certificate: &str, key: &str, more: &str| {
        let path = |name: &str| home.path().join(name).display().to_string();
        let (certificate, key) = (path(certificate), path(key));
        let text = format!(
            "[[broker.listener]]\nlisten = \"127.0.0.1:8883\"\ntls = {{ certificate = \"{certificate}\", key = \"{key}\"{more} }}\n"
        );
        let (text_form, ended) = check(&text, |_| {});
        assert!(ended.is_ok(), "{text_form}");
        let json = check(&text, |args| args.json = true).0;
        (text_form, serde_json::from_str::<Value>(&json).expect("JSON")["listeners"][0].clone())
    };
    let (text, json) = door("good.crt", "good.key", "");
    assert!(text.contains("broker  mqtts://127.0.0.1:8883 (anonymous: none)\n") && !text.contains('!'), "{text}");
    assert_eq!((&json["trouble"], json["ends"]["time"].as_str()), (&Value::Null, Some("2090-01-01T00:00:00.000Z")));
    for (certificate, key, more, words) in [
        ("missing.crt", "good.key", "", "missing.crt: No such file"),
        ("text.crt", "good.key", "", "no certificate in it"),
        ("ended.crt", "ended.key", "", "has expired: it ended 2021-01-01"),
        ("good.crt", "foreign.key", "", "do not work together"),
        ("good.crt", "open.key", "", "everybody on this machine may use it (mode 644); chmod 640"),
        ("good.crt", "good.crt", "", "everybody on this machine"),
        ("good.crt", "good.key", ", client_ca = \"/nowhere/ca.pem\"", "client_ca /nowhere/ca.pem: No such file"),
    ] {
        let (text, json) = door(certificate, key, more);
        let line = text.lines().find(|line| line.contains("! closed until this is put right")).expect("it is said");
        assert!(line.contains(words), "{line}");
        assert!(json["trouble"].as_str().is_some_and(|trouble| trouble.contains(words)), "{json}");
    }
}

#[test]
fn files_that_keep_an_uplink_a_bridge_or_users_out_are_said_and_make_no_configuration_wrong() {
    let text = "[broker]\nusers_file = \"/nowhere/users\"\n\
        [[uplink]]\nname = \"cloud\"\nurl = \"mqtts://h\"\nca_file = \"/nowhere/ca.pem\"\n\
        [[uplink]]\nname = \"plain\"\nurl = \"mqtt://h\"\nusername = \"u\"\npassword_file = \"/nowhere/password\"\n\
        [[bridge]]\nname = \"b\"\nurl = \"mqtts://x\"\nca_file = \"/nowhere/other.pem\"\n[[bridge.topic]]\nfilter = \"m/#\"\n";
    let (shown, ended) = check(text, |_| {});
    assert!(ended.is_ok(), "{shown}");
    for (says, file) in [
        ("! nobody can log in until this is put right", "/nowhere/users"),
        ("! disabled until this is put right", "/nowhere/ca.pem"),
        ("! disabled until this is put right", "/nowhere/password"),
        ("! disabled until this is put right", "/nowhere/other.pem"),
    ] {
        assert!(shown.lines().any(|line| line.contains(says) && line.contains(file)), "{file}: {shown}");
    }
    let json: Value = serde_json::from_str(&check(text, |args| args.json = true).0).expect("JSON");
    let troubles = [&json["users_trouble"], &json["uplinks"][1]["trouble"], &json["bridges"][0]["trouble"]];
    assert!(troubles.iter().all(|trouble| trouble.as_str().is_some_and(|text| text.contains("/nowhere/"))), "{json}");
}
