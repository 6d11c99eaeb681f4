//! Notices that this box has another address, and takes the connection along (RFC 9000, section 9).
//!
//! The system puts the interface's new address into the next datagram by itself, and a NAT that gives us another port needs
//! nothing at all: the other side goes on with whoever proves to be us. But who waits for something to come is not heard
//! from, so the other side would not know for up to a keep alive. Once a second the system is asked from which address it
//! would send there; that sends nothing. Another answer moves the connection to a fresh socket, with a new connection id,
//! and a small packet says so (then each side proves the path to the other, with padded packets: 2.7 kB in all). No answer
//! (no route): nothing, until there is one again; then the same small packet goes out at once, for by itself the
//! connection would try again only after as long as it has been silent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use quinn::{Connection, Endpoint};

use super::account::Account;
use super::open;
use super::socket::Counted;
use crate::road::destination::Bind;
use crate::road::socket::Refusal;
use crate::road::wire::Books;

/// Looks after one connection.
pub(super) struct Roaming {
    endpoint: Endpoint,
    connection: Connection,
    bind: Bind,
    account: Arc<Account>,
    /// From which address it goes, as far as was known last.
    from: Option<IpAddr>,
    /// There is no way out at the moment.
    stranded: bool,
}

impl Roaming {
    pub(super) fn new(endpoint: Endpoint, connection: Connection, bind: Bind, account: Arc<Account>) -> Self {
        let mut roaming = Self { endpoint, connection, bind, account, from: None, stranded: false };
        roaming.from = roaming.ask().ok();
        roaming
    }

    /// The address from which the system would send there now. No byte leaves the box.
    fn ask(&self) -> io::Result<IpAddr> {
        let to = self.connection.remote_address();
        let socket = open(to, &self.bind).map_err(|refusal| match refusal {
            Refusal::Box(text) | Refusal::Unsent(text) => io::Error::other(text),
            Refusal::Link(error) => error,
        })?;
        socket.connect(to)?;
        socket.local_addr().map(|address: SocketAddr| address.ip())
    }

    fn move_over(&self) -> io::Result<()> {
        let socket = open(self.connection.remote_address(), &self.bind);
        let socket = socket.map_err(|_| io::Error::other("no socket for the new address"))?;
        self.endpoint.rebind_abstract(Arc::new(Counted::new(socket, Arc::clone(&self.account))?))
    }
}

impl Books for Roaming {
    /// Datagrams were counted as they went; what is left to do is to see where we are.
    fn settle(&mut self) {
        if self.connection.close_reason().is_some() {
            return;
        }
        let Ok(now) = self.ask() else {
            self.stranded = true;
            return;
        };
        let was_stranded = std::mem::take(&mut self.stranded);
        let before = self.from.replace(now).unwrap_or(now);
        if before == now && !was_stranded {
            return;
        }
        match self.move_over() {
            Ok(()) if before == now => tracing::info!(from = %now, "there is a way out again, QUIC connection goes on"),
            Ok(()) => {
                self.account.moved();
                tracing::info!(from = %before, to = %now, "the address of this box has changed, QUIC connection goes on");
            }
            Err(error) => {
                self.stranded = true; // tried again
                if !was_stranded {
                    tracing::warn!(%error, to = %now, "QUIC connection stays where it was");
                }
            }
        }
    }
}
