//! The table in README.md is what is tested: each row names tests that exist, and there is no way to switch anything off.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::path::Path;

use ironbridge::config::schema;

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Keys of `[[uplink]]`.
const UPLINK: &str = "name url urls client_id ca_file certificate key username password_file proxy proxy_username \
    proxy_password_file mqtt_version format layout compress group_id edge_node_id primary_host host_timeout datatypes \
    batch_samples batch_interval summary_after topic_prefix delivery classes start max_rate budget reserve overrun \
    keep_alive preset sas_key_file commands session_expiry down path";

/// Keys of `[[bridge]]`.
const BRIDGE: &str = "name url urls client_id ca_file certificate key username password_file proxy proxy_username \
    proxy_password_file mqtt_version keep_alive max_rate session_expiry max_size max_age notifications topic";

#[test]
fn every_row_of_the_table_names_tests_that_exist() {
    let table = std::fs::read_to_string(home().join("tests/security/README.md")).unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")).collect();
    assert!(rows.len() >= 20, "{}", rows.len());
    for row in rows {
        let named: Vec<_> = row.split('`').skip(1).step_by(2).filter(|word| word.contains(".rs::")).collect();
        assert!(!named.is_empty(), "no test in: {row}");
        for test in named {
            let (file, name) = test.split_once("::").unwrap();
            let text = std::fs::read_to_string(home().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {name}(")), "{test} is gone");
        }
    }
}

#[test]
fn no_key_of_the_configuration_makes_anything_less_secure() {
    let bad =
        ["insecure", "skip", "accept_invalid", "no_verify", "trust_all", "unsafe", "disable", "danger", "plaintext"];
    // MQTT-SN has no encryption: who opens such a door beyond this machine says with it that the network is not a safe one.
    let admits = "broker.listener.insecure_network";
    for path in schema::all_paths().into_iter().filter(|path| path != admits) {
        assert!(!bad.iter().any(|word| path.contains(word)), "{path}");
    }
    // What decides whom an uplink trusts and what a door asks for, word by word: a key that is added here was thought about.
    for (table, known) in [
        ("broker.listener.tls", "certificate key client_ca client_certificate"),
        ("status.tls", "certificate key"),
        ("uplink", UPLINK),
        ("bridge", BRIDGE),
    ] {
        let inside = |path: &String| path.strip_prefix(table)?.strip_prefix('.').map(str::to_owned);
        let keys: Vec<_> = schema::all_paths().iter().filter_map(inside).filter(|key| !key.contains('.')).collect();
        assert_eq!(keys.join(" "), known, "{table}");
    }
    let of_tls = |path: &String| Some(path.rsplit_once(".tls.")?.0.to_owned());
    let doors: BTreeSet<_> = schema::all_paths().iter().filter_map(of_tls).collect();
    assert_eq!(doors, ["broker.listener", "status"].map(str::to_owned).into());
    let verify: Vec<_> = schema::all_paths().into_iter().filter(|path| path.contains("verify")).collect();
    assert_eq!(verify, ["device.tag.write.verify"], "which reads a written register back");
}

#[test]
fn the_ids_of_the_audit_trail_its_table_and_the_readme_are_the_same() {
    fn ids(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                ids(&entry.path(), found);
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let said = text.split("audit = \"").chain(text.split("journal::audit(\"").skip(1)).skip(1);
            found.extend(said.filter_map(|rest| Some(rest.split('"').next()?.to_owned())));
        }
    }
    let mut written = BTreeSet::new();
    ids(&home().join("src"), &mut written);
    assert!(written.len() >= 10, "{written:?}");
    let table = std::fs::read_to_string(home().join("src/access/audit.rs")).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "));
    let rows: BTreeSet<_> = rows.map(|(id, _)| id.to_owned()).filter(|id| id != "audit").collect();
    assert_eq!(rows, written, "the table of access/audit.rs, and what is written");
    let readme = std::fs::read_to_string(home().join("README.md")).unwrap();
    let (_, trail) = readme.split_once("The audit trail is lines of the journal").unwrap();
    let (_, listed) = trail.split("\n\n").next().unwrap().split_once("):").unwrap();
    let listed: BTreeSet<_> = listed.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(listed, written, "what the README lists, and what is written");
}
