//! The uplink against a real mosquitto with TLS and client certificates, where one is installed: killed, stopped,
//! restarted without its sessions. Skipped, visibly, where there is none.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::owed;
use crate::rig;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::{Transport, UplinkTlsPlan};
use ironbridge::flow::stop::Stop;
use ironbridge::receive::client::{Client, ClientParts, Happened, Kept};
use ironbridge::receive::decode::{Received, decode};
use ironbridge::receive::ledger::{Begin, Ledger, Report};
use ironbridge::road::Now;
use ironbridge::road::destination::{Destination, TlsFiles};
use ironbridge::road::login::LoginFiles;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::foreign_broker::Mosquitto;
use crate::patience::until;
use authority::{Authority, VALID};
use owed::OwedList;
use rig::{Rig, clock};

/// Without a memory, for whoever has a certificate of this authority.
fn secured(authority: &Authority) -> Option<Mosquitto> {
    let home = authority.home.path();
    let (certificate, key) = authority.server_pem("localhost", VALID);
    std::fs::write(home.join("server.crt"), certificate).unwrap();
    std::fs::write(home.join("server.key"), key).unwrap();
    let show = |name: &str| home.join(name).display().to_string();
    let (ca, certificate, key) = (show("ca.pem"), show("server.crt"), show("server.key"));
    let strict = "require_certificate true\nuse_identity_as_username true\nallow_anonymous false\npersistence false";
    Mosquitto::start("the uplink to a mosquitto with TLS", |_| {
        format!("cafile {ca}\ncertfile {certificate}\nkeyfile {key}\n{strict}\nmax_inflight_messages 0\n")
    })
}

/// Somebody on the other side who keeps books.
struct Lake {
    ledger: Arc<Mutex<Ledger>>,
    connected: Arc<Mutex<usize>>,
    stop: Stop,
    home: tempfile::TempDir,
}

impl Lake {
    fn start(authority: &Authority, port: u16) -> Self {
        let home = tempfile::tempdir().unwrap();
        let clock = clock();
        let tls = TlsFiles { ca_file: authority.ca_file(), identity: Some(authority.client("lake", VALID)) };
        let client = Client::new(ClientParts {
            to: Destination { tls: Some(tls), ..Destination::plain("localhost", port) },
            login: LoginFiles::default(),
            client_id: "lake".into(),
            kept: Kept::Yes,
            filters: vec!["up/#".into()],
            run_dir: home.path().to_owned(),
            now: Now::new(move || clock.wall_now()),
        });
        let (into, mut happened) = mpsc::channel(1024);
        let stop = Stop::new();
        tokio::spawn(client.run(into, stop.clone()));
        let ledger = Arc::new(Mutex::new(Ledger::new(Begin::One)));
        let connected = Arc::new(Mutex::new(0));
        let (books, times) = (Arc::clone(&ledger), Arc::clone(&connected));
        tokio::spawn(async move {
            while let Some(happened) = happened.recv().await {
                match happened {
                    Happened::Connected => *times.lock().unwrap() += 1,
                    Happened::Lost(_) => {}
                    Happened::Message(delivery) => {
                        if let Received::Numbered(numbered) = decode(delivery.topic(), delivery.payload()) {
                            books.lock().unwrap().note(numbered.number, numbered.previous);
                        }
                        delivery.acknowledge();
                    }
                }
            }
        });
        Self { ledger, connected, stop, home }
    }

    fn report(&self) -> Report {
        self.ledger.lock().unwrap().report()
    }

    fn times_connected(&self) -> usize {
        *self.connected.lock().unwrap()
    }
}

fn start_uplink(authority: &Authority, owed: &OwedList, port: u16) -> Rig {
    Rig::start_at(([127, 0, 0, 1], port).into(), owed, |parts| {
        parts.plan.servers[0].host = "localhost".into();
        let identity = Some(authority.client("gw", VALID));
        parts.plan.servers[0].transport = Transport::Tls;
        parts.plan.tls = Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity });
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_that_is_killed_and_stopped_gets_everything_in_the_end() {
    let authority = Authority::new();
    let Some(mut mosquitto) = secured(&authority) else { return };
    let lake = Lake::start(&authority, mosquitto.port);
    until("the lake is there", || lake.times_connected() == 1).await;
    let owed = OwedList::default();
    let rig = start_uplink(&authority, &owed, mosquitto.port);
    let mut last = 0;
    for _ in 0..3 {
        owed.samples(last + 1..=last + 5000);
        last += 5000;
        until("half of it", || owed.acknowledged() as u64 > last - 2500).await;
        let before = lake.times_connected();
        mosquitto.restart();
        until("the lake is back", || lake.times_connected() > before).await;
        until("all acknowledged", || owed.acknowledged() as u64 == last).await;
    }
    owed.samples(last + 1..=last + 1);
    last += 1;
    until("the link is quiet", || owed.acknowledged() as u64 == last).await;
    mosquitto.signal("-STOP");
    owed.samples(last + 1..=last + 5000);
    last += 5000;
    let failures = rig.stats.failures.get();
    until("the black hole is noticed", || rig.stats.failures.get() > failures).await;
    mosquitto.signal("-CONT");
    until("all acknowledged", || owed.acknowledged() as u64 == last).await;
    owed.end();
    rig.finished().await;
    assert_eq!(owed.wrong_acks(), 0);
    let report = lake.report();
    // What mosquitto acknowledged between its restart and the lake's return went to nobody: its rule, not ours.
    let holes: Vec<(u64, u64)> = report.streams.iter().flat_map(|stream| stream.holes.clone()).collect();
    assert!(holes.len() <= 3 && holes.iter().all(|(_, end)| *end <= 15_000), "{holes:?}");
    assert!(report.duplicates <= 4 * 512, "{} duplicates in four interruptions", report.duplicates);
    assert_eq!(report.out_of_order, 0);
    lake.stop.begin();
    drop(lake.home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_records_go_through_tls_to_a_real_broker() {
    let authority = Authority::new();
    let Some(mosquitto) = secured(&authority) else { return };
    let owed = OwedList::default();
    let count = 20_000;
    owed.samples(1..=count);
    let rig = start_uplink(&authority, &owed, mosquitto.port);
    until("connected", || rig.stats.connected.get() == 1).await;
    let before = Instant::now();
    let (mut least, mut since) = (0, Instant::now());
    while owed.acknowledged() as u64 != count {
        if owed.acknowledged() > least {
            (least, since) = (owed.acknowledged(), Instant::now());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "nothing acknowledged for 60 s, {least} in all");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = before.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // printed for people
    let rate = count as f64 / seconds;
    println!("{rate:.0} records/s, {} bytes up, {} down", rig.stats.bytes_up(), rig.stats.bytes_down());
    owed.end();
    rig.finished().await;
}
