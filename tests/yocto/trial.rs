//! `ironbridge-trial`: an update is kept when the gateway is well on it, and left otherwise; off trial nothing happens.

use crate::boxes::{Gateway, Said};

const TRIAL: &str = "recipes-ironbridge/ironbridge-health/files/ironbridge-trial";

/// Booted from this slot, after an update of slot B; the box was as `before` says when it was begun.
fn updated(booted: &str, before: &str) -> Gateway {
    let gateway = Gateway::new();
    gateway.write("cmdline", &format!("root=PARTLABEL=system ro rauc.slot={booted} console=ttyS0\n"));
    gateway.write("update/pending", &format!("bootname=B\nversion=0.2.0\nbefore={before}\n"));
    gateway
}

fn trial(gateway: &Gateway) -> Said {
    gateway.run(TRIAL, &[], &[])
}

fn uptime(gateway: &Gateway) -> u64 {
    gateway.read("uptime").split('.').next().expect("seconds").parse().expect("a number")
}

/// Well while the box has been up for `from` to `until` seconds.
fn well_between(gateway: &Gateway, from: u64, until: u64) {
    gateway.program(
        "health",
        &format!(
            "now=$(cut -d. -f1 \"$HOME/uptime\")\n[ \"$now\" -ge {from} ] && [ \"$now\" -lt {until} ] && exit 0\n\
             echo \"bus rs485-1 is down\"; exit 1"
        ),
    );
}

#[test]
fn an_update_is_kept_when_the_gateway_was_well_for_a_minute() {
    let gateway = updated("B", "well");
    well_between(&gateway, 130, u64::MAX >> 1);
    let said = trial(&gateway);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.text.contains("the update to 0.2.0 holds"), "{said:?}");
    assert!(gateway.has("update/held") && !gateway.has("update/pending"));
    assert_eq!(uptime(&gateway), 130 + 60);
    assert!(!gateway.has("rauc.calls"));
}

#[test]
fn a_minute_that_is_interrupted_begins_again() {
    let gateway = updated("B", "well");
    gateway.program(
        "health",
        "now=$(cut -d. -f1 \"$HOME/uptime\")\n[ \"$now\" -lt 140 ] || [ \"$now\" -ge 160 ] || exit 1",
    );
    assert_eq!(trial(&gateway).code, 0);
    assert_eq!(uptime(&gateway), 160 + 60);
}

#[test]
fn a_minute_in_which_the_gateway_died_begins_again_however_soon_it_is_well() {
    let gateway = updated("B", "well");
    gateway.program(
        "systemctl",
        "[ \"$*\" = \"show --property MainPID --value ironbridge.service\" ] || exit 0\n\
         now=$(cut -d. -f1 \"$HOME/uptime\")\nif [ \"$now\" -lt 140 ]; then echo 411; else echo 527; fi",
    );
    assert_eq!(trial(&gateway).code, 0);
    assert_eq!(uptime(&gateway), 140 + 60);
    // Again and again: it is never well for a minute.
    let gateway = updated("B", "well");
    gateway.program("systemctl", "now=$(cut -d. -f1 \"$HOME/uptime\")\necho \"$((now / 40))\"");
    let said = trial(&gateway);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.text.contains("not well for 60 s on end"), "{said:?}");
}

#[test]
fn an_update_that_is_not_well_within_ten_minutes_is_left_and_never_started_again() {
    let gateway = updated("B", "well");
    // Once more than half a minute, so that the reasons are those of the end.
    well_between(&gateway, 300, 350);
    let said = trial(&gateway);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.text.contains("0.2.0 does not hold") && said.text.contains("rs485-1 is down"), "{said:?}");
    assert_eq!(uptime(&gateway), 100 + 600);
    assert_eq!(gateway.read("rauc.calls"), "status mark-bad booted\n");
    // The restart brings back the system before, which says so once and goes on.
    gateway.write("cmdline", "ro rauc.slot=A\n");
    let said = trial(&gateway);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.text.contains("0.2.0 in slot B did not hold; this is slot A again"), "{said:?}");
    assert!(gateway.has("update/returned") && !gateway.has("update/pending"));
    assert_eq!(trial(&gateway).text, "");
}

#[test]
fn an_update_is_left_even_where_the_slot_cannot_be_marked() {
    let gateway = updated("B", "well");
    gateway.program("health", "exit 1");
    gateway.program("rauc", "exit 1");
    let said = trial(&gateway);
    assert_eq!(said.code, 1);
    assert!(said.text.contains("slot B could not be marked as bad"), "{said:?}");
}

#[test]
fn a_gateway_that_was_not_well_before_has_to_be_alive_only() {
    let gateway = updated("B", "unwell");
    gateway.program("health", "[ \"${1:-}\" = --alive ]");
    let said = trial(&gateway);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(gateway.has("update/held"));
    // One that was well owes more.
    let gateway = updated("B", "well");
    gateway.program("health", "[ \"${1:-}\" = --alive ]");
    assert_eq!(trial(&gateway).code, 1);
}

#[test]
fn off_trial_a_box_that_is_not_well_is_not_restarted() {
    let gateway = Gateway::new();
    gateway.write("cmdline", "ro rauc.slot=B\n");
    gateway.program("health", "touch \"$HOME/asked\"; exit 1");
    let said = trial(&gateway);
    assert_eq!((said.code, said.text.as_str()), (0, ""));
    assert!(!gateway.has("asked") && !gateway.has("rauc.calls"));
}
