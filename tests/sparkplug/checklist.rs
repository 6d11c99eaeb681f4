//! The requirements of the specification and the tests that hold them: `checklist.csv` has the rows, each test says
//! `// covers: id, id` above itself, and `checklist.md` is both together.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const IDS: (&str, &str) = ("src/model/sparkplug.rs", "an_id_is_one_level_that_a_topic_can_have");

/// Rows that are held elsewhere: file and test.
const ELSEWHERE: [(&str, (&str, &str)); 8] = [
    (
        "tck-id-operational-behavior-data-publish-nbirth-order",
        ("src/uplink/sparkplug/tests/lives.rs", "metrics_of_the_node_stand_in_the_order_of_their_times"),
    ),
    ("tck-id-intro-group-id-chars", IDS),
    ("tck-id-intro-edge-node-id-chars", IDS),
    ("tck-id-intro-device-id-chars", IDS),
    ("tck-id-topic-structure-namespace-valid-group-id", IDS),
    ("tck-id-topic-structure-namespace-valid-edge-node-id", IDS),
    ("tck-id-topic-structure-namespace-valid-device-id", IDS),
    (
        "tck-id-topic-structure-namespace-unique-device-id",
        ("tests/config/wrong_devices.rs", "a_device_says_what_is_wrong"),
    ),
];

const INSTALLATION: &str = "takes the whole installation: an edge node does not know the others";
const NAMES: &str = "advice to whoever names things; the gateway renames nothing";
const OLD: &str = "sessions are MQTT 3.1.1";

/// Rows that apply and that no test holds, and why.
const UNTESTABLE: [(&str, &str); 9] = [
    ("tck-id-intro-edge-node-id-uniqueness", INSTALLATION),
    ("tck-id-topic-structure-namespace-unique-edge-node-descriptor", INSTALLATION),
    ("tck-id-topic-structure-namespace-duplicate-device-id-across-edge-node", INSTALLATION),
    ("tck-id-payloads-nbirth-edge-node-descriptor", INSTALLATION),
    ("tck-id-case-sensitivity-sparkplug-ids", NAMES),
    ("tck-id-case-sensitivity-metric-names", NAMES),
    ("tck-id-principles-persistence-clean-session-50", OLD),
    ("tck-id-payloads-ndeath-will-message-publisher-disconnect-mqtt50", OLD),
    ("tck-id-topics-nbirth-templates", "there are no templates"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// By row, the tests that say that they cover it.
fn covered() -> BTreeMap<String, Vec<String>> {
    let mut covered = BTreeMap::<String, Vec<String>>::new();
    for entry in fs::read_dir(root().join("tests/sparkplug")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "rs") || path.ends_with("checklist.rs") {
            continue;
        }
        let (mut waiting, mut is_test) = (Vec::new(), false);
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(ids) = line.strip_prefix("// covers: ") {
                waiting.extend(ids.split(", ").map(str::to_owned));
            } else if line.starts_with("#[tokio::test") || line == "#[test]" {
                is_test = true;
            } else if let Some((_, name)) = line.split_once("fn ") {
                let name = name.split('(').next().unwrap();
                assert!(waiting.is_empty() || is_test, "{name} covers rows and is no test");
                for id in waiting.drain(..) {
                    covered.entry(id).or_default().push(name.to_owned());
                }
                is_test = false;
            }
        }
        assert!(waiting.is_empty(), "{}: nothing follows {waiting:?}", path.display());
    }
    covered
}

fn table() -> String {
    let mut covered = covered();
    let mut table = String::from(
        "# Sparkplug 3.0, edge node: requirement and test\n\nMade of checklist.csv and the tests: \
         `IRONBRIDGE_WRITE=1 cargo test --test sparkplug checklist`.\n\n| row | says | held by |\n|---|---|---|\n",
    );
    let mut rows = csv::Reader::from_path(root().join("tests/sparkplug/checklist.csv")).unwrap();
    let mut bare = Vec::new();
    for row in rows.records() {
        let row = row.unwrap();
        let (id, says, applies) = (&row[0], &row[2], &row[3] == "yes");
        let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == id);
        let reason = UNTESTABLE.iter().find(|(known, _)| *known == id);
        let held = match (covered.remove(id), elsewhere, reason) {
            (Some(tests), None, None) if applies => {
                tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(" ")
            }
            (None, Some((_, (file, test))), None) if applies => format!("`{test}` in {file}"),
            (None, None, Some((_, why))) if applies => format!("no test: {why}"),
            (None, None, None) if !applies => "not of an edge node, or of what it does not have".to_owned(),
            (None, None, None) => {
                bare.push(id.to_owned());
                continue;
            }
            said => panic!("{id}: said in more than one place, or of no edge node: {said:?}"),
        };
        writeln!(table, "| {} | {says} | {held} |", id.trim_start_matches("tck-id-")).unwrap();
    }
    assert!(bare.is_empty(), "nobody holds {bare:#?}");
    assert!(covered.is_empty(), "no such rows: {covered:?}");
    table
}

#[test]
fn every_row_of_the_checklist_has_a_test_or_a_reason() {
    for (id, (file, test)) in ELSEWHERE {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{id}: no {test} in {file}");
    }
    let (path, wanted) = (root().join("tests/sparkplug/checklist.md"), table());
    if std::env::var_os("IRONBRIDGE_WRITE").is_some_and(|value| value == "1") {
        fs::write(&path, wanted).unwrap();
        return;
    }
    is_up_to_date(&path, &wanted);
}

fn is_up_to_date(path: &Path, wanted: &str) {
    let found = fs::read_to_string(path).unwrap_or_default();
    let again = "run `IRONBRIDGE_WRITE=1 cargo test --test sparkplug checklist` and commit it";
    let line = found.lines().zip(wanted.lines()).take_while(|(found, wanted)| found == wanted).count() + 1;
    assert!(found == wanted, "{}: not what the tests say, from line {line} on: {again}", path.display());
}
