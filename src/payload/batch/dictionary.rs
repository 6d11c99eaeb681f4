//! Who knows which tag: what a sender has told, and what a consumer has been told. The rules stand in the published schema.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::Batch;

/// One entry in turn per so many records: about 2 % of the bytes.
const RECORDS_PER_ENTRY: u64 = 400;
/// An entry is told again after this long in any case.
const TOLD_AGAIN: Duration = Duration::from_secs(60 * 60);
/// What the entries of all gateways may take with a consumer, bytes: some four million. More would be a stranger's doing.
const BYTES_MAX: usize = 1 << 30;
/// An entry without its texts, about.
const ENTRY_BYTES: usize = 192;

/// A tag as consumers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Stable for the life of the gateway's store; at least 1.
    pub id: u32,
    /// Device name.
    pub device: String,
    /// Tag name.
    pub name: String,
    /// Topic of the tag in the JSON format, prefix included.
    pub topic: String,
    /// Type on the wire of the device.
    pub data_type: String,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.device.len() + self.name.len() + self.topic.len() + self.data_type.len()
    }

    /// First 8 bytes of SHA-256, as the schema says.
    fn fingerprint(&self) -> [u8; 8] {
        let id = self.id.to_string();
        let text = [id.as_str(), &self.device, &self.name, &self.topic, &self.data_type].join("\0");
        short_hash(text.as_bytes())
    }
}

fn short_hash(bytes: &[u8]) -> [u8; 8] {
    let hash = digest(&SHA256, bytes);
    let mut short = [0; 8];
    short.copy_from_slice(&hash.as_ref()[..8]);
    short
}

/// Of a batch with tags that have these fingerprints, in order of its columns.
fn fingerprint_of(tags: impl Iterator<Item = [u8; 8]>) -> u64 {
    let all: Vec<u8> = tags.flatten().collect();
    if all.is_empty() { 0 } else { u64::from_le_bytes(short_hash(&all)) }
}

/// What a sender has told.
#[derive(Debug, Default)]
pub(super) struct Book {
    tags: HashMap<u32, Told>,
    devices: HashMap<String, u32>,
    /// Records sent since the last entry in turn was paid for.
    credit: u64,
}

#[derive(Debug)]
struct Told {
    entry: Entry,
    fingerprint: [u8; 8],
    device: u32,
    /// In this session.
    at: Option<Instant>,
}

impl Book {
    /// A tag as it is now.
    pub(super) fn know(&mut self, entry: Entry) {
        let next = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let device = *self.devices.entry(entry.device.clone()).or_insert(next);
        let fingerprint = entry.fingerprint();
        match self.tags.get(&entry.id) {
            Some(told) if told.fingerprint == fingerprint => {}
            _ => drop(self.tags.insert(entry.id, Told { entry, fingerprint, device, at: None })),
        }
    }

    /// A number for the device of a tag.
    pub(super) fn device(&self, tag: u32) -> u32 {
        self.tags.get(&tag).map_or(0, |told| told.device)
    }

    pub(super) fn fingerprint(&self, tags: &[u32]) -> u64 {
        fingerprint_of(tags.iter().filter_map(|tag| self.tags.get(tag)).map(|told| told.fingerprint))
    }

    /// Which entries a batch of these tags (ascending) and so many records brings along.
    pub(super) fn due(&self, tags: &[u32], records: usize, now: Instant) -> Vec<u32> {
        let since = |tag: &u32| self.tags.get(tag)?.at.map(|at| now.saturating_duration_since(at));
        let old = |tag: &u32| since(tag).is_none_or(|since| since >= TOLD_AGAIN);
        let (mut due, mut known): (Vec<u32>, Vec<u32>) = tags.iter().copied().partition(old);
        let in_turn = usize::try_from((self.credit + records as u64) / RECORDS_PER_ENTRY).unwrap_or(usize::MAX);
        let in_turn = in_turn.saturating_sub(due.len()).min(known.len());
        if in_turn > 0 {
            known.sort_by_key(|tag| std::cmp::Reverse(since(tag)));
            due.extend_from_slice(&known[..in_turn]);
            due.sort_unstable();
        }
        due
    }

    pub(super) fn entries(&self, tags: &[u32]) -> impl Iterator<Item = &Entry> {
        tags.iter().filter_map(|tag| self.tags.get(tag)).map(|told| &told.entry)
    }

    /// A batch of so many records went out with these.
    pub(super) fn told(&mut self, tags: &[u32], records: usize, now: Instant) {
        let paid = RECORDS_PER_ENTRY * tags.len() as u64;
        self.credit = (self.credit + records as u64).saturating_sub(paid).min(RECORDS_PER_ENTRY);
        for tag in tags {
            if let Some(told) = self.tags.get_mut(tag) {
                told.at = Some(now);
            }
        }
    }

    /// Nobody knows anything any more: a new session.
    pub(super) fn forget(&mut self) {
        self.tags.values_mut().for_each(|told| told.at = None);
        self.credit = 0;
    }
}

/// The tags of one gateway with their fingerprints.
type Known = HashMap<u32, (Arc<Entry>, [u8; 8])>;

/// What a consumer has been told, by all gateways.
#[derive(Debug, Default)]
pub struct Dictionary {
    gateways: HashMap<String, Known>,
    bytes: usize,
}

impl Dictionary {
    /// Takes the entries of a batch, always first of all. True when there was anything new in them: batches that had to
    /// wait may now be readable.
    pub fn learn(&mut self, batch: &Batch) -> bool {
        let mut new = false;
        for entry in &batch.entries {
            new |= self.put(&batch.gateway, entry.clone());
        }
        new
    }

    /// The same for one entry, for instance one that was kept on disk.
    pub fn put(&mut self, gateway: &str, entry: Entry) -> bool {
        let fingerprint = entry.fingerprint();
        let old = self.gateways.get(gateway).and_then(|known| known.get(&entry.id));
        if old.is_some_and(|(_, old)| *old == fingerprint) {
            return false;
        }
        let freed = old.map_or(0, |(old, _)| old.bytes());
        let bytes = (self.bytes - freed).saturating_add(entry.bytes());
        if bytes > BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        let known = self.gateways.entry(gateway.to_owned()).or_default();
        known.insert(entry.id, (Arc::new(entry), fingerprint));
        true
    }

    /// The tags of a batch's columns; `None` while they are not known, or known otherwise than the sender means them: keep
    /// the batch and try again after one that brings entries.
    pub fn tags(&self, batch: &Batch) -> Option<Vec<Arc<Entry>>> {
        if batch.columns.is_empty() {
            return Some(Vec::new());
        }
        let known = self.gateways.get(&batch.gateway)?;
        let found: Vec<_> = batch.columns.iter().map(|id| known.get(id)).collect::<Option<_>>()?;
        if fingerprint_of(found.iter().map(|(_, fingerprint)| *fingerprint)) != batch.fingerprint {
            return None;
        }
        Some(found.into_iter().map(|(entry, _)| Arc::clone(entry)).collect())
    }
}
