//! The house rules, as a test: who may import whom, where foreign crates live, sizes, words, leftovers, what comments say.
//!
//! A plain reader of lines: it looks at `crate::room` in any line of `src`, so a rule cannot be dodged by a full path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may import (besides itself and `model`).
const FLOORS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &[]),
    ("payload", &[]),
    ("flow", &[]),
    ("disk", &[]),
    ("road", &[]),
    ("recording", &[]),
    ("access", &["config", "disk"]),
    ("pipeline", &["config"]),
    ("field", &["config", "payload", "flow", "disk", "access", "pipeline", "road", "recording"]),
    ("broker", &["config", "payload", "flow", "disk", "access", "pipeline", "road"]),
    ("store", &["config", "payload", "flow", "disk", "access", "pipeline", "road"]),
    ("uplink", &["config", "payload", "flow", "disk", "access", "pipeline", "road", "store"]),
    ("plant", &["config", "payload", "flow", "disk", "access", "pipeline", "road", "recording"]),
    ("receive", &["config", "payload", "flow", "disk", "access", "pipeline", "road"]),
    ("status", &["config", "payload", "flow", "disk", "access", "pipeline", "road"]),
    ("host", &["config", "payload", "flow", "disk", "access", "pipeline", "road"]),
];

/// Foreign crates and the folders (or files) below `src` they may be named in.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite::", &["disk/"]),
    ("parquet::", &["store/export/"]),
    ("rumqttc::", &["uplink/", "receive/", "broker/wire/tests.rs"]),
    ("tokio_modbus::client", &["field/modbus/"]),
    ("tokio_serial::", &["field/"]),
    ("rumqttd::", &["plant/cloud"]),
    ("rcgen::", &["plant/"]),
    ("regex::", &["config/plan/line.rs"]),
    ("flate2::", &["payload/sparkplug/"]),
    ("tokio_tungstenite::", &["road/"]),
    ("futures_util::", &["road/"]),
    ("socket2::", &["road/", "broker/door/"]),
    ("axum::", &["status/"]),
    ("hyper::", &["status/"]),
    ("hyper_util::", &["status/"]),
    ("prometheus_client::", &["status/"]),
    ("mimalloc::", &["main.rs"]),
    ("ring::digest", &["payload/batch/", "road/websocket.rs", "access/", "broker/door/sensors/names.rs"]),
    ("use nix::", &["broker/door/sensors/port.rs"]),
    ("ring::hmac", &["uplink/azure.rs", "access/", "road/quic/", "road/server.rs"]),
    ("quinn::", &["road/quic/"]),
    ("quinn_proto::", &["road/quic/"]),
    ("ring::pbkdf2", &["access/"]),
    ("argon2::", &["access/"]),
    ("clap_complete::", &["commands/completions.rs"]),
    ("clap_mangen::", &["commands/man.rs"]),
    ("SystemTime::now", &["host/clock.rs"]),
    ("thread::sleep", &["store/", "disk/"]), // they have threads of their own; async code must not block
];

/// File names that say nothing.
const BANNED_NAMES: &[&str] =
    &["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "manager.rs", "service.rs"];

/// Leftovers and shortcuts that do not belong into `src` outside tests.
const BANNED_TEXT: &[&str] =
    &["todo!", "unimplemented!", "dbg!(", ".unwrap()", "unbounded_channel", "unsafe {", "unsafe_code"];

/// Papers that whoever reads the source does not have: state the fact, or name what stands in this repository.
const BANNED_PAPERS: &[&str] =
    &["contract", "architecture, section", "design notes", "field design", "(design", "store-and-uplink", "field.md"];

/// The ioctls of serial ports have no safe door.
const UNSAFE_FILE: &str = "field/carrier/ioctl.rs";

/// A source file has one job; above this it surely has two.
const LINES_MAX: usize = 400;

/// rustfmt leaves comments as they are.
const HEAD_WIDTH_MAX: usize = 140;

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
    let mut all: Vec<_> = found.iter().map(|path| (name(path), fs::read_to_string(path).expect("utf-8"))).collect();
    all.sort();
    assert!(all.len() > 30, "the walk found the sources");
    all
}

/// The part before the unit tests.
fn product(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().expect("split yields one part")
}

/// The same, and each path of a `use` that names several, written out: no rule is dodged by a pair of braces.
fn code_and_uses(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = code_lines(text).map(|(line, code)| (line, code.to_owned())).collect();
    let mut uses = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (line, code) in &lines {
        let begins = ["use ", "pub use ", "pub(super) use ", "pub(crate) use "];
        if open.is_none() && begins.iter().any(|word| code.trim_start().starts_with(word)) {
            open = Some((*line, String::new()));
        }
        let Some((begun, whole)) = &mut open else { continue };
        whole.push_str(code.trim());
        if whole.ends_with(';') {
            let tree = whole.split_once("use ").map_or("", |(_, tree)| tree).trim_end_matches(';');
            written_out("", tree, &mut |path| uses.push((*begun, path)));
            open = None;
        }
    }
    lines.append(&mut uses);
    lines
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn written_out(before: &str, tree: &str, each: &mut dyn FnMut(String)) {
    let Some((head, rest)) = tree.split_once('{') else { return each(format!("{before}{}", tree.trim())) };
    let before = format!("{before}{}", head.trim());
    let (mut depth, mut begin) = (0_u32, 0);
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[begin..at].trim().is_empty() {
                    written_out(&before, &inner[begin..at], each);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn fail_with(problems: &[String]) {
    assert!(problems.is_empty(), "{} house rules broken:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn rooms_import_only_from_their_floor_and_below() {
    let floors: BTreeMap<_, _> = FLOORS.iter().copied().collect();
    let mut problems = Vec::new();
    for (file, text) in sources() {
        let room = file.split('/').next().expect("room");
        let Some(allowed) = floors.get(room) else { continue };
        for (line, code) in code_and_uses(product(&text)) {
            for part in code.split("crate::").skip(1) {
                let target: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known =
                    floors.contains_key(target.as_str()) || ["app", "commands", "cli"].contains(&target.as_str());
                if known && target != room && target != "model" && !allowed.contains(&target.as_str()) {
                    problems.push(format!("src/{file}:{line}: {room} may not import {target}"));
                }
            }
        }
    }
    fail_with(&problems);
}

/// The floors of the app are what its head says.
#[test]
fn no_module_of_the_app_uses_one_above_it() {
    let sources = sources();
    let (_, app) = sources.iter().find(|(file, _)| file == "app/mod.rs").expect("it is there");
    let floors: Vec<&str> = head(app).flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    let height = |module: &str| floors.iter().position(|name| *name == module);
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut problems = Vec::new();
    for (file, text) in &sources {
        let Some(own) = file.strip_prefix("app/").map(word).filter(|own| own != "mod") else { continue };
        let app_is = if file.matches('/').count() == 1 {
            ["crate::app::", "super::"]
        } else {
            ["crate::app::", "super::super::"]
        };
        for (line, code) in code_and_uses(product(text)) {
            for used in app_is.iter().flat_map(|path| code.split(path).skip(1)).map(word) {
                if height(&used) > height(&own) {
                    problems.push(format!("src/{file}:{line}: {own} may not use {used}, which stands above it"));
                }
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn the_ground_floor_knows_no_runtime_no_io_no_clock() {
    let mut problems = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("model/") || file.starts_with("pipeline/"))
    {
        for (line, code) in code_lines(product(text)) {
            for word in ["tokio", "std::fs", "std::net", "std::io", "Instant::now", "rand::"] {
                if code.contains(word) {
                    problems.push(format!("src/{file}:{line}: {word} on the ground floor"));
                }
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn foreign_crates_live_in_one_room_each() {
    let mut problems = Vec::new();
    let mut unused: BTreeSet<(&str, &str)> =
        CRATES.iter().flat_map(|(word, places)| places.iter().map(|place| (*word, *place))).collect();
    for (file, text) in sources() {
        // Tests in a file of their own are no part of the product, and have a place too.
        for (line, code) in code_and_uses(product(&text)) {
            for (word, places) in CRATES.iter().filter(|(word, _)| code.contains(word)) {
                let mut known = false;
                for place in places.iter().filter(|place| file.starts_with(**place)) {
                    unused.remove(&(*word, *place));
                    known = true;
                }
                if !known {
                    problems.push(format!("src/{file}:{line}: {word} belongs into {places:?}"));
                }
            }
        }
    }
    problems.extend(unused.into_iter().map(|(word, place)| format!("{word} is nowhere in src/{place}")));
    fail_with(&problems);
}

/// Of a task that has ended nobody asks whether it makes progress: its panic must be somebody's matter.
#[test]
fn whatever_runs_for_the_life_of_a_part_is_missed_when_it_panics() {
    let by_name = ["app/supervisor.rs", "app/derived.rs"]; // they wait for it, and build it anew or tell
    let mut problems = Vec::new();
    for (file, text) in
        sources().iter().filter(|(file, _)| file.starts_with("app/") || file.starts_with("broker/door/"))
    {
        for (line, code) in code_lines(product(text)) {
            if code.contains("progress.watch(") && !by_name.contains(&file.as_str()) {
                problems.push(format!("src/{file}:{line}: run it under supervisor::Crew"));
            }
            let door = file == "broker/door/mod.rs" || file == "broker/door/warden.rs";
            let guarded = ["needed(", "progress::part(", "spawn(async move {"].iter().any(|known| code.contains(known));
            if door && code.contains("tracker.spawn(") && !guarded {
                problems.push(format!("src/{file}:{line}: run it under door::needed"));
            }
        }
    }
    let named = |part: &str, how: &str| {
        let (_, text) = sources().into_iter().find(|(file, _)| file == part).expect("it is there");
        assert!(product(&text).contains(how), "src/{part} has {how}");
    };
    named("app/uplinks.rs", "tokio::spawn(crew.run_one(kind, ");
    named("app/status.rs", "quarters.spawn(crew.run(\"status\", ");
    named("app/watchdog.rs", "tasks.spawn(crew.run_one(\"store\", ");
    named("broker/door/warden.rs", "needed(\"door\", ");
    named("broker/door/warden.rs", "needed(\"certificates\", ");
    fail_with(&problems);
}

#[test]
fn files_are_short_named_after_something_and_open_with_a_word_about_themselves() {
    let mut problems = Vec::new();
    for (file, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("src/{file}: {lines} lines, at most {LINES_MAX}"));
        }
        if !text.starts_with("//!") {
            problems.push(format!("src/{file}: does not open with //!"));
        }
        if BANNED_NAMES.iter().any(|name| file.ends_with(&format!("/{name}"))) {
            problems.push(format!("src/{file}: a name that says nothing"));
        }
    }
    fail_with(&problems);
}

/// The lines of a file about itself, without their slashes.
fn head(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map_while(|line| line.strip_prefix("//!"))
}

#[test]
fn the_head_of_a_room_names_what_is_in_it() {
    let mut problems = Vec::new();
    for (file, text) in sources() {
        // between backticks, and in drawings: those stand between three of them, which is as odd a place
        let head: String = head(&text).flat_map(|line| [line, "\n"]).collect();
        let spans = head.split('`').skip(1).step_by(2);
        let named: Vec<&str> = spans.flat_map(|span| span.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0] != "#[cfg(test)]") {
            let module =
                pair[1].split_once("mod ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
            let Some(name) = module.and_then(|(_, name)| name.strip_suffix(';')) else { continue };
            if !named.contains(&name) {
                problems.push(format!("src/{file}: its head says nothing of `{name}`"));
            }
        }
        for line in text.lines().filter(|line| line.starts_with("//!") && !line.starts_with("//! |")) {
            if line.chars().count() > HEAD_WIDTH_MAX {
                problems.push(format!("src/{file}: a line of its head has more than {HEAD_WIDTH_MAX} characters"));
            }
        }
    }
    fail_with(&problems);
}

/// Looked for below `src`, below whatever the row has named so far, and with a slash in front at the top of the repository.
#[test]
fn every_path_of_the_tour_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tour = fs::read_to_string(root.join("src/lib.rs")).expect("the tour");
    let table =
        tour.lines().skip_while(|line| !line.contains("## Where is")).take_while(|line| !line.contains("## Floors"));
    let (mut problems, mut found) = (Vec::new(), 0);
    for places in table.filter(|line| line.starts_with("//! |")).filter_map(|row| row.split(" | ").nth(2)) {
        let mut bases = vec![root.join("src")];
        for word in places.split('`').skip(1).step_by(2) {
            let path = word.replace("::", "/");
            let at_top = path.strip_prefix('/').map(|path| root.join(path)).into_iter();
            let below = bases.iter().rev().flat_map(|base| [base.join(&path), base.join(format!("{path}.rs"))]);
            match at_top.chain(below).find(|place| place.exists()) {
                Some(place) => bases.push(place),
                None => problems.push(format!("src/lib.rs: the tour names `{word}`, which is not there: {places}")),
            }
            found += 1;
        }
    }
    assert!(found > 200, "{found} paths: is it still a table?");
    fail_with(&problems);
}

#[test]
fn comments_cite_only_what_the_reader_has() {
    let mut problems = Vec::new();
    for (file, text) in sources() {
        for (line, comment) in text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, line.split_once("//")?.1)))
        {
            for paper in BANNED_PAPERS.iter().filter(|paper| comment.contains(**paper)) {
                problems.push(format!("src/{file}:{line}: {paper} is not in this repository"));
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn no_leftovers_and_no_shortcuts_in_the_product() {
    let mut problems = Vec::new();
    for (file, text) in sources() {
        for (line, code) in code_lines(product(&text)) {
            for word in BANNED_TEXT {
                if code.contains(word) && !(word.starts_with("unsafe") && file == UNSAFE_FILE) {
                    problems.push(format!("src/{file}:{line}: {word}"));
                }
            }
        }
    }
    fail_with(&problems);
}

/// Unit tests are run on the box, too (ptest), where there is no source tree; `include_str!` brings along what they need.
#[test]
fn no_unit_test_needs_the_source_tree_when_it_runs() {
    let mut problems = Vec::new();
    for (file, text) in sources() {
        for (line, code) in code_lines(&text) {
            for word in ["CARGO_MANIFEST_DIR", "file!()"] {
                if code.contains(word) {
                    problems.push(format!("src/{file}:{line}: {word} is nowhere on a box"));
                }
            }
        }
    }
    fail_with(&problems);
}

#[test]
fn the_top_level_holds_what_was_agreed_and_nothing_else() {
    let agreed =
        ["Cargo.toml", "Cargo.lock", "src", "config", "systemd", "yocto", "tests", "README.md", "LICENSE", "target"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut strangers = Vec::new();
    for entry in fs::read_dir(root).expect("readable") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !agreed.contains(&name.as_str()) {
            strangers.push(name);
        }
    }
    fail_with(&strangers);
}
