//! `connection` of a mosquitto.conf as our `[[bridge]]`.
//!
//! What came out is checked with all before it, and then taken; where it is no configuration of ours, or something in it has no
//! counterpart that a plant could do without, it is shown as it was, and why.

use std::fmt::Write as _;
use std::path::Path;

use super::conf::Bridge;
use super::page::{absolute, line, one_line};
use super::{Notes, Weight};
use crate::commands::host_facts;
use crate::config::plan::MqttVersion;
use crate::config::{self, GATEWAY, quoted};

/// Keys whose meaning is ours without being said.
const NEEDLESS: [(&str, &str); 8] = [
    ("bridge_protocol_version", "5 is spoken where the other broker does, else 3.1.1"),
    ("try_private", "MQTT 5 says itself what must not come back"),
    (
        "bridge_attempt_unsubscribe",
        "what was subscribed to before and is taken out is unsubscribed from, and nothing else",
    ),
    ("restart_timeout", "a bridge tries again after 1 s, and more and more rarely"),
    ("idle_timeout", "it counts for lazy bridges, and there is none here"),
    ("threshold", "it counts for lazy bridges, and there is none here"),
    ("local_clientid", "a bridge is no client of the local broker"),
    ("local_username", "a bridge is no client of the local broker"),
];

/// How keys begin that are said of a bridge with TLS only. Without a CA file it is shown and not carried over: in the clear
/// it must not go.
const OF_TLS: &[&str] = &[
    "bridge_alpn",
    "bridge_ca",
    "bridge_certfile",
    "bridge_ciphers",
    "bridge_identity",
    "bridge_insecure",
    "bridge_keyfile",
    "bridge_psk",
    "bridge_require_ocsp",
    "bridge_tls_",
];

#[derive(Default)]
struct Draft {
    addresses: Vec<String>,
    /// `[[bridge.topic]]`, whole.
    topics: Vec<String>,
    /// Of `[[bridge]]`, beside name and address.
    keys: String,
    secure: bool,
    retains: bool,
}

/// Carries it over, or shows it.
pub(super) fn write(body: &mut String, bridge: &Bridge, notes: &mut Notes) {
    let mut draft = Draft { retains: true, ..Draft::default() };
    draft.retains = !bridge.lines.iter().any(|line| line == "bridge_outgoing_retain false");
    draft.secure = bridge.lines.iter().any(|line| OF_TLS.iter().any(|key| line.starts_with(key)));
    for line in &bridge.lines {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        draft.take(key, value.trim(), &bridge.place, notes);
    }
    let name = free_name(&bridge.name, &names(body));
    if let Some(told) = &name.told {
        notes.add(Weight::Loud, &bridge.place, told.as_str());
    }
    let page = draft.page(&name.ours);
    match config::parse(&format!("{body}{page}"), Path::new("broker.toml"), &host_facts()) {
        Ok(loaded) => {
            let uplink = loaded.plan.bridges.last().map(|bridge| &bridge.uplink);
            let speaks_5 = bridge.lines.iter().any(|line| line.starts_with("bridge_protocol_version mqttv5"));
            if !speaks_5 && uplink.is_some_and(|uplink| uplink.mqtt_version == MqttVersion::V5) {
                let told = "what it sends it is subscribed to as well: this needs MQTT 5 at the other broker, which is told not \
                            to send it back. To one that speaks 3.1.1 only it NEVER CONNECTS: write one topic for each direction, \
                            with prefixes of their own";
                notes.add(Weight::Loud, &bridge.place, format!("the bridge {}: {told}", one_line(&bridge.name)));
            }
            let carried = "what goes out waits on disk here and is sent at least once, at QoS 1; QoS 2 comes in as 1";
            notes.add(Weight::Quiet, &bridge.place, format!("the bridge {}: {carried}", one_line(&bridge.name)));
            body.push_str(&page);
        }
        Err(problems) => show(body, bridge, &problems.to_string(), notes),
    }
}

fn show(body: &mut String, bridge: &Bridge, why: &str, notes: &mut Notes) {
    let name = one_line(&bridge.name);
    let problem = why.lines().next().unwrap_or_default();
    let told = format!("the bridge {name} is not carried over ({}); see the end of this file", one_line(problem));
    notes.add(Weight::Loud, &bridge.place, told);
    let _ = write!(body, "\n# The bridge {name} as it was:\n");
    for line in &bridge.lines {
        let _ = writeln!(body, "#   {}", one_line(line));
    }
}

impl Draft {
    fn take(&mut self, key: &str, value: &str, place: &str, notes: &mut Notes) {
        let first = value.split_whitespace().next().unwrap_or_default();
        match key {
            "address" | "addresses" => {
                let words = value.split_whitespace().take_while(|word| !word.starts_with('#'));
                self.addresses.extend(words.map(str::to_owned));
            }
            "topic" => self.topics.extend(topics(value, self.retains)),
            "remote_clientid" | "clientid" => line(&mut self.keys, "client_id", &quoted(value)),
            "remote_username" | "username" => line(&mut self.keys, "username", &quoted(value)),
            "remote_password" | "password" => {
                let told = "the password of a bridge stands in a file here: put it there and name it as password_file";
                notes.add(Weight::Loud, place, told);
            }
            "keepalive_interval" => line(&mut self.keys, "keep_alive", &quoted(&format!("{first}s"))),
            "bridge_cafile" => line(&mut self.keys, "ca_file", &quoted(&absolute(Path::new(value)))),
            "bridge_certfile" => line(&mut self.keys, "certificate", &quoted(&absolute(Path::new(value)))),
            "bridge_keyfile" => line(&mut self.keys, "key", &quoted(&absolute(Path::new(value)))),
            "notifications" if first == "false" => line(&mut self.keys, "notifications", "false"),
            "notifications" | "bridge_outgoing_retain" => {}
            "cleansession" if first == "false" => {}
            "start_type" if matches!(first, "lazy" | "once") => {
                let told = format!(
                    "start_type {first} is NOT carried over: a bridge here connects at once and stays connected, all day, \
                     also where the link is paid for by use; keep_alive says how often it says that it is there"
                );
                notes.add(Weight::Loud, place, told);
            }
            "start_type" => {
                let told = "start_type is not carried over: a bridge connects at once and keeps trying";
                notes.add(Weight::Quiet, place, told.to_owned());
            }
            "cleansession" => {
                let told = "a session with the other broker always persists here: what comes in waits there for session_expiry";
                notes.add(Weight::Loud, place, told);
            }
            _ => match NEEDLESS.iter().find(|(needless, _)| *needless == key) {
                Some((_, why)) => notes.add(Weight::Quiet, place, format!("{key} is not carried over: {why}")),
                None => notes.add(Weight::Loud, place, format!("{key} of a bridge is not carried over")),
            },
        }
    }

    fn page(&self, name: &str) -> String {
        let mut out = String::from("\n[[bridge]]\n");
        line(&mut out, "name", &quoted(name));
        let scheme = if self.secure { "mqtts" } else { "mqtt" };
        let url = |address: &String| {
            // theirs is 1883 with TLS, too
            let port = if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                ""
            } else {
                ":1883"
            };
            quoted(&format!("{scheme}://{address}{port}"))
        };
        let urls: Vec<String> = self.addresses.iter().map(url).collect();
        match urls.as_slice() {
            [url] => line(&mut out, "url", url),
            urls => line(&mut out, "urls", &format!("[{}]", urls.join(", "))),
        }
        out + &self.keys + &self.topics.concat()
    }
}

/// `topic <filter> [<direction> [<qos> [<local prefix> [<remote prefix>]]]]`; `""` stands for nothing. What is said of
/// what goes out alone takes a table of its own where it goes both ways.
fn topics(value: &str, retains: bool) -> Vec<String> {
    let direction = value.split_whitespace().nth(1).unwrap_or("out");
    let ways: &[&str] = if direction == "both" && !retains { &["out", "in"] } else { &[direction] };
    ways.iter().map(|way| topic(value, way, retains)).collect()
}

fn topic(value: &str, direction: &str, retains: bool) -> String {
    let mut words = value.split_whitespace().map(|word| if word == "\"\"" { "" } else { word });
    let mut out = String::from("[[bridge.topic]]\n");
    line(&mut out, "filter", &quoted(words.next().unwrap_or_default()));
    words.next();
    line(&mut out, "direction", &quoted(direction));
    let qos = words.next().or((direction != "out").then_some("0")); // as there, where nothing is said
    if let Some(qos) = qos {
        // 2 is not carried over as that: what is said of every bridge says it of this one.
        line(
            &mut out,
            "qos",
            &qos.parse::<u8>().map_or_else(|_| quoted(qos), |qos| (if qos == 2 { 1 } else { qos }).to_string()),
        );
    }
    for key in ["local_prefix", "remote_prefix"] {
        if let Some(prefix) = words.next().filter(|prefix| !prefix.is_empty()) {
            line(&mut out, key, &quoted(prefix));
        }
    }
    if !retains && direction == "out" {
        line(&mut out, "retain", "false");
    }
    out
}

/// What a bridge is called here, and what is to be told of that.
struct Name {
    ours: String,
    told: Option<String>,
}

/// Theirs may have anything in it, and two of them may be one here.
fn free_name(theirs: &str, taken: &[String]) -> Name {
    let wanted: String =
        theirs.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let is_free = |name: &String| name != GATEWAY && !taken.contains(name);
    let others = (2..).map(|number| format!("{wanted}-{number}"));
    let ours = [wanted.clone()].into_iter().chain(others).find(is_free).unwrap_or_default(); // there are more than are taken
    let why = if wanted == GATEWAY { "the gateway's own store" } else { "another one" };
    let told =
        (ours != wanted).then(|| format!("the bridge {} is called {ours} here: {wanted} is {why}", one_line(theirs)));
    Name { ours, told }
}

/// Of the bridges that are there already.
fn names(body: &str) -> Vec<String> {
    let loaded = config::parse(body, Path::new("broker.toml"), &host_facts());
    loaded.map_or_else(
        |_| Vec::new(),
        |loaded| loaded.plan.bridges.into_iter().map(|bridge| bridge.uplink.name).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{ReceiveQos, RetainHere};

    fn carried(lines: &[&str]) -> (String, Vec<String>) {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let bridge = Bridge { place: "mosquitto.conf:1".into(), name: "hall 2".into(), lines };
        let (mut body, mut notes) = (String::new(), Notes::default());
        write(&mut body, &bridge, &mut notes);
        let loud = notes.0.into_iter().filter(|note| note.weight == Weight::Loud);
        (body, loud.map(|note| note.text).collect())
    }

    #[test]
    fn a_connection_becomes_a_bridge_that_does_the_same() {
        let (page, loud) = carried(&[
            "address 10.0.0.2 10.0.0.3:1884",
            "remote_clientid gw",
            "remote_username u",
            "remote_password (left out: a secret belongs into a file)",
            "keepalive_interval 30",
            "bridge_protocol_version mqttv311",
            "cleansession false",
            "topic a/# out 2 \"\" up/",
            "topic b",
            "topic # both 0 l/ r/",
        ]);
        let plan = config::parse(&page, Path::new("x.toml"), &host_facts()).expect("checks").plan;
        let bridge = &plan.bridges[0];
        assert_eq!((bridge.uplink.name.as_str(), bridge.uplink.client_id.as_str()), ("hall-2", "gw"));
        let servers: Vec<String> = bridge.uplink.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["mqtt://10.0.0.2:1883", "mqtt://10.0.0.3:1884"]);
        let out: Vec<String> = bridge.out.iter().map(|out| out.mapping.remote_filter()).collect();
        assert_eq!(out, ["up/a/#", "b", "r/#"]);
        assert_eq!(bridge.uplink.downs[0].mapping.local_filter(), "l/#");
        assert!(
            matches!(loud.as_slice(), [password, version] if password.contains("password_file") && version.contains("MQTT 5")),
            "{loud:?}"
        );
    }

    #[test]
    fn without_a_word_about_qos_what_comes_in_comes_at_qos_0_as_it_did() {
        let (page, _) = carried(&["address x", "topic a in", "topic b both", "topic c in 1", "topic d"]);
        let plan = config::parse(&page, Path::new("x.toml"), &host_facts()).expect("checks").plan;
        let qos: Vec<_> = plan.bridges[0].uplink.downs.iter().map(|down| down.qos).collect();
        assert_eq!(qos, [ReceiveQos::AtMostOnce, ReceiveQos::AtMostOnce, ReceiveQos::AtLeastOnce]);
    }

    #[test]
    fn what_goes_both_ways_to_a_broker_that_may_not_speak_mqtt_5_is_said() {
        let needs_5 = |lines: &[&str]| carried(lines).1.iter().any(|told| told.contains("NEVER CONNECTS"));
        assert!(needs_5(&["address x", "topic a both"]));
        assert!(needs_5(&["address x", "bridge_protocol_version mqttv311", "topic a/# in", "topic a/b"]));
        assert!(!needs_5(&["address x", "bridge_protocol_version mqttv50", "topic a both"]));
        assert!(!needs_5(&["address x", "topic a", "topic b in"]));
    }

    #[test]
    fn what_is_wrong_only_with_what_stands_before_it_is_left_out_alone() {
        let bridge = |name: &str, address: &str| Bridge {
            place: "m:1".into(),
            name: name.into(),
            lines: vec![format!("address {address}"), "topic a".into()],
        };
        let (mut body, mut notes) =
            ("[broker]\n[[broker.listener]]\nlisten = \"127.0.0.1:1883\"\n".to_owned(), Notes::default());
        for bridge in [bridge("hall 2", "x"), bridge("hall-2", "y"), bridge("self", "127.0.0.1:1883"), bridge("b", "z")]
        {
            write(&mut body, &bridge, &mut notes);
        }
        assert_eq!(names(&body), ["hall-2", "hall-2-2", "b"]);
        let told: Vec<_> = notes.0.iter().filter(|note| note.weight == Weight::Loud).map(|note| &note.text).collect();
        assert!(
            matches!(told.as_slice(), [name, own] if name.contains("hall-2-2") && own.contains("self")),
            "{told:?}"
        );
    }

    #[test]
    fn a_bridge_that_was_connected_only_now_and_then_is_not_made_one_that_always_is_without_a_word() {
        let said = |line: &str| carried(&["address x # the hall's", "topic a", "idle_timeout 60", line]).1;
        for start in ["lazy", "once"] {
            let loud = said(&format!("start_type {start}"));
            assert!(
                matches!(loud.as_slice(), [told] if told.contains(start) && told.contains("keep_alive")),
                "{loud:?}"
            );
        }
        assert!(said("start_type automatic").is_empty());
    }

    #[test]
    fn what_must_not_be_retained_on_the_other_side_is_not_where_it_goes_both_ways_either() {
        let version = "bridge_protocol_version mqttv50";
        let lines = ["address x", version, "topic # both 1 l/ r/", "bridge_outgoing_retain false", "topic b in"];
        let (page, loud) = carried(&lines);
        let plan = config::parse(&page, Path::new("x.toml"), &host_facts()).expect("checks").plan;
        let bridge = &plan.bridges[0];
        let out: Vec<_> = bridge.out.iter().map(|out| (out.mapping.remote_filter(), out.retain)).collect();
        assert_eq!(out, [("r/#".to_owned(), RetainHere::Never)]);
        let down: Vec<_> = bridge.uplink.downs.iter().map(|down| (down.mapping.local_filter(), down.retain)).collect();
        assert_eq!(down, [("l/#".to_owned(), RetainHere::AsPublished), ("b".to_owned(), RetainHere::AsPublished)]);
        assert!(loud.is_empty(), "{loud:?}");
    }

    #[test]
    fn a_bridge_of_the_name_that_is_the_gateways_own_is_given_another() {
        let lines = ["address x".to_owned(), "topic a".to_owned()].to_vec();
        let bridge = Bridge { place: "m:1".into(), name: "gateway".into(), lines };
        let (mut body, mut notes) = (String::new(), Notes::default());
        write(&mut body, &bridge, &mut notes);
        let plan = config::parse(&body, Path::new("x.toml"), &host_facts()).expect("checks").plan;
        assert_eq!(plan.bridges[0].uplink.name, "gateway-2");
        assert!(notes.0.iter().any(|note| note.weight == Weight::Loud && note.text.contains("gateway-2")));
    }

    #[test]
    fn a_connection_that_has_no_counterpart_is_shown_as_it_was() {
        let (page, loud) =
            carried(&["address x", "topic a/# sideways", "bridge_psk (left out: a secret belongs into a file)"]);
        assert!(page.lines().all(|line| line.is_empty() || line.starts_with('#')), "{page}");
        assert!(loud.iter().any(|told| told.contains("is not carried over (")), "{loud:?}");
        assert!(loud.iter().any(|told| told.contains("bridge_psk of a bridge")), "{loud:?}");
    }
}
