//! The scan of a network endpoint: the device's own ids, ids that nobody has, then the units behind a gateway.

use std::time::Duration;

use super::estimate;
use super::examine::examine;
use super::found::{Found, Survey, Tally};
use super::prober::{Heard, Prober, Sign};
use super::progress::Progress;
use super::units;
use crate::commands::Failed;
use crate::commands::field::explain;
use crate::config::plan::{BusPlan, Framing};
use crate::flow::clock::Clock;
use crate::model::tag::Address;

/// Gateways wait this long for their serial line before they say that nobody is there; asked again before that, they
/// answer one question too late from then on. So the first silent units are given this much time, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many silent units show that nothing comes late.
const PATIENT_UNITS: usize = 3;
/// A connection is opened again so many times in a row without any answer.
const HANG_UPS_MAX: usize = 5;

/// What is to be asked.
#[derive(Debug)]
pub struct Job {
    /// Where.
    pub bus: BusPlan,
    /// Unit ids, the device's own and unlikely ones.
    pub first: Vec<u8>,
    /// The others.
    pub rest: Vec<u8>,
    /// Nothing is left out.
    pub all: bool,
    /// The register or bit to ask for.
    pub place: Address,
    /// The time to wait was chosen by a person.
    pub timeout_told: bool,
}

impl Job {
    /// With silence throughout.
    pub fn worst(&self) -> Duration {
        let patient =
            if self.learns() { PATIENCE * u32::try_from(PATIENT_UNITS).unwrap_or(u32::MAX) } else { Duration::ZERO };
        estimate::all([&self.bus], self.first.len() + self.rest.len()) + patient
    }

    /// For the person who waits, before it begins.
    pub fn announcement(&self) -> String {
        let count = self.first.len() + self.rest.len();
        let time = estimate::shown(self.worst());
        format!("{count} unit ids on {}: at worst {time}, and a moment for each device found", self.bus.link)
    }

    /// Whether the time to wait is learned: on a line without numbers silence follows each timeout anyway.
    const fn learns(&self) -> bool {
        !self.timeout_told && matches!(self.bus.link.framing, Framing::Mbap)
    }
}

/// Scans. What was found is in the survey at any moment; an error: nobody is there at all.
pub async fn scan(job: &Job, clock: &Clock, survey: &mut Survey, progress: &Progress) -> Result<(), Failed> {
    progress.expect(job.worst());
    let mut prober = Prober::new(job.bus.clone(), clock.clone());
    prober.open().await.map_err(|error| Failed::TryAgain(explain::not_open(&job.bus.link, &error)))?;
    survey.tallies.push(Tally::default());
    let mut patience = Patience::new(job);
    if job.learns() {
        prober.be_patient(PATIENCE.max(job.bus.response_timeout));
    }
    for (ix, unit) in job.first.iter().chain(&job.rest).enumerate() {
        if ix == job.first.len() && !job.all && is_one_device(survey) {
            survey.left_out.push(format!("unit ids {}: all ids asked so far bring the same", units::shown(&job.rest)));
            break;
        }
        progress.show(&format!("unit {unit}"), survey.devices.len());
        if !one(job, *unit, &mut prober, survey, progress).await || survey.cut_short.is_some() {
            break;
        }
        progress.over(estimate::silence(&job.bus));
        if let Some(timeout) = patience.learn(survey) {
            prober.be_patient(timeout);
        }
    }
    survey.take_together();
    Ok(())
}

/// One unit; `false` when there is no use in going on.
async fn one(job: &Job, unit: u8, prober: &mut Prober, survey: &mut Survey, progress: &Progress) -> bool {
    if let Err(error) = prober.open().await {
        survey.cut_short = Some(explain::not_open(&job.bus.link, &error));
        return false;
    }
    let heard = prober.ask(unit, job.place).await;
    survey.slowest = survey.slowest.max(Some(heard.took).filter(|_| heard.sign.is_found() || is_absent(&heard)));
    if let Some(tally) = survey.tallies.last_mut() {
        tally.count(unit, &heard);
    }
    if let Sign::HungUp(why) = &heard.sign {
        let hung_up = survey.tallies.iter().map(|tally| tally.hung_up.len()).sum::<usize>();
        if survey.devices.is_empty() && hung_up >= HANG_UPS_MAX && hung_up == survey.asked() {
            survey.cut_short = Some(format!("{hung_up} times in a row a question ended the connection ({why})"));
            return false;
        }
    }
    if heard.sign.is_found() {
        match examine(prober, unit, job.place, &heard.sign).await {
            Ok(portrait) => {
                progress.say(&format!("found unit {unit}"));
                survey.add(Found { unit, settings: Vec::new(), sign: heard.sign, portrait, took: heard.took });
            }
            Err(why) => survey.cut_short = Some(why),
        }
    }
    true
}

const fn is_absent(heard: &Heard) -> bool {
    matches!(heard.sign, Sign::Absent(_))
}

/// Would what was found so far be taken together as one device that has registers?
fn is_one_device(survey: &Survey) -> bool {
    let mut tried = survey.clone();
    tried.take_together();
    tried.alike.is_some_and(|alike| alike.exception.is_none()) && tried.devices.len() == 1
}

/// How long to wait for the next units.
struct Patience {
    learning: bool,
    timeout: Duration,
}

impl Patience {
    fn new(job: &Job) -> Self {
        Self { learning: job.learns(), timeout: job.bus.response_timeout }
    }

    /// The time for all further units, once it is known: more than the slowest answer took.
    fn learn(&mut self, survey: &Survey) -> Option<Duration> {
        let tally = survey.tallies.last()?;
        let silent = tally.asked - tally.found.len() - tally.absent.len() - tally.noisy.len() - tally.hung_up.len();
        if !self.learning || tally.absent.is_empty() && silent < PATIENT_UNITS {
            return None;
        }
        self.learning = false;
        let slowest = survey.slowest.unwrap_or_default();
        Some(self.timeout.max(slowest + slowest / 2))
    }
}
