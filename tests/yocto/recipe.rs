//! What the recipes say of the tree they build.

use std::process::Command;

use crate::skip::skipped;
use crate::{layer, read, tree};

const RECIPE: &str = "recipes-ironbridge/ironbridge/ironbridge";

/// The text of the program's recipe.
pub fn recipe() -> String {
    read(&layer(&format!("{RECIPE}_{}.bb", env!("CARGO_PKG_VERSION"))))
}

/// The text between `before` and the next quote.
fn quoted<'a>(text: &'a str, before: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before}"));
    rest.split('"').next().expect("split yields one part")
}

#[test]
fn recipe_and_bundle_carry_the_version_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    for place in [RECIPE, "dynamic-layers/rauc/recipes-core/bundles/ironbridge-bundle"] {
        let path = layer(&format!("{place}_{version}.bb"));
        assert!(path.is_file(), "rename the recipe: {} is missing", path.display());
    }
}

#[test]
fn the_recipe_knows_the_licence_text() {
    let Ok(output) = Command::new("md5sum").arg(tree("LICENSE")).output() else {
        skipped("the licence text's sum in the recipe", "md5sum is not installed");
        return;
    };
    let sum = String::from_utf8(output.stdout).expect("utf-8");
    assert_eq!(Some(quoted(&recipe(), "file://LICENSE;md5=")), sum.split(' ').next());
}

#[test]
fn what_the_recipe_takes_from_the_tree_is_there_and_is_all_that_is_needed() {
    let recipe = recipe();
    let taken: Vec<&str> =
        recipe.split("file://").filter_map(|part| Some(part.split_once(";subdir=${BP}")?.0)).collect();
    for path in &taken {
        assert!(tree(path).exists(), "{path} is not in the tree");
    }
    // Cargo refuses a manifest whose targets are missing.
    let manifest: toml::Table = read(&tree("Cargo.toml")).parse().expect("TOML");
    let mut targets = vec!["Cargo.toml", "Cargo.lock", "LICENSE", "config", "systemd"];
    let lists = ["bench", "bin", "example"].map(|kind| manifest[kind].as_array().expect("a list"));
    targets.extend(lists.into_iter().flatten().map(|target| target["path"].as_str().expect("a path")));
    for target in targets {
        let within = |place: &&str| target == *place || target.starts_with(&format!("{place}/"));
        assert!(taken.iter().any(within), "the recipe does not take {target}");
    }
}

#[test]
fn sqlite_is_built_with_the_flags_of_every_other_build() {
    let cargo: toml::Table = read(&tree(".cargo/config.toml")).parse().expect("TOML");
    let flags = cargo["env"]["LIBSQLITE3_FLAGS"].as_str();
    assert_eq!(Some(quoted(&recipe(), "export LIBSQLITE3_FLAGS = \"")), flags);
}

#[test]
fn the_oldest_supported_series_has_a_compiler_that_is_new_enough() {
    let series = read(&layer("conf/layer.conf"));
    assert_eq!(quoted(&series, "LAYERSERIES_COMPAT_ironbridge = \""), "whinlatter wrynose blacksail");
    let manifest: toml::Table = read(&tree("Cargo.toml")).parse().expect("TOML");
    let needed = manifest["package"]["rust-version"].as_str().expect("rust-version");
    let minor: u32 = needed.strip_prefix("1.").expect("1.x").parse().expect("a number");
    assert!(minor <= 90, "whinlatter has Rust 1.90, Cargo.toml asks for {needed}");
}

#[test]
fn an_appliance_is_built_without_the_simulated_cloud() {
    let recipe = recipe();
    assert!(recipe.contains("CARGO_BUILD_FLAGS:append = \" --no-default-features\""));
    assert!(recipe.contains("PACKAGECONFIG ??= \"\""));
}

#[test]
fn every_feature_that_packages_choose_can_be_chosen() {
    let (recipe, manifest) = (recipe(), read(&tree("Cargo.toml")).parse::<toml::Table>().expect("TOML"));
    for feature in manifest["features"]["default"].as_array().expect("a list") {
        let feature = feature.as_str().expect("a name");
        let line = format!("PACKAGECONFIG[{feature}] = \"--features {feature}\"");
        assert!(recipe.lines().any(|known| known == line), "{line}");
    }
}

#[test]
fn the_configuration_of_the_image_is_valid() {
    let file = layer("recipes-ironbridge/ironbridge/files/ironbridge.toml");
    let check = Command::new(env!("CARGO_BIN_EXE_ironbridge")).args(["check", "--config"]).arg(file).output();
    let check = check.expect("the program runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn package_and_image_bring_what_a_factory_reset_puts_in_the_place_of_the_configuration() {
    let source = read(&tree("src/commands/factory_reset.rs"));
    let delivered = quoted(&source, "const DELIVERED: &str = \"");
    let recipe = recipe();
    let installed = delivered.replacen("/usr/share", "${D}${datadir}", 1);
    let brings = |target: &str| recipe.contains(&format!("${{UNPACKDIR}}/ironbridge.toml {target}\n"));
    assert!(brings("${D}${sysconfdir}/ironbridge/ironbridge.toml") && brings(&installed), "{installed}");
    let package = read(&tree("systemd/deb/build"));
    for target in ["/etc/ironbridge/ironbridge.toml", delivered] {
        assert!(package.contains(&format!("put 644 config/minimal.toml {}\n", &target[1..])), "{target}");
    }
}

#[test]
fn the_kills_of_the_ptest_are_survived_on_the_disk_that_has_the_store_and_not_in_memory() {
    let mount = read(&layer("recipes-ironbridge/ironbridge-data/files/var-lib-ironbridge.mount"));
    let on_disk = mount.lines().find_map(|line| line.strip_prefix("Where=")).expect("where it is bound to");
    let ptest = read(&layer("recipes-ironbridge/ironbridge/files/run-ptest"));
    let places: Vec<_> = ptest.split("mktemp -d ").skip(1).collect();
    assert!(!places.is_empty() && ptest.contains("store torture --dir \"$place\""));
    for place in places {
        assert!(place.starts_with(&format!("{on_disk}/")), "{place}");
    }
}

#[test]
fn the_user_of_the_image_is_the_one_sysusers_knows() {
    let sysusers = read(&tree("systemd/ironbridge.sysusers"));
    let user = sysusers.lines().find(|line| line.starts_with("u ironbridge ")).expect("the user");
    assert!(user.contains(" /var/lib/ironbridge "), "{user}");
    assert!(sysusers.lines().any(|line| line == "m ironbridge dialout"));
    let recipe = recipe();
    assert!(recipe.contains("--home-dir ${localstatedir}/lib/ironbridge ") && recipe.contains("--groups dialout "));
    assert!(
        sysusers.lines().any(|line| line == "g ironbridge-clients -")
            && recipe.contains("; --system ironbridge-clients\"")
    );
}

#[test]
fn slots_and_partitions_have_the_same_names_everywhere() {
    let disk = read(&layer("recipes-core/images/ironbridge-efi.wks.in"));
    let names: Vec<&str> = disk.split("--part-name ").skip(1).filter_map(|part| part.split(' ').next()).collect();
    assert_eq!(names, ["efi", "system-a", "system-b", "data"], "grub.cfg counts them");
    let rauc = read(&layer("dynamic-layers/rauc/recipes-core/ironbridge-rauc-conf/files/system.conf"));
    let menu = read(&layer("recipes-bsp/ironbridge-boot/files/grub.cfg"));
    for (slot, name, number) in [("A", "system-a", 2), ("B", "system-b", 3)] {
        let section = format!("device=/dev/disk/by-partlabel/{name}\ntype=ext4\nbootname={slot}\n");
        assert!(rauc.contains(&section), "{section}");
        let kernel = format!("linux ($system,gpt{number})/boot/@KERNEL@ root=PARTLABEL={name} ro");
        assert!(menu.lines().any(|line| line.contains(&kernel) && line.contains(&format!("rauc.slot={slot} "))));
    }
    assert!(menu.contains("= A ]; then set fallback=1; else set fallback=0; fi"), "entry 0 is A, entry 1 is B");
    let data = read(&layer("recipes-ironbridge/ironbridge-data/files/data.mount"));
    assert!(data.contains("What=/dev/disk/by-partlabel/data\n"));
    let efi = read(&layer("recipes-bsp/ironbridge-boot/files/efi.mount"));
    assert!(efi.contains("What=/dev/disk/by-partlabel/efi\nWhere=/efi\n"));
    assert!(rauc.contains("grubenv=/efi/EFI/BOOT/grubenv\n"));
}

#[test]
fn the_boot_loader_finds_an_environment_of_its_own_size_that_begins_with_slot_a() {
    let text = read(&layer("recipes-bsp/ironbridge-boot/files/grubenv"));
    assert_eq!(text.len(), 1024, "GRUB writes into this one block and never makes it larger");
    let wanted = "# GRUB Environment Block\nORDER=A B\nA_OK=1\nB_OK=1\nA_TRY=0\nB_TRY=0\n#";
    assert!(text.starts_with(wanted) && text[wanted.len()..].bytes().all(|byte| byte == b'#'));
}

#[test]
fn no_key_and_no_password_is_part_of_the_layer() {
    let mut walk = Command::new("grep");
    walk.args(["-rilE", "PRIVATE KEY|BEGIN CERTIFICATE|PASSWD_|empty-root-password|allow-root-login"]);
    let Ok(output) = walk.arg(layer(".")).output() else {
        skipped("keys and passwords in the layer", "grep is not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
