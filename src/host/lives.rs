//! Short lives in a row: a program that ends badly again and again waits before it begins anew, longer each time.
//!
//! systemd starts it again after a pause of one length (`RestartSec=`; pauses that grow need systemd 254), and each start
//! writes to the flash. So the runtime directory, which restarts keep and a reboot throws away, remembers the last start:
//!
//! ```text
//! short-lives: "<lives in a row that were short> <when the last one began, ms since boot>\n"
//! ```
//!
//! A life that ended in order takes the file away, and so does one whose configuration was wrong; one that lasted ten
//! minutes makes the next the first again.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who lives this long has nothing wrong that a pause would help.
const SOUND_LIFE: Duration = Duration::from_secs(600);

/// Restarts that wait for nothing but systemd's own pause.
const FREE: u32 = 2;

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The file, if there is a place for it.
#[derive(Debug)]
pub struct Lives {
    file: Option<PathBuf>,
}

impl Lives {
    /// In the runtime directory of systemd, if we run under it.
    pub fn in_dir(runtime_dir: Option<&Path>) -> Self {
        Self { file: runtime_dir.map(|dir| dir.join("short-lives")) }
    }

    /// Notes that a life begins at `now` (time since boot); how long it should wait first.
    pub fn begin(&self, now: Duration) -> Duration {
        let Some(file) = &self.file else { return Duration::ZERO };
        let last = std::fs::read_to_string(file).ok().and_then(|text| parse(&text));
        let short =
            last.map_or(0, |(short, began)| if now.saturating_sub(began) >= SOUND_LIFE { 0 } else { short + 1 });
        let pause = pause(short);
        // Without a place to keep it every life is the first. The pause is no part of the life.
        drop(std::fs::write(file, format!("{short} {}\n", (now + pause).as_millis())));
        pause
    }

    /// It ended as it should: the next one is the first.
    pub fn ended_in_order(&self) {
        if let Some(file) = &self.file {
            drop(std::fs::remove_file(file)); // there may be none
        }
    }
}

fn parse(text: &str) -> Option<(u32, Duration)> {
    let (short, began) = text.trim().split_once(' ')?;
    Some((short.parse().ok()?, Duration::from_millis(began.parse().ok()?)))
}

/// How long to wait after so many short lives in a row.
fn pause(short: u32) -> Duration {
    match short.checked_sub(FREE + 1) {
        None => Duration::ZERO,
        Some(doublings) => Duration::from_secs(2 << doublings.min(10)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_in_a_row_wait_longer_each_time_and_a_sound_one_or_an_orderly_end_begins_anew() {
        let home = tempfile::tempdir().expect("a directory");
        let lives = Lives::in_dir(Some(home.path()));
        let mut now = Duration::from_secs(30);
        let mut life = |lasted: u64| {
            let pause = lives.begin(now);
            now += pause + Duration::from_secs(lasted);
            pause.as_secs()
        };
        assert_eq!([0; 10].map(|_| life(1)), [0, 0, 0, 2, 4, 8, 16, 32, 60, 60]);
        life(601);
        assert_eq!([life(1), life(1), life(1), life(1)], [0, 0, 0, 2]);
        lives.ended_in_order();
        assert_eq!(life(1), 0);
    }

    #[test]
    fn without_a_runtime_directory_or_with_a_file_of_somebody_elses_nobody_waits() {
        assert_eq!(Lives::in_dir(None).begin(Duration::from_secs(9)), Duration::ZERO);
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("short-lives"), "many\n").expect("written");
        let lives = Lives::in_dir(Some(home.path()));
        assert_eq!(lives.begin(Duration::from_secs(9)), Duration::ZERO);
        assert_eq!(lives.begin(Duration::from_secs(10)), Duration::ZERO, "the second is not waited for");
        assert_eq!(Lives::in_dir(Some(&home.path().join("none"))).begin(Duration::from_secs(9)), Duration::ZERO);
    }
}
