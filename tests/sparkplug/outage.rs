//! Brokers that die, with what they had not handed on: no value is missing, and what comes late says so.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::time::Duration;

use crate::births::{two_devices, uplink};
use crate::commands::rebirth;
use crate::gateway::{Daemon, Home, Plc, Watch, until};
use crate::host::Host;
use crate::law::lawful;
use crate::payload::Value;

/// What local clients saw.
pub struct Truth {
    watch: Watch,
}

impl Truth {
    pub async fn of(daemon: &Daemon) -> Self {
        Self { watch: Watch::on_all(daemon.mqtt().await).await }
    }

    /// Times and values of `plc/level` so far; what was kept from before it came is left out.
    pub fn levels(&self) -> BTreeSet<(u64, i64)> {
        let seen = self.watch.on("gw/plc/level");
        let live = seen.iter().filter(|seen| !seen.retained).map(crate::gateway::Seen::json);
        live.filter_map(|sample| {
            let time: jiff::Timestamp = sample["time"].as_str()?.parse().ok()?;
            Some((u64::try_from(time.as_millisecond()).ok()?, sample["value"].as_i64()?))
        })
        .collect()
    }

    pub async fn is_at(&self, host: &Host, devices: &[&str]) {
        self.is_at_either(&[host], devices).await;
    }

    /// Waits until the hosts together have everything, and holds what they were told against the law.
    pub async fn is_at_either(&self, hosts: &[&Host], devices: &[&str]) {
        until("some values", || self.levels().len() > 5).await;
        let wanted = self.levels();
        let mut missing = wanted.clone();
        let begun = std::time::Instant::now();
        while !missing.is_empty() {
            let told: BTreeSet<_> = hosts.iter().flat_map(|host| levels_at(host, devices)).collect();
            missing = wanted.difference(&told).copied().collect();
            assert!(begun.elapsed() < crate::gateway::PATIENCE, "missing of {}: {missing:?}", wanted.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Times and values of `plc/level` that the host was told.
pub fn levels_at(host: &Host, devices: &[&str]) -> Vec<(u64, i64)> {
    let values = lawful(host, devices);
    let Some(told) = values.get(&("plc".into(), "level".into())) else { return Vec::new() };
    let level = |told: &crate::law::Told| match told.value {
        Some(Value::Int(bits)) => Some((told.unix_ms, i64::from(bits.cast_signed()))),
        _ => None,
    };
    told.iter().filter_map(level).collect()
}

/// `level` is another number every 20 ms.
pub fn count_up(plc: &Plc) -> tokio::task::JoinHandle<()> {
    let units = plc.units.clone();
    tokio::spawn(async move {
        for level in (0..300_u16).cycle() {
            let set = |image: &mut ironbridge::plant::image::Image| {
                image.set_words(ironbridge::model::tag::Table::Holding, 0, &[level]);
            };
            units.with_image(1, set);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[tokio::test]
async fn a_broker_that_dies_with_what_it_had_loses_no_value() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    for round in 1..=3 {
        let seen = host.of("DDATA").len();
        host.count("DDATA", seen + 3).await;
        host.swallow();
        let polled = plc.requests();
        until("ten polls go into a dead broker", || plc.requests() > polled + 10).await;
        host.die();
        until("ten polls go to nobody", || plc.requests() > polled + 20).await;
        host.live();
        host.count("NBIRTH", round + 1).await;
    }
    counting.abort();
    truth.is_at(&host, &["meter", "plc"]).await;
    let values = lawful(&host, &["meter", "plc"]);
    let told = &values[&("plc".into(), "level".into())];
    assert!(told.iter().any(|told| told.historical), "what comes late says so");
    assert_eq!(host.of("NBIRTH").len(), host.connects().len(), "one birth for each session");
    drop(daemon);
}

#[tokio::test]
async fn late_values_say_so_and_never_stand_before_live_ones() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.die();
    let alarmed = two_devices(&plc).replacen("max = 500.0", "max = 500.0\nalarm = { high = 40.0 }", 1);
    let home = Home::new(&(alarmed + &uplink(&host, "")));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    let polled = plc.requests();
    until("thirty polls are stored", || plc.requests() > polled + 30).await;
    host.live();
    truth.is_at(&host, &["meter", "plc"]).await;
    counting.abort();
    let last_alarm = |host: &Host| {
        let values = lawful(host, &["meter", "plc"]);
        let told = values.get(&(String::new(), "Node Info/Alarm".into())).cloned().unwrap_or_default();
        let (mut newest, mut last) = (0, None);
        for told in told.into_iter().filter(|told| !told.in_birth && !told.historical) {
            assert!(told.unix_ms >= newest, "an old alarm as the newest: {told:?} after {newest}");
            (newest, last) = (told.unix_ms, told.value);
        }
        last
    };
    let is = |last: Option<Value>, state: &str| matches!(last, Some(Value::Text(text)) if text.contains(state));
    plc.set(0, &[150]);
    host.until("the alarm", |host| is(last_alarm(host), "\"active\"")).await;
    plc.set(0, &[0]);
    host.until("its end", |host| is(last_alarm(host), "\"cleared\"")).await;
    let values = lawful(&host, &["meter", "plc"]);
    let told = &values[&("plc".into(), "level".into())];
    let mut newest = 0;
    for told in told.iter().filter(|told| !told.in_birth) {
        assert!(told.historical || told.unix_ms >= newest, "an old value as the newest: {told:?} after {newest}");
        newest = newest.max(if told.historical { 0 } else { told.unix_ms });
    }
    let birth = told.iter().find(|told| told.in_birth).unwrap().unix_ms;
    let before: Vec<_> = told.iter().filter(|told| !told.in_birth && told.unix_ms < birth).collect();
    assert!(before.len() > 5 && before.iter().all(|told| told.historical), "{}", before.len());
    drop(daemon);
}

#[tokio::test]
async fn a_gateway_that_is_killed_sends_what_it_had_stored_and_counts_on() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let mut daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    host.count("DDATA", 3).await;
    host.swallow();
    let polled = plc.requests();
    until("thirty polls go into a dead broker", || plc.requests() > polled + 30).await;
    let stored = truth.levels();
    let polled = plc.requests();
    until("and are stored", || plc.requests() > polled + 20).await;
    daemon.kill();
    host.die();
    host.live();
    daemon = home.run();
    host.count("NBIRTH", 2).await;
    counting.abort();
    let all_there = |host: &Host| {
        let told: BTreeSet<_> = levels_at(host, &["meter", "plc"]).into_iter().collect();
        stored.is_subset(&told)
    };
    host.until("everything that was stored", all_there).await;
    assert!(stored.len() > 5);
    drop(daemon);
}

/// Values that many samples have, so that there is something to compress.
#[tokio::test]
async fn compressed_data_are_the_same_data() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    host.die();
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "compress = \"gzip\"")));
    let daemon = home.run();
    let truth = Truth::of(&daemon).await;
    let counting = count_up(&plc);
    let polled = plc.requests();
    until("fifty polls are stored", || plc.requests() > polled + 50).await;
    host.live();
    truth.is_at(&host, &["meter", "plc"]).await;
    counting.abort();
    assert!(host.of("DDATA").iter().any(|it| it.payload.uuid.is_some()), "something was compressed");
    drop(daemon);
}

// covers: tck-id-operational-behavior-data-commands-rebirth-action-2
#[tokio::test]
async fn a_host_that_comes_late_has_everything_after_one_rebirth() {
    let (plc, host) = (Plc::start().await, Host::start().await);
    let home = Home::new(&(two_devices(&plc) + &uplink(&host, "")));
    let daemon = home.run();
    host.count("DDATA", 5).await;
    let before = host.messages().len();
    host.command(None, vec![rebirth()]);
    host.count("NBIRTH", 2).await;
    host.until("data after it", |host| host.messages().iter().rev().take(1).any(|it| it.kind == "DDATA")).await;
    let later = &host.messages()[before..];
    let birth = later.iter().position(|it| it.kind == "NBIRTH").unwrap();
    let kinds: Vec<_> = later[birth..].iter().take(3).map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["NBIRTH", "DBIRTH", "DBIRTH"]);
    lawful(&host, &["meter", "plc"]);
    drop(daemon);
}
