//! Units in the value: `"500ms"`, `"5m"`, `"30d"`; `"64KiB"`, `"512MiB"`.
//!
//! A number, then its unit; a blank between them and a decimal point are fine, a missing unit is not.

use std::time::Duration;

/// What a duration looks like.
pub const DURATION_FORM: &str = "a number with ms, s, m, h or d, such as \"500ms\", \"1s\" or \"5m\"";
/// What a size looks like.
pub const SIZE_FORM: &str = "a number with B, KiB, MiB, GiB or TiB (or kB, MB, GB, TB: decimal), such as \"512MiB\"";

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const DURATIONS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("min", 60 * NANOS_PER_SECOND),
    ("h", 3600 * NANOS_PER_SECOND),
    ("d", 86_400 * NANOS_PER_SECOND),
];
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// A duration; at most some 500 years.
pub fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_nanos)
}

/// A number of bytes.
pub fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.contains('.') && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let tens = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / tens;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// A duration as one would write it.
pub fn write_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, factor) in
        [("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)]
    {
        if nanos >= factor && nanos.is_multiple_of(factor) {
            return format!("{}{unit}", nanos / factor);
        }
    }
    if nanos.is_multiple_of(1_000_000) {
        return format!("{}ms", nanos / 1_000_000);
    }
    format!("{:.3}ms", duration.as_secs_f64() * 1000.0)
}

/// A size as one would write it: in the unit, binary or decimal, that makes it shortest.
pub fn write_size(bytes: u64) -> String {
    let whole = |(unit, factor): &(&str, u64)| {
        (bytes >= *factor && bytes.is_multiple_of(*factor)).then(|| format!("{}{unit}", bytes / factor))
    };
    SIZES.iter().filter_map(whole).min_by_key(String::len).unwrap_or_else(|| format!("{bytes}B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_carry_their_unit() {
        for (text, ms) in [("500ms", 500), ("1s", 1000), ("1.5s", 1500), ("5m", 300_000), ("2 min", 120_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("30d"), Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!(size("1.5KiB"), Some(1536));
        assert_eq!(size("20 B"), Some(20));
        for text in
            ["", "5", "s", "-1s", "1.s", ".5s", "1.2.3s", "5 parsecs", "99999999999999999999s", "1e3s", "1000000d"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(size("99999999TiB"), None);
    }

    #[test]
    fn written_units_read_back() {
        for ms in [0, 1, 10, 999, 1000, 60_000, 90_000, 86_400_000] {
            let duration_in = Duration::from_millis(ms);
            assert_eq!(duration(&write_duration(duration_in)), Some(duration_in));
        }
        for bytes in [0, 1, 1024, 512 << 20, 1 << 40] {
            assert_eq!(size(&write_size(bytes)), Some(bytes));
        }
        for text in ["0B", "1023B", "64KiB", "512MiB", "512MB", "5GB", "1500kB", "2TiB"] {
            assert_eq!(size(text).map(write_size).as_deref(), Some(text));
        }
    }
}
