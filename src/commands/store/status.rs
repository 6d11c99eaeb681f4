//! `ironbridge store status`: streams, bytes, what each uplink is owed.

use std::fmt::Write as _;
use std::path::Path;

use crate::store::inspect::{self, Status};

use super::{Where, failed};
use crate::commands::Failed;

/// Prints it.
pub(super) fn run(dir: &Path, place: &Where) -> Result<(), Failed> {
    let status = inspect::status(dir).map_err(|error| failed(&error))?;
    if place.json {
        println!("{}", serde_json::to_string(&status).map_err(|error| Failed::Internal(error.to_string()))?);
    } else {
        print!("{}", status_text(dir, &status));
    }
    Ok(())
}

fn status_text(dir: &Path, status: &Status) -> String {
    let mut text = format!("store      {}\n", dir.display());
    let _ = writeln!(text, "bytes      {} ({} set aside)", status.bytes, status.bytes_aside);
    let _ = writeln!(text, "tags       {}\n", status.tags);
    let _ = writeln!(
        text,
        "{:<10} {:>17} {:>12} {:>12} {:>6} {:>12}",
        "stream", "epoch", "first", "last", "chunks", "bytes"
    );
    for stream in &status.streams {
        let first = match stream.first {
            Some((epoch, first)) if epoch == stream.epoch => first.to_string(),
            Some(_) => "earlier".to_owned(),
            None => "-".to_owned(),
        };
        let (name, epoch, last) = (stream.stream, stream.epoch, stream.last);
        let _ =
            writeln!(text, "{name:<10} {epoch:>17} {first:>12} {last:>12} {:>6} {:>12}", stream.chunks, stream.bytes);
    }
    let _ = writeln!(text, "\n{:<20} {:>12} {:>6}", "uplink", "backlog", "gaps");
    for uplink in &status.uplinks {
        let _ = writeln!(text, "{:<20} {:>12} {:>6}", uplink.uplink, uplink.backlog, uplink.gaps);
    }
    for missing in &status.missing {
        let (stream, epoch, reason) = (missing.stream, missing.epoch, &missing.reason);
        let _ = writeln!(text, "missing    {stream} epoch {epoch}: {}..{} ({reason})", missing.first, missing.last);
    }
    for file in &status.unreadable {
        let _ = writeln!(text, "unreadable {file}");
    }
    text
}
