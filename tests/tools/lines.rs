//! The tools and instruments that speak lines: what was configured is shown, and what came instead.

use std::path::Path;

use ironbridge::config::plan::{Carrier, Plan};
use ironbridge::config::{self, HostFacts};
use ironbridge::plant::faults::Fault;
use ironbridge::plant::site::{Place, Site, SiteOptions};
use tempfile::TempDir;

use crate::says;

const SCALE: &str = include_str!("../../config/scale.toml");
const GPS: &str = include_str!("../../config/gps.toml");

/// A configuration on a network, and its simulated instrument.
async fn served(text: &str) -> (TempDir, String, std::net::SocketAddr, Site) {
    let facts = HostFacts { hostname: "box".into(), credentials_dir: None };
    let mut plan: Plan =
        config::parse(text, Path::new("x.toml"), &facts).unwrap_or_else(|error| panic!("{error}")).plan;
    plan.buses[0].link.carrier = Carrier::Tcp { endpoint: "nowhere:4001".into() };
    let site = Site::serve(&plan, &SiteOptions::default()).await.expect("served");
    let Place::Net(address) = site.buses()[0].place else { panic!("on TCP") };
    let port = text.find("port = ").expect("a port");
    let ends = |from: usize| from + text[from..].find('\n').expect("a line");
    let serial = text.find("serial = ").expect("settings");
    let text =
        format!("{}endpoint = \"{address}\"{}{}", &text[..port], &text[ends(port)..serial], &text[ends(serial)..]);
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("line.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    (folder, path, address, site)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_live_asks_a_scale() {
    let (_folder, path, at, site) = served(SCALE).await;
    let live = format!("check --live --config {path}");
    says(&live, at, 0, &["weight", " g", "state", "2 good"]).await;
    site.set_fault("scale", Some(Fault::Dead));
    says(&live, at, 75, &["scale"]).await;
    says(&format!("read --config {path} scale/weight"), at, 64, &["what an instrument says", "check --live"]).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_live_listens_to_a_receiver() {
    let (_folder, path, at, site) = served(GPS).await;
    let live = format!("check --live --config {path}");
    says(&live, at, 0, &["lat_deg", "altitude", "speed", "10 good"]).await;
    site.stop().await;
}
