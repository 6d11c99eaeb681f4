//! Unit ids on the command line, and in which order they are asked. Pure.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// Where devices mostly are: fitters begin at 1; 100 and 126 are inverters and their managers, 240 the meters beside them,
/// 247 the last one there is, which some makers deliver.
const USUAL: [u8; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 126, 240, 247];
/// On a network: what devices with an address of their own want, before the ids of devices behind a gateway.
pub const OWN: [u8; 3] = [1, 255, 0];
/// Nobody gives all of these to devices: whoever answers for each of them answers for every id.
const UNLIKELY: [u8; 4] = [97, 173, 213, 246];

/// Units a serial line can have (Modbus over Serial Line 1.02, section 2.2).
pub const ON_A_LINE: RangeInclusive<u8> = 1..=247;
/// Unit ids on a network (Messaging on TCP/IP 1.0b, section 4.4.2.1).
pub const ON_A_NETWORK: RangeInclusive<u8> = 0..=255;

/// `1-247`, `1-10,16`: each id once, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitList(pub Vec<u8>);

/// Reads a list of ids and ranges.
pub fn parse(text: &str) -> Result<UnitList, String> {
    let mut wanted = [false; 256];
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let id = |text: &str| text.trim().parse::<u8>();
        let (Ok(first), Ok(last)) = (id(first), id(last)) else {
            return Err(format!("'{part}' is no unit id; write for instance 1-247 or 1-10,16"));
        };
        if first > last {
            return Err(format!("'{part}' goes backwards"));
        }
        wanted[usize::from(first)..=usize::from(last)].fill(true);
    }
    Ok(UnitList((0..=255).filter(|id| wanted[usize::from(*id)]).collect()))
}

/// The first of them that is outside.
pub fn outside(units: &[u8], allowed: &RangeInclusive<u8>) -> Option<u8> {
    units.iter().copied().find(|unit| !allowed.contains(unit))
}

/// Those to ask first on a serial line, and the others.
pub fn usual_first(units: &[u8]) -> (Vec<u8>, Vec<u8>) {
    units.iter().partition(|unit| USUAL.contains(unit))
}

/// Those to ask first on a network, the unlikely ones behind the others, and the rest.
pub fn own_first(units: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let first: Vec<u8> = OWN.into_iter().chain(UNLIKELY).filter(|unit| units.contains(unit)).collect();
    let rest = units.iter().copied().filter(|unit| !first.contains(unit)).collect();
    (first, rest)
}

/// Is it one that shows whether somebody answers for every id?
pub fn is_unlikely(unit: u8) -> bool {
    UNLIKELY.contains(&unit)
}

/// `1-10, 16`
pub fn shown(units: &[u8]) -> String {
    let mut sorted = units.to_vec();
    sorted.sort_unstable();
    let mut text = String::new();
    let mut at = 0;
    while at < sorted.len() {
        let mut end = at;
        while sorted.get(end + 1).is_some_and(|next| sorted[end].checked_add(1) == Some(*next)) {
            end += 1;
        }
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = match end - at {
            0 => write!(text, "{comma}{}", sorted[at]),
            1 => write!(text, "{comma}{}, {}", sorted[at], sorted[end]),
            _ => write!(text, "{comma}{}-{}", sorted[at], sorted[end]),
        };
        at = end + 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_ranges_are_read_and_shown() {
        let list = |text: &str| parse(text).map(|list| list.0);
        assert_eq!(list("16,1-3, 2"), Ok(vec![1, 2, 3, 16]));
        assert_eq!(list("0-255").map(|list| list.len()), Ok(256));
        for wrong in ["", "a", "1-", "256", "9-1", "1--3", "-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown(&[16, 1, 2, 3, 7, 8, 255]), "1-3, 7, 8, 16, 255");
        assert_eq!(outside(&[1, 248], &ON_A_LINE), Some(248));
        assert_eq!(outside(&[0, 255], &ON_A_NETWORK), None);
    }

    #[test]
    fn each_id_is_asked_once_likely_ones_first() {
        let all: Vec<u8> = ON_A_NETWORK.collect();
        for (first, rest) in [usual_first(&all), own_first(&all)] {
            let mut together = [first.clone(), rest].concat();
            assert!(first.contains(&1));
            together.sort_unstable();
            assert_eq!(together, all);
        }
        assert_eq!(own_first(&[0, 1, 2, 255]).0, [1, 255, 0]);
    }
}
