//! What carries a bus: opening a connection or a port, with the settings that the crates leave out.
//!
//! `tcp` and `udp` connect · `tls` shakes hands · `listen` waits for a call · `serial` opens a port, with two settings of
//! `ioctl` · `lone` keeps two of our programs from asking on one line behind a serial server · `tap` tells a recording what
//! passes. All yield a [`Wire`]; none knows what is spoken on it. What does not open is an error for this attempt only; the
//! driver tries again.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;

use crate::config::plan::{BusPlan, Carrier, PortPlan};
use crate::flow::clock::Clock;
use crate::road::handshake::Handshake;
use listen::Door;
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
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

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
