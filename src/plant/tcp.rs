//! A line on TCP, server side: any framing, with or without TLS.
//!
//! Every connection ends when its client leaves or when the server is stopped; their number is bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behind::{Behind, Presence, Then};
use super::conversation::converse;
use crate::config::plan::Framing;

/// Connections at a time; one more is closed at once, as a small PLC does.
const CONNECTIONS_MAX: usize = 32;
/// A client has this long for its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What a line speaks.
#[derive(Clone)]
pub struct Manner {
    /// How PDUs become frames.
    pub framing: Framing,
    /// `None`: in the open.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A listening line. Dropping it closes the door and all connections.
#[derive(Debug)]
pub struct TcpLine {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TcpLine {
    /// Serves somebody as Modbus TCP at an address (port 0: the system chooses).
    pub async fn serve(listen: SocketAddr, behind: impl Behind + 'static) -> io::Result<Self> {
        Self::serve_as(Manner { framing: Framing::Mbap, tls: None }, listen, behind).await
    }

    /// Serves somebody in another manner.
    pub async fn serve_as(manner: Manner, listen: SocketAddr, behind: impl Behind + 'static) -> io::Result<Self> {
        let behind: Arc<dyn Behind> = Arc::new(behind);
        let listener = TcpListener::bind(listen).await?;
        let line = Self { address: listener.local_addr()?, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (stop, tasks) = (line.stop.clone(), line.tasks.clone());
        line.tasks.spawn(async move {
            let accept = accept(listener, manner, behind, stop.clone(), tasks);
            let _ = stop.run_until_cancelled(accept).await;
        });
        Ok(line)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the door and all connections, and waits until that has happened.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for TcpLine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    manner: Manner,
    behind: Arc<dyn Behind>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        match listener.accept().await {
            Ok((refused, _)) if *behind.presence().borrow() == Presence::Away => drop(refused.set_zero_linger()),
            // The tracker also counts this task.
            Ok((stream, _)) if tasks.len() <= CONNECTIONS_MAX => {
                let (manner, behind, stop) = (manner.clone(), Arc::clone(&behind), stop.clone());
                tasks.spawn(async move {
                    let _ = stop.run_until_cancelled_owned(connection(stream, manner, &*behind)).await;
                });
            }
            Ok((refused, _)) => drop(refused),
            // Out of file descriptors, most likely: let others finish first.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(mut stream: TcpStream, manner: Manner, behind: &dyn Behind) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = manner.tls else {
        let then = converse(&mut stream, manner.framing, behind).await?;
        return if then == Then::Reset { stream.set_zero_linger() } else { Ok(()) };
    };
    let handshake = timeout(HANDSHAKE_MAX, TlsAcceptor::from(tls).accept(stream)).await;
    let mut stream = handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match converse(&mut stream, manner.framing, behind).await? {
        Then::Reset => stream.get_ref().0.set_zero_linger(),
        _ => stream.shutdown().await,
    }
}
