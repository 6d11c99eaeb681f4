//! The settings of a serial line that are tried, likely ones first; a bus for each. Pure.
//!
//! A bus is made as `read` makes one: from the configuration that says what the command line says, so that one check has
//! the allowed values and the words for what is wrong.

use std::path::Path;
use std::time::Duration;

use crate::commands::field::target::usage;
use crate::commands::{self, Failed};
use crate::config::plan::BusPlan;
use crate::config::{self, quoted};

/// In the order of how often they are met; 19200-8E1 is the one the standard asks for (Modbus over Serial Line 1.02,
/// section 3.2), 9600-8N1 the one that most devices leave the factory with.
const LIKELY: [&str; 4] = ["9600-8N1", "19200-8E1", "9600-8E1", "19200-8N1"];
const LIKELY_ASCII: [&str; 2] = ["9600-7E1", "19200-7E1"];
const BAUDS: [u32; 7] = [9600, 19_200, 38_400, 115_200, 57_600, 4800, 2400];
/// Who sends two stop bits is heard with one, and the other way round.
const FORMATS: [&str; 3] = ["8N1", "8E1", "8O1"];
const FORMATS_ASCII: [&str; 4] = ["7E1", "8N1", "7O1", "8E1"];
/// More than anybody has patience for.
const SETTINGS_MAX: usize = 64;

/// What the command line says about them.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Whole settings; then the others are empty.
    pub serial: &'a [String],
    /// Rates; all usual ones if empty.
    pub bauds: &'a [u32],
    /// Formats; all usual ones if empty.
    pub formats: &'a [String],
    /// Modbus ASCII is mostly spoken with 7 bits.
    pub ascii: bool,
}

/// `19200-8E1` and so on, likely ones first.
pub fn list(wanted: Wanted<'_>) -> Result<Vec<String>, Failed> {
    let bauds = if wanted.bauds.is_empty() { &BAUDS } else { wanted.bauds };
    let usual: &[&str] = if wanted.ascii { &FORMATS_ASCII } else { &FORMATS };
    let formats: Vec<&str> =
        if wanted.formats.is_empty() { usual.to_vec() } else { wanted.formats.iter().map(String::as_str).collect() };
    let pairs = bauds.iter().flat_map(|baud| formats.iter().map(move |format| format!("{baud}-{format}")));
    let mut all: Vec<String> = if wanted.serial.is_empty() { pairs.collect() } else { wanted.serial.to_vec() };
    if wanted.serial.is_empty() && wanted.bauds.is_empty() {
        let likely: &[&str] = if wanted.ascii { &LIKELY_ASCII } else { &LIKELY };
        all.sort_by_key(|setting| likely.iter().position(|likely| likely == setting).unwrap_or(likely.len()));
    }
    let mut listed: Vec<String> = Vec::new();
    for setting in all {
        if !listed.contains(&setting) {
            listed.push(setting);
        }
    }
    if listed.len() > SETTINGS_MAX {
        return Err(Failed::Usage(format!("{} settings are more than {SETTINGS_MAX}", listed.len())));
    }
    Ok(listed)
}

/// The lines of a configuration that say how a port is driven.
pub fn serial_lines(ascii: bool, port: &str, setting: &str) -> String {
    let kind = if ascii { "modbus-ascii" } else { "modbus-rtu" };
    format!("type = \"{kind}\"\nport = {}\nserial = {}\n", quoted(port), quoted(setting))
}

/// The bus that some lines of a configuration mean.
pub fn bus(lines: &str, timeout: Duration) -> Result<BusPlan, Failed> {
    let milliseconds = timeout.as_millis();
    let text = format!(
        "[gateway]\nname = \"tool\"\n[[bus]]\nname = \"bus\"\n{lines}response_timeout = \"{milliseconds}ms\"\n"
    );
    let loaded = config::parse(&text, Path::new("command line"), &commands::host_facts());
    let plan = loaded.map_err(|problems| usage(problems.iter()))?.plan;
    plan.buses.into_iter().next().ok_or_else(|| Failed::Internal("a configuration of one bus has none".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Wanted<'_> = Wanted { serial: &[], bauds: &[], formats: &[], ascii: false };

    #[test]
    fn likely_settings_come_first_and_each_once() {
        let all = list(NOTHING).expect("few");
        assert_eq!(all[..4], LIKELY);
        assert_eq!(all.len(), BAUDS.len() * FORMATS.len());
        let some = list(Wanted { bauds: &[1200, 9600, 1200], ..NOTHING }).expect("few");
        assert_eq!(some, ["1200-8N1", "1200-8E1", "1200-8O1", "9600-8N1", "9600-8E1", "9600-8O1"]);
        let fixed = ["19200-8E1".to_owned()];
        assert_eq!(list(Wanted { serial: &fixed, ..NOTHING }).expect("one"), fixed);
        assert_eq!(list(Wanted { ascii: true, ..NOTHING }).expect("few")[..2], LIKELY_ASCII);
    }

    #[test]
    fn every_setting_of_the_lists_is_one_that_a_configuration_takes() {
        let second = Duration::from_secs(1);
        let serial_bus = |ascii, setting: &str, timeout| bus(&serial_lines(ascii, "/dev/ttyUSB0", setting), timeout);
        for ascii in [false, true] {
            for setting in list(Wanted { ascii, ..NOTHING }).expect("few") {
                let bus = serial_bus(ascii, &setting, second).expect("is right");
                assert_eq!(bus.link.line().map(|line| line.to_string()), Some(setting));
            }
        }
        let wrong = serial_bus(false, "9600-9X1", second).expect_err("no such format");
        assert!(matches!(&wrong, Failed::Usage(text) if text.contains("9600-9X1")), "{wrong}");
        let hasty = serial_bus(false, "9600-8N1", Duration::from_millis(1)).expect_err("too short");
        assert!(hasty.to_string().contains("10ms"), "{hasty}");
    }
}
