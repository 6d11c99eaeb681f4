//! What a bridge was given of all that was retained here when one of its topics was new: a small file beside its store says
//! which topics that was done for, so that each goes out once, also when a topic is added later or the gateway is killed
//! in between.
//!
//! ```json
//! {"version":1,"topics":[{"here":"orders/#","there":"hall-1/orders/#"}]}
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::config::plan::{BridgePlan, RetainHere};
use crate::disk::whole;
use crate::flow::forward::{Letter, Refused, Wish};
use crate::store::StoreHandle;

use super::means::Means;

const VERSION: u32 = 1;

/// Gives a bridge what is retained on those of its topics that are new. Those of a store of before this was written down
/// are not.
pub(super) async fn offer_retained(means: &Means, plan: &BridgePlan, store: &StoreHandle) {
    let offered = Offered::beside(store.directory());
    let topics = Topic::all(plan);
    let is_new = store.newest().iter().all(|(.., seq)| seq.0 == 0);
    let found = offered.clone().read().await;
    let known = found.clone().unwrap_or_else(|| if is_new { Vec::new() } else { topics.clone() });
    let (mut done, new): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| known.contains(topic));
    if new.is_empty() && found.as_ref() == Some(&done) {
        return;
    }
    // Before anything of it is in the store: killed from here on, we know that it is not done.
    offered.clone().write(done.clone()).await;
    for topic in new {
        match offer(means, &plan.uplink.name, &topic.here).await {
            Ok(()) => done.push(topic),
            Err(Refused::Full) => tracing::warn!(
                bridge = plan.uplink.name,
                topic = topic.here,
                "what is retained is not known to be stored for a new topic; it is offered again at the next start"
            ),
            Err(Refused::Stopping) => return,
        }
    }
    offered.write(done).await;
}

/// A bridge that is no more; should there be one of its name again, it is new.
pub(super) async fn forget(store: &StoreHandle) {
    Offered::beside(store.directory()).write(Vec::new()).await;
}

/// The last one is waited for: then all before it are on disk, too.
async fn offer(means: &Means, bridge: &str, filter: &str) -> Result<(), Refused> {
    let retained = means.publisher.retained(filter).flatten();
    let mut letters = retained.filter(|letter| means.ownership.of(&letter.topic).is_clients()).peekable();
    while let Some(letter) = letters.next() {
        if letters.peek().is_some() {
            means.forward.offer(bridge, Letter { wish: Wish::Nothing, ..letter }).await?;
            continue;
        }
        let asked = Letter { wish: Wish::Receipt, ..letter.clone() };
        if let Err(refused) = means.forward.offer(bridge, asked).await {
            means.forward.offer(bridge, Letter { wish: Wish::Nothing, ..letter }).await?;
            return Err(refused);
        }
    }
    Ok(())
}

/// A topic of a bridge that goes out with what is retained, by its names on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Topic {
    /// Filter on the local broker.
    here: String,
    /// Filter on the other one.
    there: String,
}

impl Topic {
    /// All of a bridge.
    fn all(plan: &BridgePlan) -> Vec<Self> {
        let out = plan.out.iter().filter(|out| out.retain == RetainHere::AsPublished);
        out.map(|out| Self { here: out.mapping.local_filter(), there: out.mapping.remote_filter() }).collect()
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    topics: Vec<Topic>,
}

/// The file.
#[derive(Debug, Clone)]
struct Offered {
    path: PathBuf,
}

impl Offered {
    /// Beside the store in this directory.
    fn beside(store_dir: &Path) -> Self {
        Self { path: store_dir.join("offered.json") }
    }

    /// `None`: nobody has written down anything.
    async fn read(self) -> Option<Vec<Topic>> {
        spawn_blocking(move || self.read_now()).await.ok().flatten()
    }

    /// Exactly these.
    async fn write(self, topics: Vec<Topic>) {
        drop(spawn_blocking(move || self.write_now(topics)).await); // an error: it has panicked, and said so
    }

    fn read_now(&self) -> Option<Vec<Topic>> {
        let found = whole::read(&self.path).and_then(|content| {
            let file = content.map(|content| serde_json::from_slice::<File>(&content)).transpose()?;
            Ok(file.filter(|file| file.version == VERSION).map(|file| file.topics))
        });
        found.unwrap_or_else(|error| {
            tracing::warn!(file = %self.path.display(), %error, "which topics a bridge was given cannot be read");
            None
        })
    }

    fn write_now(&self, topics: Vec<Topic>) {
        let written = serde_json::to_vec(&File { version: VERSION, topics }).map_err(Into::into);
        if let Err(error) = written.and_then(|content| whole::replace(&self.path, &content)) {
            tracing::warn!(file = %self.path.display(), %error, "which topics a bridge was given cannot be remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_remembered_as_they_are_called_and_a_damaged_file_counts_as_none() {
        let home = tempfile::TempDir::new().expect("a directory");
        let offered = Offered::beside(home.path());
        assert_eq!(offered.read_now(), None);
        let topics = vec![Topic { here: "orders/#".into(), there: "hall-1/orders/#".into() }];
        for topics in [Vec::new(), topics] {
            offered.write_now(topics.clone());
            assert_eq!(offered.read_now(), Some(topics));
        }
        std::fs::write(&offered.path, "{").expect("written");
        assert_eq!(offered.read_now(), None);
    }
}
