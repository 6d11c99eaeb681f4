//! Tags in SunSpec models become reads: within their model, with its header, with the scale factors they need.

use std::path::Path;

use ironbridge::config::blocks::{Block, plan_blocks};
use ironbridge::config::plan::Plan;
use ironbridge::config::{self, HostFacts};
use ironbridge::model::tag::BusIx;

/// A device with these keys and these tags: name, address, type, further keys.
fn plan(keys: &str, tags: &[(&str, &str, &str, &str)]) -> Plan {
    let mut text = format!(
        "[[bus]]\nname = \"b\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8N1\"\n\
         [[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n{keys}\n"
    );
    for (name, address, data_type, keys) in tags {
        let tag =
            format!("[[device.tag]]\nname = \"{name}\"\naddress = \"{address}\"\ntype = \"{data_type}\"\n{keys}\n");
        text.push_str(&tag);
    }
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    let loaded = config::parse(&text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// Model, start, count and number of tags of each read, in one line each.
fn reads(plan: &Plan) -> Vec<String> {
    let read = |block: Block| {
        let model = block.model.map_or("-".to_owned(), |model| model.to_string());
        format!("{model} {}+{} {}", block.start, block.count, block.tags.len())
    };
    plan_blocks(plan, BusIx(0)).into_iter().map(read).collect()
}

const INVERTER: [(&str, &str, &str, &str); 4] = [
    ("w", "sunspec:103:14", "int16", "scale_from = \"w_sf\""),
    ("w_sf", "sunspec:103:15", "int16", ""),
    ("a", "sunspec:103:2", "uint16", ""),
    ("state", "sunspec:103:38", "uint16", ""),
];

#[test]
fn the_tags_of_a_model_are_one_read_that_begins_with_its_header() {
    let mut tags = INVERTER.to_vec();
    tags.push(("elsewhere", "holding:3", "uint16", ""));
    tags.push(("other", "sunspec:101|102|103:3", "uint16", ""));
    tags.push(("second", "sunspec:103#2:14", "uint16", ""));
    assert_eq!(
        reads(&plan("", &tags)),
        ["- 3+1 1", "101|102|103 0+4 1", "103 0+39 4", "103#2 0+15 1"],
        "never across models, nor with registers that have an address of their own"
    );
}

#[test]
fn a_model_longer_than_a_read_is_several_and_a_value_is_never_split() {
    let tags = [
        ("near", "sunspec:64001:123", "float32", ""),
        ("edge", "sunspec:64001:124", "float32", ""),
        ("far", "sunspec:64001:250", "uint16", ""),
    ];
    assert_eq!(reads(&plan("", &tags)), ["64001 0+125 1", "64001 124+2 1", "64001 250+1 1"]);
}

#[test]
fn a_read_reaches_as_far_as_the_scale_factors_that_are_polled_at_another_time() {
    let mut tags = INVERTER.to_vec();
    tags[1].3 = "poll = \"1h\"";
    tags.truncate(2);
    assert_eq!(reads(&plan("", &tags)), ["103 0+16 1", "103 0+16 1"]);
}

#[test]
fn a_device_that_wants_short_or_single_reads_gets_them() {
    assert_eq!(reads(&plan("max_registers_per_read = 16", &INVERTER)), ["103 0+16 3", "103 38+1 1"]);
    assert_eq!(
        reads(&plan("one_request_per_tag = true", &INVERTER)),
        ["103 2+1 1", "103 14+1 1", "103 15+1 1", "103 38+1 1"]
    );
    assert_eq!(reads(&plan("max_gap = 3", &INVERTER)), ["103 0+3 1", "103 14+2 2", "103 38+1 1"]);
}
