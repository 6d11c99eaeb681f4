//! What the README shows works: its configurations check, its commands are understood, its links lead somewhere.

#[path = "support/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use ironbridge::config::{self, HostFacts};
use ironbridge::disk::received::Received;
use ironbridge::model::alarm::{Change, Condition, Level};
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::tag::TagIx;
use ironbridge::model::time::{Boot, Certainty, Stamp, Wall};
use ironbridge::model::value::Value;
use ironbridge::payload::json::{self, Gap};
use rusqlite::Connection;
use rusqlite::types::Value as Cell;

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let found: Vec<_> = readme()
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().expect("split yields one part").to_owned())
        .collect();
    assert!(!found.is_empty(), "the README has {language} blocks");
    found
}

#[test]
fn every_configuration_of_the_readme_checks() {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let dir = tempfile::tempdir().expect("temporary directory");
    let is_served = |block: &String| cfg!(feature = "mqtt-sn") || !block.contains("mqtt-sn");
    for block in blocks("toml").into_iter().filter(is_served) {
        if let Err(problems) = config::parse(&block, &dir.path().join("ironbridge.toml"), &facts) {
            panic!("{problems}\nin\n{block}");
        }
    }
}

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
}

/// Command lines of this program: of the shell blocks, and between backticks in the text.
fn commands() -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for block in blocks("sh") {
        lines.extend(block.replace("\\\n", " ").lines().map(str::to_owned));
    }
    let text = readme();
    let prose = text.split("\n```").step_by(2); // what stands between fences
    lines.extend(prose.flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned));
    let each = lines.iter().flat_map(|line| line.split("&&"));
    let ours = each.map(|line| line.trim().trim_start_matches("sudo ").replace("cargo run --release --", "ironbridge"));
    ours.filter(|line| line.starts_with("ironbridge ")).collect()
}

/// The words of a command line, up to what a shell would make of the rest.
fn words(line: &str) -> Vec<String> {
    let ends = |word: &&str| !["&", "|", "#", ">"].contains(word);
    line.split_whitespace().skip(1).take_while(ends).map(|word| word.trim_matches('\'').to_owned()).collect()
}

fn ironbridge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn every_command_of_the_readme_is_understood_with_its_options_and_values() {
    let commands = commands();
    assert!(commands.len() >= 20, "the README shows commands: {commands:?}");
    for line in commands {
        // all that stands before it is read first, and refused if it is wrong
        let told = ironbridge().args(words(&line)).arg("--help").output().expect("runs");
        assert!(told.status.success(), "{line}: {}", String::from_utf8_lossy(&told.stderr));
    }
    let wrong = ironbridge().args(["store", "status", "--rate", "fast", "--help"]).output().expect("runs");
    assert!(!wrong.status.success(), "a wrong value would have been seen");
}

#[test]
fn what_the_readme_checks_is_right_and_tells_the_load_and_the_flash() {
    let mut ran = 0;
    for line in commands().iter().filter(|line| line.starts_with("ironbridge check ")) {
        if !line.contains("--config config/") {
            continue;
        }
        let told = ironbridge().args(words(line)).output().expect("runs");
        assert!(told.status.success(), "{line}: {}", String::from_utf8_lossy(&told.stderr));
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        for words in ["a 4 GB MLC eMMC lasts", "load "] {
            assert!(text.contains(words), "`{words}` is promised, and not in\n{text}");
        }
        ran += 1;
    }
    assert!(ran >= 1, "the tour begins with a check");
}

#[test]
fn files_benches_and_payloads_of_the_readme_are_there() {
    let (text, home) = (readme(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for link in links.filter(|link| !link.starts_with('#') && !link.contains("://")) {
        assert!(home.join(link).exists(), "{link}");
    }
    for link in text.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        let heading = text.lines().any(|line| line.starts_with('#') && anchor(line) == link);
        assert!(heading, "no heading for #{link}");
    }
    for bench in text.split("--bench ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n']).next()) {
        assert!(home.join(format!("tests/benches/{bench}.rs")).exists(), "{bench}");
    }
    for block in blocks("json") {
        for line in block.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect(line);
        }
    }
}

/// Who writes a receiver of their own goes by these.
#[test]
fn gap_records_alarms_and_events_look_as_the_readme_shows_them() {
    let at = |seconds: i64| Wall { unix_ms: 1_795_204_800_123 + seconds * 1000, certainty: Certainty::Fixed };
    let number = |stream, seq| Number { stream, epoch: Epoch(8123), seq: Seq(seq) };
    let (from, to) = (Some(at(1)), Some(at(90)));
    let (first, last) = (Seq(4712), Seq(4801));
    let lost = Gap { stream: Class::Telemetry, epoch: Epoch(8123), first, last, from, to, reason: "evicted" };
    let change = Change {
        tag: TagIx(0),
        level: Level::High,
        condition: Condition::Active,
        value: Value::Float(12.3),
        quality: Quality::Good,
        limit: Value::Float(12.0),
        at: Stamp { boot: Boot(0), micros: 0 },
    };
    let event = br#"{"detail":"127.0.0.1:8080: address already in use","event":"status_listener_down","state":"active","subject":"status","time":"2026-11-20T20:00:00.123Z"}"#;
    let shown = [
        json::gap(&lost),
        json::numbered_event(&json::alarm(&change, "bar", at(0)), number(Class::Alarm, 7), None),
        json::numbered_event(event, number(Class::Event, 9), None),
    ];
    for payload in shown {
        let payload = String::from_utf8(payload).expect("JSON is text");
        assert!(readme().contains(&payload), "the README does not show {payload}");
    }
}

/// The databases of `ironbridge receive` are read with SQL that people take from here.
#[test]
fn the_sql_of_the_readme_finds_what_is_missing_and_nothing_else() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("lake.sqlite");
    drop(Received::open(&file).expect("made"));
    let database = Connection::open(&file).expect("opens");
    // 3 and 4, 5 to 7: declared by two records that touch; 10 and 11: by nobody
    let filled = "INSERT INTO epoch (id, gateway, stream, epoch) VALUES (1, 'gw', 'telemetry', 8);
        INSERT INTO topic VALUES (1, 'site/acme/pump-1/pressure');
        INSERT INTO sample VALUES (1, 1, 1, 0, 4.0, 0, NULL), (1, 2, 1, 500, 6.0, 0, NULL), (1, 8, 1, 1000, 1.0, 2, 'timeout'),
            (1, 9, 1, 1500, 5.0, 0, NULL), (1, 12, 1, 2000, 7.0, 0, NULL);
        INSERT INTO gap VALUES (1, 3, 4, 'refused', '{}'), (1, 5, 7, 'refused', '{}');";
    database.execute_batch(filled).expect("filled");
    let rows = |sql: &str| -> Vec<Vec<Cell>> {
        let mut prepared = database.prepare(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
        let columns = prepared.column_count();
        let cells = prepared.query_map([], |row| (0..columns).map(|column| row.get(column)).collect());
        cells.expect("runs").collect::<Result<_, _>>().expect("rows")
    };
    let text = blocks("sql").concat();
    let answers: Vec<_> = text.split_inclusive(';').filter(|sql| sql.contains("SELECT")).map(rows).collect();
    let [newest, hourly, missing] = &answers[..] else { panic!("three queries: {text}") };
    assert_eq!(newest[0][2], Cell::Real(7.0));
    assert_eq!(hourly[0][1], Cell::Real(5.5));
    let name = |text: &str| Cell::Text(text.to_owned());
    let expected = vec![name("gw"), name("telemetry"), Cell::Integer(8), Cell::Integer(10), Cell::Integer(11)];
    assert_eq!(missing, &vec![expected]);
}

/// Who sees an event looks it up here, and must find what the gateway really tells.
#[test]
fn every_event_that_the_readme_names_is_told_somewhere_in_the_program() {
    let mut named = BTreeSet::new();
    let text = readme().replace("\n  ", " ");
    for (at, word) in text.match_indices("event ").chain(text.match_indices("events ")) {
        // "event `a`", and "events `a`, `b`" for as long as they go on.
        let mut rest = &text[at + word.len()..];
        while let Some((name, more)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
            named.insert(name.to_owned());
            rest = if word == "events " { more.strip_prefix(", ").unwrap_or_default() } else { "" };
        }
    }
    assert!(named.len() > 15, "{named:?}");
    let mut told = String::new();
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut told);
    let unknown: Vec<_> = named.iter().filter(|name| !told.contains(&format!("\"{name}\""))).collect();
    assert!(unknown.is_empty(), "no such event: {unknown:?}");
}

/// `/health` says no, and somebody looks here for what to do.
#[test]
fn every_reason_of_health_stands_in_the_readme() {
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/app/health.rs")).expect("there");
    let list =
        source.split("const REASONS: &[&str] = &[").nth(1).and_then(|rest| rest.split(']').next()).expect("a list");
    let reasons: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(reasons.len() > 5, "{reasons:?}");
    let text = readme();
    let missing: Vec<_> = reasons.iter().filter(|reason| !text.contains(&format!("`{reason}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The text of the program below a directory, without its tests and without what only counts (names of /metrics).
fn gather(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("app/figures") {
            gather(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            all.push_str(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
        }
    }
}

/// As web pages make it of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_python_of_the_readme_runs() {
    let home = tempfile::tempdir().expect("temporary directory");
    let records = home.path().join("records");
    // As the receiver writes them: with a number, and of a Sparkplug host without one.
    let record = r#"{"topic":"a/b c","value":1.5,"quality":"good","time":"2026-11-20T20:00:00.123Z""#;
    std::fs::write(&records, format!("{record},\"seq\":7}}\n{{\"event\":\"high\"}}\n{record}}}\n")).expect("written");
    for block in blocks("python") {
        let script = home.path().join("script.py");
        std::fs::write(&script, block).expect("written");
        let input = std::fs::File::open(&records).expect("written");
        let Ok(told) = Command::new("python3").arg(&script).stdin(input).output() else {
            skip::skipped("the Python of the README", "there is no python3");
            return;
        };
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let line = String::from_utf8_lossy(&told.stdout).into_owned();
        let expected = |seq| format!("plant,topic=a/b\\ c,quality=good value=1.5{seq} 1795204800123000000\n");
        assert_eq!(line, expected(",seq=7i") + &expected(""));
    }
}
