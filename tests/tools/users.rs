//! `passwd` and `broker import` as processes: what is written, who may read it, and that nothing is dropped in silence.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ironbridge::access::{Access, Arriving, Credentials, Refused};
use ironbridge::config::plan::{Anonymous, BrokerLimits, BrokerPlan};
use ironbridge::config::{self, HostFacts};

/// Exit code, standard output, standard error.
fn run(words: &[&str], input: &str, home: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironbridge"));
    command.args(words).current_dir(home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    // It may have ended without a look at it.
    drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
    let told = child.wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (told.status.code(), text(&told.stdout), text(&told.stderr))
}

fn plan(home: &Path) -> BrokerPlan {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let loaded = config::parse("[broker]\nusers_file = \"users\"\n", &home.join("x.toml"), &facts).expect("checks");
    loaded.plan.broker
}

async fn log_in(access: &Access, user: &str, password: &[u8]) -> Result<(), Refused> {
    let arriving = Arriving { door: Anonymous::None, client: "c", from: None };
    let shown = Credentials { user: Some(user), password: Some(password), certificate: None, sensor: None };
    access.admit(arriving, shown).await.map(drop)
}

#[tokio::test]
async fn a_user_that_passwd_adds_changes_and_deletes_can_log_in_and_then_cannot() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("users"), "# plant\nold:$6$x\n").expect("written");
    for (user, password) in [("hmi", "first\n"), ("logger", " blanks and $%:é \r\n"), ("hmi", "second")] {
        let (code, told, error) = run(&["passwd", "users", user], password, home);
        assert_eq!((code, told.as_str()), (Some(0), ""), "{error}");
        assert!(error.contains(user) && !error.contains(password.trim()), "{error}");
    }
    let text = fs::read_to_string(home.join("users")).expect("readable");
    assert!(text.starts_with("# plant\nold:$6$x\nhmi:$argon2id$") && text.lines().count() == 4, "{text}");
    assert!(!text.contains("second") && !text.contains("blanks"));
    let mode = |name: &str| fs::metadata(home.join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode("users") & 0o007, 0, "what was everybody's is not any more");
    let access = Access::new(&plan(home));
    access.load_users();
    assert_eq!(log_in(&access, "hmi", b"second").await, Ok(()));
    assert_eq!(log_in(&access, "hmi", b"first").await, Err(Refused::BadCredentials));
    assert_eq!(log_in(&access, "logger", " blanks and $%:é ".as_bytes()).await, Ok(()));
    assert_eq!(run(&["passwd", "-D", "users", "hmi"], "", home).0, Some(0));
    access.load_users();
    assert_eq!(log_in(&access, "hmi", b"second").await, Err(Refused::BadCredentials));
    assert_eq!(run(&["passwd", "new", "a"], "x", home).0, Some(0));
    assert_eq!(mode("new"), 0o600);
    let mut left: Vec<_> = fs::read_dir(home).expect("listed").map(|entry| entry.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["new", "users"], "nothing is left lying about");
}

#[test]
fn passwd_refuses_what_would_be_a_mistake_and_leaves_the_file_alone() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("users"), "hmi:x\n").expect("written");
    let wrong: [(&[&str], &str, &str); 8] = [
        (&["passwd", "users", "hmi", "hunter2"], "", "does not belong on the command line"),
        (&["passwd", "-b", "users", "hmi", "hunter2"], "", "does not belong on the command line"),
        (&["passwd", "-c", "users", "hmi"], "x", "-c is not needed"),
        (&["passwd", "users", "hmi"], "", "empty"),
        (&["passwd", "users", "hmi"], "two\nlines\n", "one line"),
        (&["passwd", "users", "a:b"], "x", "colon"),
        (&["passwd", "users", "anonymous"], "x", "means something else"),
        (&["passwd", "-D", "users", "nobody"], "", "no user nobody"),
    ];
    for (words, input, part) in wrong {
        let (code, _, told) = run(words, input, home);
        assert!(code == Some(64) && told.contains(part) && !told.contains("hunter2"), "{words:?}: {code:?} {told}");
    }
    let (code, _, told) = run(&["passwd", "no/users", "hmi"], "x", home);
    assert!(code == Some(75) && told.contains("no/users"), "{told}");
    assert_eq!(fs::read_to_string(home.join("users")).expect("readable"), "hmi:x\n");
}

#[test]
fn users_who_are_added_at_the_same_time_are_all_there() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || assert_eq!(run(&["passwd", "users", &format!("u{number}")], "x", home).0, Some(0)));
        }
    });
    assert_eq!(fs::read_to_string(home.join("users")).expect("readable").lines().count(), 8);
}

const CONF: &str = "\
# a plant
per_listener_settings false
allow_anonymous false
password_file passwords
acl_file rules
persistence true
max_connections 200
max_keepalive 60
psk_file secrets
listener 1883 127.0.0.1
listener 8883 0.0.0.0
certfile server.crt
keyfile server.key
cafile clients.crt
require_certificate true
use_identity_as_username true
listener 9001 127.0.0.1
protocol websockets
http_dir /srv/www
listener 0 /run/mosquitto.sock
listener 1884
connection up
address broker.example.com:8883
bridge_cafile ca.crt
remote_username gw
remote_password hunter2
topic machines/# out 1
topic commands/# in 1
bridge_psk deadbeef
tls_engine x
";

const RULES: &str = "\
topic read public/#
user hmi
topic machines/#
topic deny machines/secret
topic read plant/+/state
nonsense line
user nobody
topic x
pattern readwrite u/%u/#
pattern read c/%c
";

const PASSWORDS: &str = "\
hmi:$7$101$BvuWeUkv7+YRjiZt$e3U55Eiik04AHrfzILsRyAERZQw7AgXZV+oHMjpIXaqdx7hChWe6sK9FF15VNmMjzaNbDXQMEp2r2kBG3tu4nw==
broken:$5$x
";

#[test]
fn a_mosquitto_is_carried_over_and_every_line_that_is_not_is_named() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    for (name, text) in [("mosquitto.conf", CONF), ("rules", RULES), ("passwords", PASSWORDS)] {
        fs::write(home.join(name), text).expect("written");
    }
    let (code, page, told) = run(&["broker", "import", "mosquitto.conf"], "", home);
    assert_eq!(code, Some(0), "{told}");
    let (code, _, told_too) = run(&["broker", "import", "mosquitto.conf", "--out-dir", "out"], "", home);
    assert_eq!(code, Some(0), "{told_too}");
    let copy = fs::read_to_string(home.join("out/users")).expect("a copy of the users");
    assert!(copy.starts_with("hmi:$7$101$") && copy.lines().count() == 1, "{copy}");
    assert_eq!(fs::metadata(home.join("out/users")).expect("there").permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(home.join("out/broker.toml")).expect("written");
    let (code, _, error) = run(&["check", "--config", "out/broker.toml"], "", home);
    assert_eq!(code, Some(0), "{error}\n{written}");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let plan = config::parse(&page, &home.join("x.toml"), &facts).expect("checks").plan;
    let listeners: Vec<String> = plan.broker.listeners.iter().map(|door| door.listen.to_string()).collect();
    let doors = ["127.0.0.1:1883", "0.0.0.0:8883", "127.0.0.1:9001", "unix:/run/mosquitto.sock", "127.0.0.1:1884"];
    assert_eq!(listeners, doors);
    assert!(plan.broker.listeners.iter().all(|door| door.anonymous == Anonymous::None));
    assert!(plan.broker.listeners[1].tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()));
    assert!(plan.broker.listeners[2].websocket.is_some());
    assert_eq!(plan.bridges.len(), 1);
    assert_eq!(plan.broker.limits.keep_alive_max, Some(60));
    let rule = |user: &str| plan.broker.acl.iter().find(|rule| rule.user == user).unwrap_or_else(|| panic!("{user}"));
    assert_eq!((&rule("hmi").read[..], &rule("hmi").write[..]), (&["plant/+/state".to_owned()][..], &[][..]));
    assert_eq!(rule("*").write, ["u/%u/#"]);
    assert_eq!(rule("*").read, ["u/%u/#", "c/%c"]);
    // What somebody must know, by its line, on the screen and in the file.
    let loud = [
        ("mosquitto.conf:9:", "psk_file"),
        ("mosquitto.conf:19:", "http_dir"),
        ("mosquitto.conf:21:", "LOOPBACK ONLY"),
        ("mosquitto.conf:22:", "password"),
        ("mosquitto.conf:30:", "tls_engine"),
        ("rules:3:", "LEFT OUT WHOLE"),
        ("rules:6:", "nonsense"),
        ("passwords:2:", "broken"),
    ];
    for (place, part) in loud {
        let named = |text: &str| text.lines().any(|line| line.contains(place) && line.contains(part));
        assert!(named(&told), "{place} {part} in\n{told}");
        assert!(named(&page), "{place} {part} in\n{page}");
    }
    assert!(![&page, &told, &written].iter().any(|text| text.contains("hunter2") || text.contains("deadbeef")));
}

#[test]
fn a_door_that_is_moved_to_loopback_is_held_to_no_interface_and_that_is_said() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    let conf = "password_file passwords\nlistener 1884\nbind_interface eth0\n\
        listener 1885 plant.example.com\nbind_interface eth1\n\
        listener 8883 0.0.0.0\nbind_interface eth2\ncertfile server.crt\nkeyfile server.key\n\
        listener 1886 127.0.0.1\nbind_interface lo\n";
    fs::write(home.join("m.conf"), conf).expect("written");
    let (code, page, told) = run(&["broker", "import", "m.conf"], "", home);
    assert_eq!(code, Some(0), "{told}");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let plan = config::parse(&page, &home.join("x.toml"), &facts).expect("checks").plan;
    let doors: Vec<_> =
        plan.broker.listeners.iter().map(|door| (door.listen.to_string(), door.interface.as_deref())).collect();
    let wanted =
        [("127.0.0.1:1884", None), ("127.0.0.1:1885", None), ("0.0.0.0:8883", Some("eth2")), ("127.0.0.1:1886", None)];
    assert_eq!(doors, wanted.map(|(address, interface)| (address.to_owned(), interface)));
    for (place, part) in [("m.conf:2:", "eth0"), ("m.conf:4:", "eth1")] {
        let is_said = |line: &str| line.contains(place) && line.contains(part);
        assert!(told.lines().any(is_said), "{place} {part} in\n{told}");
    }
    for (place, part) in [("m.conf:2:", "eth0"), ("m.conf:4:", "eth1"), ("m.conf:10:", "bind_interface lo")] {
        assert!(page.lines().any(|line| line.contains(place) && line.contains(part)), "{place} {part} in\n{page}");
    }
}

/// The plan of an import.
fn imported(home: &Path, conf: &str) -> (ironbridge::config::plan::Plan, String) {
    fs::write(home.join("m.conf"), conf).expect("written");
    let (code, page, told) = run(&["broker", "import", "m.conf"], "", home);
    assert_eq!(code, Some(0), "{told}");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    (config::parse(&page, &home.join("x.toml"), &facts).expect("checks").plan, told)
}

#[test]
fn a_flag_is_read_as_mosquitto_reads_it_and_no_door_is_opened_by_one_that_cannot_be_read() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    let tls = "listener 8883 # the plant's\ncafile ca.crt\ncertfile server.crt\nkeyfile server.key\n";
    let asks = |flag: &str| {
        let (plan, _) = imported(home, &format!("password_file passwords\n{tls}require_certificate {flag}\n"));
        let door = &plan.broker.listeners[0];
        assert_eq!(door.listen.to_string(), "0.0.0.0:8883");
        door.tls.as_ref().expect("secure").client_ca.is_some()
    };
    for (flag, asked) in [("true", true), ("1", true), ("true # mutual", true), ("false", false), ("0 # no", false)] {
        assert_eq!(asks(flag), asked, "{flag}");
    }
    for wrong in ["require_certificate yes", "require_certificate", "allow_anonymous True", "per_listener_settings on"]
    {
        fs::write(home.join("m.conf"), format!("{tls}{wrong}\n")).expect("written");
        let (code, page, told) = run(&["broker", "import", "m.conf"], "", home);
        assert_eq!((code, page.as_str()), (Some(78), ""), "{wrong}");
        assert!(told.contains("m.conf:5:") && told.contains("true, false, 1 or 0"), "{wrong}: {told}");
    }
    let per_listener = "per_listener_settings 1\nport 1883 # first\nallow_anonymous 1\nbind_address 127.0.0.1\n\
                        listener 1884 127.0.0.1\nprotocol websockets # for pages\nallow_anonymous 0\npassword_file passwords\n";
    fs::write(home.join("m.conf"), per_listener).expect("written");
    let (code, _, told) = run(&["broker", "import", "m.conf"], "", home);
    assert!(code == Some(78) && told.contains("per_listener_settings"), "{told}");
    let (plan, _) = imported(home, &per_listener.replace("password_file passwords\n", ""));
    let doors: Vec<_> = plan.broker.listeners.iter().map(|door| (door.anonymous, door.websocket.is_some())).collect();
    assert_eq!(doors, [(Anonymous::ReadWrite, false), (Anonymous::None, true)]);
}

#[test]
fn what_let_in_less_and_has_no_counterpart_leaves_the_door_on_loopback() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    let tls = "password_file passwords\nlistener 8883 0.0.0.0\ncertfile server.crt\nkeyfile server.key\n";
    let listen = |conf: &str| {
        let (plan, told) = imported(home, conf);
        (plan.broker.listeners[0].listen.to_string(), plan.broker.acl.len(), told)
    };
    let (address, rules, _) = listen(tls);
    assert_eq!((address.as_str(), rules), ("0.0.0.0:8883", 1));
    for key in
        ["capath /etc/certs\nrequire_certificate true", "crlfile revoked.pem", "mount_point x/", "clientid_prefixes a"]
    {
        let (address, _, told) = listen(&format!("{tls}{key}\n"));
        let word = key.split(' ').next().expect("a key");
        assert!(address == "127.0.0.1:8883" && told.contains(word), "{key}: {address}\n{told}");
    }
    let (address, rules, _) = listen(&format!("{tls}plugin /usr/lib/rules.so\n"));
    assert_eq!((address.as_str(), rules), ("127.0.0.1:8883", 0), "the plugin said who may what");
}

#[test]
fn where_a_plugin_a_psk_or_prefixes_kept_clients_out_nobody_comes_in_without_a_name_and_that_is_said() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("rules"), "topic read a\npattern write b\n").expect("written");
    let base = "allow_anonymous true\nlistener 1883 127.0.0.1\n";
    let doors = |conf: &str| {
        let (plan, told) = imported(home, conf);
        (plan.broker.listeners.into_iter().map(|door| door.anonymous).collect::<Vec<_>>(), told)
    };
    assert_eq!(doors(base).0, [Anonymous::ReadWrite]);
    for (line, word) in [
        ("plugin /usr/lib/mosquitto_dynamic_security.so", "plugin"),
        ("psk_file secrets.psk\npsk_hint hall", "psk"),
        ("psk_hint hall", "psk_hint"),
        ("clientid_prefixes plc-", "clientid_prefixes"),
        ("mount_point line1/", "mount_point"),
        ("acl_file rules\nmount_point line1/", "mount_point"),
    ] {
        let (anonymous, told) = doors(&format!("{base}{line}\n"));
        assert_eq!(anonymous, [Anonymous::None], "{line}");
        let said = |text: &str| text.contains("m.conf:2:") && text.contains("NOT LET IN") && text.contains(word);
        assert!(told.lines().any(said), "{line}:\n{told}");
    }
    let (anonymous, _) = doors(&format!("{base}mount_point line1/\nlistener 1884 127.0.0.1\n"));
    assert_eq!(anonymous, [Anonymous::None, Anonymous::ReadWrite], "it is that listener's alone");
}

#[test]
fn where_nobody_has_a_password_no_name_is_said_to_need_one() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let base = "allow_anonymous true\nlistener 1883 127.0.0.1\n";
    let (plan, told) = imported(home, base);
    // As there: nobody looks at names, whoever comes is let in.
    assert_eq!((plan.broker.users_file, plan.broker.listeners[0].anonymous), (None, Anonymous::ReadWrite));
    assert!(!told.contains("password"), "{told}");
    fs::write(home.join("rules"), "topic read a\nuser hmi\ntopic read b\n").expect("written");
    let (plan, told) = imported(home, &format!("{base}acl_file rules\n"));
    let users: Vec<_> = plan.broker.acl.iter().map(|rule| &*rule.user).collect();
    assert!(users == ["anonymous"] && told.contains("\"hmi\" is left out"), "{users:?}: {told}");
}

#[test]
fn where_the_user_name_was_the_client_id_a_pattern_asks_for_the_name_which_nobody_can_choose() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    fs::write(home.join("rules"), "pattern readwrite c/%c/#\npattern read %u/%c\npattern deny c/%c/x\ntopic read %c\n")
        .expect("written");
    let base = "password_file passwords\nacl_file rules\nallow_anonymous true\nlistener 1883 127.0.0.1\n";
    let (plan, told) = imported(home, &format!("{base}use_username_as_clientid true\nlistener 1884 127.0.0.1\n"));
    let filters = |plan: &ironbridge::config::plan::Plan| -> Vec<String> {
        plan.broker.acl.iter().flat_map(|rule| [&rule.read[..], &rule.write[..]].concat()).collect()
    };
    assert_eq!(filters(&plan), ["%u/%u"], "c/%c/# is denied in part");
    assert!(told.lines().any(|line| line.contains("m.conf:5:") && line.contains("%c is written as %u")), "{told}");
    // There nobody came in without a name.
    let doors: Vec<_> = plan.broker.listeners.iter().map(|door| door.anonymous).collect();
    assert_eq!(doors, [Anonymous::None, Anonymous::Acl]);
    fs::write(home.join("rules"), "pattern readwrite c/%c/#\n").expect("written");
    let said_no = imported(home, &format!("{base}use_username_as_clientid false\n")).0;
    let of_all: Vec<_> = said_no.broker.acl.iter().filter(|rule| rule.user == "*").collect();
    assert_eq!(of_all[0].read, ["c/%c/#"]);
    let said_yes =
        imported(home, &format!("use_username_as_clientid true\n{}", base.replace("listener", "port 1882\nlistener")))
            .0;
    assert!(
        said_yes.broker.acl.iter().all(|rule| rule.user == "*" && rule.read == ["c/%u/#"]),
        "{:?}",
        said_yes.broker.acl
    );
}

#[test]
fn a_certificate_does_not_get_the_rights_that_needed_a_password_beside_it() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    fs::write(home.join("rules"), "user hmi\ntopic machines/#\n").expect("written");
    let door = |port: u16, more: &str| {
        format!(
            "listener {port} 0.0.0.0\ncertfile s.crt\nkeyfile s.key\ncafile c.crt\nrequire_certificate true\n{more}"
        )
    };
    let base = "password_file passwords\nacl_file rules\n";
    let users =
        |conf: &str| -> Vec<String> { imported(home, conf).0.broker.acl.into_iter().map(|rule| rule.user).collect() };
    let by_certificate = door(8883, "use_identity_as_username true\n");
    assert_eq!(users(&format!("{base}{by_certificate}")), ["hmi", "cert:hmi"]);
    assert_eq!(users(&format!("{base}{by_certificate}{}", door(8884, ""))), ["hmi"]);
}

#[test]
fn a_bridge_with_tls_is_never_carried_over_in_the_clear() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    for key in ["bridge_capath /etc/ssl/certs", "bridge_tls_use_os_certs true", "bridge_psk 00"] {
        let conf = format!("connection up\naddress cloud:8883\nremote_username u\n{key}\ntopic a/# out 1\n");
        let (plan, told) = imported(home, &conf);
        assert!(plan.bridges.is_empty() && told.contains("is not carried over"), "{key}: {told}");
    }
    let conf = "connection up\naddress cloud:8883\nbridge_cafile ca.crt\ntopic a/# out 1\n";
    assert_eq!(imported(home, conf).0.bridges.len(), 1);
}

#[test]
fn a_door_that_would_be_moved_to_where_another_one_is_is_left_out_and_that_is_said() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let conf = "listener 1883\nlistener 1883 127.0.0.1\nlistener 1884 10.0.0.1\nlistener 1884 10.0.0.2\n\
        listener 1885 plant.example.com\nlistener 1885 127.0.0.1\n";
    fs::write(home.join("m.conf"), conf).expect("written");
    let (code, page, told) = run(&["broker", "import", "m.conf"], "", home);
    assert_eq!(code, Some(0), "{told}");
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let plan = config::parse(&page, &home.join("x.toml"), &facts).expect("checks").plan;
    let doors: Vec<String> = plan.broker.listeners.iter().map(|door| door.listen.to_string()).collect();
    assert_eq!(doors, ["127.0.0.1:1883", "127.0.0.1:1884", "127.0.0.1:1885"]);
    for line in [1, 4, 5] {
        let is_said = |text: &str| {
            text.lines().any(|said| said.contains(&format!("m.conf:{line}:")) && said.contains("LEFT OUT"))
        };
        assert!(is_said(&told) && is_said(&page), "line {line} in\n{told}\n{page}");
    }
}

#[test]
fn what_clients_may_do_is_carried_over_with_the_listener_it_belongs_to() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let import = |conf: &str| {
        let (plan, told) = imported(home, conf);
        assert!(!told.contains("not carried over"), "{told}");
        plan.broker
    };
    let conf = "message_size_limit 5\nmax_packet_size 20\nretain_available false\ncheck_retain_source false\n\
        listener 1883 127.0.0.1\nmax_qos 1\nlistener 1884 127.0.0.1\nmaximum_qos 0\nlistener 1885 127.0.0.1\n\
        allow_zero_length_clientid false\n";
    let broker = import(conf);
    let limits = broker.limits;
    assert_eq!((limits.payload_bytes, limits.packet_bytes), (5, 20));
    assert!(!limits.retain_available && !limits.check_retain_source);
    let doors = |broker: &BrokerPlan| -> Vec<(u8, bool)> {
        broker.listeners.iter().map(|door| (door.max_qos, door.require_client_id)).collect()
    };
    assert_eq!(doors(&broker), [(1, true), (0, true), (2, true)]);
    let broker = import(&format!("per_listener_settings true\n{conf}"));
    assert_eq!(doors(&broker), [(1, false), (0, false), (2, true)]);
}

#[test]
fn every_line_of_a_mosquitto_conf_is_carried_over_or_named() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    // One of each, with a value that means something.
    let keys = [
        "auto_id_prefix x",
        "autosave_interval 5",
        "clientid_prefixes a",
        "log_dest stdout",
        "max_inflight_bytes 5",
        "max_queued_messages 5",
        "max_queued_bytes 5",
        "memory_limit 5",
        "message_size_limit 0",
        "queue_qos0_messages true",
        "sys_interval 1",
        "websockets_headers_size 5",
        "max_qos 3",
        "max_topic_alias 3",
        "mount_point x/",
        "crlfile c",
        "dhparamfile d",
        "tls_engine x",
        "use_subject_as_username true",
        "use_username_as_clientid true",
        "ciphers x",
        "tls_version tlsv1.2",
        "auth_plugin x",
        "psk_hint x",
        "nonsense",
    ];
    for key in keys {
        fs::write(home.join("m.conf"), format!("\n{key}\n")).expect("written");
        let (code, page, told) = run(&["broker", "import", "m.conf"], "", home);
        assert_eq!(code, Some(0), "{key}: {told}");
        assert!(page.lines().any(|line| line.starts_with("#   m.conf:2: ")), "{key} in\n{page}");
    }
}

#[test]
fn what_is_less_here_than_it_was_is_said_on_the_screen_too() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    for (key, is_loud) in [
        ("queue_qos0_messages true", true),
        ("queue_qos0_messages false", false),
        ("upgrade_outgoing_qos 1", true),
        ("tls_version tlsv1.3", true),
        ("tls_version tlsv1.2", false),
        ("max_packet_size 5000000", true),
        ("max_packet_size 5000", false),
        ("message_size_limit 5000000", true),
        ("message_size_limit 0", true),
        ("max_inflight_messages 0", true),
        ("persistent_client_expiration 11y", true),
        ("persistent_client_expiration 2m", false),
    ] {
        let (_, told) = imported(home, &format!("\n{key}\n"));
        assert_eq!(told.contains("m.conf:2: "), is_loud, "{key}: {told}");
    }
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    let tls = "certfile server.crt\nkeyfile server.key\n";
    for (address, is_loud) in [("", true), (" 0.0.0.0", false), (" ::", false)] {
        let (_, told) = imported(home, &format!("password_file passwords\nlistener 8883{address}\n{tls}"));
        assert_eq!(told.contains("IPv4 only"), is_loud, "{address}: {told}");
    }
}

#[test]
fn what_was_of_one_listener_is_not_made_a_limit_of_all_of_them_and_sessions_last_as_long() {
    let home = tempfile::tempdir().expect("a directory");
    let one = "listener 1883 127.0.0.1\nmax_connections 100\n";
    let (plan, told) = imported(home.path(), one);
    assert_eq!((plan.broker.limits.connections, told.contains("max_connections")), (100, false));
    let (plan, told) = imported(home.path(), &format!("{one}listener 1884 127.0.0.1\nmax_connections 2\n"));
    assert_eq!(plan.broker.limits.connections, BrokerLimits::default().connections);
    assert!(["m.conf:2:", "m.conf:4:"].iter().all(|place| told.contains(place)), "{told}");
    assert_eq!(plan.broker.sessions.session_expiry_max, 3650 * 86_400, "mosquitto keeps them for ever");
    let (plan, _) = imported(home.path(), &format!("persistent_client_expiration 2w\n{one}"));
    assert_eq!(plan.broker.sessions.session_expiry_max, 14 * 86_400);
}

#[test]
fn what_an_import_cannot_read_is_said_and_nothing_is_written() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    let (code, page, told) = run(&["broker", "import", "none.conf", "--out-dir", "out"], "", home);
    assert!(code == Some(64) && page.is_empty() && told.contains("none.conf"), "{told}");
    fs::write(home.join("m.conf"), "password_file none\n").expect("written");
    let (code, page, told) = run(&["broker", "import", "m.conf", "--out-dir", "out"], "", home);
    assert!(code == Some(64) && page.is_empty() && told.contains("m.conf:1") && told.contains("none"), "{told}");
    let two = "per_listener_settings true\nlistener 1\npassword_file a\nlistener 2\npassword_file b\n";
    fs::write(home.join("m.conf"), two).expect("written");
    let (code, _, told) = run(&["broker", "import", "m.conf", "--out-dir", "out"], "", home);
    assert!(code == Some(78) && told.contains("per_listener_settings"), "{told}");
    assert!(!home.join("out").exists());
}

#[test]
fn an_import_replaces_no_users_and_no_configuration_unless_told_to() {
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    fs::write(home.join("m.conf"), "listener 1883 127.0.0.1\npassword_file passwords\n").expect("written");
    fs::write(home.join("passwords"), PASSWORDS).expect("written");
    let words = ["broker", "import", "m.conf", "--out-dir", "box"];
    for there in ["users", "broker.toml"] {
        fs::create_dir_all(home.join("box")).expect("made");
        fs::write(home.join("box").join(there), "every login of the box").expect("written");
        let (code, page, told) = run(&words, "", home);
        assert!(code == Some(64) && page.is_empty() && told.contains(&format!("box/{there} exists")), "{told}");
        let kept: Vec<_> = fs::read_dir(home.join("box")).expect("listed").map(|entry| entry.expect("entry")).collect();
        assert_eq!(kept.len(), 1, "nothing else was written either");
        assert_eq!(fs::read_to_string(kept[0].path()).expect("readable"), "every login of the box");
        let (code, _, told) = run(&[&words[..], &["--force"]].concat(), "", home);
        assert_eq!(code, Some(0), "{told}");
        assert!(fs::read_to_string(home.join("box/users")).expect("readable").starts_with("hmi:$7$"));
        fs::remove_dir_all(home.join("box")).expect("gone");
    }
    // Users that this mosquitto does not have are not touched.
    fs::create_dir(home.join("box")).expect("made");
    fs::write(home.join("box/users"), "mine").expect("written");
    fs::write(home.join("m.conf"), "listener 1883 127.0.0.1\n").expect("written");
    assert_eq!(run(&words, "", home).0, Some(0));
    assert_eq!(fs::read_to_string(home.join("box/users")).expect("readable"), "mine");
}
