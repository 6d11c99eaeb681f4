//! Reads Cargo.lock, version 4.

use toml::Table;

/// The registry of the language; the only one we take crates from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One locked package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// SHA-256 of the crate file as hex; `None` for our own package.
    pub checksum: Option<String>,
    /// As Cargo.lock names them: `name`, or `name version` where two versions of one crate are locked.
    pub dependencies: Vec<String>,
}

/// All packages, in the order of the file.
pub fn packages(text: &str) -> Vec<Package> {
    let lock: Table = text.parse().expect("Cargo.lock is TOML");
    assert_eq!(lock["version"].as_integer(), Some(4), "another version of Cargo.lock may mean other things");
    let list = lock["package"].as_array().expect("packages");
    list.iter().map(|package| one(package.as_table().expect("a package is a table"))).collect()
}

fn one(package: &Table) -> Package {
    let text = |key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let name = text("name").expect("a name");
    let checksum = text("checksum");
    match text("source") {
        Some(source) => {
            assert_eq!(source, CRATES_IO, "{name} is not from crates.io: the recipe fetches from there only");
            assert!(checksum.as_ref().is_some_and(|sum| sum.len() == 64), "{name} has no checksum");
        }
        None => assert_eq!(name, env!("CARGO_PKG_NAME"), "only our own package has no source"),
    }
    let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
    let dependencies = dependencies.into_iter().flatten().map(|d| d.as_str().expect("a name").to_owned()).collect();
    Package { name, version: text("version").expect("a version"), checksum, dependencies }
}

#[test]
fn a_crate_from_elsewhere_is_not_passed_over() {
    let lock =
        "version = 4\n[[package]]\nname = \"odd\"\nversion = \"1.0.0\"\nsource = \"git+https://example.com/odd#1\"\n";
    let refused = std::panic::catch_unwind(|| packages(lock)).expect_err("refused");
    let reason = refused.downcast_ref::<String>().expect("text");
    assert!(reason.contains("odd is not from crates.io"), "{reason}");
}
