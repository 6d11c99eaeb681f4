//! Which shipped register maps fit what a device says of itself. Pure.
//!
//! Only names are compared, whole ones: a maker's word, and a type as the device and the map have it, or what of the map's
//! type is before its first dash (`SDM630` of `SDM630-Modbus`). A device that says nothing gets no guess, however familiar
//! its registers look.

use super::examine::Portrait;
use crate::config::shipped::{self, SHIPPED};

/// Maps by name. More than one when a type has several: then only the name plate tells.
pub fn profiles(portrait: &Portrait) -> Vec<&'static str> {
    match portrait.sunspec_model {
        Some(101..=103) => return vec!["sunspec-inverter"],
        Some(111..=113) => return vec!["sunspec-inverter-float"],
        _ => {}
    }
    let Some((_, identity)) = &portrait.identity else { return Vec::new() };
    let said = identity.objects.iter().filter(|(object, _)| **object != 6).map(|(_, text)| text.as_str());
    fitting(&said.collect::<Vec<_>>().join(" "))
}

fn fitting(said: &str) -> Vec<&'static str> {
    let said = words(said);
    let fits = |text: &str| {
        let about = shipped::about(text);
        let maker = words(about.maker).into_iter().next();
        maker.is_some_and(|maker| said.contains(&maker)) && types(about.model).iter().any(|name| said.contains(name))
    };
    SHIPPED.iter().filter(|(_, text)| fits(text)).map(|(name, _)| *name).collect()
}

/// Lower-case words of letters and digits; a dash or a dot inside is part of a word.
fn words(text: &str) -> Vec<String> {
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '.');
    let words = text.split(|letter| !plain(letter)).map(|word| word.trim_matches(['-', '.']));
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// The words of a map's model line that are types: with a letter and a digit, and long enough to be no accident. What
/// stands in parentheses is about them.
fn types(model: &str) -> Vec<String> {
    let is_type = |word: &String| {
        word.len() >= TYPE_MIN && word.contains(|c: char| c.is_ascii_digit()) && word.contains(char::is_alphabetic)
    };
    let whole = words(model.split('(').next().unwrap_or_default());
    let stems: Vec<String> =
        whole.iter().filter_map(|word| word.split_once('-')).map(|(stem, _)| stem.to_owned()).collect();
    whole.into_iter().chain(stems).filter(is_type).collect()
}

const TYPE_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_named_only_when_maker_and_type_are() {
        assert_eq!(fitting("Eastron SDM630-Modbus V1.2"), ["eastron-sdm630"]);
        assert_eq!(fitting("Eastron SDM630"), ["eastron-sdm630"]);
        assert_eq!(fitting("Finder 7M.38"), ["finder-7m38"]);
        assert_eq!(fitting("Carlo Gavazzi EM24"), ["carlo-gavazzi-em24", "carlo-gavazzi-em24-ethernet"]);
        assert_eq!(fitting("Schneider Electric PM3255 1.0"), ["schneider-pm3255"]);
        assert_eq!(fitting("SENTRON PAC2200 Siemens AG"), ["siemens-pac2200"]);
        for nobody in [
            "SDM630-Modbus",
            "Eastron",
            "ACME SDM630-Modbus",
            "Eastron XSDM630-Modbus",
            "",
            "Ironbridge simulated meter",
        ] {
            assert!(fitting(nobody).is_empty(), "{nobody}: {:?}", fitting(nobody));
        }
    }
}
