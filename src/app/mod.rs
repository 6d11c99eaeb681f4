//! The app knows every room: it builds them, wires them, watches them and takes them down in order.
//!
//! Five floors. A module uses only what this list names before it; `tests/tidy.rs` looks.
//!
//! 1. What knows nobody here: `roster` what all look at and a reload exchanges · `turns` how the live side hears of another
//!    plan · `opening` the gateway's own store · `revision` what stores keep while an earlier plan may come back ·
//!    `quarters` threads for what local clients cause · `timekeeper` watches the wall clock · `gatekeeper` users and
//!    rights · `learned` keeps what buses know of their devices · `events` turns notices into stored events ·
//!    `alarm_memory` the alarms of the last run · `trial` whether a reload did well · `fallback` what a start goes by if it
//!    did not live to say so.
//! 2. Who works: `request` the payload of a command · `router` carries commands · `journalling` says while none can be
//!    written down · `supervisor` restarts a bus that panicked and notices when something critical ends · `derived` keeps
//!    the derived tags alive · `watchdog` who makes progress, for systemd · `alarms` and `publisher` the live side.
//! 3. Parts that are begun and ended one by one: `means` what from · `buses` · `uplinks` · `offered` what was retained
//!    before a bridge was there · `bridges` to other brokers · `forwarding` which clients' messages go there.
//! 4. What is shown: `sources` of all figures · `health` is all well · `board` how everything stands · `figures` for
//!    /metrics · `status` opens the status page · `insight` the same for who asks on this box.
//! 5. The whole: `house` all parts, and how one plan becomes another · `rollback` back to the one before · `reload` what can
//!    change at run time · `running` takes down · `start` builds.

mod alarm_memory;
pub mod alarms;
mod board;
mod bridges;
mod buses;
mod derived;
pub mod events;
mod fallback;
mod figures;
mod forwarding;
mod gatekeeper;
mod health;
mod house;
mod insight;
mod journalling;
mod learned;
mod means;
mod offered;
mod opening;
pub mod publisher;
mod quarters;
mod reload;
pub mod request;
mod revision;
mod rollback;
mod roster;
pub mod router;
pub mod running;
mod sources;
pub mod start;
mod status;
pub mod supervisor;
mod timekeeper;
mod trial;
mod turns;
mod uplinks;
pub mod watchdog;

pub use bridges::bridge_store_dir;
pub use fallback::Fallback;
pub use insight::Insight;
pub use opening::{NotOpened, store_dir};
pub use reload::{Origin, Outcome, Reloader};
pub use roster::UplinkRoster;
pub use running::Running;
pub use start::start;
