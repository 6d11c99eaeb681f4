//! `ironbridge scan`: which devices are on a serial line or behind an address, and who they say they are. Never writes.
//!
//! ```text
//!  units      which ids, in which order        settings  which line settings, a bus for each
//!  estimate   how long at worst                progress  the bar
//!  prober     one question, and its sign       examine   a closer look at who answered
//!  serial     a line: settings × units         network   an address: its own ids, those behind a gateway
//!  found      what was found, so far           guess     shipped maps that fit
//!  report     table and JSON                   snippet   lines for a configuration
//!  advice     what else was heard              ports     of this machine
//! ```
//!
//! Ctrl-C ends a scan with what was found until then.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Failed;
use super::field::target::endpoint;
use super::interrupt::Interrupt;
use crate::config::{MODBUS_PORT, quoted};
use crate::flow::clock::Clock;
use crate::model::tag::{Address, Table};
use found::Survey;
use progress::Progress;
use settings::{Wanted, bus, serial_lines};
use units::UnitList;

mod advice;
mod estimate;
mod examine;
mod found;
mod guess;
mod network;
pub(super) mod ports;
mod prober;
mod progress;
mod report;
mod serial;
mod settings;
mod snippet;
mod units;

/// Most devices answer within 100 ms.
const SERIAL_TIMEOUT: Duration = Duration::from_millis(300);
const NETWORK_TIMEOUT: Duration = Duration::from_secs(1);
/// Where Modbus over TLS listens (Modbus/TCP Security Protocol Specification v36, section 8).
const SECURE_PORT: u16 = 802;

/// Arguments of `ironbridge scan`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Way {
    /// A serial line: tries line settings and unit ids
    ///
    /// The usual unit ids (1-10, 100, 126, 240, 247) are asked at every setting, the others where somebody answers. One
    /// question at a time, and silence after each that brought none, so that a late answer disturbs nobody.
    Serial(SerialArgs),
    /// An address on the network: the device itself, and the units behind a gateway
    ///
    /// Tells who answers from who is not there (exceptions 10 and 11), and one device that answers for every unit id from
    /// many devices.
    Tcp(NetworkArgs),
}

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge scan serial /dev/serial/by-id/usb-FTDI_FT232R-if00-port0\n  \
    ironbridge scan serial /dev/ttyUSB0 --serial 19200-8E1 --units 1-32\n  \
    ironbridge scan serial /dev/ttyUSB0 --baud 9600,19200 --timeout 1s\n  \
    ironbridge scan serial /dev/ttyUSB0 --all --json > found.json\n\n\
    Nothing is ever written to a device. A line has one master: stop the gateway that runs on it first.\n\
    Nothing found? Swap A and B, check 120 ohm at both ends, try --timeout 1s, or --probe input:0 for devices\n\
    that keep quiet about registers they do not have.\n\
    Exit codes: 0 something was found · 1 nothing · 64 usage · 75 the port does not open")]
struct SerialArgs {
    /// The port; without one the ports of this machine are listed
    #[arg(value_name = "PORT")]
    port: Option<String>,
    /// Whole settings to try, such as 19200-8E1 (several: with commas)
    #[arg(long, value_name = "SETTING", value_delimiter = ',', conflicts_with_all = ["baud", "format"])]
    serial: Vec<String>,
    /// Baud rates to try
    #[arg(long, value_name = "BAUD", value_delimiter = ',')]
    baud: Vec<u32>,
    /// Formats to try: 8N1, 8E1, 8O1 and with two stop bits
    #[arg(long, value_name = "FORMAT", value_delimiter = ',')]
    format: Vec<String>,
    /// Speak Modbus ASCII instead of RTU
    #[arg(long)]
    ascii: bool,
    /// The kernel's driver switches the transmitter (rs485 = true)
    #[arg(long)]
    rs485: bool,
    /// Unit ids to ask [default: 1-247]
    #[arg(long, value_name = "IDS", value_parser = units::parse)]
    units: Option<UnitList>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    ironbridge scan tcp 192.168.0.10\n  \
    ironbridge scan tcp gateway.plant:1502 --units 1-32\n  \
    ironbridge scan tcp 192.168.0.20:4001 --rtu-over-tcp\n\n\
    Nothing is ever written to a device. A line behind a serial server (--rtu-over-tcp) has one master: stop the gateway that\n\
    runs on it first; in a container with a network of its own it is not seen.\n\
    A device with an address of its own mostly answers to unit id 1, 255 or 0, often to all of them.\n\
    Exit codes: 0 something was found · 1 nothing · 64 usage · 75 no connection")]
struct NetworkArgs {
    /// Where; port 502 (TLS: 802) unless told otherwise
    #[arg(value_name = "HOST[:PORT]")]
    place: String,
    /// Unit ids to ask [default: 0-255]
    #[arg(long, value_name = "IDS", value_parser = units::parse)]
    units: Option<UnitList>,
    /// RTU frames, as a serial server in transparent mode passes them on
    #[arg(long, conflicts_with = "tls")]
    rtu_over_tcp: bool,
    /// Over UDP
    #[arg(long, conflicts_with_all = ["tls", "rtu_over_tcp"])]
    udp: bool,
    /// Over TLS, with a certificate on both sides
    #[arg(long, requires_all = ["ca_file", "certificate", "key"])]
    tls: bool,
    /// The authority that signed the device's certificate
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_file: Option<String>,
    /// Our certificate
    #[arg(long, value_name = "FILE", requires = "tls")]
    certificate: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls")]
    key: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// How long to wait for an answer [default: 300ms on a line; 1s on a network, there longer for the first silent units]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    timeout: Option<Duration>,
    /// What is asked for: a register or bit to read; any answer counts, also that it does not exist
    #[arg(long, value_name = "ADDRESS", default_value = "holding:0", value_parser = place)]
    probe: Address,
    /// Leave nothing out: every unit id at every setting
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where was scanned, for report and configuration.
#[derive(Debug)]
struct Place {
    /// For people: the port or the address.
    name: String,
    /// `type` in a configuration.
    kind: &'static str,
    /// The lines of a `[[bus]]`, without its name and settings.
    lines: String,
    /// How long was waited for an answer.
    timeout: Duration,
}

impl Place {
    /// A port of this machine.
    fn is_serial(&self) -> bool {
        matches!(self.kind, "modbus-rtu" | "modbus-ascii")
    }
}

/// Scans, prints what was found.
pub async fn run(args: Args, clock: Clock) -> Result<(), Failed> {
    match args.way {
        Way::Serial(args) => serial_line(args, &clock).await,
        Way::Tcp(args) => address(args, &clock).await,
    }
}

async fn serial_line(args: SerialArgs, clock: &Clock) -> Result<(), Failed> {
    let Some(port) = args.port else {
        return Err(Failed::Usage(format!("name a port; {}", ports::there_are())));
    };
    let ids = args.units.map_or_else(|| units::ON_A_LINE.collect(), |list| list.0);
    allow(&ids, &units::ON_A_LINE)?;
    let wanted = Wanted { serial: &args.serial, bauds: &args.baud, formats: &args.format, ascii: args.ascii };
    let timeout = args.common.timeout.unwrap_or(SERIAL_TIMEOUT);
    let rs485 = if args.rs485 { "rs485 = true\n" } else { "" };
    let with_bus = |setting: String| {
        let lines = format!("{}{rs485}", serial_lines(args.ascii, &port, &setting));
        bus(&lines, timeout).map(|bus| (setting, bus))
    };
    let settings = settings::list(wanted)?.into_iter().map(with_bus).collect::<Result<Vec<_>, _>>()?;
    let kind = if args.ascii { "modbus-ascii" } else { "modbus-rtu" };
    let stable = ports::stable_name(&port).map_or_else(|| port.clone(), |name| name.display().to_string());
    let lines = format!("type = \"{kind}\"\nport = {}\n{rs485}", quoted(&stable));
    let place = Place { name: port, kind, lines, timeout };
    let job = serial::Job::new(settings, &ids, args.common.all, args.common.probe);
    let mut survey = Survey::default();
    let (mut interrupt, progress) = (Interrupt::listen()?, Progress::new());
    let ended = tokio::select! {
        () = interrupt.came() => None,
        ended = serial::scan(&job, clock, &mut survey, &progress) => Some(ended),
    };
    progress.finish();
    conclude(ended, survey, &place, args.common.json)
}

async fn address(args: NetworkArgs, clock: &Clock) -> Result<(), Failed> {
    let timeout = args.common.timeout.unwrap_or(NETWORK_TIMEOUT);
    let (kind, port, allowed) = match (args.rtu_over_tcp, args.udp, args.tls) {
        (true, ..) => ("modbus-rtu-over-tcp", MODBUS_PORT, units::ON_A_LINE),
        (_, true, _) => ("modbus-udp", MODBUS_PORT, units::ON_A_NETWORK),
        (_, _, true) => ("modbus-tls", SECURE_PORT, units::ON_A_NETWORK),
        _ => ("modbus-tcp", MODBUS_PORT, units::ON_A_NETWORK),
    };
    let ids = args.units.map_or_else(|| allowed.clone().collect(), |list| list.0);
    allow(&ids, &allowed)?;
    let mut lines = format!("type = \"{kind}\"\nendpoint = {}\n", quoted(&endpoint(&args.place, port)));
    for (key, file) in [("ca_file", &args.ca_file), ("certificate", &args.certificate), ("key", &args.key)] {
        lines.extend(file.iter().map(|file| format!("{key} = {}\n", quoted(file))));
    }
    let bus = bus(&lines, timeout)?;
    let (first, rest) = units::own_first(&ids);
    let (all, place) = (args.common.all, args.common.probe);
    let job = network::Job { bus, first, rest, all, place, timeout_told: args.common.timeout.is_some() };
    let place = Place { name: args.place, kind, lines, timeout };
    let mut survey = Survey::default();
    let (mut interrupt, progress) = (Interrupt::listen()?, Progress::new());
    let ended = tokio::select! {
        () = interrupt.came() => None,
        ended = network::scan(&job, clock, &mut survey, &progress) => Some(ended),
    };
    progress.finish();
    conclude(ended, survey, &place, args.common.json)
}

/// Prints what there is. `ended`: `None` when it was broken off.
fn conclude(ended: Option<Result<(), Failed>>, mut survey: Survey, place: &Place, json: bool) -> Result<(), Failed> {
    match ended {
        Some(Err(failed)) => return Err(failed),
        Some(Ok(())) => {}
        None => survey.cut_short = Some("broken off".into()),
    }
    report::print(&survey, place, json)?;
    if survey.devices.is_empty() { Err(Failed::Verdict) } else { Ok(()) }
}

fn allow(ids: &[u8], allowed: &RangeInclusive<u8>) -> Result<(), Failed> {
    units::outside(ids, allowed).map_or(Ok(()), |unit| {
        let (first, last) = (allowed.start(), allowed.end());
        Err(Failed::Usage(format!("--units {unit}: outside {first} ..= {last}, the unit ids there are")))
    })
}

/// `holding:0`, `input:0x64`
fn place(text: &str) -> Result<Address, String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let found = text.split_once(':').and_then(|(name, start)| Some((Table::from_name(name)?, number(start).ok()?)));
    let (table, start) =
        found.ok_or_else(|| format!("'{text}' is no address; write for instance holding:0 or input:0x64"))?;
    Ok(Address { table, start, bit: None })
}
