//! TCP: name resolution and connect within one timeout, NODELAY, keepalive.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

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
    let attempt = async {
        let mut last = no_address();
        for address in addresses(endpoint).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s");
    let stream = timeout(CONNECT_TIMEOUT, attempt).await.map_err(|_| late())??;
    tune(&stream)?;
    Ok(stream)
}

pub(super) async fn addresses(endpoint: &str) -> io::Result<impl Iterator<Item = SocketAddr>> {
    lookup_host(endpoint).await
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
