//! TCP: name resolution and connect within one timeout, NODELAY, keepalive.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

/// Resolving and connecting together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that dies silently is noticed after 30 s of silence and three questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Sent but never acknowledged for this long: the connection is dead.
const UNACKNOWLEDGED_MAX_MS: u32 = 20_000;

/// Connects to `host:port`, to the first of its addresses that answers. Cancel-safe.
pub(super) async fn connect(endpoint: &str) -> io::Result<TcpStream> {
    let until = Instant::now() + CONNECT_TIMEOUT;
    let stream = connect_any(&addresses(endpoint, until).await?, until).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Each address has an equal share of the time that is left: one that leads nowhere leaves the others theirs.
async fn connect_any(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut failure = no_address();
    for (tried, address) in addresses.iter().enumerate() {
        let share = (until - Instant::now()) / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = late(),
        }
    }
    Err(failure)
}

/// What the name stands for.
pub(super) async fn addresses(endpoint: &str, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let found = timeout_at(until, lookup_host(endpoint)).await.map_err(|_| late())?;
    Ok(found?.collect())
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s")
}

pub(super) fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// The settings of every connection, whoever opened it.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX_MS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_leads_nowhere_leaves_the_next_one_its_time() {
        let hole = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        hole.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("free");
        hole.listen(0).expect("listens");
        let nowhere = hole.local_addr().expect("bound").as_socket().expect("an address");
        let waiting = TcpStream::connect(nowhere).await; // takes the one place: whoever comes now is not answered
        let device = TcpListener::bind("127.0.0.1:0").await.expect("free");
        let found = [nowhere, device.local_addr().expect("bound")];
        let begun = Instant::now();
        let stream = connect_any(&found, begun + Duration::from_secs(1)).await.expect("the second");
        assert_eq!(stream.peer_addr().expect("connected"), found[1]);
        assert!(begun.elapsed() >= Duration::from_millis(500), "the first had its share");
        drop(waiting);
    }
}
