//! A reload and a roll-back that hang, on a gateway of their own.

use super::*;
use crate::app;
use crate::config::{HostFacts, parse};
use crate::flow::hub::Standing;
use crate::model::tag::Table;
use crate::plant::{image::Image, tcp::TcpLine, units::Units};
use crate::uplink::Timing;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

fn plan(home: &Path, plc: SocketAddr) -> Plan {
    let gateway = format!("[gateway]\nname = \"gw\"\ndata_dir = \"{}\"", home.display());
    let doors = "[status]\nlisten = \"127.0.0.1:0\"\n[[broker.listener]]\nlisten = \"127.0.0.1:0\"";
    let bus = format!("[[bus]]\nname = \"line\"\ntype = \"modbus-tcp\"\nendpoint = \"{plc}\"");
    let device = "[[device]]\nname = \"plc\"\nbus = \"line\"\nunit_id = 1\npoll = \"100ms\"";
    let tag = "[[device.tag]]\nname = \"level\"\naddress = \"holding:0\"\ntype = \"uint16\"";
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let text = [&gateway, doors, &bus, device, tag].join("\n");
    let mut plan = parse(&text, Path::new("gw.toml"), &facts).expect("checks").plan;
    plan.gateway.trial = Some(Duration::from_millis(200));
    plan
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 60, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn reader(fifo: &Path) -> File {
    let fifo = fifo.to_owned();
    tokio::task::spawn_blocking(move || File::open(fifo).expect("opens")).await.expect("runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_and_a_roll_back_that_hang_are_workers_whose_step_does_not_end() {
    let (units, mut image) = (Units::new(), Image::new());
    image.set_words(Table::Holding, 0, &[7]);
    units.insert(1, image);
    let line = TcpLine::serve((Ipv4Addr::LOCALHOST, 0).into(), units).await.expect("a port");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
    let home = tempfile::tempdir().expect("a directory");
    let [old, new] = [line.address(), nobody].map(|plc| plan(home.path(), plc));
    let most = change_max([&old, &new]);
    let bus = old.buses.clone();
    let running = app::start(Arc::new(old), Stop::new(), Timing::default()).await.expect("starts");
    let answers = || running.latest.reports().iter().any(|report| report.standing == Standing::Answering);
    until("the device answers", answers).await;
    // Whoever writes this waits for a reader, for ever.
    let fifo = home.path().join("trial.draft");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("runs").success());

    let (reloader, steps) = (running.reloader(), |kind| running.progress.steps(kind));
    let hangs = |kind| matches!(steps(kind)[..], [Some(left)] if left <= most && left + LOOK_AGAIN.0 * 4 > most);
    let texts = vec![(PathBuf::from("gw.toml"), "new".to_owned())];
    let reload = tokio::spawn(async move { reloader.apply(new, texts).await });
    until("the reload hangs", || hangs("reload")).await;
    let read = reader(&fifo).await;
    assert!(matches!(reload.await.expect("runs"), Outcome::Applied { trial: Some(_), .. }));
    drop(read);
    assert_eq!((steps("reload"), steps("trial")), (vec![], vec![None]), "a trial that runs waits for its time");

    until("it is back, and that hangs", || running.plan.load().buses == bus && hangs("trial")).await;
    let _read = reader(&fifo).await; // what is written there fails from now on, and is tried again
    until("it does not hang any more", || steps("trial") == [None]).await;
    running.stop().await;
}

#[test]
fn a_reload_may_wait_for_the_slowest_line_and_for_a_disk_that_takes_a_minute_for_each_commit() {
    let home = Path::new("/nowhere");
    let mut slow = plan(home, (Ipv4Addr::LOCALHOST, 1).into());
    let usual = change_max([&slow, &slow]);
    assert!((1200..1800).contains(&usual.as_secs()), "not for ever: {usual:?}");
    slow.buses[0].response_timeout = Duration::from_secs(60);
    for plans in [[&slow, &plan(home, (Ipv4Addr::LOCALHOST, 1).into())], [&slow, &slow]] {
        assert_eq!(change_max(plans), turn_max(Duration::from_secs(60)) + DISK_MAX);
    }
    assert!(DISK_MAX >= Duration::from_secs(600), "ten commits");
}
