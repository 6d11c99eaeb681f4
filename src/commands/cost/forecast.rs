//! The forecast of the formats that put many records into one message: a plant made up from the configuration (`plant`)
//! through the program's own encoders (`sizes`), class by class, as each message carries one class.

use std::time::Duration;

use super::plant::{self, Play};
use super::sizes::{Messages, Size};
use crate::config::forecast::{Rate, sample_rate};
use crate::config::plan::{Plan, UplinkPlan};
use crate::config::wire::Way;
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
    /// Samples per second: every reading, nothing changes, values move as assumed. What they cost beside.
    most: (f64, Size),
    least: (f64, Size),
    likely: (f64, Size),
}

/// What was worked out for an uplink.
#[derive(Debug, Default)]
pub struct Made(Vec<Figure>);

impl Made {
    /// Plays and encodes all classes of the uplink that have tags.
    pub fn new(plan: &Plan, uplink: &UplinkPlan) -> Self {
        let mut figures = Vec::new();
        for class in &uplink.classes {
            let tags = || plan.tags.iter().filter(|tag| tag.class == *class && tag.access.reads());
            if tags().next().is_none() {
                continue;
            }
            for way in [Way::JsonArray, Way::Batch] {
                figures.push(figure(plan, uplink, (*class, sample_rate(tags())), way));
            }
        }
        Self(figures)
    }

    fn of<'a>(&'a self, classes: &'a [Class], way: Way) -> impl Iterator<Item = &'a Figure> {
        self.0.iter().filter(move |figure| figure.way == way && classes.contains(&figure.class))
    }

    /// Wire bytes per day of the samples of these classes, with so many connects; `None`: nothing was worked out for this
    /// format.
    pub fn per_day(&self, classes: &[Class], way: Way, connects: Rate) -> Option<Rate> {
        let bytes = |(rate, size): (f64, Size), connects| size.per_day(rate, connects);
        let ends = |figure: &Figure| Rate {
            most: bytes(figure.most, connects.most),
            least: bytes(figure.least, connects.least),
        };
        let add = |sum: Rate, other: Rate| Rate { most: sum.most + other.most, least: sum.least + other.least };
        self.of(classes, way).map(ends).reduce(add)
    }

    /// Samples per second, and their wire bytes per day, when values move as assumed.
    pub fn likely(&self, classes: &[Class], way: Way, connects: Rate) -> Option<(f64, f64)> {
        let likely = |Figure { likely: (rate, size), .. }: &Figure| (*rate, size.per_day(*rate, connects.most));
        self.of(classes, way).map(likely).reduce(|sum, other| (sum.0 + other.0, sum.1 + other.1))
    }
}

fn figure(plan: &Plan, uplink: &UplinkPlan, (class, rate): (Class, Rate), way: Way) -> Figure {
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
    Figure { class, way, most: (rate.most, all), least: (rate.least, quiet), likely: (per_second, likely) }
}
