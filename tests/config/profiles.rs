//! The shipped register maps: complete heads, no two tags on one register, one name and one unit for one quantity.

use std::collections::BTreeMap;
use std::path::Path;

use ironbridge::config::plan::{Plan, TagPlan};
use ironbridge::config::shipped::{SHIPPED, about};
use ironbridge::config::{self, HostFacts};
use ironbridge::model::tag::{Access, DataType, Table};

/// The plan of one device on one bus that uses the map.
fn plan(profile: &str) -> Plan {
    let text = format!(
        "[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\nendpoint = \"192.0.2.1:502\"\n\
         [[device]]\nname = \"device\"\nbus = \"net\"\nunit_id = 1\nprofile = \"{profile}\""
    );
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    let loaded = config::parse(&text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    loaded.unwrap_or_else(|problems| panic!("{profile}: {problems}")).plan
}

fn each_tag(check: impl Fn(&str, &TagPlan)) {
    for (name, _) in SHIPPED {
        plan(name).tags.iter().for_each(|tag| check(name, tag));
    }
}

#[test]
fn every_file_of_the_directory_is_shipped_and_the_other_way_round() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/profiles");
    let entries = std::fs::read_dir(folder).expect("the directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let csv = paths.filter(|path| path.extension().is_some_and(|extension| extension == "csv"));
    let mut files: Vec<_> = csv.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    files.sort_unstable();
    assert_eq!(files, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert!(files.len() >= 25, "{} maps", files.len());
}

#[test]
fn every_map_loads_and_says_whose_device_it_is_and_where_its_facts_come_from() {
    for (name, text) in SHIPPED {
        let about = about(text);
        assert!(!about.maker.is_empty() && !about.model.is_empty() && !about.what.is_empty(), "{name}: {about:?}");
        assert!(!about.sources.is_empty(), "{name} names no source");
        assert_eq!(plan(name).tags.len(), about.tags, "{name}");
        let lone = text.lines().any(|line| line.starts_with("# Only this one source"));
        assert_eq!(lone, about.sources.len() == 1, "{name}: one source must be admitted, and only then");
        let table = text.lines().position(|line| line.starts_with("name,address,type")).expect("a header row");
        assert!(text.lines().skip(table).all(|line| !line.starts_with('#')), "{name}: comments belong to the head");
    }
}

#[test]
fn no_two_tags_of_a_map_share_a_register() {
    for (name, _) in SHIPPED {
        let plan = plan(name);
        let mut taken: BTreeMap<(String, u32), &str> = BTreeMap::new();
        for tag in &plan.tags {
            let place = tag.place().unwrap_or_else(|| panic!("{name}: {} is not polled", tag.name));
            let table = match (tag.model(), place.table) {
                (Some(model), Table::Holding) => format!("sunspec:{model}"),
                (None, Table::Holding) => "holding".into(),
                (_, Table::Input) => "input".into(),
                (_, Table::Coil) => "coil".into(),
                (_, Table::Discrete) => "discrete".into(),
            };
            let width = if place.table.is_bits() { 1 } else { words(tag.data_type) };
            for register in u32::from(place.start)..u32::from(place.start) + width {
                let other = taken.insert((table.clone(), register), &tag.name);
                assert_eq!(other, None, "{name}: {} overlaps it at {table}:{register}", tag.name);
            }
        }
    }
}

/// Registers of a type, by the names of the configuration: not by the code under test.
fn words(data_type: DataType) -> u32 {
    match data_type {
        DataType::Int32 | DataType::Uint32 | DataType::Float32 => 2,
        DataType::Int64 | DataType::Uint64 | DataType::Float64 => 4,
        DataType::Text(bytes) => u32::from(bytes).div_ceil(2),
        _ => 1,
    }
}

/// All units that maps use; a new one goes here on purpose.
const UNITS: &[&str] = &["", "V", "A", "W", "VA", "var", "Hz", "kWh", "kvarh", "%", "°C", "ppm", "rpm", "Nm", "h"];

/// The unit that follows from how a name begins, longest beginning first.
const BY_BEGINNING: &[(&str, &str)] = &[
    ("apparent_power", "VA"),
    ("reactive_power", "var"),
    ("voltage", "V"),
    ("current", "A"),
    ("power", "W"),
    ("cosphi", ""),
    ("frequency", "Hz"),
    ("output_frequency", "Hz"),
    ("temperature", "°C"),
    ("thd", "%"),
    ("soc", "%"),
];

#[test]
fn a_name_means_the_same_quantity_and_unit_in_every_map() {
    each_tag(|map, tag| {
        let (name, unit) = (tag.name.as_str(), tag.unit.as_str());
        assert!(UNITS.contains(&unit), "{map}: {name} has the unit {unit:?}");
        let is_factor = name.ends_with("_sf");
        let by_ending = [("_kwh", "kWh"), ("_kvarh", "kvarh")].iter().find(|(ending, _)| name.ends_with(ending));
        let by_beginning = BY_BEGINNING.iter().find(|(beginning, _)| name.starts_with(beginning));
        if is_factor {
            assert_eq!(unit, "", "{map}: {name}");
        } else if let Some((_, expected)) = by_ending.or(by_beginning) {
            assert_eq!(unit, *expected, "{map}: {name}");
        }
        assert!(by_ending.is_some() || unit != "kWh", "{map}: {name} is an energy and does not say so");
    });
}

#[test]
fn every_tag_has_a_group_and_a_text_of_ours_in_plain_words() {
    each_tag(|map, tag| {
        assert!(!tag.group.is_empty() && !tag.description.is_empty(), "{map}: {}", tag.name);
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        assert!(tag.name.chars().all(plain), "{map}: {}", tag.name);
    });
}

#[test]
fn a_map_writes_nothing_but_the_outputs_of_modules() {
    each_tag(|map, tag| {
        let is_output = tag.register().is_some_and(|place| place.table == Table::Coil);
        assert!(tag.access == Access::Read || is_output, "{map}: {}", tag.name);
    });
}
