//! TLS with a certificate on both sides (Modbus/TCP Security Protocol Specification v36). The device decides by the role in
//! our certificate what we may do; what it forbids it answers with exception 1.
//!
//! Files are read at each opening, so that a renewed certificate is simply used; see [`crate::road::handshake`]. What is wrong
//! with them is told whether the device is there or not.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ours, tcp};
use crate::config::plan::TlsCarrier;
use crate::flow::clock::Clock;
use crate::road::Now;
use crate::road::destination::TlsFiles;
use crate::road::handshake::{Handshake, Secured};

/// Small controllers take seconds for the arithmetic; a disk in trouble takes longer for files.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// With the files of a plan; `clock` dates certificates.
pub fn handshake(plan: &TlsCarrier, clock: &Clock) -> Handshake {
    let clock = clock.clone();
    let files =
        TlsFiles { ca_file: plan.ca_file.clone(), identity: Some((plan.certificate.clone(), plan.key.clone())) };
    Handshake::new(files, plan.server_name.clone(), Now::new(move || clock.date_now()))
}

/// Connects and shakes hands. Cancel-safe.
pub(super) async fn connect(endpoint: &str, handshake: &Handshake) -> io::Result<Secured<TcpStream>> {
    let late = |what| io::Error::new(io::ErrorKind::TimedOut, what);
    let ready = timeout(HANDSHAKE_TIMEOUT, handshake.ready()).await;
    let ready = ready.map_err(|_| late("certificate files could not be read within 10 s"));
    let ready = ready.and_then(|ready| ready.map_err(io::Error::other)).map_err(ours)?;
    let stream = tcp::connect(endpoint).await?;
    let shaken = timeout(HANDSHAKE_TIMEOUT, ready.shake(stream)).await;
    shaken.map_err(|_| late("no TLS handshake within 10 s"))?.map_err(io::Error::other)
}
