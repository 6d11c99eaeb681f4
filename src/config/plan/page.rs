//! `[status]`, resolved: where the status page, `/metrics` and `/health` are served.

use std::fmt;
use std::net::SocketAddr;

use super::listener::{Anonymous, ListenerTls};

/// `[status]`
#[derive(Debug, Clone, PartialEq)]
pub struct PagePlan {
    /// A literal address. Port 0: the system chooses (the bound address is logged).
    pub listen: SocketAddr,
    /// What is shown to visitors without a login. Only with a loopback address.
    pub anonymous: Anonymous,
    /// Names under which browsers reach it, lower case; addresses and `localhost` need none. The host's own are always among them.
    pub hosts: Vec<String>,
    /// `tls`; always there when other machines can reach the address.
    pub tls: Option<ListenerTls>,
}

/// `http://127.0.0.1:8080`
impl fmt::Display for PagePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.listen)
    }
}
