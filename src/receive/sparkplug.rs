//! A host of Sparkplug B, as far as receiving goes: what each edge node said, value by value, and what of it never came. Pure.
//!
//! Samples have no numbers of ours in this format. What shows a loss is `seq`, which an edge node counts over all its messages
//! from a birth on: a hole in it is so many messages that are missing, up to 255. Data that cannot be understood, because the
//! birth that names their aliases was missed, are counted too. Either way the edge node is asked to be born again, once in
//! `ASK_EVERY` at most. What an edge node says nothing of cannot be seen missing from here: what it sent while nobody listened
//! comes as historical only where it waits for this host (`primary_host`).
//!
//! A value may come twice: in a birth and as data, or again after a cut. Topic and time tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use super::record::{json, time_text};
use crate::model::sparkplug::{Kind, Node, Topic};
use crate::payload::sparkplug::{DataType, Read, Reading, decode_reading};

/// An edge node is asked for births at most so often: it answers no more often either.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Edge nodes that are followed; more than a broker of this size has.
const NODES_MAX: usize = 10_000;
/// Metrics that are known by all births together: memory for them is set by strangers.
const METRICS_MAX: usize = 2_000_000;

/// `Quality` (specification, section 6.4.17).
const GOOD: i32 = 192;
const STALE: i32 = 500;

/// A metric's value.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// `group/node/device/metric`, without device for those of the node.
    pub topic: String,
    /// `value`, `quality`, `time`, and `historical` or `birth` where it is.
    pub body: Map<String, Json>,
}

/// What a message led to.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// In their order.
    pub lines: Vec<Line>,
    /// This edge node is to be asked for births.
    pub ask: Option<Node>,
}

/// What is known of one edge node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// NBIRTH seen.
    pub births: u64,
    /// NDEATH seen that ended a session.
    pub deaths: u64,
    /// Messages that counted in a session.
    pub messages: u64,
    /// Messages that `seq` shows to be missing.
    pub missing: u64,
    /// Values.
    pub values: u64,
    /// Of these, historical.
    pub historical: u64,
    /// Metrics whose birth was not seen: what they say is lost.
    pub unknown: u64,
    /// Gap records of an Ironbridge gateway: what it declares to be lost.
    pub gaps: u64,
    /// Births that were asked for.
    pub asked: u64,
}

/// Everything a host knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// By `group/node`.
    pub nodes: BTreeMap<String, Tally>,
    /// Messages that are none of Sparkplug.
    pub other: u64,
    /// Messages on topics of Sparkplug that cannot be read, by what is wrong with them.
    pub broken: BTreeMap<String, u64>,
}

impl Account {
    /// Nothing is known to be missing.
    pub fn is_complete(&self) -> bool {
        self.broken.is_empty() && self.nodes.values().all(|node| node.missing == 0 && node.unknown == 0)
    }

    /// All edge nodes together.
    pub fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for node in self.nodes.values() {
            sum.births += node.births;
            sum.deaths += node.deaths;
            sum.messages += node.messages;
            sum.missing += node.missing;
            sum.values += node.values;
            sum.historical += node.historical;
            sum.unknown += node.unknown;
            sum.gaps += node.gaps;
            sum.asked += node.asked;
        }
        sum
    }
}

/// What a birth said of a metric.
#[derive(Debug, Clone)]
struct Known {
    name: Arc<str>,
    kind: Option<DataType>,
}

/// The node itself, or a device of it: what its birth told.
#[derive(Debug, Default)]
struct Unit {
    by_alias: HashMap<u64, Known>,
    by_name: HashMap<Arc<str>, Option<DataType>>,
}

#[derive(Debug, Default)]
struct Session {
    bd_seq: Option<u64>,
    /// `None`: no birth, or a death since.
    next_seq: Option<u8>,
    /// Alive; the node itself stands under "".
    units: HashMap<String, Unit>,
    asked_at: Option<Instant>,
}

/// Follows all edge nodes.
#[derive(Debug, Default)]
pub struct Host {
    sessions: HashMap<String, Session>,
    metrics: usize,
    account: Account,
}

impl Host {
    /// What is known.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// One message.
    pub fn take(&mut self, topic: &str, payload: &[u8], now: Instant) -> Outcome {
        let (group, kind, node, device) = match Topic::parse(topic) {
            Some(Topic::Node { group, kind, node }) => (group, kind, node, ""),
            Some(Topic::Device { group, kind, node, device }) => (group, kind, node, device),
            Some(Topic::State { .. }) => return Outcome::default(),
            None => {
                self.account.other += 1;
                return Outcome::default();
            }
        };
        if matches!(kind, Kind::NCmd | Kind::DCmd) {
            return Outcome::default(); // from other hosts, or from ourselves
        }
        let reading = match decode_reading(payload) {
            Ok(reading) => reading,
            Err(why) => return self.broken(why.to_string()),
        };
        let name = format!("{group}/{node}");
        if self.sessions.len() >= NODES_MAX && !self.sessions.contains_key(&name) {
            return self.broken("more edge nodes than can be followed".to_owned());
        }
        let session = self.sessions.entry(name.clone()).or_default();
        let tally = self.account.nodes.entry(name.clone()).or_default();
        let mut told = Told { session, tally, known: &mut self.metrics, whole: true };
        let lines = told.take((kind, &name, device), &reading);
        let whole = told.whole;
        let ask = (!whole && session.may_ask(now)).then(|| Node::new(group, node).ok()).flatten();
        tally.asked += u64::from(ask.is_some());
        Outcome { lines, ask }
    }

    fn broken(&mut self, why: String) -> Outcome {
        *self.account.broken.entry(why).or_default() += 1;
        Outcome::default()
    }
}

impl Session {
    fn may_ask(&mut self, now: Instant) -> bool {
        let may = self.asked_at.is_none_or(|at| now >= at + ASK_EVERY);
        if may {
            self.asked_at = Some(now);
        }
        may
    }
}

/// One edge node while a message of it is taken.
struct Told<'a> {
    session: &'a mut Session,
    tally: &'a mut Tally,
    known: &'a mut usize,
    /// Nothing of it was missed.
    whole: bool,
}

impl Told<'_> {
    fn take(&mut self, (kind, node, device): (Kind, &str, &str), reading: &Reading) -> Vec<Line> {
        match kind {
            Kind::NDeath => {
                // the will of a session that was followed by another says nothing of that
                if self.session.next_seq.is_some() && reading.bd_seq() == self.session.bd_seq {
                    self.tally.deaths += 1;
                    self.over();
                }
                return Vec::new();
            }
            Kind::NBirth => {
                self.over();
                self.tally.births += 1;
                self.session.bd_seq = reading.bd_seq();
                self.session.next_seq = reading.seq;
            }
            _ => {}
        }
        if !self.count(reading.seq) {
            self.tally.unknown += reading.metrics.len() as u64;
            return Vec::new();
        }
        match kind {
            Kind::NBirth | Kind::DBirth => self.born(device, reading),
            Kind::DDeath => self.forget(device),
            _ => {}
        }
        if kind == Kind::DDeath {
            return Vec::new();
        }
        let birth = matches!(kind, Kind::NBirth | Kind::DBirth);
        let place = if device.is_empty() { node.to_owned() } else { format!("{node}/{device}") };
        let lines = reading.metrics.iter().filter_map(|metric| self.line(&place, device, metric, birth));
        lines.collect()
    }

    /// False: this message is of a session that is not known.
    fn count(&mut self, seq: Option<u8>) -> bool {
        let (Some(wanted), Some(seq)) = (self.session.next_seq, seq) else {
            self.whole = false;
            return false;
        };
        let missing = seq.wrapping_sub(wanted);
        self.whole &= missing == 0;
        self.tally.missing += u64::from(missing);
        self.tally.messages += 1;
        self.session.next_seq = Some(seq.wrapping_add(1));
        true
    }

    fn over(&mut self) {
        let units: Vec<String> = self.session.units.keys().cloned().collect();
        for unit in &units {
            self.forget(unit);
        }
        self.session.next_seq = None;
    }

    fn forget(&mut self, device: &str) {
        if let Some(unit) = self.session.units.remove(device) {
            *self.known -= unit.by_name.len();
        }
    }

    fn born(&mut self, device: &str, reading: &Reading) {
        self.forget(device);
        let mut unit = Unit::default();
        for metric in &reading.metrics {
            let Some(name) = &metric.name else { continue };
            if *self.known >= METRICS_MAX {
                break; // they stay unknown, and are counted as that
            }
            let name: Arc<str> = name.as_str().into();
            *self.known += usize::from(unit.by_name.insert(Arc::clone(&name), metric.datatype).is_none());
            if let Some(alias) = metric.alias {
                unit.by_alias.insert(alias, Known { name, kind: metric.datatype });
            }
        }
        self.session.units.insert(device.to_owned(), unit);
    }

    fn line(&mut self, place: &str, device: &str, metric: &Read, birth: bool) -> Option<Line> {
        let unit = self.session.units.get(device);
        let by_name = |name: &String| unit?.by_name.get_key_value(name.as_str());
        let known = match (&metric.name, metric.alias) {
            (Some(name), _) => by_name(name).map(|(name, kind)| Known { name: Arc::clone(name), kind: *kind }),
            (None, Some(alias)) => unit.and_then(|unit| unit.by_alias.get(&alias)).cloned(),
            (None, None) => None,
        };
        let Some(Known { name, kind }) = known else {
            self.tally.unknown += 1;
            self.whole = false;
            return None;
        };
        self.tally.values += 1;
        self.tally.historical += u64::from(metric.historical);
        let value = metric.value(kind);
        self.tally.gaps += u64::from(device.is_empty() && &*name == GAP && value.is_some());
        let quality = metric.quality.unwrap_or(GOOD);
        let mut body = Map::new();
        body.insert("value".into(), value.as_ref().map_or(Json::Null, json));
        let word = match quality {
            GOOD => "good",
            0 | STALE => "bad",
            _ => "uncertain",
        };
        body.insert("quality".into(), word.into());
        if quality == STALE {
            body.insert("cause".into(), "stale".into());
        }
        if let Some(unix_ms) = metric.timestamp_ms.and_then(|unix_ms| i64::try_from(unix_ms).ok()) {
            body.insert("time".into(), time_text(unix_ms).into());
        }
        for (key, _) in [("historical", metric.historical), ("birth", birth)].into_iter().filter(|(_, is)| *is) {
            body.insert(key.into(), true.into());
        }
        Some(Line { topic: format!("{place}/{name}"), body })
    }
}

/// Where an Ironbridge gateway declares what is lost.
const GAP: &str = "Node Info/Gap";

#[cfg(test)]
mod tests;
