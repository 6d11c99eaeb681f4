//! What a reload changes in a running store: tags that are new, uplinks that come and go, its bounds.
//!
//! Places stay: a new tag is appended, a new uplink gets the next place, one that goes leaves an empty one, so that
//! readers and records on their way mean what they meant. What a removed uplink (or a class that it no longer has) was owed
//! is dropped and logged, as at a start. Saved with the next work of the writer; a crash before that is a start with the
//! new plan, which comes to the same.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::plan::UplinkStart;
use crate::disk::meta::Edit;
use crate::model::lock::Hold as _;
use crate::model::number::{Class, PerClass};

use super::cursor::Cursor;
use super::join::Joined;
use super::state::{Ledger, State};
use super::writer::Writer;
use super::{Control, Route, Shared, StoreHandle, TagMeta, dictionary};

/// What a store has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// All tags, in `TagIx` order. Those that it knows keep their places.
    pub tags: Vec<TagMeta>,
    /// All uplinks.
    pub uplinks: Vec<Route>,
    /// See [`super::Opening::max_size`].
    pub max_size: u64,
    /// See [`super::Opening::max_age`].
    pub max_age: Option<Duration>,
    /// See [`super::Opening::commit_interval`].
    pub commit_interval: Duration,
}

impl StoreHandle {
    /// Resolves when it has changed, or is gone; samples of new tags must not come before. Cancel-safe.
    pub async fn revise(&self, revision: Revision) {
        let (done, changed) = oneshot::channel();
        let _ = self.control.send(Control::Revise(Box::new(revision), done)).await.is_ok() && changed.await.is_ok();
    }

    /// Numbers owed, by uplink.
    pub fn backlogs(&self) -> Vec<(String, u64)> {
        let state = self.shared.state();
        let routes = self.shared.routes.hold();
        let owed = routes.iter().enumerate().filter(|(_, name)| !name.is_empty());
        owed.map(|(place, name)| (name.clone(), state.backlog(place))).collect()
    }
}

impl Shared {
    pub(super) fn place_of(&self, uplink: &str) -> Option<usize> {
        self.routes.hold().iter().position(|name| name == uplink)
    }
}

impl Writer {
    pub(super) fn revise(&mut self, revision: Revision, done: oneshot::Sender<()>) {
        let Revision { tags, uplinks, max_size, max_age, commit_interval } = revision;
        self.opening.max_size = max_size;
        self.shared.stats.max_bytes.set(max_size);
        self.opening.max_age = max_age;
        self.opening.commit_interval = commit_interval;
        let new: Vec<TagMeta> = tags.into_iter().skip(self.opening.tags.len()).collect();
        let shared = std::sync::Arc::clone(&self.shared);
        let mut state = shared.state();
        if let Some(disk) = &mut self.disk {
            let (ids, changed) = dictionary::assign(&mut state.dictionary, &new);
            disk.tag_ids.extend(ids);
            state.edits.extend(changed.iter().map(|tag| Edit::PutTag(dictionary::row(tag))));
        }
        self.opening.tags.extend(new);
        let routes = settled(&self.opening.uplinks, &uplinks);
        if state.opened {
            route(&mut state, &routes);
        }
        *shared.routes.hold() = routes.iter().map(|route| route.name.clone()).collect();
        self.opening.uplinks = routes;
        drop(state);
        shared.cursors_due.notify_one();
        shared.wake_readers();
        let _ = done.send(()); // the asker may be gone
    }
}

/// The uplinks of before at their places, the new ones behind them.
fn settled(before: &[Route], now: &[Route]) -> Vec<Route> {
    let gone = || Route { name: String::new(), classes: Vec::new(), start: UplinkStart::Now };
    let stays = |old: &Route| now.iter().find(|route| route.name == old.name).cloned().unwrap_or_else(gone);
    let mut routes: Vec<Route> = before.iter().map(stays).collect();
    let is_new = |route: &Route| !before.iter().any(|old| old.name == route.name);
    routes.extend(now.iter().filter(|route| is_new(route)).cloned());
    routes
}

/// Gives each route its ledger, place by place.
fn route(state: &mut State, routes: &[Route]) {
    for (place, route) in routes.iter().enumerate() {
        if place >= state.ledgers.len() {
            let (cursors, joined) = (PerClass::default(), Joined::default());
            state.ledgers.push(Ledger { name: route.name.clone(), cursors, gaps: Vec::new(), unsaved: 0, joined });
        }
        for class in Class::ALL {
            let has = state.ledgers[place].cursors[class].is_some();
            match (has, route.classes.contains(&class)) {
                (false, true) => begin(state, place, route, class),
                (true, false) => drop_class(state, place, class),
                _ => {}
            }
        }
        state.ledgers[place].name.clone_from(&route.name);
    }
}

fn begin(state: &mut State, place: usize, route: &Route, class: Class) {
    let stream = state.stream(class);
    let oldest = route.start == UplinkStart::Oldest;
    let cursor = Cursor::at(if oldest { stream.start() } else { stream.end() });
    let losses = stream.losses.clone();
    let ledger = &mut state.ledgers[place];
    ledger.cursors[class] = Some(cursor);
    ledger.unsaved += 1; // to be on disk before long, though nothing was acknowledged
    if oldest {
        // It was not there when they were declared. The others have been told, or passed them.
        for loss in losses {
            state.owe(class, &loss, &[]);
        }
    }
}

fn drop_class(state: &mut State, place: usize, class: Class) {
    let owed = state.backlog_of(place, class);
    let State { ledgers, edits, .. } = state;
    let ledger = &mut ledgers[place];
    let uplink = ledger.name.clone();
    tracing::warn!(uplink, class = %class, owed, "uplink removed; what it was owed is dropped");
    ledger.cursors[class] = None;
    edits.push(Edit::DropCursor(uplink, class as u8));
    ledger.gaps.retain(|gap| {
        if gap.class == class {
            edits.push(Edit::DropOwed(gap.id));
        }
        gap.class != class
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route_to(name: &str, classes: &[Class]) -> Route {
        Route { name: name.into(), classes: classes.to_vec(), start: UplinkStart::Now }
    }

    #[test]
    fn uplinks_keep_their_places_and_one_that_is_back_is_new() {
        let names = |routes: &[Route]| routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
        let first = settled(&[], &[route_to("a", &[]), route_to("b", &[])]);
        let second = settled(&first, &[route_to("c", &[]), route_to("b", &[])]);
        assert_eq!(names(&second), ["", "b", "c"]);
        assert_eq!(names(&settled(&second, &[route_to("a", &[])])), ["", "", "", "a"]);
    }

    #[test]
    fn what_a_removed_uplink_was_owed_goes_and_what_others_are_owed_stays() {
        let mut state = State::empty();
        let both = [route_to("a", &[Class::Event, Class::Bulk]), route_to("b", &[Class::Bulk])];
        route(&mut state, &both);
        let has = |state: &State, place: usize| {
            Class::ALL.map(|class| u8::from(state.ledgers[place].cursors[class].is_some()))
        };
        assert_eq!((has(&state, 0), has(&state, 1)), ([0, 1, 0, 1], [0, 0, 0, 1]));
        route(&mut state, &settled(&both, &[route_to("b", &[Class::Bulk, Class::Alarm])]));
        assert_eq!((has(&state, 0), has(&state, 1)), ([0; 4], [1, 0, 0, 1]));
        let dropped = |edit: &&Edit| matches!(edit, Edit::DropCursor(name, _) if name == "a");
        assert_eq!(state.edits.iter().filter(dropped).count(), 2);
        assert_eq!(state.ledgers[0].name, "");
    }
}
