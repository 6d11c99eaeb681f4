//! `ironbridge-seed`: the data partition gets what the image brought, once.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::boxes::{Gateway, Said};
use crate::{layer, read, tree};

const SEED: &str = "recipes-ironbridge/ironbridge-data/files/ironbridge-seed";

fn seed(gateway: &Gateway) -> Said {
    let me = fs::metadata(gateway.path("bin")).expect("metadata");
    let owner = format!("{}:{}", me.uid(), me.gid());
    let place = |name| gateway.path(name).display().to_string();
    let facts =
        [("IRONBRIDGE_FACTORY", place("factory")), ("IRONBRIDGE_DATA", place("data")), ("IRONBRIDGE_OWNER", owner)];
    gateway.run(SEED, &[], &facts.each_ref().map(|(name, value)| (*name, value.as_str())))
}

fn fresh() -> Gateway {
    let gateway = Gateway::new();
    gateway.write("factory/ironbridge.toml", "from the image\n");
    gateway
}

#[test]
fn the_first_boot_gives_the_box_a_configuration_of_its_own_and_a_store_nobody_else_reads() {
    let gateway = fresh();
    let said = seed(&gateway);
    assert_eq!((said.code, said.text.as_str()), (0, ""));
    assert_eq!(gateway.read("data/etc/ironbridge.toml"), "from the image\n");
    assert_eq!(fs::metadata(gateway.path("data/lib")).expect("there").mode() & 0o777, 0o750);
}

#[test]
fn a_later_image_leaves_the_configuration_of_the_box_alone() {
    let gateway = fresh();
    seed(&gateway);
    gateway.write("data/etc/ironbridge.toml", "edited on site\n");
    gateway.write("data/lib/store.db", "samples");
    gateway.write("factory/ironbridge.toml", "from the next image\n");
    assert_eq!(seed(&gateway).code, 0);
    assert_eq!(gateway.read("data/etc/ironbridge.toml"), "edited on site\n");
    assert_eq!(gateway.read("data/lib/store.db"), "samples");
}

#[test]
fn a_first_boot_that_lost_power_begins_again() {
    let gateway = fresh();
    gateway.write("data/etc.new/ironbridge.toml", "half of i");
    gateway.write("data/lib.new/left", "over");
    assert_eq!(seed(&gateway).code, 0);
    assert_eq!(gateway.read("data/etc/ironbridge.toml"), "from the image\n");
    assert!(!gateway.has("data/etc.new") && !gateway.has("data/lib.new"));
}

#[test]
fn a_store_whose_configuration_is_gone_is_not_run_with_that_of_the_image() {
    let gateway = fresh();
    seed(&gateway);
    gateway.write("data/lib/store.db", "samples");
    std::fs::remove_dir_all(gateway.path("data/etc")).expect("removed");
    let said = seed(&gateway);
    assert!(said.code != 0 && said.text.contains("data/etc is not"), "{} {}", said.code, said.text);
    assert!(!gateway.has("data/etc") && gateway.read("data/lib/store.db") == "samples");
}

#[test]
fn the_gateway_does_not_start_before_its_store_and_its_configuration_are_mounted() {
    let unit = read(&tree("systemd/ironbridge.service"));
    let needs: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("RequiresMountsFor=")).collect();
    let needs: Vec<_> = needs.iter().flat_map(|line| line.split(' ')).collect();
    for mount in ["var-lib-ironbridge", "etc-ironbridge"] {
        let text = read(&layer(&format!("recipes-ironbridge/ironbridge-data/files/{mount}.mount")));
        let place = text.lines().find_map(|line| line.strip_prefix("Where=")).expect("a place");
        assert!(needs.contains(&place), "{place} is not among {needs:?}");
        assert!(text.contains("\nRequires=ironbridge-seed.service\n"), "a seed that refuses keeps {mount} away");
        assert!(text.contains("\nWantedBy=local-fs.target data.mount\n"), "{mount} comes back with the partition");
        assert!(unit.contains(&format!(" {mount}.mount")), "the gateway comes back with {mount}");
    }
}
