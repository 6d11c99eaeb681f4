//! `ironbridge store torture`: what an owner sees of it.

use std::path::Path;
use std::process::{Command, Output};

fn torture(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ironbridge"))
        .args(["store", "torture", "--dir"])
        .arg(dir)
        .args(more)
        .output()
        .expect("started")
}

fn verdict(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn kills_are_survived_counted_and_told_and_a_ledger_says_later_whether_all_of_it_is_still_there() {
    let home = tempfile::tempdir().expect("a directory");
    let (dir, ledger) = (home.path().join("flash"), home.path().join("ledger"));
    let ledger = ledger.to_str().expect("text");
    let sum = verdict(&torture(&dir, &["--rounds", "3", "--ledger", ledger, "--json"]));
    assert_eq!((&sum["rounds"], &sum["lost"], &sum["duplicates"]), (&3.into(), &0.into(), &0.into()));
    assert!(sum["committed"].as_u64() > Some(0), "{sum}");
    let again = verdict(&torture(&dir, &["--resume", "--ledger", ledger, "--json"]));
    assert!(again["committed"].as_u64() > sum["committed"].as_u64(), "{again}");

    // What the ledger promises and the store does not have is found out.
    let promised = std::fs::read_to_string(ledger).expect("read");
    let line = promised.lines().find(|line| line.starts_with("commit ")).expect("a promise");
    let words: Vec<&str> = line.split(' ').collect();
    let invented = format!("commit {} {} 900000000 900000001 77\n", words[1], words[2]);
    std::fs::write(ledger, promised + &invented).expect("written");
    let wrong = torture(&dir, &["--resume", "--ledger", ledger]);
    let text = String::from_utf8_lossy(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(text.contains("lost             2") && text.contains("NOT whole"), "{text}");
}

#[test]
fn a_directory_that_is_not_its_own_is_refused_and_left_alone() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("meta.db"), b"somebody's store").expect("written");
    let refused = torture(home.path(), &["--rounds", "1"]);
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    assert_eq!(std::fs::read_dir(home.path()).expect("a directory").count(), 1);
}
