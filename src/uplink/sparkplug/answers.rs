//! What a host is told because it asked for something else: the value that a metric really has after a write that was refused, and
//! the scan rate that holds after one that it wanted. Pure; kept until the window has room, and told by births too.

use std::sync::Arc;

use tokio::time::Instant;

use super::birth::scan_rate;
use super::catalogue::{Entry, Known};
use super::{EdgeNode, Telegram, Told, ms};
use crate::model::sample::Sample;
use crate::model::sparkplug::Kind;
use crate::payload::json::honest;
use crate::payload::sparkplug::{Metric, Payload, Property, QUALITY, Value, quality_code, value_of};

/// Metrics whose value is to be shown again: as many as a command may have.
pub(super) const SHOWN_MAX: usize = 1000;
/// Of one device, in one message.
const SHOWN_TOGETHER: usize = 100;

impl EdgeNode {
    /// Somebody wanted these metrics to have another value.
    pub(super) fn show(&mut self, aliases: impl IntoIterator<Item = u64>) {
        for alias in aliases {
            if self.show.len() < SHOWN_MAX {
                self.show.insert(alias);
            }
        }
    }

    /// Nobody waits for anything: births tell it all, or the session that asked is over.
    pub(super) fn forget_answers(&mut self) {
        self.show.clear();
        self.tell_scan_rate = false;
    }

    /// Does a host wait for an answer?
    pub(super) fn has_answers(&self) -> bool {
        self.tell_scan_rate || !self.show.is_empty()
    }

    /// The next answer. A device that is not born has none: its birth will tell.
    pub(super) fn answer(&mut self, now: Instant) -> Option<Telegram> {
        if std::mem::take(&mut self.tell_scan_rate) {
            return Some(scan_rate(self));
        }
        let catalogue = Arc::clone(&self.catalogue);
        while let Some(first) = self.show.first().copied() {
            let Some((known, _)) = catalogue.metric(first) else {
                self.show.remove(&first);
                continue;
            };
            let asked = known.metrics.iter().filter(|entry| self.show.contains(&entry.alias));
            let asked: Vec<&Entry> = asked.take(SHOWN_TOGETHER).collect();
            for entry in &asked {
                self.show.remove(&entry.alias);
            }
            if let Some(telegram) = self.present(known, &asked, now) {
                return Some(telegram);
            }
        }
        None
    }

    /// The present values of some metrics of a device, in the order of their times.
    fn present(&mut self, known: &Known, entries: &[&Entry], now: Instant) -> Option<Telegram> {
        let life = self.devices.get_mut(&known.name).filter(|life| life.born)?;
        life.busy_at = Some(now);
        let newest = self.plant.as_ref()?.latest.newest(entries.iter().map(|entry| entry.tag));
        let mut rows: Vec<(&Entry, Sample)> =
            entries.iter().zip(newest).filter_map(|(entry, newest)| Some((*entry, entry.fitting(newest)?))).collect();
        rows.sort_by_key(|(_, sample)| self.clock.wall(sample.at).unix_ms);
        let mut payload = Payload::new(0, None);
        for (entry, sample) in rows {
            let wall = self.clock.wall(sample.at);
            let quality = quality_code(honest(sample.quality, wall));
            payload.push(&Metric {
                name: None,
                alias: Some(entry.alias),
                timestamp_ms: Some(ms(wall.unix_ms)),
                datatype: self.datatype(entry.kind),
                historical: false,
                value: value_of(sample.value.as_ref(), entry.kind).unwrap_or(Value::Null),
                properties: &[(QUALITY, Property::Int(quality))],
            });
            self.metrics.insert(entry.alias, Told { newest: sample.at, quality });
        }
        let device = Some(Arc::clone(&known.name));
        (!payload.is_empty()).then_some(Telegram { kind: Kind::DData, device, payload })
    }
}
