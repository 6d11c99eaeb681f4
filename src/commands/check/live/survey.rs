//! One bus, looked at once: its devices one after the other, every mapped tag, and a second look beside the map where values
//! make no sense. Brings evidence, judges nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::ask::Asker;
use super::models;
use super::progress::Progress;
use super::seen::{Got, Harvest, Miss, View};
use super::theory::Evidence;
use crate::config::blocks::{Block, plan_blocks, width};
use crate::config::plan::{Carrier, Plan};
use crate::field::stats::Noise;
use crate::flow::clock::Clock;
use crate::model::tag::{BusIx, DeviceIx, Table, TagIx};

/// So many tags of a device are looked at a second time at most: those in trouble first. A vote needs no more.
const SECOND_LOOK_MAX: usize = 24;
/// Of these so many in trouble.
const TROUBLED_MAX: usize = 16;
/// Who dials in may take so many attempts of a few seconds each.
const CALLS_MAX: usize = 6;

/// What was found on one bus.
#[derive(Debug)]
pub struct BusSurvey {
    /// Which.
    pub bus: BusIx,
    /// Why it could not be opened.
    pub not_open: Option<io::Error>,
    /// Its devices, in plan order.
    pub devices: Vec<DeviceSurvey>,
}

/// What was found of one device.
#[derive(Debug)]
pub struct DeviceSurvey {
    /// Which.
    pub device: DeviceIx,
    /// The plan, with the addresses at which its tags were read.
    pub plan: Arc<Plan>,
    /// The harvests; that of the configured places first.
    pub views: Vec<(View, Harvest)>,
    /// Its slowest answer.
    pub slowest: Option<Duration>,
    /// What came besides answers.
    pub noise: Noise,
    /// Frames under other unit ids.
    pub foreign: u64,
    /// There was trouble, but the configuration forbids to read what no tag asks for.
    pub neighbours_barred: bool,
}

/// The reads of the chosen devices of one bus.
pub fn blocks(plan: &Plan, bus: BusIx, chosen: &[DeviceIx]) -> Vec<Block> {
    plan_blocks(plan, bus).into_iter().filter(|block| chosen.contains(&block.device)).collect()
}

/// Reads the chosen devices of one bus.
pub async fn bus(plan: Arc<Plan>, ix: BusIx, chosen: Vec<DeviceIx>, clock: Clock, progress: Progress) -> BusSurvey {
    let mut asker = Asker::new(&plan, ix, &clock, &progress);
    let all = blocks(&plan, ix, &chosen);
    let mut survey = BusSurvey { bus: ix, not_open: None, devices: Vec::new() };
    if let Err(error) = open(&mut asker, &plan, ix).await {
        progress.skip(all.len());
        survey.not_open = Some(error);
        return survey;
    }
    for device in chosen {
        let own: Vec<Block> = all.iter().filter(|block| block.device == device).cloned().collect();
        let of = &plan[device];
        progress.at(format!("{}: {}", plan[ix].name, of.name));
        survey.devices.push(look_at(&mut asker, &plan, device, own).await);
    }
    survey
}

async fn open(asker: &mut Asker<'_>, plan: &Plan, ix: BusIx) -> io::Result<()> {
    let dialled = matches!(plan[ix].link.carrier, Carrier::Listen { .. });
    let mut left = if dialled { CALLS_MAX } else { 1 };
    loop {
        left -= 1;
        match asker.open().await {
            Err(error) if left > 0 && error.kind() == io::ErrorKind::TimedOut => {}
            ended => return ended,
        }
    }
}

async fn look_at(asker: &mut Asker<'_>, plan: &Arc<Plan>, ix: DeviceIx, blocks: Vec<Block>) -> DeviceSurvey {
    let device = &plan[ix];
    let (before, foreign) = (asker.stats.noise(), asker.stats.foreign.get());
    asker.took.clear();
    let models::Settled { plan, blocks, missing } = models::settle(asker, plan, device, blocks).await;
    asker.plan = Arc::clone(&plan);
    let mut configured = asker.read(device, blocks.clone(), View::Configured).await;
    configured.extend(missing);
    let slowest = asker.took.iter().max().copied();
    let mut views = vec![(View::Configured, configured)];
    let troubled = Evidence { plan: &plan, views: &views }.troubled();
    // A planner that fills no gaps was told that nothing else must be read.
    let barred = device.max_gap == Some(0);
    let heard = views[0].1.values().any(|got| !matches!(got, Got::Miss(miss) if !miss.is_answer()));
    if heard && !troubled.is_empty() && !barred {
        for (view, tags) in second_looks(&plan, &views[0].1, &troubled) {
            let narrow: Vec<Block> = blocks.iter().filter_map(|block| narrowed(&plan, block, &tags)).collect();
            asker.more(narrow.len());
            let harvest = asker.read(device, narrow, view).await;
            views.push((view, harvest));
        }
    }
    DeviceSurvey {
        device: ix,
        plan,
        views,
        slowest,
        noise: asker.stats.noise().since(before),
        foreign: asker.stats.foreign.get() - foreign,
        neighbours_barred: barred && heard && !troubled.is_empty(),
    }
}

/// Where else to look, and for which tags.
fn second_looks(plan: &Plan, harvest: &Harvest, troubled: &[usize]) -> Vec<(View, Vec<usize>)> {
    let mut looks = Vec::new();
    let table = |tag: usize| plan.tags[tag].register().map(|place| place.table);
    for (from, to) in [
        (Table::Holding, Table::Input),
        (Table::Input, Table::Holding),
        (Table::Coil, Table::Discrete),
        (Table::Discrete, Table::Coil),
    ] {
        let own: Vec<usize> = harvest.keys().copied().filter(|tag| table(*tag) == Some(from)).collect();
        let refused = |tag: &usize| matches!(harvest.get(tag), Some(Got::Miss(Miss::Exception(1..=3))));
        if !own.is_empty() && own.iter().all(refused) {
            looks.push((View::OtherTable(from, to), with_factors(plan, spread(&own, TROUBLED_MAX))));
        }
    }
    let others: Vec<usize> = harvest.keys().copied().filter(|tag| !troubled.contains(tag)).collect();
    let mut chosen = spread(troubled, TROUBLED_MAX);
    chosen.extend(spread(&others, SECOND_LOOK_MAX - chosen.len()));
    let chosen = with_factors(plan, chosen);
    looks.push((View::Lower, chosen.clone()));
    looks.push((View::Higher, chosen));
    looks
}

/// At most so many, from all over; the first and the last among them, where an address is one off first.
fn spread(tags: &[usize], most: usize) -> Vec<usize> {
    if tags.len() <= most {
        return tags.to_vec();
    }
    (0..most).map(|place| tags[place * (tags.len() - 1) / (most - 1).max(1)]).collect()
}

/// And the tags that hold their scale factors.
fn with_factors(plan: &Plan, mut tags: Vec<usize>) -> Vec<usize> {
    let factors: Vec<usize> =
        tags.iter().filter_map(|tag| plan.tags[*tag].scale_from).map(|TagIx(factor)| factor as usize).collect();
    tags.extend(factors);
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// The part of a block that has these tags.
fn narrowed(plan: &Plan, block: &Block, tags: &[usize]) -> Option<Block> {
    let kept: Vec<TagIx> = block.tags.iter().copied().filter(|ix| tags.contains(&(ix.0 as usize))).collect();
    let spans = kept.iter().filter_map(|ix| {
        let tag = &plan[*ix];
        tag.register().map(|place| (place.start, u32::from(place.start) + u32::from(width(tag))))
    });
    let spans: Vec<(u16, u32)> = spans.collect();
    let start = spans.iter().map(|(start, _)| *start).min()?;
    let end = spans.iter().map(|(_, end)| *end).max()?;
    let count = u16::try_from(end - u32::from(start)).ok()?;
    Some(Block { start, count, tags: kept, ..block.clone() })
}

impl DeviceSurvey {
    /// The harvest of the configured places.
    pub fn configured(&self) -> &Harvest {
        &self.views[0].1
    }

    /// Did the device itself say anything?
    pub fn answered(&self) -> bool {
        self.configured().values().any(|got| !matches!(got, Got::Miss(miss) if !miss.is_answer()))
    }
}

/// Every tag that is read from a device.
pub fn tags_of(plan: &Plan, device: DeviceIx) -> Vec<usize> {
    let tags = plan[device].tags.clone();
    tags.filter(|tag| plan.tags.get(*tag).is_some_and(|tag| tag.is_of_device() && tag.access.reads())).collect()
}
