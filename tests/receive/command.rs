//! `ironbridge receive` against a real MQTT stream: each record once, and the truth about what is missing.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::cloud;
use crate::owed;
use crate::rig;

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use ironbridge::commands::Failed;
use ironbridge::commands::receive::{ReceiveArgs, run};
use ironbridge::flow::stop::Stop;
use tokio::task::JoinHandle;

use cloud::Cloud;
use owed::OwedList;
use rig::{Rig, clock};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReceiveArgs,
}

struct Receiving {
    stop: Stop,
    task: JoinHandle<Result<(), Failed>>,
}

fn receive(url: &str, options: &[&str]) -> Receiving {
    let line = Line::try_parse_from(["receive", url].iter().chain(options)).unwrap();
    let stop = Stop::new();
    Receiving { task: tokio::spawn(run(line.args, clock(), stop.clone())), stop }
}

impl Receiving {
    async fn stopped(self) -> Result<(), Failed> {
        self.stop.begin();
        tokio::time::timeout(Duration::from_secs(120), self.task).await.expect("ends in time").expect("does not panic")
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn record(seq: u64) -> Vec<u8> {
    format!(r#"{{"value":{seq},"quality":"good","time":"T","stream":"telemetry","epoch":7,"seq":{seq}}}"#).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_uplink_through_cuts_of_both_links_every_record_is_written_once() {
    let cloud = Cloud::start().await;
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("all.csv");
    let url = format!("mqtt://{}", cloud.address);
    let options =
        ["--out", out.to_str().unwrap(), "--client-id", "lake", "--from-start", "--expect-complete", "--json"];
    let receiving = receive(&url, &options);
    let owed = OwedList::default();
    owed.samples(1..=6000);
    cloud.cut_after(Some(1000));
    let rig = Rig::start(&cloud, &owed);
    cloud.until("all acknowledged", |_| owed.acknowledged() == 6000).await;
    cloud.cut_after(None);
    cloud.cut(); // the receiver's connection too
    cloud.until("all written", |_| lines(&out).len() == 6001).await;
    owed.end();
    rig.finished().await;
    receiving.stopped().await.expect("nothing is missing");
    let mut seqs: Vec<u64> =
        lines(&out)[1..].iter().map(|line| line.split(',').nth(7).unwrap().parse().unwrap()).collect();
    seqs.dedup();
    assert_eq!(seqs, (1..=6000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_fails_the_verdict_and_what_was_declared_lost_does_not() {
    for (declared, complete) in [(false, false), (true, true)] {
        let cloud = Cloud::start().await;
        for seq in [1, 2, 3, 7, 8, 3] {
            cloud.deliver("acme/pump/pressure", &record(seq));
        }
        cloud.deliver("acme/pump/pressure", b"not ours");
        if declared {
            let gap = br#"{"stream":"telemetry","epoch":7,"first":4,"last":6,"count":3,"reason":"evicted"}"#;
            cloud.deliver("ironbridge/gw/gap", gap);
        }
        cloud.deliver("acme/pump/pressure", &record(9));
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("all.ndjson");
        let url = format!("mqtt://{}", cloud.address);
        let receiving = receive(&url, &["--out", out.to_str().unwrap(), "--expect-complete"]);
        let expected = if declared { 7 } else { 6 };
        cloud.until("all written", |_| lines(&out).len() == expected).await;
        let first: serde_json::Value = serde_json::from_str(&lines(&out)[0]).unwrap();
        assert_eq!((first["topic"].as_str(), first["seq"].as_u64()), (Some("acme/pump/pressure"), Some(1)));
        match receiving.stopped().await {
            Ok(()) => assert!(complete),
            Err(Failed::Verdict) => assert!(!complete),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_is_refused_and_what_its_reader_leaves_behind_is_not_acknowledged() {
    let cloud = Cloud::start().await;
    let home = tempfile::tempdir().unwrap();
    let pipe = home.path().join("lines");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    cloud.deliver("acme/pump/pressure", &record(1));
    let url = format!("mqtt://{}", cloud.address);
    let options = |limit| ["--ndjson", pipe.to_str().unwrap(), "--client-id", "lake", "--for", limit];
    let error = receive(&url, &options("2s")).task.await.unwrap().expect_err("nobody reads");
    assert!(error.code() == 75 && error.to_string().contains("nobody reads"), "{error}");
    assert_eq!((cloud.connects().len(), cloud.acknowledged()), (0, 0));
    // Does not wait for a writer.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap();
    let receiving = receive(&url, &options("60s"));
    cloud.until("written", |_| cloud.acknowledged() == 1).await;
    let mut line = [0; 512];
    let length = reader.read(&mut line).unwrap();
    assert!(line[..length].starts_with(br#"{"topic":"acme/pump/pressure""#) && line[length - 1] == b'\n');
    drop(reader);
    cloud.deliver("acme/pump/pressure", &record(2));
    let ended = tokio::time::timeout(Duration::from_secs(30), receiving.task).await.expect("at once").unwrap();
    let error = ended.expect_err("nobody reads any more");
    assert!(error.code() == 75 && error.to_string().contains("cannot write"), "{error}");
    assert_eq!(cloud.acknowledged(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_refuses_or_is_not_there_ends_with_try_again() {
    let cloud = Cloud::start().await;
    cloud.refuse_session(Some(rumqttc::ConnectReturnCode::BadUserNamePassword));
    let url = format!("mqtt://{}", cloud.address);
    let refused = tokio::time::timeout(Duration::from_secs(120), receive(&url, &["--quiet"]).task);
    assert_eq!(refused.await.expect("at once").unwrap().expect_err("refused").code(), 75);
    cloud.refuse_connections(true);
    let nobody = tokio::time::timeout(Duration::from_secs(120), receive(&url, &["--quiet", "--for", "300ms"]).task);
    let error = nobody.await.expect("--for ends it").unwrap().expect_err("nobody there");
    assert_eq!(error.code(), 75);
    assert!(error.to_string().contains("never connected"), "{error}");
}
