//! Keeps the task of the derived tags alive: like a bus, it is built anew after a panic, and its tags do not go on looking
//! good in the meantime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::field::DerivedTags;
use crate::flow::latest::Latest;
use crate::flow::notice::{Notice, Phase};
use crate::model::quality::{Cause, Quality};
use crate::model::sample::{Batch, Sample};
use crate::model::tag::DeviceIx;
use crate::pipeline::derive::Derive;

use super::supervisor::BusParts;

/// Pause before it is built anew.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// Runs it until stopping, through any number of lives; what the last one knew.
pub async fn watch(parts: BusParts, derive: Derive, tap: Arc<Latest>) -> Derive {
    loop {
        let life = DerivedTags {
            plan: Arc::clone(&parts.plan),
            derive: derive.clone(),
            tap: Arc::clone(&tap),
            hub: parts.hub.clone(),
            clock: parts.clock.clone(),
            stop: parts.stop.clone(),
        };
        let panic = match tokio::spawn(parts.progress.watch("derived", "", life.run())).await {
            Ok(derive) => return derive,
            Err(panic) => panic,
        };
        tracing::error!(error = %panic, "derived tags panicked and are built anew");
        let detail =
            format!("the derived tags failed inside the gateway and begin again in {} s", RESTART_PAUSE.as_secs());
        parts.notices.tell(Notice {
            event: "derived_restarted",
            phase: Phase::Once,
            subject: "derived".into(),
            detail,
        });
        silence(&parts, &derive).await;
        tokio::select! {
            () = parts.stop.begun() => return derive,
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

async fn silence(parts: &BusParts, derive: &Derive) {
    let at = parts.clock.now();
    let mut batches: BTreeMap<DeviceIx, Vec<Sample>> = BTreeMap::new();
    for (device, tag) in derive.tags() {
        let stale = Sample { tag, value: None, quality: Quality::Bad(Cause::Stale), at };
        batches.entry(device).or_default().push(stale);
    }
    for (device, mut samples) in batches {
        samples.sort_by_key(|sample| parts.plan[sample.tag].name.as_bytes()); // as a batch has them
        parts.hub.emit(Batch { device, samples }).await;
    }
}
