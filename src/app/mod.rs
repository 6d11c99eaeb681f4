//! The app knows every room: it builds them, wires them, watches them and takes them down in order.
//!
//! `start` builds, `opening` the store first, `means` are what from · `house` is what is built, in parts that can be
//! exchanged: `buses`, `uplinks` · `bridges` connects to other brokers, `forwarding` what clients' messages go there,
//! `offered` what was retained before · `derived` keeps the derived tags alive · `running` takes down · `supervisor`
//! restarts a bus that panicked and notices when something critical ends · `publisher` is the live side, `alarms` its
//! alarms, `alarm_memory` those of the last run · `quarters` threads for what local clients cause · `events` turns
//! notices into stored events · `router` carries commands · `request` reads their payload · `learned` keeps what buses
//! know of their devices · `timekeeper` watches the wall clock · `watchdog` who makes progress, for systemd ·
//! `gatekeeper` users and rights · `status` opens the status page, `board`, `health` and `figures` what it shows ·
//! `reload` what can change at run time, `trial` whether it did well, `fallback` what a start goes by if it did not
//! live to say so, `revision` what stores keep meanwhile.

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
mod learned;
mod means;
mod offered;
mod opening;
pub mod publisher;
mod quarters;
mod reload;
pub mod request;
mod revision;
pub mod router;
pub mod running;
pub mod start;
mod status;
pub mod supervisor;
mod timekeeper;
mod trial;
mod uplinks;
pub mod watchdog;

pub use board::Insight;
pub use bridges::bridge_store_dir;
pub use fallback::Fallback;
pub use opening::store_dir;
pub use reload::{Origin, Outcome, Reloader};
pub use running::Running;
pub use start::start;
pub use uplinks::UplinkRoster;
