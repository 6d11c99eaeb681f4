//! The field room against devices that behave and devices that do not.

#[path = "../support/plc.rs"]
mod plc;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/pty.rs"]
mod pty;
#[path = "../support/rig.rs"]
mod rig;

mod bus;
mod commands;
mod conditions;
mod fairness;
mod habits;
mod identity;
mod line;
mod lives;
mod log;
mod maps;
mod profiles;
mod soak;
mod stalls;
mod starvation;
mod sunspec;
mod switches;
mod traps;
mod wire;
