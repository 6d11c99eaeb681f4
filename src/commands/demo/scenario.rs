//! The plant of the demo and its configuration: a pump station, an energy meter with the register map of a real one, and
//! an RTU line with three units of which one is dead.
//!
//! The configuration is an ordinary one; it is left in the data directory for the reader.

use std::path::{Path, PathBuf};

use crate::commands::Failed;
use crate::commands::simulate::rewrite::{Changes, merged};
use crate::config::{self, HostFacts, Loaded};
use crate::plant::cloud::certs::CertificateFiles;
use crate::plant::faults::Fault;
use crate::plant::life::Follow;
use crate::plant::site::{Site, SiteOptions};

/// The unit on the RTU line that never answers.
pub const DEAD: &str = "flow-meter-2";

/// The gateway's `data_dir`, in the demo's directory.
pub const STORE: &str = "data";

const PLANT: &str = include_str!("plant.toml");

/// A served plant and the configuration that leads to it.
pub struct Scenario {
    /// The devices.
    pub site: Site,
    /// The configuration.
    pub loaded: Loaded,
    /// Where it was written.
    pub file: PathBuf,
}

impl Scenario {
    /// Serves the plant and writes `ironbridge.toml` into the directory. `cloud`: `host:port` of the way to the cloud.
    pub async fn begin(directory: &Path, cloud: &str, files: &CertificateFiles) -> Result<Self, Failed> {
        let text = PLANT.replace("@cloud@", cloud).replace("@ca@", &quoted(&files.ca));
        let text = text.replace("@certificate@", &quoted(&files.client_certificate));
        let text = text.replace("@key@", &quoted(&files.client_key)).replace("@data@", &quoted(&directory.join(STORE)));
        let file = directory.join("ironbridge.toml");
        let facts = HostFacts::default();
        let ours =
            |problems: config::Problems| Failed::Internal(format!("the demo's configuration is wrong: {problems}"));
        let plan = config::parse(&text, &file, &facts).map_err(ours)?.plan;
        let options = SiteOptions { paced: true, follows: follows(), ..SiteOptions::default() };
        let site = Site::serve(&plan, &options).await.map_err(|error| Failed::TryAgain(error.to_string()))?;
        site.set_fault(DEAD, Some(Fault::Dead));

        let places = site.buses().iter().map(|bus| (bus.name.clone(), bus.place.clone())).collect();
        let changes = Changes { places, ..Changes::default() };
        let text = merged(&[(file.clone(), text)], &changes).map_err(|error| Failed::Internal(error.to_string()))?;
        std::fs::write(&file, &text).map_err(|error| Failed::TryAgain(format!("{}: {error}", file.display())))?;
        let loaded = config::parse(&text, &file, &facts).map_err(ours)?;
        Ok(Self { site, loaded, file })
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    config::quoted(&path.display().to_string())
}

/// What reacts to what is written.
fn follows() -> Vec<(String, Follow)> {
    let follow = |source: &str, target: &str, gain: f64, rate: f64| {
        let (source, target) = (source.to_owned(), target.to_owned());
        ("pump-station".to_owned(), Follow { source, target, gain, rate })
    };
    vec![
        follow("speed_set", "speed", 1.0, 150.0),
        follow("speed", "flow", 0.08, 12.0),
        follow("inlet_valve", "inlet_open", 1.0, 0.5),
        follow("outlet_valve", "outlet_open", 1.0, 0.5),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_configuration_of_the_demo_is_right() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = CertificateFiles {
            ca: directory.path().join("ca"),
            client_certificate: directory.path().join("crt"),
            client_key: directory.path().join("key"),
        };
        let scenario = Scenario::begin(directory.path(), "127.0.0.1:8883", &files).await.expect("right");
        let plan = &scenario.loaded.plan;
        assert_eq!((plan.buses.len(), plan.devices.len()), (2, 4));
        assert!(plan.devices.iter().any(|device| device.name == DEAD));
        for (device, follow) in follows() {
            let device = plan.devices.iter().find(|known| known.name == device).expect("a device");
            let tags = &plan.tags[device.tags.clone()];
            for name in [&follow.source, &follow.target] {
                assert!(tags.iter().any(|tag| tag.name == *name), "{name}");
            }
        }
        assert!(scenario.file.exists());
    }
}
