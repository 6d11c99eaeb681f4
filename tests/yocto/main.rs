//! The layer in yocto/meta-ironbridge: it names what Cargo.lock, Cargo.toml and the tree name, and its scripts decide as
//! they promise. No BitBake is needed, and no network.
//!
//! After a change of Cargo.lock, for the list of crates and the bill of materials:
//!
//! ```text
//! IRONBRIDGE_WRITE=1 cargo test --test yocto cargo_lock
//! ```

#[path = "../support/skip.rs"]
mod skip;

mod boxes;
mod crates;
mod health;
mod hook;
mod lock;
mod recipe;
mod sbom;
mod seed;
mod trial;

use std::path::{Path, PathBuf};

/// A place in the source tree.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A place in the layer.
fn layer(path: &str) -> PathBuf {
    tree("yocto/meta-ironbridge").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a generated file differs from what it is generated from: says so, or with `IRONBRIDGE_WRITE=1` writes it anew.
fn is_up_to_date(path: &Path, wanted: &str) {
    if std::env::var_os("IRONBRIDGE_WRITE").is_some_and(|value| value == "1") {
        std::fs::write(path, wanted).expect("the generated file can be written");
        return;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let line = found.lines().zip(wanted.lines()).take_while(|(found, wanted)| found == wanted).count() + 1;
    assert!(
        found == wanted,
        "{} is not what Cargo.lock says, from line {line} on: run `IRONBRIDGE_WRITE=1 cargo test --test yocto` and commit it",
        path.display()
    );
}
