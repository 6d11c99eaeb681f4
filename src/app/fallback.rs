//! The configuration before, on disk while its successor is on trial: a plan that kills the process cannot be judged by it.
//! And as long as one that was rolled back stands in the file: at the next start nobody would judge it.
//!
//! A start that finds the very text that was on trial when the process ended badly, or the power went, or that was rolled
//! back, goes by the text before instead. A file that was edited since is another text and is taken as it is; so is any on
//! trial after an end in order. With that the trial is over: the text that was tried, put back into the file weeks later, is
//! a text like others.
//!
//! ```text
//! data_dir/trial.json: {"version":1,"tried":[["<path>","<text>"],…],"before":[["<path>","<text>"],…]}
//! ```
//!
//! Texts of the configuration, its fragments and its own register maps, by their paths; those that are shipped in the program
//! say nothing of what somebody wrote, and change with an upgrade. It is written before the first part
//! is exchanged, and goes when the trial has gone well, when a start finds another text, or when what it went back to is in force
//! by the file again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{Text, is_of_file};
use crate::disk::whole;

/// Of the form above; others are not read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept<Texts> {
    version: u32,
    tried: Texts,
    before: Texts,
}

/// What is to be in it.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    pub before: Arc<Vec<Text>>,
    pub tried: Arc<Vec<Text>>,
}

/// What of a roll-back is not on the disk yet.
#[derive(Debug)]
pub(super) struct Unkept {
    pub texts: Texts,
    /// What was told of it.
    pub told: String,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Fallback {
    path: PathBuf,
}

impl Fallback {
    /// In this data directory.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("trial.json") }
    }

    /// What a start with the texts `now` goes by instead, if they were on trial when the process ended; if others were,
    /// that trial is forgotten. Blocking.
    pub fn instead_of(&self, now: &[Text]) -> Option<Vec<Text>> {
        match self.kept() {
            Ok(None) => return None,
            Ok(Some(kept)) if same(&kept.tried, now) => return Some(kept.before),
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "the configuration before a trial is damaged");
            }
            Err(error) => {
                tracing::warn!(%error, "the configuration before a trial cannot be read");
                return None;
            }
        }
        self.forget();
        None
    }

    /// All texts that it holds, of both; none where there is no trial. Blocking.
    pub fn texts(&self) -> io::Result<Vec<Text>> {
        Ok(self.kept()?.map(|kept| [kept.tried, kept.before].concat()).unwrap_or_default())
    }

    fn kept(&self) -> io::Result<Option<Kept<Vec<Text>>>> {
        let Some(content) = whole::read(&self.path)? else { return Ok(None) };
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let kept: Kept<Vec<Text>> = serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
        if kept.version != VERSION {
            return Err(damaged(format!("version {}", kept.version)));
        }
        Ok(Some(kept))
    }

    /// Remembers `before` while `tried` is on trial; on the disk when it returns. Blocking.
    pub(super) fn keep(&self, before: &[Text], tried: &[Text]) -> io::Result<()> {
        let kept = Kept { version: VERSION, tried: of_files(tried), before: of_files(before) };
        let content = serde_json::to_vec(&kept)?;
        if whole::read(&self.path).is_ok_and(|there| there.as_ref() == Some(&content)) {
            return Ok(());
        }
        whole::replace(&self.path, &content)
    }

    /// The trial is over; on the disk when it returns, or a power cut would bring it back. Blocking.
    pub(super) fn forget(&self) {
        if let Err(error) = whole::remove(&self.path) {
            tracing::warn!(%error, "the configuration before a trial cannot be removed");
        }
    }
}

fn of_files(texts: &[Text]) -> Vec<&Text> {
    texts.iter().filter(|text| is_of_file(text)).collect()
}

/// Earlier versions kept shipped register maps, too.
fn same(tried: &[Text], now: &[Text]) -> bool {
    of_files(tried) == of_files(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_text_that_was_on_trial_is_replaced_by_the_one_before_and_not_after_the_trial() {
        let home = tempfile::tempdir().expect("a directory");
        let fallback = Fallback::in_dir(home.path());
        let text = |text: &str| vec![(PathBuf::from("/etc/ironbridge/ironbridge.toml"), text.to_owned())];
        assert_eq!(fallback.instead_of(&text("new")), None);
        fallback.keep(&text("old"), &text("new")).expect("written");
        assert_eq!(fallback.instead_of(&text("new")), Some(text("old")));
        assert_eq!(
            fallback.instead_of(&text("new")),
            Some(text("old")),
            "at every start until somebody does something"
        );
        fallback.forget();
        fallback.forget();
        assert_eq!(fallback.instead_of(&text("new")), None);
        std::fs::write(home.path().join("trial.json"), b"{\"version\":1,\"tri").expect("written");
        assert_eq!(fallback.instead_of(&text("new")), None, "a damaged file is none");
    }

    #[test]
    fn a_start_with_another_text_ends_the_trial_and_the_tried_one_is_a_text_like_others_from_then_on() {
        let home = tempfile::tempdir().expect("a directory");
        let fallback = Fallback::in_dir(home.path());
        let text = |text: &str| vec![(PathBuf::from("/etc/ironbridge/ironbridge.toml"), text.to_owned())];
        fallback.keep(&text("old"), &text("new")).expect("written");
        assert_eq!(fallback.instead_of(&text("mended")), None, "somebody was here");
        assert_eq!(fallback.instead_of(&text("new")), None, "weeks later");
    }

    #[test]
    fn a_program_with_other_words_in_a_shipped_register_map_does_not_bring_back_what_was_rolled_back() {
        let home = tempfile::tempdir().expect("a directory");
        let fallback = Fallback::in_dir(home.path());
        let texts = |text: &str, shipped: &str| {
            let of_file = (PathBuf::from("/etc/ironbridge/ironbridge.toml"), text.to_owned());
            vec![of_file, (PathBuf::from("<shipped profile>/eastron-sdm630.csv"), shipped.to_owned())]
        };
        fallback.keep(&texts("old", "map"), &texts("new", "map")).expect("written");
        let before = fallback.instead_of(&texts("new", "a better map"));
        assert_eq!(before, Some(vec![(PathBuf::from("/etc/ironbridge/ironbridge.toml"), "old".to_owned())]));
        // Kept by a version that took them for the user's.
        let kept = Kept { version: VERSION, tried: texts("new", "map"), before: texts("old", "map") };
        whole::replace(&fallback.path, &serde_json::to_vec(&kept).expect("text")).expect("written");
        assert_eq!(fallback.instead_of(&texts("new", "a better map")), Some(texts("old", "map")));
    }
}
