//! The box we run on: its clock, its signals, its journal, its name. Everything that asks the operating system.
//!
//! `clock` is the only place that reads the system's time · `sync` asks who vouches for it · `journal` sends log lines
//! with their fields to systemd-journald, or to stderr where there is none · `notify` tells systemd · `process` what
//! this process uses · `control` lets commands ask the daemon · `lives` pauses before it begins once more · `signals`
//! turns SIGTERM and SIGINT into a [`Stop`](crate::flow::stop::Stop) · `facts` host name, credentials directory, boot
//! token and the private runtime directory · `terminal` says a word to whoever sits at one.

pub mod clock;
pub mod control;
pub mod facts;
pub mod journal;
pub mod lives;
pub mod notify;
pub mod process;
pub mod signals;
pub mod sync;
pub mod terminal;
