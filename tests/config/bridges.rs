//! Bridges and topics that come down: what they mean, and what is refused because it would go round for ever.

use std::fmt::Write as _;
use std::time::Duration;

use ironbridge::config::plan::{MqttVersion, Notifications, Plan, ReceiveQos, RetainHere};

use crate::support;

use support::{UPLINK, assert_refused, parse};

const BRIDGE: &str = "[[bridge]]\nname = \"b\"\nurl = \"mqtt://x\"\n";

fn plan(text: &str) -> Plan {
    parse(text).unwrap_or_else(|problems| panic!("{problems}")).plan
}

fn topic(keys: &str) -> String {
    format!("[[bridge.topic]]\n{keys}\n")
}

#[test]
fn a_bridge_means_what_mosquitto_means_by_one() {
    let both = "filter = \"#\"\ndirection = \"both\"\nlocal_prefix = \"here/\"\nremote_prefix = \"there/\"\nqos = 0";
    let text = format!(
        "[gateway]\nname = \"gw\"\n{BRIDGE}keep_alive = \"30s\"\nsession_expiry = \"1d\"\nmax_size = \"16MiB\"\n{}{}{}",
        topic("filter = \"o/#\"\nretain = false"),
        topic("filter = \"i/#\"\ndirection = \"in\"\nqos = 1"),
        topic(both),
    );
    let plan = plan(&text);
    let bridge = &plan.bridges[0];
    assert_eq!((bridge.uplink.client_id.as_str(), bridge.max_size), ("gw.b", 16 << 20));
    assert_eq!((bridge.uplink.keep_alive, bridge.notifications), (Duration::from_secs(30), Notifications::Told));
    assert_eq!(bridge.uplink.session_expiry, Duration::from_secs(86_400));
    let out: Vec<_> = bridge.out.iter().map(|out| (out.mapping.local_filter(), out.retain)).collect();
    assert_eq!(out, [("o/#".into(), RetainHere::Never), ("here/#".into(), RetainHere::AsPublished)]);
    let downs: Vec<_> = bridge.uplink.downs.iter().map(|down| (down.mapping.remote_filter(), down.qos)).collect();
    assert_eq!(downs, [("i/#".into(), ReceiveQos::AtLeastOnce), ("there/#".into(), ReceiveQos::AtMostOnce)]);
    assert_eq!(bridge.uplink.mqtt_version, MqttVersion::V5, "only MQTT 5 keeps what goes both ways from coming back");
}

#[test]
fn what_comes_down_stands_below_the_prefix_of_its_uplink() {
    let down = "[[uplink.down]]\nfilter = \"recipes/#\"\nlocal_prefix = \"cloud/\"\nremote_prefix = \"all/\"\n";
    let plan = plan(&format!("{UPLINK}url = \"mqtt://x\"\ntopic_prefix = \"site/\"\n{down}"));
    let down = &plan.uplinks[0].downs[0];
    assert_eq!(down.mapping.remote_filter(), "site/all/recipes/#");
    assert_eq!(down.mapping.to_local("site/all/recipes/a").as_deref(), Some("cloud/recipes/a"));
    assert_eq!(plan.uplinks[0].session_expiry, Duration::from_secs(7 * 86_400));
}

#[test]
fn a_bridge_says_what_is_wrong() {
    assert_refused(
        "",
        &[
            ("«[[bridge]]\nname = \"b\"\nurl = \"mqtt://x\"", "bridge[0].topic", "carries nothing"),
            ("«[[bridge]]\nname = \"b\"\n[[bridge.topic]]\nfilter = \"a\"", "bridge[0].url", "is missing"),
        ],
    );
    assert_refused(
        BRIDGE,
        &[
            ("«[[bridge.topic]]\nqos = 1", "bridge[0].topic[0].filter", "is missing"),
            ("[[bridge.topic]]\nfilter = «\"a/#/b\"", "bridge[0].topic[0].filter", "filter"),
            ("[[bridge.topic]]\nfilter = \"a\"\ndirection = «\"up\"", "bridge[0].topic[0].direction", "out, in, both"),
            ("[[bridge.topic]]\nfilter = \"a\"\nqos = «3", "bridge[0].topic[0].qos", "0 ..= 2"),
            ("[[bridge.topic]]\nfilter = \"a\"\nqos = «2", "bridge[0].topic[0].qos", "none is lost"),
            (
                "[[bridge.topic]]\nfilter = \"a\"\nlocal_prefix = «\"+/\"",
                "bridge[0].topic[0].local_prefix",
                "no wildcards",
            ),
            ("[[bridge.topic]]\nfilter = «\"ironbridge/#\"", "bridge[0].topic[0].filter", "belongs to the gateway"),
            (
                "[[bridge.topic]]\nfilter = «\"SYS/x\"\nlocal_prefix = \"$\"\ndirection = \"in\"",
                "bridge[0].topic[0].filter",
                "belongs to the gateway",
            ),
            ("[[bridge.topic]]\nfilter = «\"+/x/set/result\"", "bridge[0].topic[0].filter", "belongs to the gateway"),
            (
                "[[bridge.topic]]\nfilter = \"a\"\n[[bridge]]\nname = \"c\"\nclient_id = «\"box-7.b\"\nurl = \"mqtt://x:1883\"\n[[bridge.topic]]\nfilter = \"b\"",
                "bridge[1].client_id",
                "throw each other out",
            ),
        ],
    );
    assert_refused(
        &format!("{UPLINK}url = \"mqtt://x\"\n"),
        &[
            ("commands = true\n«[[uplink.down]]\nfilter = \"a\"", "uplink[0].down", "of its own"),
            ("[[uplink.down]]\nfilter = «\"ironbridge/x\"", "uplink[0].down[0].filter", "belongs to the gateway"),
            ("session_expiry = «\"1s\"", "uplink[0].session_expiry", "1m ..= 365d"),
        ],
    );
}

#[test]
fn clients_topics_that_end_in_set_may_go_over_a_bridge() {
    plan(&format!("{BRIDGE}{}", topic("filter = \"zigbee2mqtt/+/set\"\ndirection = \"both\"")));
}

#[test]
fn a_bridge_cannot_be_called_as_the_gateways_own_store_is_in_the_figures() {
    let case = "[[bridge]]\nname = «\"gateway\"\nurl = \"mqtt://x\"\n[[bridge.topic]]\nfilter = \"a\"\n";
    assert_refused("", &[(case, "bridge[0].name", "the gateway's own store")]);
    plan(&format!("[[uplink]]\nname = \"gateway\"\nurl = \"mqtt://x\"\n{BRIDGE}{}", topic("filter = \"a\"")));
}

/// The one problem of a configuration.
fn problem(text: &str) -> String {
    match parse(text) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn circles_are_refused_wherever_they_can_be_seen() {
    let round = "go round for ever";
    let other = "[[bridge]]\nname = \"c\"\nurl = \"mqtt://y\"\n";
    // Both directions of one bridge: MQTT 5 keeps what we sent from coming back, 3.1.1 cannot.
    let both = topic("filter = \"a/#\"\ndirection = \"both\"");
    assert_eq!(problem(&format!("{BRIDGE}{both}")), "");
    let old = problem(&format!("{BRIDGE}mqtt_version = \"3.1.1\"\n{both}"));
    assert!(old.contains("come back to where it was published"), "{old}");
    // Prefixes do not help where one rule is for both directions.
    let apart = topic("filter = \"a/#\"\ndirection = \"both\"\nlocal_prefix = \"l/\"\nremote_prefix = \"r/\"");
    assert!(problem(&format!("{BRIDGE}mqtt_version = \"3.1.1\"\n{apart}")).contains("come back"));
    // Out over one bridge, in over another one to the same broker.
    let (out, back) = (topic("filter = \"a/#\""), topic("filter = \"a/#\"\ndirection = \"in\""));
    let same = BRIDGE.replace("\"b\"", "\"c\"");
    let two = problem(&format!("{BRIDGE}{out}{same}{back}"));
    assert!(two.contains(round) && two.contains("\"a/#\" here -> [[bridge]] b out -> "), "{two}");
    // The same over brokers that are not the same is none that can be seen from here.
    assert_eq!(problem(&format!("{BRIDGE}{out}{other}{back}")), "");
    // Up by [[forward]], down by the same uplink, and by a bridge.
    let up = format!("{UPLINK}url = \"mqtt://x\"\n");
    let forward = "[[forward]]\nfilter = \"m/#\"\n";
    let down = problem(&format!("{up}[[uplink.down]]\nfilter = \"m/1\"\n{forward}"));
    assert!(down.contains(round) && down.contains("[[uplink.down]] of u"), "{down}");
    let away = format!("{up}[[uplink.down]]\nfilter = \"m/1\"\nlocal_prefix = \"cloud/\"\n{forward}");
    assert_eq!(problem(&away), "");
    let bridged = problem(&format!("{up}{forward}{BRIDGE}{}", topic("filter = \"m/#\"\ndirection = \"in\"")));
    assert!(bridged.contains(round), "{bridged}");
    // Prefixes that change with every turn make a circle too.
    let renamed = format!(
        "{BRIDGE}{}{same}{}",
        topic("filter = \"#\"\nlocal_prefix = \"l/\"\nremote_prefix = \"r/\""),
        topic("filter = \"#\"\ndirection = \"in\"\nlocal_prefix = \"l/\"\nremote_prefix = \"r/\"")
    );
    assert!(problem(&renamed).contains(round));
}

#[test]
fn more_ways_than_can_be_followed_are_no_proof_that_there_is_no_circle() {
    let mut tower = String::new();
    for (storey, room) in (0..8).flat_map(|storey| (0..4).map(move |room| (storey, room))) {
        let above = storey + 1;
        let _ = write!(tower, "[[bridge]]\nname = \"b{storey}{room}\"\nurl = \"mqtt://x:1883\"\n");
        tower += &topic(&format!("filter = \"#\"\nlocal_prefix = \"{storey}/\"\nremote_prefix = \"{above}/\""));
        tower += &topic(&format!("filter = \"{above}/#\"\ndirection = \"in\""));
    }
    let told = problem(&tower);
    assert!(told.contains("too many ways"), "{told}");
}
