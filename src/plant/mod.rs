//! The plant: devices that do not exist, for `simulate`, `demo` and the tests.
//!
//! ```text
//!  pdu      one request in, one response out          image   what a device holds
//!  tcp rtu  the two lines (rtu on a pty)              faults  dead, late, exception, noise, set while it runs
//!  units    who is behind a line                      life + waves   the tags of a plan, moving
//!  site     a whole plan served: Plan -> lines
//!  link     a TCP relay that can be cut               cloud   rumqttd behind our TLS (feature `demo`)
//! ```
//!
//! Nothing here is used by a gateway at work. It speaks the real protocols, written apart from the crates that the field
//! room reads with, and promises to misbehave exactly as told.

pub mod faults;
pub mod image;
pub mod life;
pub mod link;
pub mod pdu;
mod point;
pub mod pty;
pub mod rtu;
pub mod site;
pub mod tcp;
pub mod units;
pub mod waves;

#[cfg(feature = "demo")]
pub mod cloud;
