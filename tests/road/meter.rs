//! The meter against the kernel's own count of an interface: in a network namespace of its own, where nothing else speaks.
//! Skipped, visibly, where none can be made.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use crate::authority;
use crate::far;
use crate::skip::skipped;

use std::process::Command;
use std::time::Duration;

use ironbridge::model::time::{Certainty, Wall};
use ironbridge::road::destination::{Destination, TlsFiles};
use ironbridge::road::{Now, Road};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use authority::{Authority, VALID};
use far::Far;

/// Set in the process that has a namespace of its own.
const INSIDE: &str = "IRONBRIDGE_TEST_NAMESPACE";
/// An interface as a gateway has it: Ethernet's frames, no offload that would hide headers from the count.
const INTERFACE: &str =
    "ip link set lo up mtu 1500 && ip link set dev lo gso_max_segs 1 gro_max_size 0 2>/dev/null; exec \"$@\"";

#[test]
fn wire_bytes_are_within_two_percent_of_what_the_interface_counts() {
    const NAME: &str = "meter::wire_bytes_are_within_two_percent_of_what_the_interface_counts";
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(compare());
    }
    let probe = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up", "mtu", "1500"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skipped("wire bytes, as an interface counts them", "no network namespace can be made here (unshare, ip)");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["-rn", "sh", "-c", INTERFACE, "sh"])
        .arg(own)
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success(), "see above");
}

/// Bytes of all IP packets so far: on loopback each is sent once, whichever side sends it.
fn interface() -> u64 {
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let loopback = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    loopback.split_whitespace().next().unwrap().parse().unwrap()
}

/// The count once nothing moves any more.
async fn settled() -> u64 {
    let (mut last, mut same) = (interface(), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = interface();
        (last, same) = (now, if now == last { same + 1 } else { 0 });
    }
    last
}

struct Work {
    what: &'static str,
    connects: usize,
    messages: usize,
    bytes: usize,
}

async fn compare() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let far = Far::secure_echo(authority.server("127.0.0.1", VALID)).await;
    let tls = TlsFiles { ca_file: authority.ca_file(), identity: Some(authority.client("gw", VALID)) };
    let to = Destination { tls: Some(tls), ..Destination::plain("127.0.0.1", far.address.port()) };
    let now = Wall { unix_ms: 1_795_204_800_000, certainty: Certainty::Fixed };
    let mut road = Road::new(to.clone(), Now::new(move || now), home.path().to_owned());
    for work in [
        Work { what: "mutual TLS, first connect", connects: 1, messages: 0, bytes: 0 },
        Work { what: "20 resumed connects", connects: 20, messages: 1, bytes: 20 },
        Work { what: "2000 messages of 80 bytes, one at a time", connects: 1, messages: 2000, bytes: 80 },
        Work { what: "20 messages of 100 kB", connects: 1, messages: 20, bytes: 100_000 },
        Work { what: "10 MB at once", connects: 1, messages: 1, bytes: 10_000_000 },
    ] {
        let (interface, meter) = (settled().await, road.meter().snapshot().total());
        for _ in 0..work.connects {
            let relay = road.open().await.unwrap();
            let socket = relay.socket();
            let relay = tokio::spawn(relay.run());
            let mut stream = UnixStream::connect(socket).await.unwrap();
            let mut received = vec![0; work.bytes];
            for _ in 0..work.messages {
                let sent = vec![7; work.bytes];
                let (mut reader, mut writer) = stream.split();
                tokio::try_join!(writer.write_all(&sent), reader.read_exact(&mut received)).unwrap();
            }
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut received).await.unwrap();
            relay.await.unwrap();
        }
        let interface = settled().await - interface;
        let meter = road.meter().snapshot().total() - meter;
        #[expect(clippy::cast_precision_loss, reason = "printed for people")]
        let percent = (meter as f64 / interface as f64 - 1.0) * 100.0;
        println!("{:45} interface {interface:9}  meter {meter:9}  {percent:+.2} %", work.what);
        // Of the farewell of a connection, which the kernel no longer tells about, two segments may be joined, or not.
        let farewells = work.connects as u64 * 2 * 52;
        assert!(percent.abs() < 2.0 || meter.abs_diff(interface) <= farewells, "{}", work.what);
    }
    drop(far);
    let (interface, meter) = (settled().await, road.meter().snapshot().total());
    for _ in 0..20 {
        assert!(road.open().await.is_err());
    }
    let (interface, meter) = (settled().await - interface, road.meter().snapshot().total() - meter);
    println!("20 refused connects: interface {interface}, meter {meter}");
    assert_eq!(interface, meter);
}
