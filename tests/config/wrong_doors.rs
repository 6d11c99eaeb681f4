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
