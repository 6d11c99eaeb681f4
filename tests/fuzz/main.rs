//! What strangers can send or write: each target keeps its promises on its corpus and on what chance makes of it.
//!
//! The same targets run under libFuzzer, guided by coverage, with `tests/fuzz/run`. Here they cost seconds and need no tool:
//! every input that ever broke something is replayed, then so many mutations of all of them, the same ones every time.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

#[path = "../support/patience.rs"]
mod patience;
mod targets;

use targets::{TARGETS, Target};

/// A quarter of the bytes of the guided fuzzer: short inputs find as much and cost less.
const BYTES_MAX: usize = 1024;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&home)
        .unwrap_or_else(|error| panic!("{}: {error}", home.display()))
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(&path).expect("readable")))
        .collect();
    inputs.sort();
    inputs
}

/// Bytes turned, taken, doubled, set in from another input.
fn mutate(input: &mut Vec<u8>, others: &[(PathBuf, Vec<u8>)], random: &mut StdRng) {
    const EDGES: [u8; 12] = [0, 1, 2, 3, 0x7F, 0x80, 0xFF, b'\n', b'"', b',', b':', b'['];
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..16)).min(input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => input.insert(at, *EDGES.choose(random).expect("some")),
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part).for_each(drop);
            }
            4 => {
                let (_, other) = others.choose(random).expect("a corpus");
                let from = random.random_range(0..=other.len());
                let part = &other[from..(from + random.random_range(0..64)).min(other.len())];
                input.splice(at..end, part.iter().copied()).for_each(drop);
            }
            _ => input.insert(at, random.random()),
        }
    }
    input.truncate(BYTES_MAX);
}

fn keeps_its_promises(name: &str) {
    let Target { run, mutations, .. } = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let corpus = corpus(name);
    for (path, input) in &corpus {
        println!("{}", path.display());
        run(input);
    }
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..*mutations {
        let mut input = corpus.choose(&mut random).expect("a corpus").1.clone();
        mutate(&mut input, &corpus, &mut random);
        let told = std::panic::catch_unwind(|| run(&input));
        assert!(told.is_ok(), "mutation {round} of {name}: {}", input.escape_ascii());
    }
}

#[test]
fn the_inbox_gives_nothing_for_an_answer_that_is_none_and_finds_the_next_one() {
    keeps_its_promises("inbox");
}

#[test]
fn the_gate_hands_over_whole_valid_answers_to_the_question_that_was_asked() {
    keeps_its_promises("gate");
}

#[test]
fn ascii_frames_are_what_they_were_before_they_were_text() {
    keeps_its_promises("ascii");
}

#[test]
fn lines_are_cut_the_same_however_the_bytes_come() {
    keeps_its_promises("framer");
}

#[test]
fn what_csv_becomes_means_the_same_or_is_refused_with_a_place() {
    keeps_its_promises("csv");
}

#[test]
fn a_configuration_is_a_plan_or_a_list_of_problems_with_places() {
    keeps_its_promises("config");
}

#[test]
fn expressions_are_worked_out_or_refused_with_a_place() {
    keeps_its_promises("expression");
}

#[test]
fn payloads_are_read_or_refused() {
    keeps_its_promises("payload");
}

#[test]
fn commands_of_sparkplug_hosts_are_read_or_refused_whole() {
    keeps_its_promises("sparkplug");
}

#[test]
fn a_conversation_is_answered_legally_or_closed_and_nobody_else_notices() {
    keeps_its_promises("conversation");
}

#[test]
#[cfg(feature = "mqtt-sn")]
fn a_datagram_of_a_sensor_is_a_message_or_refused_and_reads_the_same_when_written_again() {
    keeps_its_promises("sensors");
}

#[test]
#[cfg(feature = "quic")]
fn whatever_datagrams_come_a_door_for_quic_stays_open_for_those_inside_and_those_who_come() {
    keeps_its_promises("quic");
}
