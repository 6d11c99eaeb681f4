//! What carries a bus: opening a connection or a port, with the settings that the crates leave out.
//!
//! `tcp` connects · `serial` opens a port. All yield a [`Wire`]; none knows what is spoken on it. What does not open is an
//! error for this attempt only; the driver tries again.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;

use crate::config::plan::Carrier;

pub mod serial;
pub mod tcp;

/// Anything bytes go through. A flush must not block the thread.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

/// How a bus gets its wire: the network or the port of its plan, or whatever a test has prepared.
pub trait Opener: Send {
    /// Opens it. Cancel-safe: what was half open is closed.
    fn open(&mut self) -> Opening<'_>;
}

impl Opener for Carrier {
    fn open(&mut self) -> Opening<'_> {
        match self {
            Self::Serial(port) => {
                let port = port.clone();
                // A port of a USB adapter may take its time to open.
                Box::pin(async move { spawn_blocking(move || serial::open(&port)).await? })
            }
            Self::Tcp { endpoint } => Box::pin(async { Ok(Box::new(tcp::connect(endpoint).await?) as Box<dyn Wire>) }),
            Self::Udp { .. } | Self::Tls(_) | Self::Listen { .. } => {
                Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
            }
        }
    }
}
