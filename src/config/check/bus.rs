//! `[[bus]]`: how field devices are reached.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::files::Complete;
use super::super::nearest;
use super::super::plan::{BusLink, BusPlan, Carrier, Echo, Framing, Habits, LineMode, LinePlan};
use super::super::raw::{Trail, Value};
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::habits;
use super::names::Unique;
use super::{line, port, reach};
use crate::model::tag::BusIx;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const TYPES: [(&str, Kind); 9] = [
    ("modbus-tcp", Kind { framing: Framing::Mbap, way: Way::Tcp }),
    ("modbus-rtu", Kind { framing: Framing::Rtu, way: Way::Serial }),
    ("modbus-ascii", Kind { framing: Framing::Ascii, way: Way::Serial }),
    ("modbus-rtu-over-tcp", Kind { framing: Framing::Rtu, way: Way::Tcp }),
    ("modbus-ascii-over-tcp", Kind { framing: Framing::Ascii, way: Way::Tcp }),
    ("modbus-udp", Kind { framing: Framing::Mbap, way: Way::Udp }),
    ("modbus-rtu-over-udp", Kind { framing: Framing::Rtu, way: Way::Udp }),
    ("modbus-tls", Kind { framing: Framing::Mbap, way: Way::Tls }),
    ("line", Kind { framing: Framing::Line, way: Way::Tcp }), // or serial: its keys say which
];

/// A type of bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    framing: Framing,
    way: Way,
}

/// The kinds of carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Serial,
    Tcp,
    Udp,
    Tls,
}

/// Keys that only some types have: which keys, whose they are, and what to say to the others.
type Owned = (&'static [&'static str], fn(Kind) -> bool, &'static str);

const OWNED: [Owned; 6] = [
    (
        &["port", "serial", "rs485", "low_latency"],
        |kind| kind.way == Way::Serial,
        "belongs to a serial bus; one on the network has `endpoint`",
    ),
    (&["endpoint"], |kind| kind.way != Way::Serial, "belongs to a bus on the network; a serial bus has `port`"),
    (
        &["listen", "allow"],
        |kind| kind.way == Way::Tcp,
        "belongs to modbus-tcp, modbus-rtu-over-tcp, modbus-ascii-over-tcp and line",
    ),
    (&["ca_file", "certificate", "key", "server_name"], |kind| kind.way == Way::Tls, "belongs to modbus-tls"),
    (
        &["echo"],
        |kind| matches!(kind.framing, Framing::Rtu | Framing::Ascii),
        "belongs to RTU and ASCII: nothing sends the frames of other types back",
    ),
    (&line::BUS_KEYS, |kind| kind.framing == Framing::Line, "belongs to a bus of type line"),
];

/// All buses.
#[derive(Debug)]
pub struct Buses<'a> {
    /// A bus with problems keeps its position, so that its devices are checked all the same.
    plans: Vec<Option<BusPlan>>,
    named: HashMap<&'a str, (BusIx, Option<Framing>)>,
    /// By position, those of a bus with problems too.
    habits: Vec<Habits>,
    complete: Complete,
}

impl<'a> Buses<'a> {
    /// The bus a device names, with what is spoken on it; reports one that does not exist.
    pub fn find(&self, section: &Section<'a, '_>, name: Spot<&str>) -> Option<(BusIx, Option<Framing>)> {
        let found = self.named.get(name.value);
        if found.is_none() && self.complete == Complete::Yes {
            let mut known: Vec<&str> = self.named.keys().copied().collect();
            known.sort_unstable();
            let message = format!("there is no bus of this name{}", nearest::hint(name.value, known.iter().copied()));
            let allowed = if known.is_empty() { "no [[bus]] is configured".to_owned() } else { known.join(", ") };
            section.report(section.wrong("bus", name.at, message).allowed(allowed));
        }
        found.copied()
    }

    /// What a bus is like, for its devices.
    pub fn habits(&self, bus: BusIx) -> Habits {
        self.habits.get(bus.0 as usize).cloned().unwrap_or_default()
    }

    /// Is it one of type line?
    pub fn is_line(&self, bus: BusIx) -> bool {
        self.named.values().any(|(ix, framing)| *ix == bus && *framing == Some(Framing::Line))
    }

    /// The mode of a bus of type line, if it could be read.
    pub fn mode(&self, bus: BusIx) -> Option<LineMode> {
        self.line(bus).map(|line| line.mode)
    }

    /// Are they all there, and themselves? Else they stand in for those of a file that was not read.
    pub fn are_known(&self) -> bool {
        self.complete == Complete::Yes
    }

    /// The frames of a bus of type line, if they could be read.
    pub fn line(&self, bus: BusIx) -> Option<&LinePlan> {
        self.plans.get(bus.0 as usize)?.as_ref()?.line.as_ref()
    }

    /// For the plan; `None` when one of them has problems.
    pub fn into_plans(self) -> Option<Vec<BusPlan>> {
        self.plans.into_iter().collect()
    }
}

/// What only one bus may have: a serial port, a port to listen on, a line behind a serial server.
#[derive(Debug, Default)]
struct Taken {
    ports: HashMap<PathBuf, At>,
    doors: HashMap<SocketAddr, At>,
    lines: HashMap<String, At>,
}

/// `[[bus]]`
pub fn buses<'a>(root: &Section<'a, '_>, complete: Complete) -> Buses<'a> {
    let list = Trail::Key(root.trail, "bus");
    let mut names = Unique::default();
    let mut taken = Taken::default();
    let mut buses = Buses { plans: Vec::new(), named: HashMap::new(), habits: Vec::new(), complete };
    for (ix, node) in (0u32..).zip(root.tables("bus")) {
        let trail = Trail::Index(&list, ix as usize);
        let Some(section) = Section::open(root.cx, node, &trail, schema::BUS) else {
            buses.plans.push(None);
            buses.habits.push(Habits::default());
            continue;
        };
        let name = names.name(&section, "bus");
        if section.get("type").is_none() {
            section.missing("type", "such as modbus-tcp or modbus-rtu");
        }
        let kind = section.choice("type", &TYPES).map(|spot| of_line(spot.value, &section));
        let timeout = section.duration("response_timeout", RESPONSE_TIMEOUT_RANGE).unwrap_or(RESPONSE_TIMEOUT);
        let link = kind.and_then(|kind| link(&section, kind, &mut taken));
        let is_line = kind.is_some_and(|kind| kind.framing == Framing::Line);
        let frames = if is_line { line::frames(&section) } else { None };
        let habits = habits::of_bus(&section, link.as_ref());
        if let Some(name) = name {
            buses.named.insert(name.value, (BusIx(ix), kind.map(|kind| kind.framing)));
        }
        buses.plans.push(name.zip(link).filter(|_| frames.is_some() || !is_line).map(|(name, link)| BusPlan {
            line: frames,
            response_timeout: timeout,
            habits: habits.clone(),
            ..BusPlan::plain(name.value, link)
        }));
        buses.habits.push(habits);
    }
    buses
}

/// A bus of type line is on whatever its keys say.
fn of_line(kind: Kind, section: &Section<'_, '_>) -> Kind {
    let is_serial = kind.framing == Framing::Line && section.get("port").is_some();
    if is_serial { Kind { way: Way::Serial, ..kind } } else { kind }
}

fn link(section: &Section<'_, '_>, kind: Kind, taken: &mut Taken) -> Option<BusLink> {
    for (keys, owns, message) in OWNED {
        let strange = keys.iter().filter(|_| !owns(kind)).filter_map(|key| Some((*key, section.get(key)?)));
        strange.for_each(|(key, node)| section.report(section.wrong(key, node.at, message)));
    }
    if let (Some(node), None) = (section.get("allow").filter(|_| kind.way == Way::Tcp), section.get("listen")) {
        section.report(section.wrong("allow", node.at, "says who may dial in: it belongs to `listen`"));
    }
    if kind.framing == Framing::Line && ["port", "endpoint", "listen"].iter().all(|key| section.get(key).is_none()) {
        section.missing("port", "a serial port (`port`, `serial`), or on a network `endpoint` or `listen`");
        return None;
    }
    let echo = echo(section);
    let carrier = match kind.way {
        Way::Serial => port::serial(section, kind.framing, &mut taken.ports).map(Carrier::Serial),
        Way::Tcp if section.get("listen").is_some() => reach::door(section, &mut taken.doors),
        Way::Tcp => endpoint(section, kind, taken).map(|endpoint| Carrier::Tcp { endpoint }),
        Way::Udp => endpoint(section, kind, taken).map(|endpoint| Carrier::Udp { endpoint }),
        Way::Tls => reach::tls(section).map(Carrier::Tls),
    };
    Some(BusLink { echo, ..BusLink::new(kind.framing, carrier?) })
}

/// Where it is. A line behind it belongs to one bus, unless that only listens.
fn endpoint(section: &Section<'_, '_>, kind: Kind, taken: &mut Taken) -> Option<String> {
    let is_line = kind.framing == Framing::Line;
    let port = if is_line { reach::SERIAL_SERVER_PORT } else { reach::MODBUS_PORT };
    let endpoint = reach::endpoint(section, port)?;
    if !(kind.framing.is_numbered() || is_line && line::listens(section)) {
        reach::line(section, &endpoint, &mut taken.lines);
    }
    Some(endpoint)
}

/// `echo = "auto"`, `true` or `false`
fn echo(section: &Section<'_, '_>) -> Echo {
    match section.get("echo").map(|node| (&node.value, node.at)) {
        None => Echo::Auto,
        Some((Value::Bool(true), _)) => Echo::Yes,
        Some((Value::Bool(false), _)) => Echo::No,
        Some((Value::Text(text), _)) if text == "auto" => Echo::Auto,
        Some((_, at)) => {
            section.report(section.wrong("echo", at, "unknown word").allowed("\"auto\", true, false"));
            Echo::Auto
        }
    }
}
