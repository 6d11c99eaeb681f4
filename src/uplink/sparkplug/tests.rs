//! The edge node without a network: what is born, told and historical, and when; `lives` is about deaths, answers and costs.

mod lives;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{EdgeNode, Plant, Said, Telegram, Told};
use crate::config::difference::arranged;
use crate::config::plan::{
    BusLink, BusPlan, Compress, Datatypes, DevicePlan, Format, Plan, Scale, Source, SparkplugPlan, TagPlan, UplinkPlan,
};
use crate::flow::clock::{Clock, FakeTime, Fix};
use crate::flow::hub::{DeviceReport, Diagnosis, Standing};
use crate::flow::latest::Latest;
use crate::model::number::{Class, Epoch, Number, Seq};
use crate::model::quality::{Cause, Quality};
use crate::model::sample::Sample;
use crate::model::sparkplug::{Kind, Node};
use crate::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Table, TagIx};
use crate::model::time::{Boot, Stamp};
use crate::model::value::Value;
use crate::payload::sparkplug::decode_reading;
use crate::store::{DictionaryTag, Item, Owed, OwedBody};
use crate::uplink::pack::{MESSAGE_BYTES_MAX, Packer};
use crate::uplink::source::Lane;

const NOW_MS: i64 = 1_795_204_800_000;

struct Site {
    node: EdgeNode,
    latest: Arc<Latest>,
    plan: Arc<ArcSwap<Plan>>,
    dictionary: Vec<Arc<DictionaryTag>>,
    time: Arc<FakeTime>,
}

fn at(micros: i64) -> Stamp {
    Stamp { boot: Boot(1), micros }
}

fn tag(id: u32, device: &str, name: &str) -> Arc<DictionaryTag> {
    let (device, name, topic) = (device.to_owned(), name.to_owned(), format!("p/{device}/{name}"));
    Arc::new(DictionaryTag { id, device, name, topic, data_type: DataType::Uint16 })
}

fn plan() -> Plan {
    let mut plan = Plan::empty("gw");
    for (device, name) in [(0, "pump"), (1, "valve")] {
        let begin = plan.tags.len();
        for tag in ["a", "b"] {
            let address = Address { table: Table::Holding, start: 0, bit: None };
            let topic = format!("p/{name}/{tag}").into();
            plan.tags.push(TagPlan { topic, ..TagPlan::plain(tag, DeviceIx(device), address, DataType::Uint16) });
        }
        plan.devices.push(DevicePlan { tags: begin..plan.tags.len(), ..DevicePlan::plain(name, BusIx(0), 1) });
    }
    plan
}

fn uplink() -> UplinkPlan {
    let spark = SparkplugPlan {
        node: Node::new("g", "gw").expect("good ids"),
        primary_host: None,
        host_timeout: Duration::ZERO,
        datatypes: Datatypes::Births,
    };
    let (compress, format) = (Compress::None, Format::Sparkplug);
    UplinkPlan { compress, format, batch_samples: 100, sparkplug: Some(spark), ..UplinkPlan::plain("cloud") }
}

impl Site {
    fn new() -> Self {
        let time = Arc::<FakeTime>::default();
        let clock = Clock::new(Arc::<FakeTime>::clone(&time), Boot(1), 0);
        clock.learn(Fix { at: at(0), unix_ms: NOW_MS });
        let uplink = uplink();
        let mut node = EdgeNode::new(&uplink, uplink.sparkplug.as_ref().expect("an edge node"), clock);
        let (latest, plan) = (Arc::<Latest>::default(), Arc::new(ArcSwap::from_pointee(plan())));
        node.live_in(Plant { plan: Arc::clone(&plan), latest: Arc::clone(&latest) });
        let names = [(1, "pump", "a"), (2, "pump", "b"), (3, "valve", "a"), (4, "valve", "b")];
        let dictionary = names.map(|(id, device, name)| tag(id, device, name)).to_vec();
        node.begin(Some(7), 0);
        Self { node, latest, plan, dictionary, time }
    }

    fn births(&mut self, now: Instant) -> Vec<Telegram> {
        self.node.learn(&self.dictionary);
        self.node.begin_births(now);
        self.due(now)
    }

    fn due(&mut self, now: Instant) -> Vec<Telegram> {
        std::iter::from_fn(|| self.node.next_due(now)).collect()
    }

    fn report(&self, device: u32, standing: Standing) {
        self.latest.put_device(DeviceReport {
            device: DeviceIx(device),
            standing,
            last_success: None,
            requests: 0,
            timeouts: 0,
            exceptions: 0,
            errors: 0,
            diagnosis: Diagnosis::default(),
        });
    }
}

fn sample(tag: &Arc<DictionaryTag>, seq: u64, value: Option<u64>, micros: i64) -> Owed {
    let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Cause::Timeout) };
    Owed {
        number: Number { stream: Class::Telemetry, epoch: Epoch(1), seq: Seq(seq) },
        previous: None,
        body: OwedBody::Sample { tag: Arc::clone(tag), value: value.map(Value::Uint), quality },
        at: at(micros),
    }
}

fn said_of(telegrams: &[Telegram]) -> Vec<(Kind, &str)> {
    telegrams.iter().map(|telegram| (telegram.kind, telegram.device.as_deref().unwrap_or(""))).collect()
}

/// How many metrics of a payload are historical: field 5 with value 1 in each metric of ours.
fn historical(node: &mut EdgeNode, telegram: &Telegram) -> usize {
    let (_, bytes) = node.seal(telegram.clone());
    bytes.windows(2).filter(|pair| *pair == [5 << 3, 1]).count()
}

#[tokio::test(start_paused = true)]
async fn births_come_first_and_a_device_that_is_down_has_none() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.report(1, Standing::Down);
    let births = site.births(now);
    assert_eq!(said_of(&births), [(Kind::NBirth, ""), (Kind::DBirth, "pump")]);
    let sealed: Vec<String> = births.into_iter().map(|birth| site.node.seal(birth).0).collect();
    assert_eq!(sealed, ["spBv1.0/g/NBIRTH/gw", "spBv1.0/g/DBIRTH/gw/pump"]);
    site.report(1, Standing::Answering);
    site.node.look(now);
    assert_eq!(said_of(&site.due(now)), [(Kind::DBirth, "valve")]);
}

#[tokio::test(start_paused = true)]
async fn a_device_dies_when_its_last_values_are_out_and_what_is_bad_after_that_goes_nowhere() {
    let (mut site, mut now) = (Site::new(), Instant::now());
    let pump = Arc::clone(&site.dictionary[0]);
    site.births(now);
    site.report(0, Standing::Down);
    let draft = site.node.draft(&[sample(&pump, 1, None, 1_000_000)]);
    let telegrams = site.node.keep(draft);
    assert_eq!(said_of(&telegrams), [(Kind::DData, "pump")]);
    assert_eq!(site.node.before(&telegrams[0], now), None);
    site.node.look(now);
    assert_eq!(site.due(now), [], "not while its values are on the way");
    now += Duration::from_secs(3);
    site.time.advance(Duration::from_secs(3));
    site.node.look(now);
    assert_eq!(said_of(&site.due(now)), [(Kind::DDeath, "pump")]);
    assert!(site.node.draft(&[sample(&pump, 2, None, 4_000_000)]).telegrams.is_empty());
    // something from before its death turns up: it is born for it
    let draft = site.node.draft(&[sample(&pump, 3, Some(5), 500_000)]);
    let telegrams = site.node.keep(draft);
    let birth = site.node.before(&telegrams[0], now).expect("a birth");
    assert_eq!(said_of(&[birth]), [(Kind::DBirth, "pump")]);
}

#[tokio::test(start_paused = true)]
async fn the_metrics_of_a_birth_stand_in_the_order_of_their_times() {
    let mut site = Site::new();
    let known =
        |tag, micros| Sample { tag: TagIx(tag), value: Some(Value::Uint(9)), quality: Quality::Good, at: at(micros) };
    site.time.advance(Duration::from_secs(10));
    site.latest.put(&[known(0, 5_000_000), known(1, 4_000_000)]);
    let births = site.births(Instant::now());
    let (_, bytes) = site.node.seal(births[1].clone());
    // field 1 of a metric is its name: here one letter
    let place = |name| bytes.windows(3).position(|three| three == [1 << 3 | 2, 1, name]).expect("it is there");
    assert!(place(b'b') < place(b'a'), "the plan has it the other way round");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_newer_than_what_was_told_is_historical() {
    let (mut site, now) = (Site::new(), Instant::now());
    let (a, b) = (Arc::clone(&site.dictionary[0]), Arc::clone(&site.dictionary[1]));
    let newest = Sample { tag: TagIx(0), value: Some(Value::Uint(9)), quality: Quality::Good, at: at(5_000_000) };
    site.time.advance(Duration::from_secs(10));
    site.latest.put(&[newest]);
    site.births(now);
    let live =
        [sample(&a, 1, Some(8), 4_000_000), sample(&a, 2, Some(9), 5_000_000), sample(&a, 3, Some(10), 6_000_000)];
    // made twice, as when a message is divided: nothing is taken for told before it is kept
    assert_eq!(site.node.draft(&live).telegrams.len(), 1);
    let draft = site.node.draft(&live);
    let telegrams = site.node.keep(draft);
    assert_eq!(historical(&mut site.node, &telegrams[0]), 2);
    let draft = site.node.draft(&[sample(&b, 4, Some(1), 1_000_000), sample(&a, 5, Some(11), 5_500_000)]);
    let telegrams = site.node.keep(draft);
    assert_eq!(
        historical(&mut site.node, &telegrams[0]),
        2,
        "its birth told that b had none; of a something newer was told"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_makes_nothing_historical_that_is_new() {
    let (mut site, now) = (Site::new(), Instant::now());
    let (a, valve) = (Arc::clone(&site.dictionary[0]), Arc::clone(&site.dictionary[2]));
    site.report(1, Standing::Down);
    site.time.advance(Duration::from_secs(10));
    site.births(now);
    site.node.clock.learn(Fix { at: at(10_000_000), unix_ms: NOW_MS - 3_600_000 });
    site.time.advance(Duration::from_secs(1));
    let draft = site.node.draft(&[sample(&a, 1, Some(5), 11_000_000), sample(&a, 2, Some(4), 9_000_000)]);
    let telegrams = site.node.keep(draft);
    assert_eq!(historical(&mut site.node, &telegrams[0]), 1, "only what was taken before the births");
    assert!(site.node.draft(&[sample(&valve, 3, None, 11_000_000)]).telegrams.is_empty(), "dead is dead");
}

#[tokio::test(start_paused = true)]
async fn what_was_packed_before_births_is_said_as_they_have_it() {
    let (mut site, now) = (Site::new(), Instant::now());
    let (a, b) = (Arc::clone(&site.dictionary[0]), Arc::clone(&site.dictionary[1]));
    site.births(now);
    let mut packer = Packer::new(&uplink(), "gw", site.node.clock.clone(), MESSAGE_BYTES_MAX);
    std::mem::swap(packer.node().expect("an edge node"), &mut site.node);
    for owed in [sample(&a, 1, Some(5), 4_000_000), sample(&b, 2, Some(6), 4_000_000)] {
        packer.put(Item::Record(owed), Lane::Live, now);
    }
    packer.flush();
    let waiting = packer.next(now).expect("a message").said.expect("of an edge node");
    // b goes and a is scaled, and its next value is there already when the births are sent
    let mut changed = plan();
    changed.tags[0].scale = Scale { factor: 0.5, offset: 0.0 };
    changed.tags[1].name = "c".to_owned();
    site.plan.store(Arc::new(changed));
    site.time.advance(Duration::from_secs(10));
    let newest = Sample { tag: TagIx(0), value: Some(Value::Float(9.5)), quality: Quality::Good, at: at(5_000_000) };
    site.latest.put(&[newest]);
    std::mem::swap(packer.node().expect("an edge node"), &mut site.node);
    site.births(now);
    let said = site.node.say(waiting, MESSAGE_BYTES_MAX, now);
    assert_eq!(said_of(&said), [(Kind::DBirth, "pump"), (Kind::DData, "pump")], "a host must be told of b again");
    assert_eq!(historical(&mut site.node, &said[1]), 2, "something newer was told of both");
    let (_, bytes) = site.node.seal(said[1].clone());
    let has = |field: &[u8]| bytes.windows(field.len()).any(|part| part == field);
    // field 12 is a float, field 10 an integer
    assert!(has(&[&[12 << 3 | 5][..], &5_f32.to_le_bytes()].concat()), "a is a float now");
    assert!(!has(&[10 << 3, 5]) && has(&[10 << 3, 6]));
    // nor is anything newer told when its own device is born for a stranger in the same message
    let (old, t2) = (tag(9, "valve", "old"), at(8_000_000));
    let valve = Arc::clone(&site.dictionary[2]);
    site.latest.put(&[Sample { tag: TagIx(2), value: Some(Value::Uint(3)), quality: Quality::Good, at: t2 }]);
    site.node.metrics.insert(3, Told { newest: at(0), quality: 192 });
    let records = vec![sample(&valve, 3, Some(2), 7_000_000), sample(&old, 4, Some(1), 7_000_000)];
    let said = site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    assert_eq!(said_of(&said), [(Kind::DBirth, "valve"), (Kind::DData, "valve")]);
    assert_eq!(historical(&mut site.node, &said[1]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_grew_while_it_waited_goes_in_parts() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    let a = Arc::clone(&site.dictionary[0]);
    let records: Vec<Owed> = (0..100).map(|seq| sample(&a, seq, Some(5), 4_000_000)).collect();
    let said = site.node.say(Said::Records { records, bytes: 0 }, 800, now);
    assert!(said.len() > 1 && said.iter().all(|telegram| telegram.payload.encoded_len() <= 800), "{}", said.len());
    let metrics: usize = said.iter().map(|telegram| historical(&mut site.node, telegram)).sum();
    assert_eq!(metrics, 99, "each once: the first is new");
}

#[tokio::test(start_paused = true)]
async fn a_tag_of_an_earlier_plan_is_born_with_its_device_before_its_samples() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    let (old, gone) = (tag(9, "pump", "old"), tag(10, "mixer", "speed"));
    let draft = site.node.draft(&[sample(&old, 1, Some(5), 1), sample(&gone, 2, Some(6), 2)]);
    let telegrams = site.node.keep(draft);
    assert_eq!(said_of(&telegrams), [(Kind::DData, "pump"), (Kind::DData, "mixer")]);
    for telegram in &telegrams {
        let birth = site.node.before(telegram, now).expect("a birth");
        assert_eq!((birth.kind, &birth.device), (Kind::DBirth, &telegram.device));
        assert_eq!(site.node.before(telegram, now), None, "once");
    }
    let later = now + Duration::from_secs(3);
    site.node.look(later);
    assert_eq!(said_of(&site.due(later)), [(Kind::DDeath, "mixer")], "it is in no plan");
}

#[tokio::test(start_paused = true)]
async fn tags_of_earlier_plans_that_had_one_name_are_told_apart() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    let of_type = |id, data_type| Arc::new(DictionaryTag { data_type, ..(*tag(id, "pump", "old")).clone() });
    let records: Vec<Owed> = (9..)
        .zip([DataType::Uint16, DataType::Float32, DataType::Int32])
        .map(|(id, data_type)| sample(&of_type(id, data_type), id.into(), Some(5), 1))
        .collect();
    let said = site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    let (_, bytes) = site.node.seal(said[0].clone());
    let birth = decode_reading(&bytes).expect("a birth");
    let names: Vec<String> = birth.metrics.into_iter().filter_map(|metric| metric.name).collect();
    assert_eq!(names, ["a", "b", "old", "old (float32 10)", "old (int32 11)"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_tags_is_noticed_once_and_one_that_does_not_is_not() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    assert!(!site.node.has_changed());
    site.plan.store(Arc::new(plan()));
    assert!(!site.node.has_changed(), "another one that says the same");
    let mut changed = plan();
    changed.tags[3].unit = "bar".to_owned();
    site.plan.store(Arc::new(changed));
    assert!(site.node.has_changed());
    assert!(!site.node.has_changed());
    let births = site.births(now);
    assert_eq!(births.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn numbers_go_on_over_devices_and_begin_with_0_at_each_birth() {
    let (mut site, now) = (Site::new(), Instant::now());
    let seq = |node: &mut EdgeNode, telegram: Telegram| {
        let (_, bytes) = node.seal(telegram);
        // seq is the last field of a payload: number 3, one or two bytes
        let key = bytes.iter().rposition(|byte| *byte == 3 << 3).expect("a seq");
        bytes[key + 1]
    };
    let births = site.births(now);
    let numbers: Vec<u8> = births.into_iter().map(|birth| seq(&mut site.node, birth)).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let births = site.births(now);
    let numbers: Vec<u8> = births.into_iter().map(|birth| seq(&mut site.node, birth)).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_birth_after_a_reload_tells_no_value_of_a_tag_that_means_something_else_until_it_is_read() {
    let read = |tag| Sample { tag, value: Some(Value::Float(3.5)), quality: Quality::Good, at: at(1_000_000) };
    let changes: [fn(&mut TagPlan); 3] = [
        |tag| tag.source = Source::Register(Address { table: Table::Holding, start: 10, bit: None }),
        |tag| tag.scale = Scale { factor: 0.1, offset: 0.0 },
        |tag| tag.access = Access::Write,
    ];
    for change in changes {
        let mut site = Site::new();
        site.latest.put(&[read(TagIx(0)), read(TagIx(2))]);
        let mut before = Plan { buses: vec![BusPlan::plain("net", BusLink::tcp("nowhere:502"))], ..plan() };
        before.tags.iter_mut().for_each(|tag| tag.scale = Scale { factor: 0.5, offset: 0.0 });
        let mut changed = before.clone();
        change(&mut changed.tags[0]);
        site.plan.store(Arc::new(arranged(&before, changed)));
        site.births(Instant::now());
        let told = |alias: u64| site.node.metrics[&alias].quality;
        assert_eq!((told(1), told(3)), (0, 192), "the other device was not touched");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_its_metric_cannot_have_is_not_told_as_a_good_null() {
    let mut site = Site::new();
    let whole = Sample { tag: TagIx(0), value: Some(Value::Uint(3)), quality: Quality::Good, at: at(1_000_000) };
    let part = Sample { tag: TagIx(1), value: Some(Value::Float(3.5)), ..whole.clone() };
    site.latest.put(&[whole, part]);
    let now = Instant::now();
    site.births(now);
    let told = |site: &Site| (site.node.metrics[&1].quality, site.node.metrics[&2].quality);
    assert_eq!(told(&site), (192, 0));
    site.node.show([2]);
    assert_eq!((site.node.answer(now), told(&site)), (None, (192, 0)), "nor when a host asks");
}
