//! The hook of an update bundle, called as RAUC calls it: it tells `install-check` the version and the slot to
//! `slot-post-install`, and neither of them both.

use crate::boxes::{Gateway, Said};

const HOOK: &str = "dynamic-layers/rauc/recipes-core/bundles/files/ironbridge-hook";

fn check(gateway: &Gateway, bundle_for: &str) -> Said {
    let facts = [
        ("RAUC_SYSTEM_COMPATIBLE", "ironbridge-box"),
        ("RAUC_MF_COMPATIBLE", bundle_for),
        ("RAUC_MF_VERSION", "0.2.0"),
        ("RAUC_MOUNT_PREFIX", "/run/rauc"),
    ];
    gateway.run(HOOK, &["install-check"], &facts)
}

fn written(gateway: &Gateway, bootname: &str) -> Said {
    let facts = [
        ("RAUC_SYSTEM_COMPATIBLE", "ironbridge-box"),
        ("RAUC_SLOT_NAME", "rootfs.1"),
        ("RAUC_SLOT_CLASS", "rootfs"),
        ("RAUC_SLOT_BOOTNAME", bootname),
    ];
    gateway.run(HOOK, &["slot-post-install"], &facts)
}

#[test]
fn a_bundle_for_another_box_is_refused_with_the_reason() {
    let gateway = Gateway::new();
    let said = check(&gateway, "coffee-machine");
    assert_eq!(said.code, 10, "RAUC takes 10 as a refusal, anything else as a broken hook");
    assert_eq!(said.text, "this bundle is for coffee-machine, this box is ironbridge-box\n");
    assert!(!gateway.has("update/offered"));
}

#[test]
fn an_update_that_could_not_be_put_on_trial_is_refused() {
    let gateway = Gateway::new();
    gateway.write("update", "a file where the folder should be");
    let said = check(&gateway, "ironbridge-box");
    assert_eq!(said.code, 10, "{said:?}");
    assert!(said.text.contains("the data partition cannot be written"), "{said:?}");
}

#[test]
fn the_new_system_is_put_on_trial_with_how_the_gateway_was_before() {
    for (health, before) in [("exit 0", "well"), ("echo 'store is full'; exit 1", "unwell")] {
        let gateway = Gateway::new();
        gateway.program("health", health);
        assert_eq!(check(&gateway, "ironbridge-box").code, 0);
        assert!(!gateway.has("update/pending"), "nothing is written yet");
        let said = written(&gateway, "B");
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(gateway.read("update/pending"), format!("bootname=B\nversion=0.2.0\nbefore={before}\n"));
    }
}

#[test]
fn a_slot_that_is_not_booted_is_not_put_on_trial() {
    let gateway = Gateway::new();
    assert_eq!(check(&gateway, "ironbridge-box").code, 0);
    assert_eq!(written(&gateway, "").code, 0);
    assert!(!gateway.has("update/pending"));
}
