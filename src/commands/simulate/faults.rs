//! The faults of `simulate`, as they are written on the command line: `DEVICE=FAULT`, `DEVICE=FAULT:WHAT`, `…@SHARE%`.

use std::time::Duration;

use crate::commands::Failed;
use crate::config::plan::Plan;
use crate::config::units;
use crate::model::tag::Table;
use crate::plant::faults::{Fault, Share, Trouble};

use super::Args;

/// Between the pieces of a reply, unless told.
const PAUSE: Duration = Duration::from_millis(20);
/// An adapter is gone for this long, unless told.
const UNPLUGGED: Duration = Duration::from_secs(3);

/// What `--help` says of them.
pub const HELP: &str = "Faults (--fault DEVICE=FAULT; a bus in place of a device means all its devices; may be repeated, also for one device):\n  \
    dead                 hears nothing, says nothing\n  \
    lost                 does what it is told, but its reply is lost\n  \
    late:500ms           answers this much later, perhaps into the next question\n  \
    exception:CODE       1 to 255: 2 and 3 address and value, 5 and 6 busy, 10 and 11 a gateway's\n  \
    hole:holding:40-47   does not have these addresses: exception 2 for a block over one of them\n  \
    limit:32             gives at most so many registers at a time: exception 3\n  \
    bit-flip             a bit of the reply is flipped (RTU, ASCII)\n  \
    truncated            the reply breaks off\n  \
    garbage              bytes of nothing before the reply\n  \
    noise                a bad check sum; on modbus-tcp, -udp and -tls a wrong transaction id\n  \
    wrong-unit           the reply is signed by another unit\n  \
    wrong-function       the reply is one to another function\n  \
    registers:2          so many registers in every reply (0 to 125), whatever was asked\n  \
    echo                 the request comes back first; with dead, alone (RTU, ASCII)\n  \
    stale-id             the transaction id of the question before (modbus-tcp, -udp, -tls)\n  \
    pieces:20ms          the reply in four pieces with this pause\n  \
    close, reset         the connection ends instead of a reply (TCP, TLS)\n  \
    black-hole           the connection stands and is silent for ever (TCP, TLS)\n  \
    unplug:3s            the serial adapter is pulled, and back after this time under its --links name\n  \
    nan                  no values: sentinels of the tags, NaN for floats\n\
A share makes a fault occasional: --fault meter-1=bit-flip@5% --fault meter-1=late:300ms@10%. The dice fall alike in each run.";

/// `DEVICE=FAULT`
pub fn named(text: &str) -> Result<(String, Trouble), String> {
    let (name, fault) = text.split_once('=').ok_or("write DEVICE=FAULT, for instance meter-1=late:500ms@10%")?;
    Ok((name.to_owned(), trouble(fault)?))
}

fn trouble(text: &str) -> Result<Trouble, String> {
    let (fault, share) = match text.split_once('@') {
        None => (text, Share::ALWAYS),
        Some((fault, share)) => {
            let percent = share.strip_suffix('%').and_then(|percent| percent.parse().ok()).and_then(Share::percent);
            (fault, percent.ok_or_else(|| format!("'{share}' is no share; write 0.01% to 100%"))?)
        }
    };
    Ok(Trouble { fault: one(fault)?, share })
}

fn one(text: &str) -> Result<Fault, String> {
    let (name, what) = text.split_once(':').map_or((text, None), |(name, what)| (name, Some(what)));
    let time = |usual: Option<Duration>| match what {
        Some(what) => {
            units::duration(what).ok_or_else(|| format!("'{what}' is no time; write for instance {name}:500ms"))
        }
        None => usual.ok_or_else(|| format!("how much? Write for instance {name}:500ms")),
    };
    let number = |least: u8, most: u8| {
        let number = what.and_then(|what| what.parse().ok()).filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("{name} needs a number from {least} to {most}, such as {name}:{most}"))
    };
    let fault = match name {
        "late" => Fault::Late(time(None)?),
        "pieces" => Fault::Pieces(time(Some(PAUSE))?),
        "unplug" => Fault::Unplug(time(Some(UNPLUGGED))?),
        "exception" => Fault::Exception(number(1, 255)?),
        "limit" => Fault::Limit(number(1, 125)?.into()),
        "registers" => Fault::Registers(number(0, 125)?),
        "hole" => what.and_then(hole).ok_or("write hole:TABLE:FIRST-LAST, such as hole:holding:40-47 (zero-based)")?,
        _ => {
            let plain = PLAIN.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault);
            let fault = plain.ok_or_else(|| format!("there is no fault '{name}'; --help lists them"))?;
            return if what.is_none() {
                Ok(fault)
            } else {
                Err(format!("{name} has nothing behind it but a share (@5%)"))
            };
        }
    };
    Ok(fault)
}

/// Those without a parameter.
const PLAIN: [(&str, Fault); 15] = [
    ("dead", Fault::Dead),
    ("lost", Fault::Lost),
    ("noise", Fault::Noise),
    ("bit-flip", Fault::BitFlip),
    ("truncated", Fault::Truncated),
    ("garbage", Fault::Garbage),
    ("wrong-unit", Fault::WrongUnit),
    ("wrong-function", Fault::WrongFunction),
    ("echo", Fault::Echo),
    ("stale-id", Fault::StaleNumber),
    ("close", Fault::HangUp),
    ("reset", Fault::Reset),
    ("black-hole", Fault::BlackHole),
    ("nan", Fault::NotANumber),
    ("busy", Fault::Exception(6)),
];

fn hole(text: &str) -> Option<Fault> {
    let (table, range) = text.split_once(':')?;
    let table = Table::from_name(table)?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(Fault::Hole { table, first, last })
}

/// All faults by device, in the order of their devices; a name that the config does not have, or a fault that its bus
/// cannot show, is a usage error.
pub fn all(args: &Args, plan: &Plan) -> Result<Vec<(String, Vec<Trouble>)>, Failed> {
    let plain = |fault: Fault| Trouble::from(fault);
    let dead = args.dead.iter().map(|device| (device.clone(), plain(Fault::Dead)));
    let late = args.late.iter().map(|(device, by)| (device.clone(), plain(Fault::Late(*by))));
    let exception = args.exception.iter().map(|(device, code)| (device.clone(), plain(Fault::Exception(*code))));
    let noise = args.noise.iter().map(|device| (device.clone(), plain(Fault::Noise)));
    let told: Vec<_> = dead.chain(late).chain(exception).chain(noise).chain(args.fault.iter().cloned()).collect();
    let bus_of = |name: &str| plan.buses.iter().position(|bus| bus.name == name);
    let is_device = |name: &str| plan.devices.iter().any(|device| device.name == name);
    if let Some((stranger, _)) = told.iter().find(|(name, _)| !is_device(name) && bus_of(name).is_none()) {
        let known: Vec<&str> = plan.devices.iter().map(|device| device.name.as_str()).collect();
        return Err(Failed::Usage(format!(
            "there is no device '{stranger}' in this configuration, only {}",
            known.join(", ")
        )));
    }
    let mut all = Vec::new();
    for device in &plan.devices {
        let Some(bus) = device.bus.and_then(|bus| plan.bus(bus)) else { continue };
        let means = |name: &str| name == device.name || !is_device(name) && name == bus.name;
        let own: Vec<Trouble> = told.iter().filter(|(name, _)| means(name)).map(|(_, trouble)| *trouble).collect();
        if let Some(trouble) = own.iter().find(|trouble| !trouble.fault.needs().has(&bus.link)) {
            let (fault, needs) = (trouble.fault, trouble.fault.needs());
            let text = format!("{}: '{fault}' needs {needs}; {} is {}", device.name, bus.name, bus.link.kind());
            return Err(Failed::Usage(text));
        }
        if !own.is_empty() {
            all.push((device.name.clone(), own));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_the_help_writes_them() {
        for line in HELP.lines().filter(|line| line.starts_with("  ")) {
            for word in line[2..23].split(", ") {
                let word = word.trim().replace("CODE", "6");
                assert!(trouble(&word).is_ok(), "{word}: {:?}", trouble(&word));
            }
        }
        let half =
            Trouble { fault: Fault::Late(Duration::from_millis(300)), share: Share::percent(0.5).expect("a share") };
        assert_eq!(named("meter-1=late:300ms@0.5%"), Ok(("meter-1".to_owned(), half)));
        for wrong in
            ["dead", "m=", "m=deaf", "m=late", "m=late:soon", "m=dead@5", "m=dead@0%", "m=dead:1", "m=registers:126"]
        {
            assert!(named(wrong).is_err(), "{wrong}");
        }
        assert!(named("m=hole:holding:5-4").is_err() && named("m=hole:holdings:4").is_err());
    }
}
