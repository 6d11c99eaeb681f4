//! What a recording says about where it was made: its buses, and the configuration without anything that is secret.
//!
//! Kept are the gateway's name, buses, devices, tags and their register maps. All other tables stay at home: uplinks, users,
//! listeners and budgets are not needed to play devices back. Of a bus with TLS the names of its files are kept, without
//! their folders.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::commands::Failed;
use crate::commands::simulate;
use crate::config::Loaded;
use crate::config::plan::{BusPlan, Carrier};
use crate::flow::clock::Clock;
use crate::recording::{Head, Line};

/// The name of the configuration in a recording.
pub const CONFIG_NAME: &str = "site.toml";
/// The tables that are kept.
const KEPT: [&str; 3] = ["gateway", "bus", "device"];
/// Of the gateway.
const GATEWAY_KEPT: [&str; 2] = ["name", "topic"];
const TLS_FILES: [&str; 3] = ["ca_file", "certificate", "key"];

/// The first record.
pub fn head(loaded: &Loaded, clock: &Clock) -> Result<Head, Failed> {
    let text = simulate::gathered(loaded, &simulate::rewrite::Changes::default())?;
    let table: Table = text.parse().map_err(|error| Failed::Internal(format!("the configuration joined: {error}")))?;
    let (table, maps) = without_secrets(table);
    let mut files = vec![(CONFIG_NAME.to_owned(), table.to_string())];
    for (name, path) in maps {
        let content =
            std::fs::read_to_string(&path).map_err(|error| Failed::TryAgain(format!("{}: {error}", path.display())))?;
        files.push((name, content));
    }
    Ok(Head { files, ..nameless(clock) })
}

/// The same for a line of which nothing is known.
pub fn nameless(clock: &Clock) -> Head {
    let wall = clock.wall_now();
    let began_unix_ms = wall.certainty.is_fixed().then_some(wall.unix_ms);
    Head { began_unix_ms, version: env!("CARGO_PKG_VERSION").to_owned(), files: Vec::new() }
}

/// What is kept of a configuration, and which register maps belong to it: their new names and where they are.
fn without_secrets(table: Table) -> (Table, Vec<(String, PathBuf)>) {
    let mut kept: Table = table.into_iter().filter(|(key, _)| KEPT.contains(&key.as_str())).collect();
    if let Some(gateway) = kept.get_mut("gateway").and_then(Value::as_table_mut) {
        gateway.retain(|key, _| GATEWAY_KEPT.contains(&key));
    }
    for bus in tables(&mut kept, "bus") {
        for key in TLS_FILES {
            if let Some(Value::String(path)) = bus.get_mut(key) {
                *path = file_name(Path::new(path));
            }
        }
    }
    let mut maps: Vec<(String, PathBuf)> = Vec::new();
    for device in tables(&mut kept, "device") {
        // The configuration was joined from its files: a map that is a file has its whole path by now.
        if let Some(Value::String(profile)) = device.get_mut("profile")
            && profile.starts_with('/')
        {
            let path = PathBuf::from(&*profile);
            let known = maps.iter().find(|(_, map)| *map == path).map(|(name, _)| name.clone());
            *profile = known.unwrap_or_else(|| {
                let name = format!("maps/{}-{}", maps.len() + 1, file_name(&path));
                maps.push((name.clone(), path));
                name
            });
        }
    }
    (kept, maps)
}

fn tables<'a>(table: &'a mut Table, key: &str) -> impl Iterator<Item = &'a mut Table> {
    table.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_table_mut)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A bus of the plan.
pub fn line(bus: &BusPlan) -> Line {
    let (place, settings) = match &bus.link.carrier {
        Carrier::Serial(port) => (port.port.display().to_string(), port.line.to_string()),
        network => (network.to_string(), String::new()),
    };
    Line {
        name: bus.name.clone(),
        kind: bus.link.kind().to_owned(),
        place,
        settings,
        response_timeout: bus.response_timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_devices_leaves_the_site() {
        let text = r#"
            [gateway]
            name = "seven"
            data_dir = "/var/lib/seven"
            [broker]
            users_file = "users"
            [[uplink]]
            url = "mqtts://who:secret@cloud.example"
            [[bus]]
            name = "plc"
            type = "modbus-tls"
            key = "/etc/keys/own.key"
            [[device]]
            name = "a"
            bus = "plc"
            profile = "/etc/ironbridge/maps/pump.csv"
            [[device]]
            name = "b"
            bus = "plc"
            profile = "/etc/ironbridge/maps/pump.csv"
            [[device]]
            name = "c"
            bus = "plc"
            profile = "eastron-sdm630"
        "#;
        let (kept, maps) = without_secrets(text.parse().expect("TOML"));
        let text = kept.to_string();
        for word in ["secret", "users", "uplink", "/etc", "/var"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert_eq!(maps, [("maps/1-pump.csv".to_owned(), PathBuf::from("/etc/ironbridge/maps/pump.csv"))]);
        let profile = |device: usize| kept["device"][device]["profile"].as_str();
        assert_eq!(
            [profile(0), profile(1), profile(2)].map(Option::unwrap_or_default),
            ["maps/1-pump.csv", "maps/1-pump.csv", "eastron-sdm630"]
        );
        assert_eq!(kept["gateway"].as_table().map(Table::len), Some(1));
    }
}
