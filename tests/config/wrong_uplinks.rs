//! Wrong uplinks by the dozen: brokers, formats, budgets, paths.

use crate::support;

use support::{BUS, DEVICE, UPLINK, assert_refused};

#[test]
fn a_url_says_what_is_wrong() {
    assert_refused(
        UPLINK,
        &[
            ("url = «\"http://x\"", "uplink[0].url", "mqtt://host[:1883], mqtts://host[:8883]"),
            ("url = «\"broker:1883\"", "uplink[0].url", "does not begin with"),
            ("url = «\"ws://x/a b\"", "uplink[0].url", "printable ASCII"),
            ("url = «\"ws://x/a#b\"", "uplink[0].url", "no #"),
            ("url = «\"mqtt://\"", "uplink[0].url", "the host is no name"),
            ("url = «\"mqtt://x:0\"", "uplink[0].url", "1 ..= 65535"),
            ("url = «\"mqtt://x:70000\"", "uplink[0].url", "1 ..= 65535"),
            ("url = «\"mqtt://x/path\"", "uplink[0].url", "ws:// and wss:// only"),
            ("url = «\"mqtt://::1\"", "uplink[0].url", "brackets"),
            ("urls = «[]", "uplink[0].urls", "1 ..= 16 URLs"),
            ("urls = [\"mqtt://a\", «\"mqtt://a:1883\"]", "uplink[0].urls", "twice"),
            ("urls = [\"mqtt://a\", «\"b\"]", "uplink[0].urls", "does not begin with"),
            ("url = «\"mqtt://a\"\nurls = [\"mqtt://b\"]", "uplink[0].url", "not both"),
        ],
    );
}

#[test]
fn an_uplink_says_what_is_wrong() {
    let mqtt = format!("{UPLINK}url = \"mqtt://x\"\n");
    assert_refused(
        &mqtt,
        &[
            ("client_id = «\"\"", "uplink[0].client_id", "must not be empty"),
            ("client_id = «\"a\\u0001\"", "uplink[0].client_id", "no client id"),
            ("ca_file = «\"ca.pem\"", "uplink[0].ca_file", "mqtts://"),
            ("password_file = «\"p\"", "uplink[0].password_file", "`username`"),
            ("«password = \"hunter2\"", "uplink[0].password", "password_file"),
            ("commands = «\"no\"", "uplink[0].commands", "true or false"),
            ("start = «\"newest\"", "uplink[0].start", "now, oldest"),
            ("keep_alive = «\"0s\"", "uplink[0].keep_alive", "1s ..= 18h"),
            ("keep_alive = «\"1d\"", "uplink[0].keep_alive", "1s ..= 18h"),
            ("topic_prefix = «\"a/+/\"", "uplink[0].topic_prefix", "wildcards"),
            ("classes = «[]", "uplink[0].classes", "carries nothing"),
            ("classes = [\"alarm\", «\"alarms\"]", "uplink[0].classes", "alarm, event, telemetry, bulk"),
            ("classes = [\"alarm\", «\"alarm\"]", "uplink[0].classes", "twice"),
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
fn formats_and_clouds_say_what_is_wrong() {
    let mqtt = format!("{UPLINK}url = \"mqtt://x\"\n");
    assert_refused(
        &mqtt,
        &[
            ("format = «\"xml\"", "uplink[0].format", "unknown word"),
            ("group_id = «\"g\"", "uplink[0].group_id", "sparkplug only"),
            ("compress = «\"gzip\"", "uplink[0].compress", "sparkplug"),
            ("format = \"batch\"\nlayout = «\"device\"", "uplink[0].layout", "json only"),
            ("format = \"batch\"\ncompress = «\"none\"", "uplink[0].compress", "json only"),
            ("layout = \"device\"\nbatch_samples = «10", "uplink[0].batch_samples", "cannot be batched"),
            ("batch_samples = «0", "uplink[0].batch_samples", "1 ..= 60000"),
            ("batch_interval = «\"2h\"", "uplink[0].batch_interval", "0s ..= 1h"),
            ("summary_after = «\"1s\"", "uplink[0].summary_after", "1m ..= 30d"),
            ("proxy = «\"ftp://x\"", "uplink[0].proxy", "socks5://"),
            ("proxy = «\"http://me:pw@x\"", "uplink[0].proxy", "proxy_password_file"),
            ("proxy_username = «\"me\"", "uplink[0].proxy_username", "goes with `proxy`"),
            ("proxy = \"http://x\"\nproxy_password_file = «\"p\"", "uplink[0].proxy_password_file", "`proxy_username`"),
            ("proxy = \"socks5://x\"\nproxy_username = «\"\"", "uplink[0].proxy_username", "1 ..= 255 bytes"),
            ("proxy = \"http://x\"\nproxy_username = «\"a:b\"", "uplink[0].proxy_username", "colon"),
            ("proxy = «\"http://x/path\"", "uplink[0].proxy", "http://host[:3128]"),
            ("username = «\"\"", "uplink[0].username", "must not be empty"),
            ("username = «\"a\\u0007\"", "uplink[0].username", "no user name"),
            ("classes = «\"alarm\"", "uplink[0].classes", "expected a list"),
            ("budget = «\"20MiB/day\"", "uplink[0].budget", "expected a list"),
            ("mqtt_version = «\"3.1\"", "uplink[0].mqtt_version", "auto, 3.1.1, 5"),
            ("sas_key_file = «\"k\"", "uplink[0].sas_key_file", "azure"),
            ("delivery = «\"live\"", "uplink[0].delivery", "strict, live-first"),
            ("preset = «\"gcp\"", "uplink[0].preset", "plain, aws, azure, hivemq, emqx"),
        ],
    );
}

#[test]
fn an_edge_node_says_which_keys_sparkplug_leaves_no_choice_for() {
    let node = format!("{UPLINK}url = \"mqtt://x\"\nformat = \"sparkplug\"\ngroup_id = \"plant\"\n");
    assert_refused(
        &node,
        &[
            ("delivery = «\"strict\"", "uplink[0].delivery", "live-first"),
            ("mqtt_version = «\"5\"", "uplink[0].mqtt_version", "not in this version"),
            ("topic_prefix = «\"a/\"", "uplink[0].topic_prefix", "spBv1.0"),
            ("summary_after = «\"1h\"", "uplink[0].summary_after", "historical"),
            ("layout = «\"device\"", "uplink[0].layout", "json only"),
            ("compress = «\"zstd\"", "uplink[0].compress", "gzip"),
            ("edge_node_id = «\"a/b\"", "uplink[0].edge_node_id", "one level"),
            ("primary_host = «\"#\"", "uplink[0].primary_host", "one level"),
            ("primary_host = \"h\"\nhost_timeout = «\"2h\"", "uplink[0].host_timeout", "0s ..= 1h"),
            ("host_timeout = «\"5s\"", "uplink[0].host_timeout", "primary_host"),
            ("datatypes = «\"never\"", "uplink[0].datatypes", "births, always"),
        ],
    );
}

#[test]
fn the_local_broker_takes_an_edge_node_and_nothing_about_networks() {
    let node = format!("{UPLINK}url = \"local:\"\nformat = \"sparkplug\"\ngroup_id = \"plant\"\n");
    let second = "[[uplink]]\nname = \"b\"\nformat = \"sparkplug\"\ngroup_id = \"plant\"\n";
    let bridge = "[[bridge]]\nname = \"c\"\n";
    let topic = "url = \"mqtt://x\"\n[[bridge.topic]]\n";
    assert_refused(
        &node,
        &[
            ("client_id = «\"x\"", "uplink[0].client_id", "no use on the local broker"),
            ("username = «\"x\"", "uplink[0].username", "no use on the local broker"),
            ("budget = «[\"1MiB/day\"]", "uplink[0].budget", "a bill"),
            ("proxy = «\"http://x\"", "uplink[0].proxy", "no use on the local broker"),
            (&format!("{second}url = «\"local:\""), "uplink[1].url", "this edge node on the local broker already"),
            (&format!("{second}urls = [\"mqtt://x\", «\"local:\"]"), "uplink[1].urls", "no other beside it"),
            (&format!("{bridge}url = «\"local:\"\n[[bridge.topic]]\nfilter = \"a\""), "bridge[0].url", "begins at"),
        ],
    );
    assert_refused(
        &format!("{node}[[uplink]]\nname = \"b\"\nurl = \"mqtt://x\"\n"),
        &[
            (
                "«[[forward]]\nfilter = \"spBv1.0/plant/DDATA/gw/#\"\nclass = \"bulk\"\nuplinks = [\"b\"]",
                "forward",
                "it is not forwarded",
            ),
            (&format!("«{bridge}{topic}filter = \"spBv1.0/plant/+/gw\""), "bridge", "it does not go out"),
        ],
    );
    assert_refused(UPLINK, &[("url = «\"local:\"", "uplink[0].url", "only an edge node")]);
}

#[test]
fn nothing_comes_down_over_an_edge_node() {
    let node = format!("{UPLINK}url = \"mqtt://x\"\nformat = \"sparkplug\"\ngroup_id = \"plant\"\n");
    assert_refused(&node, &[("«[[uplink.down]]\nfilter = \"a\"", "uplink[0].down", "its commands alone")]);
}

#[test]
fn two_tags_of_a_device_cannot_be_one_metric() {
    let site = |topic: &str| {
        let tags = "[[device.tag]]\nname = \"flow\"\naddress = \"holding:0\"\ntype = \"uint16\"\n\
                    [[device.tag]]\nname = \"level\"\naddress = \"holding:1\"\ntype = \"uint16\"\n";
        let uplink = "url = \"mqtt://x\"\ngroup_id = \"plant\"\nformat = «\"sparkplug\"";
        format!("[gateway]\ntopic = \"{topic}\"\n{BUS}{DEVICE}{tags}{UPLINK}{uplink}")
    };
    let both = "flow and level of the device d would both be the metric \"value\"";
    assert_refused("", &[(&site("{tag}/{device}/value"), "uplink[0].format", both)]);
    assert!(support::parse(&site("{device}/{tag}/value").replace('«', "")).is_ok());
}

#[test]
fn budgets_and_rates_say_what_is_wrong() {
    let mqtt = format!("{UPLINK}url = \"mqtt://x\"\n");
    assert_refused(
        &mqtt,
        &[
            ("max_rate = «\"32KiB\"", "uplink[0].max_rate", "32KiB/s"),
            ("max_rate = «\"1B/s\"", "uplink[0].max_rate", "128B/s ..= 1GiB/s"),
            ("budget = [«\"20MiB\"]", "uplink[0].budget", "200MiB/month"),
            ("budget = [«\"1B/day\"]", "uplink[0].budget", "64KiB ..= 16TiB"),
            ("budget = [\"1MiB/day\", «\"2MiB/day\"]", "uplink[0].budget", "already"),
            ("reserve = «\"95%\"", "uplink[0].reserve", "90%"),
            ("reserve = «\"0.2\"", "uplink[0].reserve", "no part of a budget"),
            ("overrun = «\"all\"", "uplink[0].overrun", "stop, alarms"),
        ],
    );
}

#[test]
fn paths_say_what_is_wrong() {
    let mqtt = format!("{UPLINK}url = \"mqtt://x\"\n");
    assert_refused(
        &mqtt,
        &[
            ("«[[uplink.path]]\nname = \"c\"", "uplink[0].path[0].interface", "is missing"),
            ("«[[uplink.path]]\ninterface = \"wwan0\"", "uplink[0].path[0].name", "is missing"),
            ("[[uplink.path]]\nname = \"c\"\nsource = «\"wwan0\"", "uplink[0].path[0].source", "no address"),
            ("[[uplink.path]]\nname = \"c\"\ninterface = «\"a/b\"", "uplink[0].path[0].interface", "no interface"),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nsource = «\"::1\"",
                "uplink[0].path[0].source",
                "not both",
            ),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nschedule = «\"hourly\"",
                "uplink[0].path[0].schedule",
                "*/15min for 2min",
            ),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nschedule = «\"*/1h for 2h\"",
                "uplink[0].path[0].schedule",
                "out of range",
            ),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nprice = «\"cheap\"",
                "uplink[0].path[0].price",
                "0.03/MiB",
            ),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nbudget = [«\"1GiB/year\"]",
                "uplink[0].path[0].budget",
                "200MiB/month",
            ),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nmax_rate = «\"2GiB/s\"",
                "uplink[0].path[0].max_rate",
                "128B/s ..= 1GiB/s",
            ),
            ("[[uplink.path]]\nname = \"c\"\ninterface = «\"\"", "uplink[0].path[0].interface", "1 ..= 15 bytes"),
            (
                "[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\n[[uplink.path]]\nname = «\"c\"\ninterface = \"v\"",
                "uplink[0].path[1].name",
                "exists already",
            ),
            (
                "classes = [\"alarm\"]\n[[uplink.path]]\nname = \"c\"\ninterface = \"w\"\nclasses = «[\"bulk\"]",
                "uplink[0].path[0].classes",
                "does not carry",
            ),
        ],
    );
}

#[test]
fn what_a_cloud_would_not_take_is_said_beforehand() {
    let azure = format!(
        "{UPLINK}url = \"mqtts://hub.azure-devices.net\"\nca_file = \"ca\"\nsas_key_file = \"k\"\npreset = \"azure\"\n"
    );
    assert_refused(
        &azure,
        &[
            ("mqtt_version = «\"5\"", "uplink[0].mqtt_version", "3.1.1 only"),
            ("commands = «true", "uplink[0].commands", "no topics for commands"),
            ("client_id = «\"a b\"", "uplink[0].client_id", "device id"),
            ("keep_alive = «\"1h\"", "uplink[0].keep_alive", "1177s"),
        ],
    );
    let aws = format!("{UPLINK}url = \"mqtts://x\"\nca_file = \"ca\"\npreset = \"aws\"\n");
    assert_refused(
        &aws,
        &[
            ("keep_alive = «\"5s\"", "uplink[0].keep_alive", "30s ..= 1200s"),
            ("topic_prefix = «\"a/b/c/d/e/f/g/h/\"", "uplink[0].topic_prefix", "7"),
        ],
    );
}
