//! Hosts on the gateway's own broker that read slowly, or not at all: both ends of the way are the gateway's, so that whoever reads what
//! there is misses nothing, and whoever does not costs the others nothing.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::time::Duration;

use ironbridge::model::tag::Table;
use tokio::time::Instant;

use crate::gateway::mqtt::Client4;
use crate::gateway::{Daemon, Home, Plc, config, tag, until, within};
use crate::local::{RULE, Scada, local};
use crate::outage::Truth;

const TAGS: u16 = 300;
/// Of all tags: 24 000 records, of some 17 bytes.
const POLLS: u64 = 80;

/// As little as the configuration allows may wait for a client: what is behind it is more than that by far.
fn site(plc: &Plc) -> String {
    let tags: String = (0..TAGS)
        .map(|at| {
            tag(
                &if at == 0 { "level".to_owned() } else { format!("t{at}") },
                &format!("holding:{}", at % 100),
                "int16",
                "deadband = 0.5",
            )
        })
        .collect();
    let plant = config(plc.line.address()).replace("write = [\"gw/+/+/set\"]", RULE) + &tags;
    plant + &local("primary_host = \"scada\"\nhost_timeout = \"0s\"") + "[broker]\nmax_queued_size = \"64KiB\"\n"
}

/// All registers change that often.
fn count_up(plc: &Plc, from: u16, every: Duration) -> tokio::task::JoinHandle<()> {
    let units = plc.units.clone();
    tokio::spawn(async move {
        for level in (from..30_000).cycle() {
            units.with_image(1, |image| image.set_words(Table::Holding, 0, &[level; 100]));
            tokio::time::sleep(every).await;
        }
    })
}

/// A gateway that has so many polls in its store and nobody who heard them.
async fn behind(plc: &Plc, home: &Home) -> (Daemon, Truth, tokio::task::JoinHandle<()>) {
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let (quickly, polled) = (count_up(plc, 1, Duration::from_millis(40)), plc.requests());
    until("polls that nobody hears", || plc.requests() > polled + POLLS).await;
    quickly.abort();
    (daemon, truth, count_up(plc, 10_000, Duration::from_millis(500)))
}

fn only_plc(mut scada: Scada) -> Scada {
    scada.devices = &["plc"];
    scada
}

/// Times of all values of all tags.
fn told(scada: &Scada) -> BTreeSet<(String, u64)> {
    let values = scada.lawful();
    let told =
        values.into_iter().flat_map(|((_, name), told)| told.into_iter().map(move |told| (name.clone(), told.unix_ms)));
    told.collect()
}

/// Waits until it has every value that there is; how many.
async fn has_all(truth: &Truth, scada: &Scada, limit: Duration) -> usize {
    let (wanted, begun) = (truth.levels(), Instant::now());
    // A poll may come in two messages, and the level is in one of them: all tags of all polls are waited for.
    loop {
        let (levels, told) = (wanted.difference(&scada.levels()).count(), told(scada));
        let others = |time: u64| (1..TAGS).filter(|at| told.contains(&(format!("t{at}"), time))).count();
        let whole = |time: u64| others(time) == usize::from(TAGS) - 1;
        let polls = wanted.iter().filter(|(time, _)| !whole(*time)).count();
        if (levels, polls) == (0, 0) {
            break;
        }
        assert!(begun.elapsed() < limit, "of {} polls: {levels} levels missing, {polls} not whole", wanted.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    wanted.len() * usize::from(TAGS)
}

/// It was thrown out while the backlog came in as quickly as memory is, and missed what had waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_host_that_reads_slowly_slows_the_backlog_and_misses_no_value_while_live_values_go_on() {
    let plc = Plc::start().await;
    let home = Home::new(&site(&plc));
    let (daemon, truth, counting) = behind(&plc, &home).await;
    let address = daemon.mqtt().await;
    let (slow, quick) = (only_plc(Scada::slow(address, 50_000).await), only_plc(Scada::at(address).await));
    let began = Instant::now();
    quick.state(true, 5_000).await;
    tokio::time::sleep(Duration::from_secs(4)).await; // live values go on meanwhile
    counting.abort();
    let records = has_all(&truth, &slow, Duration::from_secs(120)).await;
    let took = began.elapsed();
    has_all(&truth, &quick, Duration::from_secs(60)).await;
    assert!(records > 20_000, "{records}");
    let late = |scada: &Scada| {
        let data = scada.of("DDATA");
        let historical = |it: &crate::host::Message| it.payload.metrics.iter().any(|it| it.is_historical == Some(true));
        let last = data.iter().rposition(historical).unwrap();
        data[..last].iter().filter(|it| !historical(it)).count()
    };
    println!("{records} records in {took:?}; messages of live values between those of the backlog: {}", late(&slow));
    assert!(late(&slow) >= 3 && late(&quick) >= 3, "live values do not wait for the backlog");
    assert_eq!((slow.of("NBIRTH").len(), slow.of("NDEATH").len()), (1, 0));
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_host_that_hangs_is_given_up_and_the_others_miss_nothing() {
    let plc = Plc::start().await;
    let home = Home::new(&site(&plc));
    let (daemon, truth, counting) = behind(&plc, &home).await;
    let address = daemon.mqtt().await;
    let mut hangs = Client4::connect(address, "hangs").await;
    hangs.subscribe("spBv1.0/#", rumqttc::QoS::AtMostOnce).await;
    let quick = only_plc(Scada::at(address).await);
    let began = Instant::now();
    quick.state(true, 5_000).await;
    let live = || quick.of("DDATA").iter().flat_map(|it| &it.payload.metrics).any(|it| it.is_historical.is_none());
    within(Duration::from_secs(20), "live values go on", live).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    counting.abort();
    let records = has_all(&truth, &quick, Duration::from_secs(120)).await;
    println!("{records} records in {:?} beside one that hangs", began.elapsed());
    assert!(records > 20_000, "{records}");
    // what had been written to it, and then the end
    let end = async { while hangs.try_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("it was given up");
    drop(daemon);
}
