//! A serial port of a bus: `port`, `serial`, `rs485`, `low_latency`.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::plan::{Framing, Level, Parity, PortPlan, Rs485, SerialPlan};
use super::super::raw::{Trail, Value};
use super::super::schema;
use super::super::section::Section;
use super::super::source::At;

const BAUD: RangeInclusive<u32> = 300..=4_000_000;
const SERIAL_FORM: &str = "\"<baud>-<data bits><parity N, E or O><stop bits>\", such as \"19200-8E1\"";
const LEVELS: [(&str, Level); 2] = [("high", Level::High), ("low", Level::Low)];
/// What Linux takes (Documentation/driver-api/serial/serial-rs485.rst).
const RTS_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_millis(100);
const RS485: Rs485 =
    Rs485 { rts_on_send: Level::High, delay_before_send: Duration::ZERO, delay_after_send: Duration::ZERO };

/// The port of a serial bus; each belongs to one bus.
pub fn serial(section: &Section<'_, '_>, framing: Framing, ports: &mut HashMap<PathBuf, At>) -> Option<PortPlan> {
    let port = section.required_text("port", "the serial port, best its name below /dev/serial/by-id/");
    let text = section.required_text_like("serial", "the line settings, such as \"19200-8E1\"");
    let line = text.and_then(|text| {
        let line = line(text.value, framing);
        line.map_err(|message| section.report(section.wrong("serial", text.at, message).allowed(SERIAL_FORM))).ok()
    });
    let port = port.and_then(|port| {
        if !port.value.starts_with('/') || port.value.contains('\0') {
            let message = "must be the full path of the port";
            section.report(section.wrong("port", port.at, message).allowed("such as \"/dev/ttyUSB0\""));
            return None;
        }
        let path = PathBuf::from(port.value);
        if let Some(first) = ports.insert(path.clone(), port.at) {
            let message = "another bus has this port already; devices on one line belong to one bus";
            section.report(section.wrong("port", port.at, message).also(first));
        }
        Some(path)
    });
    let rs485 = rs485(section);
    let low_latency = section.flag("low_latency").is_some_and(|flag| flag.value);
    Some(PortPlan { rs485, low_latency, ..PortPlan::plain(port?, line?) })
}

fn line(text: &str, framing: Framing) -> Result<SerialPlan, &'static str> {
    let (baud, frame) = text.split_once('-').ok_or("are no line settings")?;
    let digits = !baud.is_empty() && baud.bytes().all(|byte| byte.is_ascii_digit());
    let baud = baud.parse().ok().filter(|baud| digits && BAUD.contains(baud));
    let baud = baud.ok_or("the baud rate is a number, 300 ..= 4000000")?;
    let [data_bits, parity, stop_bits] = frame.as_bytes() else {
        return Err("are no line settings");
    };
    let data_bits = match (data_bits, framing) {
        (b'8', _) => 8,
        (b'7', Framing::Ascii | Framing::Line) => 7,
        (_, Framing::Line) => return Err("a line has 7 or 8 data bits"),
        (_, Framing::Ascii) => return Err("Modbus ASCII has 7 or 8 data bits"),
        _ => return Err("Modbus RTU has 8 data bits"),
    };
    let parity = match parity {
        b'N' => Parity::None,
        b'E' => Parity::Even,
        b'O' => Parity::Odd,
        _ => return Err("the parity is N, E or O"),
    };
    let stop_bits = match stop_bits {
        b'1' => 1,
        b'2' => 2,
        _ => return Err("there are 1 or 2 stop bits"),
    };
    Ok(SerialPlan { baud, data_bits, parity, stop_bits })
}

/// `rs485 = true`, or a table that says how.
fn rs485(section: &Section<'_, '_>) -> Option<Rs485> {
    let node = section.get("rs485")?;
    match &node.value {
        Value::Bool(on) => on.then_some(RS485),
        Value::Table(_) => {
            let trail = Trail::Key(section.trail, "rs485");
            let table = Section::open(section.cx, node, &trail, schema::RS485)?;
            let rts_on_send = table.choice("rts_on_send", &LEVELS).map_or(RS485.rts_on_send, |level| level.value);
            let delay = |key| table.duration(key, RTS_DELAY).unwrap_or_default();
            Some(Rs485 {
                rts_on_send,
                delay_before_send: delay("delay_before_send"),
                delay_after_send: delay("delay_after_send"),
            })
        }
        _ => {
            let allowed =
                "true, false or { rts_on_send = \"high\", delay_before_send = \"0s\", delay_after_send = \"0s\" }";
            section.report(section.wrong("rs485", node.at, "is no RS-485 mode").allowed(allowed));
            None
        }
    }
}
