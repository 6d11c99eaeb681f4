//! The progress bar of a scan: on a terminal, none in a pipe; on standard error, as the findings may go elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::estimate;
use crate::host::terminal::say;
use crate::model::time::millis;

/// One bar for the whole scan.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// With nothing done. The length is time: what silence would cost.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    /// What is about to be done, for the person who waits; in a pipe too.
    pub fn announce(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    /// So much is to come, in all.
    pub fn expect(&self, time: Duration) {
        self.bar.set_length(millis(time));
    }

    /// About to ask.
    pub fn show(&self, doing: &str, found: usize) {
        let left = self.bar.length().unwrap_or(0).saturating_sub(self.bar.position());
        let left = estimate::shown(Duration::from_millis(left));
        self.bar.set_message(format!("{doing}, {found} found, at most {left} more"));
    }

    /// So much of it is over.
    pub fn over(&self, time: Duration) {
        self.bar.inc(millis(time));
    }

    /// A line above the bar; in a pipe nothing.
    pub fn say(&self, text: &str) {
        self.bar.println(text);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
