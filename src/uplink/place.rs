//! The gateway around an uplink, for those that have more to do with it than its store: told after it is built, before it runs.

use super::sparkplug::Plant;
use super::{Source, Uplink};
use crate::road::inside::{InnerDoor, Whose};

impl<S: Source> Uplink<S> {
    /// What the births of an edge node tell of; of no use to other formats.
    pub fn live_in(&mut self, plant: Plant) {
        if let Some(node) = self.packer.node() {
            node.live_in(plant);
        }
    }

    /// By this door it comes in where its plan leads to the broker of this program.
    pub fn enter_by(&mut self, door: &InnerDoor) {
        let door = door.apart();
        if self.servers.iter().any(|server| server.whose == Whose::Own)
            && let Some(node) = self.packer.node()
        {
            node.ears().come_in_by(door.clone());
        }
        self.road.enter_by(door);
    }
}
