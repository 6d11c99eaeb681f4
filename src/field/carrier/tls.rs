//! TLS with a certificate on both sides (Modbus/TCP Security Protocol Specification v36). The device decides by the role in
//! our certificate what we may do; what it forbids it answers with exception 1.
//!
//! Files are read at each opening, so that a renewed certificate is simply used; see [`crate::road::handshake`].

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tcp;
use crate::config::plan::TlsCarrier;
use crate::road::destination::TlsFiles;
use crate::road::handshake::{Handshake, Secured};

/// Small controllers take seconds for the arithmetic.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects and shakes hands. Cancel-safe.
pub(super) async fn connect(plan: &TlsCarrier, handshake: &mut Handshake) -> io::Result<Secured<TcpStream>> {
    let files =
        TlsFiles { ca_file: plan.ca_file.clone(), identity: Some((plan.certificate.clone(), plan.key.clone())) };
    let stream = tcp::connect(&plan.endpoint).await?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 10 s");
    let shaken = timeout(HANDSHAKE_TIMEOUT, handshake.shake(&files, &plan.server_name, stream)).await;
    shaken.map_err(|_| late())?.map_err(io::Error::other)
}
