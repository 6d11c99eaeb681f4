//! Every crate we link is under a licence that a product under Apache-2.0 may ship.

use std::process::Command;

/// SPDX ids that may be linked into the binary.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "Unlicense",
    "MIT-0",
    "BSL-1.0",
    "CC0-1.0",
    "MPL-2.0",
    "CDLA-Permissive-2.0",
];

/// `A OR B` is fine when one side is, `A AND B` when both are.
fn fine(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let flat = expression.replace(['(', ')'], "");
    if expression.contains('(') && flat.contains(" AND ") {
        return flat.split(" AND ").all(|side| side.split(" OR ").any(|id| ALLOWED.contains(&id.trim())));
    }
    flat.split(" OR ").any(|side| side.split(" AND ").all(|id| ALLOWED.contains(&id.trim())))
}

#[test]
fn every_linked_crate_may_be_shipped() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100);
    let mut wrong = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        if !fine(licence) {
            wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(wrong.is_empty(), "licences to look at:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_licence_expressions_tells_and_from_or() {
    assert!(fine("MIT OR GPL-3.0"));
    assert!(fine("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(fine("Apache-2.0/MIT"));
    assert!(!fine("MIT AND GPL-3.0"));
    assert!(!fine("GPL-2.0-only"));
    assert!(!fine("none"));
}
