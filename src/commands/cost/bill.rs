//! The bill of one uplink: what each format comes to on each way, against budgets and prices. Pure.

use crate::config::forecast::Rate;
use crate::config::plan::{Budget, PathPlan, Period, Plan, UplinkPlan};
use crate::config::wire::{self, Load, Upkeep, Way};
use crate::model::number::Class;

use super::forecast::Made;
use super::seen::Seen;

/// A month in this forecast.
pub const DAYS_PER_MONTH: f64 = 30.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// One uplink.
#[derive(Debug)]
pub struct Bill {
    /// Its name.
    pub uplink: String,
    /// As it is configured.
    pub way: Way,
    /// What it carries.
    pub load: Load,
    /// What its session costs.
    pub upkeep: Upkeep,
    /// Each format over whatever path; first of all the ways.
    pub whole: Course,
    /// Each path, as if it carried everything it may.
    pub paths: Vec<Course>,
}

/// One way to go, with what each format costs on it.
#[derive(Debug)]
pub struct Course {
    /// `None`: all paths together.
    pub path: Option<String>,
    /// What may go there.
    pub classes: Vec<Class>,
    /// Money per MiB.
    pub price_per_mib: Option<f64>,
    /// By format, in the order of [`Way::ALL`].
    pub rows: Vec<Row>,
}

/// One format.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub way: Way,
    /// Wire bytes per sample, session included not.
    pub per_sample: Rate,
    /// Wire bytes per day, session included.
    pub per_day: Rate,
    /// With values that move as assumed, and the deadbands that are configured; where it is worked out.
    pub likely: Option<Likely>,
    /// Against each budget.
    pub budgets: Vec<Use>,
}

/// What deadbands let through when values move as `plant` assumes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likely {
    /// Samples per second.
    pub rate: f64,
    /// Wire bytes per sample, session not included.
    pub sample_bytes: f64,
    /// Wire bytes per day, session included.
    pub day_bytes: f64,
}

/// A budget and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// The budget.
    pub budget: Budget,
    /// Part of it that is used in one period: 1.0 is all of it.
    pub part: Rate,
}

impl Use {
    /// After how many days of a month, or hours of a day, it is used up at this end; `None`: it lasts.
    pub fn lasts(part: f64, period: Period) -> Option<f64> {
        let whole = if period == Period::Day { 24.0 } else { DAYS_PER_MONTH };
        (part > 1.0).then_some(whole / part)
    }
}

impl Row {
    /// Wire bytes per month.
    pub fn per_month(&self) -> Rate {
        map(self.per_day, |bytes| bytes * DAYS_PER_MONTH)
    }

    /// Money per month.
    pub fn money(&self, price_per_mib: f64) -> Rate {
        map(self.per_month(), |bytes| bytes / BYTES_PER_MIB * price_per_mib)
    }

    /// Money per day.
    pub fn money_per_day(&self, price_per_mib: f64) -> Rate {
        map(self.per_day, |bytes| bytes / BYTES_PER_MIB * price_per_mib)
    }

    /// Do all budgets last, at the end that costs more?
    pub fn fits(&self) -> bool {
        self.budgets.iter().all(|used| used.part.most <= 1.0)
    }
}

/// Works it out.
pub fn bill(plan: &Plan, uplink: &UplinkPlan, seen: Option<&Seen>) -> Bill {
    let made = if seen.is_some() { Made::default() } else { Made::new(plan, uplink) };
    let course = |path: Option<&PathPlan>| {
        // As if this path were the only one.
        let mut alone = uplink.clone();
        if let Some(path) = path {
            alone.classes.retain(|class| path.classes.contains(class));
            alone.paths = vec![path.clone()];
        }
        let budgets = path.map_or(&uplink.budgets, |path| &path.budgets);
        let row = |way: Way| row(plan, (&alone, budgets), way, (seen, &made));
        Course {
            path: path.map(|path| path.name.clone()),
            price_per_mib: path.and_then(|path| path.price_per_mib),
            rows: Way::ALL.into_iter().map(row).collect(),
            classes: alone.classes.clone(),
        }
    };
    let mut load = wire::load(plan, uplink);
    if let Some(seen) = seen {
        let samples = seen.samples_per_second(&uplink.classes);
        load.samples = Rate { most: samples, least: samples };
    }
    Bill {
        uplink: uplink.name.clone(),
        way: Way::of(uplink),
        upkeep: upkeep(uplink, &load, Way::of(uplink), seen),
        load,
        whole: course(None),
        paths: uplink.paths.iter().map(|path| course(Some(path))).collect(),
    }
}

fn row(
    plan: &Plan,
    (uplink, budgets): (&UplinkPlan, &[Budget]),
    way: Way,
    (seen, made): (Option<&Seen>, &Made),
) -> Row {
    let load = wire::load(plan, uplink);
    let connects = wire::connects(uplink);
    let (samples, rate) = if let Some(seen) = seen {
        let rate = seen.samples_per_second(&uplink.classes);
        (seen.bytes_per_day(plan, uplink, way), Rate { most: rate, least: rate })
    } else {
        let forecast = || wire::samples_per_day(plan, uplink, &load, way);
        (made.per_day(&uplink.classes, way, connects).unwrap_or_else(forecast), load.samples)
    };
    let session = upkeep(uplink, &load, way, seen).total();
    let per_day = Rate { most: samples.most + session.most, least: samples.least + session.least };
    let each = |bytes: f64, rate: f64| if rate > 0.0 { bytes / (rate * 86_400.0) } else { 0.0 };
    let used = |budget: &Budget| {
        let days = if budget.period == Period::Day { 1.0 } else { DAYS_PER_MONTH };
        Use { budget: *budget, part: map(per_day, |bytes| bytes * days / as_f64(budget.bytes)) }
    };
    let likely = made.likely(&uplink.classes, way, connects).map(|(rate, bytes)| Likely {
        rate,
        sample_bytes: each(bytes, rate),
        day_bytes: bytes + session.most,
    });
    Row {
        way,
        per_sample: Rate { most: each(samples.most, rate.most), least: each(samples.least, rate.least) },
        per_day,
        likely,
        budgets: budgets.iter().map(used).collect(),
    }
}

/// Events that were seen are in the store's samples already.
fn upkeep(uplink: &UplinkPlan, load: &Load, way: Way, seen: Option<&Seen>) -> Upkeep {
    let upkeep = wire::upkeep_of(uplink, load, way);
    if seen.is_some() { Upkeep { events: Rate::default(), ..upkeep } } else { upkeep }
}

fn map(rate: Rate, f: impl Fn(f64) -> f64) -> Rate {
    Rate { most: f(rate.most), least: f(rate.least) }
}

#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The format to take: the cheapest of those that fit all budgets of the uplink and its paths even when
/// everything changes; if none does, the cheapest of all. Sparkplug only where it is configured: it needs a host that reads it.
pub fn recommended(bill: &Bill) -> (Way, Fits) {
    let courses = || std::iter::once(&bill.whole).chain(&bill.paths);
    let read = |way: Way| way != Way::Sparkplug || bill.way == Way::Sparkplug;
    let ways = Way::ALL.into_iter().enumerate().filter(|(_, way)| read(*way));
    let priced = ways.map(|(place, way)| {
        let fits = courses().all(|course| course.rows[place].fits());
        let at_all = courses().all(|course| course.rows[place].budgets.iter().all(|used| used.part.least <= 1.0));
        let fits = if fits {
            Fits::Always
        } else if at_all {
            Fits::WhenQuiet
        } else {
            Fits::Never
        };
        (fits, bill.whole.rows[place].per_day.most, way)
    });
    let best = priced.min_by(|(fits, bytes, _), (other, others, _)| fits.cmp(other).then(bytes.total_cmp(others)));
    best.map_or((bill.way, Fits::Never), |(fits, _, way)| (way, fits))
}

/// Whether the budgets last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fits {
    /// Even when every reading is a sample.
    Always,
    /// When little changes.
    WhenQuiet,
    /// Not even then.
    Never,
}
