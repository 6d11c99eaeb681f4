//! What sessions that persist are subscribed to upstream: a small file beside the store, so that a filter which is taken out of
//! the configuration is unsubscribed from. The other broker keeps it for as long as the session lives, and all that it brings
//! would come over a link that is paid for, only to be refused here.
//!
//! A session is a client id at a server: where there are several servers, each has one of its own. What is going to be
//! subscribed to is written down before it is, and what is not wanted any more struck out when the broker has answered.
//!
//! ```json
//! {"version":1,"sessions":[{"client_id":"gw-cloud","server":"mqtt.example.com:8883","filters":["recipes/#"]}]}
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::line::Line;
use super::session::Session;
use super::source::Source;
use crate::config::plan::UplinkPlan;
use crate::disk::whole;

const VERSION: u32 = 1;

/// Sessions that are remembered: those that were used last.
const SESSIONS_MAX: usize = 16;

/// Filters that one may still have and is not to have any more.
const STALE_MAX: usize = 256;

/// Of one uplink.
#[derive(Debug, Clone)]
pub(super) struct Subscribed {
    path: PathBuf,
    client_id: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    sessions: Vec<Kept>,
}

/// What one session may be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    client_id: String,
    server: String,
    filters: Vec<String>,
}

impl Subscribed {
    /// Beside the store in this directory, which several uplinks may share.
    pub(super) fn beside(store_dir: &Path, plan: &UplinkPlan) -> Self {
        let path = store_dir.join(format!("subscribed-{}.json", plan.name));
        Self { path, client_id: plan.client_id.clone() }
    }

    /// These are going to be subscribed to at this server. Which others may the session be subscribed to?
    async fn begin(&self, server: &str, wanted: Vec<String>) -> Vec<String> {
        let (file, server) = (self.clone(), server.to_owned());
        spawn_blocking(move || file.begin_now(server, wanted)).await.unwrap_or_default()
    }

    /// To nothing but these: the broker has said so.
    async fn settle(&self, server: &str, filters: Vec<String>) {
        let (file, server) = (self.clone(), server.to_owned());
        drop(spawn_blocking(move || file.note(file.read(), server, filters)).await); // an error: it has panicked, and said so
    }

    fn begin_now(&self, server: String, wanted: Vec<String>) -> Vec<String> {
        let sessions = self.read();
        let known = sessions.iter().find(|kept| self.is_of(kept, &server));
        let known = known.map_or_else(Vec::new, |kept| kept.filters.clone());
        let mut stale: Vec<String> = known.into_iter().filter(|filter| !wanted.contains(filter)).collect();
        stale.truncate(STALE_MAX);
        self.note(sessions, server, [wanted, stale.clone()].concat());
        stale
    }

    fn is_of(&self, kept: &Kept, server: &str) -> bool {
        kept.client_id == self.client_id && kept.server == server
    }

    /// Writes what has changed, if anything has.
    fn note(&self, before: Vec<Kept>, server: String, filters: Vec<String>) {
        let newest = Kept { client_id: self.client_id.clone(), server, filters };
        if before.contains(&newest) {
            return;
        }
        let others = before.into_iter().filter(|kept| !self.is_of(kept, &newest.server)).take(SESSIONS_MAX - 1);
        let sessions: Vec<Kept> = others.collect();
        let sessions = [vec![newest], sessions].concat();
        let written = serde_json::to_vec(&File { version: VERSION, sessions }).map_err(Into::into);
        if let Err(error) = written.and_then(|content| whole::replace(&self.path, &content)) {
            tracing::warn!(file = %self.path.display(), %error, "what is subscribed to upstream cannot be remembered");
        }
    }

    fn read(&self) -> Vec<Kept> {
        let found = whole::read(&self.path).and_then(|content| {
            let file = content.map(|content| serde_json::from_slice::<File>(&content)).transpose()?;
            Ok(file.filter(|file| file.version == VERSION).map(|file| file.sessions))
        });
        found
            .unwrap_or_else(|error| {
                tracing::warn!(file = %self.path.display(), %error, "what was subscribed to upstream cannot be read");
                None
            })
            .unwrap_or_default()
    }
}

impl<S: Source> Session<'_, S> {
    /// Before the SUBSCRIBE: what the broker's session may have, and is to have no more.
    pub(super) async fn find_stale(&self) -> Vec<String> {
        match self.down.and_then(|down| Some((down, down.subscribed()?))) {
            Some((down, subscribed)) => subscribed.begin(&self.server, down.names()).await,
            None => Vec::new(),
        }
    }

    /// When the session is over: has the broker taken all of it out?
    pub(super) async fn forget_stale(&self, stale: &[String], line: &Line) {
        if stale.is_empty() || !line.has_unsubscribed() {
            return;
        }
        if let Some((down, subscribed)) = self.down.and_then(|down| Some((down, down.subscribed()?))) {
            subscribed.settle(&self.server, down.names()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|&filter| filter.to_owned()).collect()
    }

    #[test]
    fn what_is_not_wanted_any_more_is_named_until_it_is_settled_at_each_server_by_itself() {
        let home = tempfile::TempDir::new().expect("a directory");
        let of = |client_id: &str| Subscribed { path: home.path().join("s.json"), client_id: client_id.to_owned() };
        let file = of("gw");
        let begin = |server: &str, wanted: &[&str]| file.begin_now(server.to_owned(), names(wanted));
        let none = Vec::<String>::new();
        assert_eq!((begin("one", &["a", "#"]), begin("two", &["#"])), (none.clone(), none.clone()));
        assert_eq!(begin("one", &["a"]), ["#"]);
        assert_eq!(begin("one", &["a"]), ["#"], "nobody has answered");
        assert_eq!(begin("one", &["a", "#"]), none, "wanted again");
        assert_eq!(begin("one", &["b"]), ["a", "#"]);
        file.note(file.read(), "one".to_owned(), names(&["b"]));
        assert_eq!(begin("one", &["b"]), none);
        assert_eq!(of("another").begin_now("two".to_owned(), names(&["b"])), none);
        assert_eq!(begin("two", &["b"]), ["#"]);
        std::fs::write(&file.path, "{").expect("written");
        assert_eq!(begin("two", &["b"]), none, "a damaged file says nothing");
    }

    #[test]
    fn neither_sessions_nor_filters_are_remembered_without_end() {
        let home = tempfile::TempDir::new().expect("a directory");
        let file = Subscribed { path: home.path().join("s.json"), client_id: "gw".to_owned() };
        for n in 0..SESSIONS_MAX * 2 {
            file.begin_now(n.to_string(), names(&["a"]));
        }
        assert_eq!(file.read().len(), SESSIONS_MAX);
        let many: Vec<String> = (0..STALE_MAX * 2).map(|n| n.to_string()).collect();
        file.begin_now("x".to_owned(), many);
        assert_eq!(file.begin_now("x".to_owned(), names(&["a"])).len(), STALE_MAX);
        assert_eq!(file.read()[0].filters.len(), STALE_MAX + 1);
    }
}
