//! `config/ironbridge.cdx.json`: what the shipped program may be made of, for those who must answer an advisory.
//!
//! CycloneDX 1.5. One component per crate, with its package URL, the SHA-256 of its crate file and its licence, and who needs
//! whom. Licences are those that the crates in cargo's registry say of themselves; what was never fetched here, because only
//! other platforms link it, keeps the one that the file has, if any. Their texts: systemd/deb/notices.
//! Taken from Cargo.lock by following the dependencies that are not optional in Cargo.toml; so neither tests nor the
//! simulated cloud are in it. Cargo.lock does not say for which platform a dependency is: a crate that only Windows or
//! macOS would link is listed too. Never fewer than are linked, and the property `ironbridge:coverage` says so. No time
//! and no serial number: the same lock makes the same file.
//!
//! ```text
//! {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
//!  "metadata": {"component": {…ironbridge itself…}, "properties": […]},
//!  "components": [{"type": "library", "bom-ref": "pkg:cargo/<name>@<version>", "name", "version", "purl",
//!                  "hashes": [{"alg": "SHA-256", "content": "<hex>"}], "licenses": [{"expression": "MIT OR Apache-2.0"}]}, …],
//!  "dependencies": [{"ref": "pkg:cargo/…", "dependsOn": ["pkg:cargo/…", …]}, …]}
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::lock::{Package, packages};
use crate::recipe::recipe;
use crate::skip::skipped;
use crate::{is_up_to_date, read, tree};

const COVERAGE: &str = "upper bound: every crate that a build without default features could link on any platform";

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The package that a line of `dependencies` means: `name`, or `name version` where the name alone is not enough.
fn meant<'a>(packages: &'a [Package], line: &str) -> &'a Package {
    let mut words = line.split(' ');
    let (name, version) = (words.next(), words.next());
    let fits = |package: &&Package| {
        Some(package.name.as_str()) == name && version.is_none_or(|version| version == package.version)
    };
    packages.iter().find(fits).unwrap_or_else(|| panic!("Cargo.lock does not lock {line}"))
}

/// The dependencies of our own package that every build has.
fn always_linked(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
    let table = manifest["dependencies"].as_table().expect("dependencies");
    let optional = |value: &toml::Value| value.get("optional").and_then(toml::Value::as_bool) == Some(true);
    table.iter().filter(|(_, value)| !optional(value)).map(|(name, _)| name.clone()).collect()
}

/// What `package` needs, of our own package only what every build has.
fn needs<'a>(packages: &'a [Package], package: &Package, roots: &BTreeSet<String>) -> Vec<&'a Package> {
    let lines = package.dependencies.iter();
    let needed = lines.map(|line| meant(packages, line));
    needed.filter(|needed| package.checksum.is_some() || roots.contains(&needed.name)).collect()
}

/// Where cargo unpacks crates.
fn registry() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    sources.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What a crate says of its licence, as an SPDX expression; some still write `/` for `OR`.
fn licence(registry: &[PathBuf], package: &Package) -> Option<String> {
    let manifest = format!("{}-{}/Cargo.toml", package.name, package.version);
    let text = registry.iter().find_map(|place| std::fs::read_to_string(place.join(&manifest)).ok())?;
    let manifest: toml::Table = text.parse().expect("a manifest is TOML");
    Some(manifest.get("package")?.get("license")?.as_str()?.replace('/', " OR "))
}

/// What the file has.
fn licence_before(bill: &Value, package: &Package) -> Option<String> {
    let component = bill["components"].as_array()?.iter().find(|component| component["purl"] == purl(package))?;
    component["licenses"][0]["expression"].as_str().map(str::to_owned)
}

fn bill(packages: &[Package], roots: &BTreeSet<String>, licence: impl Fn(&Package) -> Option<String>) -> Value {
    let own = packages.iter().find(|package| package.checksum.is_none()).expect("our own package");
    let mut seen = BTreeSet::from([purl(own)]);
    let mut next = vec![own];
    while let Some(package) = next.pop() {
        next.extend(needs(packages, package, roots).into_iter().filter(|needed| seen.insert(purl(needed))));
    }
    let listed: Vec<&Package> = packages.iter().filter(|package| seen.contains(&purl(package))).collect();
    let component = |package: &Package| {
        let mut component = json!({"type": "library", "bom-ref": purl(package), "name": package.name,
            "version": package.version, "purl": purl(package),
            "hashes": [{"alg": "SHA-256", "content": package.checksum}]});
        if let Some(expression) = licence(package) {
            component["licenses"] = json!([{ "expression": expression }]);
        }
        component
    };
    let edges = |package: &Package| {
        let needed: BTreeSet<String> = needs(packages, package, roots).into_iter().map(purl).collect();
        json!({"ref": purl(package), "dependsOn": needed})
    };
    json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": purl(own), "name": own.name, "version": own.version,
                "licenses": [{"license": {"id": env!("CARGO_PKG_LICENSE")}}], "purl": purl(own)},
            "properties": [{"name": "ironbridge:coverage", "value": COVERAGE}],
        },
        "components": listed.iter().filter(|package| package.checksum.is_some()).map(|p| component(p)).collect::<Vec<_>>(),
        "dependencies": listed.iter().map(|package| edges(package)).collect::<Vec<_>>(),
    })
}

#[test]
fn the_bill_of_materials_is_that_of_cargo_lock() {
    let packages = packages(&read(&tree("Cargo.lock")));
    let (path, registry) = (tree("config/ironbridge.cdx.json"), registry());
    let before = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    let before: Value = before.unwrap_or_default();
    let known = |package: &Package| licence(&registry, package).or_else(|| licence_before(&before, package));
    let bill = bill(&packages, &always_linked(&read(&tree("Cargo.toml"))), known);
    let text = format!("{}\n", serde_json::to_string_pretty(&bill).expect("JSON"));
    for (name, listed) in [("libsqlite3-sys", true), ("rustls", true), ("rumqttd", false), ("proptest", false)] {
        assert_eq!(text.contains(&format!("\"pkg:cargo/{name}@")), listed, "{name}");
    }
    is_up_to_date(&path, &text);
}

/// What a recipe may call of the programs of the machine that builds it: those of `HOSTTOOLS` in bitbake.conf of the oldest
/// supported series that a script could want.
const HOST_TOOLS: &str = "awk basename bash cat chmod cmp comm cp cut date diff dirname du echo egrep env expand expr false fgrep \
    file find flock gawk getopt grep gunzip gzip head install ln ls md5sum mkdir mktemp mv od patch perl pr printf pwd python3 \
    readlink realpath rm rmdir sed seq sh sha1sum sha256sum sleep sort split stat strings tail tar tee test touch tr true uname \
    uniq wc which xargs";

#[test]
fn the_licence_texts_of_what_is_linked_come_with_the_packages_and_bitbake_has_all_that_it_takes_to_make_them() {
    let (tools, path) = (tempfile::tempdir().expect("a directory"), std::env::var_os("PATH").expect("a path"));
    for name in HOST_TOOLS.split_whitespace() {
        if let Some(tool) = std::env::split_paths(&path).map(|place| place.join(name)).find(|tool| tool.is_file()) {
            std::os::unix::fs::symlink(tool, tools.path().join(name)).expect("linked");
        }
    }
    let notices = Command::new("bash").arg(tree("systemd/deb/notices")).env("PATH", tools.path()).output();
    let Ok(output) = notices else {
        skipped("licence texts of the packages", "bash is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["    rustls-", "    libsqlite3-sys-", "Permission is hereby granted", "BSD License"] {
        assert!(text.contains(part), "{part}");
    }
    assert!(text.len() < 1 << 20, "each text once: {}", text.len());
    for (package, line) in [("systemd/deb/build", "/NOTICES"), ("systemd/deb/copyright", "NOTICES.gz")] {
        assert!(read(&tree(package)).contains(line), "{package}");
    }
    // What lies in docdir is of ironbridge-doc, which no image has.
    assert!(recipe().contains("${CARGO_VENDORING_DIRECTORY} > ${D}${datadir}/ironbridge/NOTICES\n"));
}

#[test]
fn two_versions_of_a_crate_are_told_apart_and_what_is_optional_is_left_out() {
    let package = |name: &str, version: &str, dependencies: &[&str]| Package {
        name: name.to_owned(),
        version: version.to_owned(),
        checksum: (name != "own").then(|| "00".to_owned()),
        dependencies: dependencies.iter().map(|line| (*line).to_owned()).collect(),
    };
    let packages = [
        package("cloud", "1.0.0", &["rand 0.8.0"]),
        package("own", "0.1.0", &["cloud", "store"]),
        package("rand", "0.8.0", &[]),
        package("rand", "0.9.0", &[]),
        package("store", "2.0.0", &["rand 0.9.0"]),
    ];
    let roots = always_linked("[dependencies]\nstore = \"2\"\ncloud = { version = \"1\", optional = true }\n");
    let bill = bill(&packages, &roots, |package| (package.name == "store").then(|| "MIT".to_owned()));
    let names: Vec<&str> =
        bill["components"].as_array().expect("a list").iter().filter_map(|c| c["purl"].as_str()).collect();
    assert_eq!(names, ["pkg:cargo/rand@0.9.0", "pkg:cargo/store@2.0.0"]);
    assert_eq!(bill["components"][1]["licenses"], json!([{"expression": "MIT"}]));
    assert_eq!(bill["components"][0].get("licenses"), None, "nobody knows it");
    assert_eq!(bill["dependencies"][0], json!({"ref": "pkg:cargo/own@0.1.0", "dependsOn": ["pkg:cargo/store@2.0.0"]}));
}
