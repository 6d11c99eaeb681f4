//! What to ask: by address on the command line, or by the tags of a configuration. Both end as a plan, so that one check
//! and one driver serve both; an address becomes a configuration of one device.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commands::run::DEFAULT_CONFIG;
use crate::commands::{self, Failed};
use crate::config::plan::{BusPlan, DevicePlan, Plan, Source, TagPlan};
use crate::config::{self, MODBUS_PORT, Problem, quoted};
use crate::field::driver::Pace;
use crate::model::sunspec::ModelPlace;
use crate::model::tag::{Address, BusIx};

/// Most values of one `--count`.
const COUNT_MAX: u16 = 1000;
/// The words that say how a device is reached, and the `type` of a bus that they mean.
const WAYS: [(&str, &str); 8] = [
    ("tcp", "modbus-tcp"),
    ("serial", "modbus-rtu"),
    ("ascii", "modbus-ascii"),
    ("rtu-over-tcp", "modbus-rtu-over-tcp"),
    ("ascii-over-tcp", "modbus-ascii-over-tcp"),
    ("udp", "modbus-udp"),
    ("rtu-over-udp", "modbus-rtu-over-udp"),
    ("tls", ""),
];

/// Where and what; for an address also how.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// A configuration; then TARGET names its tags (pump-1/pressure) or devices (pump-1)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unit id of the device
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub unit: u8,
    /// Settings of the serial line
    #[arg(long, value_name = "BAUD-FORMAT", default_value = "19200-8E1")]
    pub line: String,
    /// Type of the value, such as int16, uint32, float32, string(8); uint16, or bool for bits, unless told
    #[arg(long = "type", value_name = "TYPE")]
    pub data_type: Option<String>,
    /// Order of bytes: ABCD, CDAB, BADC, DCBA
    #[arg(long, default_value = "ABCD")]
    pub order: String,
    /// How addresses count: zero-based, one-based or modicon
    #[arg(long, default_value = "zero-based")]
    pub style: String,
    /// Factor from the raw to the shown value
    #[arg(long, allow_negative_numbers = true)]
    pub scale: Option<f64>,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", value_parser = commands::duration, default_value = "1s")]
    pub timeout: Duration,
}

/// What is wanted, as a plan.
#[derive(Debug)]
pub struct Target {
    plan: Plan,
    /// In the order they were named.
    pub wanted: Vec<Wanted>,
}

/// One value that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    tag: usize,
    /// Its name for people.
    pub label: String,
    /// Its bus.
    pub bus: BusIx,
    /// The unit of its device.
    pub unit: u8,
    /// Its place, zero-based; of a tag in a SunSpec model the place in that.
    pub address: Address,
}

/// What the values are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// All that can be polled.
    Read,
    /// One that can be written.
    Write,
}

impl Target {
    /// Of these words; `count` values one behind the other, by address only.
    pub fn find(args: &TargetArgs, words: &[String], count: u16, purpose: Purpose) -> Result<Self, Failed> {
        let way = words.first().and_then(|word| WAYS.iter().find(|(name, _)| name == word));
        match way {
            Some(("tls", _)) if args.config.is_none() => Err(Failed::Usage(
                "TLS needs certificates: describe the device in a configuration, then name its tags with --config"
                    .into(),
            )),
            Some((_, kind)) if args.config.is_none() => Self::by_address(args, kind, &words[1..], count, purpose),
            _ if args.config.is_none() && !Path::new(DEFAULT_CONFIG).exists() => {
                let ways: Vec<&str> = WAYS.iter().map(|(name, _)| *name).collect();
                Err(Failed::Usage(format!(
                    "'{}' is no way to reach a device: {}; by the names of a configuration: --config FILE \
                     ({DEFAULT_CONFIG} is not there)",
                    words.first().map_or("", String::as_str),
                    ways.join(", ")
                )))
            }
            _ => Self::by_tag(args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG)), words, purpose),
        }
    }

    /// The tag of a wanted value.
    pub fn tag(&self, wanted: &Wanted) -> &TagPlan {
        &self.plan.tags[wanted.tag]
    }

    /// Its bus.
    pub fn bus(&self, wanted: &Wanted) -> &BusPlan {
        &self.plan[wanted.bus]
    }

    /// The tag that holds its scale factor, if it has one.
    pub fn scale_from(&self, wanted: &Wanted) -> Option<&TagPlan> {
        self.tag(wanted).scale_from.and_then(|ix| self.plan.tag(ix))
    }

    /// Its device.
    pub fn device(&self, wanted: &Wanted) -> Option<&DevicePlan> {
        self.plan.device(self.tag(wanted).device)
    }

    /// Its address as it is written, zero-based.
    pub fn address(&self, wanted: &Wanted) -> String {
        self.tag(wanted).address_text().unwrap_or_default()
    }

    /// How the devices of a bus want to be asked.
    pub fn paces(&self, bus: BusIx) -> Vec<Pace> {
        Pace::of_units(self.plan.devices_on(bus).map(|(_, device)| device))
    }

    fn by_tag(config: &Path, words: &[String], purpose: Purpose) -> Result<Self, Failed> {
        let plan = commands::load(config)?;
        let mut wanted = Vec::new();
        for word in words {
            let before = wanted.len();
            for (ix, tag) in plan.tags.iter().enumerate() {
                let device = &plan[tag.device];
                let name = format!("{}/{}", device.name, tag.name);
                let whole = device.name == *word && purpose == Purpose::Read;
                let named = name == *word || *tag.topic == **word;
                let (Some(address), Some(bus)) = (tag.place(), device.bus) else {
                    if named {
                        let why = match &tag.source {
                            Source::Field(_) => "is what an instrument says; `ironbridge check --live` shows it",
                            _ => "is worked out from other tags; no device has it",
                        };
                        return Err(Failed::Usage(format!("{word} {why}")));
                    }
                    continue;
                };
                if named && purpose == Purpose::Read && !tag.access.reads() {
                    return Err(Failed::Config(format!("{word} has access = \"write\": it cannot be read")));
                }
                if named || whole && tag.access.reads() {
                    wanted.push(Wanted { tag: ix, label: name, bus, unit: device.unit_id, address });
                }
            }
            if wanted.len() == before {
                let devices: Vec<&str> = plan.devices.iter().map(|device| device.name.as_str()).collect();
                return Err(Failed::Usage(format!(
                    "{} has no device or tag '{word}'; write device/tag, devices are {}",
                    config.display(),
                    devices.join(", ")
                )));
            }
        }
        Ok(Self { plan, wanted })
    }

    fn by_address(
        args: &TargetArgs,
        kind: &str,
        words: &[String],
        count: u16,
        purpose: Purpose,
    ) -> Result<Self, Failed> {
        let Some((place, addresses)) = words.split_first().filter(|(_, addresses)| !addresses.is_empty()) else {
            return Err(Failed::Usage("an address is missing, such as: tcp 192.168.0.10:502 holding:100".into()));
        };
        if count == 0 || count > COUNT_MAX {
            return Err(Failed::Usage(format!("--count {count} is outside 1 ..= {COUNT_MAX}")));
        }
        let text = configuration(args, kind, place, addresses, purpose);
        let loaded = config::parse(&text, Path::new("command line"), &commands::host_facts());
        let mut plan = loaded.map_err(|problems| usage(problems.iter()))?.plan;
        let mut wanted = Vec::new();
        for (ix, text) in addresses.iter().enumerate() {
            let first = plan.tags[ix].clone();
            for step in 0..count {
                let Some(tag) = behind(&first, step) else {
                    return Err(Failed::Usage(format!("{text}: {count} values would end beyond register 65535")));
                };
                let Some(address) = tag.place() else { continue };
                let label = match tag.address_text() {
                    _ if step == 0 => text.clone(),
                    Some(place) if tag.model().is_some() => place,
                    _ => styled(address, &args.style),
                };
                wanted.push(Wanted { tag: plan.tags.len(), label, bus: BusIx(0), unit: args.unit, address });
                plan.tags.push(tag);
            }
        }
        Ok(Self { plan, wanted })
    }
}

/// The tag so many values behind another.
fn behind(first: &TagPlan, step: u16) -> Option<TagPlan> {
    let address = first.place()?;
    let width = if address.table.is_bits() || address.bit.is_some() { 1 } else { first.data_type.registers() };
    let start = address.start.checked_add(step.checked_mul(width)?)?;
    start.checked_add(width - 1)?;
    let source = match first.source {
        Source::Model(place) => Source::Model(ModelPlace { offset: start, ..place }),
        _ => Source::Register(Address { start, ..address }),
    };
    Some(TagPlan { source, ..first.clone() })
}

/// An address as the user counts.
fn styled(address: Address, style: &str) -> String {
    match style {
        "modicon" => config::modicon(address),
        "one-based" => format!("{}:{}", address.table.as_str(), u32::from(address.start) + 1),
        _ => address.to_string(),
    }
}

/// The configuration that says what the command line says.
fn configuration(args: &TargetArgs, kind: &str, place: &str, addresses: &[String], purpose: Purpose) -> String {
    let link = if matches!(kind, "modbus-rtu" | "modbus-ascii") {
        format!("port = {}\nserial = {}", quoted(place), quoted(&args.line))
    } else {
        format!("endpoint = {}", quoted(&endpoint(place, MODBUS_PORT)))
    };
    let mut lines = vec![format!(
        "[gateway]\nname = \"tool\"\n[[bus]]\nname = \"bus\"\ntype = {}\n{link}\nresponse_timeout = \"{}ms\"\n\
         [[device]]\nname = \"device\"\nbus = \"bus\"\nunit_id = {}\naddress_style = {}\n",
        quoted(kind),
        args.timeout.as_millis(),
        args.unit,
        quoted(&args.style),
    )];
    for (ix, address) in addresses.iter().enumerate() {
        let bits = address.starts_with("coil") || address.starts_with("discrete") || address.contains('.');
        let bits = bits || args.style == "modicon" && address.starts_with(['0', '1']);
        let data_type = args.data_type.clone().or_else(|| (!bits).then(|| "uint16".to_owned()));
        lines.push(format!("[[device.tag]]\nname = \"value-{ix}\"\naddress = {}\n", quoted(address)));
        if let Some(data_type) = data_type {
            lines.push(format!("type = {}\n", quoted(&data_type)));
        }
        if !bits {
            lines.push(format!("order = {}\n", quoted(&args.order)));
        }
        if let Some(scale) = args.scale {
            lines.push(format!("scale = {scale:?}\n"));
        }
        if purpose == Purpose::Write {
            lines.push("access = \"read-write\"\n".to_owned());
        }
    }
    lines.concat()
}

/// With this port, unless another is given; what is wrong with that the check says.
pub fn endpoint(place: &str, port: u16) -> String {
    let has_port = match place.rsplit_once(':') {
        Some((host, _)) => !host.contains(':') || host.ends_with(']'),
        None => false,
    };
    if has_port { place.to_owned() } else { format!("{place}:{port}") }
}

/// What the check says, without the places in a file that nobody wrote.
pub fn usage<'a>(problems: impl Iterator<Item = &'a Problem>) -> Failed {
    let one = |problem: &Problem| {
        let value = problem.value.as_ref().map(|value| format!("{value}: ")).unwrap_or_default();
        let allowed = problem.allowed.as_ref().map(|allowed| format!(" (allowed: {allowed})")).unwrap_or_default();
        let option = if problem.path.ends_with("response_timeout") { "--timeout " } else { "" };
        format!("{option}{value}{}{allowed}", problem.message)
    };
    Failed::Usage(problems.map(one).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        target: TargetArgs,
        words: Vec<String>,
    }

    fn target(line: &str, count: u16) -> Result<Target, Failed> {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).expect("parses");
        Target::find(&line.target, &line.words, count, Purpose::Read)
    }

    #[test]
    fn an_address_becomes_a_plan() {
        let found = target("tcp plc holding:100 --type float32 --order CDAB --unit 7", 3).expect("is right");
        let labels: Vec<_> = found.wanted.iter().map(|wanted| wanted.label.as_str()).collect();
        assert_eq!(labels, ["holding:100", "holding:102", "holding:104"]);
        assert_eq!(found.bus(&found.wanted[0]).link.to_string(), "modbus-tcp plc:502");
        assert_eq!(found.wanted[2].unit, 7);
        let found = target("serial /dev/ttyUSB0 40101 00001 --style modicon --line 9600-8N1", 1).expect("is right");
        assert_eq!(found.wanted[0].address.to_string(), "holding:100");
        assert_eq!(found.wanted[1].address.to_string(), "coil:0");
        assert_eq!(
            target("tcp [::1]:1502 coil:3", 1).expect("is right").bus(&found.wanted[0]).link.to_string(),
            "modbus-tcp [::1]:1502"
        );
    }

    #[test]
    fn devices_that_are_one_unit_are_asked_with_the_longest_of_their_pauses_by_a_command_too() {
        let text = "[gateway]\nname = \"gw\"\n[[bus]]\nname = \"b\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8E1\"\n\
                    [[device]]\nname = \"one\"\nbus = \"b\"\nunit_id = 3\n[[device.tag]]\nname = \"v\"\naddress = \"holding:0\"\ntype = \"uint16\"\n\
                    [[device]]\nname = \"two\"\nbus = \"b\"\nunit_id = 3\ndelay_between_requests = \"200ms\"\nignore_unit_id = true\n\
                    [[device.tag]]\nname = \"v\"\naddress = \"holding:9\"\ntype = \"uint16\"\n";
        let plan = config::parse(text, Path::new("x.toml"), &commands::host_facts()).expect("checks").plan;
        let read = |plan: &Plan| crate::config::forecast::forecast(plan).buses.remove(0).reads;
        assert!(read(&plan).iter().all(|read| read.takes >= Duration::from_millis(200)), "and so it is reckoned");
        let paces = Target { plan, wanted: Vec::new() }.paces(BusIx(0));
        let [Pace { unit: 3, manners }] = &paces[..] else { panic!("one unit: {paces:?}") };
        assert_eq!(manners.delay_between_requests, Duration::from_millis(200));
        assert_eq!(manners.answers_as, crate::config::plan::AnswersAs::Anyone);
    }

    #[test]
    fn what_is_wrong_is_said_without_places_in_a_file_nobody_wrote() {
        for (line, count, word) in [
            ("tcp plc", 1, "address is missing"),
            ("tcp plc holdings:1", 1, "holdings"),
            ("tcp plc holding:1 --type float33", 1, "float33"),
            ("tcp plc holding:65535 --type float32", 1, "65535"),
            ("tcp plc holding:65530 --type float32", 9, "beyond"),
            ("serial /dev/ttyUSB0 holding:1 --line 9600", 1, "9600"),
            ("tls plc holding:1", 1, "certificates"),
            ("rtu plc holding:1", 1, "'rtu' is no way to reach a device: tcp, serial"),
            ("tcp plc:abc holding:1", 1, "the port is a number"),
            ("tcp [::1]:abc holding:1", 1, "the port is a number"),
            ("tcp plc holding:1 --timeout 0s", 1, "--timeout"),
            ("tcp 192.168.0.300 holding:1", 1, "no IPv4 address"),
        ] {
            let text = match target(line, count) {
                Err(Failed::Usage(text)) => text,
                other => panic!("{line}: {other:?}"),
            };
            assert!(text.contains(word) && !text.contains("command line"), "{line}: {text}");
        }
    }
}
