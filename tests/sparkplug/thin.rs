//! Births and backlog where little goes: through a cloud that counts publishes, and over a link of a kilobyte a second. What takes
//! minutes there passes in a moment: time is tokio's.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ironbridge::config::plan::Preset;
use tokio::time::Instant;

use crate::host::Host;
use crate::hour::{Site, tag_name, unix_ms};
use crate::law::lawful;
use crate::slow_link::SlowLink;

#[tokio::test]
async fn births_go_no_faster_than_a_cloud_takes_publishes() {
    let host = Host::start().await;
    let site = Site::with(host.address, (300, 1), None, Preset::Aws);
    host.count("DBIRTH", 300).await;
    let births: Vec<_> = host.messages().into_iter().filter(|message| message.kind.ends_with("BIRTH")).collect();
    let took = births.last().unwrap().at - births[0].at;
    assert!(took >= Duration::from_millis(2800), "100 in a second, and a tenth of a second ahead: {took:?}");
    site.shelf.put(0, 1, site.clock.now());
    host.count("DDATA", 1).await;
    assert_eq!((births.len(), host.of("NBIRTH").len(), host.connects().len()), (301, 1, 1));
    site.told(&host); // held against the law
}

/// Looks every tenth of a second of the time that is simulated; how long it took.
async fn passes(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    began.elapsed()
}

/// What was taken while the births were on their way went as one, and the session was lost over it, with births again.
#[tokio::test(start_paused = true)]
async fn births_of_1600_tags_fit_through_a_kilobyte_a_second_and_what_waited_behind_them_is_all_there_later() {
    const DEVICES: usize = 16;
    const TAGS: usize = 100;
    let host = Host::start().await;
    let link = SlowLink::to(host.address, 1000, Duration::from_millis(600)).await;
    let site = Site::with(link.address, (DEVICES, TAGS), None, Preset::Plain);
    let mut taken = BTreeSet::new();
    let mut take = |value: u64| {
        let at = site.clock.now();
        taken.insert(unix_ms(&site.clock, at));
        (0..DEVICES * TAGS).for_each(|tag| site.shelf.put(tag, value, at)); // 2.7 kB/s: more than the link carries
    };
    let mut value = 0;
    let born = passes(Duration::from_secs(300), "births", || {
        value += 1;
        if value % 100 == 1 {
            take(value);
        }
        host.of("DBIRTH").len() >= DEVICES
    })
    .await;
    let bytes = link.up.load(Ordering::Relaxed);
    println!("births of {} tags over 1000 B/s: {bytes} B, out after {born:?}", DEVICES * TAGS);
    let data = passes(Duration::from_secs(60), "data behind the births", || !host.of("DDATA").is_empty()).await;
    for round in 0..30 {
        take(10_000 + round);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let waits = site.shelf.open();
    assert!(waits > 10_000, "the link carries less than there is: {waits}");
    assert_eq!((host.of("NBIRTH").len(), host.of("DBIRTH").len(), host.connects().len()), (1, DEVICES, 1));
    link.carry(100_000);
    let drained =
        passes(Duration::from_secs(120), "the link is wider, and all of it counts", || site.shelf.open() == 0).await;
    println!("first data {data:?} after the births; {waits} records that waited went in {drained:?} at 100 kB/s");
    assert_eq!((host.of("NBIRTH").len(), host.of("DBIRTH").len(), host.connects().len()), (1, DEVICES, 1));
    let names: Vec<&str> = site.devices.iter().map(String::as_str).collect();
    let values = lawful(&host, &names);
    for device in &site.devices {
        for name in (0..TAGS).map(tag_name) {
            let told: BTreeSet<u64> = values[&(device.clone(), name)].iter().map(|told| told.unix_ms).collect();
            assert!(taken.is_subset(&told), "{device}: {} of {}", told.len(), taken.len());
        }
    }
}
