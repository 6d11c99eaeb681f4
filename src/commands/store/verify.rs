//! `ironbridge store verify`: reads everything and says whether the store is whole.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::store::inspect::{self, Missing, Verdict};

use super::{Where, failed};
use crate::commands::{self, Failed};

/// Reads, shows progress on a terminal, prints the verdict.
pub(super) fn run(dir: &Path, place: &Where) -> Result<(), Failed> {
    let bar = ProgressBar::new(0);
    if place.json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let verdict = inspect::verify(dir, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let verdict = verdict.map_err(|error| failed(&error))?;
    if place.json {
        let text = serde_json::to_string(&verdict).map_err(|error| Failed::Internal(error.to_string()))?;
        commands::print(format!("{text}\n"))?;
    } else {
        commands::print(verdict_text(&verdict))?;
    }
    if verdict.problems.is_empty() { Ok(()) } else { Err(Failed::Verdict) }
}

fn verdict_text(verdict: &Verdict) -> String {
    let Verdict { chunks, segments, records, problems, declared, given_up } = verdict;
    let mut text = format!("{chunks} chunk files, {segments} segments, {records} records read\n");
    for missing in declared {
        let (stream, epoch, reason) = (missing.stream, missing.epoch, &missing.reason);
        let _ = writeln!(text, "declared: {stream} epoch {epoch}: {}..{} ({reason})", missing.first, missing.last);
    }
    for Missing { stream, epoch, first, last, reason } in given_up {
        let _ = writeln!(
            text,
            "given up: {stream} epoch {epoch}: {first}..{last} ({reason}; the next start declares them)"
        );
    }
    for problem in problems {
        let _ = writeln!(text, "WRONG: {problem}");
    }
    text.push_str(if problems.is_empty() { "the store is whole\n" } else { "the store is NOT whole\n" });
    text
}
