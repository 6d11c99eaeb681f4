//! The doors of `ironbridge check`: where clients come in, and whether the certificates there can be used as they are now.
//!
//! What is wrong with a file makes no configuration wrong (exit 78): it may stand on another machine, or be renewed in a
//! minute. It is said with a `!`, and the door stays closed until it is right.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::page::Page;
use crate::broker::certificate_files;
use crate::config::plan::{Anonymous, ListenerPlan, Plan};
use crate::flow::clock::Clock;
use crate::model::time::{Certainty, Wall};
use crate::road::Now;
use crate::road::renewal::days_left;
use crate::road::server::Server;

/// What was found behind one door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// `mqtts://0.0.0.0:8883`
    shown: String,
    anonymous: &'static str,
    /// Why it would stay closed.
    trouble: Option<String>,
    /// What ends first, and when.
    ends: Option<(String, Wall)>,
    /// It ends soon.
    soon: bool,
}

/// Looks at all of them; reads the files of those with TLS.
pub fn look(plan: &Plan, clock: &Clock) -> Vec<Door> {
    plan.broker.listeners.iter().map(|listener| look_at(listener, clock)).collect()
}

fn look_at(listener: &ListenerPlan, clock: &Clock) -> Door {
    let shown = listener.to_string();
    let mut door = Door { shown, anonymous: anonymous(listener.anonymous), trouble: None, ends: None, soon: false };
    let Some(tls) = &listener.tls else { return door };
    let dated = clock.clone();
    let mut server = Server::new(certificate_files(tls), &[], Now::new(move || dated.wall_now()));
    // Files are read on a thread of their own, whoever waits for them.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let loaded = match runtime {
        Ok(runtime) => runtime.block_on(server.load()).map_err(|error| error.to_string()),
        Err(error) => Err(format!("certificates cannot be looked at: {error}")),
    };
    match loaded {
        Ok(serving) => {
            let ends = serving.ends.map(|ends| (ends.what, ends.unix_ms));
            let now = clock.wall_now();
            door.soon = ends.as_ref().is_some_and(|(_, end)| days_left(*end, now).is_some());
            door.ends = ends.map(|(what, unix_ms)| (what, Wall { unix_ms, certainty: Certainty::Fixed }));
        }
        Err(trouble) => door.trouble = Some(trouble),
    }
    door
}

/// For people.
pub fn write(out: &mut Page, doors: &[Door]) -> fmt::Result {
    for door in doors {
        out.about(format!("broker {}", door.shown));
        writeln!(out, "broker  {} (anonymous: {})", door.shown, door.anonymous)?;
        if let Some(trouble) = &door.trouble {
            out.warn(format_args!("closed until this is put right: {trouble}"))?;
        }
        if let Some((what, end)) = door.ends.as_ref().filter(|_| door.soon) {
            out.warn(format_args!("{what} ends soon, or has ended: {end}"))?;
        }
    }
    Ok(())
}

/// For scripts.
pub fn json(doors: &[Door]) -> Value {
    let one = |door: &Door| {
        json!({
            "listen": door.shown,
            "anonymous": door.anonymous,
            "trouble": door.trouble,
            "ends": door.ends.as_ref().map(|(what, end)| json!({ "what": what, "time": end.to_string() })),
        })
    };
    doors.iter().map(one).collect()
}

const fn anonymous(anonymous: Anonymous) -> &'static str {
    match anonymous {
        Anonymous::None => "none",
        Anonymous::Acl => "acl",
        Anonymous::Read => "read",
        Anonymous::ReadWrite => "read-write",
    }
}
