//! The road to a broker: names resolved, TCP, TLS, every byte counted, and at its near end a private socket.
//!
//! The MQTT client of this house offers no hook for any of that, so it speaks plain MQTT to a 0600 socket in a 0700
//! directory (never TCP on loopback, which any local user could join) and the road does the rest: `destination` where
//! to and which files · `tls` files to one TLS configuration per content, so that resumption survives a reconnect ·
//! `verify` the server's certificate, on a box whose clock may be wrong · `reach` names, addresses, socket options ·
//! `meter` bytes on the wire · `relay` the private socket · `login` user
//! and password · `backoff` when to try again.
//!
//! Knows nothing of MQTT. Used by `uplink` and `receive`. Promises: files are read again at each [`Road::open`]; what is
//! wrong with them is [`RoadError::Disabled`], so that nothing else has to be told apart from a link that is down.

pub mod backoff;
pub mod destination;
pub mod login;
pub mod meter;
mod overhear;
mod reach;
mod relay;
mod tls;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use destination::{Destination, RoadError};
use meter::Meter;
pub use relay::{Relay, RelayEnd};
pub use tls::Now;

/// One way to one broker; lives as long as its owner, so that TLS sessions can be resumed.
pub struct Road {
    to: Destination,
    tls: tls::Configs,
    run_dir: PathBuf,
    meter: Arc<Meter>,
}

impl Road {
    /// A road that puts its sockets into a directory of its own below `run_dir`; `now` dates certificates.
    pub fn new(to: Destination, now: Now, run_dir: PathBuf) -> Self {
        Self { to, tls: tls::Configs::new(now), run_dir, meter: Arc::default() }
    }

    /// Bytes so far, over all connections.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Reads the files, connects, and offers the connection on a fresh private socket. Takes up to minutes on a bad
    /// link; cancel-safe (a cancelled call leaves nothing behind).
    pub async fn open(&mut self) -> Result<Relay, RoadError> {
        let config = match &self.to.tls {
            Some(files) => Some(self.tls.load(files).await?),
            None => None,
        };
        let far = reach::reach(&self.to, config, Arc::clone(&self.meter)).await?;
        Relay::bind(&self.run_dir, far)
    }
}
