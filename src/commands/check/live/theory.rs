//! One explanation for many odd tags: another word order, a map that is one off, the other table. A vote. Pure.
//!
//! Every theory is scored over the same tags: what reads as such a tag may well read is for it, nonsense and refusals are
//! against it. A theory is told only if it is clearly better than the configuration; if the registers cannot tell two of
//! them apart, both are told.

use std::collections::BTreeMap;

use super::look::{Grade, bytes_turned, turned};
use super::seen::{Got, Harvest, Miss, Seen, View, see};
use crate::config::plan::{Plan, TagPlan};
use crate::model::quality::Quality;
use crate::model::tag::{DataType, Order};
use crate::model::value::Value;

/// What is done to the configured order of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Its words are turned round.
    Words,
    /// The bytes of each word are.
    Bytes,
    /// Both.
    Both,
}

impl Change {
    /// The order that comes of it.
    pub const fn apply(self, order: Order) -> Order {
        match self {
            Self::Keep => order,
            Self::Words => turned(order),
            Self::Bytes => bytes_turned(order),
            Self::Both => turned(bytes_turned(order)),
        }
    }
}

/// How much less likely a change is from the start, in points of the vote.
const CHANGES: [(Change, i32); 4] = [(Change::Keep, 0), (Change::Words, 1), (Change::Bytes, 3), (Change::Both, 3)];
/// And another place.
const ELSEWHERE: i32 = 1;
/// By so much a theory must be better than the configuration.
const CLEARLY: i32 = 6;
/// Two tags will do for a theory that is so much better.
const STRIKING: i32 = 14;
/// Theories this close to each other are equally good.
const EVEN: i32 = 2;
/// So many tags that come right make a theory likely.
const MANY: usize = 3;
/// Values of one quantity at several phases differ by less than this factor …
const ALIKE: f64 = 3.0;
/// … and hardly ever by this one.
const UNLIKE: f64 = 20.0;

/// How sure the vote is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// Several tags say so, and nothing else explains them.
    Likely,
    /// It fits; so may something else.
    Possible,
}

impl Confidence {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

/// One way to read a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theory {
    /// Where.
    pub view: View,
    /// The order of floats.
    pub floats: Change,
    /// The order of whole numbers of two registers and more.
    pub wholes: Change,
}

impl Theory {
    const AS_CONFIGURED: Self = Self { view: View::Configured, floats: Change::Keep, wholes: Change::Keep };

    /// The order of a tag under it.
    pub const fn order(self, tag: &TagPlan) -> Order {
        match kind(tag) {
            Kind::Float => self.floats.apply(tag.order),
            Kind::Whole => self.wholes.apply(tag.order),
            Kind::Other => tag.order,
        }
    }
}

/// What the vote says of one theory.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The theory.
    pub theory: Theory,
    /// Tags that come right.
    pub mended: Vec<usize>,
    /// Tags that were in trouble, of those that were looked at there.
    pub troubled: usize,
    /// How sure.
    pub confidence: Confidence,
    /// Another theory that fits about as well.
    pub rival: Option<Theory>,
}

/// What is tried in one go: the harvests of a device by where they were taken, the configured place first.
pub struct Evidence<'a> {
    /// The plan of the tags.
    pub plan: &'a Plan,
    /// The views.
    pub views: &'a [(View, Harvest)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Whole,
    Other,
}

const fn kind(tag: &TagPlan) -> Kind {
    match tag.data_type {
        DataType::Float32 | DataType::Float64 => Kind::Float,
        other if other.is_number() && other.registers() > 1 => Kind::Whole,
        _ => Kind::Other,
    }
}

/// Is this tag a reason to look for another explanation?
pub fn is_trouble(seen: &Seen, got: Option<&Got>) -> bool {
    match got {
        Some(Got::Miss(miss)) => is_refusal(miss),
        _ => matches!(seen.look.grade, Grade::Uneasy | Grade::Doubtful | Grade::Absurd),
    }
}

const fn is_refusal(miss: &Miss) -> bool {
    matches!(miss, Miss::Exception(1..=3))
}

impl Evidence<'_> {
    fn harvest(&self, view: View) -> Option<&Harvest> {
        self.views.iter().find(|(at, _)| *at == view).map(|(_, harvest)| harvest)
    }

    /// One tag under a theory; `None`: it was not looked at there.
    pub fn see(&self, theory: Theory, tag: usize) -> Option<Seen> {
        let harvest = self.harvest(theory.view)?;
        harvest.get(&tag).filter(|got| **got != Got::Miss(Miss::NotAsked))?;
        Some(see(self.plan, harvest, tag, theory.order(&self.plan.tags[tag])))
    }

    /// The tags in trouble.
    pub fn troubled(&self) -> Vec<usize> {
        let Some(harvest) = self.harvest(View::Configured) else { return Vec::new() };
        let trouble = |(tag, got): (&usize, &Got)| {
            let seen = see(self.plan, harvest, *tag, self.plan.tags[*tag].order);
            is_trouble(&seen, Some(got)).then_some(*tag)
        };
        harvest.iter().filter_map(trouble).collect()
    }

    /// The best explanation, if there is a clearly better one than the configuration.
    pub fn vote(&self) -> Option<Finding> {
        if self.troubled().is_empty() {
            return None;
        }
        let mut scored: Vec<(i32, Theory)> = Vec::new();
        for (view, harvest) in self.views {
            let tags: Vec<usize> = harvest.keys().copied().collect();
            let present = self.score(Theory::AS_CONFIGURED, &tags);
            for theory in self.theories(*view, &tags).into_iter().filter(|theory| *theory != Theory::AS_CONFIGURED) {
                scored.push((self.score(theory, &tags) - present - self.cost(theory, &tags), theory));
            }
        }
        scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score)); // stable: of equals the simplest, tried first
        let (score, theory) = *scored.first().filter(|(score, _)| *score >= CLEARLY)?;
        self.finding(theory, score, &scored)
    }

    fn finding(&self, theory: Theory, score: i32, scored: &[(i32, Theory)]) -> Option<Finding> {
        let (mut mended, mut broken, mut troubled) = (Vec::new(), 0, 0);
        for tag in self.harvest(theory.view)?.keys().copied() {
            let (Some(now), Some(then)) = (self.see(Theory::AS_CONFIGURED, tag), self.see(theory, tag)) else {
                continue;
            };
            let got = self.harvest(View::Configured).and_then(|harvest| harvest.get(&tag));
            let was = is_trouble(&now, got);
            let good = then.quality == Quality::Good && then.look.grade <= Grade::Mute;
            let convincing = good && then.look.grade <= Grade::Fits;
            troubled += usize::from(was);
            match (was, good) {
                (true, true) if convincing || matches!(got, Some(Got::Miss(_))) => mended.push(tag),
                (false, false) => broken += 1,
                _ => {}
            }
        }
        if mended.is_empty() || broken * 4 > mended.len() || mended.len() * 3 < troubled * 2 {
            return None;
        }
        // With one order wrong, neighbours put together wrongly look right too; and the other way round.
        let other = |rival: &Theory| rival.view != theory.view || rival.floats != theory.floats;
        let rival = scored.iter().skip(1).find(|(other_score, rival)| score - other_score <= EVEN && other(rival));
        let rival = rival.map(|(_, rival)| *rival);
        let sure = rival.is_none() && (mended.len() >= MANY || mended.len() > 1 && score >= STRIKING);
        let confidence = if sure { Confidence::Likely } else { Confidence::Possible };
        Some(Finding { theory, mended, troubled, confidence, rival })
    }

    /// All that differ from each other for these tags, the simplest first.
    fn theories(&self, view: View, tags: &[usize]) -> Vec<Theory> {
        let changes = |wanted: Kind| {
            let any = tags.iter().any(|tag| kind(&self.plan.tags[*tag]) == wanted);
            CHANGES.iter().take(if any { CHANGES.len() } else { 1 }).map(|(change, _)| *change)
        };
        let theory = |floats| changes(Kind::Whole).map(move |wholes| Theory { view, floats, wholes });
        changes(Kind::Float).flat_map(theory).collect()
    }

    /// How unlikely a theory is from the start. Devices mostly keep all their numbers in one order.
    fn cost(&self, theory: Theory, tags: &[usize]) -> i32 {
        let of = |change: Change| CHANGES.iter().find(|(known, _)| *known == change).map_or(0, |(_, cost)| *cost);
        let any = |wanted: Kind| tags.iter().any(|tag| kind(&self.plan.tags[*tag]) == wanted);
        let unlike = any(Kind::Float) && any(Kind::Whole) && theory.floats != theory.wholes;
        let elsewhere = if theory.view == View::Configured { 0 } else { ELSEWHERE };
        of(theory.floats).max(of(theory.wholes)) + i32::from(unlike) + elsewhere
    }

    fn score(&self, theory: Theory, tags: &[usize]) -> i32 {
        let mut phases: BTreeMap<(String, &str), Vec<f64>> = BTreeMap::new();
        let mut sum = 0;
        for tag in tags {
            let plan = &self.plan.tags[*tag];
            let Some(seen) = self.see(theory, *tag) else { continue };
            sum += points(&seen) - i32::from(is_enormous(plan, &seen));
            let number = seen.value.as_ref().and_then(Value::as_f64);
            if let (Some(number), "V" | "kV" | "Hz") = (number.filter(|number| *number != 0.0), plan.unit.as_str()) {
                phases.entry((stem(&plan.name), &plan.unit)).or_default().push(number.abs());
            }
        }
        sum + phases.values().map(|values| likeness(values)).sum::<i32>()
    }
}

/// A counter of 32 bits that is nearly full: it may be, but most are not.
fn is_enormous(tag: &TagPlan, seen: &Seen) -> bool {
    let number = seen.value.as_ref().and_then(Value::as_f64).unwrap_or_default();
    kind(tag) == Kind::Whole && (number / tag.scale.factor).abs() > ENORMOUS
}

/// 2^28.
const ENORMOUS: f64 = 268_435_456.0;

fn points(seen: &Seen) -> i32 {
    match seen.look.grade {
        Grade::Crisp => 4,
        Grade::Fits => 2,
        Grade::Mute => 0,
        Grade::Uneasy => -2,
        Grade::Doubtful => -3,
        Grade::Absurd => -6,
    }
}

/// `voltage_l1` and `voltage_l2` are the same but for their digits.
fn stem(name: &str) -> String {
    name.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

fn likeness(values: &[f64]) -> i32 {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    match values.len() {
        0 | 1 => 0,
        _ if most <= least * ALIKE => 2,
        _ if most >= least * UNLIKE => -3,
        _ => 0,
    }
}
