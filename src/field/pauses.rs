//! Which devices a person has asked to be left alone, by name: the one place that knows, for as long as the process lives.
//!
//! A pause ends when somebody says so, and with the process: neither a reload, whatever it changes, nor its coming back, nor
//! a bus that fails and is built anew ends one, for somebody may have their hands in the device. Buses come and go, and a
//! device that was removed and is back has another place; so no bus keeps a pause and none hands one over, each looks here
//! before it asks anybody anything. Whoever forgot one has it shown on the page, on the device's topic and in the cause of its
//! tags, and a box that was switched off and on polls what its configuration says. It goes by the name: a device that a reload
//! calls otherwise is another one, and is polled.
//!
//! Cannot fill up: there are as many names as devices that a plan had since the start, which a reload bounds.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::model::lock::Hold as _;

/// Shared by the buses of a gateway; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    names: Mutex<BTreeSet<String>>,
    changed: watch::Sender<()>,
}

impl Pauses {
    /// It is to be left alone from now on.
    pub(super) fn begin(&self, device: &str) {
        self.names().insert(device.to_owned());
    }

    /// No longer.
    pub(super) fn end(&self, device: &str) {
        self.names().remove(device);
    }

    /// Is it to be left alone?
    pub(super) fn holds(&self, device: &str) -> bool {
        self.names().contains(device)
    }

    /// Tells every bus that something was asked.
    pub(super) fn tell(&self) {
        self.0.changed.send_replace(());
    }

    /// Told of every change, and of one before the first: what holds by then is new to whoever comes.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.0.changed.subscribe();
        changes.mark_changed();
        changes
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.names.hold()
    }
}
