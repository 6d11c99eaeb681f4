//! Datagrams at a door for QUIC, while others use it.
//!
//! Packets are the library's to read; ours is what they set in motion: callers that never come in, handshakes that break
//! anywhere, streams that are not what they should be. A session with a client that is not ours is recorded once; what
//! comes at the door then is made of its datagrams (lost, twice, cut, turned, in another order, of another address, with
//! garbage between), of live ones that fare the same on their way, and of connections that stand and are misused. The same
//! input asks for the same damage; what is damaged has other random numbers in it in each run.
//!
//! Promises: the door stays open and the broker alive; a client that was there before goes on undisturbed, one that comes
//! is let in, although there are few places for connections; memory and log stay small.
//!
//! The first byte says which of the three; the rest are orders of four bytes each, and for a live one what its stream says.

#[path = "../../support/authority.rs"]
mod authority;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironbridge::config::plan::{Anonymous, BrokerLimits, ClientCertificate, Listen, ListenerPlan, ListenerTls, Rate};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::Join;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::Bytes;
use super::conversation::support::{Client5, PATIENCE, Running, Setup};
use authority::{Authority, VALID};

/// How many inputs go by before the others are looked at.
const BETWEEN: u32 = 16;
/// Places for connections: far fewer than come.
const PLACES: usize = 48;
/// Everybody here comes from one address, as fast as it goes.
const FAST: Rate = Rate(10_000);
/// A connection whose datagrams fare badly is given up after this.
const GIVEN_UP: Duration = Duration::from_millis(200);
/// Orders of one input, and datagrams of the recording.
const ORDERS_MAX: usize = 64;
/// What may be said at `info` or above: what is said once a minute, and of each client that has come in, that it came and
/// how it went. Nothing of datagrams.
const LINES: u64 = 20;
const LINES_EACH: u64 = 2;
/// Bytes that the whole process may grow by, whatever other targets do in it at the same time.
const GROWTH_MAX: u64 = 128 << 20;

type Order = [u8; 4];
type Line = Client5<Join<RecvStream, SendStream>>;

/// Counts what is said.
struct Quiet(Arc<AtomicU64>);

impl Subscriber for Quiet {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let shown = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    shown.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}

struct Inside {
    runtime: Runtime,
    broker: Running,
    before: (Line, Connection),
}

struct Home {
    inside: Option<Inside>,
    door: SocketAddr,
    config: ClientConfig,
    recorded: Vec<Vec<u8>>,
    said: Arc<AtomicU64>,
    began_with: u64,
    turn: u32,
    _authority: Authority,
}

fn client_config(authority: &Authority) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it has 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"mqtt".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("it has what QUIC needs")));
    let mut transport = TransportConfig::default();
    transport.initial_rtt(Duration::from_millis(10)); // what is lost is sent again soon
    config.transport_config(Arc::new(transport));
    config
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn connect(to: SocketAddr, config: &ClientConfig) -> Option<(Endpoint, Connection)> {
    let endpoint = Endpoint::client(any()).expect("a socket");
    let connection = endpoint.connect_with(config.clone(), to, "127.0.0.1").expect("an address").await.ok()?;
    Some((endpoint, connection))
}

/// A client that means it.
async fn honest(to: SocketAddr, config: &ClientConfig, id: &str) -> (Line, Connection) {
    let come = async {
        // One for all attempts: each has buffers of its own, and what is weighed here is the door's memory.
        let endpoint = Endpoint::client(any()).expect("a socket");
        loop {
            // Whoever comes while all places are taken is turned away, and comes again.
            let connecting = endpoint.connect_with(config.clone(), to, "127.0.0.1").expect("an address");
            let Ok(connection) = connecting.await else { continue };
            let Ok((send, receive)) = connection.open_bi().await else { continue };
            let (mut client, _) = Client5::over(tokio::io::join(receive, send), id, |_| {}).await;
            client.ping().await;
            return (client, connection);
        }
    };
    timeout(PATIENCE, come).await.expect("who means it is let in")
}

/// Forwards, and does to each datagram on its way to the door what the next order says.
async fn carry(front: UdpSocket, to: SocketAddr, mut orders: VecDeque<Order>, seen: Arc<Mutex<Vec<Vec<u8>>>>) {
    let back = UdpSocket::bind(any()).await.expect("a socket");
    back.connect(to).await.expect("connected");
    let (mut up, mut down, mut client, mut held) = ([0; 2048], [0; 2048], None, None);
    loop {
        tokio::select! {
            Ok((length, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                let datagram = up[..length].to_vec();
                let old = {
                    let mut seen = seen.lock().expect("whole");
                    if seen.len() < ORDERS_MAX {
                        seen.push(datagram.clone());
                    }
                    seen.first().cloned().unwrap_or_default()
                };
                for datagram in damaged(orders.pop_front().unwrap_or([7; 4]), datagram, &old, &mut held) {
                    drop(back.send(&datagram).await);
                }
            }
            Ok(length) = back.recv(&mut down) => {
                if let Some(client) = client {
                    drop(front.send_to(&down[..length], client).await);
                }
            }
        }
    }
}

/// What arrives instead of a datagram.
fn damaged([what, high, low, with]: Order, whole: Vec<u8>, old: &[u8], held: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let at = usize::from(u16::from_be_bytes([high, low])) % whole.len().max(1);
    let mut changed = whole.clone();
    let mut arrives = match what % 9 {
        0 => Vec::new(),
        1 => vec![whole.clone(), whole],
        2 => vec![whole[..at].to_vec()],
        3 => {
            changed[at] ^= with | 1;
            vec![changed]
        }
        4 => {
            let before = held.replace(whole);
            return before.into_iter().collect();
        }
        5 => vec![vec![with; at.max(1)], whole],
        6 => vec![old.to_vec(), whole],
        7 => vec![whole],
        _ => {
            // The head decides most: flags, version, lengths of ids.
            changed[at % 24] = with;
            vec![changed, whole]
        }
    };
    arrives.extend(held.take());
    arrives
}

/// One connection by way of somebody who does all that, and what its stream says.
async fn live(to: SocketAddr, config: &ClientConfig, orders: VecDeque<Order>, says: &[u8]) -> Vec<Vec<u8>> {
    let front = UdpSocket::bind(any()).await.expect("a socket");
    let (address, seen) = (front.local_addr().expect("bound"), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let carrying = tokio::spawn(carry(front, to, orders, Arc::clone(&seen)));
    let session = async {
        let (_endpoint, connection) = connect(address, config).await?;
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(says).await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(1 << 16).await.ok()
    };
    drop(timeout(GIVEN_UP, session).await);
    carrying.abort();
    let seen = seen.lock().expect("whole");
    seen.clone()
}

/// A connection that stands, and does what no client does.
async fn misuse(to: SocketAddr, config: &ClientConfig, orders: VecDeque<Order>) {
    let Some((endpoint, connection)) = timeout(GIVEN_UP, connect(to, config)).await.ok().flatten() else { return };
    let little = Duration::from_millis(5);
    let mut streams = VecDeque::new();
    for [what, high, low, with] in orders.into_iter().take(8) {
        match what % 8 {
            0 => drop(timeout(little, connection.open_uni()).await),
            1 => streams.extend(timeout(little, connection.open_bi()).await.ok().and_then(Result::ok)),
            2 => drop(connection.send_datagram(vec![with; usize::from(low)].into())),
            3 => {
                if let Some((send, _)) = streams.front_mut() {
                    let said = vec![with; usize::from(u16::from_be_bytes([high, low])).max(1)];
                    drop(timeout(little, send.write_all(&said)).await);
                }
            }
            4 => drop(streams.front_mut().map(|(send, _)| send.reset(VarInt::from_u32(with.into())))),
            5 => drop(streams.front_mut().map(|(_, receive)| receive.stop(VarInt::from_u32(with.into())))),
            6 => drop(endpoint.rebind(std::net::UdpSocket::bind(any()).expect("a socket"))),
            _ => drop(streams.pop_front()),
        }
    }
    connection.close(VarInt::from_u32(u32::from(u8::try_from(streams.len()).unwrap_or(1))), b"no reason");
}

/// Datagrams of the recording, each damaged, from four addresses that never answer.
async fn replay(to: SocketAddr, recorded: &[Vec<u8>], orders: VecDeque<Order>) {
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(UdpSocket::bind(any()).await.expect("a socket"));
    }
    let mut held = None;
    for order in orders {
        let from = &sockets[usize::from(order[0] >> 6)];
        let whole = recorded[usize::from(order[3]) % recorded.len()].clone();
        for datagram in damaged(order, whole, &recorded[0], &mut held) {
            drop(from.send_to(&datagram, to).await);
        }
    }
}

impl Home {
    fn new() -> Self {
        let (said, authority) = (Arc::<AtomicU64>::default(), Authority::new());
        let counted = Arc::clone(&said);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            // Forgotten: it holds as long as the thread.
            .on_thread_start(move || std::mem::forget(tracing::subscriber::set_default(Quiet(Arc::clone(&counted)))))
            .build()
            .expect("a runtime");
        let at = authority.home.path();
        let (certificate, key) = authority.server_pem("127.0.0.1", VALID);
        std::fs::write(at.join("server.crt"), certificate).expect("written");
        std::fs::write(at.join("server.key"), key).expect("written");
        std::fs::set_permissions(at.join("server.key"), std::fs::Permissions::from_mode(0o600)).expect("made secret");
        let (certificate, key) = (at.join("server.crt"), at.join("server.key"));
        let tls = ListenerTls { certificate, key, client_ca: None, client_certificate: ClientCertificate::default() };
        let plain = ListenerPlan::plain(any(), Anonymous::ReadWrite);
        let doors = vec![ListenerPlan { listen: Listen::Quic(any()), tls: Some(tls), ..plain }];
        let limits = BrokerLimits {
            connections: PLACES,
            per_address: PLACES,
            rate: FAST,
            rate_per_address: FAST,
            ..BrokerLimits::default()
        };
        let config = client_config(&authority);
        let (broker, before, recorded) = runtime.block_on(async {
            let broker = Running::with(Setup { doors, limits, ..Setup::default() }).await;
            let before = honest(broker.address, &config, "the-client-that-nothing-may-disturb").await;
            let says = [&CONNECT[..], &[0xC0, 0, 0xE0, 0]].concat();
            let recorded = live(broker.address, &config, VecDeque::new(), &says).await;
            (broker, before, recorded)
        });
        assert!(recorded.len() >= 3, "a handshake and a session");
        let door = broker.address;
        let inside = Some(Inside { runtime, broker, before });
        Self { inside, door, config, recorded, said, began_with: resident(), turn: 0, _authority: authority }
    }

    fn check(&mut self) {
        self.turn += 1;
        if !self.turn.is_multiple_of(BETWEEN) {
            return;
        }
        let Inside { runtime, before, broker } = self.inside.as_mut().expect("there until the end");
        runtime.block_on(async {
            before.0.ping().await;
            let (client, connection) = honest(self.door, &self.config, "one-that-comes").await;
            drop(client);
            connection.close(VarInt::from_u32(0), b"");
        });
        let stats = broker.publisher.stats();
        let (lines, connects) = (self.said.load(Ordering::Relaxed), stats.connects.get());
        assert!(lines <= LINES + LINES_EACH * connects, "{lines} lines of {connects} clients");
        let grown = resident().saturating_sub(self.began_with);
        println!(
            "{} inputs: {lines} lines, {connects} clients, {} turned away, {} asked for proof, {grown} bytes more",
            self.turn,
            stats.turned_away.get(),
            stats.asked_for_proof.get()
        );
        assert!(grown <= GROWTH_MAX, "{grown} bytes more after {} inputs", self.turn);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Some(Inside { runtime, broker, before }) = self.inside.take() else { return };
        // This thread is ending, and with it what a runtime needs: another one brings it to its end.
        let ended = std::thread::spawn(move || {
            drop(runtime.block_on(broker.stop()));
            drop((before, runtime));
        });
        assert!(ended.join().is_ok() || std::thread::panicking(), "the broker did not end in order");
    }
}

thread_local! {
    static HOME: RefCell<Option<Home>> = const { RefCell::new(None) };
}

/// A CONNECT that is fine, version 5.
const CONNECT: [u8; 19] = [0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 4, b'f', b'u', b'z', b'z'];

/// See above.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let how = input.byte();
    let count = if how % 3 == 1 { usize::from(how >> 3) } else { ORDERS_MAX };
    let mut orders = VecDeque::new();
    while orders.len() < count && !input.is_empty() {
        orders.push_back([input.byte(), input.byte(), input.byte(), input.byte()]);
    }
    let says = if how & 4 == 0 { input.0.to_vec() } else { [&CONNECT[..], input.0].concat() };
    HOME.with_borrow_mut(|home| {
        let home = home.get_or_insert_with(Home::new);
        let runtime = &home.inside.as_ref().expect("there until the end").runtime;
        runtime.block_on(async {
            match how % 3 {
                0 => replay(home.door, &home.recorded, orders).await,
                1 => drop(live(home.door, &home.config, orders, &says).await),
                _ => misuse(home.door, &home.config, orders).await,
            }
        });
        home.check();
    });
}
