//! What this process uses, as the kernel shows it of itself (`/proc/self`, proc(5)); a hardened unit sees no more than that.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What is used now; `None`: the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Processor time since the start, user and system.
    pub cpu_seconds: Option<f64>,
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Memory asked for.
    pub virtual_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// How many it may have.
    pub files_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Reads it; some microseconds.
pub fn usage() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let files = fs::read_dir("/proc/self/fd").ok().and_then(|files| u64::try_from(files.count()).ok());
    Usage {
        open_files: files.map(|files| files.saturating_sub(1)), // one is the directory that was looked into
        files_max: getrlimit(Resource::Nofile).current,
        ..parse(&stat, clock_ticks_per_second(), page_size() as u64)
    }
}

/// Fields are counted from 1, the third comes after the name, which ends with the last parenthesis.
#[allow(clippy::cast_precision_loss, reason = "ticks of centuries")]
fn parse(stat: &str, ticks_per_second: u64, page: u64) -> Usage {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return Usage::default() };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
    Usage {
        cpu_seconds: ticks.map(|ticks| ticks as f64 / ticks_per_second.max(1) as f64),
        threads: field(20),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_whatever_it_likes() {
        let stat =
            "4711 (iron) bridge (1)) S 1 4711 4711 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 7 0 100 90112 12 18446 1 1";
        let usage = parse(stat, 100, 4096);
        assert_eq!((usage.cpu_seconds, usage.threads), (Some(3.0), Some(7)));
        assert_eq!((usage.virtual_bytes, usage.resident_bytes), (Some(90_112), Some(49_152)));
        assert_eq!(parse("", 100, 4096), Usage::default());
    }

    #[test]
    fn of_this_very_process_everything_is_known() {
        let Usage { cpu_seconds, resident_bytes, virtual_bytes, open_files, files_max, threads } = usage();
        assert!(cpu_seconds.is_some() && resident_bytes > Some(100_000) && virtual_bytes > resident_bytes);
        assert!(open_files >= Some(3) && files_max > open_files && threads >= Some(1));
    }
}
