//! The scan of a network endpoint: the device's own ids, ids that nobody has, then the units behind a gateway.

use std::collections::VecDeque;
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
    let mut prober = Prober::new(job.bus.clone(), clock);
    prober.open().await.map_err(|error| Failed::TryAgain(explain::not_open(&job.bus.link, &error)))?;
    progress.announce(&job.announcement());
    survey.tallies.push(Tally::default());
    let mut patience = Patience::new(job);
    if job.learns() {
        prober.be_patient(PATIENCE.max(job.bus.response_timeout));
    }
    let mut rest = Some(&job.rest);
    let mut queue = Queue::new(&job.first);
    if job.first.is_empty() {
        queue.units.extend(rest.take().into_iter().flatten());
    }
    while let Some(unit) = queue.next() {
        progress.show(&format!("unit {unit}"), survey.devices.len());
        let Some(heard) = one(job, unit, &mut prober, survey, progress).await else { break };
        progress.over(estimate::silence(&job.bus));
        if let Some(timeout) = patience.learn(survey) {
            prober.be_patient(timeout);
        }
        if queue.came(unit, &heard) && job.learns() {
            let again = queue.begin_again();
            prober.be_patient(patience.longer());
            progress.expect(estimate::all([prober.bus()], again + queue.units.len()));
        }
        if queue.units.is_empty()
            && let Some(rest) = rest.take()
        {
            if !job.all && is_one_device(survey) {
                survey.left_out.push(format!("unit ids {}: all ids asked so far bring the same", units::shown(rest)));
            } else {
                queue.units.extend(rest);
            }
        }
    }
    survey.take_together();
    Ok(())
}

/// Whom to ask next, and who may have been misjudged: a gateway asks one unit after the other, and while it waits for one
/// that is not there the answers of the following ones come late, for all of them.
struct Queue {
    units: VecDeque<u8>,
    /// Silent since the last answer that came in time.
    doubtful: Vec<u8>,
    /// So many times the doubtful ones may be asked again.
    again: u8,
    /// The last silence was confirmed.
    confirmed: bool,
}

impl Queue {
    fn new(units: &[u8]) -> Self {
        Self { units: units.iter().copied().collect(), doubtful: Vec::new(), again: 2, confirmed: false }
    }

    /// The next unit. Behind the last one a silent one once more: whatever comes late comes before its turn is over.
    fn next(&mut self) -> Option<u8> {
        if let Some(unit) = self.units.pop_front() {
            return Some(unit);
        }
        if std::mem::replace(&mut self.confirmed, true) { None } else { self.doubtful.pop() }
    }

    /// Notes what came; `true`: something came late, so that the doubtful ones must be asked again.
    fn came(&mut self, unit: u8, heard: &Heard) -> bool {
        let late = heard.late > 0 && !self.doubtful.is_empty();
        match heard.sign {
            Sign::Silence => self.doubtful.push(unit),
            _ if late => {} // in time, but others were not
            _ => self.doubtful.clear(),
        }
        late && self.again > 0
    }

    /// How many are asked again.
    fn begin_again(&mut self) -> usize {
        let count = self.doubtful.len();
        for unit in self.doubtful.drain(..).rev() {
            self.units.push_front(unit);
        }
        self.again -= 1;
        self.confirmed = false;
        count
    }
}

/// One unit; `None` when there is no use in going on.
async fn one(job: &Job, unit: u8, prober: &mut Prober, survey: &mut Survey, progress: &Progress) -> Option<Heard> {
    if let Err(error) = prober.open().await {
        survey.cut_short = Some(explain::not_open(&job.bus.link, &error));
        return None;
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
            return None;
        }
    }
    if heard.sign.is_found() {
        match examine(prober, unit, job.place, &heard.sign).await {
            Ok(portrait) => {
                progress.say(&format!("found unit {unit}"));
                let sign = heard.sign.clone();
                survey.add(Found { unit, settings: Vec::new(), sign, portrait, took: heard.took });
            }
            Err(why) => {
                survey.cut_short = Some(why);
                return None;
            }
        }
    }
    Some(heard)
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
        self.timeout = self.timeout.max(slowest + slowest / 2);
        Some(self.timeout)
    }

    /// What was thought enough was not.
    fn longer(&mut self) -> Duration {
        self.learning = false;
        self.timeout = (self.timeout * 2).max(PATIENCE);
        self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::stats::Noise;

    fn heard(sign: Sign, late: u64) -> Heard {
        Heard { sign, noise: Noise::default(), late, took: Duration::ZERO }
    }

    #[test]
    fn who_was_silent_before_a_late_answer_is_asked_again() {
        let mut queue = Queue::new(&[1, 2, 3, 4]);
        assert_eq!(queue.next(), Some(1));
        assert!(!queue.came(1, &heard(Sign::Silence, 0)));
        assert_eq!(queue.next(), Some(2));
        assert!(!queue.came(2, &heard(Sign::Exception(2), 0)), "in time: 1 is really not there");
        assert_eq!(queue.next(), Some(3));
        assert!(!queue.came(3, &heard(Sign::Silence, 0)));
        assert_eq!(queue.next(), Some(4));
        assert!(queue.came(4, &heard(Sign::Silence, 1)), "somebody was there");
        assert_eq!(queue.begin_again(), 2);
        assert_eq!((queue.next(), queue.next()), (Some(3), Some(4)));
        assert!(!queue.came(3, &heard(Sign::Silence, 0)) && !queue.came(4, &heard(Sign::Silence, 0)));
        assert_eq!(queue.next(), Some(4), "the last silence is waited out once more");
        assert!(!queue.came(4, &heard(Sign::Silence, 0)));
        assert_eq!(queue.next(), None);
    }
}
