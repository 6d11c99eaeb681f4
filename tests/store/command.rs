//! `ironbridge store …` on a store that is in use, and on one that is damaged.

use crate::rig as support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use clap::Parser as _;
use ironbridge::commands::{Failed, store};
use ironbridge::model::number::Class;
use ironbridge::store::inspect;
use support::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    store: Top,
}

#[derive(clap::Subcommand)]
enum Top {
    Store(store::Args),
}

fn run(words: &[&str], dir: &Path) -> Result<(), Failed> {
    let words = ["ironbridge", "store"].iter().chain(words).copied();
    let Top::Store(args) = Cli::try_parse_from(words).expect("parses").store;
    store::run(&args, |config| {
        assert_eq!(config, Some(Path::new("some.toml")));
        Ok(dir.to_path_buf())
    })
}

#[tokio::test]
async fn status_and_verify_work_beside_the_running_store() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    let mut reader = running.store.reader("cloud").expect("routed");
    for round in 0..20 {
        running.emit(Class::Telemetry, round * 100..(round + 1) * 100).await;
        let dir = home.path().display().to_string();
        run(&["status", "--dir", &dir], home.path()).expect("status");
        run(&["verify", "--config", "some.toml", "--json"], home.path()).expect("whole");
    }
    running.settled(2000).await;
    drain(&mut reader, 1500).await;
    reader.save().await;
    let status = inspect::status(home.path()).expect("readable");
    let telemetry = &status.streams[Class::Telemetry as usize];
    assert_eq!((telemetry.last, telemetry.chunks), (2000, 1));
    assert_eq!(telemetry.first, Some((telemetry.epoch, 1)));
    assert_eq!(status.uplinks[0].backlog, reader.backlog());
    assert!(status.tags == 4 && status.missing.is_empty() && status.unreadable.is_empty());
    drop(reader);
    running.close().await;
}

#[tokio::test]
async fn verify_says_no_where_something_is_wrong_that_no_gap_record_declares() {
    let home = tempfile::tempdir().expect("a directory");
    assert!(matches!(run(&["verify", "--config", "some.toml"], home.path()), Err(Failed::Usage(_))));
    let running = start(opening(home.path()));
    for round in 0..30 {
        running.emit(Class::Bulk, round * 10..round * 10 + 10).await;
        running.settled((round + 1) * 10).await;
    }
    running.close().await;
    run(&["verify", "--config", "some.toml"], home.path()).expect("whole");
    let file = home.path().join("chunk-bulk-000001.db");
    let bytes = std::fs::read(&file).expect("read");
    let frame = bytes.windows(4).position(|window| *window == [0x28, 0xB5, 0x2F, 0xFD]).expect("a zstd frame");
    File::options().write(true).open(&file).expect("open").write_all_at(&[0x55; 3], frame as u64 + 9).expect("written");
    assert!(matches!(run(&["verify", "--config", "some.toml"], home.path()), Err(Failed::Verdict)));
    inspect::status(home.path()).expect("status still works");
}
