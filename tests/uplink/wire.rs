//! What the bench `wire` works out, held against what the road counts: batches of a plant's samples through TLS to a broker.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "figures of a made-up plant, all small"
)]

use crate::authority;
use crate::cloud;
use crate::owed;
use crate::rig;

use std::collections::BTreeSet;
use std::sync::Arc;

use ironbridge::config::plan::{Format, Transport, UplinkTlsPlan};
use ironbridge::model::number::{Class, Number, Seq};
use ironbridge::model::quality::Quality;
use ironbridge::model::tag::DataType;
use ironbridge::model::time::{Boot, Stamp};
use ironbridge::model::value::Value;
use ironbridge::payload::batch::{Dictionary, decode};
use ironbridge::store::{DictionaryTag, Item, Owed, OwedBody};

use authority::{Authority, VALID};
use cloud::Cloud;
use owed::{EPOCH, OwedList};
use rig::Rig;

const TAGS: u64 = 100;
const SAMPLES: u64 = 6_000;

/// A plant of 100 tags in 2 devices: each second each tag has a value with two decimals. How well that packs is the bench's
/// affair; here it only has to fill messages.
fn plant() -> Vec<Item> {
    let tags: Vec<_> = (0..TAGS)
        .map(|n| {
            let (device, name) = (format!("pump-{}", n / 50), format!("tag-{:02}", n % 50));
            let topic = format!("acme/{device}/{name}");
            Arc::new(DictionaryTag { id: n as u32 + 1, device, name, topic, data_type: DataType::Float32 })
        })
        .collect();
    let record = |seq: u64| {
        let (second, tag) = ((seq - 1) / TAGS, (seq - 1) % TAGS);
        let moved = (tag * 7919 + second * second * 31 + tag * second) % 5; // 0 ..= 4, no pattern along a column
        let value = Value::Float((1000 + 13 * tag + second / 3 + moved / 2) as f64 / 100.0);
        let body =
            OwedBody::Sample { tag: Arc::clone(&tags[tag as usize]), value: Some(value), quality: Quality::Good };
        let micros = (second * 1_000_000 + tag / 50 * 45_000) as i64;
        let number = Number { stream: Class::Telemetry, epoch: EPOCH, seq: Seq(seq) };
        Item::Record(Owed { number, previous: None, body, at: Stamp { boot: Boot(1), micros } })
    };
    (1..=SAMPLES).map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bench_works_out_for_mqtt_and_tls_is_what_the_road_counts() {
    let authority = Authority::new();
    let cloud = Cloud::start_tls(authority.server("127.0.0.1", VALID)).await;
    let owed = OwedList::default();
    let rig = Rig::start_with(&cloud, &owed, |parts| {
        let identity = Some(authority.client("gw", VALID));
        parts.plan.tls = Some(UplinkTlsPlan { ca_file: authority.ca_file(), identity });
        parts.plan.servers[0].transport = Transport::Tls;
        (parts.plan.format, parts.plan.batch_samples) = (Format::Batch, 10_000);
    });
    cloud.until("a session with its status", |cloud| !cloud.on("up/ironbridge/gw/status").is_empty()).await;
    let before = rig.stats.bytes_up() + rig.stats.bytes_down();
    owed.push(plant());
    let batches = || cloud.on("up/ironbridge/gw/batch");
    let (mut seen, mut records) = (0, 0);
    let mut all = || {
        let batches = batches();
        records +=
            batches[seen..].iter().map(|batch| decode(&batch.payload).unwrap().records.len() as u64).sum::<u64>();
        seen = batches.len();
        (records < SAMPLES).then_some(seen)
    };
    while let Some(before) = all() {
        cloud.until("more samples", |cloud| cloud.on("up/ironbridge/gw/batch").len() > before).await;
    }
    cloud.until("their acknowledgements", |_| owed.acknowledged() as u64 == SAMPLES).await;
    let counted = rig.stats.bytes_up() + rig.stats.bytes_down() - before;

    let (mut dictionary, mut seqs) = (Dictionary::default(), BTreeSet::new());
    // MQTT and TLS of each publish and its PUBACK; segments of TCP are the kernel's, see the bench and the road's own tests
    let mut worked_out = 0;
    for arrived in batches() {
        let mqtt = 1 + 3 + 2 + arrived.topic.len() + 2 + arrived.payload.len();
        worked_out += mqtt + 22 * mqtt.div_ceil(16_384) + 4 + 22;
        let batch = decode(&arrived.payload).unwrap();
        dictionary.learn(&batch);
        assert_eq!(dictionary.tags(&batch).expect("told before it was used").len(), batch.columns.len());
        seqs.extend((batch.first.seq.0..).take(batch.records.len()));
    }
    assert_eq!(seqs.len() as u64, SAMPLES);
    let (counted, worked_out) = (counted as f64, worked_out as f64);
    println!("{:.3} B a sample; worked out: {:.3}", counted / SAMPLES as f64, worked_out / SAMPLES as f64);
    // a status between them, TLS records that hold more than one packet
    assert!((0.9..1.1).contains(&(counted / worked_out)), "{counted} counted, {worked_out} worked out");
    rig.stop.begin();
    rig.finished().await;
}
