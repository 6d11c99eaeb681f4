//! What carries a bus: opening a connection or a port, with the settings that the crates leave out.
//!
//! `tcp` and `udp` connect · `tls` shakes hands · `listen` waits for a call · `serial` opens a port, with two settings of
//! `ioctl` · `lone` keeps two of our programs from asking on one line behind a serial server · `tap` tells a recording what
//! passes. All yield a [`Wire`]; none knows what is spoken on it. What does not open is an error for this attempt only; the
//! driver tries again.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::config::plan::{BusPlan, Carrier, PortPlan};
use crate::flow::clock::Clock;
use crate::road::handshake::Handshake;
use listen::{Caller, Door};
use lone::Lone;
pub use lone::Who;

mod ioctl;
mod listen;
mod lone;
mod serial;
pub mod tap;
mod tcp;
pub mod tls;
mod udp;

/// Anything bytes go through. A flush must not block the thread.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + Any {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> Wire for T {}

/// When this is dropped, the other side learns at once that it is over, and what it has not got yet it does not get: a
/// question that is stuck on its way, whose answer nobody waits for.
pub fn hang_up(wire: &dyn Wire) {
    let wire: &dyn Any = wire;
    if let Some(stream) = wire.downcast_ref().or_else(|| wire.downcast_ref().map(Caller::stream)) {
        reset_on_close(stream);
    }
}

fn reset_on_close(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO)); // it ends anyway, only later
}

/// A connection being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

/// How a bus gets its wire: the network or the port of its plan, or whatever a test has prepared.
pub trait Opener: Send {
    /// Opens it. Cancel-safe: what was half open is closed.
    fn open(&mut self) -> Opening<'_>;

    /// Somebody has answered: a moment to get what opening could not.
    fn answered(&mut self) {}

    /// With which files, where it needs some.
    fn handshake(&self) -> Option<Handshake> {
        None
    }
}

/// What keeps a carrier from opening is on this box: a port that another program has, a certificate that cannot be used.
#[derive(Debug)]
struct Ours(io::Error);

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Ours {}

/// Marks an error as one that [`is_ours`].
fn ours(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Ours(error))
}

/// Has somebody on this box to mend what kept a carrier from opening? If not it may be whoever is at its other end.
pub(super) fn is_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Ours>)
}

/// The opener of a bus. Where two that ask would hear each other's answers, it keeps others of ours away.
pub fn opener_of(bus: &BusPlan, clock: &Clock, who: Who) -> Box<dyn Opener> {
    let opener = opener(&bus.link.carrier, clock);
    match bus.lone_line() {
        Some(endpoint) => Box::new(Lone::new(opener, endpoint, who)),
        None => opener,
    }
}

/// The opener of a carrier, whatever is spoken on it; `clock` dates certificates.
pub fn opener(carrier: &Carrier, clock: &Clock) -> Box<dyn Opener> {
    match carrier {
        Carrier::Serial(port) => Box::new(Serial(port.clone())),
        Carrier::Tcp { endpoint } => Box::new(Tcp(endpoint.clone())),
        Carrier::Udp { endpoint } => Box::new(Udp(endpoint.clone(), None)),
        Carrier::Listen { listen, allow } => Box::new(Door::new(*listen, allow.clone())),
        Carrier::Tls(plan) => Box::new(Tls(plan.endpoint.clone(), tls::handshake(plan, clock))),
    }
}

struct Serial(PortPlan);
struct Tcp(String);
struct Udp(String, Option<udp::Last>);
struct Tls(String, Handshake);

impl Opener for Serial {
    fn open(&mut self) -> Opening<'_> {
        let port = self.0.clone();
        // A port of a USB adapter may take its time to open.
        Box::pin(async move { spawn_blocking(move || serial::open(&port)).await? })
    }
}

impl Opener for Tcp {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async { boxed(tcp::connect(&self.0).await?) })
    }
}

impl Opener for Udp {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async { boxed(udp::connect(&self.0, &mut self.1).await?) })
    }
}

impl Opener for Tls {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async { boxed(tls::connect(&self.0, &self.1).await?) })
    }

    fn handshake(&self) -> Option<Handshake> {
        Some(self.1.clone())
    }
}

impl Opener for Door {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async { boxed(Door::open(self).await?) })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the last step of every opening")]
fn boxed(wire: impl Wire + 'static) -> io::Result<Box<dyn Wire>> {
    Ok(Box::new(wire))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_hung_up_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        let wire = Tcp(endpoint).open().await.expect("listening");
        let (mut far, _) = listener.accept().await.expect("a connection");
        hang_up(&*wire);
        drop(wire);
        assert_eq!(far.read_u8().await.expect_err("over").kind(), io::ErrorKind::ConnectionReset);
    }
}
