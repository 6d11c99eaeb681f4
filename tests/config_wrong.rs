//! Wrong configurations by the dozen: each problem names its place. `«` marks where the place must be; the whole text
//! is right but for that.

use std::path::Path;

use ironbridge::config::{self, HostFacts, Problems};

const BUS: &str = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"plc\"\n\
                   [[bus]]\nname = \"line\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS9\"\nserial = \"9600-8N1\"\n";
const DEVICE: &str = "[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n";
const TAG: &str = "[[device.tag]]\nname = \"t\"\n";
const UPLINK: &str = "[[uplink]]\nname = \"u\"\n";

fn problems(text: &str) -> Problems {
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    match config::parse(text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts) {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(problems) => problems,
    }
}

/// Removes the mark and says where it was: line and column from 1.
fn marked(text: &str) -> (String, u32, u32) {
    let at = text.find('«').unwrap_or_else(|| panic!("no mark in:\n{text}"));
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (text.replacen('«', "", 1), line.try_into().unwrap(), column.try_into().unwrap())
}

/// One problem, at the mark, with this path and this in its message or allowed range.
fn assert_refused(prelude: &str, cases: &[(&str, &str, &str)]) {
    for (text, path, words) in cases {
        let (text, line, column) = marked(&format!("{prelude}{text}"));
        let problems = problems(&text);
        let [problem] = problems.iter().as_slice() else {
            panic!("expected one problem in\n{text}\nfound:\n{problems}");
        };
        let place = problem.place.as_ref().unwrap_or_else(|| panic!("no place: {problem}"));
        assert_eq!(
            (problem.path.as_str(), place.line, place.column),
            (*path, line, column),
            "\n{text}\nfound:\n{problem}"
        );
        assert_eq!(place.file, Path::new("/etc/ironbridge/ironbridge.toml"));
        let said = format!("{} {}", problem.message, problem.allowed.as_deref().unwrap_or(""));
        assert!(said.contains(words), "`{words}` is not in `{said}`");
    }
}

#[test]
fn the_gateway_and_the_store_say_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("«gatewai = 1", "gatewai", "did you mean `gateway`?"),
            ("gateway = «1", "gateway", "expected a table, found a whole number"),
            ("[gateway]\nname = «1", "gateway.name", "expected a text"),
            ("[gateway]\nname = «\"\"", "gateway.name", "must not be empty"),
            ("[gateway]\nname = «\"a/b\"", "gateway.name", "one level"),
            ("[gateway]\nname = «\"a+\"", "gateway.name", "one level"),
            ("[gateway]\nname = «\"a\\u0000b\"", "gateway.name", "NUL"),
            ("[gateway]\nname = «\"a\\nb\"", "gateway.name", "control"),
            ("[gateway]\nname = «\" a\"", "gateway.name", "blank"),
            ("[gateway]\nname = «\"{host}\"", "gateway.name", "only {hostname}"),
            ("[gateway]\ntopic = «\"{tagg}\"", "gateway.topic", "{tagg} is no name"),
            ("[gateway]\ntopic = «\"{tag\"", "gateway.topic", "brace"),
            ("[gateway]\ntopic = «\"tag}\"", "gateway.topic", "brace"),
            ("[gateway]\ntopic = «\"a/#/{tag}\"", "gateway.topic", "wildcards"),
            ("[gateway]\ntopic = «\"a/\\u0000/{tag}\"", "gateway.topic", "NUL"),
            ("[gateway]\ntopic = «\"a/\\u0007/{tag}\"", "gateway.topic", "control"),
            ("[gateway]\ntopic = «\"ironbridge/{tag}\"", "gateway.topic", "must not begin with"),
            ("[gateway]\ntopic = «\"$SYS/{tag}\"", "gateway.topic", "must not begin with"),
            ("[gateway]\ntopic = «\"{device}/{tag}/set\"", "gateway.topic", "must not end with `/set`"),
            ("[gateway]\ntopic = «\"\"", "gateway.topic", "must not be empty"),
            ("[gateway]\ndata_dir = «\"\"", "gateway.data_dir", "must be a path"),
            ("[gateway]\ndata_dir = «[]", "gateway.data_dir", "expected a text in quotes, found a list"),
            ("[gateway]\nname = \"a\"\n«nmae = \"b\"", "gateway.nmae", "did you mean `name`?"),
            ("[store]\nmax_size = «\"7MiB\"", "store.max_size", "8MiB ..= 16TiB"),
            ("[store]\nmax_size = «\"512\"", "store.max_size", "not a size"),
            ("[store]\nmax_size = «512", "store.max_size", "expected a text with its unit"),
            ("[store]\ncommit_interval = «\"50ms\"", "store.commit_interval", "100ms ..= 1m"),
            ("[store]\ncommit_interval = «\"2h\"", "store.commit_interval", "100ms ..= 1m"),
            ("[store]\ncommit_interval = «\"soon\"", "store.commit_interval", "not a duration"),
            ("[store]\n«max_age = \"30d\"", "store.max_age", "not in this version"),
            ("«status = { listen = \"127.0.0.1:8080\" }", "status", "not in this version"),
            ("[[«forward]]\nfilter = \"#\"", "forward", "not in this version"),
        ],
    );
}

#[test]
fn the_broker_says_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("[broker]\n«users_file = \"users\"", "broker.users_file", "not in this version"),
            ("[broker]\n«password = \"x\"", "broker.password", "secrets are never values"),
            ("[broker]\nlistener = «5", "broker.listener", "[[broker.listener]]"),
            ("«[[broker.listener]]\nanonymous = \"read\"", "broker.listener[0].listen", "is missing"),
            ("[[broker.listener]]\nlisten = «\"0.0.0.0:8883\"", "broker.listener[0].listen", "not in this version"),
            ("[[broker.listener]]\nlisten = «\"[::]:1883\"", "broker.listener[0].listen", "other machines can reach"),
            (
                "[[broker.listener]]\nlisten = «\"localhost:1883\"",
                "broker.listener[0].listen",
                "literal loopback address",
            ),
            ("[[broker.listener]]\nlisten = «\"127.0.0.1\"", "broker.listener[0].listen", "no address with a port"),
            ("[[broker.listener]]\nlisten = «\"unix:/run/x.sock\"", "broker.listener[0].listen", "not in this version"),
            ("[[broker.listener]]\nlisten = «1883", "broker.listener[0].listen", "expected a text"),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\nanonymous = «\"readwrite\"",
                "broker.listener[0].anonymous",
                "did you mean `read-write`?",
            ),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\n«websocket = true",
                "broker.listener[0].websocket",
                "not in this version",
            ),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\n«tls = {}",
                "broker.listener[0].tls",
                "not in this version",
            ),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\n[[broker.listener]]\nlisten = «\"127.0.0.1:1\"",
                "broker.listener[1].listen",
                "another listener",
            ),
            ("[[broker.acl]]\nuser = «\"hmi\"\nread = [\"#\"]", "broker.acl[0].user", "not in this version"),
            ("[[broker.acl]]\nuser = \"anonymous\"\n«operate = []", "broker.acl[0].operate", "not in this version"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"a/#/b\"]", "broker.acl[0].read", "# comes last"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [\"a\", «5]", "broker.acl[0].read", "expected a text"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nwrite = «\"a\"", "broker.acl[0].write", "expected a list of texts"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"$share/g/a\"]", "broker.acl[0].read", "without $share"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"\"]", "broker.acl[0].read", "must not be empty"),
            ("«[[broker.acl]]\nread = [\"#\"]", "broker.acl[0].user", "is missing"),
        ],
    );
}

#[test]
fn anonymous_access_off_loopback_is_refused_with_both_places() {
    let problems = problems("[[broker.listener]]\nlisten = \"192.168.0.7:1883\"\nanonymous = \"read\"");
    let [address, anonymous] = problems.iter().as_slice() else { panic!("{problems}") };
    assert!(address.message.contains("`tls` and a login"), "{address}");
    assert!(anonymous.message.contains("there is no switch"), "{anonymous}");
    assert_eq!(anonymous.also, address.place);
}

#[test]
fn an_uplink_says_what_is_wrong() {
    assert_refused(
        UPLINK,
        &[
            ("url = «\"http://x\"", "uplink[0].url", "mqtt://host[:1883] or mqtts://host[:8883]"),
            ("url = «\"broker:1883\"", "uplink[0].url", "does not begin with"),
            ("url = «\"ws://x\"", "uplink[0].url", "not in this version"),
            ("url = «\"mqtt://\"", "uplink[0].url", "the host is no name"),
            ("url = «\"mqtt://x:0\"", "uplink[0].url", "1 ..= 65535"),
            ("url = «\"mqtt://x:70000\"", "uplink[0].url", "1 ..= 65535"),
            ("url = «\"mqtt://x/path\"", "uplink[0].url", "the host is no name"),
            ("url = «\"mqtt://::1\"", "uplink[0].url", "brackets"),
            ("«urls = [\"mqtt://a\"]", "uplink[0].urls", "not in this version"),
        ],
    );
    let mqtt = format!("{UPLINK}url = \"mqtt://x\"\n");
    assert_refused(
        &mqtt,
        &[
            ("client_id = «\"\"", "uplink[0].client_id", "must not be empty"),
            ("client_id = «\"a\\u0001\"", "uplink[0].client_id", "no client id"),
            ("ca_file = «\"ca.pem\"", "uplink[0].ca_file", "mqtts://"),
            ("password_file = «\"p\"", "uplink[0].password_file", "`username`"),
            ("«password = \"hunter2\"", "uplink[0].password", "password_file"),
            ("format = «\"batch\"", "uplink[0].format", "not in this version"),
            ("format = «\"xml\"", "uplink[0].format", "unknown word"),
            ("layout = «\"device\"", "uplink[0].layout", "not in this version"),
            ("delivery = «\"live-first\"", "uplink[0].delivery", "not in this version"),
            ("preset = «\"aws\"", "uplink[0].preset", "not in this version"),
            ("commands = «true", "uplink[0].commands", "not in this version"),
            ("commands = «\"no\"", "uplink[0].commands", "true or false"),
            ("start = «\"newest\"", "uplink[0].start", "now, oldest"),
            ("keep_alive = «\"0s\"", "uplink[0].keep_alive", "1s ..= 18h"),
            ("keep_alive = «\"1d\"", "uplink[0].keep_alive", "1s ..= 18h"),
            ("topic_prefix = «\"a/+/\"", "uplink[0].topic_prefix", "wildcards"),
            ("classes = «[]", "uplink[0].classes", "carries nothing"),
            ("classes = [\"alarm\", «\"alarms\"]", "uplink[0].classes", "alarm, event, telemetry, bulk"),
            ("classes = [\"alarm\", «\"alarm\"]", "uplink[0].classes", "twice"),
            ("«max_rate = \"32KiB/s\"", "uplink[0].max_rate", "not in this version"),
            ("«budget = []", "uplink[0].budget", "not in this version"),
            ("«reserve = \"20%\"", "uplink[0].reserve", "not in this version"),
            ("«overrun = \"stop\"", "uplink[0].overrun", "not in this version"),
            ("[[uplink.«path]]\nname = \"cellular\"", "uplink[0].path", "not in this version"),
            ("[[uplink]]\nname = «\"u\"\nurl = \"mqtt://y\"", "uplink[1].name", "exists already"),
            ("«[[uplink]]\nurl = \"mqtt://y\"", "uplink[1].name", "is missing"),
            ("[[uplink]]\nname = \"v\"\nurl = «\"mqtt://x:1883\"", "uplink[1].client_id", "throw each other out"),
        ],
    );
    assert_refused(
        "",
        &[
            ("«[[uplink]]\nname = \"u\"", "uplink[0].url", "is missing"),
            ("«[[uplink]]\nname = \"u\"\nurl = \"mqtts://x\"", "uplink[0].ca_file", "is missing"),
            (
                "«[[uplink]]\nname = \"u\"\nurl = \"mqtts://x\"\nca_file = \"c\"\ncertificate = \"c\"",
                "uplink[0].key",
                "goes with `certificate`",
            ),
            (
                "«[[uplink]]\nname = \"u\"\nurl = \"mqtts://x\"\nca_file = \"c\"\nkey = \"c\"",
                "uplink[0].certificate",
                "goes with `key`",
            ),
        ],
    );
}

#[test]
fn secrets_in_the_wrong_place_are_not_repeated() {
    for text in ["url = \"mqtts://user:hunter2@host\"", "url = \"mqtt://x\"\npassword = \"hunter2\""] {
        let problems = problems(&format!("{UPLINK}{text}"));
        assert_eq!(problems.count(), 1);
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    }
}

#[test]
fn a_bus_says_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("«[bus]\nname = \"b\"", "bus", "write [[bus]]"),
            ("bus = [«1]", "bus[0]", "expected a table"),
            ("«[[bus]]\ntype = \"modbus-tcp\"\nendpoint = \"x\"", "bus[0].name", "is missing"),
            ("«[[bus]]\nname = \"b\"", "bus[0].type", "is missing"),
            ("[[bus]]\nname = \"b\"\ntype = «\"modbus-ascii\"", "bus[0].type", "not in this version"),
            ("[[bus]]\nname = \"b\"\ntype = «\"line\"", "bus[0].type", "not in this version"),
            ("[[bus]]\nname = \"b\"\ntype = «\"profibus\"", "bus[0].type", "modbus-tcp, modbus-rtu"),
            ("«[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"", "bus[0].endpoint", "is missing"),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"a b\"", "bus[0].endpoint", "no name"),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"a:b\"", "bus[0].endpoint", "1 ..= 65535"),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"[::1:5\"", "bus[0].endpoint", "not closed"),
        ],
    );
    assert_refused(
        BUS,
        &[
            ("response_timeout = «\"5ms\"", "bus[1].response_timeout", "10ms ..= 1m"),
            ("endpoint = «\"x\"", "bus[1].endpoint", "belongs to a modbus-tcp bus"),
            ("[[bus]]\nname = «\"b\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"", "bus[2].name", "exists already"),
            ("[[bus]]\nname = «\"x/y\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"", "bus[2].name", "one level"),
            (
                "[[bus]]\nname = \"c\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"\nport = «\"/dev/ttyS1\"",
                "bus[2].port",
                "belongs to a serial bus",
            ),
        ],
    );
    let rtu = "[[bus]]\nname = \"r\"\ntype = \"modbus-rtu\"\n";
    for (serial, words) in [
        ("9600", "no line settings"),
        ("9600-8", "no line settings"),
        ("9600-7E1", "8 data bits"),
        ("9600-8X1", "N, E or O"),
        ("9600-8N3", "1 or 2 stop bits"),
        ("100-8N1", "300 ..= 4000000"),
        ("+9600-8N1", "300 ..= 4000000"),
    ] {
        let text = format!("port = \"/dev/ttyS1\"\nserial = «\"{serial}\"");
        assert_refused(rtu, &[(&text, "bus[0].serial", words)]);
    }
    assert_refused(rtu, &[("port = «\"ttyS1\"\nserial = \"9600-8N1\"", "bus[0].port", "full path")]);
    assert_refused(
        BUS,
        &[(
            "[[bus]]\nname = \"r\"\ntype = \"modbus-rtu\"\nport = «\"/dev/ttyS9\"\nserial = \"9600-8N1\"",
            "bus[2].port",
            "another bus",
        )],
    );
    assert_refused(
        "",
        &[
            ("«[[bus]]\nname = \"r\"\ntype = \"modbus-rtu\"\nserial = \"9600-8N1\"", "bus[0].port", "is missing"),
            ("«[[bus]]\nname = \"r\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS1\"", "bus[0].serial", "is missing"),
        ],
    );
}

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
            ("[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «\"1\"", "device[0].unit_id", "a whole number"),
            ("[[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = «1.0", "device[0].unit_id", "a whole number"),
            ("[[device]]\nname = \"d\"\nbus = \"line\"\nunit_id = «0", "device[0].unit_id", "1 ..= 247"),
            ("[[device]]\nname = \"d\"\nbus = \"line\"\nunit_id = «248", "device[0].unit_id", "1 ..= 247"),
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
            ("max_registers_per_read = «126", "device[0].max_registers_per_read", "1 ..= 125"),
            ("max_registers_per_read = «0", "device[0].max_registers_per_read", "1 ..= 125"),
            ("delay_between_requests = «\"5m\"", "device[0].delay_between_requests", "0ms ..= 1m"),
            ("profile = «\"eastron\"", "device[0].profile", "carlo-gavazzi-em24, eastron-sdm630"),
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
fn a_tag_says_what_is_wrong() {
    let tag = format!("{BUS}{DEVICE}{TAG}");
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
        ("40101", "address_style = \"modicon\""),
        ("", "which table"),
    ] {
        let text = format!("address = «\"{address}\"\ntype = \"bool\"");
        assert_refused(&tag, &[(&text, "device[0].tag[0].address", words)]);
    }
    assert_refused(
        &tag,
        &[
            ("address = «100\ntype = \"bool\"", "device[0].tag[0].address", "which table"),
            ("address = «true\ntype = \"bool\"", "device[0].tag[0].address", "found true or false"),
            ("address = «\"input:65535\"\ntype = \"float32\"", "device[0].tag[0].address", "beyond register 65535"),
            ("address = \"input:1\"\ntype = «\"flaot32\"", "device[0].tag[0].type", "did you mean `float32`?"),
            ("address = \"input:1\"\ntype = «\"float16\"", "device[0].tag[0].type", "not in this version"),
            ("address = \"input:1\"\ntype = «\"bytes(4)\"", "device[0].tag[0].type", "not in this version"),
            ("address = \"input:1\"\ntype = «\"string(0)\"", "device[0].tag[0].type", "1 ..= 250"),
            ("address = \"input:1\"\ntype = «\"string(251)\"", "device[0].tag[0].type", "1 ..= 250"),
            ("address = \"coil:1\"\ntype = «\"int16\"", "device[0].tag[0].type", "always a bool"),
            ("address = \"holding:1.5\"\ntype = «\"int16\"", "device[0].tag[0].type", "always a bool"),
            ("address = \"input:1\"\ntype = «7", "device[0].tag[0].type", "expected a text"),
            ("address = \"coil:1\"\norder = «\"ACBD\"", "device[0].tag[0].order", "ABCD, CDAB, BADC, DCBA"),
            ("address = \"coil:1\"\nclass = «\"urgent\"", "device[0].tag[0].class", "alarm, event, telemetry, bulk"),
            ("address = \"coil:1\"\naccess = «\"rw\"", "device[0].tag[0].access", "read, read-write, write"),
            ("address = \"discrete:1\"\naccess = «\"write\"", "device[0].tag[0].access", "can only be read"),
            ("address = \"coil:1\"\npoll = «\"1\"", "device[0].tag[0].poll", "not a duration"),
            ("address = \"coil:1\"\nheartbeat = «\"1ms\"", "device[0].tag[0].heartbeat", "1s ..= 30d"),
            ("address = \"coil:1\"\nscale = «2", "device[0].tag[0].scale", "that is for numbers"),
            ("address = \"coil:1\"\nmin = «2", "device[0].tag[0].min", "that is for numbers"),
            ("address = \"coil:1\"\n«alarm = { high = 1 }", "device[0].tag[0].alarm", "not in this version"),
            ("address = \"coil:1\"\nwrite = «{ verify = true }", "device[0].tag[0].write", "read only"),
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
            ("deadband = «\"1%\"", "device[0].tag[0].deadband", "not in this version"),
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
fn all_syntax_errors_have_their_place() {
    assert_refused(
        "",
        &[
            ("[gateway]\nname = «box", "", "this is not TOML"),
            ("[gateway]\nname = \"a\"\n«name = \"b\"", "", "duplicate key"),
        ],
    );
    let problems = problems("a = \nb = \"x\n[gateway\n");
    assert!(problems.count() >= 2, "{problems}");
    assert!(problems.iter().all(|problem| problem.place.is_some()));
}

#[test]
fn a_wide_line_is_pointed_at_in_characters() {
    assert_refused("", &[("gateway = { name = \"é\", gr«ün = 1 }", "", "this is not TOML")]);
    assert_refused("", &[("[gateway]\n# ünïcödé\ndata_dir = \"/é\"\n«\"grün\" = 1", "gateway.grün", "unknown key")]);
}

#[test]
fn the_text_shows_line_caret_value_range_and_path() {
    let text = format!("{BUS}{DEVICE}{TAG}address = \"holding:65536\"\ntype = \"int16\"\n");
    let shown = problems(&text).to_string();
    let expected = "\
error: `device[0].tag[0].address`: out of range
  --> /etc/ironbridge/ironbridge.toml:16:11
   |
16 | address = \"holding:65536\"
   |           ^^^^^^^^^^^^^^^
   = value: \"holding:65536\"
   = allowed: holding: input: coil: or discrete: and 0 ..= 65535 (or 0x0 ..= 0xFFFF); a bit as \"holding:7.3\"

1 problem in the configuration";
    assert_eq!(shown, expected);
}

#[test]
fn everything_wrong_is_said_at_once_and_in_order() {
    let text = format!(
        "[store]\nmax_size = 1\nmax_age = \"1d\"\n{BUS}poll = 1\n{DEVICE}poll = 1\n{TAG}address = \"x\"\nscale = \"y\"\n"
    );
    let problems = problems(&text);
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "store.max_size",
            "store.max_age",
            "bus[1].poll",
            "device[0].poll",
            "device[0].tag[0].address",
            "device[0].tag[0].scale"
        ]
    );
}
