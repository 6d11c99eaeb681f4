//! Wrong configurations by the dozen: the gateway, the broker, uplinks, buses, and how problems are shown.

use std::path::Path;

use ironbridge::config::{self, HostFacts};

use crate::support;

use support::{BUS, DEVICE, TAG, UPLINK, assert_refused, problems};

#[test]
fn the_gateway_and_the_store_say_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("«gatewai = 1", "gatewai", "did you mean `gateway`?"),
            ("gateway = «1", "gateway", "expected a table, found a whole number"),
            ("[gateway]\nname = «1", "gateway.name", "expected a text"),
            ("[gateway]\nname = «\"\"", "gateway.name", "must not be empty"),
            (
                "[gateway]\ntime_source = «\"ntp\"",
                "gateway.time_source",
                "\"auto\", \"system\" or \"file:/absolute/path\"",
            ),
            ("[gateway]\ntime_source = «\"file:locked\"", "gateway.time_source", "file:/absolute/path"),
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
            ("[store]\nmax_age = «\"30m\"", "store.max_age", "1h ..= 3650d"),
            ("[broker]\nsession_max_size = «\"1KiB\"", "broker.session_max_size", "64KiB ..= 1GiB"),
            ("[broker]\nsessions_max_size = «\"8GiB\"", "broker.sessions_max_size", "64KiB ..= 4GiB"),
            ("[broker]\nmax_sessions = «0", "broker.max_sessions", "1 ..= 10000"),
            ("[broker]\nsession_expiry_max = «\"1s\"", "broker.session_expiry_max", "1m ..= 3650d"),
            ("[broker]\nmax_connections = «0", "broker.max_connections", "1 ..= 65535"),
            ("[broker]\nmax_connections_per_address = «70000", "broker.max_connections_per_address", "1 ..= 65535"),
            ("[broker]\nmax_connect_rate = «\"5/s\"", "broker.max_connect_rate", "a whole number"),
            ("[broker]\nmax_connect_rate_per_address = «0", "broker.max_connect_rate_per_address", "1 ..= 65535"),
            ("[broker]\nmax_packet_size = «\"256MiB\"", "broker.max_packet_size", "20B ..= 1MiB"),
            ("[broker]\nmax_packet_size = «\"19B\"", "broker.max_packet_size", "20B ..= 1MiB"),
            ("[broker]\nmax_payload_size = «\"2MiB\"", "broker.max_payload_size", "1B ..= 1MiB"),
            ("[broker]\nretain_available = «0", "broker.retain_available", "true or false"),
            ("[broker]\ncheck_retain_source = «\"yes\"", "broker.check_retain_source", "true or false"),
            ("[[broker.listener]]\nlisten = \"127.0.0.1:1\"\nmax_qos = «3", "broker.listener[0].max_qos", "0 ..= 2"),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\nrequire_client_id = «1",
                "broker.listener[0].require_client_id",
                "true or false",
            ),
            ("[broker]\nmax_inflight = «257", "broker.max_inflight", "1 ..= 256"),
            ("[broker]\nmax_queued_size = «\"1KiB\"", "broker.max_queued_size", "64KiB ..= 16MiB"),
            ("[broker]\nmax_subscriptions = «0", "broker.max_subscriptions", "1 ..= 50000"),
        ],
    );
}

#[test]
fn the_status_page_says_what_is_wrong() {
    let far = "[broker]\nusers_file = \"users\"\n[status]\nlisten = \"0.0.0.0:8443\"\n";
    assert_refused(
        "",
        &[
            ("[status]\nlisten = «\"localhost:8080\"", "status.listen", "literal address and a port"),
            ("[status]\nlisten = «\"unix:/run/page\"", "status.listen", "no address with a port"),
            ("[status]\nlisten = «\"0.0.0.0:8080\"", "status.listen", "needs `tls` and a login"),
            (
                "[status]\nlisten = «\"0.0.0.0:8080\"\ntls = { certificate = \"a\", key = \"b\" }",
                "status.listen",
                "nobody could log in here",
            ),
            (
                &format!("{far}tls = {{ certificate = \"a\", key = \"b\" }}\nanonymous = «\"read\""),
                "status.anonymous",
                "on loopback only",
            ),
            (&format!("{far}tls = «{{ certificate = \"a\" }}"), "status.tls.key", "is missing"),
            ("[status]\nanonymous = «\"all\"", "status.anonymous", "read-write"),
            ("[status]\nhosts = [«\"https://box\"]", "status.hosts", "no name of a host"),
            ("[status]\nlisten = «\"127.0.0.1:1883\"", "status.listen", "a listener of the broker"),
            ("[status]\n«port = 8080", "status.port", "unknown key"),
        ],
    );
}

#[test]
fn the_broker_says_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("[broker]\nusers_file = «\"\"", "broker.users_file", "must be a path"),
            ("[broker]\n«password = \"x\"", "broker.password", "secrets are never values"),
            ("[broker]\nlistener = «5", "broker.listener", "[[broker.listener]]"),
            ("«[[broker.listener]]\nanonymous = \"read\"", "broker.listener[0].listen", "is missing"),
            (
                "[[broker.listener]]\nlisten = «\"localhost:1883\"",
                "broker.listener[0].listen",
                "literal address and a port",
            ),
            ("[[broker.listener]]\nlisten = «\"127.0.0.1\"", "broker.listener[0].listen", "no address with a port"),
            ("[[broker.listener]]\nlisten = «1883", "broker.listener[0].listen", "expected a text"),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\nanonymous = «\"readwrite\"",
                "broker.listener[0].anonymous",
                "did you mean `read-write`?",
            ),
            (
                "[[broker.listener]]\nlisten = \"127.0.0.1:1\"\n[[broker.listener]]\nlisten = «\"127.0.0.1:1\"",
                "broker.listener[1].listen",
                "another listener",
            ),
            ("[[broker.acl]]\nuser = «\"hmi\"\nread = [\"#\"]", "broker.acl[0].user", "there is no `users_file`"),
            ("[[broker.acl]]\nuser = «\"cert:\"", "broker.acl[0].user", "names no certificate"),
            (
                "[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"a/%u\"]",
                "broker.acl[0].read",
                "an anonymous one has none",
            ),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"a/#/b\"]", "broker.acl[0].read", "# comes last"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [\"a\", «5]", "broker.acl[0].read", "expected a text"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nwrite = «\"a\"", "broker.acl[0].write", "expected a list of texts"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"$share/g/a\"]", "broker.acl[0].read", "without $share"),
            ("[[broker.acl]]\nuser = \"anonymous\"\nread = [«\"\"]", "broker.acl[0].read", "must not be empty"),
            ("«[[broker.acl]]\nread = [\"#\"]", "broker.acl[0].user", "is missing"),
            (
                "[[broker.acl]]\nuser = \"anonymous\"\noperate = [\"*\", «\"pump-1\"]",
                "broker.acl[0].operate",
                "no device of this name",
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
    for key in ["sas_key", "proxy_password"] {
        let problems = problems(&format!("{UPLINK}url = \"mqtt://x\"\n{key} = \"hunter2\""));
        assert_eq!(problems.count(), 1);
        let shown = format!("{problems} {problems:?}");
        assert!(!shown.contains("hunter2") && shown.contains(&format!("name that in `{key}_file`")), "{problems}");
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
            ("[[bus]]\nname = \"b\"\ntype = «\"lines\"", "bus[0].type", "did you mean `line`?"),
            ("[[bus]]\nname = \"b\"\ntype = «\"profibus\"", "bus[0].type", "modbus-tcp, modbus-rtu"),
            ("«[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"", "bus[0].endpoint", "is missing"),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"a b\"", "bus[0].endpoint", "no name"),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"a:b\"", "bus[0].endpoint", "1 ..= 65535"),
            (
                "[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"tcp://10.0.0.1:502\"",
                "bus[0].endpoint",
                "host and port only",
            ),
            ("[[bus]]\nname = \"b\"\ntype = \"modbus-tcp\"\nendpoint = «\"[::1:5\"", "bus[0].endpoint", "not closed"),
        ],
    );
    assert_refused(
        BUS,
        &[
            ("response_timeout = «\"5ms\"", "bus[1].response_timeout", "10ms ..= 1m"),
            ("endpoint = «\"x\"", "bus[1].endpoint", "a serial bus has `port`"),
            ("[[bus]]\nname = «\"b\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"", "bus[2].name", "exists already"),
            ("[[bus]]\nname = «\"x/y\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"", "bus[2].name", "one level"),
            (
                "[[bus]]\nname = \"c\"\ntype = \"modbus-tcp\"\nendpoint = \"x\"\nport = «\"/dev/ttyS1\"",
                "bus[2].port",
                "belongs to a serial bus",
            ),
        ],
    );
}

#[test]
fn a_serial_bus_says_what_is_wrong() {
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
    let ascii = "[[bus]]\nname = \"r\"\ntype = \"modbus-ascii\"\nport = \"/dev/ttyS1\"\n";
    assert_refused(
        ascii,
        &[
            ("serial = «\"9600-6E1\"", "bus[0].serial", "7 or 8 data bits"),
            ("serial = \"9600-7E1\"\necho = «\"yes\"", "bus[0].echo", "\"auto\", true, false"),
            ("serial = \"9600-7E1\"\nlow_latency = «1", "bus[0].low_latency", "true or false"),
            ("serial = \"9600-7E1\"\nrs485 = «\"on\"", "bus[0].rs485", "rts_on_send"),
            ("serial = \"9600-7E1\"\nrs485 = { rts_on_send = «\"up\" }", "bus[0].rs485.rts_on_send", "high, low"),
            (
                "serial = \"9600-7E1\"\nrs485 = { delay_after_send = «\"1s\" }",
                "bus[0].rs485.delay_after_send",
                "0s ..= 100ms",
            ),
        ],
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
fn a_bus_that_listens_and_one_with_tls_say_what_is_wrong() {
    let door = "[[bus]]\nname = \"r\"\ntype = \"modbus-rtu-over-tcp\"\n";
    assert_refused(
        door,
        &[
            ("listen = «\"5020\"", "bus[0].listen", "0.0.0.0:5020"),
            ("listen = «\"127.0.0.1:0\"", "bus[0].listen", "no place to listen"),
            ("listen = \"127.0.0.1:1\"\nendpoint = «\"x\"", "bus[0].endpoint", "not both"),
            ("listen = \"0.0.0.0:1\"\nallow = [«\"10.0.0.0/33\"]", "bus[0].allow", "no network"),
            ("listen = \"0.0.0.0:1\"\nallow = [«\"plant\"]", "bus[0].allow", "no address"),
            ("listen = \"0.0.0.0:1\"\nallow = «[]", "bus[0].allow", "1 ..= 64"),
            ("endpoint = \"x\"\nallow = «[\"10.0.0.0/8\"]", "bus[0].allow", "belongs to `listen`"),
            (
                "listen = \"127.0.0.1:1\"\n[[bus]]\nname = \"s\"\ntype = \"modbus-tcp\"\nlisten = «\"127.0.0.1:1\"",
                "bus[1].listen",
                "another bus listens there",
            ),
        ],
    );
    let tls = "[[bus]]\nname = \"t\"\ntype = \"modbus-tls\"\nendpoint = \"plc\"\nca_file = \"ca\"\nkey = \"k\"\n";
    assert_refused(
        "",
        &[
            (&format!("«{door}listen = \"0.0.0.0:5020\""), "bus[0].allow", "who may dial in"),
            (&format!("«{tls}"), "bus[0].certificate", "on both sides"),
            (&format!("{tls}certificate = \"c\"\nserver_name = «\"\""), "bus[0].server_name", "a host name"),
            (&format!("{tls}certificate = \"c\"\necho = «true"), "bus[0].echo", "belongs to RTU and ASCII"),
            (&format!("{tls}certificate = \"c\"\nlisten = «\"[::1]:1\""), "bus[0].listen", "modbus-rtu-over-tcp"),
        ],
    );
    let udp = "[[bus]]\nname = \"u\"\ntype = \"modbus-udp\"\nendpoint = \"plc\"\n";
    assert_refused(udp, &[("ca_file = «\"ca\"", "bus[0].ca_file", "belongs to modbus-tls")]);
}

#[test]
fn a_line_behind_a_serial_server_belongs_to_one_bus() {
    let bus = |name: &str, kind: &str, rest: &str| format!("[[bus]]\nname = \"{name}\"\ntype = \"{kind}\"\n{rest}\n");
    let first = bus("a", "modbus-rtu-over-tcp", "endpoint = \"Moxa.plant:4001\"");
    let refused = |kind: &str, endpoint: &str, rest: &str| {
        let second = bus("b", kind, &format!("endpoint = «\"{endpoint}\"\n{rest}"));
        assert_refused(&first, &[(&second, "bus[1].endpoint", "another bus asks on this line already")]);
    };
    refused("modbus-rtu-over-tcp", "Moxa.plant:4001", "response_timeout = \"2s\"");
    refused("modbus-ascii-over-tcp", "moxa.PLANT:4001", "");
    refused("modbus-rtu-over-udp", "moxa.plant:4001", "");
    refused("line", "moxa.plant", "frame_end = \"\\r\""); // 4001 is its standard port
}

#[test]
fn all_syntax_errors_have_their_place() {
    assert_refused(
        "",
        &[
            ("[gateway]\nname = «box", "", "this is not TOML"),
            ("[gateway]\nname = \"a\"\n«name = \"b\"", "", "`name` is set twice in this table"),
        ],
    );
    let problems = problems("a = \nb = \"x\n[gateway\n");
    assert!(problems.count() >= 2, "{problems}");
    assert!(problems.iter().all(|problem| problem.place.is_some()));
}

#[test]
fn what_is_no_toml_is_told_in_words_that_say_what_to_write() {
    assert_refused(
        "",
        &[
            ("[gateway]\nname = «box", "", "a text stands in quotes"),
            ("[gateway]\nname = «“box”", "", "write straight ones"),
            ("[gateway]\nname = \"box«", "", "the closing \" is missing"),
            ("[gateway]\nname«: box", "", "stands =, not a colon"),
            ("[gateway]\nname «box", "", "here is no = behind `name`"),
            ("[gateway]\nname = «", "", "`name` has no value"),
            ("[gateway]\nrollback = «True", "", "true or false, in small letters"),
            ("[gateway]\nname = «tank-1", "", "a text stands in quotes"),
            ("[gateway]\nname = «north", "", "a text stands in quotes"),
            ("[[device]]\n[[device.tag]]\ntype = «float32", "", "a text stands in quotes"),
            ("[[device]]\n[[device.tag]]\ntype = «int16", "", "a text stands in quotes"),
            ("[gateway]\ndata_dir = \"C:\\«data\"", "", "write the text between '…'"),
            ("[gateway]\nname«\u{a0}= \"box\"", "", "no-break space"),
            ("[gateway]\n«; name", "", "a comment begins with #"),
            ("[gateway]\n«// name", "", "a comment begins with #"),
            ("[gateway]«]\nname = \"box\"", "", "as many ] as ["),
            ("[[bus]«\nname = \"b\"", "", "as many ] as ["),
            ("«{ \"gateway\": 1 }", "", "looks like JSON"),
            ("[gateway]\r«name = \"box\"\r", "", "a carriage return alone"),
            ("[broker]\nmax_connections = «01", "", "does not begin with 0"),
            ("[[device]]\n[[device.tag]]\nscale = 0«,1", "", "with a point: 0.5, not 0,5"),
            ("[[device]]\n[[device.tag]]\nscale = «.1", "", "begins with a digit"),
            ("[[bus]]\nendpoint = 10.0«.0.1", "", "such as an address, stands in quotes"),
        ],
    );
}

#[test]
fn what_stands_before_its_list_or_in_the_wrong_brackets_is_told_where_it_belongs() {
    let (tag, device) = ("[[device.tag]]\nname = \"t\"\n", "[[device]]\nname = \"d\"\n");
    let told = |text: &str| {
        let problems = problems(text);
        let first = problems.iter().next().expect("a problem").clone();
        (first.message, first.place.map(|place| place.line), first.also.map(|place| place.line), problems.count())
    };
    let (message, line, also, count) = told(&format!("{tag}{device}"));
    assert!(message.contains("[[device.tag]] stands before any [[device]]: put it below"), "{message}");
    assert_eq!((line, also, count), (Some(1), Some(3), 1));
    let (message, line, ..) = told(&format!("\n{tag}"));
    assert!(message.contains("this stands before any [[device]]: put it below"), "{message}");
    assert_eq!(line, Some(2));
    let (message, line, also, _) = told("[device]\nname = \"d\"\n[device]\nname = \"e\"\n");
    assert!(message.contains("device is a list, write [[device]] for each"), "{message}");
    assert_eq!((line, also), (Some(3), Some(1)));
    let (message, ..) = told("[device]\nname = \"d\"\n[[device]]\nname = \"e\"\n");
    assert!(message.contains("device is a list, write [[device]] for each"), "{message}");
    let two = format!("{device}{tag}{device}[device.tag]\nname = \"t\"\n[[device.tag]]\nname = \"u\"\n");
    let (message, line, also, _) = told(&two);
    assert!(message.contains("device.tag is a list"), "{message}");
    assert_eq!((line, also), (Some(9), Some(7)), "the one in the same device");
    let (message, ..) = told("[gateway]\nname = \"g\"\n[[gateway]]\nname = \"h\"\n");
    assert!(message.contains("it is there once, write [gateway] and all its keys below it"), "{message}");
    let (message, line, also, _) = told(
        "[[broker.listener]]\nlisten = \"tcp:0.0.0.0:1\"\n[broker]\nmax_sessions = 1\n[broker]\nmax_sessions = 1\n",
    );
    assert!(message.contains("[broker] stands here a second time"), "{message}");
    assert_eq!((line, also), (Some(5), Some(3)));
    let (message, line, also, _) = told("[broker]\n[gateway]\nname = \"g\"\n[broker]\nmax_sessions = 1\n");
    assert!(message.contains("[broker] stands here a second time: put all its keys below the first one"), "{message}");
    assert_eq!((line, also), (Some(4), Some(1)));
    let (message, line, also, _) = told("[gateway]\nname = \"g\"\ntopic = \"{tag}\"\nname = \"h\"\n");
    assert!(message.contains("`name` is set twice in this table"), "{message}");
    assert_eq!((line, also), (Some(4), Some(2)));
    let (message, ..) = told("[[gateway]]\nname = \"g\"\n");
    assert!(message.contains("write [gateway], it is there once"), "{message}");
    let (message, ..) = told("[[tag]]\nname = \"g\"\n");
    assert!(message.contains("it is [[device.tag]]"), "{message}");
}

#[test]
fn a_value_of_the_wrong_kind_is_told_how_it_is_written() {
    let uplink = |key: &str| {
        let problems = problems(&format!("{UPLINK}{key}\n"));
        let told = |one: &config::Problem| format!("{} | {}", one.message, one.allowed.clone().unwrap_or_default());
        problems.iter().map(told).collect::<Vec<_>>().join("\n")
    };
    for (key, words) in [
        ("budget = \"5 GB\"", &["put it in [ ]", "[\"200MiB/month\", \"20MiB/day\"]", "write \"5 GB/month\""][..]),
        ("budget = 5000", &["a list of texts, found a whole number", "[\"200MiB/month\", \"20MiB/day\"]"]),
        ("budget = [5000]", &["put it in quotes", "200MiB/month"]),
        ("budget = [\"5 GB\"]", &["does not say for how long: write \"5 GB/month\""]),
        ("budget = [\"5GB/year\"]", &["behind / stands day or month"]),
        ("budget = [\"5G/month\"]", &["before / stands a number with B, KiB"]),
        ("max_rate = 32", &["put it in quotes", "\"32KiB/s\""]),
        ("max_rate = \"32KiB\"", &["write \"32KiB/s\""]),
        ("reserve = 20", &["put it in quotes", "\"0%\" ..= \"90%\""]),
        ("classes = \"alarm\"", &["put it in [ ]"]),
        ("format = 1", &["put it in quotes", "json, batch, sparkplug"]),
    ] {
        let told = uplink(key);
        assert!(words.iter().all(|word| told.contains(word)), "{key}: {told}");
    }
    let line = "[[bus]]\nname = \"b\"\ntype = \"modbus-rtu\"\nport = \"/dev/ttyS0\"\n";
    let shown = problems(&format!("{line}serial = 9600\n")).to_string();
    assert!(shown.contains("put it in quotes") && shown.contains("such as \"19200-8E1\""), "{shown}");
    let tag = format!("{BUS}{DEVICE}{TAG}address = \"holding:1\"\n");
    for (key, words) in [
        ("type = \"uint16\"\nscale = \"0.1\"", "write it without quotes"),
        ("type = \"uint16\"\nalarm = 12", "expected a table, found a whole number"),
        ("type = \"REAL\"", "did you mean `float32`?"),
        ("type = \"float\"", "did you mean `float32`?"),
        ("type = \"DINT\"", "did you mean `int32`?"),
    ] {
        let shown = problems(&format!("{tag}{key}\n")).to_string();
        assert!(shown.contains(words), "{key}: {shown}");
    }
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
   = allowed: holding: input: coil: or discrete: and 0 ..= 65535 (or 0x0 ..= 0xFFFF); bits as \"holding:7.3\" or \"holding:7.0-3\"

1 problem in the configuration";
    assert_eq!(shown, expected);
}

#[test]
fn everything_wrong_is_said_at_once_and_in_order() {
    let text = format!(
        "[gateway]\nname = \"a/b\"\ntopic = \"ironbridge/{{tag}}\"\n[store]\nmax_size = 1\nmax_age = \"1m\"\n\
         {BUS}poll = 1\n{DEVICE}poll = 1\n{TAG}address = \"x\"\ntype = \"flaot32\"\nscale = \"y\"\n"
    );
    let problems = problems(&text);
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "gateway.name",
            "gateway.topic",
            "store.max_size",
            "store.max_age",
            "bus[1].poll",
            "device[0].poll",
            "device[0].tag[0].address",
            "device[0].tag[0].type",
            "device[0].tag[0].scale"
        ]
    );
}

#[test]
fn endless_lines_and_nesting_are_refused_in_a_few_lines_of_text() {
    let texts = [
        format!("a = {}", "[".repeat(200_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("a = {}", "[{a=".repeat(100_000)),
        format!("[gateway]\nname = \"{}\"\n\"{}\" = 1\n", "x".repeat(300_000), "k".repeat(300_000)),
        format!("[gateway]\ntopic = \"{}\" + \u{1b}[31m", "\t".repeat(100_000)),
    ];
    for text in texts {
        let shown = problems(&text).to_string();
        assert!(shown.len() < 5000 && !shown.contains('\u{1b}'), "{} bytes: {}", shown.len(), &shown[..500]);
    }
}

#[test]
fn a_gateway_without_a_usable_name_is_one_problem_however_many_tags_it_has() {
    let tags = format!("{BUS}{DEVICE}{TAG}address = \"coil:1\"\n[[device.tag]]\nname = \"u\"\naddress = \"coil:2\"\n");
    for (hostname, gateway, words) in [
        ("", "", "cannot stand in for it"),
        ("a/b", "[gateway]\ndata_dir = \"/x\"\n", "cannot stand in for it"),
        ("", "[gateway]\nname = \"{hostname}\"\n", "becomes \"\" on this machine"),
        ("ironbridge", "", "reserved"),
        ("box", "[gateway]\nname = \"ironbridge\"\n", "reserved"),
        ("box", "[gateway]\nname = \"$x\"\n", "reserved"),
        ("box", "[gateway]\nname = \"+\"\ntopic = \"{gateway}/{tag}\"\n", "one level"),
    ] {
        let facts = HostFacts { hostname: hostname.into(), credentials_dir: None };
        let problems = config::parse(&format!("{gateway}{tags}"), Path::new("/x.toml"), &facts).expect_err("no name");
        let [problem] = problems.iter().as_slice() else { panic!("{problems}") };
        assert_eq!(problem.path, "gateway.name");
        assert!(problem.message.contains(words), "{problem}");
    }
}
