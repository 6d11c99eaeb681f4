//! A whole plan served: each bus of it on 127.0.0.1 at a free port, or on a pseudo-terminal; for a bus that listens a line
//! that dials in there.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::config::plan::{BusPlan, Carrier, Plan};
use crate::model::tag::BusIx;
use crate::model::value::Value;

use super::dial::DialLine;
use super::faults::Fault;
use super::instruments::Instruments;
use super::life::{Follow, Life};
use super::rtu::{Pace, RtuLine};
use super::talk::TalkLine;
use super::tcp::{Manner, TcpLine};
use super::tls::{self, GatewayFiles};
use super::udp::UdpLine;
use super::units::Units;

/// A bus could not be served.
#[derive(Debug, thiserror::Error)]
#[error("bus {bus}: cannot serve it: {source}")]
pub struct NotServed {
    /// Which one.
    pub bus: String,
    /// Why.
    pub source: io::Error,
}

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// Serial lines take the time of their baud rate.
    pub paced: bool,
    /// Tags that follow others, with the name of their device.
    pub follows: Vec<(String, Follow)>,
    /// Where the certificates for buses with TLS are written; `None`: such a bus cannot be served.
    pub certificates: Option<PathBuf>,
    /// Where symbolic links to the pseudo-terminals are put (named after the bus); `None`: no links.
    pub links: Option<PathBuf>,
}

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

/// All buses of a plan, served until dropped or stopped.
#[derive(Debug)]
pub struct Site {
    buses: Vec<ServedBus>,
    devices: Vec<ServedDevice>,
}

/// One served bus.
#[derive(Debug)]
pub struct ServedBus {
    /// As in the plan.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Who is there; on a bus of type line nobody with an address.
    pub units: Units,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Tcp(TcpLine),
    Udp(UdpLine),
    Dial(DialLine),
    Rtu(RtuLine),
    Talk(TalkLine, Instruments),
}

#[derive(Debug)]
struct ServedDevice {
    name: String,
    bus: usize,
    unit_id: u8,
}

impl Site {
    /// Serves every bus of the plan with its devices. Must be called within a tokio runtime.
    pub async fn serve(plan: &Plan, options: &SiteOptions) -> Result<Self, NotServed> {
        let mut site = Self { buses: Vec::new(), devices: Vec::new() };
        let mut secrets = None;
        for (at, bus) in plan.buses.iter().enumerate() {
            if let Some(instruments) = Instruments::of(plan, bus_ix(at)) {
                let not_served = |source| NotServed { bus: bus.name.clone(), source };
                let instruments = instruments.map_err(|error| not_served(io::Error::other(error)))?;
                let (line, place) = Line::talking(bus, instruments, options).await.map_err(not_served)?;
                for device in plan.devices.iter().filter(|device| device.bus == Some(bus_ix(at))) {
                    site.devices.push(ServedDevice { name: device.name.clone(), bus: at, unit_id: device.unit_id });
                }
                site.buses.push(ServedBus { name: bus.name.clone(), place, units: Units::new(), line });
                continue;
            }
            let units = Units::new();
            let mut lives: BTreeMap<u8, Life> = BTreeMap::new();
            for device in plan.devices.iter().filter(|device| device.bus == Some(bus_ix(at))) {
                let own = options.follows.iter().filter(|(name, _)| *name == device.name);
                let follows: Vec<Follow> = own.map(|(_, follow)| follow.clone()).collect();
                lives.entry(device.unit_id).or_default().add(plan, device, &follows);
                site.devices.push(ServedDevice { name: device.name.clone(), bus: at, unit_id: device.unit_id });
            }
            for (unit_id, life) in lives {
                units.insert_living(unit_id, life);
            }
            let (line, place) = Line::open(bus, &units, options, &mut secrets)
                .await
                .map_err(|source| NotServed { bus: bus.name.clone(), source })?;
            site.buses.push(ServedBus { name: bus.name.clone(), place, units, line });
        }
        Ok(site)
    }

    /// The buses, in plan order.
    pub fn buses(&self) -> &[ServedBus] {
        &self.buses
    }

    /// Where a bus is found.
    pub fn place(&self, bus: &str) -> Option<&Place> {
        self.buses.iter().find(|served| served.name == bus).map(|served| &served.place)
    }

    /// Sets or heals the fault of a device. False: there is no such device, or none that could have this fault.
    pub fn set_fault(&self, device: &str, fault: Option<Fault>) -> bool {
        self.devices
            .iter()
            .find(|served| served.name == device)
            .map(|served| (&self.buses[served.bus], served.unit_id))
            .is_some_and(|(bus, unit_id)| match &bus.line {
                Line::Talk(_, instruments) => instruments.set_fault(device, fault),
                Line::Tcp(_) | Line::Udp(_) | Line::Dial(_) | Line::Rtu(_) => bus.units.set_fault(unit_id, fault),
            })
    }

    /// Did the tag with this local topic ever hold this value? `None`: no tag has this topic.
    pub fn held(&self, topic: &str, value: &Value) -> Option<bool> {
        self.devices.iter().find_map(|served| {
            self.buses[served.bus].units.with_life(served.unit_id, |life| life.held(topic, value)).flatten()
        })
    }

    /// Closes all lines and waits until that has happened.
    pub async fn stop(self) {
        for bus in self.buses {
            match bus.line {
                Line::Tcp(line) => line.stop().await,
                Line::Udp(line) => line.stop().await,
                Line::Dial(line) => line.stop().await,
                Line::Rtu(line) => line.stop().await,
                Line::Talk(line, _) => line.stop().await,
            }
        }
    }
}

impl Line {
    /// Of a bus of type line.
    async fn talking(bus: &BusPlan, instruments: Instruments, options: &SiteOptions) -> io::Result<(Self, Place)> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let with = instruments.clone();
        let (line, place) = match &bus.link.carrier {
            Carrier::Serial(port) => {
                let pace = if options.paced { Pace::Line(port.line) } else { Pace::Instant };
                let link = options.links.as_ref().map(|folder| folder.join(&bus.name));
                let (line, path) = TalkLine::on_pty(link.as_deref(), pace, with)?;
                (line, Place::Pty(path))
            }
            Carrier::Listen { .. } => {
                // A port that is free now; whoever runs the configuration listens there.
                let to = TcpListener::bind(any).await?.local_addr()?;
                (TalkLine::dial(to, with), Place::Dialled(to))
            }
            Carrier::Tcp { .. } | Carrier::Udp { .. } | Carrier::Tls(_) => {
                let (line, address) = TalkLine::serve(any, with).await?;
                (line, Place::Net(address))
            }
        };
        Ok((Self::Talk(line, instruments), place))
    }

    /// `secrets`: made when the first bus needs them, for all of them.
    async fn open(
        bus: &BusPlan,
        units: &Units,
        options: &SiteOptions,
        secrets: &mut Option<(Arc<ServerConfig>, GatewayFiles)>,
    ) -> io::Result<(Self, Place)> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (framing, units) = (bus.link.framing, units.clone());
        match &bus.link.carrier {
            Carrier::Tcp { .. } => {
                let line = TcpLine::serve_as(Manner { framing, tls: None }, any, units).await?;
                let place = Place::Net(line.address());
                Ok((Self::Tcp(line), place))
            }
            Carrier::Udp { .. } => {
                let line = UdpLine::serve(framing, any, units).await?;
                let place = Place::Net(line.address());
                Ok((Self::Udp(line), place))
            }
            Carrier::Tls(_) => {
                let missing = || io::Error::new(io::ErrorKind::InvalidInput, "there is no place for its certificates");
                let (config, files) = match secrets {
                    Some(made) => made.clone(),
                    None => secrets.insert(tls::make(options.certificates.as_ref().ok_or_else(missing)?)?).clone(),
                };
                let line = TcpLine::serve_as(Manner { framing, tls: Some(config) }, any, units).await?;
                let place = Place::Tls(line.address(), files);
                Ok((Self::Tcp(line), place))
            }
            Carrier::Listen { .. } => {
                // A port that is free now; whoever runs the configuration listens there.
                let to = TcpListener::bind(any).await?.local_addr()?;
                Ok((Self::Dial(DialLine::serve(framing, to, units)), Place::Dialled(to)))
            }
            Carrier::Serial(port) => {
                let pace = if options.paced { Pace::Line(port.line) } else { Pace::Instant };
                let link = options.links.as_ref().map(|folder| folder.join(&bus.name));
                let line = RtuLine::serve_as(framing, link.as_deref(), pace, units)?;
                let place = Place::Pty(line.path().to_path_buf());
                Ok((Self::Rtu(line), place))
            }
        }
    }
}

fn bus_ix(at: usize) -> BusIx {
    BusIx(u32::try_from(at).unwrap_or(u32::MAX))
}
