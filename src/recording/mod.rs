//! Recordings: what went over the wires of a site, kept in one file, so that the site can be played back at a desk.
//!
//! ```text
//!  field (wires) ──Tape──> recorder (a thread of its own) ──record──> file ──reader──> show, replay
//! ```
//!
//! `record` is the file's format, written out there (`varint`: its numbers) · `recorder` writes one · `reader` reads
//! one, however it ended. The room knows bytes and times and no Modbus: what a frame is, is up to whoever reads. It
//! promises that a recording never holds a wire up (what cannot be kept is counted in the file), that it is bounded,
//! and that after a crash all but the last moment is there.

pub mod reader;
pub mod record;
pub mod recorder;
mod varint;

pub use reader::{NotRead, Reader, Tail};
pub use record::{By, Event, Head, Line, Record, What};
pub use recorder::{Bounds, Recorder, RecordingStats, Tape};
