//! The gateway's own store: where it lies, what it must know of a plan, and that nobody else runs with it.
//!
//! Where the directory cannot be used the gateway runs all the same, see [`store::open`]. Not where another process has it:
//! two gateways with one configuration poll the same devices, and throw each other off the same uplinks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::config::plan::{Plan, TagPlan, UplinkPlan};
use crate::store::{self, Opening, Route, Store, TagMeta};

/// One that is just ending is waited for, or a command.
const IN_USE_MAX: Duration = Duration::from_secs(10);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Why the store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// Another process has it.
    #[error("another gateway runs with this store: {0}")]
    InUse(String),
    /// The thread that opens it died.
    #[error("a start thread died: {0}")]
    Thread(#[from] JoinError),
}

/// Opens it, unless another process keeps it to itself.
pub(super) async fn open(plan: &Plan, boot_token: String) -> Result<Store, NotOpened> {
    wait_for(&store_dir(plan)).await?;
    let opening = opening(plan, boot_token);
    Ok(spawn_blocking(move || store::open(opening)).await?)
}

async fn wait_for(dir: &Path) -> Result<(), NotOpened> {
    let until = Instant::now() + IN_USE_MAX;
    let mut is_told = false;
    loop {
        let looked_at = dir.to_path_buf();
        if !spawn_blocking(move || store::is_in_use(&looked_at)).await? {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(NotOpened::InUse(format!("{} is in use", dir.display())));
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(dir = %dir.display(), "the store is in use by another process, waiting for it");
        }
        sleep(LOOK).await;
    }
}

fn opening(plan: &Plan, boot_token: String) -> Opening {
    Opening {
        dir: store_dir(plan),
        max_size: plan.store.max_size,
        max_age: plan.store.max_age,
        commit_interval: plan.store.commit_interval,
        tags: tag_metas(plan),
        uplinks: routes(plan),
        boot_token,
    }
}

/// What the store must know of the tags of a plan, place by place.
pub(super) fn tag_metas(plan: &Plan) -> Vec<TagMeta> {
    let device = |tag: &TagPlan| plan.device(tag.device).map(|device| device.name.clone());
    let meta = |tag: &TagPlan| TagMeta {
        device: device(tag).unwrap_or_default(),
        name: tag.name.clone(),
        topic: Arc::clone(&tag.topic),
        data_type: tag.data_type,
        class: tag.class,
    };
    plan.tags.iter().map(meta).collect()
}

/// What the store must know of the uplinks of a plan.
pub(super) fn routes(plan: &Plan) -> Vec<Route> {
    let route =
        |uplink: &UplinkPlan| Route { name: uplink.name.clone(), classes: uplink.classes.clone(), start: uplink.start };
    plan.uplinks.iter().map(route).collect()
}

/// Where the store of a plan lies: its own directory below the data directory.
pub fn store_dir(plan: &Plan) -> PathBuf {
    plan.gateway.data_dir.join("store")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::directory::Directory;

    #[tokio::test(start_paused = true)]
    async fn nobody_starts_beside_a_gateway_that_runs_and_one_that_ends_is_waited_for() {
        let home = tempfile::tempdir().expect("a directory");
        wait_for(&home.path().join("none")).await.expect("there is no store yet");
        let lock = Directory::at(home.path()).lock().expect("free");
        let begun = Instant::now();
        let refused = wait_for(home.path()).await.expect_err("it runs on");
        assert!(refused.to_string().contains("another gateway runs with this store"), "{refused}");
        assert!(begun.elapsed() >= IN_USE_MAX);
        let ends = tokio::spawn(async move {
            sleep(IN_USE_MAX / 2).await;
            drop(lock);
        });
        wait_for(home.path()).await.expect("it has ended");
        ends.await.expect("without a panic");
    }
}
