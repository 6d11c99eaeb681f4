//! UDP ports of doors for QUIC, which outlive their doors: who came in by one goes on through its very socket, if only to
//! hear the goodbye, and nobody could open the address anew before the last datagram. So a door that takes the place of
//! another takes its port over, with its connections and whoever waits before it, and there is no gap.
//!
//! A port that no door has any more answers nobody new, and is closed when its last connection has ended.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use socket2::Socket;
use tokio::sync::Notify;

use super::listening::datagrams;
use crate::model::lock::Hold as _;
use crate::road::quic::port::Port;
use crate::road::server::Serving;

/// All of a broker; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    held: Mutex<Vec<Held>>,
    opened: Notify,
}

/// One of them.
#[derive(Debug)]
struct Held {
    /// As it was asked for; port 0 is whichever was free.
    listen: SocketAddr,
    interface: Option<String>,
    /// The same socket as the port's.
    socket: Socket,
    port: Arc<Port>,
}

impl Held {
    /// Is there a door that has it?
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.port) > 1
    }

    fn is_at(&self, listen: SocketAddr) -> bool {
        self.listen == listen || self.port.address().is_ok_and(|address| address == listen)
    }
}

impl Ports {
    /// The port of an address, as it was left or opened now; left again when it is dropped.
    pub(super) async fn open(
        &self,
        listen: SocketAddr,
        interface: Option<&str>,
        serving: &Serving,
    ) -> io::Result<Arc<Port>> {
        if let Some(port) = self.take_over(listen, interface, serving)? {
            return Ok(port);
        }
        let socket = datagrams(listen, interface).await?;
        let own = socket.try_clone()?;
        let port = Arc::new(Port::open(socket.into(), serving)?);
        let interface = interface.map(str::to_owned);
        self.lock().push(Held { listen, interface, socket: own, port: Arc::clone(&port) });
        Ok(port)
    }

    fn take_over(
        &self,
        listen: SocketAddr,
        interface: Option<&str>,
        serving: &Serving,
    ) -> io::Result<Option<Arc<Port>>> {
        let mut all = self.lock();
        all.retain(|held| held.is_used() || !held.port.is_broken());
        let left = all.iter_mut().filter(|held| held.is_at(listen) && !held.is_used());
        let Some(held) = left.min_by_key(|held| held.interface.as_deref() != interface) else { return Ok(None) };
        if held.interface.as_deref() != interface {
            // Without the right to do that, this one has to be gone before another one is opened.
            if held.socket.bind_device(interface.map(str::as_bytes)).is_err() {
                return Ok(None);
            }
            held.interface = interface.map(str::to_owned);
        }
        held.port.admit(serving)?;
        self.0.opened.notify_one();
        Ok(Some(Arc::clone(&held.port)))
    }

    /// Nobody new comes in where there is no door any more.
    pub(super) fn shut(&self) {
        drop(self.left());
    }

    /// Closes what no door has any more. Never ends; cancel-safe.
    pub(super) async fn clear(&self) -> Infallible {
        loop {
            let left = self.left();
            tokio::select! {
                () = async { match &left { Some(port) => port.emptied().await, None => pending().await } } => {}
                () = self.0.opened.notified() => {}
            }
        }
    }

    /// Shuts what no door has any more; the first of those in which there is still somebody.
    fn left(&self) -> Option<Port> {
        let mut all = self.lock();
        all.iter().filter(|held| !held.is_used()).for_each(|held| held.port.shut());
        all.retain(|held| held.is_used() || !(held.port.is_empty() || held.port.is_broken()));
        all.iter().find(|held| !held.is_used()).map(|held| Port::clone(&held.port))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.held.hold()
    }
}
