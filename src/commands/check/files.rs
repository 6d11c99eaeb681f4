//! The files of `ironbridge check` that are neither configuration nor of a door: of uplinks and bridges, and of the users.
//!
//! As with the doors, what is wrong with one makes no configuration wrong; it is said with a `!`.

use crate::access::{Access, Loading};
use crate::config::plan::{BrokerPlan, UplinkPlan};
use crate::uplink::disabled_by;

/// What keeps an uplink, or a bridge, from connecting.
pub fn of_uplink(uplink: &UplinkPlan) -> Option<String> {
    // Files are read on a thread of their own, whoever waits for them.
    match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime.block_on(disabled_by(uplink, &super::commands::plain_clock())),
        Err(error) => Some(format!("its files cannot be looked at: {error}")),
    }
}

/// What keeps some or all users from logging in.
pub fn of_users(broker: &BrokerPlan) -> Option<String> {
    match Access::new(broker).load_users() {
        Loading::NotWanted | Loading::Loaded(_, None) => None,
        Loading::Loaded(_, Some(wrong)) => Some(format!("some users cannot log in until this is put right: {wrong}")),
        Loading::Failed(bad) => Some(format!("nobody can log in until this is put right: {bad}")),
    }
}
