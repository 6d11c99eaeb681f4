//! The gateway's store, and those of bridges.

use crate::model::number::Class;
use crate::status::metrics::Figures;
use crate::store::StoreStats;

use super::{of, real};

/// One store; `name` is `gateway`, or that of a bridge.
pub(super) fn store(out: &mut Figures, name: &str, stats: &StoreStats) {
    let StoreStats {
        stored,
        segments,
        commits,
        merges,
        written_bytes,
        commit_failures,
        commit_times,
        commit_ms_last,
        commit_ms_max,
        evicted,
        chunks_evicted,
        spilled,
        damaged,
        damaged_files,
        unknown_tags,
        bytes,
        max_bytes,
        uncommitted,
        failed,
        gaps_owed,
    } = stats;
    let labels = of("store", name);
    let of_class = |class: Class| vec![("store", name.to_owned()), ("class", class.to_string())];
    for class in Class::ALL {
        out.count("store_records", "Records committed.", &of_class(class), stored[class].get());
    }
    let reasons = [("evicted", evicted), ("store", spilled), ("damaged", damaged)];
    for (reason, lost) in reasons {
        for class in Class::ALL {
            let mut labels = of_class(class);
            labels.push(("reason", reason.to_owned()));
            let help = "Records lost before everybody had them, each declared in a gap record.";
            out.count("store_lost_records", help, &labels, lost[class].get());
        }
    }
    for (name, help, counter) in [
        ("store_segments", "Segments committed.", segments),
        ("store_commits", "Commits.", commits),
        ("store_merges", "Merges of a tail into a chunk.", merges),
        ("store_written_bytes", "Bytes handed to the disk.", written_bytes),
        ("store_commit_failures", "Commits that failed.", commit_failures),
        ("store_chunks_evicted", "Chunk files evicted, acknowledged ones too.", chunks_evicted),
        ("store_damaged_files", "Files set aside.", damaged_files),
        ("store_unknown_tags", "Samples of tags that the plan does not have.", unknown_tags),
    ] {
        out.count(name, help, &labels, counter.get());
    }
    out.times("store_commit_seconds", "How long commits took.", &labels, &commit_times.times());
    for (name, help, value) in [
        ("store_commit_last_seconds", "The last commit.", real(commit_ms_last.get()) / 1e3),
        ("store_commit_longest_seconds", "The longest commit.", real(commit_ms_max.get()) / 1e3),
        ("store_bytes", "Bytes on disk.", real(bytes.get())),
        ("store_max_bytes", "The store never takes more.", real(max_bytes.get())),
        ("store_uncommitted_records", "Records taken and not yet committed.", real(uncommitted.get())),
        ("store_failed", "1 while the store cannot commit.", real(failed.get())),
        ("store_gaps_owed", "Gap records that somebody has not acknowledged.", real(gaps_owed.get())),
    ] {
        out.level(name, help, &labels, value);
    }
}
