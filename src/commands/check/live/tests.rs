//! The judgement, without a wire: every shipped register map as a device that is healthy, or wrong in one known way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::seen::{Got, Harvest, Miss, View};
use super::survey::DeviceSurvey;
use super::theory::{Change, Theory};
use super::verdict::{self, DeviceReport};
use crate::config::plan::{Plan, TagPlan};
use crate::config::shipped::SHIPPED;
use crate::config::{self, HostFacts};
use crate::field::modbus::decode::{Cut, Piece};
use crate::field::modbus::session::Reading;
use crate::field::stats::Noise;
use crate::model::tag::{DataType, DeviceIx};
use crate::plant::image::Image;
use crate::plant::life::Life;
use crate::plant::units::Units;

/// What registers beside the map are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// There are none: exception 2.
    Nothing,
    /// They read 0.
    Zeros,
}

/// A device that answers: its image now, and how it differs from what the map says.
struct Device<'a> {
    plan: &'a Plan,
    image: Image,
    beside: Beside,
    /// By how much its map is off.
    off: i32,
    turned: bool,
    /// Floats have digits to their last bit, as a meter's have.
    noise: Option<StdRng>,
}

fn plan(profile: &str) -> Plan {
    let text = format!(
        "[[bus]]\nname = \"net\"\ntype = \"modbus-tcp\"\nendpoint = \"192.0.2.1:502\"\n\
         [[device]]\nname = \"device\"\nbus = \"net\"\nunit_id = 1\nprofile = \"{profile}\""
    );
    let facts = HostFacts { hostname: "box-7".into(), credentials_dir: None };
    let loaded = config::parse(&text, Path::new("/etc/ironbridge/ironbridge.toml"), &facts);
    loaded.unwrap_or_else(|problems| panic!("{profile}: {problems}")).plan
}

/// The same device at many moments of its life; time is virtual.
async fn each_moment(profile: &str, moments: u32, mut look: impl FnMut(&Plan, Image)) {
    let (plan, units) = (plan(profile), Units::new());
    let mut life = Life::default();
    life.add(&plan, &plan.devices[0], &[]);
    units.insert_living(1, life);
    for _ in 0..moments {
        tokio::time::advance(Duration::from_millis(1733)).await;
        look(&plan, units.with_image(1, |image| image.clone()).expect("is there"));
    }
}

impl Device<'_> {
    /// As the sources of the map mean it.
    fn healthy(plan: &Plan, image: Image) -> Device<'_> {
        Device { plan, image, beside: Beside::Nothing, off: 0, turned: false, noise: None }
    }

    fn report(mut self) -> DeviceReport {
        let views = [(View::Configured, 0), (View::Lower, -1), (View::Higher, 1)];
        self.spoil();
        let views = views.map(|(view, off)| (view, self.harvest(off + self.off))).to_vec();
        let noise = Noise::default();
        let survey = DeviceSurvey {
            device: DeviceIx(0),
            plan: Arc::new(self.plan.clone()),
            views,
            slowest: None,
            noise,
            foreign: 0,
            neighbours_barred: false,
        };
        verdict::device(survey)
    }

    /// Changes the registers of numbers as this device has them.
    fn spoil(&mut self) {
        for tag in &self.plan.tags {
            let Some(place) = tag.register().filter(|_| tag.data_type.is_number()) else { continue };
            let count = tag.data_type.registers();
            let Ok(mut words) = self.image.words(place.table, place.start, count) else { continue };
            if let (Some(dice), DataType::Float32) = (&mut self.noise, tag.data_type) {
                let least = usize::from(!tag.order.words_reversed());
                words[least] ^= if words == [0, 0] { 0 } else { dice.random_range(0..0x1000) };
            }
            if self.turned && count > 1 {
                words.reverse();
            }
            self.image.set_words(place.table, place.start, &words);
        }
    }

    fn harvest(&self, off: i32) -> Harvest {
        let wanted = self.plan.tags.iter().enumerate().filter(|(_, tag)| tag.access.reads());
        wanted.filter_map(|(ix, tag)| Some((ix, self.got(tag, off)?))).collect()
    }

    fn got(&self, tag: &TagPlan, off: i32) -> Option<Got> {
        let place = tag.register()?;
        let Ok(start) = u16::try_from(i32::from(place.start) + off) else { return Some(Got::Miss(Miss::NotAsked)) };
        let read = |start: u16, count: u16| {
            if place.table.is_bits() {
                self.image.bits(place.table, start, count).map(Reading::Bits)
            } else {
                self.image.words(place.table, start, count).map(Reading::Registers)
            }
        };
        let count = if place.table.is_bits() { 1 } else { tag.data_type.registers() };
        let reading = match (read(start, count), self.beside) {
            (Ok(reading), _) => reading,
            (Err(_), Beside::Nothing) => return Some(Got::Miss(Miss::Exception(2))),
            (Err(_), Beside::Zeros) if place.table.is_bits() => Reading::Bits(vec![false]),
            (Err(_), Beside::Zeros) => {
                let one = |at: u16| match start.checked_add(at).map(|start| read(start, 1)) {
                    Some(Ok(Reading::Registers(words))) => words[0],
                    _ => 0,
                };
                Reading::Registers((0..count).map(one).collect())
            }
        };
        Some(match Cut::new(tag, place.start)?.piece(&reading) {
            Piece::Bit(on) => Got::Bit(on),
            Piece::Words(words) => Got::Words(words.to_vec()),
            Piece::Missing => Got::Miss(Miss::Garbled),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn no_healthy_device_is_accused_of_anything() {
    let mut accused = Vec::new();
    for (profile, _) in SHIPPED {
        each_moment(profile, 4, |plan, image| {
            for noise in [None, Some(StdRng::seed_from_u64(7))] {
                for beside in [Beside::Nothing, Beside::Zeros] {
                    let noise = noise.clone();
                    let report = Device { beside, noise, ..Device::healthy(plan, image.clone()) }.report();
                    let odd = report.tags.iter().filter(|tag| !tag.verdict.is_fine() || tag.proposal.is_some());
                    accused.extend(odd.map(|tag| format!("{profile}/{}: {tag:?}", plan.tags[tag.tag].name)));
                    accused.extend(report.finding.map(|finding| format!("{profile}: {finding:?}")));
                }
            }
        })
        .await;
    }
    assert!(accused.is_empty(), "{} accusations, such as {:#?}", accused.len(), &accused[..accused.len().min(3)]);
}

/// How many devices with one fault had it named.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    right: u32,
    /// Beside another explanation, which fits as well.
    as_rival: u32,
    /// Only something else was named.
    wrong: u32,
    missed: u32,
}

async fn tally(off: i32, turned: bool, beside: Beside, noisy: bool) -> Tally {
    let mut tally = Tally::default();
    for (profile, _) in SHIPPED {
        each_moment(profile, 1, |plan, image| {
            let turnable = |tag: &TagPlan| tag.data_type.is_number() && tag.data_type.registers() > 1;
            // Points of SunSpec models are where the chain says, in the one order that SunSpec has.
            let in_models = plan.tags.iter().any(|tag| tag.model().is_some());
            if in_models || turned && !plan.tags.iter().any(turnable) {
                return;
            }
            let noise = noisy.then(|| StdRng::seed_from_u64(7));
            let report = Device { beside, off, turned, noise, ..Device::healthy(plan, image) }.report();
            let place = match &report.finding {
                None => &mut tally.missed,
                Some(finding) if is_right(finding.theory, off) => &mut tally.right,
                Some(finding) if finding.rival.is_some_and(|rival| is_right(rival, off)) => &mut tally.as_rival,
                Some(_) => &mut tally.wrong,
            };
            *place += 1;
        })
        .await;
    }
    tally
}

fn is_right(theory: Theory, off: i32) -> bool {
    let kept = theory.floats == Change::Keep && theory.wholes == Change::Keep;
    let turned = theory.floats == Change::Words || theory.wholes == Change::Words;
    match off {
        1 => theory.view == View::Lower && kept,
        -1 => theory.view == View::Higher && kept,
        _ => theory.view == View::Configured && turned,
    }
}

#[tokio::test(start_paused = true)]
async fn of_the_shipped_maps_nearly_every_wrong_one_is_told_and_none_wrongly() {
    for (beside, told_min) in [(Beside::Nothing, 93), (Beside::Zeros, 75)] {
        for noisy in [false, true] {
            for (off, turned) in [(1, false), (-1, false), (0, true)] {
                let found = tally(off, turned, beside, noisy).await;
                let Tally { right, as_rival, wrong, missed } = found;
                let percent = 100 * (right + as_rival) / (right + as_rival + wrong + missed);
                let case = format!("{beside:?}, noisy: {noisy}, off: {off}, turned: {turned}: {found:?}");
                assert!(wrong == 0 && percent >= told_min, "{case}");
            }
        }
    }
}
