//! Instruments on a bus of type `line`: listened to, or asked, by the gateway's own driver, until each of their tags has been
//! said once or they have had their time. What they say is text, so that there are no words to turn round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::progress::Progress;
use super::seen::{Got, Harvest, Miss, View};
use super::survey::{BusSurvey, DeviceSurvey, tags_of};
use crate::config::plan::{LineMode, Plan};
use crate::field::carrier::{self, Who};
use crate::field::line::LineBus;
use crate::field::{BusStats, Pauses, Shared};
use crate::flow::clock::Clock;
use crate::flow::hub::{DurableEnd, hub};
use crate::flow::stop::Stop;
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::tag::{BusIx, DeviceIx};

/// Who talks by itself is listened to for this long.
const LISTEN_MAX: Duration = Duration::from_secs(15);
/// Added to the time that all questions may take.
const MARGIN: Duration = Duration::from_secs(1);

/// Listens to the chosen devices of one bus.
pub async fn bus(plan: Arc<Plan>, ix: BusIx, chosen: Vec<DeviceIx>, clock: Clock, progress: Progress) -> BusSurvey {
    let of = &plan[ix];
    let wanted: BTreeSet<usize> = chosen.iter().flat_map(|device| tags_of(&plan, *device)).collect();
    progress.at(format!("{}: waiting for a frame of each device", of.name));
    let mut opener = carrier::opener_of(of, &clock, Who::Tool);
    let opened = opener.open().await; // closed again at once: the driver opens its own
    if let Err(error) = opened {
        progress.skip(chosen.len());
        return BusSurvey { bus: ix, not_open: Some(error), devices: Vec::new() };
    }
    drop(opened);
    let (hub, latest, end) = hub(plan.tags.iter().map(|tag| tag.class).collect());
    let drained = tokio::spawn(drain(end));
    let stop = Stop::new();
    let shared = Shared { clock: clock.clone(), stop: stop.clone(), pauses: Pauses::default() };
    let (bus, handle) = LineBus::over(opener, Arc::clone(&plan), ix, &hub, shared);
    drop(hub); // so that the drain ends with the bus
    let running = tokio::spawn(bus.run());
    let deadline = Instant::now() + patience(&plan, ix, chosen.len());
    let mut harvest = Harvest::new();
    while !wanted.iter().all(|tag| harvest.contains_key(tag)) {
        let Ok(Some(fresh)) = timeout_at(deadline, latest.take()).await else { break };
        let own = fresh.samples.into_iter().filter(|sample| wanted.contains(&(sample.tag.0 as usize)));
        harvest.extend(own.map(|sample| (sample.tag.0 as usize, got(sample))));
    }
    stop.begin();
    let ended = tokio::join!(running, drained);
    if let (Err(error), _) = ended {
        tracing::error!(bus = %plan[ix].name, error = %error, "bus panicked");
    }
    progress.skip(chosen.len());
    let devices = chosen.iter().map(|device| device_survey(&plan, *device, &harvest, &handle.stats)).collect();
    BusSurvey { bus: ix, not_open: None, devices }
}

/// Nothing is stored: what is for the store goes nowhere.
async fn drain(mut end: DurableEnd) {
    while end.records.recv().await.is_some() {}
}

/// How long the devices of a bus may take to say something: each question as often as it is repeated, or a while.
fn patience(plan: &Plan, ix: BusIx, devices: usize) -> Duration {
    let of = &plan[ix];
    let asked = of.line.as_ref().is_some_and(|line| line.mode == LineMode::Poll);
    let retries = of.habits.manners.retries;
    let questions = u32::try_from(devices).unwrap_or(u32::MAX).saturating_mul(u32::from(retries) + 1);
    if asked { of.response_timeout * questions.saturating_add(2) + MARGIN } else { LISTEN_MAX }
}

fn got(sample: Sample) -> Got {
    match (sample.value, sample.quality) {
        (None, Quality::Bad(Cause::Timeout)) => Got::Miss(Miss::Timeout),
        (None, Quality::Bad(Cause::Transport)) => Got::Miss(Miss::Lost("by the other side".into())),
        (None, Quality::Bad(Cause::Protocol)) => Got::Miss(Miss::Garbled),
        (value, quality) => Got::Said(value, quality),
    }
}

fn device_survey(plan: &Arc<Plan>, device: DeviceIx, harvest: &Harvest, stats: &BusStats) -> DeviceSurvey {
    let silent = || Got::Miss(Miss::Timeout);
    let own = tags_of(plan, device).into_iter();
    let own: Harvest = own.map(|tag| (tag, harvest.get(&tag).cloned().unwrap_or_else(silent))).collect();
    DeviceSurvey {
        device,
        plan: Arc::clone(plan),
        views: vec![(View::Configured, own)],
        slowest: None,
        noise: stats.noise(),
        foreign: stats.foreign.get(),
        neighbours_barred: false,
    }
}
