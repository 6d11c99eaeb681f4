//! Wrong configurations by the dozen: buses of type `line`.

use crate::support;

use support::{BUS, DEVICE, assert_refused};

const ON_TCP: &str = "[[bus]]\nname = \"l\"\ntype = \"line\"\nendpoint = \"h:4001\"\n";

fn ended() -> String {
    format!("{ON_TCP}frame_end = \"\\n\"\n")
}

#[test]
fn a_line_bus_says_what_is_wrong() {
    let ended = ended();
    assert_refused(
        "",
        &[("«[[bus]]\nname = \"l\"\ntype = \"line\"\nframe_end = \"x\"", "bus[0].port", "`endpoint` or `listen`")],
    );
    assert_refused(
        ON_TCP,
        &[
            ("frame_end = «\"\"", "bus[0].frame_end", "must be there"),
            ("frame_start = \"x\"\nframe_end = «\"x\"", "bus[0].frame_end", "must not have frame_start in it"),
            ("frame_start = \"\\n\"\nframe_end = «\"\\r\\n\"", "bus[0].frame_end", "must not have frame_start in it"),
            ("frame_end = «\"hex:0\"", "bus[0].frame_end", "at most 8 bytes"),
            ("frame_end = «\"123456789\"", "bus[0].frame_end", "at most 8 bytes"),
            ("frame_end = \"x\"\nframe_length = «3", "bus[0].frame_length", "ends in one way"),
            ("frame_length = «257", "bus[0].frame_length", "1 ..= 256"),
            ("frame_length = «12\nmode = \"listen\"", "bus[0].frame_length", "needs frame_start"),
            ("frame_idle = «\"11s\"", "bus[0].frame_idle", "1ms ..= 10s"),
            ("frame_start = «\"x\"\nframe_idle = \"1s\"", "bus[0].frame_start", "silence cuts frames"),
        ],
    );
    assert_refused(
        &ended,
        &[
            ("mode = «\"ask\"", "bus[0].mode", "poll, listen"),
            ("max_frame = «5000", "bus[0].max_frame", "1 ..= 4096"),
            ("checksum = «\"crc\"", "bus[0].checksum", "crc16-ccitt"),
            ("checksum_form = «\"hex\"", "bus[0].checksum_form", "there is no `checksum`"),
            ("checksum = \"xor\"\nchecksum_form = «\"dec\"", "bus[0].checksum_form", "binary, hex"),
            ("checksum = \"xor\"\nchecksum_place = «\"before\"", "bus[0].checksum_place", "inside, behind"),
            ("retries = «1", "bus[0].retries", "belongs to Modbus"),
            ("echo = «true", "bus[0].echo", "belongs to RTU and ASCII"),
        ],
    );
}

#[test]
fn a_device_on_a_line_bus_says_what_is_wrong() {
    let ended = ended();
    let device = format!("{ended}[[device]]\nname = \"d\"\nbus = \"l\"\n");
    let spoken = format!("{device}send = \"x\"\n");
    assert_refused(
        &ended,
        &[
            (
                "«[[device]]\nname = \"d\"\nbus = \"l\"\nmatch = \"(?P<a>.)\"",
                "device[0].send",
                "what the device is asked",
            ),
            ("«[[device]]\nname = \"d\"\nbus = \"l\"\nsend = \"x\"", "device[0].match", "is missing"),
        ],
    );
    assert_refused(
        &spoken,
        &[
            ("match = «\"(?P<a\"", "device[0].match", "is no regular expression"),
            ("match = «\"abc\"", "device[0].match", "no named group"),
            ("match = «[]", "device[0].match", "1 ..= 32 patterns"),
            ("match = \"(?P<a>.)\"\nunit_id = «1", "device[0].unit_id", "belongs to Modbus"),
            (
                "match = \"(?P<a>.)\"\nstatus = { field = «\"b\" }",
                "device[0].status.field",
                "no pattern in `match` has a group of this name a",
            ),
        ],
    );
    assert_refused(
        &format!("{spoken}match = \"(?P<a>.)\"\n[[device.tag]]\nname = \"t\"\n"),
        &[
            ("field = «\"b\"", "device[0].tag[0].field", "no pattern in `match` has a group of this name a"),
            ("field = \"a\"\ntype = «\"int16\"", "device[0].tag[0].type", "float64"),
            ("field = \"a\"\naddress = «\"coil:1\"", "device[0].tag[0].address", "a `field` of a frame"),
            ("field = \"a\"\nnan = «[\"0\"]", "device[0].tag[0].nan", "a `field` of a frame"),
            ("field = \"a\"\nmap = «{ 0 = \"x\" }", "device[0].tag[0].map", "whole numbers and bits"),
            ("field = \"a\"\naccess = «\"read-write\"", "device[0].tag[0].access", "read-only"),
        ],
    );
    assert_refused(
        &format!("{ended}mode = \"listen\"\n[[device]]\nname = \"d\"\nbus = \"l\"\nmatch = \"(?P<a>.)\"\n"),
        &[("send = «\"x\"", "device[0].send", "its bus listens")],
    );
    assert_refused(BUS, &[("mode = «\"poll\"", "bus[1].mode", "belongs to a bus of type line")]);
    assert_refused(
        &format!("{BUS}{DEVICE}"),
        &[
            ("send = «\"x\"", "device[0].send", "on a bus of type line"),
            (
                "[[device.tag]]\nname = \"t\"\naddress = \"coil:1\"\nfield = «\"a\"",
                "device[0].tag[0].field",
                "on a bus of type line",
            ),
        ],
    );
}

#[test]
fn an_example_must_be_a_frame_that_a_pattern_fits_and_tags_can_read() {
    let bus = |keys: &str| {
        format!("{ON_TCP}frame_end = \"\\r\\n\"\n{keys}[[device]]\nname = \"d\"\nbus = \"l\"\nsend = \"x\"\n")
    };
    let weight = "match = 'S (?P<w>[-0-9.]+) g'\n";
    let tag = "\n[[device.tag]]\nname = \"t\"\nfield = \"w\"";
    let path = "device[0].example";
    let cases = [
        (format!("example = «\"S 1.2.3 g\"{tag}"), path, "`1.2.3` for the tag t is no float64"),
        (format!("example = «\"W 12 g\"{tag}"), path, "fits it"),
        (format!("example = [\"S 1 g\", «\"xS 1 g\"]{tag}"), path, "fits only `S 1 g`"),
        (format!("example = «\"S 1 g\\r\\nS 2 g\"{tag}"), path, "one of its marks"),
        (format!("example = «\"\"{tag}"), path, "says nothing"),
        (format!("example = «\"hex:0\"{tag}"), path, "no such bytes"),
        (format!("example = «[]{tag}"), path, "1 ..= 16 frames"),
    ];
    let cases: Vec<(&str, &str, &str)> =
        cases.iter().map(|(text, path, words)| (text.as_str(), *path, *words)).collect();
    assert_refused(&format!("{}{weight}", bus("")), &cases);
    let wrong = format!("example = «\"S 1 g*00\"{tag}");
    assert_refused(
        &format!("{}{weight}", bus("checksum = \"xor\"\n")),
        &[(&wrong, path, "its checksum is 00, and these bytes have")],
    );
    let right = format!("{}{weight}example = [\"S -1.5 g\", \"S 2 g\\r\\n\"]{tag}", bus(""));
    let plan = support::parse(&right).expect("right").plan;
    assert_eq!(plan.devices[0].talk.as_ref().expect("speaks").examples, [&b"S -1.5 g"[..], b"S 2 g"]);
    assert_refused(&format!("{BUS}{DEVICE}"), &[("example = «\"x\"", path, "on a bus of type line")]);
}
