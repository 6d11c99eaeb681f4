//! What the README shows works: its configurations check, its commands and options exist.

use std::path::Path;
use std::process::Command;

use ironbridge::config::{self, HostFacts};

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let fence = format!("```{language}\n");
    let found: Vec<_> = readme
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().expect("split yields one part").to_owned())
        .collect();
    assert!(!found.is_empty(), "the README has {language} blocks");
    found
}

#[test]
fn every_configuration_of_the_readme_checks() {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let dir = tempfile::tempdir().expect("temporary directory");
    for block in blocks("toml") {
        if let Err(problems) = config::parse(&block, &dir.path().join("ironbridge.toml"), &facts) {
            panic!("{problems}\nin\n{block}");
        }
    }
}

#[test]
fn every_command_and_option_of_the_readme_exists() {
    let mut tried = 0;
    for block in blocks("sh") {
        let joined = block.replace("\\\n", " ");
        for line in joined.lines().map(str::trim).filter(|line| line.starts_with("ironbridge ")) {
            let line = line.split('#').next().expect("split yields one part");
            let words: Vec<_> = line.split_whitespace().skip(1).take_while(|word| *word != "&").collect();
            let command: Vec<_> = words.iter().take_while(|word| word.chars().all(char::is_alphabetic)).collect();
            let help =
                Command::new(env!("CARGO_BIN_EXE_ironbridge")).args(&command).arg("--help").output().expect("runs");
            assert!(help.status.success(), "{line}");
            let help = String::from_utf8(help.stdout).expect("utf-8");
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(*option), "`{option}` of `{line}` is not in its --help");
            }
            tried += 1;
        }
    }
    assert!(tried >= 5, "the README shows commands");
}
