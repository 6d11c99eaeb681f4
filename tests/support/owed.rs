//! A list of records as the source of an uplink: the store's reader without a store, for tests of the wire.

#![allow(dead_code)] // every test file uses its own part of it
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ironbridge::config::plan::Delivery;
use ironbridge::model::message::ClientMessage;
use ironbridge::model::number::{Class, Epoch, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::tag::DataType;
use ironbridge::model::time::{Boot, Stamp};
use ironbridge::model::value::Value;
use ironbridge::store::{Ack, DictionaryTag, Ends, Item, MeterRow, Owed, OwedBody};
use ironbridge::uplink::{Lane, Pull, Source, Wants};
use tokio::sync::{Notify, oneshot};

pub const EPOCH: Epoch = Epoch(8123);

#[derive(Default)]
struct Inner {
    items: Vec<Item>,
    /// Handed in, and owed when somebody asks for a commit.
    uncommitted: Vec<Item>,
    acknowledged: HashSet<i64>,
    /// Acknowledged while never handed out since the last rewind, or twice.
    wrong_acks: usize,
    refused: Vec<i64>,
    ended: bool,
    saved: usize,
    meters: Vec<MeterRow>,
    /// Items there when it was asked what is owed.
    asked_at: usize,
    directory: Option<PathBuf>,
}

/// Shared by the test and the uplink.
#[derive(Clone, Default)]
pub struct OwedList {
    inner: Arc<Mutex<Inner>>,
    grown: Arc<Notify>,
}

/// The uplink's end.
pub struct ListReader {
    list: OwedList,
    at: usize,
    only: Vec<Class>,
}

pub fn sample(seq: u64) -> Item {
    sample_on("acme/pump-1/pressure", seq)
}

pub fn sample_on(topic: &str, seq: u64) -> Item {
    let tag = DictionaryTag {
        id: 1,
        device: "pump-1".into(),
        name: "pressure".into(),
        topic: topic.into(),
        data_type: DataType::Uint64,
    };
    Item::Record(Owed {
        number: Number { stream: Class::Telemetry, epoch: EPOCH, seq: Seq(seq) },
        previous: None,
        body: OwedBody::Sample { tag: Arc::new(tag), value: Some(Value::Uint(seq)), quality: Quality::Good },
        at: Stamp { boot: Boot(1), micros: i64::try_from(seq).unwrap() * 1000 },
    })
}

/// A client's message that came then.
pub fn letter(topic: &str, seq: u64, at: Stamp, message: ClientMessage) -> Item {
    let number = Number { stream: Class::Telemetry, epoch: EPOCH, seq: Seq(seq) };
    let body = OwedBody::Message { topic: topic.into(), message: message.into() };
    Item::Record(Owed { number, previous: None, body, at })
}

fn key(ack: Ack) -> i64 {
    keys(ack).start
}

/// Sequence numbers of records, the negative ids of gap records.
fn keys(ack: Ack) -> std::ops::Range<i64> {
    match ack {
        Ack::Records { first, last, .. } => i64::try_from(first.0).unwrap()..i64::try_from(last.0).unwrap() + 1,
        Ack::Gap(id) => -id..1 - id,
    }
}

fn class_of(item: &Item) -> Class {
    match item {
        Item::Record(owed) => owed.number.stream,
        Item::Gap(gap) => gap.stream,
    }
}

fn key_of(item: &Item) -> i64 {
    match item {
        Item::Record(owed) => key(Ack::of(owed.number)),
        Item::Gap(gap) => key(Ack::Gap(gap.id)),
    }
}

impl OwedList {
    pub fn reader(&self) -> ListReader {
        ListReader { list: self.clone(), at: 0, only: Class::ALL.to_vec() }
    }

    pub fn push(&self, items: impl IntoIterator<Item = Item>) {
        self.inner.lock().unwrap().items.extend(items);
        self.grown.notify_one();
    }

    /// These wait for a commit.
    pub fn commit_when_asked(&self, items: impl IntoIterator<Item = Item>) {
        self.inner.lock().unwrap().uncommitted.extend(items);
    }

    /// Samples numbered like this.
    pub fn samples(&self, seqs: std::ops::RangeInclusive<u64>) {
        self.push(seqs.map(sample));
    }

    /// As a store would.
    pub fn lie_in(&self, directory: &Path) {
        self.inner.lock().unwrap().directory = Some(directory.to_owned());
    }

    pub fn end(&self) {
        self.inner.lock().unwrap().ended = true;
        self.grown.notify_one();
    }

    pub fn acknowledged(&self) -> usize {
        self.inner.lock().unwrap().acknowledged.len()
    }

    pub fn wrong_acks(&self) -> usize {
        self.inner.lock().unwrap().wrong_acks
    }

    /// What the uplink gave up, as sequence numbers.
    pub fn refused(&self) -> Vec<i64> {
        self.inner.lock().unwrap().refused.clone()
    }

    /// What the uplink counted on the wire, as it was saved.
    pub fn meters(&self) -> Vec<MeterRow> {
        self.inner.lock().unwrap().meters.clone()
    }

    pub fn saved(&self) -> usize {
        self.inner.lock().unwrap().saved
    }
}

impl Source for ListReader {
    async fn next(&mut self, wants: Wants) -> Option<Pull> {
        let at_most = wants.live.max(wants.backlog);
        loop {
            {
                let inner = self.list.inner.lock().unwrap();
                let mut out = Vec::new();
                while let Some(item) = inner.items.get(self.at).filter(|_| out.len() < at_most) {
                    if !self.only.contains(&class_of(item)) {
                        break; // a plain list: what stands behind it waits as well
                    }
                    self.at += 1;
                    if !inner.acknowledged.contains(&key_of(item)) {
                        out.push(item.clone());
                    }
                }
                if !out.is_empty() {
                    return Some(Pull { lane: Lane::Backlog, items: out });
                }
                if inner.ended {
                    return None;
                }
            }
            self.list.grown.notified().await;
        }
    }

    fn begin(&mut self, _delivery: Delivery) {
        let inner = self.list.inner.lock().unwrap();
        let unacknowledged = |item: &Item| !inner.acknowledged.contains(&key_of(item));
        self.at = inner.items.iter().position(unacknowledged).unwrap_or(inner.items.len());
    }

    fn only(&mut self, classes: &[Class]) {
        self.only = classes.to_vec();
    }

    fn waiting(&self) -> Vec<Class> {
        let inner = self.list.inner.lock().unwrap();
        let owed = |class: &Class| {
            inner.items.iter().any(|item| class_of(item) == *class && !inner.acknowledged.contains(&key_of(item)))
        };
        Class::ALL.into_iter().filter(owed).collect()
    }

    fn meters(&self) -> Option<Vec<MeterRow>> {
        Some(self.list.inner.lock().unwrap().meters.clone())
    }

    fn save_meters(&self, rows: Vec<MeterRow>) {
        let mut inner = self.list.inner.lock().unwrap();
        for row in rows {
            inner.meters.retain(|old| !row.displaces(old));
            inner.meters.push(row);
        }
    }

    fn directory(&self) -> Option<PathBuf> {
        self.list.inner.lock().unwrap().directory.clone()
    }

    fn acknowledge(&self, ack: Ack) {
        let mut inner = self.list.inner.lock().unwrap();
        for key in keys(ack) {
            let handed_out = inner.items[..self.at].iter().rev().any(|item| key_of(item) == key);
            if !inner.acknowledged.insert(key) || !handed_out {
                inner.wrong_acks += 1;
            }
        }
    }

    fn refuse(&mut self, ack: Ack, _taken: Option<(Stamp, Stamp)>) {
        let mut inner = self.list.inner.lock().unwrap();
        for key in keys(ack) {
            inner.refused.push(key);
            inner.acknowledged.insert(key);
        }
    }

    async fn save(&self) {
        self.list.inner.lock().unwrap().saved += 1;
    }

    fn backlog(&self) -> u64 {
        let inner = self.list.inner.lock().unwrap();
        (inner.items.len() - inner.acknowledged.len()) as u64
    }

    fn settle(&self) -> oneshot::Receiver<bool> {
        let uncommitted = std::mem::take(&mut self.list.inner.lock().unwrap().uncommitted);
        self.list.push(uncommitted);
        let (done, settled) = oneshot::channel();
        done.send(true).unwrap();
        settled
    }

    fn ends(&self) -> Ends {
        let mut inner = self.list.inner.lock().unwrap();
        inner.asked_at = inner.items.len();
        Ends::default()
    }

    fn is_behind(&self, _ends: &Ends) -> bool {
        let inner = self.list.inner.lock().unwrap();
        inner.items[..inner.asked_at].iter().any(|item| !inner.acknowledged.contains(&key_of(item)))
    }

    fn oldest(&self) -> Option<Stamp> {
        let inner = self.list.inner.lock().unwrap();
        inner.items.iter().filter(|item| !inner.acknowledged.contains(&key_of(item))).find_map(|item| match item {
            Item::Record(owed) => Some(owed.at),
            Item::Gap(_) => None,
        })
    }

    fn newest(&self) -> Vec<(Class, Epoch, Seq)> {
        let inner = self.list.inner.lock().unwrap();
        let newest = inner.items.iter().rev().find_map(|item| match item {
            Item::Record(owed) => Some(owed.number),
            Item::Gap(_) => None,
        });
        newest.into_iter().map(|number| (number.stream, number.epoch, number.seq)).collect()
    }
}
