//! What a test leaves out on this machine, said where somebody sees it: `cargo test` swallows what a test that passes prints.

use std::io::Write as _;

/// The file that `.ci/run` reads at its end. Where it is not set the words are only printed.
const FILE: &str = "IRONBRIDGE_SKIPPED";

/// Says that `what` is not tested here, and why.
pub fn skipped(what: &str, why: &str) {
    let line = format!("SKIPPED {what}: {why}\n");
    eprint!("{line}");
    if let Some(file) = std::env::var_os(FILE) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let told = file.and_then(|mut file| file.write_all(line.as_bytes()));
        told.expect("the file of IRONBRIDGE_SKIPPED can be written");
    }
}
