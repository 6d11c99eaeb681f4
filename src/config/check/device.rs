//! `[[device]]` with its profile and its tags.

use std::time::Duration;

use super::super::blocks::{BITS_PER_READ_MAX, REGISTERS_PER_READ_MAX};
use super::super::plan::{DevicePlan, Framing, Grouping, TagPlan};
use super::super::profile::{Library, Origin, RegisterMap};
use super::super::raw::{Node, Trail};
use super::super::schema;
use super::super::section::{Context, Section, Spot};
use super::address::{STYLES, Style};
use super::bus::Buses;
use super::derived::{self, Pending};
use super::example;
use super::gateway::Gateway;
use super::habits;
use super::line;
use super::names::Unique;
use super::reading::{ScaleFrom, resolve};
use super::tag::{self, POLL_RANGE};
use super::topics::{TopicBook, TopicNames};
use super::writing::check_broadcast;
use crate::model::tag::{BusIx, DeviceIx};

const POLL: Duration = Duration::from_secs(1);
/// What stands for {bus} in the topics of a device that has none.
const WITHOUT_BUS: &str = "derived";

/// The tags of a device while they are being read.
struct Tags<'a, 'b> {
    cx: Context<'a>,
    of: tag::Of<'b>,
    names: Unique<'a>,
    topics: &'b mut TopicBook,
    plans: &'b mut Vec<TagPlan>,
    scale_factors: Vec<(usize, ScaleFrom<'a>)>,
    pending: &'b mut Vec<Pending>,
    /// Tags that are read from the device, and tags that are not.
    polled: usize,
    computed: usize,
}

impl<'a> Tags<'a, '_> {
    fn read(&mut self, node: &'a Node, trail: &Trail<'_>) {
        if let Some(section) = Section::open(self.cx, node, trail, schema::TAG) {
            let expression = section.get("expression").and_then(|_| section.text("expression"));
            match section.get("expression") {
                None => self.polled += 1,
                Some(_) => self.computed += 1,
            }
            let Some((plan, factor)) = tag::tag(&section, self.of, &mut self.names, self.topics) else { return };
            self.pending.extend(expression.map(|text| derived::pending(&section, text, self.plans.len())));
            self.scale_factors.extend(factor.map(|factor| (self.plans.len(), factor)));
            self.plans.push(plan);
        }
    }

    /// A map's own style counts before the device's.
    fn read_map(&mut self, map: &'a RegisterMap) {
        let style = self.of.style;
        match map {
            RegisterMap::Csv(rows, origin) => {
                if *origin == Origin::Shipped {
                    self.of.style = Style::ZeroBased;
                }
                for row in rows {
                    self.read(&row.node, &Trail::Row(row.line));
                }
            }
            RegisterMap::Toml(tree) => {
                let Some(section) = Section::open(self.cx, tree, &Trail::Root, schema::MAP) else { return };
                self.of.style = section.choice("address_style", &STYLES).map_or(style, |spot| spot.value);
                self.read_list(&section);
            }
        }
        self.of.style = style;
    }

    fn read_list(&mut self, section: &Section<'a, '_>) {
        let list = Trail::Key(section.trail, "tag");
        for (position, node) in section.tables("tag").iter().enumerate() {
            self.read(node, &Trail::Index(&list, position));
        }
    }
}

/// `[[device]]`
pub fn devices<'a>(
    root: &Section<'a, '_>,
    library: &'a Library,
    buses: &Buses<'a>,
    gateway: &Gateway<'_>,
) -> (Vec<DevicePlan>, Vec<TagPlan>) {
    let list = Trail::Key(root.trail, "device");
    let mut names = Unique::default();
    let mut topics = TopicBook::default();
    let (mut devices, mut tags, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    for (ix, node) in (0u32..).zip(root.tables("device")) {
        let trail = Trail::Index(&list, ix as usize);
        let Some(section) = Section::open(root.cx, node, &trail, schema::DEVICE) else { continue };
        let style = section.choice("address_style", &STYLES).map_or(Style::ZeroBased, |spot| spot.value);
        let (mut plan, bus_name, framing) = device(&section, buses, &mut names);
        let on_a_line = framing.is_some_and(|framing| !framing.is_numbered());
        plan.territory = habits::territory(&section, style);
        let first = tags.len();
        let poll = section.duration("poll", POLL_RANGE);
        let of = tag::Of {
            device: DeviceIx(ix),
            style,
            territory: &plan.territory,
            poll: poll.unwrap_or(POLL),
            frames: plan
                .bus
                .filter(|bus| buses.is_line(*bus))
                .map(|_| tag::Frames { patterns: plan.talk.as_ref().map_or(&[], |talk| talk.patterns.as_slice()) }),
            every: poll.filter(|_| plan.bus.is_none()),
            registers_max: plan.max_registers_per_read,
            template: gateway.template.as_ref(),
            names: TopicNames { gateway: &gateway.plan.name, bus: bus_name, device: &plan.name, tag: "", group: "" },
        };
        let (names, topics) = (Unique::default(), &mut topics);
        let mut reading = Tags {
            cx: root.cx,
            of,
            names,
            topics,
            plans: &mut tags,
            pending: &mut pending,
            polled: 0,
            computed: 0,
            scale_factors: Vec::new(),
        };
        if let Some(profile) = section.text("profile")
            && let Some(map) = library.get(profile.at)
        {
            reading.read_map(map);
        }
        reading.read_list(&section);
        if plan.bus.is_none() && (reading.polled > 0 || reading.computed == 0) {
            section.missing("bus", "the name of a [[bus]]; only a device whose tags all have an expression needs none");
            require_unit_id(&section);
        }
        let factors = reading.scale_factors.into_iter().map(|(at, factor)| (at - first, factor)).collect();
        resolve(&mut tags[first..], first, factors, |finding| root.cx.findings.report(finding));
        if let Some(talk) = &mut plan.talk {
            let frames = plan.bus.and_then(|bus| buses.line(bus)).filter(|_| buses.are_known());
            talk.examples = example::examples(&section, frames, talk, first, &tags[first..]);
        }
        if let (0, true, Some(node)) = (plan.unit_id, on_a_line, section.get("unit_id")) {
            check_broadcast(&section, node.at, &tags[first..]);
        }
        plan.tags = first..tags.len();
        devices.push(plan);
    }
    derived::settle(&pending, &devices, &mut tags, root.cx.findings);
    tags.shrink_to_fit();
    (devices, tags)
}

fn require_unit_id(section: &Section<'_, '_>) {
    if section.get("unit_id").is_none() {
        section.missing("unit_id", "the Modbus address of the device, often 1");
    }
}

/// The device without its tags, the name of its bus and what is spoken there.
fn device<'a>(
    section: &Section<'a, '_>,
    buses: &Buses<'a>,
    names: &mut Unique<'a>,
) -> (DevicePlan, &'a str, Option<Framing>) {
    let name = names.name(section, "device");
    let bus = section.get("bus").and_then(|_| section.required_text("bus", "the name of a [[bus]]"));
    let found = bus.and_then(|bus| buses.find(section, bus));
    let (bus_ix, framing) = found.unwrap_or((BusIx(0), None));
    let unit_id = match framing {
        Some(Framing::Rtu | Framing::Ascii) => 0..=247,
        Some(Framing::Mbap | Framing::Line) | None => 0..=255,
    };
    let is_line = framing == Some(Framing::Line);
    if !is_line {
        line::refuse(section, &line::DEVICE_KEYS, "belongs to a device on a bus of type line");
    }
    if section.get("bus").is_some() && !is_line {
        require_unit_id(section);
    }
    let unit_id = section.whole("unit_id", unit_id).unwrap_or(1);
    let registers = section.whole("max_registers_per_read", 1..=REGISTERS_PER_READ_MAX);
    let registers = registers.unwrap_or(REGISTERS_PER_READ_MAX);
    let bits = section.whole("max_bits_per_read", 1..=BITS_PER_READ_MAX);
    let one_each = section.flag("one_request_per_tag").is_some_and(|spot| spot.value);
    let inherited = buses.habits(bus_ix).manners;
    let mut plan = DevicePlan {
        max_registers_per_read: registers,
        // A device that cannot send long answers cannot send long ones of bits either.
        max_bits_per_read: bits.unwrap_or_else(|| registers.saturating_mul(16).min(BITS_PER_READ_MAX)),
        max_gap: max_gap(section),
        grouping: if one_each { Grouping::OneRequestPerTag } else { Grouping::Blocks },
        manners: habits::manners(section, &inherited),
        talk: if is_line { line::talk(section, buses.mode(bus_ix)) } else { None },
        ..DevicePlan::plain(name.map_or("", |name| name.value), bus_ix, u8::try_from(unit_id).unwrap_or(1))
    };
    if section.get("bus").is_none() {
        plan.bus = None;
        return (plan, WITHOUT_BUS, None);
    }
    (plan, bus.map_or("", |bus| bus.value), framing)
}

/// `fill_gaps = false` is `max_gap = 0` in other words.
fn max_gap(section: &Section<'_, '_>) -> Option<u16> {
    let gap = section.whole("max_gap", 0..=REGISTERS_PER_READ_MAX);
    let fill = section.flag("fill_gaps");
    if let (Some(gap @ 1..), Some(Spot { value: false, at })) = (gap, fill) {
        let message = format!("says that no gap is read over, and max_gap that {gap} registers are");
        section.report(section.wrong("fill_gaps", at, message).allowed("one of the two"));
    }
    if fill.is_some_and(|spot| !spot.value) { Some(0) } else { gap }
}
