//! The forecast of the formats that put many records into one message: a plant made up from the configuration (`plant`)
//! through the program's own encoders (`sizes`), class by class, as each message carries one class.

use std::time::Duration;

use super::plant::{self, Play};
use super::sizes::{Messages, Size};
use crate::config::forecast::{Rate, sample_rate};
use crate::config::plan::{Plan, UplinkPlan};
use crate::config::wire::{CONNECTS, Way};
use crate::model::number::Class;

/// Records that are encoded of a class, and whole batches that should be among them.
const RECORDS: usize = 20_001;
const MESSAGES: u32 = 3;
/// The same of lists of JSON, which are all alike.
const LIST_RECORDS: usize = 10_001;
/// Longest play.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// One class in one format.
#[derive(Debug)]
struct Figure {
    class: Class,
    way: Way,
    /// Wire bytes per day.
    ends: Rate,
    /// Samples per second and wire bytes per day.
    likely: (f64, f64),
}

/// What was worked out for an uplink.
#[derive(Debug, Default)]
pub struct Made(Vec<Figure>);

impl Made {
    /// Plays and encodes all classes of the uplink that have tags.
    pub fn new(plan: &Plan, uplink: &UplinkPlan) -> Self {
        let windows = uplink.paths.first().and_then(|path| path.schedule);
        let windows = windows.map(|schedule| 86_400.0 / schedule.every.as_secs_f64());
        let connects = windows.map_or(CONNECTS, |windows| [windows, windows]);
        let mut figures = Vec::new();
        for class in &uplink.classes {
            let tags = || plan.tags.iter().filter(|tag| tag.class == *class && tag.access.reads());
            if tags().next().is_none() {
                continue;
            }
            for way in [Way::JsonArray, Way::Batch] {
                figures.push(figure(plan, uplink, (*class, sample_rate(tags())), way, connects));
            }
        }
        Self(figures)
    }

    fn of<'a>(&'a self, classes: &'a [Class], way: Way) -> impl Iterator<Item = &'a Figure> {
        self.0.iter().filter(move |figure| figure.way == way && classes.contains(&figure.class))
    }

    /// Wire bytes per day of the samples of these classes; `None`: nothing was worked out for this format.
    pub fn per_day(&self, classes: &[Class], way: Way) -> Option<Rate> {
        let add = |sum: Rate, other: Rate| Rate { most: sum.most + other.most, least: sum.least + other.least };
        self.of(classes, way).map(|figure| figure.ends).reduce(add)
    }

    /// Samples per second, and their wire bytes per day, when values move as assumed.
    pub fn likely(&self, classes: &[Class], way: Way) -> Option<(f64, f64)> {
        self.of(classes, way).map(|figure| figure.likely).reduce(|sum, other| (sum.0 + other.0, sum.1 + other.1))
    }
}

fn figure(plan: &Plan, uplink: &UplinkPlan, (class, rate): (Class, Rate), way: Way, connects: [f64; 2]) -> Figure {
    let messages = Messages::new(plan, uplink, way);
    let records = match way {
        Way::Batch => RECORDS.max(messages.records_max() * MESSAGES as usize + 1),
        _ => LIST_RECORDS,
    };
    let lasts = (messages.every() * (MESSAGES + 1)).max(plant::slowest(plan, class) * 2).min(LONGEST);
    let clock = plant::clock();
    let size = |play: Play| -> (Size, f64) {
        let played = plant::play(plan, class, play, records, lasts);
        let size = match way {
            Way::JsonArray => messages.lists(&played.records, &clock),
            _ => messages.batches(&played.records, &clock),
        };
        #[expect(clippy::cast_precision_loss, reason = "some ten thousand records")]
        let per_second = played.records.len() as f64 / played.seconds;
        (size, per_second)
    };
    let (all, _) = size(Play::Everything);
    let (quiet, _) = size(Play::Nothing);
    let (likely, per_second) = size(Play::Changes);
    let ends = Rate { most: all.per_day(rate.most, connects[1]), least: quiet.per_day(rate.least, connects[0]) };
    Figure { class, way, ends, likely: (per_second, likely.per_day(per_second, connects[1])) }
}
