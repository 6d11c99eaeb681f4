//! A living unit: the tags of a device of a plan, kept moving in its image.
//!
//! Tags that may be written hold what was written last. A tag may follow another one (a pump's speed follows its set
//! point) at a limited rate. The room remembers which values each tag has ever held, so that a verifier can ask about
//! every value that arrived at the far end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::{DevicePlan, Plan};
use crate::model::value::Value;
use crate::pipeline::meaning::Factor;
use crate::pipeline::scale::Exponent;

use super::chain::Layout;
use super::image::Image;
use super::point::{Motion, Point};

/// Values are worked out at most this often; a burst of reads sees one moment.
const MOMENT: Duration = Duration::from_millis(20);

/// One tag follows another of the same device: `target` moves towards `source * gain`, by at most `rate` per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Follow {
    /// Name of the tag that is written.
    pub source: String,
    /// Name of the tag that reacts.
    pub target: String,
    /// Engineering target per engineering source.
    pub gain: f64,
    /// Largest change per second, engineering units of the target.
    pub rate: f64,
}

/// The moving tags of one unit: of one device, or of all that share its unit id.
#[derive(Debug, Default)]
pub struct Life {
    points: Vec<Point>,
    by_topic: HashMap<Arc<str>, usize>,
    layout: Layout,
    last: Option<Duration>,
}

impl Life {
    /// Of a unit that has its SunSpec models there.
    pub fn laid_out(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Adds the tags of a device of the plan. `follows` that name no tag of the device are without effect.
    pub fn add(&mut self, plan: &Plan, device: &DevicePlan, follows: &[Follow]) {
        let (mut by_name, mut by_tag, mut factors) = (HashMap::new(), HashMap::new(), Vec::new());
        for (ix, tag) in device.tags.clone().zip(plan.tags.get(device.tags.clone()).unwrap_or_default()) {
            let Some(address) = self.layout.address(tag) else { continue }; // not the device's own
            let place = self.points.len();
            by_name.insert(tag.name.as_str(), place);
            by_tag.insert(ix, place);
            factors.extend(tag.scale_from.map(|factor| (place, factor.0 as usize)));
            self.by_topic.insert(Arc::clone(&tag.topic), place);
            let mut point = Point::of(tag, address);
            if let Some(word) = self.layout.header(tag) {
                point.always_is(Value::Uint(word.into()));
            }
            self.points.push(point);
        }
        for (place, factor) in factors {
            self.points[place].factor = by_tag.get(&factor).copied();
            if let Some(factor) = by_tag.get(&factor) {
                self.points[*factor].becomes_scale_factor();
            }
        }
        for follow in follows {
            let Some(source) = by_name.get(follow.source.as_str()) else { continue };
            let Some(target) = by_name.get(follow.target.as_str()) else { continue };
            let now = self.points[*source].initial.as_f64().unwrap_or(0.0) * follow.gain;
            self.points[*target].motion =
                Motion::Follows { source: *source, gain: follow.gain, rate: follow.rate, now };
        }
    }

    /// Maps every tag at its first value, scale factors before what they scale.
    pub(super) fn begin(&self, image: &mut Image) {
        self.layout.begin(image);
        let (plain, scaled): (Vec<_>, Vec<_>) = self.points.iter().partition(|point| point.factor.is_none());
        for point in plain.into_iter().chain(scaled) {
            let factor = self.factor(point, image);
            point.put(image, factor, &point.initial);
        }
    }

    /// What the point's scale factor holds now; what is none multiplies by one.
    fn factor(&self, point: &Point, image: &Image) -> Factor {
        let holder = point.factor.and_then(|place| self.points.get(place));
        let value = holder.and_then(|holder| holder.get(image, Factor::None));
        value.and_then(|value| Exponent::of(&value)).map_or(Factor::None, Factor::Known)
    }

    fn get(&self, point: &Point, image: &Image) -> Option<Value> {
        point.get(image, self.factor(point, image))
    }

    /// Puts into every tag what it holds when there is no value; tags that cannot say so keep theirs.
    pub(super) fn blank(&self, image: &mut Image) {
        for point in &self.points {
            point.blank(image);
        }
    }

    /// Moves the image to a moment after start.
    pub(super) fn advance(&mut self, image: &mut Image, since_start: Duration) {
        let passed = since_start.saturating_sub(self.last.unwrap_or_default());
        if self.last.is_some() && passed < MOMENT {
            return;
        }
        self.last = Some(since_start);
        for at in 0..self.points.len() {
            let value = match &self.points[at].motion {
                Motion::Written => continue,
                Motion::Wave(wave) => wave.at(since_start),
                Motion::Follows { source, gain, rate, now } => {
                    let source = self.get(&self.points[*source], image);
                    let aim = source.and_then(|value| value.as_f64()).unwrap_or(0.0) * gain;
                    let reach = rate * passed.as_secs_f64();
                    Value::Float(now + (aim - now).clamp(-reach, reach))
                }
            };
            let factor = self.factor(&self.points[at], image);
            let point = &mut self.points[at];
            match (&mut point.motion, value.as_f64()) {
                (Motion::Follows { now, .. }, Some(moved)) => {
                    *now = moved;
                    let is_switch = point.is_switch();
                    point.put(image, factor, &if is_switch { Value::Bool(moved > 0.5) } else { value });
                }
                _ => point.put(image, factor, &value),
            }
        }
        self.witness(image);
    }

    /// Remembers what every tag holds now.
    pub(super) fn witness(&mut self, image: &Image) {
        for at in 0..self.points.len() {
            if let Some(value) = self.get(&self.points[at], image) {
                self.points[at].witness(value);
            }
        }
    }

    /// Did the tag with this local topic ever hold this engineering value, as far as floating point can tell?
    /// `None`: no tag here has this topic.
    pub fn held(&self, topic: &str, value: &Value) -> Option<bool> {
        Some(self.points[*self.by_topic.get(topic)?].held(value))
    }
}
