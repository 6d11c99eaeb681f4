//! What an answer that is none means, for the person at the cabinet. Pure.

use std::io;

use crate::config::plan::BusLink;
use crate::field::modbus::session::Trouble;
use crate::model::tag::Address;

/// An exception in plain words (Application Protocol 1.1b3, section 7), with what to try.
pub fn exception(code: u8, address: Address) -> String {
    let meaning = match code {
        1 => {
            return format!(
                "illegal function: this device does not know {} registers; try {}",
                address.table.as_str(),
                other_table(address)
            );
        }
        2 => {
            "illegal data address: this register does not exist here; many devices count from 1: try --style one-based, \
              or the other table (holding, input)"
        }
        3 => {
            "illegal data value: it does not take this value or this length; a value of two registers may want to be \
              read as a whole (--type)"
        }
        4 => "device failure: it broke off while carrying the request out",
        5 => "acknowledge: it is working on it; ask again later",
        6 => "busy: ask again later",
        7 => "negative acknowledge: it cannot do that now",
        8 => "memory parity error: the device found its own memory damaged",
        10 => "gateway path unavailable: the gateway has no line for this unit id; look at its settings",
        11 => "the gateway hears nothing from this unit: unit id, wiring, line settings behind the gateway",
        _ => "an exception of the maker's own; see the manual",
    };
    meaning.to_owned()
}

const fn other_table(address: Address) -> &'static str {
    use crate::model::tag::Table;
    match address.table {
        Table::Holding => "input:",
        Table::Input => "holding:",
        Table::Coil => "discrete: or a bit of a holding register",
        Table::Discrete => "coil: or a bit of an input register",
    }
}

/// Why there is no value.
pub fn trouble(trouble: &Trouble, link: &BusLink, address: Address) -> String {
    let serial = link.line().is_some();
    match trouble {
        Trouble::Exception(code) => format!("exception {code}: {}", exception(*code, address)),
        Trouble::Timeout if serial => {
            "no answer: is the unit id right, are A and B swapped, do baud rate and parity (--line) fit?".to_owned()
        }
        Trouble::Timeout => {
            "connected, but no answer: is the unit id right? Devices with an own address often want 1, 0 or 255"
                .to_owned()
        }
        Trouble::Protocol => {
            "something came, but no valid answer: wrong line settings, two devices with one unit id, or noise"
                .to_owned()
        }
        Trouble::TooLong => "more registers than one request may carry".to_owned(),
        Trouble::Lost { error, .. } => format!("connection lost: {error}"),
    }
}

/// Frames came that another unit signed.
pub fn other_unit(unit: u8) -> String {
    format!(
        "somebody answers under another unit id than {unit}: a gateway with an id of its own? ignore_unit_id = true"
    )
}

/// Why a bus does not open.
pub fn not_open(link: &BusLink, error: &io::Error) -> String {
    let place = &link.carrier;
    let serial = link.line().is_some();
    let cure = match error.kind() {
        _ if serial && is_taken(error) => PORT_TAKEN,
        io::ErrorKind::ResourceBusy if !link.framing.is_numbered() => LINE_TAKEN,
        io::ErrorKind::PermissionDenied if serial && !error.to_string().contains("console") => {
            "; you may have to be in the group dialout, or root"
        }
        io::ErrorKind::NotFound if serial => "; ls -l /dev/serial/by-id/ shows the ports there are",
        io::ErrorKind::ConnectionRefused => "; nobody listens there: Modbus TCP is mostly port 502",
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "; is the address right, and is there a way to that network?"
        }
        _ => "",
    };
    format!("cannot open {place}: {error}{cure}")
}

/// The serial crate calls a lock that somebody else holds "not found": only its text tells.
fn is_taken(error: &io::Error) -> bool {
    let text = error.to_string().to_lowercase();
    error.kind() == io::ErrorKind::ResourceBusy || text.contains("busy") || text.contains("exclusive lock")
}

const PORT_TAKEN: &str = "; another program has this port, maybe the gateway itself: a serial line has one master. Stop it first \
                          (systemctl stop ironbridge), or look at its values over MQTT";

const LINE_TAKEN: &str = ", maybe the gateway itself; answers on such a line do not say to whom, so it has one master. Stop it first \
                          (systemctl stop ironbridge), or read and write through it over MQTT";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Framing, Parity, SerialPlan};
    use crate::model::tag::Table;

    const HERE: Address = Address { table: Table::Holding, start: 100, bit: None };

    #[test]
    fn an_illegal_address_suggests_the_off_by_one() {
        let text = trouble(&Trouble::Exception(2), &BusLink::tcp("plc:502"), HERE);
        assert!(text.contains("exception 2: illegal data address") && text.contains("--style one-based"), "{text}");
        assert!(exception(1, HERE).contains("input:"));
    }

    #[test]
    fn a_port_that_somebody_has_names_the_gateway() {
        let line = SerialPlan { baud: 9600, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let rtu = BusLink::rtu("/dev/ttyUSB0", line);
        let busy = io::Error::from(io::ErrorKind::ResourceBusy);
        assert!(not_open(&rtu, &busy).contains("one master"));
        let locked = io::Error::new(io::ErrorKind::NotFound, "Unable to acquire exclusive lock on serial port");
        assert!(not_open(&rtu, &locked).contains("one master"));
        let behind = BusLink { framing: Framing::Rtu, ..BusLink::tcp("moxa:4001") };
        assert!(not_open(&behind, &busy).contains("so it has one master"));
        assert!(not_open(&BusLink::tcp("plc:502"), &io::ErrorKind::ConnectionRefused.into()).contains("port 502"));
    }
}
