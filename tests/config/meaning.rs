//! What right configurations mean: from text to plan.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ironbridge::config::plan::{
    Anonymous, Bind, BrokerLimits, Budget, BusLink, Carrier, ClientCertificate, Delivery, Downlink, Echo, Format,
    Framing, Level, MqttVersion, Network, Overrun, Parity, Period, Plan, Preset, ProxyKind, Rate, Schedule, SerialPlan,
    Verify,
};
use ironbridge::model::certificate::NameFrom;
use ironbridge::model::number::Class;
use ironbridge::model::tag::{Access, DataType, Order};

use crate::support;

use support::{BUS, DEVICE, TAG, UPLINK, parse};

fn plan(text: &str) -> Plan {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).plan
}

#[test]
fn a_full_site_parses() {
    plan(include_str!("../support/full_site.toml"));
}

#[test]
fn the_status_page_is_on_loopback_until_it_is_moved_or_switched_off() {
    let tag = format!("{TAG}address = \"coil:0\"\n");
    let page = |text: &str| plan(&format!("{BUS}{DEVICE}{tag}{text}")).status;
    let standard = page("").expect("without a word");
    assert_eq!(standard.to_string(), "http://127.0.0.1:8080");
    assert_eq!(standard.anonymous, Anonymous::Read);
    assert_eq!(standard.hosts, ["box-7.local", "box-7"]);
    let named = page("[status]\nlisten = \"[::1]:9\"\nhosts = [\"Gateway.example\"]\n").expect("there is one");
    assert_eq!(named.to_string(), "http://[::1]:9");
    assert_eq!(named.anonymous, Anonymous::Read, "nobody could log in");
    assert_eq!(named.hosts, ["box-7.local", "box-7", "gateway.example"]);
    let far = "[broker]\nusers_file = \"users\"\n[status]\nlisten = \"0.0.0.0:8443\"\ntls = { certificate = \"a\", key = \"b\" }\n";
    assert_eq!(page(far).expect("with a login").to_string(), "https://0.0.0.0:8443");
    assert_eq!(page("[status]\nlisten = \"off\"\n"), None);
}

#[test]
fn doors_and_page_are_on_loopback_until_they_are_moved() {
    let plan = plan(&format!("{BUS}{DEVICE}{TAG}address = \"coil:0\"\n"));
    let doors: Vec<_> = plan.broker.listeners.iter().map(|door| door.listen.to_string()).collect();
    assert_eq!(doors, ["127.0.0.1:1883"]);
    assert!(plan.status.expect("there is a page").listen.ip().is_loopback());
}

#[test]
fn a_page_on_loopback_is_for_everybody_here_where_nobody_can_log_in() {
    let anonymous = |text: &str| plan(text).status.expect("there is a page").anonymous;
    let page = "[status]\nlisten = \"127.0.0.1:8081\"\n";
    assert_eq!(anonymous(&format!("{page}anonymous = \"none\"\n")), Anonymous::None);
    for page in [page, "[status]\n", ""] {
        assert_eq!(anonymous(page), Anonymous::Read, "{page}");
        assert_eq!(anonymous(&format!("{page}[broker]\nusers_file = \"users\"\n")), Anonymous::None, "{page}");
    }
}

#[test]
fn doors_are_as_written() {
    let text = "[broker]\nusers_file = \"users\"\nmax_connections = 10\nmax_connections_per_address = 3\n\
        max_connect_rate = 20\nmax_connect_rate_per_address = 2\nmax_packet_size = \"64KiB\"\nmax_inflight = 20\n\
        max_queued_size = \"2MiB\"\nmax_subscriptions = 100\nmax_payload_size = \"3B\"\nretain_available = false\n\
        check_retain_source = false\n\
        [[broker.listener]]\nlisten = \"[::]:8883\"\ninterface = \"eth0\"\nidentity = \"san-uri\"\nmax_qos = 0\nrequire_client_id = true\n\
        tls = { certificate = \"tls/server.crt\", key = \"$CREDENTIALS_DIRECTORY/server.key\", client_ca = \"/ca.pem\", client_certificate = \"optional\" }\n\
        [[broker.listener]]\nlisten = \"127.0.0.1:9001\"\nwebsocket = true\norigins = [\"https://a.example:8443\", \"null\"]\n\
        [[broker.listener]]\nlisten = \"unix:mqtt.sock\"\nwebsocket = false\n\
        [[broker.listener]]\nlisten = \"127.0.0.1:0\"\nanonymous = \"acl\"\ntls = { certificate = \"a\", key = \"b\" }\n";
    let plan = plan(text).broker;
    let shown: Vec<String> = plan.listeners.iter().map(ToString::to_string).collect();
    let expected =
        ["mqtts://[::]:8883", "ws://127.0.0.1:9001", "mqtt+unix:/etc/ironbridge/mqtt.sock", "mqtts://127.0.0.1:0"];
    assert_eq!(shown, expected);
    let tls = plan.listeners[0].tls.as_ref().expect("TLS");
    assert_eq!(tls.certificate.as_os_str(), "/etc/ironbridge/tls/server.crt");
    assert_eq!(tls.key.as_os_str(), "/run/credentials/ironbridge.service/server.key");
    assert_eq!(
        (tls.client_ca.as_deref(), tls.client_certificate),
        (Some("/ca.pem".as_ref()), ClientCertificate::Optional)
    );
    assert_eq!((plan.listeners[0].identity, plan.listeners[0].interface.as_deref()), (NameFrom::Uri, Some("eth0")));
    assert_eq!(plan.listeners[0].anonymous, Anonymous::None);
    assert_eq!(plan.listeners[1].websocket.as_ref().expect("websocket").origins, ["https://a.example:8443", "null"]);
    let terms: Vec<_> = plan.listeners.iter().map(|door| (door.max_qos, door.require_client_id)).collect();
    assert_eq!(terms, [(0, true), (2, false), (2, false), (2, false)]);
    assert_eq!((&plan.listeners[2].websocket, plan.listeners[3].anonymous), (&None, Anonymous::Acl));
    let limits = BrokerLimits {
        connections: 10,
        per_address: 3,
        rate: Rate(20),
        rate_per_address: Rate(2),
        packet_bytes: 64 << 10,
        payload_bytes: 3,
        retain_available: false,
        check_retain_source: false,
        inflight: 20,
        queued_bytes: 2 << 20,
        subscriptions: 100,
        keep_alive_max: None,
    };
    assert_eq!(plan.limits, limits);
}

#[test]
fn every_style_of_address_means_the_same_register() {
    let cases = [
        ("zero-based", "\"holding:100\"", "holding:100"),
        ("zero-based", "\"holding:0x64\"", "holding:100"),
        ("zero-based", "\"holding:40001\"", "holding:40001"),
        ("zero-based", "\"holding:65535\"", "holding:65535"),
        ("zero-based", "\"input:7.15\"", "input:7.15"),
        ("one-based", "\"holding:101\"", "holding:100"),
        ("one-based", "\"discrete:65536\"", "discrete:65535"),
        ("one-based", "\"holding:0x65\"", "holding:100"),
        ("modicon", "\"40101\"", "holding:100"),
        ("modicon", "40101", "holding:100"),
        ("modicon", "400101", "holding:100"),
        ("modicon", "\"300001\"", "input:0"),
        ("modicon", "\"00001\"", "coil:0"),
        ("modicon", "\"165536\"", "discrete:65535"),
        ("modicon", "\"40008.3\"", "holding:7.3"),
    ];
    for (style, address, expected) in cases {
        let text = format!("{BUS}{DEVICE}address_style = \"{style}\"\n{TAG}address = {address}\ntype = \"bool\"\n");
        assert_eq!(plan(&text).tags[0].register().expect("polled").to_string(), expected, "{style} {address}");
    }
}

#[test]
fn a_sunspec_place_means_the_same_in_every_style() {
    for style in ["zero-based", "one-based", "modicon"] {
        for (address, expected) in [
            ("sunspec:103:14", "sunspec:103:14"),
            ("sunspec:103#1:0x0E", "sunspec:103:14"),
            ("sunspec:101|102|103:0", "sunspec:101|102|103:0"),
            ("sunspec:160#2:10.3", "sunspec:160#2:10.3"),
        ] {
            let text =
                format!("{BUS}{DEVICE}address_style = \"{style}\"\n{TAG}address = \"{address}\"\ntype = \"bool\"\n");
            let plan = plan(&text);
            assert_eq!(plan.tags[0].address_text().as_deref(), Some(expected), "{style}");
            assert_eq!(plan.tags[0].register(), None, "it is on no fixed register");
        }
    }
}

#[test]
fn both_forms_of_an_address_are_told() {
    let plan = plan(&format!("{BUS}{DEVICE}{TAG}address = \"input:7.3\"\n"));
    assert_eq!(ironbridge::config::modicon(plan.tags[0].register().expect("polled")), "300008.3");
}

#[test]
fn every_landed_type_and_order_is_known_by_its_name() {
    let types = ["bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string(7)"];
    for name in types {
        let text = format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\ntype = \"{name}\"\n");
        assert_eq!(plan(&text).tags[0].data_type.to_string(), name);
    }
    for order in [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba] {
        let word = order.as_str();
        let text = format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\ntype = \"int16\"\norder = \"{word}\"\n");
        assert_eq!(plan(&text).tags[0].order, order);
    }
    for bit in ["coil:1", "discrete:1", "holding:1.0"] {
        assert_eq!(plan(&format!("{BUS}{DEVICE}{TAG}address = \"{bit}\"\n")).tags[0].data_type, DataType::Bool);
    }
}

#[test]
fn a_tag_takes_all_its_keys() {
    let text = format!(
        "{BUS}{DEVICE}poll = \"2s\"\n{TAG}address = \"holding:1\"\ntype = \"uint32\"\nscale = 0.1\noffset = -3\n\
         unit = \"bar\"\ngroup = \"g\"\npoll = \"500ms\"\ndeadband = 1\nheartbeat = \"1h\"\nmin = 0\nmax = 16.5\n\
         class = \"bulk\"\naccess = \"write\"\nwrite = {{ min = 1, max = 2, verify = true }}\ndescription = \"x\"\n\
         [[device.tag]]\nname = \"plain\"\naddress = \"holding:3\"\ntype = \"int16\"\ndeadband = 0.5\n\
         [[device.tag]]\nname = \"quiet\"\naddress = \"coil:3\"\naccess = \"read-write\"\nheartbeat = \"10s\"\n"
    );
    let plan = plan(&text);
    let [full, bare, quiet] = plan.tags.as_slice() else { panic!("three tags") };
    assert_eq!(
        (full.scale.factor, full.scale.offset, full.unit.as_str(), full.group.as_str()),
        (0.1, -3.0, "bar", "g")
    );
    assert_eq!((full.poll, full.heartbeat), (Duration::from_millis(500), Some(Duration::from_secs(3600))));
    assert_eq!((full.deadband, full.limits.min, full.limits.max), (Some(1.0), Some(0.0), Some(16.5)));
    assert_eq!((full.class, full.access, full.write.verify), (Class::Bulk, Access::Write, Verify::ReadBack));
    assert_eq!((full.write.limits.min, full.write.limits.max), (Some(1.0), Some(2.0)));
    assert_eq!((bare.poll, bare.heartbeat), (Duration::from_secs(2), Some(Duration::from_secs(300))));
    assert_eq!((bare.class, bare.access, bare.write.verify), (Class::Telemetry, Access::Read, Verify::ReadBack));
    assert_eq!(
        (quiet.deadband, quiet.heartbeat, quiet.write.verify),
        (None, Some(Duration::from_secs(10)), Verify::ReadBack)
    );
    assert_eq!(plan.devices[0].tags, 0..3);
}

#[test]
fn topics_are_built_from_every_name() {
    let text = format!(
        "[gateway]\nname = \"gw-{{hostname}}\"\ntopic = \"é/{{bus}}/{{gateway}}/{{group}}/{{device}}/{{tag}}\"\n\
         {BUS}{DEVICE}{TAG}address = \"coil:1\"\ngroup = \"{{x}}\"\n"
    );
    assert_eq!(&*plan(&text).tags[0].topic, "é/b/gw-box-7/{x}/d/t");
    assert_eq!(&*plan(&format!("{BUS}{DEVICE}{TAG}address = \"coil:1\"\n")).tags[0].topic, "box-7/d/t");
}

#[test]
fn buses_are_reached_as_written() {
    for (endpoint, expected) in [("plc", "plc:502"), ("10.0.0.1:1502", "10.0.0.1:1502"), ("[fe80::1]", "[fe80::1]:502")]
    {
        let text = format!("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = \"{endpoint}\"\n");
        assert_eq!(plan(&text).buses[0].link, BusLink::tcp(expected));
    }
    let serial = |baud, parity, stop_bits| SerialPlan { baud, data_bits: 8, parity, stop_bits };
    for (text, expected) in [
        ("19200-8E1", serial(19_200, Parity::Even, 1)),
        ("115200-8N2", serial(115_200, Parity::None, 2)),
        ("9600-8O1", serial(9600, Parity::Odd, 1)),
    ] {
        let text = format!("[[bus]]\nname = \"b\"\ntype = \"modbus-rtu\"\nport = \"/dev/x\"\nserial = \"{text}\"\n");
        assert_eq!(plan(&text).buses[0].link, BusLink::rtu("/dev/x", expected));
    }
}

#[test]
fn every_type_of_bus_is_a_framing_on_a_carrier() {
    let bus = |kind: &str, keys: &str| {
        let plan = plan(&format!("[[bus]]\nname = \"b\"\ntype = \"{kind}\"\n{keys}"));
        let link = plan.buses[0].link.clone();
        assert_eq!(link.kind(), kind);
        link
    };
    let endpoint = |port: u16| format!("plc:{port}");
    for (kind, framing) in [("modbus-udp", Framing::Mbap), ("modbus-rtu-over-udp", Framing::Rtu)] {
        let udp = BusLink::new(framing, Carrier::Udp { endpoint: endpoint(502) });
        assert_eq!(bus(kind, "endpoint = \"plc\""), udp);
    }
    for (kind, framing) in [("modbus-rtu-over-tcp", Framing::Rtu), ("modbus-ascii-over-tcp", Framing::Ascii)] {
        let tcp = BusLink::new(framing, Carrier::Tcp { endpoint: endpoint(4001) });
        assert_eq!(bus(kind, "endpoint = \"plc:4001\""), tcp);
    }
    let ascii = bus("modbus-ascii", "port = \"/dev/x\"\nserial = \"9600-7E1\"\necho = true\nrs485 = true");
    let Carrier::Serial(port) = &ascii.carrier else { panic!("{ascii:?}") };
    assert_eq!((ascii.framing, ascii.echo, port.line.data_bits), (Framing::Ascii, Echo::Yes, 7));
    assert!(port.rs485.is_some_and(|mode| mode.rts_on_send == Level::High && mode.delay_after_send.is_zero()));
    let tls = bus("modbus-tls", "endpoint = \"plc\"\nca_file = \"ca\"\ncertificate = \"c\"\nkey = \"/k\"");
    let Carrier::Tls(tls) = &tls.carrier else { panic!("{tls:?}") };
    assert_eq!((tls.endpoint.as_str(), tls.server_name.as_str(), tls.key.to_str()), ("plc:802", "plc", Some("/k")));
    assert!(tls.ca_file.is_absolute(), "beside the file that names it");
}

#[test]
fn several_buses_may_have_an_endpoint_where_none_can_take_the_answers_of_another() {
    let pairs = [
        ("modbus-tcp", "endpoint = \"plc\""), // each answer has the number of its question
        ("line", "endpoint = \"moxa\"\nmode = \"listen\"\nframe_end = \"\\r\""), // nobody asks
    ];
    for (kind, keys) in pairs {
        let bus = |name: &str| format!("[[bus]]\nname = \"{name}\"\ntype = \"{kind}\"\n{keys}\n");
        assert_eq!(plan(&format!("{}{}", bus("a"), bus("b"))).buses.len(), 2);
    }
}

#[test]
fn a_bus_is_dialled_from_allowed_addresses_only() {
    let text = "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nlisten = \"[::]:5020\"\n\
                allow = [\"10.0.0.0/8\", \"192.168.7.20\", \"fd00::/8\", \"172.16.0.0/12\"]\n";
    let link = plan(text).buses[0].link.clone();
    let Carrier::Listen { listen, allow } = link.carrier else { panic!("{link:?}") };
    assert_eq!(listen.port(), 5020);
    let may = |from: &str| allow.iter().any(|network| network.has(from.parse().expect("an address")));
    assert!(may("10.255.0.1") && may("192.168.7.20") && may("fd12::1") && may("172.31.0.1"));
    assert!(!may("11.0.0.1") && !may("192.168.7.21") && !may("fe80::1") && !may("172.32.0.1") && !may("::a00:1"));
    assert!(Network { address: [1, 2, 3, 4].into(), prefix: 0 }.has([9, 9, 9, 9].into()));
}

#[test]
fn uplinks_are_reached_as_written() {
    for (url, host, port, tls) in [
        ("mqtt://broker", "broker", 1883, false),
        ("mqtt://10.0.0.1:18830/", "10.0.0.1", 18_830, false),
        ("mqtts://broker.example.com", "broker.example.com", 8883, true),
        ("mqtts://[::1]:99", "::1", 99, true),
    ] {
        let ca = if tls { "ca_file = \"/ca\"\n" } else { "" };
        let plan = plan(&format!("{UPLINK}url = \"{url}\"\n{ca}"));
        let uplink = &plan.uplinks[0];
        let server = &uplink.servers[0];
        assert_eq!((server.host.as_str(), server.port, uplink.tls.is_some()), (host, port, tls), "{url}");
        assert_eq!(uplink.classes, Class::ALL);
    }
}

#[test]
fn listeners_are_silent_to_strangers_unless_told_otherwise() {
    let plan = plan(
        "[[broker.listener]]\nlisten = \"127.0.0.1:0\"\n[[broker.listener]]\nlisten = \"127.0.0.1:0\"\n[[broker.listener]]\nlisten = \"[::1]:1883\"\nanonymous = \"read-write\"\n",
    );
    let found: Vec<_> = plan.broker.listeners.iter().map(|listener| listener.anonymous).collect();
    assert_eq!(found, [Anonymous::None, Anonymous::None, Anonymous::ReadWrite]);
}

#[test]
fn ten_thousand_tags_are_read_in_a_moment() {
    let mut text = BUS.to_owned();
    for device in 0..10 {
        writeln!(text, "[[device]]\nname = \"d{device}\"\nbus = \"b\"\nunit_id = {device}").expect("a String takes it");
        for tag in 0..1000 {
            let rest =
                "type = \"float32\"\norder = \"CDAB\"\nscale = 0.1\nunit = \"bar\"\ngroup = \"g\"\ndeadband = 0.5";
            let address = tag * 2;
            writeln!(text, "[[device.tag]]\nname = \"t{tag}\"\naddress = \"holding:{address}\"\n{rest}")
                .expect("a String takes it");
        }
    }
    let begun = Instant::now();
    assert_eq!(plan(&text).tags.len(), 10_000);
    // About 90 ms on an idle machine; anything quadratic takes minutes.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn servers_paths_budgets_and_formats_are_taken_as_written() {
    let text = format!(
        "{UPLINK}urls = [\"mqtts://a\", \"wss://b/path?x=1\", \"ws://c:8080\", \"mqtt://[::1]\"]\nca_file = \"ca.pem\"\n\
         format = \"batch\"\nbatch_interval = \"10s\"\ndelivery = \"live-first\"\nmax_rate = \"32KiB/s\"\n\
         budget = [\"200MiB/month\", \"20 MiB / day\"]\nreserve = \"12.5%\"\noverrun = \"alarms\"\npreset = \"aws\"\n\
         mqtt_version = \"5\"\ncommands = true\nsummary_after = \"2h\"\nproxy = \"socks5://p\"\nclasses = [\"alarm\", \"bulk\"]\n\
         [[uplink.path]]\nname = \"wan\"\nsource = \"10.0.0.7\"\n[[uplink.path]]\nname = \"sat\"\ninterface = \"sat0\"\n\
         classes = [\"alarm\"]\nbudget = [\"1MiB/day\"]\nmax_rate = \"1KiB/s\"\nschedule = \"*/15min for 2min\"\nprice = \"3/MiB\"\n"
    );
    let uplink = plan(&text).uplinks.remove(0);
    let servers: Vec<String> = uplink.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["mqtts://a:8883", "wss://b:443/path?x=1", "ws://c:8080/mqtt", "mqtt://[::1]:1883"]);
    assert_eq!((uplink.format, uplink.batch_samples), (Format::Batch, 10_000));
    assert_eq!((uplink.batch_interval, uplink.delivery), (Duration::from_secs(10), Delivery::LiveFirst));
    let month = Budget { bytes: 200 << 20, period: Period::Month };
    assert_eq!(uplink.budgets, [month, Budget { bytes: 20 << 20, period: Period::Day }]);
    assert_eq!((uplink.max_rate, uplink.reserve, uplink.overrun), (Some(32 << 10), 0.125, Overrun::Alarms));
    assert_eq!((uplink.preset, uplink.mqtt_version), (Preset::Aws, MqttVersion::V5));
    assert_eq!((uplink.commands, uplink.summary_after), (Downlink::Accepted, Some(Duration::from_secs(7200))));
    let proxy = uplink.proxy.expect("a proxy");
    assert_eq!((proxy.kind, proxy.host.as_str(), proxy.port), (ProxyKind::Socks5, "p", 1080));
    let [wan, sat] = uplink.paths.as_slice() else { panic!("two paths") };
    assert_eq!((&wan.bind, &wan.classes), (&Bind::Source([10, 0, 0, 7].into()), &uplink.classes));
    assert_eq!((&sat.bind, sat.max_rate), (&Bind::Interface("sat0".into()), Some(1024)));
    assert_eq!((sat.classes.as_slice(), sat.price_per_mib), ([Class::Alarm].as_slice(), Some(3.0)));
    let schedule = Schedule { every: Duration::from_secs(900), lasts: Duration::from_secs(120) };
    assert_eq!((sat.schedule, sat.budgets.len()), (Some(schedule), 1));
}
