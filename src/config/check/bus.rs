//! `[[bus]]`: how field devices are reached.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::files::Complete;
use super::super::nearest;
use super::super::plan::{BusLink, BusPlan, Framing, Habits, Parity, SerialPlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::habits;
use super::names::Unique;
use crate::model::tag::BusIx;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
const RESPONSE_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const MODBUS_TCP_PORT: u16 = 502;
const BAUD: RangeInclusive<u32> = 300..=4_000_000;
const SERIAL_FORM: &str = "\"<baud>-<data bits><parity N, E or O><stop bits>\", such as \"19200-8E1\"";
const TYPES: [(&str, Kind); 2] = [("modbus-tcp", Kind::Tcp), ("modbus-rtu", Kind::Rtu)];
const TYPES_NOT_YET: [&str; 7] = [
    "modbus-ascii",
    "modbus-rtu-over-tcp",
    "modbus-ascii-over-tcp",
    "modbus-udp",
    "modbus-rtu-over-udp",
    "modbus-tls",
    "line",
];

/// What a bus is, as far as its devices must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One connection.
    Tcp,
    /// One serial line.
    Rtu,
}

impl Kind {
    const fn framing(self) -> Framing {
        match self {
            Self::Tcp => Framing::Mbap,
            Self::Rtu => Framing::Rtu,
        }
    }
}

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
    /// The bus a device names; reports one that does not exist.
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

    /// For the plan; `None` when one of them has problems.
    pub fn into_plans(self) -> Option<Vec<BusPlan>> {
        self.plans.into_iter().collect()
    }
}

/// `[[bus]]`
pub fn buses<'a>(root: &Section<'a, '_>, complete: Complete) -> Buses<'a> {
    let list = Trail::Key(root.trail, "bus");
    let mut names = Unique::default();
    let mut ports: HashMap<PathBuf, At> = HashMap::new();
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
            section.missing("type", "modbus-tcp or modbus-rtu");
        }
        let kind = section.choice("type", &TYPES, &TYPES_NOT_YET).map(|spot| spot.value);
        let timeout = section.duration("response_timeout", RESPONSE_TIMEOUT_RANGE).unwrap_or(RESPONSE_TIMEOUT);
        let link = match kind {
            Some(Kind::Tcp) => tcp(&section),
            Some(Kind::Rtu) => rtu(&section, &mut ports),
            None => None,
        };
        let habits = habits::of_bus(&section, link.as_ref());
        if let Some(name) = name {
            buses.named.insert(name.value, (BusIx(ix), kind.map(Kind::framing)));
        }
        buses.plans.push(name.zip(link).map(|(name, link)| BusPlan {
            name: name.value.to_owned(),
            link,
            response_timeout: timeout,
            habits: habits.clone(),
        }));
        buses.habits.push(habits);
    }
    buses
}

fn tcp(section: &Section<'_, '_>) -> Option<BusLink> {
    for key in ["port", "serial"] {
        if let Some(node) = section.get(key) {
            section.report(section.wrong(key, node.at, "belongs to a serial bus; a modbus-tcp bus has `endpoint`"));
        }
    }
    let text = section.required_text("endpoint", "host and port of the device, such as \"192.168.0.10:502\"")?;
    match endpoint(text.value) {
        Ok(endpoint) => Some(BusLink::tcp(&endpoint)),
        Err(message) => {
            let allowed = "\"host:port\", \"host\" (port 502) or \"[ipv6]:port\"";
            section.report(section.wrong("endpoint", text.at, message).allowed(allowed));
            None
        }
    }
}

/// `host:port`; without a port the one that Modbus has.
fn endpoint(text: &str) -> Result<String, &'static str> {
    let (host, port) = split_host(text, MODBUS_TCP_PORT)?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Host (without brackets) and port of `host`, `host:port`, `[v6]` and `[v6]:port`.
pub fn split_host(text: &str, standard_port: u16) -> Result<(&str, u16), &'static str> {
    if text.contains("://") {
        return Err("host and port only: what stands before :// does not belong here");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (host, behind) = inside.split_once(']').ok_or("the bracket of the address is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets is no IPv6 address");
            }
            (
                host,
                if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or("no `:` before the port")?) },
            )
        }
        None if text.matches(':').count() > 1 => return Err("an IPv6 address stands in brackets: \"[::1]:502\""),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err("the host is no name and no address");
    }
    let port = match port {
        None => standard_port,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().unwrap_or(0),
        Some(_) => 0,
    };
    if port == 0 { Err("the port is a number, 1 ..= 65535") } else { Ok((host, port)) }
}

fn rtu(section: &Section<'_, '_>, ports: &mut HashMap<PathBuf, At>) -> Option<BusLink> {
    if let Some(node) = section.get("endpoint") {
        section.report(section.wrong("endpoint", node.at, "belongs to a modbus-tcp bus; a serial bus has `port`"));
    }
    let port = section.required_text("port", "the serial port, best its name below /dev/serial/by-id/");
    let text = section.required_text("serial", "the line settings, such as \"19200-8E1\"");
    let serial = text.and_then(|text| {
        let serial = serial(text.value);
        serial.map_err(|message| section.report(section.wrong("serial", text.at, message).allowed(SERIAL_FORM))).ok()
    });
    let port = port.and_then(|port| {
        if !port.value.starts_with('/') || port.value.contains('\0') {
            let message = "must be the full path of the port";
            section.report(section.wrong("port", port.at, message).allowed("such as \"/dev/ttyUSB0\""));
            return None;
        }
        let path = PathBuf::from(port.value);
        if let Some(first) = ports.insert(path.clone(), port.at) {
            let message = "another bus has this port already; devices on one line belong to one bus";
            section.report(section.wrong("port", port.at, message).also(first));
        }
        Some(path)
    });
    Some(BusLink::rtu(port?, serial?))
}

fn serial(text: &str) -> Result<SerialPlan, &'static str> {
    let (baud, frame) = text.split_once('-').ok_or("are no line settings")?;
    let digits = !baud.is_empty() && baud.bytes().all(|byte| byte.is_ascii_digit());
    let baud = baud.parse().ok().filter(|baud| digits && BAUD.contains(baud));
    let baud = baud.ok_or("the baud rate is a number, 300 ..= 4000000")?;
    let [data_bits, parity, stop_bits] = frame.as_bytes() else {
        return Err("are no line settings");
    };
    if *data_bits != b'8' {
        return Err("Modbus RTU has 8 data bits");
    }
    let parity = match parity {
        b'N' => Parity::None,
        b'E' => Parity::Even,
        b'O' => Parity::Odd,
        _ => return Err("the parity is N, E or O"),
    };
    let stop_bits = match stop_bits {
        b'1' => 1,
        b'2' => 2,
        _ => return Err("there are 1 or 2 stop bits"),
    };
    Ok(SerialPlan { baud, data_bits: 8, parity, stop_bits })
}
