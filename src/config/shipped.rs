//! The register maps in the binary: CSV files of `config/profiles` and what their head says of them.
//!
//! The head of a map is its first lines, comments of this form, then free text for the person who wires the device:
//!
//! ```text
//! # Maker: ABB
//! # Model: B23, B24
//! # What: three-phase energy meter
//! # Source: document, version, section, address on the net        one line per source, at least one
//! ```
//!
//! Texts are ours, facts are those of the sources. What no source vouches for is not in a map. `profile` reads the rows, the
//! command `profiles` shows the heads.

/// The shipped register maps by name, in alphabetical order: a test holds this table and the directory together.
pub const SHIPPED: &[(&str, &str)] = &[
    ("abb-b21", include_str!("../../config/profiles/abb-b21.csv")),
    ("abb-b23", include_str!("../../config/profiles/abb-b23.csv")),
    ("advantech-adam-4056", include_str!("../../config/profiles/advantech-adam-4056.csv")),
    ("bg-etech-ds100", include_str!("../../config/profiles/bg-etech-ds100.csv")),
    ("bg-etech-ws100", include_str!("../../config/profiles/bg-etech-ws100.csv")),
    ("carlo-gavazzi-em112", include_str!("../../config/profiles/carlo-gavazzi-em112.csv")),
    ("carlo-gavazzi-em24", include_str!("../../config/profiles/carlo-gavazzi-em24.csv")),
    ("carlo-gavazzi-em24-ethernet", include_str!("../../config/profiles/carlo-gavazzi-em24-ethernet.csv")),
    ("carlo-gavazzi-em340", include_str!("../../config/profiles/carlo-gavazzi-em340.csv")),
    ("chint-ddsu666", include_str!("../../config/profiles/chint-ddsu666.csv")),
    ("chint-dtsu666", include_str!("../../config/profiles/chint-dtsu666.csv")),
    ("danfoss-fc51", include_str!("../../config/profiles/danfoss-fc51.csv")),
    ("dzg-dvh4013", include_str!("../../config/profiles/dzg-dvh4013.csv")),
    ("eastron-sdm120", include_str!("../../config/profiles/eastron-sdm120.csv")),
    ("eastron-sdm220", include_str!("../../config/profiles/eastron-sdm220.csv")),
    ("eastron-sdm230", include_str!("../../config/profiles/eastron-sdm230.csv")),
    ("eastron-sdm54", include_str!("../../config/profiles/eastron-sdm54.csv")),
    ("eastron-sdm630", include_str!("../../config/profiles/eastron-sdm630.csv")),
    ("eastron-sdm72d-m", include_str!("../../config/profiles/eastron-sdm72d-m.csv")),
    ("eastron-sdm72d-m-v2", include_str!("../../config/profiles/eastron-sdm72d-m-v2.csv")),
    ("eastron-smart-x96-1a", include_str!("../../config/profiles/eastron-smart-x96-1a.csv")),
    ("eltako-dsz15dzmod", include_str!("../../config/profiles/eltako-dsz15dzmod.csv")),
    ("finder-7m24", include_str!("../../config/profiles/finder-7m24.csv")),
    ("finder-7m38", include_str!("../../config/profiles/finder-7m38.csv")),
    ("goodwe-et", include_str!("../../config/profiles/goodwe-et.csv")),
    ("huawei-sun2000", include_str!("../../config/profiles/huawei-sun2000.csv")),
    ("inepro-pro380", include_str!("../../config/profiles/inepro-pro380.csv")),
    ("janitza-b23", include_str!("../../config/profiles/janitza-b23.csv")),
    ("janitza-umg604", include_str!("../../config/profiles/janitza-umg604.csv")),
    ("janitza-umg96rm-e", include_str!("../../config/profiles/janitza-umg96rm-e.csv")),
    ("kostal-plenticore", include_str!("../../config/profiles/kostal-plenticore.csv")),
    ("lovato-dmg610", include_str!("../../config/profiles/lovato-dmg610.csv")),
    ("meanwell-drs-240", include_str!("../../config/profiles/meanwell-drs-240.csv")),
    ("orno-we-514", include_str!("../../config/profiles/orno-we-514.csv")),
    ("orno-we-516", include_str!("../../config/profiles/orno-we-516.csv")),
    ("orno-we-525", include_str!("../../config/profiles/orno-we-525.csv")),
    ("peacefair-pzem-016", include_str!("../../config/profiles/peacefair-pzem-016.csv")),
    ("schneider-iem3155", include_str!("../../config/profiles/schneider-iem3155.csv")),
    ("schneider-pm3255", include_str!("../../config/profiles/schneider-pm3255.csv")),
    ("schneider-pm5000", include_str!("../../config/profiles/schneider-pm5000.csv")),
    ("senseair-s8", include_str!("../../config/profiles/senseair-s8.csv")),
    ("siemens-7kt1665", include_str!("../../config/profiles/siemens-7kt1665.csv")),
    ("siemens-pac2200", include_str!("../../config/profiles/siemens-pac2200.csv")),
    ("siemens-pac3200", include_str!("../../config/profiles/siemens-pac3200.csv")),
    ("siemens-sinamics-g120", include_str!("../../config/profiles/siemens-sinamics-g120.csv")),
    ("siemens-sinamics-v20", include_str!("../../config/profiles/siemens-sinamics-v20.csv")),
    ("sma-sunny-tripower", include_str!("../../config/profiles/sma-sunny-tripower.csv")),
    ("socomec-countis-e24", include_str!("../../config/profiles/socomec-countis-e24.csv")),
    ("socomec-diris-a10", include_str!("../../config/profiles/socomec-diris-a10.csv")),
    ("sungrow-sh", include_str!("../../config/profiles/sungrow-sh.csv")),
    ("sunspec-battery", include_str!("../../config/profiles/sunspec-battery.csv")),
    ("sunspec-inverter", include_str!("../../config/profiles/sunspec-inverter.csv")),
    ("sunspec-inverter-float", include_str!("../../config/profiles/sunspec-inverter-float.csv")),
    ("sunspec-meter", include_str!("../../config/profiles/sunspec-meter.csv")),
    ("sunspec-meter-float", include_str!("../../config/profiles/sunspec-meter-float.csv")),
    ("sunspec-mppt", include_str!("../../config/profiles/sunspec-mppt.csv")),
    ("sunspec-nameplate", include_str!("../../config/profiles/sunspec-nameplate.csv")),
    ("sunspec-settings", include_str!("../../config/profiles/sunspec-settings.csv")),
    ("sunspec-status", include_str!("../../config/profiles/sunspec-status.csv")),
    ("sunspec-storage", include_str!("../../config/profiles/sunspec-storage.csv")),
    ("vacon-10", include_str!("../../config/profiles/vacon-10.csv")),
    ("victron-gx", include_str!("../../config/profiles/victron-gx.csv")),
    ("wago-879-3000", include_str!("../../config/profiles/wago-879-3000.csv")),
    ("waveshare-relay-8ch", include_str!("../../config/profiles/waveshare-relay-8ch.csv")),
    ("xy-md02", include_str!("../../config/profiles/xy-md02.csv")),
];

/// What the head of a map says, and how large the map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About<'a> {
    /// Who makes the device.
    pub maker: &'a str,
    /// Its types, as on the name plate.
    pub model: &'a str,
    /// What it is, in a few words.
    pub what: &'a str,
    /// Where the facts come from.
    pub sources: Vec<&'a str>,
    /// Rows of the map.
    pub tags: usize,
}

/// Reads the head of a shipped map; what is missing is empty.
pub fn about(text: &str) -> About<'_> {
    let first = |key| said(text, key).next().unwrap_or_default();
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    About {
        maker: first("Maker"),
        model: first("Model"),
        what: first("What"),
        sources: said(text, "Source").collect(),
        // without the header row
        tags: rows.saturating_sub(1),
    }
}

/// What the head says under this key, line by line.
fn said<'a>(text: &'a str, key: &'static str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(": "))
}

/// The map of this name; else a sentence that says what may have been meant.
pub fn find(name: &str) -> Result<&'static str, String> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text).ok_or_else(|| {
        let hint = super::nearest::hint(name, SHIPPED.iter().map(|(name, _)| *name));
        format!("there is no shipped profile of this name{hint}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_map_tells_maker_model_kind_sources_and_size() {
        let text = "# Maker: ACME\n# Model: M 1, M 2\n# What: meter\n# Source: a\n# Source: b: c\n# note\nname,address\nx,input:1\ny,input:2\n";
        let expected = About { maker: "ACME", model: "M 1, M 2", what: "meter", sources: vec!["a", "b: c"], tags: 2 };
        assert_eq!(about(text), expected);
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_one_that_was_meant() {
        assert!(find("eastron-sdm630").is_ok());
        let message = find("eastron-sdm360").expect_err("no such map");
        assert_eq!(message, "there is no shipped profile of this name, did you mean `eastron-sdm630`?");
    }
}
