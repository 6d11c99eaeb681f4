//! What `simulate` says at its start: where everything is, as text or as one JSON object.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::{self, Failed};
use crate::config::plan::{Carrier, Plan};
use crate::plant::faults::Trouble;
use crate::plant::site::{Place, Site};

use super::Args;
use super::cloud::SimulatedCloud;

#[derive(Serialize)]
struct Report {
    buses: Vec<BusReport>,
    cloud: Option<CloudReport>,
    config: Option<String>,
}

#[derive(Serialize)]
struct BusReport {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    at: String,
    was: String,
    devices: Vec<DeviceReport>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    /// Of an instrument none.
    unit_id: Option<u8>,
    tags: usize,
    fault: Option<String>,
}

/// How to reach the simulated cloud.
#[derive(Serialize)]
pub struct CloudReport {
    /// With TLS.
    pub url: String,
    /// The same broker without.
    pub url_without_tls: String,
    /// Its authority.
    pub ca_file: String,
    /// A client certificate of it.
    pub certificate: String,
    /// The key to that.
    pub key: String,
}

/// Prints to standard output.
pub fn print(
    args: &Args,
    plan: &Plan,
    site: &Site,
    faults: &[(String, Vec<Trouble>)],
    cloud: Option<&SimulatedCloud>,
) -> Result<(), Failed> {
    let buses = plan.buses.iter().zip(site.buses()).enumerate().map(|(at, (bus, served))| {
        let was = match &bus.link.carrier {
            Carrier::Serial(port) => port.port.display().to_string(),
            network => network.to_string(),
        };
        let kind = bus.link.kind();
        let devices = devices(plan, at, faults);
        BusReport { name: bus.name.clone(), kind, at: served.place.to_string(), was, devices }
    });
    let report = Report {
        buses: buses.collect(),
        cloud: cloud.map(SimulatedCloud::report),
        config: args.write_config.as_ref().map(|out| out.display().to_string()),
    };
    let text = if args.json {
        let json = serde_json::to_string(&report).map_err(|error| Failed::Internal(error.to_string()))?;
        format!("{json}\n")
    } else {
        as_text(&report, site, args)
    };
    commands::print(text)
}

fn devices(plan: &Plan, bus: usize, faults: &[(String, Vec<Trouble>)]) -> Vec<DeviceReport> {
    plan.devices
        .iter()
        .filter(|device| device.bus.is_some_and(|ix| usize::try_from(ix.0) == Ok(bus)))
        .map(|device| {
            let own = faults.iter().find(|(name, _)| *name == device.name).map(|(_, own)| own);
            let fault = own.map(|own| own.iter().map(Trouble::to_string).collect::<Vec<_>>().join(", "));
            // What is worked out from others is no device's own.
            let served = plan.tags[device.tags.clone()].iter().filter(|tag| tag.is_of_device()).count();
            let unit_id = device.talk.is_none().then_some(device.unit_id);
            DeviceReport { name: device.name.clone(), unit_id, tags: served, fault }
        })
        .collect()
}

fn as_text(report: &Report, site: &Site, args: &Args) -> String {
    let mut text = String::new();
    for bus in &report.buses {
        let _ = writeln!(text, "{}  {}  {}  (in the config: {})", bus.name, bus.kind, bus.at, bus.was);
        for DeviceReport { name, unit_id, tags, fault } in &bus.devices {
            let fault = fault.as_ref().map(|fault| format!("  {fault}")).unwrap_or_default();
            let plural = if *tags == 1 { "tag" } else { "tags" };
            let unit = unit_id.map(|unit| format!("unit {unit}  ")).unwrap_or_default();
            let _ = writeln!(text, "    {name}  {unit}{tags} {plural}{fault}");
        }
    }
    if site.buses().iter().any(|bus| matches!(bus.place, Place::Pty(_))) {
        text.push_str("(pseudo-terminals have no parity: some tools must be told 8N1)\n");
    }
    if let Some(cloud) = &report.cloud {
        let _ = writeln!(text, "cloud  {}  (without TLS: {})", cloud.url, cloud.url_without_tls);
        let _ = writeln!(text, "    ca_file     {}", cloud.ca_file);
        let _ = writeln!(text, "    certificate {}", cloud.certificate);
        let _ = writeln!(text, "    key         {}", cloud.key);
    }
    if let Some(out) = &report.config {
        let _ = writeln!(text, "config rewritten; try: ironbridge run --config {out}");
    }
    match args.run_for {
        Some(time) => _ = writeln!(text, "serving for {} s, or until Ctrl-C", time.as_secs_f64()),
        None => text.push_str("serving until Ctrl-C\n"),
    }
    text
}
