//! A line behind a serial server has one master, as a serial port has: answers there carry no number, and a transparent
//! server passes each to everybody who is connected. A port has the kernel's lock for that; here whoever asks holds a name.
//!
//! The name is that of an abstract unix socket (unix(7)): `ironbridge line host:port`, in lower case, of a long one its end.
//! No file, nobody ever sends there, and it is free again however its holder ends. It is known in one network namespace
//! only: whoever is in another one, or on another machine, is not seen.
//!
//! A tool that cannot have it asks nobody. The gateway works all the same, since any local program could take the name: it
//! says so, and tries again with each answer.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::{debug, warn};

use super::{Opener, Opening};
use crate::road::handshake::Handshake;

const PREFIX: &[u8] = b"ironbridge line ";
/// A name has 107 bytes (unix(7)).
const ENDPOINT_MAX: usize = 107 - PREFIX.len();

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The gateway, whom nothing hinders.
    Gateway,
    /// A tool of somebody, beside the gateway or another one.
    Tool,
}

/// An opener that holds the name of its line from the first opening to its end.
pub(super) struct Lone {
    opener: Box<dyn Opener>,
    endpoint: String,
    who: Who,
    held: Option<UnixDatagram>,
    told: bool,
}

impl Lone {
    /// Not yet held.
    pub(super) fn new(opener: Box<dyn Opener>, endpoint: &str, who: Who) -> Self {
        Self { opener, endpoint: endpoint.to_lowercase(), who, held: None, told: false }
    }

    /// Takes the name if nobody has it; an error only when somebody has. A system that knows no such names has no protection.
    fn hold(&mut self) -> io::Result<()> {
        if self.held.is_some() {
            return Ok(());
        }
        match name(&self.endpoint).and_then(|name| UnixDatagram::bind_addr(&name)) {
            Ok(socket) => self.held = Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program asks on the line behind it"));
            }
            Err(error) => debug!(endpoint = %self.endpoint, %error, "the line is not held against other programs"),
        }
        Ok(())
    }

    fn hold_or_tell(&mut self) {
        if let Err(error) = self.hold()
            && !std::mem::replace(&mut self.told, true)
        {
            warn!(endpoint = %self.endpoint, %error, "answers on this line may be those to somebody else");
        }
    }
}

impl Opener for Lone {
    fn open(&mut self) -> Opening<'_> {
        match self.who {
            Who::Gateway => self.hold_or_tell(),
            Who::Tool => {
                if let Err(error) = self.hold() {
                    return Box::pin(async { Err(error) });
                }
            }
        }
        self.opener.open()
    }

    fn handshake(&self) -> Option<Handshake> {
        self.opener.handshake()
    }

    fn answered(&mut self) {
        if self.held.is_none() {
            self.hold_or_tell();
        }
    }
}

fn name(endpoint: &str) -> io::Result<SocketAddr> {
    let endpoint = endpoint.as_bytes();
    let end = &endpoint[endpoint.len().saturating_sub(ENDPOINT_MAX)..];
    SocketAddr::from_abstract_name([PREFIX, end].concat())
}

#[cfg(test)]
mod tests {
    use super::super::Tcp;
    use super::*;

    #[test]
    fn a_line_has_one_name_however_its_host_is_written_and_however_long_that_is() {
        let lone = |host: &str| Lone::new(Box::new(Tcp(String::new())), &format!("{host}.test:4001"), Who::Tool);
        for host in ["Moxa", &"long.".repeat(50)] {
            let (mut one, mut two) = (lone(host), lone(&host.to_uppercase()));
            one.hold().expect("nobody has it");
            assert!(one.held.is_some(), "{host}");
            assert_eq!(two.hold().expect_err("it is taken").kind(), io::ErrorKind::ResourceBusy, "{host}");
            drop(one);
            two.hold().expect("it is free again");
        }
    }
}
