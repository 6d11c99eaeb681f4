//! Wrong configurations by the dozen: devices, tags, addresses, topics.

use crate::support;

use support::{BUS, DEVICE, TAG, assert_refused, parse, problems};

#[test]
fn a_device_says_what_is_wrong() {
    assert_refused(
        BUS,
        &[
            ("«[[device]]\nbus = \"b\"\nunit_id = 1", "device[0].name", "is missing"),
            ("«[[device]]\nname = \"d\"\nunit_id = 1", "device[0].bus", "is missing"),
            ("«[[device]]\nname = \"d\"\nbus = \"b\"", "device[0].unit_id", "is missing"),
            ("[[device]]\nname = \"d\"\nbus = «\"lime\"\nunit_id = 1", "device[0].bus", "did you mean `line`?"),
            ("[[device]]\nname = \"d\"\nbus = «\"x\"\nunit_id = 1", "device[0].bus", "b, line"),
            ("[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «256", "device[0].unit_id", "0 ..= 255"),
            ("[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «-1", "device[0].unit_id", "0 ..= 255"),
            (
                "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «\"1\"",
                "device[0].unit_id",
                "found a text: write it without quotes 0 ..= 255",
            ),
            ("[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «1.0", "device[0].unit_id", "a whole number"),
            ("[[device]]\nname = \"d\"\nbus = \"line\"\nunit_id = «248", "device[0].unit_id", "0 ..= 247"),
            (
                "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «9999999999999999999999999999999999999999999",
                "device[0].unit_id",
                "0 ..= 255",
            ),
        ],
    );
    assert_refused(
        &format!("{BUS}{DEVICE}"),
        &[
            ("address_style = «\"modicom\"", "device[0].address_style", "did you mean `modicon`?"),
            ("poll = «\"1ms\"", "device[0].poll", "10ms ..= 1d"),
            ("poll = «\"2d\"", "device[0].poll", "10ms ..= 1d"),
            ("poll = «1", "device[0].poll", "with its unit"),
            ("poll = «2", "device[0].poll", "found a whole number: write a number with ms, s, m, h or d"),
            ("poll = «true", "device[0].poll", "10ms ..= 1d"),
            ("max_registers_per_read = «126", "device[0].max_registers_per_read", "1 ..= 125"),
            ("max_registers_per_read = «0", "device[0].max_registers_per_read", "1 ..= 125"),
            ("delay_between_requests = «\"5m\"", "device[0].delay_between_requests", "0s ..= 1m"),
            ("profile = «\"eastron\"", "device[0].profile", "ironbridge profiles"),
            ("profile = «\"eastron-sdm360\"", "device[0].profile", "did you mean `eastron-sdm630`?"),
            ("profile = «\"nowhere/map.csv\"", "device[0].profile", "there is no such file"),
            ("profile = «\"map.xls\"", "device[0].profile", "there is no such file"),
            ("profile = «7", "device[0].profile", "expected a text"),
            ("[[device]]\nname = «\"d\"\nbus = \"b\"\nunit_id = 2", "device[1].name", "exists already"),
            ("«[device.tag]\nname = \"t\"", "device[0].tag", "write [[device.tag]]"),
            ("«pol = \"1s\"", "device[0].pol", "did you mean `poll`?"),
        ],
    );
}

#[test]
fn habits_of_a_device_and_its_connection_have_their_ranges() {
    assert_refused(
        &format!("{BUS}{DEVICE}"),
        &[
            ("max_bits_per_read = «2001", "device[0].max_bits_per_read", "1 ..= 2000"),
            ("max_gap = «126", "device[0].max_gap", "0 ..= 125"),
            ("max_gap = 3\nfill_gaps = «false", "device[0].fill_gaps", "max_gap that 3 registers are"),
            ("one_request_per_tag = «1", "device[0].one_request_per_tag", "true or false"),
            ("pause_after_connect = «\"2m\"", "device[0].pause_after_connect", "0s ..= 1m"),
            ("delay_on_unit_change = «\"2m\"", "device[0].delay_on_unit_change", "0s ..= 1m"),
            ("retries = «6", "device[0].retries", "0 ..= 5"),
            ("ignore_unit_id = «\"yes\"", "device[0].ignore_unit_id", "true or false"),
            ("readable = «\"holding:0-9\"", "device[0].readable", "a list of texts"),
            ("readable = [«\"holding\"]", "device[0].readable", "such as \"holding:0-99\""),
            ("forbidden = [\"holding:1\", «\"holding:9-3\"]", "device[0].forbidden", "ends before it begins"),
            ("forbidden = [«\"holding:1-coil:3\"]", "device[0].forbidden", "ends in another"),
            ("address_style = \"modicon\"\nforbidden = [«\"holding:1\"]", "device[0].forbidden", "40001-40100"),
            (
                "forbidden = [\"holding:8-9\"]\n[[device.tag]]\nname = \"t\"\naddress = «\"holding:7\"\ntype = \"int32\"",
                "device[0].tag[0].address",
                "lies in holding:8-9, which is `forbidden`",
            ),
            (
                "readable = [\"holding:0-7\"]\n[[device.tag]]\nname = \"t\"\naddress = «\"holding:7\"\ntype = \"int32\"",
                "device[0].tag[0].address",
                "`readable` ranges of its device holding:0-7",
            ),
        ],
    );
    let bus = "[[bus]]\nname = \"n\"\ntype = \"modbus-tcp\"\nendpoint = \"plc\"\n";
    let line = "[[bus]]\nname = \"n\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8N1\"\n";
    assert_refused(
        "",
        &[
            (&format!("{bus}max_connections = «5"), "bus[0].max_connections", "1 ..= 4"),
            (&format!("{bus}turnaround = «\"100ms\""), "bus[0].turnaround", "belongs to a serial line"),
            (&format!("{line}turnaround = «\"11s\""), "bus[0].turnaround", "0s ..= 10s"),
            (&format!("{line}max_connections = «2"), "bus[0].max_connections", "there is one line"),
            (&format!("{line}close_after_cycle = «true"), "bus[0].close_after_cycle", "a serial port stays open"),
            (&format!("{bus}retries = «-1"), "bus[0].retries", "0 ..= 5"),
        ],
    );
}

#[test]
fn what_a_bus_says_holds_for_its_devices_until_they_say_something_else() {
    let bus = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"plc\"\nretries = 3\n\
               delay_between_requests = \"30ms\"\nignore_unit_id = true\n";
    let own = "[[device]]\nname = \"own\"\nbus = \"b\"\nunit_id = 2\nretries = 0\nignore_unit_id = false\n";
    let plan = parse(&format!("{bus}{DEVICE}max_registers_per_read = 10\n{own}")).expect("right").plan;
    let [inherits, own] = plan.devices.as_slice() else { panic!("two devices") };
    assert_eq!((inherits.manners.retries, own.manners.retries), (3, 0));
    assert_eq!(inherits.manners.delay_between_requests, own.manners.delay_between_requests);
    assert_ne!(inherits.manners.answers_as, own.manners.answers_as);
    assert_eq!(
        (inherits.max_bits_per_read, own.max_bits_per_read),
        (160, 2000),
        "short answers are short for bits too"
    );
}

#[test]
fn a_tag_has_a_name_an_address_and_a_type() {
    assert_refused(
        &format!("{BUS}{DEVICE}"),
        &[
            ("«[[device.tag]]\naddress = \"coil:1\"", "device[0].tag[0].name", "is missing"),
            ("«[[device.tag]]\nname = \"t\"", "device[0].tag[0].address", "is missing"),
            ("«[[device.tag]]\nname = \"t\"\naddress = \"holding:1\"", "device[0].tag[0].type", "is missing"),
            ("[[device.tag]]\nname = «\"a#\"\naddress = \"coil:1\"", "device[0].tag[0].name", "one level"),
            (
                "[[device.tag]]\nname = «\"set\"\naddress = \"coil:1\"",
                "device[0].tag[0].name",
                "must not end with `/set`",
            ),
        ],
    );
}

#[test]
fn an_address_is_refused_with_the_allowed_range() {
    let tag = format!("{BUS}{DEVICE}{TAG}");
    for (address, words) in [
        ("holding:65536", "0 ..= 65535"),
        ("holding:", "no address"),
        ("holding:1x", "no address"),
        ("holding:0x", "no address"),
        ("holding:-1", "no address"),
        ("holding:+1", "no address"),
        ("holding:7.16", "0 (least significant) ..= 15"),
        ("holding:7.", "0 (least significant) ..= 15"),
        ("holding:7.+1", "0 (least significant) ..= 15"),
        ("coil:7.1", "one bit already"),
        ("register:7", "no table `register`"),
        ("100", "holding:100"),
        ("40101", "holding:100 here"),
        ("40001", "address_style = \"modicon\""),
        ("70001", "holding:70001"),
        ("", "which table"),
        ("sunspec:103", "sunspec:103:2"),
        ("sunspec:0:2", "`0` is no number of a model, which is 1 ..= 65534"),
        ("sunspec:65535:2", "1 ..= 65534"),
        ("sunspec:inverter:2", "`inverter` is no number of a model"),
        ("sunspec:101|:2", "`` is no number of a model"),
        ("sunspec:101|102|101:2", "names model 101 twice"),
        ("sunspec:1|2|3|4|5|6|7|8|9:2", "names 9 models, 8 at most"),
        ("sunspec:160#0:2", "1 for the first, up to 255"),
        ("sunspec:160#two:2", "1 for the first, up to 255"),
        ("sunspec:103:W", "the offset `W` is no number 0 ..= 65535"),
        ("sunspec:103:65536", "the offset `65536` is no number"),
        ("sunspec:103:14.16", "0 (least significant) ..= 15"),
        ("SunSpec:103:14", "lower case"),
    ] {
        let text = format!("address = «\"{address}\"\ntype = \"bool\"");
        assert_refused(&tag, &[(&text, "device[0].tag[0].address", words)]);
    }
}

#[test]
fn a_key_of_a_tag_says_what_is_wrong() {
    let tag = format!("{BUS}{DEVICE}{TAG}");
    assert_refused(
        &tag,
        &[
            ("address = «100\ntype = \"bool\"", "device[0].tag[0].address", "which table"),
            ("address = «true\ntype = \"bool\"", "device[0].tag[0].address", "found true or false"),
            ("address = «\"input:65535\"\ntype = \"float32\"", "device[0].tag[0].address", "beyond register 65535"),
            ("address = \"input:1\"\ntype = «\"flaot32\"", "device[0].tag[0].type", "did you mean `float32`?"),
            ("address = \"input:1\"\ntype = «\"mod10_5\"", "device[0].tag[0].type", "did you mean `mod10_2`?"),
            ("address = \"input:1\"\ntype = «\"bytes(0)\"", "device[0].tag[0].type", "1 ..= 250"),
            ("address = «\"holding:1.3-1\"", "device[0].tag[0].address", "the bits count upwards"),
            ("address = «\"holding:1.3-16\"", "device[0].tag[0].address", "bits 0 (least significant) ..= 15"),
            ("address = «\"coil:1.0-3\"", "device[0].tag[0].address", "one bit already"),
            ("address = \"holding:1.0-3\"\ntype = «\"float32\"", "device[0].tag[0].type", "a number uint16"),
            ("address = \"holding:1.0-3\"\nmask = «\"0xF\"", "device[0].tag[0].mask", "names the bits already"),
            (
                "address = «\"sunspec:103:65535\"\ntype = \"float32\"",
                "device[0].tag[0].address",
                "beyond register 65535",
            ),
            ("address = \"input:1\"\ntype = «\"string(0)\"", "device[0].tag[0].type", "1 ..= 250"),
            ("address = \"input:1\"\ntype = «\"string(251)\"", "device[0].tag[0].type", "1 ..= 250"),
            ("address = \"coil:1\"\ntype = «\"int16\"", "device[0].tag[0].type", "always a bool bool"),
            ("address = \"holding:1.5\"\ntype = «\"int16\"", "device[0].tag[0].type", "always a bool bool"),
            ("address = \"input:1\"\ntype = «7", "device[0].tag[0].type", "expected a text"),
            ("address = \"coil:1\"\norder = «\"ACBD\"", "device[0].tag[0].order", "ABCD, CDAB, BADC, DCBA"),
            ("address = \"coil:1\"\nclass = «\"urgent\"", "device[0].tag[0].class", "alarm, event, telemetry, bulk"),
            ("address = \"coil:1\"\naccess = «\"rw\"", "device[0].tag[0].access", "read, read-write, write"),
            ("address = \"discrete:1\"\naccess = «\"write\"", "device[0].tag[0].access", "can only be read"),
            ("address = \"coil:1\"\npoll = «\"1\"", "device[0].tag[0].poll", "not a duration"),
            ("address = \"coil:1\"\nheartbeat = «\"1ms\"", "device[0].tag[0].heartbeat", "1s ..= 30d"),
            ("address = \"coil:1\"\nscale = «2", "device[0].tag[0].scale", "that is for numbers"),
            ("address = \"coil:1\"\nmin = «2", "device[0].tag[0].min", "that is for numbers"),
            ("address = \"coil:1\"\nalarm = { state = true, high = «1 }", "device[0].tag[0].alarm.high", "for numbers"),
            ("address = \"coil:1\"\nwrite = «true", "device[0].tag[0].write", "expected a table"),
            (
                "address = \"coil:1\"\naccess = \"write\"\nwrite = { «verfy = true }",
                "device[0].tag[0].write.verfy",
                "did you mean `verify`?",
            ),
            (
                "address = \"coil:1\"\naccess = \"write\"\nwrite = { verify = «1 }",
                "device[0].tag[0].write.verify",
                "true or false",
            ),
            ("address = \"coil:1\"\n«adress = \"coil:1\"", "device[0].tag[0].adress", "did you mean `address`?"),
            (
                "address = \"coil:1\"\n[[device.tag]]\nname = «\"t\"\naddress = \"coil:2\"",
                "device[0].tag[1].name",
                "exists already",
            ),
        ],
    );
}

#[test]
fn a_number_of_a_tag_says_what_is_wrong() {
    let tag = format!("{BUS}{DEVICE}{TAG}");
    let number = format!("{tag}address = \"holding:1\"\ntype = \"int32\"\n");
    assert_refused(
        &number,
        &[
            ("scale = «0", "device[0].tag[0].scale", "any number but 0"),
            ("scale = «0.0", "device[0].tag[0].scale", "any number but 0"),
            ("scale = «nan", "device[0].tag[0].scale", "finite"),
            ("offset = «inf", "device[0].tag[0].offset", "finite"),
            ("scale = «\"0.1\"", "device[0].tag[0].scale", "expected a number, found a text"),
            ("min = «5\nmax = 4.5", "device[0].tag[0].min", "min is above max"),
            ("deadband = «-0.1", "device[0].tag[0].deadband", "0 or more"),
            ("deadband = «\"1%\"", "device[0].tag[0].deadband", "does not have both"),
            ("min = 0\nmax = 1\ndeadband = «\"101%\"", "device[0].tag[0].deadband", "0% ..= 100%"),
            ("min = 0\nmax = 1\ndeadband = «\"a%\"", "device[0].tag[0].deadband", "not a percentage"),
            ("deadband = «\"1\"", "device[0].tag[0].deadband", "expected a number"),
            ("unit = «5", "device[0].tag[0].unit", "expected a text"),
            ("description = «2026-11-20", "device[0].tag[0].description", "found a date or time"),
            (
                "access = \"read-write\"\nwrite = { min = «2, max = 1 }",
                "device[0].tag[0].write.min",
                "min is above max",
            ),
        ],
    );
    let text = format!("description = «\"{}\"", "x".repeat(1025));
    assert_refused(&number, &[(&text, "device[0].tag[0].description", "at most 1024 bytes")]);
    let text = format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\ntype = \"string(247)\"\n");
    assert_refused(&text, &[("access = «\"write\"", "device[0].tag[0].access", "at most string(246)")]);
    let short = format!("{BUS}{DEVICE}max_registers_per_read = 3\n{TAG}address = \"holding:1\"\n");
    assert_refused(&short, &[("type = «\"int64\"", "device[0].tag[0].type", "the device allows 3 per read")]);
}

#[test]
fn addresses_are_read_in_the_declared_style_only() {
    let modicon = format!("{BUS}{DEVICE}address_style = \"modicon\"\n{TAG}type = \"bool\"\n");
    assert_refused(
        &modicon,
        &[
            ("address = «\"holding:1\"", "device[0].tag[0].address", "no modicon number"),
            ("address = «\"20001\"", "device[0].tag[0].address", "no table has the modicon digit 2"),
            ("address = «\"40000\"", "device[0].tag[0].address", "counts from 1"),
            ("address = «465537", "device[0].tag[0].address", "counts from 1 to 65536"),
            ("address = «101", "device[0].tag[0].address", "no modicon number"),
        ],
    );
    let one = format!("{BUS}{DEVICE}address_style = \"one-based\"\n{TAG}type = \"bool\"\n");
    assert_refused(
        &one,
        &[
            ("address = «\"holding:0\"", "device[0].tag[0].address", "1 ..= 65536"),
            ("address = «\"holding:65537\"", "device[0].tag[0].address", "1 ..= 65536"),
        ],
    );
}

#[test]
fn two_tags_on_one_topic_name_both_places() {
    let text = format!(
        "[gateway]\ntopic = \"plant/{{tag}}\"\n{BUS}{DEVICE}{TAG}address = \"coil:1\"\n\
         [[device]]\nname = \"e\"\nbus = \"b\"\nunit_id = 2\n{TAG}address = \"coil:1\"\n"
    );
    let problems = problems(&text);
    let [problem] = problems.iter().as_slice() else { panic!("{problems}") };
    assert!(problem.message.contains("\"plant/t\"") && problem.message.contains("{device}"), "{problem}");
    let first = problem.also.as_ref().map(|place| place.line);
    let line_of = |nth| text.match_indices("name = \"t\"").nth(nth).map(|(at, _)| text[..at].matches('\n').count() + 1);
    assert_eq!(first.map(|line| line as usize), line_of(0));
    assert_eq!(problem.place.as_ref().map(|place| place.line as usize), line_of(1));
}

#[test]
fn a_template_with_a_group_wants_one_of_every_tag() {
    let prelude = format!("[gateway]\ntopic = \"{{group}}/{{tag}}\"\n{BUS}{DEVICE}");
    assert_refused(
        &prelude,
        &[
            ("[[device.tag]]\nname = «\"t\"\naddress = \"coil:1\"", "device[0].tag[0].group", "uses {group}"),
            (
                "[[device.tag]]\nname = \"t\"\naddress = \"coil:1\"\ngroup = «\"a/b\"",
                "device[0].tag[0].group",
                "one level",
            ),
            (
                "[[device.tag]]\nname = «\"t\"\naddress = \"coil:1\"\ngroup = \"ironbridge\"",
                "device[0].tag[0].name",
                "must not begin",
            ),
        ],
    );
}

#[test]
fn an_alarm_that_could_never_be_right_is_refused() {
    let number = format!("{BUS}{DEVICE}{TAG}address = \"input:1\"\ntype = \"float32\"\n");
    let path = "device[0].tag[0].alarm";
    assert_refused(
        &number,
        &[
            ("alarm = «{}", path, "at least one of"),
            ("alarm = «{ hysteresis = 1 }", path, "at least one of"),
            ("alarm = «12", path, "expected a table"),
            ("alarm = { high = 1, «heigh_high = 2 }", "device[0].tag[0].alarm.heigh_high", "did you mean `high_high`?"),
            ("alarm = { low = 5, high = «5 }", "device[0].tag[0].alarm.high", "must be above low"),
            ("alarm = { high_high = «5, high = 6 }", "device[0].tag[0].alarm.high_high", "must be above high"),
            ("alarm = { high = 1, hysteresis = «-1 }", "device[0].tag[0].alarm.hysteresis", "0 or more"),
            ("alarm = { low = 1, high = 2, hysteresis = «1 }", "device[0].tag[0].alarm.hysteresis", "less than 1"),
            ("alarm = { high = 1, delay = «\"2d\" }", "device[0].tag[0].alarm.delay", "0s ..= 1d"),
            ("alarm = { high = 1, off_delay = «1 }", "device[0].tag[0].alarm.off_delay", "with its unit"),
            ("alarm = { high = 1, class = «\"loud\" }", "device[0].tag[0].alarm.class", "alarm, event"),
            ("alarm = { high = 1, state = «true }", "device[0].tag[0].alarm.state", "that is for bool"),
        ],
    );
    let switch = format!("{BUS}{DEVICE}{TAG}address = \"coil:1\"\n");
    assert_refused(
        &switch,
        &[
            ("alarm = «{}", "device[0].tag[0].alarm.state", "is missing"),
            ("access = \"write\"\nalarm = «{ state = true }", path, "never read"),
        ],
    );
    let text = format!("{BUS}{DEVICE}{TAG}address = \"input:1\"\ntype = \"string(4)\"\n");
    assert_refused(&text, &[("alarm = «{ state = true }", path, "that is for numbers and switches")]);
}

#[test]
fn what_is_kept_and_what_is_stale_is_refused_where_it_makes_no_sense() {
    let number = format!("{BUS}{DEVICE}{TAG}address = \"input:1\"\ntype = \"float32\"\n");
    assert_refused(
        &number,
        &[
            ("compression = «{}", "device[0].tag[0].compression.swing", "is missing"),
            ("compression = { swing = «0 }", "device[0].tag[0].compression.swing", "more than 0"),
            ("compression = { swing = 1, max_gap = «\"1ms\" }", "device[0].tag[0].compression.max_gap", "1s ..= 30d"),
            ("deadband = 1\ncompression = «{ swing = 1 }", "device[0].tag[0].compression", "either compression or"),
            ("stale_after = «\"1s\"", "device[0].tag[0].stale_after", "between two polls more than 1s"),
            ("stale_after = «\"1ms\"", "device[0].tag[0].stale_after", "100ms ..= 30d"),
            ("unchanged_for = «\"1ms\"", "device[0].tag[0].unchanged_for", "1s ..= 30d"),
        ],
    );
    let switch = format!("{BUS}{DEVICE}{TAG}address = \"coil:1\"\n");
    let compression = ("compression = «{ swing = 1 }", "device[0].tag[0].compression", "that is for numbers");
    assert_refused(&switch, &[compression]);
}

#[test]
fn an_expression_is_refused_where_it_is_wrong() {
    let station = format!(
        "{BUS}{DEVICE}{TAG}address = \"input:1\"\ntype = \"float32\"\n[[device.tag]]\nname = \"on\"\naddress = \"coil:1\"\n\
         access = \"write\"\n[[device]]\nname = \"station\"\n[[device.tag]]\nname = \"sum\"\n"
    );
    let path = "device[1].tag[0].expression";
    assert_refused(
        &station,
        &[
            ("expression = «\"1 +\"", path, "missing at the end (at character 3)"),
            ("expression = «\"{d/x} * 2\"", path, "there is no tag {d/x}"),
            ("expression = «\"{d/tt} * 2\"", path, "did you mean `d/t`?"),
            ("expression = «\"{t} * 2\"", path, "there is no tag {station/t}"),
            ("expression = «\"t * 2\"", path, "tags stand in braces: {t}"),
            ("type = \"bool\"\nexpression = «\"{d/on}\"", path, "only written, never read"),
            ("expression = «\"{sum} + 1\"", path, "depends on its own result"),
            ("expression = «\"{d/t} > 1\"", path, "write type = \"bool\""),
            ("expression = «\"{d/t} and true\"", path, "a number stands where true or false is needed"),
            ("expression = «7", path, "expected a text"),
            ("expression = \"{d/t}\"\ntype = «\"int16\"", "device[1].tag[0].type", "float64 (the default)"),
            ("expression = \"{d/t}\"\naddress = «\"coil:1\"", "device[1].tag[0].address", "is computed"),
            ("expression = \"{d/t}\"\naccess = «\"read-write\"", "device[1].tag[0].access", "is computed"),
        ],
    );
    let circle = "[[device]]\nname = \"s\"\n[[device.tag]]\nname = \"a\"\nexpression = \"{b}\"\n\
                  [[device.tag]]\nname = \"b\"\nexpression = \"{a}\"\n";
    let found = problems(circle);
    let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["device[0].tag[0].expression", "device[0].tag[1].expression"], "{found}");
}

#[test]
fn raw_words_are_read_in_one_way_only() {
    let number = |data_type: &str, key: &str| {
        format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\ntype = \"{data_type}\"\naccess = \"read-write\"\n{key}")
    };
    for (data_type, text, path, words) in [
        ("float32", "mask = «\"0x0F\"", "mask", "for int and uint types"),
        ("string(4)", "shift = «4", "shift", "for int and uint types"),
        ("uint16", "mask = «\"0\"", "mask", "without bits"),
        ("uint16", "mask = «\"0x10000\"", "mask", "more bits than a uint16"),
        ("uint16", "mask = «\"FF\"", "mask", "write the bits as hex"),
        ("uint16", "mask = «\"0x0FF0\"\nshift = 5", "mask", "at most 4"),
        ("int16", "mask = «\"0x0F0F\"", "mask", "read them as a uint16"),
        ("uint16", "shift = «16", "shift", "leaves nothing"),
        ("uint16", "shift = «64", "shift", "0 ..= 63"),
        ("string(4)", "nan = «[\"0x8000\"]", "nan", "for numbers and times"),
        ("int32", "nan = [«\"0x8000\"]", "nan", "a int32 has 8 hex digits, this has 4"),
        ("int16", "nan = [\"0x8000\", «\"ieee\"]", "nan", "no NaN of IEEE 754"),
        ("int16", "nan = [«\"-32769\"]", "nan", "is no value of a int16"),
        ("float32", "nan = [«\"soon\"]", "nan", "is neither"),
        ("uint16", "nan = «\"0xFFFF\"", "nan", "a list of texts"),
        ("float32", "map = «{ 0 = \"off\" }", "map", "whole numbers and bits"),
        ("uint16", "map = «\"off\"", "map", "0=off|1=on"),
        ("uint16", "map = «{}", "map", "1 ..= 256 words"),
        ("uint16", "map = { «on = \"on\" }", "map.on", "no whole number"),
        ("uint16", "map = { «-1 = \"on\" }", "map.-1", "is never -1 here"),
        ("uint16", "map = { «0 = 1 }", "map.0", "found a whole number"),
        ("uint16", "map = { 0 = \"x\", «1 = \"x\" }", "map.1", "the same word twice"),
        ("uint16", "map = { 0 = \"x\", «0x0 = \"y\" }", "map.0x0", "the same number twice"),
        ("uint16", "map = { 0 = \"x\" }\nscale = «2", "scale", "with a map the value is text"),
        ("uint16", "map = { 0 = \"x\" }\nwrite = { max = «2 }", "write.max", "with a map the value is text"),
        ("uint16", "encoding = «\"ascii\"", "encoding", "for string(N)"),
        ("string(4)", "encoding = «\"utf8\"", "encoding", "utf-8, latin-1, ascii"),
        ("string(4)", "pad = «\"blank\"", "pad", "nul, space"),
        ("string(4)", "terminator = «\"0x100\"", "terminator", "none, nul"),
        ("unix32", "scale = «2", "scale", "that is for numbers"),
        ("bytes(4)", "deadband = «2", "deadband", "that is for numbers"),
        ("unix32", "scale_from = «\"sf\"", "scale_from", "that is for numbers"),
    ] {
        assert_refused(&number(data_type, ""), &[(text, &format!("device[0].tag[0].{path}"), words)]);
    }
}

#[test]
fn a_scale_factor_is_an_int16_of_the_same_device() {
    let value = format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\ntype = \"int16\"\nscale_from = ");
    let factor = |rest: &str| format!("«\"sf\"\n[[device.tag]]\nname = \"sf\"\naddress = \"holding:2\"\n{rest}");
    for (rest, words) in [
        ("type = \"uint16\"", "sf is a uint16"),
        ("type = \"int16\"\nscale = 2", "of its own"),
        ("type = \"int16\"\nmask = \"0xFF\"", "of its own"),
        ("type = \"int16\"\naccess = \"write\"", "is never read"),
    ] {
        let text = factor(rest);
        let problems = problems(&support::marked(&format!("{value}{text}")).0);
        let problem = problems.iter().next().expect("one at least");
        assert_eq!(problem.path, "device[0].tag[0].scale_from");
        assert!(problem.message.contains(words), "{problem}");
    }
    assert_refused(
        &value,
        &[
            ("«\"nobody\"", "device[0].tag[0].scale_from", "no tag of that name"),
            (
                "«\"sf\"\n[[device.tag]]\nname = \"sf\"\naddress = \"sunspec:103:15\"\ntype = \"int16\"",
                "device[0].tag[0].scale_from",
                "sf is not in the same SunSpec model",
            ),
            ("«\"t\"", "device[0].tag[0].scale_from", "has a scale factor itself"),
            (
                "\"sf\"\n[[device.tag]]\nname = \"sf\"\naddress = \"holding:2\"\ntype = \"int16\"\nscale_from = «\"t\"",
                "device[0].tag[1].scale_from",
                "has a scale factor itself",
            ),
        ],
    );
    let plan = parse(&support::marked(&format!("{value}{}", factor("type = \"int16\""))).0).expect("right").plan;
    assert_eq!(plan.tags[0].scale_from, Some(ironbridge::model::tag::TagIx(1)), "also one that comes later");
}

#[test]
fn a_write_is_one_that_modbus_has() {
    let write = |address: &str, data_type: &str| {
        format!("{BUS}{DEVICE}{TAG}address = \"{address}\"\ntype = \"{data_type}\"\naccess = \"read-write\"\n")
    };
    let path = "device[0].tag[0].write.function";
    assert_refused(
        &write("holding:1", "float32"),
        &[
            ("write = { function = «\"single\" }", path, "FC 6 writes one"),
            ("write = { function = «\"mask\" }", path, "some bits of one register"),
            ("write = { function = «\"fc6\" }", path, "auto, single, multiple, mask"),
            ("write = { retry = «4 }", "device[0].tag[0].write.retry", "0 ..= 3"),
        ],
    );
    assert_refused(&write("coil:1", "bool"), &[("write = { function = «\"mask\" }", path, "a coil is one bit")]);
}

#[test]
fn a_broadcast_is_written_blindly_or_refused() {
    let device = format!("{BUS}[[device]]\nname = \"all\"\nbus = \"line\"\nunit_id = «0\n{TAG}");
    let path = "device[0].unit_id";
    assert_refused(
        &device,
        &[
            ("address = \"coil:1\"", path, "its tag t is read"),
            ("address = \"coil:1\"\naccess = \"write\"\nwrite = { verify = true }", path, "is read back"),
            ("address = \"holding:1.3\"\naccess = \"write\"", path, "read before it is written"),
        ],
    );
    let blind = "address = \"holding:1.3\"\naccess = \"write\"\nwrite = { function = \"mask\" }";
    assert!(parse(&support::marked(&format!("{device}{blind}")).0).is_ok());
}
