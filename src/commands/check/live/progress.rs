//! How far a live check has come: a bar on a terminal, nothing in a pipe.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shared by the buses; steps are reads.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For so many reads. On standard error, so that the verdict can be piped on.
    pub fn new(reads: usize) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(u64::try_from(reads).ok(), target);
        let style = ProgressStyle::with_template("  [{bar:40}] {pos} of {len} reads, {elapsed}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { bar }
    }

    /// Who is asked now.
    pub fn at(&self, what: String) {
        self.bar.set_message(what);
    }

    /// One read is over.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// So many reads will not be made.
    pub fn skip(&self, reads: usize) {
        self.bar.inc(u64::try_from(reads).unwrap_or(0));
    }

    /// More reads than planned.
    pub fn more(&self, reads: usize) {
        self.bar.inc_length(u64::try_from(reads).unwrap_or(0));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
