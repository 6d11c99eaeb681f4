//! `ironbridge factory-reset`: nothing of the owner stays, nothing of anybody else goes, wherever it is interrupted.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::gateway::{Home, Plc, config, tag, until};

const DELIVERED: &str = "# as delivered\n";

/// A gateway that has run: a store, one of a bridge, sessions, commands; users and keys beside its configuration, which also
/// names a key elsewhere; and files of somebody else everywhere.
async fn used(elsewhere: &Path) -> Home {
    let plc = Plc::start().await;
    let more = format!(
        "{}[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://127.0.0.1:1\"\nca_file = \"ca.pem\"\ncertificate = \"gw.crt\"\n\
         key = {:?}\nusername = \"box\"\npassword_file = \"cloud.password\"\n\
         [[bridge]]\nname = \"hall\"\nurl = \"mqtt://127.0.0.1:1\"\n[[bridge.topic]]\nfilter = \"x/#\"\n",
        tag("a", "holding:0", "uint16", ""),
        elsewhere.display().to_string()
    );
    let text = config(plc.line.address()).replacen(
        "[[broker.listener]]",
        "[broker]\nusers_file = \"users\"\n[[broker.listener]]",
        1,
    );
    let home = Home::new(&(text + &more));
    for name in ["users", "cloud.password", "ca.pem", "gw.crt", "notes.txt", "delivered.toml"] {
        fs::write(home.path(name), if name == "users" { "" } else { DELIVERED }).unwrap();
        fs::set_permissions(home.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::create_dir(home.path("ironbridge.d")).unwrap();
    fs::write(home.path("ironbridge.d/10-more.toml"), "[store]\nmax_age = \"30d\"\n").unwrap();
    let daemon = home.run();
    daemon.mqtt().await;
    let there = ["data/store/meta.db", "data/bridge-hall/offered.json"];
    until("something is stored", || there.iter().all(|name| home.path(name).exists())).await;
    let told = reset(&home, &["--yes"]);
    assert_eq!(told.status.code(), Some(75), "beside a running gateway");
    assert!(text_of(&told.stderr).contains("the gateway is running"), "{}", text_of(&told.stderr));
    assert_eq!(daemon.stop().await, Some(0));
    fs::write(home.path("data/store/meta.db-wal"), "left by a crash").unwrap();
    fs::write(home.path("data/store/quarantine/chunk-bulk-000001.db"), "set aside").unwrap();
    fs::write(home.path("data/broker.db.damaged"), "set aside").unwrap();
    fs::write(home.path("data/bridge-hall/offered.draft"), "left by a crash").unwrap();
    fs::create_dir(home.path("data/quarantine")).unwrap();
    fs::write(home.path("data/quarantine/commands.db"), "set aside").unwrap();
    fs::write(home.path("data/holiday.jpg"), "of somebody else").unwrap();
    fs::write(home.path("data/store/tailor"), "of somebody else").unwrap();
    symlink(elsewhere.parent().unwrap(), home.path("data/bridge-link")).unwrap();
    home
}

fn reset(home: &Home, more: &[&str]) -> Output {
    let arguments = ["factory-reset", "--config", "ironbridge.toml", "--default-config", "delivered.toml"];
    let mut command = home.command(&[&arguments, more].concat());
    command.stdout(std::process::Stdio::piped()).output().unwrap()
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Everything below a directory, by name; links are not followed.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, home: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(home).unwrap().display().to_string();
            if path.is_dir() && !path.is_symlink() {
                walk(&path, home, found);
            } else {
                found.insert(name, if path.is_symlink() { Vec::new() } else { fs::read(&path).unwrap() });
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

fn names(tree: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    tree.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_takes_everything_of_the_owner_and_nothing_else_wherever_the_power_was_cut() {
    let other = tempfile::tempdir().unwrap();
    let elsewhere = other.path().join("lent.key");
    fs::write(&elsewhere, "not ours").unwrap();
    let home = used(&elsewhere).await;
    let before = tree(&home.path(""));

    let asked = reset(&home, &[]);
    assert_eq!(asked.status.code(), Some(64), "without a terminal and without --yes");
    let dry = reset(&home, &["--dry-run"]);
    assert!(dry.status.success());
    assert_eq!(tree(&home.path("")), before, "nothing was changed by asking");
    let said = text_of(&dry.stdout);
    let goes: Vec<PathBuf> = said.lines().filter_map(|line| Some(line.strip_prefix("goes   ")?.into())).collect();
    assert!(goes.len() > 10 && said.contains("lent.key (lies elsewhere)"), "{said}");

    // Cut after each step: whoever runs it again finds what is left.
    let kept = [
        "data/bridge-link",
        "data/holiday.jpg",
        "data/store/tailor",
        "delivered.toml",
        "factory-reset.left",
        "ironbridge.toml",
        "notes.txt",
    ];
    for cut in (0..=goes.len()).rev() {
        for (name, bytes) in &before {
            if !home.path(name).is_symlink() {
                fs::create_dir_all(home.path(name).parent().unwrap()).unwrap();
                fs::write(home.path(name), bytes).unwrap();
            }
        }
        for path in &goes[..cut] {
            let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            assert!(gone.is_ok() || !path.exists(), "{}", path.display());
            if path.ends_with("store") {
                fs::create_dir_all(path).unwrap();
                fs::write(path.join("tailor"), "of somebody else").unwrap();
            }
        }
        let told = reset(&home, &["--yes"]);
        assert_eq!(told.status.code(), Some(1), "cut {cut}: something of the owner stays: {}", text_of(&told.stderr));
        assert!(text_of(&told.stdout).contains("notes.txt (nothing names it"), "{}", text_of(&told.stdout));
        let after = tree(&home.path(""));
        assert_eq!(names(&after), kept, "cut {cut}");
        assert_eq!(text_of(&after["ironbridge.toml"]), DELIVERED);
    }
    for name in ["data/bridge-link", "data/holiday.jpg", "data/store/tailor", "notes.txt"] {
        fs::remove_file(home.path(name)).unwrap();
    }
    // The configuration that named it is gone, and it is not.
    let again = reset(&home, &["--yes", "--data-dir", "data"]); // the delivered one does not say that it lies here
    assert_eq!(again.status.code(), Some(1), "{}", text_of(&again.stdout));
    assert!(text_of(&again.stdout).contains("lent.key (an earlier run named it"), "{}", text_of(&again.stdout));
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "not ours");
    fs::remove_file(&elsewhere).unwrap();
    let done = reset(&home, &["--yes", "--data-dir", "data"]);
    assert!(done.status.success() && text_of(&done.stdout).contains("done"), "{}", text_of(&done.stdout));
    let audit = text_of(&done.stderr);
    if !Path::new("/run/systemd/journal/socket").exists() {
        assert!(audit.contains("audit=factory_reset outcome=done"), "{audit}");
    }
    assert!(!home.path("factory-reset.left").exists(), "nothing is left to speak of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_delivered_configuration_it_stays_and_with_keep_config_users_and_keys_do_too() {
    let other = tempfile::tempdir().unwrap();
    let home = used(&other.path().join("gone.key")).await;
    for name in ["delivered.toml", "notes.txt", "data/bridge-link", "data/holiday.jpg", "data/store/tailor"] {
        fs::remove_file(home.path(name)).unwrap();
    }
    assert!(reset(&home, &["--yes", "--keep-config"]).status.success());
    assert!(
        home.path("users").exists() && home.path("cloud.password").exists() && !home.path("data/broker.db").exists()
    );
    let told = reset(&home, &["--yes"]);
    assert_eq!(told.status.code(), Some(1), "the configuration could not be reset");
    assert!(!text_of(&told.stdout).lines().any(|line| line == "done"), "{}", text_of(&told.stdout));
    assert!(!home.path("users").exists() && !home.path("cloud.password").exists());
    assert!(home.path("ironbridge.toml").exists() && home.path("ca.pem").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_no_toml_is_not_replaced_while_nobody_knows_which_keys_it_names() {
    let other = tempfile::tempdir().unwrap();
    let home = used(&other.path().join("gone.key")).await;
    let sound = fs::read_to_string(home.path("ironbridge.toml")).unwrap();
    let tell = |more: &[&str]| {
        let before = tree(&home.path(""));
        let told = reset(&home, more);
        assert_eq!(told.status.code(), Some(78), "{}", text_of(&told.stderr));
        assert_eq!(tree(&home.path("")), before, "nothing was changed");
        text_of(&told.stderr)
    };
    home.configure("this is no TOML");
    tell(&["--yes"]); // nobody guesses where the data lies
    let said = tell(&["--yes", "--data-dir", "data"]);
    assert!(said.contains("ironbridge.toml is no TOML") && said.contains("--keep-config"), "{said}");
    home.configure(""); // a copy that was cut short
    tell(&["--yes"]);
    let said = tell(&["--yes", "--data-dir", "data"]);
    assert!(said.contains("ironbridge.toml is empty, so nobody knows what it named"), "{said}");
    home.configure(&sound);
    fs::write(home.path("ironbridge.d/20-broken.toml"), "key = gw.key").unwrap();
    let said = tell(&["--yes"]);
    assert!(said.contains("20-broken.toml is no TOML"), "{said}");
    assert!(reset(&home, &["--yes", "--keep-config"]).status.code() != Some(78));
    assert!(home.path("users").exists() && !home.path("data/broker.db").exists());
}

#[test]
fn what_is_in_force_after_a_roll_back_stays_with_the_configuration_and_else_goes_with_the_keys_that_only_it_names() {
    let rolled_back = "[gateway]\ndata_dir = \"data\"\n";
    let home = Home::new(rolled_back);
    let in_force = format!("{rolled_back}[[uplink]]\nname = \"cloud\"\nkey = \"gw.key\"\n");
    fs::create_dir(home.path("data")).unwrap();
    let (file, trial) = (home.path("ironbridge.toml"), home.path("data/trial.json"));
    let texts = [[(&file, rolled_back)], [(&file, in_force.as_str())]];
    let kept = serde_json::json!({ "version": 1, "tried": texts[0], "before": texts[1] });
    fs::write(&trial, kept.to_string()).unwrap();
    for (name, text) in [("delivered.toml", DELIVERED), ("gw.key", "secret"), ("data/commands.db", "")] {
        fs::write(home.path(name), text).unwrap();
    }

    let told = reset(&home, &["--keep-config", "--yes"]);
    assert!(told.status.success(), "{}", text_of(&told.stderr));
    let named = format!("stays  {} (is of the configuration", trial.display());
    assert!(text_of(&told.stdout).contains(&named), "{}", text_of(&told.stdout));
    assert!(trial.exists() && home.path("gw.key").exists() && !home.path("data/commands.db").exists());

    let told = reset(&home, &["--yes"]);
    assert!(told.status.success(), "{}{}", text_of(&told.stdout), text_of(&told.stderr));
    let said = text_of(&told.stdout);
    let line = |name: &str| said.lines().position(|line| line.starts_with("goes ") && line.ends_with(name)).unwrap();
    assert!(
        line("gw.key") < line("trial.json"),
        "a power cut between them would leave a key that nothing names: {said}"
    );
    assert!(!trial.exists() && !home.path("gw.key").exists());

    fs::write(&trial, "{\"version\":1,\"tri").unwrap();
    let told = reset(&home, &["--yes", "--data-dir", "data"]);
    assert_eq!(told.status.code(), Some(78), "nobody knows which keys it names: {}", text_of(&told.stderr));
}

#[test]
fn a_copy_of_the_samples_in_the_data_directory_is_named_by_every_run_until_it_is_gone() {
    let home = Home::new("[gateway]\ndata_dir = \"data\"\n");
    let copies = ["data/store.bak/chunk-bulk-000001.db", "data/store/export.csv", "data/lost+found/#12"];
    for name in [&copies[..], &["delivered.toml", "data/store/meta.draft", "data/control.sock.77"]].concat() {
        fs::create_dir_all(home.path(name).parent().unwrap()).unwrap();
        fs::write(home.path(name), DELIVERED).unwrap();
    }
    drop(UnixListener::bind(home.path("data/control.sock")).unwrap()); // as a gateway leaves it that was killed
    let elsewhere = ["--yes", "--data-dir", "other"]; // as the delivered configuration may say
    for more in [&["--yes", "--keep-config"][..], &["--yes"], &elsewhere] {
        let told = reset(&home, more);
        let said = text_of(&told.stdout);
        assert_eq!(told.status.code(), Some(1), "{said}");
        assert!(!said.lines().any(|line| line == "done") && text_of(&told.stderr).contains("of the lines"), "{said}");
        for name in ["data/store.bak", "data/store/export.csv", "data/lost+found/#12"] {
            assert!(said.contains(&format!("stays  {} (", home.path(name).display())), "{name}: {said}");
        }
    }
    let kept = [copies[2], copies[0], copies[1], "delivered.toml", "factory-reset.left", "ironbridge.toml"];
    assert_eq!(names(&tree(&home.path(""))), kept, "what the gateway left is no stranger's");
    for name in copies {
        fs::remove_file(home.path(name)).unwrap();
    }
    fs::remove_dir(home.path("data/store.bak")).unwrap();
    let told = reset(&home, &["--yes", "--data-dir", "data"]);
    assert!(told.status.success() && home.path("data/lost+found").exists(), "{}", text_of(&told.stdout));
    assert_eq!(names(&tree(&home.path(""))), ["delivered.toml", "ironbridge.toml"]);
}

#[test]
fn what_belongs_to_the_configuration_is_no_stranger_in_the_data_directory() {
    let text = "[gateway]\ndata_dir = \".\"\n[broker]\nusers_file = \"secrets/users\"\n";
    let home = Home::new(text);
    let files = ["broker.db", "delivered.toml", "ironbridge.d/10-more.toml", "secrets/users", "secrets/store.bak"];
    for name in files {
        fs::create_dir_all(home.path(name).parent().unwrap()).unwrap();
        fs::write(home.path(name), DELIVERED).unwrap();
    }
    let told = reset(&home, &["--yes", "--keep-config"]);
    let said = text_of(&told.stdout);
    assert_eq!(told.status.code(), Some(1), "{said}");
    let named: Vec<_> = said.lines().filter(|line| line.starts_with("stays ")).collect();
    assert!(
        named.len() == 2 && named[0].contains("secrets/store.bak (") && named[1].contains("--keep-config"),
        "{said}"
    );
    fs::remove_file(home.path(files[4])).unwrap();
    for more in [&["--yes", "--keep-config"][..], &["--yes"]] {
        let told = reset(&home, more);
        assert!(told.status.success(), "{}", text_of(&told.stdout));
        assert_eq!(home.path("secrets/users").exists(), more.contains(&"--keep-config"));
    }
    let told = reset(&home, &["--yes", "--data-dir", "."]); // nothing names the empty directory any more
    assert!(told.status.success(), "{}", text_of(&told.stdout));
    assert_eq!(names(&tree(&home.path(""))), ["delivered.toml", "ironbridge.toml"]);
}
