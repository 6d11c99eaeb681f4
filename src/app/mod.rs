//! The app knows every room: it builds them, wires them, watches them and takes them down in order.
//!
//! `start` builds · `running` takes down · `supervisor` restarts a bus that panicked and notices when something critical ends · `publisher` is
//! the live side · `events` turns notices into stored events · `router` carries commands · `request` reads their payload ·
//! `learned` keeps what buses know of their devices · `timekeeper` watches the wall clock.

pub mod events;
mod learned;
pub mod publisher;
pub mod request;
pub mod router;
pub mod running;
pub mod start;
pub mod supervisor;
mod timekeeper;

pub use running::Running;
pub use start::{start, store_dir};
