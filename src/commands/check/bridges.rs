//! What goes to other brokers and comes from them in `ironbridge check`: clients' messages that go up, topics that come
//! down, bridges; each filter by its name here and there.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::files;
use super::page::Page;
use super::uplinks;
use crate::config::plan::{BridgePlan, DownPlan, Plan};
use crate::config::units::{write_duration, write_size};
use crate::model::mapping::Mapping;

/// For people; nothing where there is nothing of it.
pub fn write(out: &mut Page, plan: &Plan) -> fmt::Result {
    for forward in &plan.forwards {
        let uplinks = forward.uplinks.join(", ");
        writeln!(out, "\nforward {}: class {}, to {uplinks}", forward.filter, forward.class)?;
    }
    for uplink in plan.uplinks.iter().filter(|uplink| !uplink.downs.is_empty()) {
        let kept = write_duration(uplink.session_expiry);
        writeln!(out, "\ndown on {}: kept there for {kept} while the link is down", uplink.name)?;
        write_downs(out, &uplink.downs)?;
    }
    for bridge in &plan.bridges {
        out.about(format!("bridge {}", bridge.uplink.name));
        let servers: Vec<String> = bridge.uplink.servers.iter().map(ToString::to_string).collect();
        let servers = servers.join(", then ");
        writeln!(out, "\nbridge {}: as {}, {servers}", bridge.uplink.name, bridge.uplink.client_id)?;
        uplinks::warn_of_keep_alive(out, &bridge.uplink)?;
        if let Some(trouble) = files::of_uplink(&bridge.uplink) {
            out.warn(format_args!("disabled until this is put right: {trouble}"))?;
        }
        let age = bridge.max_age.map_or_else(String::new, |age| format!(", at most {} old", write_duration(age)));
        writeln!(out, "  what goes out waits in a store of its own: at most {}{age}", write_size(bridge.max_size))?;
        for out_plan in &bridge.out {
            let (here, there) = (out_plan.mapping.local_filter(), out_plan.mapping.remote_filter());
            writeln!(out, "  out {here} -> {there}")?;
        }
        write_downs(out, &bridge.uplink.downs)?;
    }
    Ok(())
}

fn write_downs(out: &mut Page, downs: &[DownPlan]) -> fmt::Result {
    for down in downs {
        writeln!(out, "  in  {} <- {}", down.mapping.local_filter(), down.mapping.remote_filter())?;
    }
    Ok(())
}

/// One bridge for scripts.
pub fn json(bridge: &BridgePlan) -> Value {
    let pair = |mapping: &Mapping| json!({ "here": mapping.local_filter(), "there": mapping.remote_filter() });
    json!({
        "name": bridge.uplink.name,
        "trouble": files::of_uplink(&bridge.uplink),
        "client_id": bridge.uplink.client_id,
        "servers": bridge.uplink.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "out": bridge.out.iter().map(|out| pair(&out.mapping)).collect::<Vec<_>>(),
        "in": bridge.uplink.downs.iter().map(|down| pair(&down.mapping)).collect::<Vec<_>>(),
    })
}
