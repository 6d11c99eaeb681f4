//! What changes while the gateway runs: a configuration that was read anew is compared with the running one, and what
//! differs is exchanged, part by part. For a while it is on trial ([`super::trial`]).
//!
//! A configuration that is wrong, or that changes what needs a restart, changes nothing. One reload at a time; a second one
//! during a trial begins a trial of its own, against the same plan before. One that hangs is seen by the watchdog, and so is
//! a roll-back.
//!
//! Events: `config_reloaded`, `reload_refused`; and for as long as the file, by which the next start will go, is not the one
//! in force one of these holds: `config_rolled_back`, `config_unusable` (no start would come of it) or `config_needs_restart`.
//! Audited (`audit=`): `config_changed` once for each part, `config_refused`, `config_rolled_back`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::house::House;
use super::publisher::Configuration;
use super::rollback::{NEEDS_RESTART, UNUSABLE, audit};
use super::supervisor::{BUS_RESTARTED, Crew};
use super::trial::{Health, Link, Trial, Verdict, judge};
use crate::config::difference::{Changes, HOLES_MAX, arranged, difference, holes, numbered};
use crate::config::plan::Plan;
use crate::config::{Problem, Problems, Text};
use crate::field::turn_max;
use crate::flow::hub::DeviceReport;
use crate::flow::notice::{Notice, Phase};
use crate::flow::progress;
use crate::flow::stop::Stop;
use crate::uplink::UplinkStats;

/// Where the time of a trial was not enough to say how a device or an uplink stands it is looked at again, so often and so
/// many times; a device that has still not been asked, or a link that is away, says nothing against the plan.
const LOOK_AGAIN: (Duration, u32) = (Duration::from_secs(5), 24);

/// What a change needs besides the turns that buses finish, and once more for each bridge, whose store is closed and opened:
/// several commits on a flash card that stalls for a minute at each.
const DISK_MAX: Duration = Duration::from_secs(900);

/// What is still to be done about a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Over,
    NotYet,
}

/// Takes new plans; cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    house: Arc<Mutex<Option<House>>>,
    crew: Crew,
}

/// Where the texts are from that a gateway began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File,
    /// The configuration before the one in the file, which did not outlive its trial: see [`super::Fallback`].
    Before,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force. On trial for so long, if at all.
    Applied {
        /// What was touched.
        changes: Changes,
        /// When the trial ends.
        trial: Option<Duration>,
        /// What is wrong with the users file, which was read again.
        users: Option<String>,
    },
    /// There is no difference. Users and certificates were read again.
    Unchanged {
        /// What is wrong with the users file.
        users: Option<String>,
    },
    /// Nothing was changed.
    NeedsRestart {
        /// The keys, and what they would have come with.
        changes: Changes,
    },
    /// Nothing was changed: the gateway is stopping.
    Stopping,
}

impl Reloader {
    pub(super) fn new(house: House) -> Self {
        let crew = house.means.crew(&house.means.stop);
        Self { house: Arc::new(Mutex::new(Some(house))), crew }
    }

    /// Takes the house away, after a reload that is under way; later ones find nothing.
    pub(super) async fn close(&self) -> Option<House> {
        self.house.lock().await.take()
    }

    /// What a configuration would change; `None` when the gateway is stopping.
    pub async fn compare(&self, plan: Plan) -> Option<Changes> {
        let house = self.house.lock().await;
        let running = &house.as_ref()?.plan;
        Some(compared(running, &arranged(running, plan)))
    }

    /// What the plan of the start was read from.
    pub async fn began_with(&self, texts: Vec<Text>, origin: Origin) {
        let mut guard = self.house.lock().await;
        let Some(house) = guard.as_mut() else { return };
        house.texts = Arc::new(texts);
        if origin == Origin::Before {
            house.passed_over();
        }
    }

    /// A configuration that was read anew and is right, and its texts. Goes on to its end even if this is cancelled.
    pub async fn apply(&self, plan: Plan, texts: Vec<Text>) -> Outcome {
        let reloader = self.clone();
        let exchanging = async move { reloader.exchange(plan, Arc::new(texts)).await };
        let applied = tokio::spawn(self.crew.run_to_end("reload", exchanging)).await;
        applied.unwrap_or_else(|error| {
            // Nobody knows how far it came: after a panic the gateway begins anew.
            tracing::error!(%error, "a reload failed inside the gateway");
            Outcome::Stopping
        })
    }

    async fn exchange(&self, plan: Plan, texts: Arc<Vec<Text>>) -> Outcome {
        let mut guard = self.house.lock().await;
        let Some(house) = guard.as_mut() else { return Outcome::Stopping };
        let new = arranged(&house.plan, plan);
        progress::step(change_max([&house.plan, &new]));
        let changes = compared(&house.plan, &new);
        if !changes.restart.is_empty() {
            return house.refuse_restart(changes);
        }
        if changes.is_empty() {
            house.gatekeeper.reload(&new.broker).await;
            house.texts = texts;
            house.keep_before().await;
            house.file_in_force().await;
            tracing::info!("the configuration has not changed");
            return Outcome::Unchanged { users: house.gatekeeper.trouble() };
        }
        audit(&changes);
        let trial = new.gateway.trial;
        let number = house.begin_trial(texts, trial).await;
        house.change(new, &changes).await;
        house.file_in_force().await;
        let told = changes.to_string();
        house.tell("config_reloaded", told.trim_end().replace('\n', "; "));
        match trial {
            Some(trial) => self.judge_later(number, trial, house),
            None => house.end_trial().await,
        }
        Outcome::Applied { changes, trial, users: house.gatekeeper.trouble() }
    }

    /// A configuration that was read anew and is wrong: nothing changes.
    pub async fn refuse(&self, problems: &Problems) {
        for problem in problems {
            tracing::error!(problem = problem.to_string(), "reload refused, the configuration is wrong");
        }
        if let Some(house) = self.house.lock().await.as_ref() {
            let count = problems.count();
            let first = problems.iter().next().map(Problem::brief).unwrap_or_default();
            let problems = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
            tracing::warn!(audit = "config_refused", count, "configuration refused");
            house.tell("reload_refused", format!("nothing was changed: {problems} in the configuration"));
            let detail = format!(
                "the file has {problems} and no start would come of it: {first}; mend it, then reload; what was in force \
                 before still is"
            );
            house.file_is(UNUSABLE, detail);
        }
    }

    fn judge_later(&self, number: u64, after: Duration, house: &House) {
        let (reloader, stop) = (self.clone(), house.means.stop.clone());
        let judging = async move {
            let (again, times) = LOOK_AGAIN;
            for left in (0..=times).rev() {
                progress::rest();
                tokio::select! {
                    () = stop.begun() => return,
                    () = tokio::time::sleep(if left == times { after } else { again }) => {}
                }
                if reloader.judge(number, &stop, left).await == Judged::Over {
                    break;
                }
            }
            while !reloader.kept().await {
                progress::rest();
                tokio::select! {
                    () = stop.begun() => return,
                    () = tokio::time::sleep(again) => {}
                }
            }
        };
        tokio::spawn(self.crew.run_to_end("trial", judging));
    }

    /// Is everything on the disk that the next start needs to know of a roll-back? What is not is tried again.
    async fn kept(&self) -> bool {
        progress::rest(); // a reload may have the house
        let mut guard = self.house.lock().await;
        let Some(house) = guard.as_mut() else { return true };
        progress::step(DISK_MAX);
        house.keep_again().await
    }

    /// The trial is over: if anything is worse, the plan before it is back. It may be looked at again so many times.
    async fn judge(&self, number: u64, stop: &Stop, left: u32) -> Judged {
        let mut guard = self.house.lock().await;
        let Some(house) = guard.as_mut().filter(|_| !stop.is_begun()) else { return Judged::Over };
        let Some(trial) = house.trial.as_ref().filter(|trial| trial.number == number) else { return Judged::Over };
        progress::step(change_max([&house.plan, &trial.before]));
        let changes = difference(&arranged(&house.plan, (*trial.before).clone()), &house.plan);
        let plans = (&*trial.before, &*house.plan);
        let Verdict { mut worse, open, late } = judge(&trial.stood, &house.health(), &changes, plans);
        if worse.is_empty() && !(open.is_empty() && late.is_empty()) && left > 0 {
            if left == LOOK_AGAIN.1 {
                let (open, late) = (open.join(", "), late.join(", "));
                tracing::info!(open, late, "the trial goes on, nothing can be said yet");
            }
            return Judged::NotYet;
        }
        worse.extend(late);
        if worse.is_empty() {
            tracing::info!("the reloaded configuration has proved itself");
            house.end_trial().await;
        } else {
            house.roll_back(&worse.join("; ")).await;
        }
        Judged::Over
    }
}

impl House {
    /// The file was read anew, and is not in force for this reason. What was rolled back before still is.
    fn file_is(&self, event: &'static str, detail: String) {
        let earlier = |notice: &Notice| [UNUSABLE, NEEDS_RESTART].contains(&notice.event) && notice.event != event;
        self.means.notices.over("the file is another one now", earlier);
        self.notice(event, Phase::Active, detail);
    }
}

/// How long one plan may take to become another, or the other way round: touched buses end all at once, each when it has
/// finished its turn, and disks may be slow. What takes longer never ends.
fn change_max(plans: [&Plan; 2]) -> Duration {
    let buses = plans.into_iter().flat_map(|plan| &plan.buses);
    let slowest = buses.map(|bus| bus.response_timeout).max().unwrap_or_default();
    let bridges: usize = plans.iter().map(|plan| plan.bridges.len()).sum();
    let disks = u32::try_from(bridges).unwrap_or(u32::MAX).saturating_add(1);
    turn_max(slowest).saturating_add(DISK_MAX.saturating_mul(disks))
}

/// With what a process can bear.
fn compared(running: &Plan, new: &Plan) -> Changes {
    let mut changes = difference(running, new);
    if holes(new) > HOLES_MAX {
        changes.restart.push("so much since the start (more than 20000 tags came and went), and it");
    }
    changes
}

impl House {
    fn refuse_restart(&self, changes: Changes) -> Outcome {
        let keys = changes.restart.join(", ");
        tracing::error!(audit = "config_refused", keys, "reload refused, this needs a restart");
        self.tell("reload_refused", format!("nothing was changed: {keys}: needs a restart"));
        self.file_is(NEEDS_RESTART, format!("the file changes {keys}: in force after the next start"));
        Outcome::NeedsRestart { changes }
    }

    /// Of what these texts say. If it may be taken back, what it would be taken back to is on the disk first: nobody judges
    /// a plan that kills the process.
    async fn begin_trial(&mut self, texts: Arc<Vec<Text>>, trial: Option<Duration>) -> u64 {
        self.trials += 1;
        let trials = self.trials;
        let (before, of_before, stood) = match self.trial.take() {
            Some(trial) => (trial.before, trial.texts, trial.stood),
            None => (Arc::clone(&self.plan), Arc::clone(&self.texts), self.health()),
        };
        self.texts = texts;
        self.trial = Some(Trial { before, texts: of_before, stood, number: trials });
        if trial.is_some() {
            self.keep_before().await;
        }
        self.show(Configuration::OnTrial);
        trials
    }

    /// What the plan in force does not have is dropped now.
    async fn end_trial(&mut self) {
        self.trial = None;
        self.forget_before().await;
        self.settle().await;
        self.show(Configuration::InForce);
    }

    fn health(&self) -> Health {
        let named = |report: DeviceReport| Some((self.plan.device(report.device)?.name.clone(), report.standing));
        let devices = self.means.latest.reports().into_iter().filter_map(named).collect();
        let uplinks = self.roster.load().iter().map(|(name, stats)| (name.clone(), link(stats))).collect();
        let doors = self.means.control.doors();
        let mut listeners = BTreeMap::new();
        for (name, plan) in numbered(&self.plan.broker.listeners) {
            let open = doors.iter().any(|(door, open)| *door == plan && *open);
            listeners.insert(name, open);
        }
        let (users_unread, store_failed) = (self.gatekeeper.is_locked(), self.means.store.stats().failed.get() > 0);
        let told = self.means.notices.standing().into_iter().map(|told| told.notice);
        let restarted = told.filter(|told| told.event == BUS_RESTARTED).map(|told| told.subject).collect();
        Health { devices, uplinks, listeners, users_unread, store_failed, restarted }
    }
}

fn link(stats: &UplinkStats) -> Link {
    Link { state: stats.standing(), was_connected: stats.sessions.get() > 0, unreached: stats.unreached.get() > 0 }
}

#[cfg(test)]
mod tests;
