//! Lines for a configuration: what was found, ready to be pasted, with what only a person knows as comments. Pure.

use std::fmt::Write as _;

use super::Place;
use super::found::{Found, Survey};
use super::guess;
use super::prober::Sign;
use crate::config::quoted;

/// Longest name made of what a device says.
const NAME_MAX: usize = 24;

/// The bus and its devices. A port has one setting: devices at others stand as comments.
pub fn snippet(survey: &Survey, place: &Place) -> String {
    let setting = main_setting(survey);
    let mut text = format!("[[bus]]\nname = {}\n{}", quoted(BUS), place.lines);
    if let Some(setting) = &setting {
        let _ = writeln!(text, "serial = {}", quoted(setting));
    }
    let mut taken: Vec<String> = Vec::new();
    for found in &survey.devices {
        let here = setting.as_ref().is_none_or(|setting| found.settings.contains(setting));
        let name = unique(name(found), &mut taken);
        let device = device(found, &name);
        if here {
            text.push('\n');
            text.push_str(&device);
        } else {
            let _ = write!(
                text,
                "\n# At {}: a line has one setting, so change the device first.\n",
                found.settings.join(", ")
            );
            text.extend(device.lines().map(|line| format!("# {line}\n")));
        }
    }
    text
}

const BUS: &str = "scanned";

/// The setting with the most devices, the first of them.
fn main_setting(survey: &Survey) -> Option<String> {
    let mut settings: Vec<(&String, usize)> = Vec::new();
    for setting in survey.devices.iter().flat_map(|device| &device.settings) {
        match settings.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, count)) => *count += 1,
            None => settings.push((setting, 1)),
        }
    }
    let most = settings.iter().map(|(_, count)| *count).max()?;
    settings.into_iter().find(|(_, count)| *count == most).map(|(setting, _)| setting.clone())
}

fn device(found: &Found, name: &str) -> String {
    let mut text = format!(
        "[[device]]\nname = {}\nbus = {}\nunit_id = {}\npoll = \"1s\"\n",
        quoted(name),
        quoted(BUS),
        found.unit
    );
    if found.sign == Sign::OtherId {
        text.push_str("ignore_unit_id = true\n");
    }
    match guess::profiles(&found.portrait).as_slice() {
        [] => text
            .push_str("# profile = \"…\"   # ironbridge profiles lists the shipped maps; or [[device.tag]] by hand\n"),
        [one] => {
            let _ = writeln!(text, "profile = {}   # by the name it gives itself", quoted(one));
        }
        several => {
            let _ = writeln!(text, "# profile: one of {}", several.join(", "));
        }
    }
    text
}

/// Of what it says it is, or of its unit id.
fn name(found: &Found) -> String {
    let said = found.portrait.identity.as_ref().and_then(|(_, identity)| identity.product()).unwrap_or_default();
    let mut name = String::new();
    for letter in said.chars() {
        match letter {
            _ if letter.is_ascii_alphanumeric() => name.push(letter.to_ascii_lowercase()),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    if name.len() > NAME_MAX {
        name.truncate(NAME_MAX);
        name.truncate(name.rfind('-').unwrap_or(NAME_MAX)); // at the end of a word
    }
    let name = name.trim_matches('-');
    match name {
        "" => format!("unit-{}", found.unit),
        name if name.ends_with(&format!("-{}", found.unit)) => name.to_owned(),
        name => format!("{name}-{}", found.unit),
    }
}

/// Two devices may have one unit id, at two settings.
fn unique(name: String, taken: &mut Vec<String>) -> String {
    let free = (2..).map(|number| format!("{name}-{number}"));
    let chosen = std::iter::once(name.clone()).chain(free).find(|name| !taken.contains(name)).unwrap_or(name);
    taken.push(chosen.clone());
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::examine::{Portrait, Source, Told};
    use super::*;
    use crate::config;
    use crate::field::modbus::identity::Identity;
    use crate::model::tag::Table;
    use std::path::Path;
    use std::time::Duration;

    fn found(unit: u8, settings: &[&str], vendor: &str, product: &str) -> Found {
        let objects = [(0, vendor.to_owned()), (1, product.to_owned())].into();
        Found {
            unit,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            sign: Sign::Exception(2),
            portrait: Portrait {
                tables: [(Table::Holding, Told::Data); 4],
                identity: Some((Source::Identification, Identity { objects })),
                sunspec_model: None,
            },
            took: Duration::ZERO,
        }
    }

    fn checked(survey: &Survey, place: &Place) -> (String, config::plan::Plan) {
        let text = snippet(survey, place);
        let whole = format!("[gateway]\nname = \"g\"\n{text}");
        let loaded = config::parse(&whole, Path::new("pasted"), &crate::commands::host_facts());
        (text, loaded.expect("is accepted").plan)
    }

    #[test]
    fn what_was_found_on_a_line_is_a_configuration() {
        let devices = vec![
            found(1, &["9600-8N1"], "ACME", "\"odd\" name, much too long to be one"),
            found(3, &["19200-8E1", "19200-8O1"], "Eastron", "SDM630-Modbus"),
            found(3, &["9600-8N1"], "Eastron", "SDM630-Modbus"),
            found(4, &["9600-8N1"], "", ""),
        ];
        let lines = "type = \"modbus-rtu\"\nport = \"/dev/ttyUSB0\"\n".to_owned();
        let place = Place { name: "/dev/ttyUSB0".into(), kind: "modbus-rtu", lines, timeout: Duration::ZERO };
        let (text, plan) = checked(&Survey { devices, ..Survey::default() }, &place);
        assert_eq!(plan.buses[0].link.to_string(), "modbus-rtu /dev/ttyUSB0 9600-8N1");
        let names: Vec<_> = plan.devices.iter().map(|device| (device.name.as_str(), device.unit_id)).collect();
        assert_eq!(names, [("odd-name-much-too-long-1", 1), ("sdm630-modbus-3-2", 3), ("unit-4", 4)]);
        assert!(text.contains("# At 19200-8E1, 19200-8O1: a line has one setting"), "{text}");
        assert!(!plan.tags.is_empty(), "those of the profile");
    }

    #[test]
    fn what_was_found_on_a_network_is_a_configuration() {
        let mut other = found(9, &[], "", "");
        other.sign = Sign::OtherId;
        let lines = "type = \"modbus-tcp\"\nendpoint = \"plc:502\"\n".to_owned();
        let place = Place { name: "plc".into(), kind: "modbus-tcp", lines, timeout: Duration::ZERO };
        let (text, plan) = checked(&Survey { devices: vec![other], ..Survey::default() }, &place);
        assert_eq!((plan.devices[0].name.as_str(), plan.devices[0].unit_id), ("unit-9", 9));
        assert!(text.contains("ignore_unit_id = true"), "{text}");
    }
}
