//! The files of `ironbridge check` that are neither configuration nor of a door: of uplinks, bridges and buses, and of the users.
//!
//! As with the doors, what is wrong with one makes no configuration wrong; it is said with a `!`.

use crate::access::{Access, Loading};
use crate::config::plan::{BrokerPlan, BusPlan, Carrier, UplinkPlan};
use crate::field::carrier::tls::handshake;
use crate::model::time::{Certainty, Wall};
use crate::road::renewal::days_left;
use crate::uplink::disabled_by;

/// What keeps an uplink, or a bridge, from connecting.
pub fn of_uplink(uplink: &UplinkPlan) -> Option<String> {
    // Files are read on a thread of their own, whoever waits for them.
    match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime.block_on(disabled_by(uplink, &super::commands::plain_clock())),
        Err(error) => Some(format!("its files cannot be looked at: {error}")),
    }
}

/// What is wrong with the certificates of a bus, and which of them ends soon or has ended.
pub fn of_bus(bus: &BusPlan) -> Vec<String> {
    let Carrier::Tls(tls) = &bus.link.carrier else { return Vec::new() };
    let clock = super::commands::plain_clock();
    let look = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime.block_on(handshake(tls, &clock).look()),
        Err(error) => return vec![format!("its files cannot be looked at: {error}")],
    };
    let soon = look.ends.filter(|ends| days_left(ends.unix_ms, clock.wall_now()).is_some()).map(|ends| {
        let end = Wall { unix_ms: ends.unix_ms, certainty: Certainty::Fixed };
        format!("{} ends soon, or has ended: {end}", ends.what)
    });
    look.fault.into_iter().chain(soon).collect()
}

/// What keeps some or all users from logging in.
pub fn of_users(broker: &BrokerPlan) -> Option<String> {
    match Access::new(broker).load_users() {
        Loading::NotWanted | Loading::Loaded(_, None) => None,
        Loading::Loaded(_, Some(wrong)) => Some(format!("some users cannot log in until this is put right: {wrong}")),
        Loading::Failed(bad) => Some(format!("nobody can log in until this is put right: {bad}")),
    }
}
