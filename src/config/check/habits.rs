//! The keys that say how a device or its connection differs from the standard: pauses, retries, ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{AnswersAs, BusLink, Carrier, Extent, Habits, Keep, Manners, Territory, Verdict};
use super::super::section::{Section, Spot};
use super::address::{self, Style};
use crate::model::tag::{Address, DataType};

const PAUSE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const TURNAROUND_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10);
const RETRIES_RANGE: RangeInclusive<u16> = 0..=5;
const CONNECTIONS_RANGE: RangeInclusive<u16> = 1..=4;
/// More of them are a register map, and belong into one.
const EXTENTS_MAX: usize = 64;

/// `[[bus]]`: its own, and what its devices are given. `link`: if it could be read.
pub fn of_bus(section: &Section<'_, '_>, link: Option<&BusLink>) -> Habits {
    let standard = Habits::default();
    if let Some(link) = link {
        misplaced(section, link);
    }
    let close = section.flag("close_after_cycle").is_some_and(|spot| spot.value);
    let connections = section.whole("max_connections", CONNECTIONS_RANGE);
    Habits {
        keep: if close { Keep::CloseAfterCycle } else { Keep::Open },
        max_connections: connections.and_then(|count| u8::try_from(count).ok()).unwrap_or(standard.max_connections),
        turnaround: section.duration("turnaround", TURNAROUND_RANGE).unwrap_or(standard.turnaround),
        manners: manners(section, &standard.manners),
    }
}

/// Reports keys that mean nothing on a bus of this kind.
fn misplaced(section: &Section<'_, '_>, link: &BusLink) {
    let refuse = |key, message: &str| {
        if let Some(node) = section.get(key) {
            section.report(section.wrong(key, node.at, message));
        }
    };
    if !link.framing.is_numbered() && !matches!(link.carrier, Carrier::Listen { .. }) {
        refuse("max_connections", "is for gateways that work in parallel; behind this bus there is one line");
    }
    match link.carrier {
        Carrier::Serial(_) => refuse("close_after_cycle", "belongs to a bus on a network; a serial port stays open"),
        Carrier::Listen { .. } => {
            refuse("close_after_cycle", "the other side opens this connection, only it can again");
            refuse("max_connections", "the other side opens this connection, and there is one");
        }
        Carrier::Tcp { .. } | Carrier::Udp { .. } | Carrier::Tls(_) => {}
    }
    if link.framing.is_numbered() {
        refuse("turnaround", "belongs to a serial line: it is the silence after a broadcast");
    }
}

/// The keys that a bus and its devices share; `inherited`: what holds where nothing is written.
pub fn manners(section: &Section<'_, '_>, inherited: &Manners) -> Manners {
    let pause = |key, inherited| section.duration(key, PAUSE_RANGE).unwrap_or(inherited);
    let retries = section.whole("retries", RETRIES_RANGE).and_then(|count| u8::try_from(count).ok());
    Manners {
        pause_after_connect: pause("pause_after_connect", inherited.pause_after_connect),
        delay_between_requests: pause("delay_between_requests", inherited.delay_between_requests),
        delay_on_unit_change: pause("delay_on_unit_change", inherited.delay_on_unit_change),
        answers_as: match section.flag("ignore_unit_id").map(|spot| spot.value) {
            Some(true) => AnswersAs::Anyone,
            Some(false) => AnswersAs::Itself,
            None => inherited.answers_as,
        },
        retries: retries.unwrap_or(inherited.retries),
    }
}

/// `readable` and `forbidden` of a device.
pub fn territory(section: &Section<'_, '_>, style: Style) -> Territory {
    Territory { readable: extents(section, "readable", style), forbidden: extents(section, "forbidden", style) }
}

fn extents(section: &Section<'_, '_>, key: &str, style: Style) -> Vec<Extent> {
    let texts = section.texts(key).unwrap_or_default();
    if let Some(one_too_many) = texts.get(EXTENTS_MAX) {
        let message = format!("more than {EXTENTS_MAX} ranges");
        section.report(section.wrong(key, one_too_many.at, message).allowed("write neighbours as one range"));
    }
    texts.into_iter().take(EXTENTS_MAX).filter_map(|text| extent(section, key, text, style)).collect()
}

fn extent(section: &Section<'_, '_>, key: &str, text: Spot<&str>, style: Style) -> Option<Extent> {
    match parse(text.value, style) {
        Ok(extent) => Some(extent),
        Err(message) => {
            section.report(section.wrong(key, text.at, message).allowed(match style {
                Style::Modicon => "such as \"40001-40100\", or one address",
                Style::ZeroBased | Style::OneBased => "such as \"holding:0-99\", or one address",
            }));
            None
        }
    }
}

/// Reports a tag that lies where its device is not to be read. Not for tags that are only written, but for bits of
/// registers: to write one, its register is read.
pub fn within(section: &Section<'_, '_>, territory: &Territory, tag: Spot<Address>, data_type: DataType) {
    let place = tag.value;
    let count = if place.table.is_bits() { 1 } else { u32::from(data_type.registers()) };
    let message = match territory.verdict(place.table, place.start.into(), count) {
        Verdict::Allowed => return,
        Verdict::Forbidden(extent) => format!("lies in {extent}, which is `forbidden` for this device"),
        Verdict::Outside => "does not lie in one of the `readable` ranges of its device".to_owned(),
    };
    let readable: Vec<String> = territory.readable.iter().map(ToString::to_string).collect();
    let finding = section.wrong("address", tag.at, message);
    section.report(if readable.is_empty() { finding } else { finding.allowed(readable.join(", ")) });
}

/// `holding:0-99`, `40001-40100`, or one address; counted as the device's addresses are.
fn parse(text: &str, style: Style) -> Result<Extent, String> {
    let (first, last) = match text.rsplit_once('-') {
        Some((first, last)) => (first.trim(), Some(last.trim())),
        None => (text.trim(), None),
    };
    let begin = address::parse(first, style)?;
    let end = match (last, first.split_once(':')) {
        (None, _) => begin,
        (Some(last), Some((table, _))) if !last.contains(':') => address::parse(&format!("{table}:{last}"), style)?,
        (Some(last), _) => address::parse(last, style)?,
    };
    if begin.bit.is_some() || end.bit.is_some() {
        return Err("a range is of whole registers, not of bits in them".to_owned());
    }
    if begin.table != end.table {
        return Err("begins in one table and ends in another".to_owned());
    }
    if begin.start > end.start {
        return Err("ends before it begins".to_owned());
    }
    Ok(Extent { table: begin.table, first: begin.start, last: end.start })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tag::Table;

    #[test]
    fn a_range_is_written_as_the_addresses_of_its_device_are() {
        let holding = |first, last| Ok(Extent { table: Table::Holding, first, last });
        assert_eq!(parse("holding:0-99", Style::ZeroBased), holding(0, 99));
        assert_eq!(parse("holding:0x10 - 0x1F", Style::ZeroBased), holding(16, 31));
        assert_eq!(parse("holding:1-100", Style::OneBased), holding(0, 99));
        assert_eq!(parse("holding:5-holding:6", Style::ZeroBased), holding(5, 6));
        assert_eq!(parse("40001-40100", Style::Modicon), holding(0, 99));
        assert_eq!(parse("holding:7", Style::ZeroBased), holding(7, 7));
        for wrong in ["", "-", "holding:", "holding:9-3", "holding:1.2-5", "holding:1-coil:5", "holding:1-2-3", "0-99"]
        {
            assert!(parse(wrong, Style::ZeroBased).is_err(), "{wrong}");
        }
        assert!(parse("holding:0-9", Style::OneBased).is_err());
        assert!(parse("holding:0-9", Style::Modicon).is_err());
    }
}
