//! `[[device.tag]]` and the rows of register maps: one tag.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::super::plan::{Derivation, Freshness, Limits, Pattern, Scale, Source, TagPlan, Territory};
use super::super::raw::Value;
use super::super::section::{Section, Spot};
use super::address::{self, Style};
use super::condition;
use super::derived;
use super::habits;
use super::line;
use super::names::Unique;
use super::reading::{Reading, ScaleFrom, map, reading};
use super::topics::{Template, TopicBook, TopicNames};
use super::writing::{Target, write};
use crate::config::blocks::REGISTERS_PER_WRITE_MAX;
use crate::model::number::Class;
use crate::model::registers::BitField;
use crate::model::sunspec::{ModelPlace, ModelRef};
use crate::model::tag::{Access, Address, DataType, DeviceIx, Order, Table};

/// How often something may be polled.
pub const POLL_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
const HEARTBEAT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
/// With a deadband and without a heartbeat of its own: a quiet value is told apart from a dead one within minutes.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Of what an instrument says, where nothing else is written and it does so every few seconds.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// Of a name, a unit or a description: what a page shows in a few lines.
const TEXT_BYTES_MAX: usize = 1024;
const ACCESS: [(&str, Access); 3] =
    [("read", Access::Read), ("read-write", Access::ReadWrite), ("write", Access::Write)];

/// What a tag takes from its device.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// Its device.
    pub device: DeviceIx,
    /// How its address is to be read.
    pub style: Style,
    /// The device's period.
    pub poll: Duration,
    /// The same for derived tags of a device that has no others: they are worked out this often.
    pub every: Option<Duration>,
    /// The longest read of the device, registers.
    pub registers_max: u16,
    /// What of the device may be read.
    pub territory: &'a Territory,
    /// On a bus of type `line`: where its fields come from.
    pub frames: Option<Frames<'a>>,
    /// How topics are built.
    pub template: Option<&'a Template<'a>>,
    /// Gateway, bus and device of the topic.
    pub names: TopicNames<'a>,
}

/// What frames a device on a bus of type `line` sends.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// Their patterns.
    pub patterns: &'a [Pattern],
}

/// Reads one tag; `None` when it has no place or no name, which was reported.
pub fn tag<'a>(
    section: &Section<'a, '_>,
    of: Of<'_>,
    names: &mut Unique<'a>,
    topics: &mut TopicBook,
) -> Option<(TagPlan, Option<ScaleFrom<'a>>)> {
    let name = names.name(section, "tag");
    let expression = section.get("expression").and_then(|_| section.text("expression"));
    let derived = expression.and_then(|text| derived::source(section, text));
    let Origin { told, address, in_address, data_type } = origin(section, of);
    let order = section.choice_of("order", &Order::ALL, Order::as_str).map(|spot| spot.value).unwrap_or_default();
    let group = text(section, "group");
    let access = access_of(section, address.map(|spot| spot.value));
    if let (Some(address), Some(data_type)) = (address, data_type)
        && (access.reads() || address.value.bit.is_some())
        && told.is_none()
    {
        habits::within(section, of.territory, address, data_type);
    }
    check_write_length(section, access, data_type);
    let reading = match data_type {
        Some(data_type) if address.is_some() => reading(section, data_type, in_address),
        Some(data_type) if told.is_some() => Reading { map: map(section, data_type, None), ..Reading::default() },
        _ => Reading::default(),
    };
    let target = target(address, data_type, reading.field);
    let limits = limits(section, data_type);
    let deadband = condition::deadband(section, data_type, limits);
    let heartbeat = section.duration("heartbeat", HEARTBEAT_RANGE);
    let own_poll = section.duration("poll", POLL_RANGE);
    let poll = own_poll.unwrap_or(of.poll);
    let source = match derived {
        Some(Source::Derived(derivation)) => {
            Some(Source::Derived(Box::new(Derivation { every: own_poll.or(of.every), ..*derivation })))
        }
        _ => told.or(address.map(|spot| Source::Register(spot.value))),
    };
    let sound = name.is_some() && source.is_some() && data_type.is_some();
    let plan = TagPlan {
        name: name.map_or_else(String::new, |name| name.value.to_owned()),
        device: of.device,
        topic: match (name, of.template) {
            (Some(name), Some(template)) => {
                topics.enter(section, name.at, template, TopicNames { tag: name.value, group: &group, ..of.names })
            }
            _ => Arc::from(""),
        },
        source: source.unwrap_or(Source::Register(Address { table: Table::Holding, start: 0, bit: None })),
        data_type: data_type.unwrap_or(DataType::Uint16),
        order,
        field: reading.field,
        text: reading.text,
        nan: reading.nan,
        scale_from: None, // when all tags of the device are known
        map: reading.map,
        scale: scale(section, data_type),
        unit: text(section, "unit"),
        group,
        poll,
        deadband,
        heartbeat: heartbeat.or(deadband.map(|_| HEARTBEAT)),
        compression: condition::compression(section, data_type, heartbeat),
        freshness: freshness(section, poll, of.frames.is_some() && expression.is_none()),
        alarm: condition::alarm(section, access, data_type),
        limits,
        class: section.choice_of("class", &Class::ALL, Class::as_str).map_or(Class::Telemetry, |spot| spot.value),
        access,
        write: write(section, access, target),
        description: text(section, "description"),
    };
    sound.then_some((plan, reading.scale_from))
}

/// Where a tag comes from, and its type.
struct Origin {
    /// The field of a frame, or a point of a SunSpec model.
    told: Option<Source>,
    address: Option<Spot<Address>>,
    /// The bits that the address names.
    in_address: Option<BitField>,
    data_type: Option<DataType>,
}

fn origin(section: &Section<'_, '_>, of: Of<'_>) -> Origin {
    let told = field_of(section, of);
    let is_computed = section.get("expression").is_some();
    let is_told = of.frames.is_some() && !is_computed;
    let found = if is_computed || is_told { None } else { address_of(section, of.style) };
    let modelled = found.as_ref().and_then(Found::modelled);
    let (address, in_address) = found.map_or((None, None), |found| (Some(found.place), found.field));
    let data_type = match address {
        Some(address) => type_of(section, address, in_address, of.registers_max),
        None if is_computed => type_off_the_wire(section, "not a type of a derived tag"),
        None if is_told => type_off_the_wire(section, "not a type of what is read from text"),
        None => {
            known_type(section);
            None
        }
    };
    Origin { told: told.or(modelled), address, in_address, data_type }
}

fn target(address: Option<Spot<Address>>, data_type: Option<DataType>, field: Option<BitField>) -> Option<Target> {
    Some(Target { address: address?.value, data_type: data_type?, field })
}

/// The field of a tag on a bus of type `line`; reports one that stands elsewhere.
fn field_of(section: &Section<'_, '_>, of: Of<'_>) -> Option<Source> {
    match of.frames.filter(|_| section.get("expression").is_none()) {
        Some(frames) => line::field(section, frames.patterns),
        None => {
            line::refuse(section, &["field"], "belongs to a tag on a bus of type line");
            None
        }
    }
}

/// What an instrument says no more (of itself, or when asked in its answers of another kind) would look well for ever.
fn freshness(section: &Section<'_, '_>, poll: Duration, is_told: bool) -> Freshness {
    let plan = condition::freshness(section, poll);
    let standard = is_told.then_some((3 * poll).max(STALE_AFTER));
    Freshness { stale_after: plan.stale_after.or(standard), ..plan }
}

fn text(section: &Section<'_, '_>, key: &str) -> String {
    let Some(text) = section.text(key) else { return String::new() };
    if text.value.len() > TEXT_BYTES_MAX {
        let allowed = format!("at most {TEXT_BYTES_MAX} bytes");
        section.report(section.wrong(key, text.at, "is too long").allowed(allowed));
    }
    text.value.to_owned()
}

/// The place that an address names.
struct Found {
    /// On the wire, or in the model.
    place: Spot<Address>,
    /// The bits it names.
    field: Option<BitField>,
    model: Option<ModelRef>,
}

impl Found {
    fn modelled(&self) -> Option<Source> {
        let Address { start: offset, bit, .. } = self.place.value;
        Some(Source::Model(ModelPlace { model: self.model?, offset, bit }))
    }
}

fn address_of(section: &Section<'_, '_>, style: Style) -> Option<Found> {
    let node = section.get("address");
    let Some(node) = node else {
        section.missing("address", "where the tag stands in the device, such as \"holding:100\"");
        return None;
    };
    let at = node.at;
    let mut allowed = style.allowed();
    let parsed = match &node.value {
        Value::Text(text) if address::is_sunspec(text) => {
            allowed = address::SUNSPEC_ALLOWED;
            address::parse_sunspec(text).map(|(place, field)| (place.relative(), field, Some(place.model)))
        }
        Value::Text(text) => address::parse_field(text, style).map(|(place, field)| (place, field, None)),
        // 40101 without quotes is how modicon numbers are usually written.
        Value::Whole(number) => {
            address::parse_field(&number.to_string(), style).map(|(place, field)| (place, field, None))
        }
        other => Err(format!("expected a text such as \"holding:100\", found {}", other.kind())),
    };
    match parsed {
        Ok((value, field, model)) => Some(Found { place: Spot { value, at }, field, model }),
        Err(message) => {
            section.report(section.wrong("address", at, message).allowed(allowed));
            None
        }
    }
}

/// Without a place a type can still be a word that does not exist.
fn known_type(section: &Section<'_, '_>) {
    let somewhere = Address { table: Table::Holding, start: 0, bit: None };
    if let Some(text) = section.get("type").and_then(|_| section.text("type"))
        && let Err(message) = address::data_type(Some(text.value), somewhere)
    {
        section.report(section.wrong("type", text.at, message).allowed(address::types_allowed(somewhere)));
    }
}

fn type_of(
    section: &Section<'_, '_>,
    address: Spot<Address>,
    field: Option<BitField>,
    registers_max: u16,
) -> Option<DataType> {
    let declared = match section.get("type") {
        None => None,
        Some(_) => Some(section.text("type")?),
    };
    let data_type = match address::data_type(declared.map(|text| text.value).or(field.map(|_| "uint16")), address.value)
    {
        Ok(data_type) => data_type,
        Err(message) if declared.is_none() => {
            section.missing("type", message.trim_start_matches("is missing: "));
            return None;
        }
        Err(message) => {
            let at = declared.map_or(address.at, |text| text.at);
            section.report(section.wrong("type", at, message).allowed(address::types_allowed(address.value)));
            return None;
        }
    };
    if address.value.table.is_bits() {
        return Some(data_type);
    }
    if field.is_some() && !matches!(data_type, DataType::Int16 | DataType::Uint16) {
        let at = declared.map_or(address.at, |text| text.at);
        let message = "some bits of a register are a number";
        section.report(section.wrong("type", at, message).allowed("uint16 (without a type), int16"));
        return None;
    }
    let registers = data_type.registers();
    if u32::from(address.value.start) + u32::from(registers) > 0x1_0000 {
        let message = format!("{data_type} takes {registers} registers and would end beyond register 65535");
        section.report(section.wrong("address", address.at, message));
        return None;
    }
    if registers > registers_max {
        let message =
            format!("{data_type} takes {registers} registers, but the device allows {registers_max} per read");
        let at = declared.map_or(address.at, |text| text.at);
        section.report(section.wrong("type", at, message).allowed("raise max_registers_per_read or read less"));
        return None;
    }
    Some(data_type)
}

fn access_of(section: &Section<'_, '_>, address: Option<Address>) -> Access {
    let Some(access) = section.choice("access", &ACCESS) else {
        return Access::Read;
    };
    if let Some(message) = address.and_then(|address| address::not_writable(address.table, access.value)) {
        section.report(section.wrong("access", access.at, message).allowed("read"));
    }
    access.value
}

/// The type of a tag that no register holds. `wrong`: what is said of any other.
fn type_off_the_wire(section: &Section<'_, '_>, wrong: &str) -> Option<DataType> {
    let Some(_) = section.get("type") else { return Some(DataType::Float64) };
    let text = section.text("type")?;
    let found = DataType::from_name(text.value).filter(|kind| {
        matches!(kind, DataType::Float64 | DataType::Int64 | DataType::Uint64 | DataType::Bool | DataType::Text(_))
    });
    if found.is_none() {
        let allowed = "float64 (the default), int64, uint64, bool, string(N)";
        section.report(section.wrong("type", text.at, wrong).allowed(allowed));
    }
    found
}

/// A value is written in one request, so that a device never sees half of it.
fn check_write_length(section: &Section<'_, '_>, access: Access, data_type: Option<DataType>) {
    if let (Some(node), Some(data_type)) = (section.get("access"), data_type)
        && access.writes()
        && data_type.registers() > REGISTERS_PER_WRITE_MAX
    {
        let message = format!(
            "{data_type} takes {} registers, and one request writes at most {REGISTERS_PER_WRITE_MAX}",
            data_type.registers()
        );
        section.report(section.wrong("access", node.at, message).allowed("read, or at most string(246)"));
    }
}

/// Reports a key that only numbers have.
pub(super) fn only_numbers(section: &Section<'_, '_>, key: &str, data_type: Option<DataType>) {
    if let (Some(node), Some(data_type)) = (section.get(key), data_type)
        && !data_type.is_number()
    {
        section.report(section.wrong(key, node.at, format!("a {data_type} has no `{key}`: that is for numbers")));
    }
}

fn scale(section: &Section<'_, '_>, data_type: Option<DataType>) -> Scale {
    only_numbers(section, "scale", data_type);
    only_numbers(section, "offset", data_type);
    let factor = section.number("scale");
    if let Some(zero) = factor.filter(|factor| factor.value == 0.0) {
        section.report(section.wrong("scale", zero.at, "a scale of 0 makes every value 0").allowed("any number but 0"));
    }
    let offset = section.number("offset");
    Scale { factor: factor.map_or(1.0, |spot| spot.value), offset: offset.map_or(0.0, |spot| spot.value) }
}

/// `min` and `max`, of a tag or of what may be written to it.
pub fn limits(section: &Section<'_, '_>, data_type: Option<DataType>) -> Limits {
    only_numbers(section, "min", data_type);
    only_numbers(section, "max", data_type);
    let (min, max) = (section.number("min"), section.number("max"));
    if let (Some(min), Some(max)) = (min, max)
        && min.value > max.value
    {
        section.report(section.wrong("min", min.at, "min is above max").also(max.at));
    }
    Limits { min: min.map(|spot| spot.value), max: max.map(|spot| spot.value) }
}
