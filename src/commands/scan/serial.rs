//! The scan of a serial line: settings outermost; usual units at all of them, then the others where somebody answers.

use std::io;
use std::time::Duration;

use super::estimate;
use super::examine::examine;
use super::found::{Found, Survey, Tally};
use super::prober::{Prober, Sign};
use super::progress::Progress;
use super::{ports, units};
use crate::commands::Failed;
use crate::commands::field::explain;
use crate::config::plan::{BusPlan, Carrier};
use crate::flow::clock::Clock;
use crate::model::tag::Address;

/// What is to be asked.
#[derive(Debug)]
pub struct Job {
    /// The settings, likely ones first, with the bus of each. At least one.
    pub settings: Vec<(String, BusPlan)>,
    /// Asked at every setting.
    pub first: Vec<u8>,
    /// Asked where somebody answered, at all settings with `all`, or at the only one.
    pub rest: Vec<u8>,
    /// Nothing is left out.
    pub all: bool,
    /// The register or bit to ask for.
    pub place: Address,
}

/// What became of a setting.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// All units were asked.
    Done,
    /// The port does not have it.
    NotHad,
    /// The port is gone.
    Gone(String),
}

impl Job {
    /// Of these units at these settings.
    pub fn new(settings: Vec<(String, BusPlan)>, wanted: &[u8], all: bool, place: Address) -> Self {
        let (first, rest) = units::usual_first(wanted);
        let at_once = all || settings.len() == 1 || first.is_empty();
        let (first, rest) = if at_once { (wanted.to_vec(), Vec::new()) } else { (first, rest) };
        Self { settings, first, rest, all, place }
    }

    /// With silence throughout, and the rest asked at one setting, the slowest.
    pub fn worst(&self) -> Duration {
        let first = estimate::all(self.settings.iter().map(|(_, bus)| bus), self.first.len());
        let one = |(_, bus): &(String, BusPlan)| estimate::all([bus], self.rest.len());
        let rest = if self.rest.is_empty() { None } else { self.settings.iter().map(one).max() };
        first + rest.unwrap_or_default()
    }

    /// For the person who waits, before it begins.
    pub fn announcement(&self) -> String {
        let (count, time) = (self.settings.len(), estimate::shown(self.worst()));
        if self.rest.is_empty() {
            let settings = if count == 1 { self.settings[0].0.clone() } else { format!("{count} settings") };
            return format!(
                "{} units at {settings}: at worst {time}, and a moment for each device found",
                self.first.len()
            );
        }
        format!(
            "units {} at {count} settings, then the other {} where somebody answers: at worst {time}, with one such \
             setting and a moment for each device found",
            units::shown(&self.first),
            self.rest.len()
        )
    }
}

/// Scans. What was found is in the survey at any moment; an error: the port does not open at all.
pub async fn scan(job: &Job, clock: &Clock, survey: &mut Survey, progress: &Progress) -> Result<(), Failed> {
    progress.expect(job.worst());
    let mut not_had = Vec::new();
    for (ix, (setting, bus)) in job.settings.iter().enumerate() {
        if survey.settings_mean_nothing() && !job.all {
            survey.left_out.push(format!(
                "the last {} of {} settings: a device answers at several baud rates, so this port does not mind its \
                 settings (a pseudo-terminal, or an adapter that has its own)",
                job.settings.len() - ix,
                job.settings.len()
            ));
            break;
        }
        match at(job, (setting, bus, &job.first), clock, survey, progress).await? {
            Ended::Done => {}
            Ended::NotHad => not_had.push(setting.as_str()),
            Ended::Gone(why) => {
                survey.cut_short = Some(format!("the port is gone: {why}"));
                return Ok(());
            }
        }
    }
    if !not_had.is_empty() {
        survey.notes.push(format!("this port cannot be set to {}", not_had.join(", ")));
    }
    let ended = rest(job, clock, survey, progress).await;
    survey.take_together();
    ended
}

/// The units that are not asked at every setting.
async fn rest(job: &Job, clock: &Clock, survey: &mut Survey, progress: &Progress) -> Result<(), Failed> {
    if job.rest.is_empty() {
        return Ok(());
    }
    let worth = survey.settings_worth_more();
    let buses: Vec<_> = job.settings.iter().filter(|(setting, _)| worth.contains(setting)).collect();
    let left_out = match buses.as_slice() {
        [] => "at any setting, as nobody answered".to_owned(),
        _ => format!("at other settings than {}, as nobody new answered there", worth.join(", ")),
    };
    survey.left_out.push(format!("units {} {left_out}", units::shown(&job.rest)));
    if buses.len() > 1 {
        let time = estimate::all(buses.iter().map(|(_, bus)| bus), job.rest.len());
        progress.expect(time);
        progress.say(&format!("the other units at {}: at worst {}", worth.join(", "), estimate::shown(time)));
    }
    for (setting, bus) in buses {
        if let Ended::Gone(why) = at(job, (setting, bus, &job.rest), clock, survey, progress).await? {
            survey.cut_short = Some(format!("the port is gone: {why}"));
            break;
        }
    }
    Ok(())
}

/// Some units at one setting.
async fn at(
    job: &Job,
    (setting, bus, units): (&str, &BusPlan, &[u8]),
    clock: &Clock,
    survey: &mut Survey,
    progress: &Progress,
) -> Result<Ended, Failed> {
    let mut prober = Prober::new(bus.clone(), clock);
    if let Err(error) = prober.open().await {
        return match error.kind() {
            _ if survey.tallies.is_empty() && !is_refused_setting(&error) => Err(not_open(bus, &error)),
            _ if is_refused_setting(&error) => Ok(Ended::NotHad),
            _ => Ok(Ended::Gone(explain::not_open(&bus.link, &error))),
        };
    }
    if survey.tallies.is_empty() {
        progress.announce(&job.announcement());
    }
    progress.show(setting, survey.devices.len());
    let mut tally = Tally::new(setting);
    match prober.listen(units.first().copied().unwrap_or(1)).await {
        Ok(unasked) => tally.unasked = unasked,
        Err(why) => return Ok(Ended::Gone(why)),
    }
    progress.over(estimate::opening(bus));
    survey.tallies.push(tally);
    for unit in units {
        progress.show(&format!("{setting} unit {unit}"), survey.devices.len());
        let heard = prober.ask(*unit, job.place).await;
        if let Some(tally) = survey.tallies.last_mut() {
            tally.count(*unit, &heard);
        }
        if let Sign::HungUp(why) = heard.sign {
            return Ok(Ended::Gone(why));
        }
        if heard.sign.is_found() {
            let portrait = match examine(&mut prober, *unit, job.place, &heard.sign).await {
                Ok(portrait) => portrait,
                Err(why) => return Ok(Ended::Gone(why)),
            };
            progress.say(&format!("found unit {unit} at {setting}"));
            let settings = vec![setting.to_owned()];
            survey.add(Found { unit: *unit, settings, sign: heard.sign, portrait, took: heard.took });
        }
        progress.over(estimate::silence(bus));
    }
    Ok(Ended::Done)
}

/// Drivers say so when they cannot make a rate or a format.
fn is_refused_setting(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

fn not_open(bus: &BusPlan, error: &io::Error) -> Failed {
    let text = explain::not_open(&bus.link, error);
    // The lock of another program is "not found" too, as the serial crate has it.
    let is_missing = error.kind() == io::ErrorKind::NotFound && !text.contains("one master");
    Failed::TryAgain(match &bus.link.carrier {
        Carrier::Serial(plan) if is_missing => format!("there is no {}; {}", plan.port.display(), ports::there_are()),
        _ => text,
    })
}
