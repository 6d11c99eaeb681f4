//! The wires of a recording as a configuration would name them. Pure.

use crate::config::plan::{BusLink, Carrier, Framing, Parity, PortPlan, SerialPlan, TlsCarrier};
use crate::recording::Line;

/// The types of buses, as configurations have them, and what is spoken there.
const KINDS: [(&str, Framing, Parcel); 8] = [
    ("modbus-tcp", Framing::Mbap, Parcel::Stream),
    ("modbus-rtu", Framing::Rtu, Parcel::Serial),
    ("modbus-ascii", Framing::Ascii, Parcel::Serial),
    ("modbus-rtu-over-tcp", Framing::Rtu, Parcel::Stream),
    ("modbus-ascii-over-tcp", Framing::Ascii, Parcel::Stream),
    ("modbus-udp", Framing::Mbap, Parcel::Datagram),
    ("modbus-rtu-over-udp", Framing::Rtu, Parcel::Datagram),
    ("modbus-tls", Framing::Mbap, Parcel::Stream),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parcel {
    Stream,
    Datagram,
    Serial,
}

/// How a recorded line was spoken on and what carried it. `None`: by nothing that this version knows.
pub fn link(line: &Line) -> Option<BusLink> {
    let (_, framing, parcel) = KINDS.iter().find(|(kind, _, _)| *kind == line.kind)?;
    let endpoint = line.place.clone();
    let listen = line.place.strip_prefix("listening on ").and_then(|listen| listen.parse().ok());
    let carrier = match (parcel, listen) {
        (Parcel::Stream, Some(listen)) => Carrier::Listen { listen, allow: Vec::new() },
        _ if line.kind == "modbus-tls" => {
            let [ca_file, certificate, key] = Default::default();
            Carrier::Tls(TlsCarrier { endpoint, ca_file, certificate, key, server_name: String::new() })
        }
        (Parcel::Stream, None) => Carrier::Tcp { endpoint },
        (Parcel::Datagram, _) => Carrier::Udp { endpoint },
        (Parcel::Serial, _) => Carrier::Serial(PortPlan::plain(&line.place, settings(&line.settings)?)),
    };
    Some(BusLink::new(*framing, carrier))
}

/// `19200-8E1`
pub fn settings(text: &str) -> Option<SerialPlan> {
    let (baud, form) = text.split_once('-')?;
    let [data, parity, stop] = form.as_bytes() else { return None };
    let parity = match parity {
        b'N' => Parity::None,
        b'E' => Parity::Even,
        b'O' => Parity::Odd,
        _ => return None,
    };
    let digit = |digit: u8| digit.checked_sub(b'0');
    Some(SerialPlan { baud: baud.parse().ok()?, data_bits: digit(*data)?, parity, stop_bits: digit(*stop)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_type_of_a_configuration_is_known_again() {
        for (kind, place, settings) in [
            ("modbus-tcp", "plc:502", ""),
            ("modbus-tcp", "listening on 0.0.0.0:5020", ""),
            ("modbus-rtu", "/dev/ttyUSB0", "9600-8N1"),
            ("modbus-ascii", "/dev/ttyS1", "1200-7E2"),
            ("modbus-rtu-over-tcp", "moxa:4001", ""),
            ("modbus-ascii-over-tcp", "[::1]:4001", ""),
            ("modbus-udp", "plc:502", ""),
            ("modbus-rtu-over-udp", "plc:502", ""),
            ("modbus-tls", "plc:802", ""),
        ] {
            let [name, kind, place, settings] = ["b", kind, place, settings].map(str::to_owned);
            let line = Line { name, kind, place, settings, response_timeout: Duration::ZERO };
            let link = link(&line).expect("known");
            assert_eq!(link.kind(), line.kind);
            assert_eq!(link.carrier.to_string(), format!("{} {}", line.place, line.settings).trim_end());
        }
    }
}
