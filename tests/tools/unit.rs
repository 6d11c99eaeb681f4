//! The unit file says what the program does: the same numbers on both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use ironbridge::app::running::STOP_MAX;
use ironbridge::commands::Failed;
use ironbridge::config::units;
use ironbridge::flow::progress::SERVED_WITHIN;
use ironbridge::uplink::Timing;

const UNIT: &str = include_str!("../../systemd/ironbridge.service");
const DATA_DISK: &str = include_str!("../../systemd/drop-ins/data-disk.conf");

/// Adapters that come by USB, by their numbers in the kernel's devices.txt: ttyUSB and ttyACM.
const USB: [&str; 2] = ["char-188 rw", "char-166 rw"];

/// Key to its values, in order; comments are no keys.
fn unit() -> BTreeMap<&'static str, Vec<&'static str>> {
    keys(UNIT)
}

fn keys(text: &'static str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, value) in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        keys.entry(key).or_default().push(value);
    }
    keys
}

fn time(key: &str) -> Duration {
    let text = unit()[key][0].replace("min", "m");
    units::duration(&text).unwrap_or_else(|| panic!("{key}={text} is a time"))
}

#[test]
fn the_unit_gives_stopping_as_long_as_the_code_may_take() {
    assert_eq!(time("TimeoutStopSec"), STOP_MAX);
    assert!(Timing::default().stop_wait * 2 < STOP_MAX, "uplinks leave time for the disk");
}

#[test]
fn systemd_starts_it_again_after_everything_but_what_a_person_must_mend() {
    let prevented: Vec<u8> =
        unit()["RestartPreventExitStatus"][0].split(' ').map(|code| code.parse().expect("a code")).collect();
    let text = String::new;
    assert_eq!(prevented, [Failed::Usage(text()).code(), Failed::Config(text()).code()]);
    assert_eq!((unit()["Restart"][0], unit()["StartLimitIntervalSec"][0]), ("always", "0"), "nobody is on site");
    for key in ["RestartSteps", "RestartMaxDelaySec"] {
        assert!(!unit().contains_key(key), "{key} is unknown to Debian 12; it has a drop-in");
    }
}

#[test]
fn the_watchdog_is_the_programs_own_and_no_more_patient_than_its_workers() {
    assert_eq!((unit()["Type"][0], unit()["NotifyAccess"][0]), ("notify", "main"));
    assert!(time("WatchdogSec") >= Duration::from_secs(30), "a stalled flash card is no reason");
    assert!(time("WatchdogSec") <= SERVED_WITHIN);
}

#[test]
fn no_right_is_given_that_the_baseline_takes() {
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(unit()[key], [""], "{key}");
    }
    let devices = &unit()["DeviceAllow"];
    let serial = |device: &&str| device.starts_with("char-tty") || USB.contains(device);
    assert!(devices.iter().all(serial), "{devices:?}");
    assert!(!unit().contains_key("LoadCredential"), "a missing file stops the start: drop-ins only");
    assert_eq!(unit()["After"], ["network.target"], "not network-online: polling begins before the network");
    assert_eq!(unit()["RequiresMountsFor"], ["/var/lib/ironbridge /etc/ironbridge"]);
}

#[test]
fn an_adapter_whose_driver_is_loaded_after_the_start_is_allowed() {
    let devices = &unit()["DeviceAllow"];
    assert!(USB.iter().all(|number| devices.contains(number)), "{devices:?}");
    let by_name = ["ttyUSB", "ttyACM"].map(|class| devices.iter().any(|device| device.contains(class)));
    assert_eq!(by_name, [false; 2], "a name is looked up once, at the start");
}

#[test]
fn a_gateway_that_was_stopped_with_its_disk_comes_back_with_it() {
    for text in [UNIT, DATA_DISK] {
        let keys = keys(text);
        let wanted: Vec<_> = keys["WantedBy"][0].split(' ').collect();
        for place in keys["RequiresMountsFor"][0].split(' ') {
            let mount = format!("{}.mount", place.trim_start_matches('/').replace('/', "-"));
            assert!(wanted.contains(&mount.as_str()), "{mount}: {wanted:?}");
        }
    }
}
