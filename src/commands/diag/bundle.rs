//! The one file: parts that were gathered, parts that are missing and why, within a bound.
//!
//! Every text goes through [`scrub`] on its way in; nothing gets past that. Who gathers knows neither the archive nor its
//! bound: a part that is too long keeps its end (log lines) or its beginning (everything else).

use std::fmt::Write as _;
use std::sync::mpsc;
use std::time::Duration;

use super::scrub;
use super::zip::{Moment, Zip};

/// The whole file; a mail server takes that.
pub(super) const BYTES_MAX: usize = 16 << 20;
/// One part of it.
const PART_BYTES_MAX: usize = 4 << 20;
/// Kept for the manifest.
const MANIFEST_BYTES: usize = 64 << 10;
/// Parts beyond that are only counted: a directory full of fragments.
const PARTS_MAX: usize = 200;
/// Looked for everywhere; more has only a file that is no configuration at all.
const SECRETS_MAX: usize = 1000;
/// No part takes longer; the box may be as sick as it likes.
const PATIENCE: Duration = Duration::from_secs(20);
/// All of it lies in one folder.
const FOLDER: &str = "ironbridge-diag";

/// Which end of a part stays when it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// What it begins with.
    Front,
    /// What it ends with.
    End,
}

/// The file while it is being made.
#[derive(Debug)]
pub(super) struct Bundle {
    zip: Zip,
    /// Must be nowhere.
    secrets: Vec<String>,
    rows: String,
    parts: usize,
    /// For all of it.
    room: usize,
}

impl Bundle {
    /// An empty one.
    pub(super) fn new(moment: Moment) -> Self {
        Self { zip: Zip::new(moment), secrets: Vec::new(), rows: String::new(), parts: 0, room: BYTES_MAX }
    }

    /// What must not be seen in anything that is added from now on.
    pub(super) fn hide(&mut self, secrets: Vec<String>) {
        self.secrets.extend(secrets);
        self.secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len())); // the longer one first: it may hold a shorter
        self.secrets.dedup();
        self.secrets.truncate(SECRETS_MAX);
    }

    /// A part, or why there is none.
    pub(super) fn add(&mut self, name: &str, part: Result<String, String>, keep: Keep) {
        self.parts += 1;
        let name = scrub::text(name, &self.secrets);
        if self.parts > PARTS_MAX {
            return;
        }
        let (state, about) = match part {
            Ok(text) if text.trim().is_empty() => ("empty", String::new()),
            Ok(text) => {
                let clean = scrub::text(&text, &self.secrets);
                let room = self.room.saturating_sub(MANIFEST_BYTES + self.zip.len() + 2 * name.len() + 256);
                let cut = cut(&clean, room.min(PART_BYTES_MAX), keep);
                self.zip.add(&format!("{FOLDER}/{name}"), cut.as_bytes());
                let left_out = clean.len() - cut.len();
                let about = if left_out == 0 { String::new() } else { format!(", {left_out} more left out") };
                ("there", format!("{} bytes{about}", cut.len()))
            }
            Err(why) => ("MISSING", scrub::text(why.trim(), &self.secrets).replace('\n', "; ")),
        };
        if self.rows.len() < MANIFEST_BYTES / 2 {
            let _ = writeln!(self.rows, "{state:<8} {name:<34} {about}"); // writing into a String does not fail
        }
    }

    /// The list of parts so far, for people.
    pub(super) fn manifest(&self) -> String {
        let more = self.parts.saturating_sub(PARTS_MAX);
        let more = if more == 0 { String::new() } else { format!("{more} more parts were left out\n") };
        format!("{}{more}", self.rows)
    }

    /// The bytes of the file, `head` on top of its manifest.
    pub(super) fn finish(mut self, head: &str) -> Vec<u8> {
        let manifest = format!("{}\n{}", scrub::text(head, &self.secrets), self.manifest());
        let manifest = cut(&manifest, MANIFEST_BYTES - 256, Keep::Front).to_owned();
        self.zip.add(&format!("{FOLDER}/manifest.txt"), manifest.as_bytes());
        self.zip.finish()
    }
}

/// At most so many bytes of it, at the boundary of a character.
fn cut(text: &str, bytes: usize, keep: Keep) -> &str {
    match keep {
        _ if text.len() <= bytes => text,
        Keep::Front => &text[..(0..=bytes).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0)],
        Keep::End => {
            let from = text.len() - bytes;
            &text[(from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(from)..]
        }
    }
}

/// Runs one gathering with patience: what hangs or panics is missing, and nothing else is. A thread that hangs ends with the
/// process.
pub(super) fn patiently<T: Send + 'static>(gather: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, waits) = mpsc::sync_channel(1);
    std::thread::spawn(move || drop(done.send(gather())));
    waits.recv_timeout(PATIENCE).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => format!("took longer than {} s", PATIENCE.as_secs()),
        mpsc::RecvTimeoutError::Disconnected => "a fault of ours: see the message on the terminal".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_stays_within_its_bound_and_says_what_it_left_out() {
        let mut bundle = Bundle { room: 2 * MANIFEST_BYTES, ..Bundle::new(Moment::of("")) };
        bundle.hide(vec!["hunter2".into()]);
        for part in 0..300 {
            bundle.add(&format!("{part}.txt"), Ok("ä line\n".repeat(if part < 10 { 1000 } else { 1 })), Keep::End);
        }
        bundle.add("why-hunter2.txt", Err("hunter2 is not there".into()), Keep::Front);
        assert!(bundle.manifest().contains("101 more parts were left out"), "{}", bundle.manifest());
        assert!(bundle.manifest().contains("more left out") && !bundle.manifest().contains("hunter2"));
        assert!(bundle.finish("head").len() <= 2 * MANIFEST_BYTES);
    }

    #[test]
    fn what_panics_is_missing() {
        assert_eq!(patiently(|| 5), Ok(5));
        assert!(patiently(|| assert_eq!(1, 2, "on purpose")).is_err());
    }
}
