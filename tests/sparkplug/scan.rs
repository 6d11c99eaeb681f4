//! How often an edge node does something: "Node Control/Scan Rate", what a host may slow down with it and what not; and that it rests
//! where there is nothing to do.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::time::{Duration, Instant};

use crate::births::{two_devices, uplink};
use crate::gateway::{Home, Plc, until};
use crate::host::Host;
use crate::outage::{Truth, count_up};
use crate::payload::{INT64, Metric, Value};

const SCAN_RATE: &str = "Node Control/Scan Rate";

fn ask(host: &Host, every_ms: u64) {
    host.command(None, vec![Metric::write(SCAN_RATE, INT64, Value::Long(every_ms))]);
}

async fn told(host: &Host, every_ms: u64) {
    let says = |host: &Host| {
        let data = host.of("NDATA");
        let newest = data.iter().rev().find_map(|it| it.payload.named(SCAN_RATE)?.value.clone());
        newest == Some(Value::Long(every_ms))
    };
    host.until(&format!("the scan rate is said to be {every_ms}"), says).await;
}

/// A host may be in a cloud: how a fieldbus is polled, and what is stored, is none of its business.
#[tokio::test]
async fn a_scan_rate_makes_messages_rarer_and_larger_while_the_plc_is_polled_as_before_and_nothing_is_missing() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    let (truth, counting) = (Truth::of(&daemon).await, count_up(&plc));
    host.count("DDATA", 3).await;
    ask(&host, 2000);
    told(&host, 2000).await;
    let of_plc = |host: &Host| {
        let data = host.of("DDATA").into_iter();
        data.filter(|it| it.device.as_deref() == Some("plc")).collect::<Vec<_>>()
    };
    let (seen, polled, began) = (of_plc(&host).len(), plc.requests(), Instant::now());
    host.until("three more messages", |host| of_plc(host).len() >= seen + 3).await;
    let (polls, took) = (plc.requests() - polled, began.elapsed());
    let slow = &of_plc(&host)[seen..];
    assert!(slow[2].at - slow[1].at > Duration::from_millis(1500), "{:?}", slow[2].at - slow[1].at);
    assert!(slow[2].payload.metrics.len() >= 6, "{}", slow[2].payload.metrics.len());
    assert!(f64::from(u32::try_from(polls).unwrap()) > took.as_secs_f64() * 3.0, "{polls} polls in {took:?}");
    ask(&host, u64::MAX >> 1);
    told(&host, 3_600_000).await;
    ask(&host, 1);
    told(&host, 100).await;
    let seen = of_plc(&host).len();
    host.until("messages as the PLC is polled", |host| of_plc(host).len() >= seen + 5).await;
    counting.abort();
    truth.is_at(&host, &["meter", "plc"]).await;
    let polled = plc.requests();
    until("it is polled on", || plc.requests() > polled + 3).await;
    drop(daemon);
}

/// What is gathered for an hour is not what a host must know at once.
#[tokio::test]
async fn devices_that_fall_silent_under_a_scan_rate_of_an_hour_are_told_to_be_bad_and_dead_in_seconds() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 3).await;
    ask(&host, 3_600_000);
    told(&host, 3_600_000).await;
    drop(plc);
    host.count("DDEATH", 2).await;
    let values = crate::law::lawful(&host, &["meter", "plc"]);
    for (device, name) in [("plc", "level"), ("meter", "energy")] {
        let last = values[&(device.into(), name.into())].last().unwrap();
        assert_eq!((&last.value, last.historical), (&None, false), "{device}: bad before it is dead");
    }
    drop(daemon);
}

/// Ticks of the processor that a process has had, hundredths of a second.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Its feeder waited for the time of a status message that it never sends, and so not at all.
#[tokio::test]
async fn an_edge_node_rests_between_its_messages() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "primary_host = \"nobody\"")));
    let daemon = home.run();
    let subscribed = |host: &Host| host.log().iter().any(|entry| matches!(entry.did, crate::host::Did::Subscribe(_)));
    host.until("it waits for its host", subscribed).await;
    let (began, before, polled) = (Instant::now(), ticks(daemon.pid()), plc.requests());
    until("forty polls", || plc.requests() > polled + 40).await;
    let (used, took) = (ticks(daemon.pid()) - before, began.elapsed());
    let part = f64::from(u32::try_from(used).unwrap()) / 100.0 / took.as_secs_f64();
    assert!(part < 0.5, "{part:.2} of a processor with next to nothing to do");
    drop(daemon);
}
