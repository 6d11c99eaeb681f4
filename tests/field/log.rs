//! What the log says at the level debug: each poll, how long it took and what went wrong with it.

use crate::plc::{Framing, Plc};
use crate::rig::{self, Rig, good, is_bad};

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironbridge::config::plan::Carrier;
use ironbridge::config::{self, HostFacts};
use ironbridge::model::tag::{DataType, Table, TagIx};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Level};

/// The log of this thread, until it is dropped. Beside it somebody who wants nothing: with one log alone, a line that another
/// thread comes to first is taken for one that nobody wants (tracing-core, `callsite`), and tests run side by side.
struct Log {
    _to_file: DefaultGuard,
    _beside: Dispatch,
}

fn log_to(path: &Path) -> Log {
    let file = Arc::new(File::create(path).expect("a file"));
    let layer = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_writer(file).with_ansi(false).finish();
    Log { _to_file: tracing::subscriber::set_default(layer), _beside: Dispatch::new(NoSubscriber::default()) }
}

/// Takes samples until the log shows polls. Another thread that comes to that line of the program for the first time while a
/// log begins may have it taken for one that nobody wants, until there is one log more.
async fn until_shown(path: &Path, rig: &mut Rig, tag: TagIx) {
    for _ in 0..100 {
        rig.sample(tag, good).await;
        if !polls(path).is_empty() {
            return;
        }
        drop(Dispatch::new(NoSubscriber::default()));
    }
    panic!("a hundred samples, and no poll is logged");
}

/// The lines about polls.
fn polls(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the log");
    text.lines().filter(|line| line.contains("polled ")).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn the_log_shows_each_poll_of_a_modbus_device_answered_or_not() {
    let home = tempfile::tempdir().expect("a directory");
    let log = home.path().join("log");
    let _logging = log_to(&log);
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    until_shown(&log, &mut rig, tag).await;
    let answered = polls(&log);
    let wanted = "bus=bus device=device-0 table=\"holding\" start=7 count=1 elapsed_ms=";
    assert!(!answered.is_empty() && answered.iter().all(|line| line.contains(wanted)), "{answered:?}");
    assert!(!answered.iter().any(|line| line.contains("error=")), "{answered:?}");
    plc.kill(1);
    rig.sample(tag, is_bad).await;
    let all = polls(&log);
    assert!(all.last().is_some_and(|line| line.contains("error=no answer in time")), "{all:?}");
}

#[tokio::test]
async fn the_log_shows_each_poll_of_an_instrument_answered_or_not() {
    let home = tempfile::tempdir().expect("a directory");
    let log = home.path().join("log");
    let _logging = log_to(&log);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let text = include_str!("../../config/scale.toml");
    let parsed = config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    let mut plan = parsed.unwrap_or_else(|error| panic!("{error}")).plan;
    plan.buses[0].link.carrier = Carrier::Tcp { endpoint: listener.local_addr().expect("bound").to_string() };
    plan.buses[0].response_timeout = Duration::from_millis(150);
    plan.tags.iter_mut().for_each(|tag| tag.poll = Duration::from_millis(20));
    let weight = plan.tags.iter().position(|tag| tag.name == "weight").expect("a tag of this name");
    let weight = TagIx(u32::try_from(weight).expect("few"));
    let mut rig = Rig::run(plan);
    let (stream, _) = listener.accept().await.expect("a connection");
    let (read, mut write) = stream.into_split();
    let mut questions = BufReader::new(read).lines();
    let serving = async {
        while questions.next_line().await.is_ok_and(|question| question.is_some()) {
            write.write_all(b"S S     1 g\r\n").await.expect("answered");
        }
    };
    tokio::select! {
        () = until_shown(&log, &mut rig, weight) => {}
        () = serving => panic!("it asks no more"),
    }
    let about = "bus=scale-line device=scale elapsed_ms=";
    let answered = polls(&log);
    assert!(answered.iter().any(|line| line.contains(about) && !line.contains("error=")), "{answered:?}");
    rig.sample(weight, is_bad).await; // nothing more is said
    let all = polls(&log);
    assert!(all.last().is_some_and(|line| line.contains(about) && line.contains("error=no answer in time")), "{all:?}");
}
