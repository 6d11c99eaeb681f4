//! The road to a broker: names resolved, TCP, proxy, TLS, websocket; every byte on the wire counted and paced; at its near
//! end a private socket.
//!
//! The MQTT client of this house offers no hook for any of that, so it speaks plain MQTT to a 0600 socket in a 0700
//! directory (never TCP on loopback, which any local user could join) and the road does the rest: `destination` where
//! to and which files · `rotation` which of several servers is next · `socket` names, addresses, binding, socket
//! options · `proxy` HTTP CONNECT and SOCKS 5 · `tls` files to one TLS configuration per content and server, so that
//! resumption survives reconnects and changes of server · `expiry` when certificates end · `verify` the server's
//! certificate, on a box whose clock may be wrong · `websocket` frames, `http` heads for it and the proxy · `reach` all
//! these in their order · `wire` the TCP connection with its `meter` (bytes on the wire, as the `kernel` counts them)
//! and its `pace` · `relay` the private socket, `near` who sits there, `overhear` what comes through it · `login` user
//! and password · `backoff` when to try again · `handshake` the TLS part alone, for connections that are no road ·
//! `server` the other end of it, for those who connect to us, `renewal` its certificates over the years, `names` what
//! their certificates call them, `doorstep` what keeps them out · `own` a server of ours, asked by a command ·
//! `quic` MQTT over QUIC, both ends · `inside` the way to the broker of this program, which has none of all that.
//!
//! Knows nothing of MQTT. Used by `uplink` and `receive`, and by `field` and `broker` for their TLS. Promises: files
//! are read again at each [`Road::open`]; what is wrong with them is [`RoadError::Disabled`], so that nothing else has
//! to be told apart from a link that is down; once there was a good configuration, bad files do not end it.

pub mod backoff;
pub mod destination;
pub mod doorstep;
mod expiry;
pub mod handshake;
mod http;
pub mod inside;
mod kernel;
pub mod login;
pub mod meter;
mod names;
mod near;
mod overhear;
pub mod own;
pub mod pace;
mod proxy;
#[cfg(feature = "quic")]
pub mod quic;
mod reach;
mod relay;
pub mod renewal;
pub mod rotation;
pub mod server;
mod socket;
mod tls;
mod verify;
mod websocket;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use destination::{Bind, Destination, Over, RoadError};
pub use expiry::Ends;
use inside::InnerDoor;
use meter::Meter;
pub use names::names;
use pace::Pace;
pub use relay::{Relay, RelayEnd};
pub use tls::Now;
pub use websocket::accept;

/// One way to one broker; lives as long as its owner, so that TLS sessions can be resumed.
pub struct Road {
    to: Destination,
    tls: tls::Configs,
    /// Of which content the configuration was that the last connection was made with.
    used: Option<u64>,
    terms: reach::Terms,
    run_dir: PathBuf,
}

/// See [`Road::probe`].
#[derive(Clone)]
pub struct Prober {
    to: Destination,
    /// Asked where UDP is not answered.
    by_tcp: Option<Destination>,
    terms: reach::Terms,
}

impl Prober {
    /// These servers are there too: a way that lets no UDP through is as good as any if one of them is reached by TCP.
    #[must_use]
    pub fn or(mut self, servers: &[Destination]) -> Self {
        let goes_by_udp = |to: &Destination| matches!(to.over, Over::Quic { .. });
        self.by_tcp = servers.iter().find(|to| !goes_by_udp(to)).filter(|_| goes_by_udp(&self.to)).cloned();
        self
    }

    /// See [`Road::probe`].
    pub fn probe(
        &self,
        bind: Bind,
        meter: Arc<Meter>,
    ) -> impl Future<Output = Result<(), RoadError>> + Send + 'static + use<> {
        let Self { to, by_tcp, mut terms } = self.clone();
        (terms.bind, terms.meters.way) = (bind, Some(meter));
        async move {
            match (reach::knock(&to, &terms).await, by_tcp) {
                (Err(_), Some(to)) => reach::knock(&to, &terms).await,
                (knocked, _) => knocked,
            }
        }
    }
}

/// How the files of a destination stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// They hold something else, and usable, than what the last connection was made with.
    pub renewed: bool,
    /// Why what they hold now cannot be used; the last good configuration stays in force.
    pub fault: Option<String>,
    /// Which of their certificates ends first.
    pub ends: Option<Ends>,
}

impl Road {
    /// A road that puts its sockets into a directory of its own below `run_dir`; `now` dates certificates.
    pub fn new(to: Destination, now: Now, run_dir: PathBuf) -> Self {
        Self {
            to,
            tls: tls::Configs::new(now, tls::Expired::Kept),
            used: None,
            terms: reach::Terms::default(),
            run_dir,
        }
    }

    /// The next [`Road::open`] leads there. The TLS sessions with the servers before are kept.
    pub fn lead(&mut self, to: Destination) {
        self.to = to;
    }

    /// Where it leads to the broker of this program: by this door.
    pub fn enter_by(&mut self, door: InnerDoor) {
        self.terms.door = Some(door);
    }

    /// The next [`Road::open`] goes this way, and its bytes are counted there too.
    pub fn go_by(&mut self, bind: Bind, meter: Arc<Meter>) {
        self.terms.bind = bind;
        self.terms.meters.way = Some(meter);
    }

    /// Bytes so far, over all connections.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.terms.meters.road)
    }

    /// Sets how fast this road may be driven, at any time.
    pub fn pace(&self) -> Pace {
        self.terms.pace.clone()
    }

    /// Does a TCP connect get through that way, to the broker or the proxy before it? Costs about 360 bytes, counted; an
    /// open connection of this road is not touched. Cancel-safe.
    pub fn probe(
        &self,
        bind: Bind,
        meter: Arc<Meter>,
    ) -> impl Future<Output = Result<(), RoadError>> + Send + 'static + use<> {
        self.prober().probe(bind, meter)
    }

    /// For probes while the road itself is lent to somebody else; leads where the road leads now.
    pub fn prober(&self) -> Prober {
        Prober { to: self.to.clone(), by_tcp: None, terms: self.terms.clone() }
    }

    /// Reads the files, connects, and offers the connection on a fresh private socket. Takes up to minutes on a bad
    /// link; cancel-safe (a cancelled call leaves nothing behind).
    pub async fn open(&mut self) -> Result<Relay, RoadError> {
        let config = match &self.to.tls {
            Some(files) => {
                let loaded = self.tls.load(files, &self.to.whom()).await?;
                self.used = Some(loaded.edition);
                Some(loaded.config)
            }
            None => None,
        };
        let reached = reach::reach(&self.to, config, &self.terms).await?;
        Relay::bind(&self.run_dir, reached)
    }

    /// Looks at the files, without a byte on the wire. Cancel-safe.
    pub async fn files(&mut self) -> Files {
        let Some(files) = &self.to.tls else { return Files::default() };
        let loaded = self.tls.load(files, &self.to.whom()).await;
        let ends = self.tls.ends().cloned();
        match loaded {
            Ok(loaded) => {
                let renewed = self.used.is_some_and(|used| used != loaded.edition);
                Files { renewed, fault: loaded.fault, ends }
            }
            Err(error) => {
                let fault = Some(error.to_string()).filter(|_| !self.tls.unchanged());
                Files { renewed: false, fault, ends }
            }
        }
    }
}
