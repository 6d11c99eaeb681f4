//! The store: nothing committed is lost, and what is not there is declared.

#[path = "../support/patience.rs"]
mod patience;
#[path = "../support/powercut.rs"]
mod powercut;
#[path = "../support/store.rs"]
mod rig;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/strace.rs"]
mod strace;
#[path = "../support/subject.rs"]
mod subject;
#[path = "../support/witness.rs"]
mod witness;
#[path = "../support/workload.rs"]
mod workload;

mod age;
mod command;
mod crash;
mod damage;
mod damage_every;
mod export;
mod flash;
mod injection;
mod journal;
mod kill;
mod live_first;
mod messages;
mod model;
mod numbers;
mod power_cuts;
mod purge;
mod readers;
mod room;
mod tail;
mod torture;
