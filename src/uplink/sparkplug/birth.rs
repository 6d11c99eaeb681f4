//! Births and deaths: what they say, and when a device has one (Sparkplug 3.0, tck-id-topics-nbirth and
//! tck-id-topics-dbirth with what follows them; tck-id-operational-behavior-device-ddeath).
//!
//! A device that the gateway takes for down or paused is dead: it has no DBIRTH, and DDEATH once no data of it has been sent for
//! [`QUIET`]. It is born when it answers again; or when something is owed of it that is older than its death, because a host
//! takes no data of a device that it was not told of. Then it dies again, after the same quiet time.
//!
//! A host keeps devices and their last values over an NBIRTH. So whoever was born and is not in the births to come dies before
//! them: one that a reload took away, and one that went just now.
//!
//! Records may name tags that the plan does not have any more. Their device is born again with them, and a device that is gone
//! altogether is born for them alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::catalogue::{Known, OWN, VERSION, is_there};
use super::own::Last;
use super::{EdgeNode, TEXT, Telegram, Told, ms};
use crate::config::plan::{Downlink, Limits, TagPlan};
use crate::flow::hub::{DeviceReport, Standing};
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::sparkplug::{Kind, metric_name};
use crate::model::time::Stamp;
use crate::payload::json::honest;
use crate::payload::sparkplug::{
    BD_SEQ, DataType, Metric, NEXT_SERVER, Payload, Property, QUALITY, REBIRTH, SCAN_RATE, Value, Worked, quality_code,
    type_of, value_of,
};
use crate::store::DictionaryTag;

/// So long after its last data, or after it went where that is later, a device that is down dies: its last values go before it.
/// Beside the time that they take to be stored; they are [`GATHER_DYING`] for less.
const QUIET: Duration = Duration::from_secs(2);
/// Data wait no longer for more while a device is dying: what they are gathered for may be an hour away, and a host shows the
/// device as it was until it hears of its death.
const GATHER_DYING: Duration = Duration::from_secs(1);
/// How often it is looked at how devices stand.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is to be sent before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    Node,
    Device(Arc<str>),
    Death(Arc<str>),
}

/// What a host was told of a device in this session.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Its DBIRTH was sent, and no DDEATH since.
    pub(super) born: bool,
    /// There are metrics that its DBIRTH did not tell of.
    pub(super) stale: bool,
    /// When it died in this session, or did not live to begin with.
    pub(super) dead_since: Option<Stamp>,
    /// Tags of earlier plans, by alias.
    pub(super) extras: BTreeMap<u64, Arc<DictionaryTag>>,
    /// When data or birth of it were sent last.
    pub(super) busy_at: Option<Instant>,
    /// Since when it is seen to be down, although it was born.
    pub(super) gone_at: Option<Instant>,
}

impl EdgeNode {
    /// Births begin now; [`Self::next_due`] gives them.
    pub(super) fn begin_births(&mut self, now: Instant) {
        self.rebirth.begin(now);
        self.born = true;
        self.forget_answers();
        self.metrics.clear();
        self.due.clear();
        let (catalogue, reports) = (Arc::clone(&self.catalogue), self.reports());
        let is_there = |known: &Known| stands(&reports, known).is_none_or(is_there);
        let alive = self.devices.iter().filter(|(_, life)| life.born).map(|(name, _)| name);
        let lost = alive.filter(|name| !catalogue.device(name).is_some_and(is_there));
        self.due.extend(lost.cloned().map(Due::Death));
        self.due.push_back(Due::Node);
        let seen = self.clock.now();
        for life in self.devices.values_mut() {
            life.born = false;
            life.extras.retain(|alias, _| catalogue.metric(*alias).is_none());
        }
        for known in &catalogue.devices {
            let life = self.devices.entry(Arc::clone(&known.name)).or_default();
            if is_there(known) {
                self.due.push_back(Due::Device(Arc::clone(&known.name)));
            } else {
                life.dead_since.get_or_insert(seen);
            }
        }
    }

    /// Were the births of this session begun?
    pub(super) const fn is_born(&self) -> bool {
        self.born
    }

    /// Devices that died or live again.
    pub(super) fn look(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(now);
        let (catalogue, reports) = (Arc::clone(&self.catalogue), self.reports());
        let quiet = self.quiet();
        self.dying = false;
        let mut due = Vec::new();
        for (name, life) in &mut self.devices {
            let known = catalogue.device(name);
            let there = known.is_some_and(|known| stands(&reports, known).is_none_or(is_there));
            // one that no plan has any more was not seen to go: there is nothing left to come from it
            let went = if known.is_some() && !there { Some(*life.gone_at.get_or_insert(now)) } else { None };
            life.gone_at = went;
            self.dying |= life.born && went.is_some();
            match (life.born, there) {
                (true, false) if life.busy_at.max(went).is_none_or(|at| now >= at + quiet) => {
                    due.push(Due::Death(Arc::clone(name)));
                }
                (false, true) => due.push(Due::Device(Arc::clone(name))),
                _ => {}
            }
        }
        due.retain(|due| !self.due.contains(due));
        self.due.extend(due);
    }

    /// See [`QUIET`].
    pub(super) fn quiet(&self) -> Duration {
        let stored = self.told.as_ref().map_or(Duration::ZERO, |plan| plan.store.commit_interval);
        QUIET + stored
    }

    /// How long data that are not many wait for more.
    pub(super) fn gather(&self) -> Duration {
        let wait = self.scan_rate.unwrap_or(self.batch_interval);
        if self.dying { wait.min(GATHER_DYING) } else { wait }
    }

    fn reports(&self) -> Vec<DeviceReport> {
        self.plant.as_ref().map(|plant| plant.latest.reports()).unwrap_or_default()
    }

    /// All births and deaths that were due are out.
    pub(super) fn births_out(&mut self, now: Instant) {
        self.rebirth.end(now);
    }

    /// The next birth or death.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Telegram> {
        Some(match self.due.pop_front()? {
            Due::Node => self.node_birth(),
            Due::Device(name) => self.device_birth(&name, now),
            Due::Death(name) => {
                let dead_since = Some(self.clock.now());
                let life = self.devices.entry(Arc::clone(&name)).or_default();
                (life.born, life.dead_since) = (false, dead_since);
                Telegram { kind: Kind::DDeath, device: Some(name), payload: Payload::new(0, None) }
            }
        })
    }

    /// The birth that must go before this.
    pub(super) fn before(&mut self, telegram: &Telegram, now: Instant) -> Option<Telegram> {
        let name = telegram.device.clone()?;
        let life = self.devices.entry(Arc::clone(&name)).or_default();
        life.busy_at = Some(now);
        (!life.born || life.stale).then(|| self.device_birth(&name, now))
    }

    fn node_birth(&self) -> Telegram {
        let (mut payload, now_ms) = (Payload::new(0, None), self.now_ms());
        let mut push = |name, alias, at_ms, datatype, value| {
            payload.push(&Metric {
                name: Some(name),
                alias,
                timestamp_ms: Some(at_ms),
                datatype: Some(datatype),
                historical: false,
                value,
                properties: &[],
            });
        };
        // in the order of time (tck-id-operational-behavior-data-publish-nbirth-order); what follows is of now
        let at_ms = |last: &Last| ms(self.clock.wall(last.at).unix_ms).min(now_ms);
        let mut said: Vec<_> =
            OWN.iter().filter_map(|(name, alias)| Some((*name, *alias, self.own.get(alias)?))).collect();
        said.sort_by_key(|(.., last)| at_ms(last));
        for (name, alias, last) in said {
            push(name, Some(alias), at_ms(last), TEXT, Value::Str(&last.text));
        }
        push(BD_SEQ, None, now_ms, DataType::Int64, Value::Long(self.numbers.bdseq.into()));
        push(REBIRTH, None, now_ms, DataType::Boolean, Value::Bool(false));
        push(NEXT_SERVER, None, now_ms, DataType::Boolean, Value::Bool(false));
        push(SCAN_RATE, None, now_ms, DataType::Int64, Value::Long(self.scan_rate_ms()));
        push(VERSION.0, Some(VERSION.1), now_ms, TEXT, Value::Str(env!("CARGO_PKG_VERSION")));
        for (name, alias) in OWN.into_iter().filter(|(_, alias)| !self.own.contains_key(alias)) {
            push(name, Some(alias), now_ms, TEXT, Value::Null);
        }
        Telegram { kind: Kind::NBirth, device: None, payload }
    }

    fn device_birth(&mut self, name: &Arc<str>, now: Instant) -> Telegram {
        let (mut payload, taken, now_ms) = (Payload::new(0, None), self.clock.now(), self.now_ms());
        let catalogue = Arc::clone(&self.catalogue);
        let mut names = BTreeSet::new();
        if let (Some(known), Some(plant)) = (catalogue.device(name), &self.plant) {
            let plan = plant.plan.load();
            let newest = plant.latest.newest(known.metrics.iter().map(|entry| entry.tag));
            let newest = known.metrics.iter().zip(newest).map(|(entry, newest)| entry.fitting(newest));
            let told = newest.map(|sample| (self.told_of(sample.as_ref(), taken), sample));
            let mut rows: Vec<_> = known.metrics.iter().zip(told).collect();
            // in the order of time (tck-id-operational-behavior-data-publish-dbirth-order); what follows is of now
            rows.sort_by_key(|(_, (told, _))| self.clock.wall(told.newest).unix_ms);
            for (entry, (told, sample)) in rows {
                names.insert(entry.name.clone());
                let value = sample.as_ref().and_then(|sample| value_of(sample.value.as_ref(), entry.kind));
                let tag = plan.tag(entry.tag);
                let properties = properties(told.quality, tag, self.downlink());
                payload.push(&Metric {
                    name: Some(&entry.name),
                    alias: Some(entry.alias),
                    timestamp_ms: Some(ms(self.clock.wall(told.newest).unix_ms)),
                    datatype: Some(entry.kind),
                    historical: false,
                    value: value.unwrap_or(Value::Null),
                    properties: &properties,
                });
                self.metrics.insert(entry.alias, told);
            }
        }
        let life = self.devices.entry(Arc::clone(name)).or_default();
        for (alias, tag) in &life.extras {
            let plain = metric_name(&tag.topic, &tag.device, &tag.name);
            let name = if names.contains(&plain) { format!("{plain} ({} {alias})", tag.data_type) } else { plain };
            let quality = quality_code(Quality::Bad(Cause::Stale));
            payload.push(&Metric {
                name: Some(&name),
                alias: Some(*alias),
                timestamp_ms: Some(now_ms),
                datatype: Some(type_of(tag.data_type, Worked::Raw)),
                historical: false,
                value: Value::Null,
                properties: &[(QUALITY, Property::Int(quality))],
            });
            names.insert(name);
            self.metrics.insert(*alias, Told { newest: taken, quality });
        }
        (life.born, life.stale, life.dead_since, life.busy_at) = (true, false, None, Some(now));
        Telegram { kind: Kind::DBirth, device: Some(Arc::clone(name)), payload }
    }

    /// What a birth tells of a tag whose newest value this is.
    fn told_of(&self, sample: Option<&Sample>, now: Stamp) -> Told {
        match sample {
            Some(sample) => {
                let wall = self.clock.wall(sample.at);
                Told { newest: sample.at.min(now), quality: quality_code(honest(sample.quality, wall)) }
            }
            None => Told { newest: now, quality: quality_code(Quality::Bad(Cause::Starting)) },
        }
    }
}

/// What the scan rate is now, for who changed it.
pub(super) fn scan_rate(node: &EdgeNode) -> Telegram {
    let mut payload = Payload::new(0, None);
    payload.push(&Metric {
        name: Some(SCAN_RATE),
        alias: None,
        timestamp_ms: Some(node.now_ms()),
        datatype: node.datatype(DataType::Int64),
        historical: false,
        value: Value::Long(node.scan_rate_ms()),
        properties: &[],
    });
    Telegram { kind: Kind::NData, device: None, payload }
}

/// NDEATH: the count alone.
pub(super) fn death(bdseq: u8, now_ms: u64) -> Vec<u8> {
    let mut payload = Payload::new(now_ms, None);
    payload.push(&Metric {
        name: Some(BD_SEQ),
        alias: None,
        timestamp_ms: Some(now_ms),
        datatype: Some(DataType::Int64),
        historical: false,
        value: Value::Long(bdseq.into()),
        properties: &[],
    });
    payload.encode()
}

/// The names are those that Ignition knows. Where no commands are taken nothing can be written, and no host should offer it.
fn properties(quality: i32, tag: Option<&TagPlan>, commands: Downlink) -> Vec<(&'static str, Property<'_>)> {
    let mut all = vec![(QUALITY, Property::Int(quality))];
    let Some(tag) = tag else { return all };
    if !tag.unit.is_empty() {
        all.push(("engUnit", Property::Text(&tag.unit)));
    }
    let Limits { min, max } = tag.limits;
    all.extend(min.map(|min| ("engLow", Property::Double(min))));
    all.extend(max.map(|max| ("engHigh", Property::Double(max))));
    if commands == Downlink::Refused || !tag.access.writes() {
        all.push(("readOnly", Property::Bool(true)));
    }
    all
}

fn stands(reports: &[DeviceReport], known: &Known) -> Option<Standing> {
    reports.binary_search_by_key(&known.ix.0, |report| report.device.0).ok().map(|at| reports[at].standing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tag::{Access, Address, DataType as Type, DeviceIx, Table};

    #[test]
    fn where_no_commands_are_taken_no_metric_can_be_written() {
        let address = Address { table: Table::Holding, start: 0, bit: None };
        let plain = TagPlan::plain("t", DeviceIx(0), address, Type::Uint16);
        for (access, commands, expected) in [
            (Access::ReadWrite, Downlink::Accepted, false),
            (Access::ReadWrite, Downlink::Refused, true),
            (Access::Read, Downlink::Accepted, true),
        ] {
            let tag = TagPlan { access, ..plain.clone() };
            let properties = properties(192, Some(&tag), commands);
            let read_only =
                properties.iter().any(|(name, value)| *name == "readOnly" && *value == Property::Bool(true));
            assert_eq!(read_only, expected, "{access:?} {commands:?}");
        }
    }
}
