//! The targets under libFuzzer: `tests/fuzz/run` builds this with coverage and runs it, one target per process.
#![no_main]

use std::sync::LazyLock;

#[path = "../support/patience.rs"]
mod patience;
mod targets;

use targets::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(i32::from(name != "list"));
    })
});

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); }, |data: &[u8]| (TARGET.run)(data));
