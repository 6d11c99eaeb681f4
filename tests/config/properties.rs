//! No text makes the reader panic, and wire reads keep their promises for every plan.

use std::path::Path;

use std::time::Duration;

use ironbridge::config::blocks::{self, Block};
use ironbridge::config::plan::{
    BusLink, BusPlan, DevicePlan, Extent, Grouping, Parity, Plan, SerialPlan, TagPlan, Territory,
};
use ironbridge::config::{self, HostFacts};
use ironbridge::field::memory::Boundary;
use ironbridge::field::modbus::bisect;

use ironbridge::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Table, TagIx};
use proptest::prelude::*;

const SHIPPED: &str = include_str!("../../config/ironbridge.toml");
const FULL_SITE: &str = include_str!("../support/full_site.toml");
const MAP: &str = include_str!("../../config/profiles/eastron-sdm630.csv");

/// Text that hits something: keys, brackets, units, odd characters.
const SPLINTERS: [&str; 24] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    "#",
    "\n",
    "\\u0000",
    "é",
    "-1",
    "1e999",
    "nan",
    "99999999999999999999999",
    "true",
    "[[device.tag]]\n",
    "holding:",
    "{tag}",
    "\u{feff}",
];

#[derive(Debug, Clone)]
enum Change {
    Insert(prop::sample::Index, usize),
    Delete(prop::sample::Index, usize),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), 0..SPLINTERS.len()).prop_map(|(at, splinter)| Change::Insert(at, splinter)),
        (place(), 1usize..40).prop_map(|(at, length)| Change::Delete(at, length)),
        (place(), place()).prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

/// Changes lines rather than bytes here and there, so that much of the text still parses.
fn mutate(text: &str, changes: &[Change]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for change in changes {
        if text.is_empty() {
            break;
        }
        match change {
            Change::Insert(at, splinter) => {
                let at = at.index(text.len());
                text.splice(at..at, SPLINTERS[*splinter].chars());
            }
            Change::Delete(at, length) => {
                let at = at.index(text.len());
                let end = (at + length).min(text.len());
                text.drain(at..end);
            }
            Change::Swap(a, b) => {
                let (a, b) = (a.index(text.len()), b.index(text.len()));
                text.swap(a, b);
            }
        }
    }
    text.into_iter().collect()
}

fn read(text: &str, path: &Path) {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    if let Err(problems) = config::parse(text, path, &facts) {
        assert!(problems.count() > 0);
        let shown = problems.to_string();
        assert!(shown.contains("error: "), "{shown}");
        for problem in &problems {
            assert!(problem.place.as_ref().is_none_or(|place| place.line >= 1 && place.column >= 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutated_configuration_makes_the_reader_panic(full: bool, changes in prop::collection::vec(change(), 1..12)) {
        let text = if full { FULL_SITE } else { SHIPPED };
        read(&mutate(text, &changes), Path::new("/nowhere/ironbridge.toml"));
    }

    #[test]
    fn no_text_at_all_makes_the_reader_panic(text in "\\PC{0,200}") {
        read(&text, Path::new("/nowhere/ironbridge.toml"));
    }

    #[test]
    fn every_value_of_every_key_is_taken_or_refused(
        key in prop::sample::select(ironbridge::config::schema::all_paths()),
        value in prop::sample::select(vec![
            "1", "-1", "1e400", "nan", "true", "\"\"", "\"x\"", "\"\\u0000\"", "\"1s\"", "\"1GiB\"", "[]", "[1]", "[{}]",
            "{}", "{ a = 1 }", "2026-11-20", "\"holding:1\"", "\"/\"", "\"ü\"", "[\"#\"]", "[[]]",
        ]),
    ) {
        // As one dotted key, and in the lists the schema has.
        read(&format!("{key} = {value}"), Path::new("/nowhere/ironbridge.toml"));
        if let Some((table, key)) = key.rsplit_once('.') {
            read(&format!("[[{table}]]\n{key} = {value}"), Path::new("/nowhere/ironbridge.toml"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutated_register_map_makes_the_reader_panic(changes in prop::collection::vec(change(), 1..12)) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("m.csv"), mutate(MAP, &changes)).expect("written");
        let text = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n\
                    [[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\nprofile = \"m.csv\"\n";
        read(text, &directory.path().join("ironbridge.toml"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_another_csv_writer_writes_is_read_back_exactly(
        texts in prop::collection::vec("[ \\PC\"#,;\t\r\n]{0,30}", 1..20),
        separator in prop::sample::select(vec![b',', b';', b'\t']),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .quote_style(csv::QuoteStyle::Always)
            .delimiter(separator)
            .from_writer(Vec::new());
        writer.write_record(["name", "address", "description", "unit"]).expect("written");
        for (position, text) in texts.iter().enumerate() {
            let (name, address) = (format!("t{position}"), format!("coil:{position}"));
            writer.write_record([name.as_str(), address.as_str(), text.as_str(), "x"]).expect("written");
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("m.csv"), writer.into_inner().expect("flushed")).expect("written");
        let text = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"h\"\n\
                    [[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\nprofile = \"m.csv\"\n";
        let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
        let loaded = config::parse(text, &directory.path().join("ironbridge.toml"), &facts);
        let plan = loaded.unwrap_or_else(|problems| panic!("{problems}")).plan;
        let read: Vec<&str> = plan.tags.iter().map(|tag| tag.description.as_str()).collect();
        prop_assert_eq!(read, texts);
    }
}

fn link(serial: bool) -> BusLink {
    if serial {
        let serial = SerialPlan { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        BusLink::rtu("/dev/x", serial)
    } else {
        BusLink::tcp("h:502")
    }
}

fn tag(device: u32, table: Table, start: u16, data_type: DataType, (poll, access): (u64, Access)) -> TagPlan {
    let data_type = if table.is_bits() { DataType::Bool } else { data_type };
    let start = start.min(u16::MAX - (data_type.registers() - 1));
    let address = Address { table, start, bit: None };
    TagPlan { poll: Duration::from_millis(poll), access, ..TagPlan::plain("", DeviceIx(device), address, data_type) }
}

fn tags(device: u32) -> impl Strategy<Value = Vec<TagPlan>> {
    let table = prop::sample::select(vec![Table::Holding, Table::Input, Table::Coil, Table::Discrete]);
    let data_type = prop::sample::select(vec![
        DataType::Bool,
        DataType::Int16,
        DataType::Float32,
        DataType::Uint64,
        DataType::Text(7),
        DataType::Text(250),
    ]);
    let start = prop_oneof![0u16..300, 65_400u16..=u16::MAX, any::<u16>()];
    let access = prop::sample::select(vec![Access::Read, Access::ReadWrite, Access::Write]);
    let one = (table, start, data_type, (prop::sample::select(vec![500u64, 1000]), access))
        .prop_map(move |(table, start, data_type, rest)| tag(device, table, start, data_type, rest));
    prop::collection::vec(one, 0..60)
}

/// What a device may say about itself.
fn device() -> impl Strategy<Value = DevicePlan> {
    let limit = prop::sample::select(vec![1u16, 4, 11, 125]);
    let gap = prop::sample::select(vec![None, Some(0), Some(3), Some(125)]);
    let one_each = prop::sample::select(vec![Grouping::Blocks, Grouping::Blocks, Grouping::OneRequestPerTag]);
    let table = prop::sample::select(vec![Table::Holding, Table::Input, Table::Coil, Table::Discrete]);
    let forbidden = (table, 0u16..320, 0u16..4);
    let forbidden = forbidden.prop_map(|(table, first, more)| Extent { table, first, last: first + more });
    let readable = prop::sample::select(vec![Vec::new(), vec![(0u16, 99u16), (100, u16::MAX)]]);
    (limit, gap, one_each, prop::collection::vec(forbidden, 0..6), readable).prop_map(
        |(limit, max_gap, grouping, forbidden, readable)| {
            let tables = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];
            let everywhere = |(first, last)| tables.map(|table| Extent { table, first, last });
            let readable = readable.into_iter().flat_map(everywhere).collect();
            let territory = Territory { readable, forbidden };
            let plain = DevicePlan::plain("", BusIx(0), 1);
            DevicePlan { max_registers_per_read: limit, max_gap, grouping, territory, ..plain }
        },
    )
}

/// Would `check` let this tag through?
fn may_be_read(device: &DevicePlan, tag: &TagPlan) -> bool {
    let place = tag.register().expect("a register");
    device.territory.allows(place.table, place.start.into(), blocks::width(tag).into())
}

/// Three devices, two of them on bus 0.
fn plan() -> impl Strategy<Value = Plan> {
    (any::<bool>(), (tags(0), tags(1), tags(2)), (device(), device(), device())).prop_map(|(serial, tags, of)| {
        let lists = [tags.0, tags.1, tags.2];
        let mut all = Vec::new();
        let mut devices = Vec::new();
        for ((list, device), bus) in lists.into_iter().zip([of.0, of.1, of.2]).zip([0, 1, 0]) {
            let first = all.len();
            all.extend(list.into_iter().filter(|tag| may_be_read(&device, tag)));
            devices.push(DevicePlan { tags: first..all.len(), bus: Some(BusIx(bus)), ..device });
        }
        let bus = |serial| BusPlan::plain("", link(serial));
        Plan { buses: vec![bus(serial), bus(!serial)], devices, tags: all, ..Plan::empty("g") }
    })
}

fn assert_kept(plan: &Plan, block: &Block) {
    let device = &plan.devices[block.device.0 as usize];
    let end = u32::from(block.start) + u32::from(block.count);
    assert!(block.count > 0 && end <= 0x1_0000, "{block:?}");
    let longest = u32::from(blocks::longest_read(device, block.table));
    let alone =
        block.tags.len() == 1 || block.tags.iter().all(|ix| blocks::width(&plan.tags[ix.0 as usize]) == block.count);
    assert!(u32::from(block.count) <= longest || alone, "{block:?} is longer than {longest}");
    assert!(device.territory.allows(block.table, block.start.into(), block.count.into()), "{block:?} of {device:?}");
    let mut starts = Vec::new();
    for ix in &block.tags {
        let tag = &plan.tags[ix.0 as usize];
        let place = tag.register().expect("only what has a place is in a block");
        assert_eq!((tag.device, place.table, tag.poll), (block.device, block.table, block.period));
        let last = u32::from(place.start) + u32::from(blocks::width(tag));
        assert!(place.start >= block.start && last <= end, "{tag:?} is split by {block:?}");
        starts.push((place.start, last));
    }
    if device.grouping == Grouping::OneRequestPerTag {
        let places = block.tags.iter().map(|ix| &plan.tags[ix.0 as usize]);
        assert!(
            places
                .map(|tag| (tag.register().map(|at| at.start), blocks::width(tag)))
                .all(|place| place == (Some(block.start), block.count))
        );
    }
    // It begins and ends with a value.
    assert_eq!(starts.iter().map(|(start, _)| *start).min(), Some(block.start));
    assert_eq!(starts.iter().map(|(_, last)| *last).max(), Some(end));
}

/// No hole is larger than allowed. In a piece of a block one may be: what bridged it can be in the other piece.
fn assert_dense(plan: &Plan, block: &Block) {
    let device = &plan.devices[block.device.0 as usize];
    let bus = device.bus.expect("a block is on a bus");
    let measured = blocks::max_gap(&plan.buses[bus.0 as usize].link, think(plan, bus));
    let gap = u32::from(device.max_gap.unwrap_or(measured));
    let gap = if block.table.is_bits() { gap * 16 } else { gap };
    let place = |ix: &TagIx| {
        let tag = &plan.tags[ix.0 as usize];
        let start = tag.register().expect("only what has a place is in a block").start;
        (start, u32::from(start) + u32::from(blocks::width(tag)))
    };
    let mut starts: Vec<(u16, u32)> = block.tags.iter().map(place).collect();
    starts.sort_unstable();
    let mut covered = u32::from(block.start);
    for (start, last) in starts {
        assert!(u32::from(start) <= covered + gap, "a hole too large in {block:?}");
        covered = covered.max(last);
    }
}

fn think(plan: &Plan, bus: BusIx) -> Duration {
    blocks::think_assumed(&plan.buses[bus.0 as usize].link)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_readable_tag_is_read_exactly_once_and_whole(plan in plan()) {
        let mut seen = Vec::new();
        for bus in [BusIx(0), BusIx(1)] {
            for block in blocks::plan_blocks(&plan, bus) {
                prop_assert_eq!(plan.devices[block.device.0 as usize].bus, Some(bus));
                assert_kept(&plan, &block);
                assert_dense(&plan, &block);
                seen.extend(block.tags);
            }
        }
        seen.sort_unstable();
        let readable = (0u32..).zip(&plan.tags).filter(|(_, tag)| tag.access.reads()).map(|(ix, _)| TagIx(ix));
        prop_assert_eq!(seen, readable.collect::<Vec<_>>());
    }
}

/// All tags of some blocks, once each and whole.
fn assert_covered(plan: &Plan, blocks: &[Block], wanted: &[TagIx]) {
    for block in blocks {
        assert_kept(plan, block);
    }
    let mut seen: Vec<TagIx> = blocks.iter().flat_map(|block| block.tags.iter().copied()).collect();
    let mut wanted = wanted.to_vec();
    seen.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_refused_block_is_split_down_to_single_places_and_loses_no_tag(plan in plan()) {
        for block in [BusIx(0), BusIx(1)].iter().flat_map(|bus| blocks::plan_blocks(&plan, *bus)) {
            let (mut whole, mut single) = (vec![block.clone()], Vec::new());
            while let Some(refused) = whole.pop() {
                match bisect::split(&refused, &plan) {
                    Some((left, right)) => whole.extend([left, right]),
                    None => single.push(refused),
                }
            }
            assert_covered(&plan, &single, &block.tags);
            let start = |ix: &TagIx| plan.tags[ix.0 as usize].register().map(|place| place.start);
            prop_assert!(single.iter().all(|block| block.tags.iter().all(|ix| start(ix) == Some(block.start))));
        }
    }

    #[test]
    fn nothing_is_read_across_a_place_where_a_device_once_refused(
        plan in plan(),
        places in prop::collection::btree_set(prop_oneof![0u16..300, any::<u16>()], 0..12),
    ) {
        for block in [BusIx(0), BusIx(1)].iter().flat_map(|bus| blocks::plan_blocks(&plan, *bus)) {
            let (table, model, period) = (block.table, block.model, block.period);
            let boundaries: Vec<Boundary> = places.iter().map(|at| Boundary { table, model, period, at: *at }).collect();
            let pieces = bisect::split_at(vec![block.clone()], &boundaries, &plan);
            assert_covered(&plan, &pieces, &block.tags);
            for (piece, at) in pieces.iter().flat_map(|piece| places.iter().map(move |at| (piece, *at))) {
                let starts = || piece.tags.iter().filter_map(|ix| plan.tags[ix.0 as usize].register()).map(|place| place.start);
                prop_assert!(starts().all(|start| start < at) || starts().all(|start| start >= at), "{piece:?} over {at}");
            }
        }
    }
}

#[test]
fn the_same_text_has_the_same_problems_every_time() {
    // Two tags are as near to the one that is not there as each other.
    let text = include_str!("../fuzz/corpus/config/two-tags-as-near");
    let told = || config::parse(text, Path::new("/x.toml"), &HostFacts::default()).expect_err("refused").to_string();
    let first = told();
    assert!(first.contains("did you mean `d/e`?") && (0..16).all(|_| told() == first), "{first}");
}

#[test]
fn gaps_are_worth_what_the_measurements_say() {
    let rtu = |baud| {
        let serial = SerialPlan { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        BusLink::rtu("/dev/x", serial)
    };
    // Measured: 12 to 27 registers at 9600 to 19200, about 77 at 115200.
    assert_eq!(blocks::max_gap(&rtu(9600), Duration::from_millis(5)), 12);
    assert_eq!(blocks::max_gap(&rtu(19_200), Duration::from_millis(20)), 27);
    assert_eq!(blocks::max_gap(&rtu(115_200), Duration::from_millis(10)), 77);
    assert_eq!(blocks::max_gap(&link(false), Duration::ZERO), 125);
    // 125 registers without think time: 309, 155 and 28.6 ms.
    for (baud, expected) in [(9600, 309.0), (19_200, 155.0), (115_200, 28.6)] {
        let took = blocks::wire_time(&rtu(baud), 8 + 5 + 250).as_secs_f64() * 1000.0;
        assert!((took - expected).abs() < 1.0, "{baud}: {took}");
    }
}
