//! The front door of a line: on 127.0.0.1 at a free port, on a pseudo-terminal, or dialling in where the configuration
//! listens; whoever is behind it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::behind::Behind;
use super::dial::DialLine;
use super::instruments::Instruments;
use super::rtu::{Pace, RtuLine};
use super::talk::TalkLine;
use super::tcp::{Manner, TcpLine};
use super::tls::{self, GatewayFiles};
use super::udp::UdpLine;
use crate::config::plan::{BusLink, Carrier};

/// Where a served bus is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On TCP or UDP.
    Net(SocketAddr),
    /// On TCP with TLS.
    Tls(SocketAddr, GatewayFiles),
    /// Somebody dials in there.
    Dialled(SocketAddr),
    /// On a pseudo-terminal.
    Pty(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) | Self::Tls(address, _) | Self::Dialled(address) => address.fmt(f),
            Self::Pty(path) => path.display().fmt(f),
        }
    }
}

/// How doors are opened.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    /// Serial lines take the time of their baud rate.
    pub paced: bool,
    /// Where the certificates for buses with TLS are written; `None`: such a bus cannot be served.
    pub certificates: Option<PathBuf>,
    /// Where symbolic links to the pseudo-terminals are put (named after the bus); `None`: no links.
    pub links: Option<PathBuf>,
    /// Made when the first bus needs them, for all of them.
    secrets: Option<(Arc<ServerConfig>, GatewayFiles)>,
}

impl Doors {
    /// With these habits.
    pub fn new(paced: bool, certificates: Option<PathBuf>, links: Option<PathBuf>) -> Self {
        Self { paced, certificates, links, secrets: None }
    }

    /// Opens the door of one line. Must be called within a tokio runtime.
    pub async fn open(&mut self, name: &str, link: &BusLink, behind: Arc<dyn Behind>) -> io::Result<Door> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let framing = link.framing;
        let (line, place) = match &link.carrier {
            Carrier::Tcp { .. } => {
                let line = TcpLine::serve_as(Manner { framing, tls: None }, any, behind).await?;
                let place = Place::Net(line.address());
                (Line::Tcp(line), place)
            }
            Carrier::Udp { .. } => {
                let line = UdpLine::serve(framing, any, behind).await?;
                let place = Place::Net(line.address());
                (Line::Udp(line), place)
            }
            Carrier::Tls(_) => {
                let (config, files) = self.secrets()?;
                let line = TcpLine::serve_as(Manner { framing, tls: Some(config) }, any, behind).await?;
                let place = Place::Tls(line.address(), files);
                (Line::Tcp(line), place)
            }
            Carrier::Listen { .. } => {
                // A port that is free now; whoever runs the configuration listens there.
                let to = TcpListener::bind(any).await?.local_addr()?;
                (Line::Dial(DialLine::serve(framing, to, behind)), Place::Dialled(to))
            }
            Carrier::Serial(port) => {
                let pace = if self.paced { Pace::Line(port.line) } else { Pace::Instant };
                let symlink = self.links.as_ref().map(|folder| folder.join(name));
                let line = RtuLine::serve_as(framing, symlink.as_deref(), pace, behind)?;
                let place = Place::Pty(line.path().to_path_buf());
                (Line::Rtu(line), place)
            }
        };
        Ok(Door { place, line })
    }

    /// Opens the door of a line of instruments. Must be called within a tokio runtime.
    pub async fn open_talk(&self, name: &str, link: &BusLink, instruments: Instruments) -> io::Result<Door> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (line, place) = match &link.carrier {
            Carrier::Serial(port) => {
                let pace = if self.paced { Pace::Line(port.line) } else { Pace::Instant };
                let symlink = self.links.as_ref().map(|folder| folder.join(name));
                let (line, path) = TalkLine::on_pty(symlink.as_deref(), pace, instruments)?;
                (line, Place::Pty(path))
            }
            Carrier::Listen { .. } => {
                let to = TcpListener::bind(any).await?.local_addr()?;
                (TalkLine::dial(to, instruments), Place::Dialled(to))
            }
            Carrier::Tcp { .. } | Carrier::Udp { .. } | Carrier::Tls(_) => {
                let (line, address) = TalkLine::serve(any, instruments).await?;
                (line, Place::Net(address))
            }
        };
        Ok(Door { place, line: Line::Talk(line) })
    }

    fn secrets(&mut self) -> io::Result<(Arc<ServerConfig>, GatewayFiles)> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "there is no place for its certificates");
        match &self.secrets {
            Some(made) => Ok(made.clone()),
            None => {
                let made = tls::make(self.certificates.as_ref().ok_or_else(missing)?)?;
                Ok(self.secrets.insert(made).clone())
            }
        }
    }
}

/// An open door. Dropping it closes the line.
#[derive(Debug)]
pub struct Door {
    /// Where it is.
    pub place: Place,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Tcp(TcpLine),
    Udp(UdpLine),
    Dial(DialLine),
    Rtu(RtuLine),
    Talk(TalkLine),
}

impl Door {
    /// Closes it and waits until that has happened.
    pub async fn stop(self) {
        match self.line {
            Line::Tcp(line) => line.stop().await,
            Line::Udp(line) => line.stop().await,
            Line::Dial(line) => line.stop().await,
            Line::Rtu(line) => line.stop().await,
            Line::Talk(line) => line.stop().await,
        }
    }
}
