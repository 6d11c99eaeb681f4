//! `ironbridge simulate`: serves the devices that a config describes, without any hardware, until it is told to stop.
//!
//! `rewrite` gives the config other places (`files`: the paths in it) · `faults` reads options · `report` says where all is ·
//! `cloud` is the TLS broker of `--cloud`.
//!
//! Each bus at 127.0.0.1 and a free port, or on a pseudo-terminal; values move within their limits, writes stay. Faults by
//! option. `--write-config` gives the config back, rewritten to the simulated places, so that
//! `ironbridge run --config OUT` is a whole gateway on one desk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::plan::DevicePlan;
use crate::config::{self, HostFacts, Loaded};
use crate::plant::faults::{Fault, Trouble};
use crate::plant::site::{Site, SiteOptions};

use super::Failed;
use super::interrupt::Interrupt;
use cloud::SimulatedCloud;
use rewrite::{Changes, CloudChange};

mod cloud;
mod faults;
mod files;
mod report;
pub mod rewrite;

/// Arguments of `ironbridge simulate`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = faults::HELP)]
pub struct Args {
    /// The configuration whose devices are served
    #[arg(long, value_name = "FILE", default_value = "/etc/ironbridge/ironbridge.toml")]
    pub config: PathBuf,
    /// Write the configuration, rewritten to the simulated places, to this file
    #[arg(long, value_name = "OUT")]
    pub write_config: Option<PathBuf>,
    /// Another data_dir for the rewritten configuration
    #[arg(long, value_name = "DIR", requires = "write_config")]
    pub data_dir: Option<PathBuf>,
    /// A device that neither hears nor speaks (may be repeated)
    #[arg(long, value_name = "DEVICE")]
    pub dead: Vec<String>,
    /// A device that answers late, such as meter-1=500ms (may be repeated)
    #[arg(long, value_name = "DEVICE=TIME", value_parser = late)]
    pub late: Vec<(String, Duration)>,
    /// A device that answers everything with a Modbus exception, such as meter-1=6 (may be repeated)
    #[arg(long, value_name = "DEVICE=CODE", value_parser = exception)]
    pub exception: Vec<(String, u8)>,
    /// A device whose replies are damaged on the way (may be repeated)
    #[arg(long, value_name = "DEVICE")]
    pub noise: Vec<String>,
    /// A fault, such as meter-1=bit-flip@5% (may be repeated; all faults are listed below)
    #[arg(long, value_name = "DEVICE=FAULT", value_parser = faults::named)]
    pub fault: Vec<(String, Trouble)>,
    /// Serial lines take the time of their baud rate
    #[arg(long)]
    pub paced: bool,
    /// Put a symbolic link to each pseudo-terminal into this directory, named after its bus
    #[arg(long, value_name = "DIR")]
    pub links: Option<PathBuf>,
    /// Stop after this time, such as 60s (default: at Ctrl-C or SIGTERM)
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    pub run_for: Option<Duration>,
    /// Add a TLS broker; --write-config points every uplink to it
    #[arg(long)]
    pub cloud: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Runs until the time is over or a signal comes.
pub async fn run(args: Args, facts: &HostFacts) -> Result<(), Failed> {
    let mut interrupt = Interrupt::listen()?;
    let loaded = config::load(&args.config, facts).map_err(|problems| Failed::Config(problems.to_string()))?;
    let faults = faults::all(&args, &loaded.plan)?;
    if let Some(out) = &args.write_config {
        check_target(out, &loaded)?;
    }
    let is_mute = |device: &&DevicePlan| device.talk.as_ref().is_some_and(|talk| talk.examples.is_empty());
    if let Some(device) = loaded.plan.devices.iter().find(is_mute) {
        let name = &device.name;
        let text = format!("device {name}: simulate speaks the `example` of an instrument, and this one has none");
        return Err(Failed::Config(text));
    }
    let certificates = Certificates::beside(args.write_config.as_deref());
    let unplugs = faults.iter().flat_map(|(_, own)| own).any(|trouble| matches!(trouble.fault, Fault::Unplug(_)));
    let own_links = Folder::if_needed(unplugs && args.links.is_none())?;
    let options = SiteOptions {
        paced: args.paced,
        links: args.links.clone().or_else(|| own_links.as_ref().map(|folder| folder.path().to_owned())),
        certificates: Some(certificates.directory.clone()),
        ..SiteOptions::default()
    };
    let site = Site::serve(&loaded.plan, &options).await.map_err(|error| Failed::TryAgain(error.to_string()))?;
    for (device, fault) in &faults {
        site.set_troubles(device, fault);
    }
    let cloud = if args.cloud { Some(SimulatedCloud::start(args.write_config.as_deref()).await?) } else { None };
    if let Some(out) = &args.write_config {
        let cloud = cloud.as_ref().map(SimulatedCloud::change);
        write_config(out, &loaded, &changes(&args, &site, cloud)?, facts)?;
    }
    report::print(&args, &loaded.plan, &site, &faults, cloud.as_ref())?;
    interrupt.came_or_after(args.run_for).await;
    site.stop().await;
    if let Some(cloud) = cloud {
        cloud.stop().await;
    }
    Ok(())
}

/// Where the certificates of simulated devices with TLS lie: beside the rewritten configuration, or only until the end.
pub(super) struct Certificates {
    directory: PathBuf,
    temporary: bool,
}

impl Certificates {
    /// Beside that file.
    pub(super) fn beside(out: Option<&Path>) -> Self {
        let temporary = std::env::temp_dir().join(format!("ironbridge-plant-{}", std::process::id()));
        let directory = out.map_or(temporary, |out| parent(out).join("plant"));
        Self { directory, temporary: out.is_none() }
    }

    /// The folder; it comes with its first certificate.
    pub(super) fn folder(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.directory); // often there was none
        }
    }
}

/// A folder that goes when it is dropped: for the links to pseudo-terminals, under which an adapter that was unplugged
/// comes back.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it, or not.
    pub(super) fn if_needed(is_needed: bool) -> Result<Option<Self>, Failed> {
        if !is_needed {
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("ironbridge-ports-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| try_again(&path, &error))?;
        Ok(Some(Self(path)))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // in the folder for temporary files it hurts nobody
    }
}

fn late(text: &str) -> Result<(String, Duration), String> {
    let (device, time) = text.split_once('=').ok_or("write DEVICE=TIME, for instance meter-1=500ms")?;
    Ok((device.to_owned(), super::duration(time)?))
}

fn exception(text: &str) -> Result<(String, u8), String> {
    let wrong = "write DEVICE=CODE with a code from 1 to 255, for instance meter-1=6";
    let (device, code) = text.split_once('=').ok_or(wrong)?;
    let code = code.parse().ok().filter(|code| *code != 0).ok_or(wrong)?;
    Ok((device.to_owned(), code))
}

/// The rewritten configuration must not replace what it was made from, nor read fragments again.
pub(super) fn check_target(out: &Path, loaded: &Loaded) -> Result<(), Failed> {
    let same = |file: &PathBuf| out.canonicalize().is_ok_and(|out| file.canonicalize().is_ok_and(|file| file == out));
    if loaded.files.iter().any(same) {
        return Err(Failed::Usage(format!("{} belongs to the configuration itself; write elsewhere", out.display())));
    }
    check_place(out)
}

/// A configuration that is written there must not read fragments of another one.
pub(super) fn check_place(out: &Path) -> Result<(), Failed> {
    let fragments = parent(out).join("ironbridge.d");
    if fragments.is_dir() {
        return Err(Failed::Usage(format!(
            "{} would be read together with {}; write to another directory",
            fragments.display(),
            out.display()
        )));
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_path_buf)).unwrap_or_else(|| "/".into())
}

fn changes(args: &Args, site: &Site, cloud: Option<CloudChange>) -> Result<Changes, Failed> {
    let places = site.buses().iter().map(|bus| (bus.name.clone(), bus.place.clone())).collect();
    let data_dir = match &args.data_dir {
        Some(directory) => Some(std::path::absolute(directory).map_err(|error| try_again(directory, &error))?),
        None => None,
    };
    Ok(Changes { places, data_dir, cloud })
}

/// Writes a configuration with changes, and reads it again to be sure.
pub(super) fn write_config(out: &Path, loaded: &Loaded, changes: &Changes, facts: &HostFacts) -> Result<(), Failed> {
    let text = gathered(loaded, changes)?;
    std::fs::write(out, text).map_err(|error| try_again(out, &error))?;
    match config::load(out, facts) {
        Ok(_) => Ok(()),
        Err(problems) => Err(Failed::Internal(format!("the rewritten configuration is not right: {problems}"))),
    }
}

/// A configuration as one text: the main file and its fragments, with the changes made.
pub(super) fn gathered(loaded: &Loaded, changes: &Changes) -> Result<String, Failed> {
    let mut files = Vec::new();
    let mut fragments = None;
    for path in &loaded.files {
        // The main file is first; fragments lie in one directory beside it; the others are register maps.
        let fragments = fragments.get_or_insert_with(|| parent(path).join("ironbridge.d"));
        if files.is_empty() || path.parent() == Some(fragments) {
            files.push((path.clone(), std::fs::read_to_string(path).map_err(|error| try_again(path, &error))?));
        }
    }
    rewrite::merged(&files, changes).map_err(|error| Failed::Internal(error.to_string()))
}

fn try_again(path: &Path, error: &std::io::Error) -> Failed {
    Failed::TryAgain(format!("{}: {error}", path.display()))
}
