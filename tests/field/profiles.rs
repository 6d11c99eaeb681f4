//! The shipped register maps as devices: the simulated plant serves each of them, with only the registers of its map, and
//! the field reads every tag of it over TCP, exact.

use crate::rig;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ironbridge::config::plan::Plan;
use ironbridge::config::shipped::SHIPPED;
use ironbridge::config::{self, HostFacts};
use ironbridge::plant::site::{Place, Site, SiteOptions};
use rig::{Rig, good};

/// Generous: a few seconds on an idle machine, most of them for finding the holes of each map.
const DEADLINE: Duration = Duration::from_secs(120);

/// One bus with one unit per shipped map.
fn plan(endpoint: &str) -> Plan {
    let mut text = format!("[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\nendpoint = \"{endpoint}\"\n");
    for (unit, (name, _)) in SHIPPED.iter().enumerate() {
        let unit = unit + 1;
        write!(
            text,
            "[[device]]\nname = \"{name}\"\nbus = \"net\"\nunit_id = {unit}\nprofile = \"{name}\"\npoll = \"200ms\"\n"
        )
        .expect("a string takes everything");
    }
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    let loaded = config::parse(&text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).plan
}

#[tokio::test]
async fn every_tag_of_every_shipped_map_is_read_exact_from_a_device_that_has_only_these_registers() {
    let site = Site::serve(&plan("127.0.0.1:502"), &SiteOptions::default()).await.expect("serves");
    let Some(Place::Net(address)) = site.place("net") else { panic!("not on TCP") };
    let plan = plan(&address.to_string());
    let topics: Vec<_> = plan.tags.iter().map(|tag| tag.topic.clone()).collect();
    let mut missing: BTreeSet<usize> = (0..topics.len()).collect();
    let mut rig = Rig::run(plan);
    let all = async {
        while !missing.is_empty() {
            for sample in rig.batch().await.into_iter().filter(good) {
                let tag = sample.tag.0 as usize;
                let value = sample.value.expect("good samples have a value");
                assert_eq!(site.held(&topics[tag], &value), Some(true), "{} was never {value:?}", topics[tag]);
                missing.remove(&tag);
            }
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, all).await.is_ok();
    assert!(in_time, "never read: {:?}", missing.iter().map(|tag| &topics[*tag]).collect::<Vec<_>>());
}
