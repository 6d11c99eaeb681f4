//! rumqttd 0.20 in this process: MQTT 3.1.1 on loopback, in threads of its own.
//!
//! It has no way to stop, so it lives as long as the process. Its router keeps, per distinct filter ever subscribed, a ring of
//! past messages; a QoS 1 subscriber that falls behind its ring loses what was overwritten while the publisher was
//! acknowledged. The ring here is far larger than any burst of the demo; its memory is used only as it fills.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// One segment of a ring.
const SEGMENT: usize = 8 * 1024 * 1024;

/// Segments per filter: 128 MiB in all.
const SEGMENTS: usize = 16;

/// rumqttd binds its port in a thread of its own; it has this long.
const START_MAX: Duration = Duration::from_secs(10);

/// Other programs may take the free port in between; then another one is tried.
const ATTEMPTS: u32 = 5;

/// Starts a broker at a free port of 127.0.0.1 and waits until it listens.
pub async fn start() -> io::Result<SocketAddr> {
    for _ in 1..ATTEMPTS {
        if let Some(address) = attempt().await? {
            return Ok(address);
        }
    }
    attempt().await?.ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

/// `None`: somebody else got the port.
async fn attempt() -> io::Result<Option<SocketAddr>> {
    // It takes an address, not a listener: ask the system for a free port and hand it on.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    let mut broker = Broker::new(config(address));
    let thread = std::thread::Builder::new().name("cloud-broker".into()).spawn(move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "cloud broker ended");
        }
    })?;
    let deadline = Instant::now() + START_MAX;
    loop {
        let answered = TcpStream::connect(address).await;
        sleep(Duration::from_millis(5)).await; // long enough for a failed bind to end the thread
        match answered {
            _ if thread.is_finished() => return Ok(None), // it only ends when it cannot bind
            Ok(_) => return Ok(Some(address)),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 20_000,
        max_payload_size: 1024 * 1024,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "cloud".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 1000,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    Config { router, v4: Some(HashMap::from([("cloud".to_owned(), server)])), ..Config::default() }
}
