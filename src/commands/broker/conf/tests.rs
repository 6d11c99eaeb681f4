//! Files that include others.

use super::*;

/// What is found where the first of these includes the second.
fn included(outer: &str, inner: &str) -> Mosquitto {
    let home = tempfile::tempdir().expect("a directory");
    let (conf, dir) = (home.path().join("mosquitto.conf"), home.path().join("conf.d"));
    fs::create_dir(&dir).expect("a directory");
    fs::write(&conf, outer.replace("conf.d", &dir.display().to_string())).expect("written");
    fs::write(dir.join("more.conf"), inner).expect("written");
    let Ok(found) = read(&conf, &mut Notes::default()) else { panic!("mosquitto takes it") };
    found
}

#[test]
fn what_stands_behind_an_include_belongs_to_the_part_that_stands_before_it() {
    let outer = "listener 8883\ncertfile c\ninclude_dir conf.d\nrequire_certificate true\n\
                 connection a\naddress x\n";
    let found = included(outer, "listener 9001\nprotocol websockets\nconnection b\naddress y\n");
    let doors: Vec<_> = found.listeners.iter().map(|it| (it.port, it.require_certificate, it.websocket)).collect();
    assert_eq!(doors, [(8883, true, false), (9001, false, true)]);
    let outer = "connection a\naddress x\ninclude_dir conf.d\ntopic t\n";
    let found = included(outer, "connection b\naddress y\n");
    let lines: Vec<_> = found.bridges.iter().map(|bridge| bridge.lines.join(", ")).collect();
    assert_eq!(lines, ["address x, topic t", "address y"]);
}

#[test]
fn an_included_file_begins_without_a_listener() {
    let outer = "per_listener_settings true\nlistener 1883\nallow_anonymous false\ninclude_dir conf.d\n";
    let found = included(outer, "allow_anonymous true\nrequire_certificate true\nlistener 9001\n");
    let doors: Vec<_> = found.listeners.iter().map(|it| (it.port, it.anonymous, it.require_certificate)).collect();
    assert_eq!(doors, [(1883, Some(false), false), (9001, None, false)]);
}
