//! How the live side is told of another plan: its values and its alarms, one turn at a time.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::plan::Plan;

/// Another plan, arranged after the one before.
pub struct Turn {
    /// It.
    pub plan: Arc<Plan>,
    /// Told when its new topics are there and its old ones are gone.
    pub done: oneshot::Sender<()>,
}

/// Where the live side is told: values, and alarms.
pub type Turns = [mpsc::Sender<Turn>; 2];

/// The other ends of [`Turns`].
pub type TurnsTaken = [mpsc::Receiver<Turn>; 2];

/// Makes the way of new plans to the live side. One at a time.
pub fn turns() -> (Turns, TurnsTaken) {
    let ((values, of_values), (alarms, of_alarms)) = (mpsc::channel(1), mpsc::channel(1));
    ([values, alarms], [of_values, of_alarms])
}
