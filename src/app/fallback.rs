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
//! Texts of the configuration, its fragments and its own register maps, by their paths. It is written before the first part
//! is exchanged, and goes when the trial has gone well, when a start finds another text, or when what it went back to is in force
//! by the file again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Text;
use crate::disk::whole;

/// Of the form above; others are not read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept<Texts> {
    version: u32,
    tried: Texts,
    before: Texts,
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
        let content = whole::read(&self.path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the configuration before a trial cannot be read");
            None
        })?;
        match serde_json::from_slice::<Kept<Vec<Text>>>(&content) {
            Ok(kept) if kept.version == VERSION && kept.tried == now => return Some(kept.before),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the configuration before a trial is damaged"),
        }
        self.forget();
        None
    }

    /// Remembers `before` while `tried` is on trial; on the disk when it returns. Blocking.
    pub(super) fn keep(&self, before: &[Text], tried: &[Text]) -> io::Result<()> {
        let kept = Kept { version: VERSION, tried, before };
        whole::replace(&self.path, &serde_json::to_vec(&kept)?)
    }

    /// The trial is over; on the disk when it returns, or a power cut would bring it back. Blocking.
    pub(super) fn forget(&self) {
        if let Err(error) = whole::remove(&self.path) {
            tracing::warn!(%error, "the configuration before a trial cannot be removed");
        }
    }
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
}
