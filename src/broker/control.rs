//! What the app may ask of a running broker: judge by rules that have changed.

use std::fmt;
use std::sync::Arc;

use super::core::{Rejudged, Shared};

/// Cheap to clone; does nothing once the broker has ended.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Judges whoever is connected by the rules as they are now: those who would not be let in any more are told to go
    /// (MQTT 5: 0x87), subscriptions that are not allowed any more end. Nobody else notices.
    pub fn rejudge(&self) -> Rejudged {
        self.shared.rejudge()
    }
}
