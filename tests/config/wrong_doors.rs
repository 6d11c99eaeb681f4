//! Wrong doors of the broker: what may be reached from where, with what, and which cannot both be open.

use crate::support;

use support::{assert_refused, parse, problems};

#[test]
fn anonymous_access_off_loopback_is_refused_with_both_places() {
    let problems = problems("[[broker.listener]]\nlisten = \"192.168.0.7:1883\"\nanonymous = \"read\"");
    let [address, anonymous] = problems.iter().as_slice() else { panic!("{problems}") };
    assert!(address.message.contains("needs `tls` and a login"), "{address}");
    assert!(anonymous.message.contains("there is no switch"), "{anonymous}");
    assert_eq!(anonymous.also, address.place);
}

#[test]
fn a_door_says_what_is_wrong() {
    let refused = |keys: &str, path: &str, words: &str| {
        let text = format!("[[broker.listener]]\n{keys}");
        assert_refused("", &[(&text, &format!("broker.listener[0].{path}"), words)]);
    };
    let tls = "tls = { certificate = \"c\", key = \"k\"";
    refused("listen = «\"[::]:1883\"", "listen", "other machines can reach");
    refused("listen = «\"0.0.0.0:9001\"\nwebsocket = true", "listen", "other machines can reach");
    refused(&format!("listen = «\"10.0.0.7:8883\"\n{tls} }}"), "listen", "nobody could log in");
    refused("listen = \"0.0.0.0:1\"\ntls = «true", "tls", "expected a table");
    refused("listen = \"127.0.0.1:1\"\ntls = «{ certificate = \"c\" }", "tls.key", "is missing");
    refused("listen = \"127.0.0.1:1\"\ntls = «{ key = \"k\" }", "tls.certificate", "PEM");
    refused(
        "listen = \"127.0.0.1:1\"\ntls = { certificate = «\"\", key = \"k\" }",
        "tls.certificate",
        "must be a path",
    );
    refused(&format!("listen = \"127.0.0.1:1\"\n{tls}, «ca = \"x\" }}"), "tls.ca", "unknown key");
    let optional = format!("listen = \"127.0.0.1:1\"\n{tls}, client_certificate = «\"optional\" }}");
    refused(&optional, "tls.client_certificate", "goes with `client_ca`");
    let odd = format!("listen = \"127.0.0.1:1\"\n{tls}, client_ca = \"x\", client_certificate = «\"maybe\" }}");
    refused(&odd, "tls.client_certificate", "required, optional");
    refused(
        &format!("listen = \"127.0.0.1:1\"\nidentity = «\"cn\"\n{tls} }}"),
        "identity",
        "goes with `tls.client_ca`",
    );
    let dn = format!("listen = \"127.0.0.1:1\"\nidentity = «\"dn\"\n{tls}, client_ca = \"x\" }}");
    refused(&dn, "identity", "san-dns");
    refused("listen = \"127.0.0.1:1\"\nquic = «true", "quic", "there is none without TLS");
    refused(&format!("listen = \"127.0.0.1:1\"\nquic = «true\nwebsocket = true\n{tls} }}"), "quic", "not both");
    refused(&format!("listen = \"127.0.0.1:14567\"\nquic = «1\n{tls} }}"), "quic", "true or false");
    refused("listen = \"127.0.0.1:1\"\nwebsocket = «1", "websocket", "true or false");
    refused("listen = \"127.0.0.1:1\"\norigins = «[\"https://a\"]", "origins", "goes with `websocket");
    for origin in ["hmi.example.com", "https://hmi.example.com/", "https://", "://x", "*", "https://a b"] {
        let text = format!("listen = \"127.0.0.1:1\"\nwebsocket = true\norigins = [\"null\", «\"{origin}\"]");
        refused(&text, "origins", "as browsers write it");
    }
    let page = "listen = \"127.0.0.1:1\"\nwebsocket = true\nanonymous = «\"read\"";
    refused(page, "anonymous", "no anonymous clients by websocket");
    refused("listen = \"127.0.0.1:1\"\ninterface = «\"a b\"", "interface", "is no interface");
    refused("listen = \"unix:/run/a.sock\"\ninterface = «\"lo\"", "interface", "belongs to no interface");
    refused(&format!("listen = \"unix:/run/a.sock\"\ntls = «{} }}", &tls[6..]), "tls", "needs no TLS");
    refused("listen = \"unix:/run/a.sock\"\nanonymous = «\"acl\"", "anonymous", "loopback address only");
    refused("listen = «\"unix:\"", "listen", "names no socket");
    refused(&format!("listen = «\"unix:/run/{}\"", "x".repeat(100)), "listen", "too long");
}

#[test]
fn nothing_leads_back_to_a_door_of_the_gateway_itself_nor_stands_where_the_page_is() {
    let says = |text: &str, words: &str| {
        let problems = parse(text).map(|_| ()).expect_err(text).to_string();
        assert!(problems.contains(words), "{problems}");
    };
    let door = |address: &str| format!("[[broker.listener]]\nlisten = \"{address}\"\nanonymous = \"read-write\"\n");
    let uplink = |port: u16| format!("[[uplink]]\nname = \"up\"\nurl = \"mqtt://localhost:{port}\"\n");
    says(&(door("127.0.0.1:1884") + &uplink(1884)), "is a listener of this gateway itself");
    says(&uplink(1883), "is a listener of this gateway itself");
    let bridge = "[[bridge]]\nname = \"b\"\nurl = \"mqtt://127.0.0.1:1884\"\n[[bridge.topic]]\nfilter = \"m/#\"\n";
    says(&(door("127.0.0.1:1884") + bridge), "is a listener of this gateway itself");
    assert!(parse(&(door("127.0.0.1:1884") + &uplink(1885))).is_ok(), "somebody else's");
    says(&door("127.0.0.1:8080"), "where the status page is without a [status] table");
    assert!(parse(&(door("127.0.0.1:8080") + "[status]\nlisten = \"off\"\n")).is_ok());
}

#[test]
fn doors_that_cannot_both_be_open_are_refused() {
    let users = "[broker]\nusers_file = \"users\"\n";
    let door = |listen: &str, more: &str| {
        let tls = if listen.contains("unix:") { "" } else { "tls = { certificate = \"c\", key = \"k\" }\n" };
        format!("[[broker.listener]]\nlisten = {listen}\n{tls}{more}\n")
    };
    for (first, second) in [
        ("\"127.0.0.1:1\"", "\"0.0.0.0:1\""),
        ("\"[::]:1\"", "\"127.0.0.1:1\""),
        ("\"[::]:1\"", "\"0.0.0.0:1\""),
        ("\"unix:/run/a.sock\"", "\"unix:/run/a.sock\""),
    ] {
        let text = format!("{}{}", door(first, ""), door(&format!("«{second}"), ""));
        assert_refused(users, &[(&text, "broker.listener[1].listen", "another listener")]);
    }
    let plan = |text: String| parse(&text).unwrap_or_else(|problems| panic!("{problems}")).plan;
    let by = |name: &str| format!("interface = \"{name}\"");
    let apart = plan(format!("{users}{}{}", door("\"0.0.0.0:1\"", &by("eth0")), door("\"0.0.0.0:1\"", &by("eth1"))));
    assert_eq!(apart.broker.listeners.len(), 2);
    let free = plan(format!("{users}{0}{0}", door("\"127.0.0.1:0\"", "")));
    assert_eq!(free.broker.listeners.len(), 2);
}

#[test]
#[cfg(feature = "mqtt-sn")]
fn a_door_for_sensors_says_what_is_wrong() {
    let refused = |keys: &str, path: &str, words: &str| {
        let text = format!("[[broker.listener]]\n{keys}");
        assert_refused("", &[(&text, &format!("broker.listener[0].{path}"), words)]);
    };
    let sn = "listen = \"udp:127.0.0.1:1884\"\nprotocol = \"mqtt-sn\"";
    refused("listen = «\"udp:127.0.0.1:1884\"", "listen", "UDP is for `protocol");
    refused("listen = \"udp:127.0.0.1:1884\"\nprotocol = «\"coap\"", "protocol", "mqtt, mqtt-sn");
    refused("listen = «\"127.0.0.1:1884\"\nprotocol = \"mqtt-sn\"", "listen", "comes in datagrams");
    refused("listen = «\"udp:tank:1884\"\nprotocol = \"mqtt-sn\"", "listen", "no address with a port");
    refused("listen = \"127.0.0.1:1\"\ninsecure_network = «true", "insecure_network", "goes with `protocol");
    refused("listen = \"127.0.0.1:1\"\nmqtt_sn = «{ gateway_id = 1 }", "mqtt_sn", "goes with `protocol");
    refused(&format!("{sn}\nwebsocket = «true"), "websocket", "does not go with");
    refused(&format!("{sn}\nrequire_client_id = «true"), "require_client_id", "does not go with");
    let far = "listen = «\"udp:0.0.0.0:1884\"\nprotocol = \"mqtt-sn\"";
    refused(&format!("{far}\nsensor = [{{ client_id = \"a\" }}]"), "listen", "insecure_network = true");
    refused(&format!("{far}\ninsecure_network = true"), "listen", "nobody could come in");
    let open = "listen = \"udp:0.0.0.0:1884\"\nprotocol = \"mqtt-sn\"\ninsecure_network = true\nsensor = [{ client_id = \"a\" }]";
    refused(&format!("{open}\nanonymous = «\"read\""), "anonymous", "loopback only");
    for (key, words) in [
        ("gateway_id = «256", "0 ..= 255"),
        ("retry = «\"1ms\"", "50ms ..= 5m"),
        ("retries = «0", "1 ..= 20"),
        ("wait = «\"2h\"", "50ms ..= 1h"),
        ("max_datagram = «\"1MiB\"", "64B ..= 16KiB"),
        ("advertise = «\"15min\"", "goes with `advertise_to`"),
        ("advertise_to = «\"10.0.7.255:1884\"", "goes with `advertise`"),
        ("advertise = \"1h\", advertise_to = «\"10.0.7.255\"", "no address with a port"),
        ("publish_user = «\"a:b\"", "is no name"),
        ("publish_from = «[\"10.0.7.0/24\"]", "goes with `publish_user`"),
    ] {
        let name = key.split('«').next().expect("a key").trim_end_matches(" = ").rsplit(' ').next().expect("its name");
        refused(&format!("{sn}\nmqtt_sn = {{ {key} }}"), &format!("mqtt_sn.{name}"), words);
    }
    let sensors = |table: &str| format!("{sn}\nsensor = [{table}]");
    refused(&sensors("«{ user = \"a\" }"), "sensor[0].client_id", "is missing");
    refused(&sensors("{ client_id = «\"a*b\" }"), "sensor[0].client_id", "is no client id");
    let (longest, longer) = ("i".repeat(256), "i".repeat(257)); // as at the door
    refused(&sensors(&format!("{{ client_id = «\"{longer}\" }}")), "sensor[0].client_id", "is no client id");
    refused(
        &sensors(&format!("{{ client_id = \"{longest}\" }}, {{ client_id = «\"*b*\" }}")),
        "sensor[1].client_id",
        "is no client id",
    );
    refused(&sensors("{ client_id = \"a\" }, { client_id = «\"a\" }"), "sensor[1].client_id", "has this id");
    refused(&sensors("{ client_id = \"a\", user = «\"*\" }"), "sensor[0].user", "is no name");
    refused(&sensors("{ client_id = \"a\", from = [«\"10.0.7.1/24\"] }"), "sensor[0].from", "is no network");
    let topics = |table: &str| format!("{sn}\ntopic = [{table}]");
    refused(&topics("«{ name = \"a\" }"), "topic[0].id", "is missing");
    refused(&topics("{ id = «65535, name = \"a\" }"), "topic[0].id", "1 ..= 65534");
    refused(&topics("{ id = 1, name = «\"a/#\" }"), "topic[0].name", "wildcard");
    refused(&topics("{ id = 1, name = \"a\" }, { id = «1, name = \"b\" }"), "topic[1].id", "has this id");
    let twice = format!("{sn}\n[[broker.listener]]\nlisten = «\"udp:127.0.0.1:1884\"\nprotocol = \"mqtt-sn\"");
    assert_refused(
        "",
        &[(&format!("[[broker.listener]]\n{twice}"), "broker.listener[1].listen", "has this address already")],
    );
    parse("[[broker.listener]]\nlisten = \"udp:127.0.0.1:1884\"\nprotocol = \"mqtt-sn\"\n[[broker.listener]]\nlisten = \"127.0.0.1:1884\"")
        .expect("a port for TCP and one for UDP are two");
}
