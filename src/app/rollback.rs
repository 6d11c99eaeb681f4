//! A reloaded configuration that did badly is taken back, and stays so: `config_rolled_back` holds until the file is another
//! one or says what is in force.
//!
//! What the next start goes by is on the disk ([`super::fallback`]). Where it cannot be written the event says so, and it is
//! tried again.

use std::sync::Arc;

use super::fallback::{Texts, Unkept};
use super::house::House;
use super::publisher::Configuration;
use crate::config::difference::{Changes, Part, arranged, difference};
use crate::config::plan::Plan;
use crate::flow::notice::{Notice, Phase};

/// The file is not the one in force, and why.
const ROLLED_BACK: &str = "config_rolled_back";
pub(super) const UNUSABLE: &str = "config_unusable";
pub(super) const NEEDS_RESTART: &str = "config_needs_restart";

impl House {
    pub(super) async fn roll_back(&mut self, reason: &str) {
        let Some(trial) = &self.trial else { return };
        tracing::error!(audit = "config_rolled_back", reason, "configuration rolled back");
        let texts = Texts { before: Arc::clone(&trial.texts), tried: Arc::clone(&self.texts) };
        let before = Plan::clone(&trial.before);
        let back = arranged(&self.plan, before);
        let changes = difference(&self.plan, &back);
        audit(&changes);
        self.change(back, &changes).await;
        let kept = self.keep(&texts).await; // the next start is not on trial
        self.trial = None;
        self.texts = Arc::clone(&texts.before);
        self.settle().await;
        self.show(Configuration::RolledBack);
        let rights = if changes.any(Part::Rights) { ", users and rules of the broker with it" } else { "" };
        let told = format!("{reason}; the configuration before is back in force{rights}");
        self.rolled_back = true;
        self.tell_rolled_back(Unkept { texts, told }, &kept);
    }

    /// The configuration in the file did badly in an earlier life, and this one began with the one before.
    pub(super) fn passed_over(&mut self) {
        let reason = "the configuration in the file was rolled back before, or the gateway did not outlive its trial";
        tracing::error!(audit = "config_rolled_back", reason, "configuration rolled back");
        self.rolled_back = true;
        self.show(Configuration::RolledBack);
        let detail =
            format!("{reason}; the configuration before is in force, the file is as it was: mend it, then reload");
        self.notice(ROLLED_BACK, Phase::Active, detail);
    }

    /// The file says what is in force.
    pub(super) async fn file_in_force(&mut self) {
        let of_file = |notice: &Notice| [ROLLED_BACK, UNUSABLE, NEEDS_RESTART].contains(&notice.event);
        self.means.notices.over("the file and what is in force are the same", of_file);
        self.unkept = None;
        if std::mem::take(&mut self.rolled_back) && self.trial.is_none() {
            self.forget_before().await;
            self.show(Configuration::InForce);
        }
    }

    /// What a roll-back could not write is tried again; is there nothing left of that?
    pub(super) async fn keep_again(&mut self) -> bool {
        let Some(unkept) = self.unkept.take() else { return true };
        let kept = self.keep(&unkept.texts).await;
        if kept.is_ok() {
            self.tell_rolled_back(unkept, &kept);
        } else {
            self.unkept = Some(unkept);
        }
        self.unkept.is_none()
    }

    fn tell_rolled_back(&mut self, unkept: Unkept, kept: &Result<(), String>) {
        let restart = match kept {
            Ok(()) => "after a restart too".to_owned(),
            Err(why) => format!("but a restart would go by the file, as this cannot be kept for it: {why}"),
        };
        let detail = format!("{}, {restart}; the file is as it was: mend it", unkept.told);
        self.notice(ROLLED_BACK, Phase::Active, detail);
        self.unkept = kept.is_err().then_some(unkept);
    }

    /// Of a plan on trial that kills the process, the next start finds the texts as they are now, whichever words they say it in.
    pub(super) async fn keep_before(&self) {
        let Some(trial) = &self.trial else { return };
        let texts = Texts { before: Arc::clone(&trial.texts), tried: Arc::clone(&self.texts) };
        if let Err(error) = self.keep(&texts).await {
            tracing::warn!(error, "a restart will go by the new configuration, however its trial ends");
        }
    }

    async fn keep(&self, texts: &Texts) -> Result<(), String> {
        let (fallback, texts) = (self.fallback.clone(), texts.clone());
        let kept = tokio::task::spawn_blocking(move || fallback.keep(&texts.before, &texts.tried)).await;
        kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    pub(super) async fn forget_before(&self) {
        let fallback = self.fallback.clone();
        drop(tokio::task::spawn_blocking(move || fallback.forget()).await);
    }
}

/// Audited once for each part.
pub(super) fn audit(changes: &Changes) {
    for change in &changes.touched {
        let (part, name, how) = (change.part.as_str(), change.name.as_str(), change.how.as_str());
        tracing::info!(audit = "config_changed", part, name, how, detail = change.detail, "configuration changed");
    }
}
