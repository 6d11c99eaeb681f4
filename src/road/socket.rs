//! From a name to a TCP connection: DNS, each address in turn, what the socket is bound to, its options.
//!
//! Made for links with round trips of 0.6 to 2 s that lose packets: each address has a share of the time of its own,
//! because TCP needs several transmissions of its SYN (at 0, 1, 3, 7, 15 s; RFC 6298, section 2.1). Names are resolved by
//! the system's resolver, on whatever way it takes: binding is for the connection alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::destination::{Bind, RoadError, place};
use super::meter::{Answered, Meters};

/// Limit of a name lookup (the resolver's own retries take up to 20 s).
const RESOLVE_MAX: Duration = Duration::from_secs(30);
/// Limit of a TCP connect to all addresses of a name.
pub(super) const CONNECT_ALL_MAX: Duration = Duration::from_secs(60);
/// An address is given at most this: five SYNs.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// And at least this, however many there are: three SYNs, or a round trip of 2 s after two lost ones.
const CONNECT_MIN: Duration = Duration::from_secs(8);
/// A name may have many addresses; no more than these are tried in one go.
const ADDRESSES_MAX: usize = 6;
/// Sent bytes that nobody confirms for this long end the connection: a black hole sends no RST (TCP_USER_TIMEOUT, tcp(7)).
const UNCONFIRMED_MAX_MS: u32 = 60_000;
/// First TCP probe after this much silence. Longer than a usual MQTT keep alive, so that it costs nothing beside one.
const SILENCE_BEFORE_PROBE: Duration = Duration::from_secs(300);
/// Bytes that may wait in the kernel for their first transmission (TCP_NOTSENT_LOWAT, tcp(7)): on a slow link a large
/// queue there would make an alarm wait behind minutes of backlog.
const NOT_SENT_MAX: u32 = 16 << 10;

/// The addresses of a name that can be reached, in the order in which they are to be tried; at least one. Cancel-safe.
pub(super) async fn addresses(host: &str, port: u16, bind: &Bind) -> Result<Vec<SocketAddr>, RoadError> {
    let found = match timeout(RESOLVE_MAX, lookup_host((host, port))).await {
        Ok(Ok(found)) => in_turn(found.collect(), bind),
        Ok(Err(error)) => return Err(RoadError::Unreachable(format!("cannot resolve {host}: {error}"))),
        Err(_) => return Err(RoadError::Unreachable(format!("resolving {host} took too long"))),
    };
    if found.is_empty() {
        let why = match bind {
            Bind::Source(source) => format!("{host} has no address that {source} can reach"),
            _ => format!("{host} has no address"),
        };
        return Err(RoadError::Unreachable(why));
    }
    Ok(found)
}

/// Connects to the first address of the name that answers. Cancel-safe.
pub(super) async fn connect(host: &str, port: u16, bind: &Bind, meters: &Meters) -> Result<TcpStream, RoadError> {
    let found = addresses(host, port, bind).await?;
    let mut failures = Vec::new();
    let until = Instant::now() + CONNECT_ALL_MAX;
    for (tried, address) in found.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            failures.push(format!("{} more not tried", found.len() - tried));
            break;
        }
        let share = share(left, found.len() - tried);
        let mut attempt = Attempt { meters, to: address.ip(), began: Instant::now(), failed: Some(Answered::No) };
        match timeout(share, connect_to(*address, bind)).await {
            Ok(Ok(stream)) => {
                attempt.failed = None;
                return Ok(stream);
            }
            Ok(Err(Refusal::Box(text))) => {
                attempt.failed = None;
                return Err(RoadError::Disabled(text));
            }
            Ok(Err(Refusal::Unsent(why))) => {
                attempt.failed = None;
                failures.push(format!("{address}: {why}"));
            }
            Ok(Err(Refusal::Link(error))) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    attempt.failed = Some(Answered::Yes);
                }
                failures.push(format!("{address}: {error}"));
            }
            Err(_) => failures.push(format!("{address}: no answer within {} s", share.as_secs())),
        }
    }
    let place = place(host, port);
    Err(RoadError::Unreachable(format!("cannot connect to {place}{}: {}", by(bind), failures.join("; "))))
}

/// A connect that is paid for when it comes to nothing, also when nobody waits for it any more.
struct Attempt<'a> {
    meters: &'a Meters,
    to: IpAddr,
    began: Instant,
    /// `None`: it has succeeded, or nothing was sent.
    failed: Option<Answered>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(answered) = self.failed {
            self.meters.no_connection(self.to, self.began.elapsed(), answered);
        }
    }
}

/// What an address is given when so many are left to be tried in so much time.
pub(super) fn share(left: Duration, addresses: usize) -> Duration {
    let even = left / u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
    even.clamp(CONNECT_MIN, CONNECT_MAX).min(left)
}

/// The order in which addresses are tried: as the resolver has them, but the two families by turns, so that a family
/// without a way out costs one share and not all of them.
fn in_turn(found: Vec<SocketAddr>, bind: &Bind) -> Vec<SocketAddr> {
    let usable = found.into_iter().filter(|address| match bind {
        Bind::Source(source) => source.is_ipv4() == address.is_ipv4(),
        Bind::System | Bind::Interface(_) => true,
    });
    let mut usable = usable.collect::<Vec<_>>();
    usable.dedup();
    let Some(first) = usable.first().map(SocketAddr::is_ipv4) else { return usable };
    let (same, other): (Vec<_>, Vec<_>) = usable.into_iter().partition(|address| address.is_ipv4() == first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            order.truncate(ADDRESSES_MAX);
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

/// Why one address did not work.
pub(super) enum Refusal {
    /// A person must change something on this box.
    Box(String),
    /// Nothing was sent.
    Unsent(String),
    /// The link.
    Link(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Link(error)
    }
}

async fn connect_to(address: SocketAddr, bind: &Bind) -> Result<TcpStream, Refusal> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    match bind {
        Bind::System => {}
        Bind::Interface(name) => socket.bind_device(Some(name.as_bytes())).map_err(|error| device(name, &error))?,
        Bind::Source(source) => {
            let failed = |error: io::Error| Refusal::Unsent(format!("source address {source}: {error}"));
            socket.bind((*source, 0).into()).map_err(failed)?;
        }
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(io::Error::from)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, SILENCE_BEFORE_PROBE).map_err(io::Error::from)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(30)).map_err(io::Error::from)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNCONFIRMED_MAX_MS).map_err(io::Error::from)?;
    SockRef::from(&stream).set_tcp_notsent_lowat(NOT_SENT_MAX)?;
    Ok(stream)
}

pub(super) fn device(name: &str, error: &io::Error) -> Refusal {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::PERM) => Refusal::Box(format!(
            "interface {name}: this kernel lets only programs with CAP_NET_RAW bind to an interface \
             (systemd: AmbientCapabilities=CAP_NET_RAW), or use source = \"address\" instead"
        )),
        Some(rustix::io::Errno::NODEV) => Refusal::Unsent(format!("there is no interface {name}")),
        _ => Refusal::Unsent(format!("interface {name}: {error}")),
    }
}

pub(super) fn by(bind: &Bind) -> String {
    match bind {
        Bind::System => String::new(),
        Bind::Interface(name) => format!(" by {name}"),
        Bind::Source(source) => format!(" from {source}"),
    }
}

/// SYNs that a connect which lasted so long has sent.
pub(super) fn syns(lasted: Duration) -> u64 {
    u64::from((lasted.as_secs() + 1).ilog2() + 1)
}

/// For the meter: which interface a socket is bound to, 0 for none.
pub(super) fn interface_index(stream: &TcpStream, bind: &Bind) -> u32 {
    match bind {
        Bind::Interface(name) => rustix::net::netdevice::name_to_index(stream, name).unwrap_or(0),
        Bind::System | Bind::Source(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_and_a_source_address_leaves_only_its_own() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let all = in_turn(found.clone(), &Bind::System);
        assert_eq!(all, addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]));
        let four = in_turn(found, &Bind::Source(IpAddr::from([10, 0, 0, 7])));
        assert_eq!(four, addresses(&["1.1.1.1:1", "2.2.2.2:1"]));
        assert!(in_turn(Vec::new(), &Bind::System).is_empty());
        let many: Vec<SocketAddr> = (1..50).map(|port| ([127, 0, 0, 1], port).into()).collect();
        assert_eq!(in_turn(many, &Bind::System).len(), ADDRESSES_MAX);
    }

    #[test]
    fn each_address_has_time_for_a_satellite_and_all_together_are_bounded() {
        let mut left = CONNECT_ALL_MAX;
        for addresses in (1..=ADDRESSES_MAX).rev() {
            let share = share(left, addresses);
            assert!(share >= CONNECT_MIN.min(left) && share <= CONNECT_MAX, "{share:?}");
            left -= share;
        }
        assert_eq!(share(CONNECT_ALL_MAX, 1), CONNECT_MAX);
        assert_eq!(share(Duration::from_secs(3), 4), Duration::from_secs(3));
    }

    #[test]
    fn a_connect_that_nobody_answers_sends_a_syn_at_0_1_3_7_and_15_seconds() {
        for (seconds, sent) in [(0, 1), (1, 2), (2, 2), (3, 3), (6, 3), (7, 4), (14, 4), (15, 5), (20, 5)] {
            assert_eq!(syns(Duration::from_secs(seconds)), sent, "{seconds} s");
        }
    }
}
