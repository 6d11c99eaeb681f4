//! When devices die, what hosts are answered, and what births cost.

use super::*;
use crate::config::births::births;
use crate::config::plan::Limits;
use crate::model::tag::Access;

/// An event.
fn happened(seq: u64, topic: &str, name: &str, micros: i64) -> Owed {
    let body = format!("{{\"event\":\"{name}\"}}").into_bytes().into();
    let number = Number { stream: Class::Event, epoch: Epoch(1), seq: Seq(seq) };
    Owed { number, previous: None, body: OwedBody::Event { topic: topic.into(), body }, at: at(micros) }
}

/// Bytes of a message as it goes out.
fn sealed(site: &mut Site, telegram: &Telegram) -> Vec<u8> {
    site.node.seal(telegram.clone()).1
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_dies_once_and_soon_however_long_data_are_gathered() {
    let (mut site, begin) = (Site::new(), Instant::now());
    site.node.batch_interval = Duration::from_secs(3600);
    let pump = Arc::clone(&site.dictionary[0]);
    site.births(begin);
    // it is polled once an hour: nothing of it was sent for long when it fails
    let fails = begin + Duration::from_secs(3600);
    site.time.advance(Duration::from_secs(3600));
    site.report(0, Standing::Down);
    let mut said = Vec::new();
    for half_seconds in 0..60 {
        let now = fails + Duration::from_millis(500) * half_seconds;
        site.node.look(now);
        said.extend(site.due(now));
        if half_seconds == 4 {
            // 1 s until it was stored, 1 s until it was put together
            assert_eq!(site.node.gather(), Duration::from_secs(1));
            let records = vec![sample(&pump, 1, None, 3_600_000_000)];
            said.extend(site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now));
        }
        assert_eq!(said.len(), usize::from(half_seconds >= 4) + usize::from(half_seconds >= 10), "at {half_seconds}");
        site.time.advance(Duration::from_millis(500));
    }
    assert_eq!(site.node.gather(), Duration::from_secs(3600), "when it is dead");
    assert_eq!(said_of(&said), [(Kind::DData, "pump"), (Kind::DDeath, "pump")]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_in_the_births_to_come_dies_before_them() {
    use Kind::{DBirth, DDeath, NBirth};
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    // the births come before its death would be due
    site.report(1, Standing::Down);
    site.node.look(now);
    assert_eq!(said_of(&site.births(now)), [(DDeath, "valve"), (NBirth, ""), (DBirth, "pump")]);
    assert_eq!(said_of(&site.births(now)), [(NBirth, ""), (DBirth, "pump")], "once");
    // it is there again, and then a reload takes it away
    site.report(1, Standing::Answering);
    site.births(now);
    let mut without = plan();
    without.devices.pop();
    without.tags.truncate(2);
    site.plan.store(Arc::new(without));
    assert_eq!(said_of(&site.births(now)), [(DDeath, "valve"), (NBirth, ""), (DBirth, "pump")]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_back_before_its_death_was_due_does_not_die() {
    let (mut site, begin) = (Site::new(), Instant::now());
    site.births(begin);
    for second in 0..20 {
        site.report(0, if second % 2 == 0 { Standing::Down } else { Standing::Answering });
        site.node.look(begin + Duration::from_secs(second));
        assert_eq!(site.due(begin + Duration::from_secs(second)), [], "after {second} s");
    }
}

#[tokio::test(start_paused = true)]
async fn who_wanted_another_value_is_told_the_true_one_in_a_message_per_device_that_lives() {
    let (mut site, now) = (Site::new(), Instant::now());
    let known = |tag, micros| {
        let value = Some(Value::Uint(7));
        Sample { tag: TagIx(tag), value, quality: Quality::Good, at: at(micros) }
    };
    site.time.advance(Duration::from_secs(10));
    site.report(1, Standing::Down);
    site.births(now);
    site.latest.put(&[known(0, 6_000_000), known(1, 5_000_000), known(2, 5_000_000)]);
    site.node.show([1, 2, 3, 4, 99]);
    let answers: Vec<Telegram> = std::iter::from_fn(|| site.node.answer(now)).collect();
    assert_eq!(said_of(&answers), [(Kind::DData, "pump")], "the valve is not born: its birth will tell");
    assert!(!site.node.has_answers());
    let bytes = sealed(&mut site, &answers[0]);
    // field 2 of a metric is its alias
    let place = |alias| bytes.windows(2).position(|two| two == [2 << 3, alias]).expect("it is there");
    assert!(place(2) < place(1), "in the order of time");
    // the record of that value comes from the store a moment later: it is told already
    let pump = Arc::clone(&site.dictionary[0]);
    let records = vec![sample(&pump, 1, Some(7), 6_000_000), sample(&pump, 2, Some(8), 11_000_000)];
    let said = site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    assert_eq!(historical(&mut site.node, &said[0]), 1);
}

#[tokio::test(start_paused = true)]
async fn births_answer_everybody_who_waits_and_a_new_session_nobody() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    site.node.show([1]);
    site.node.scan(5000);
    assert!(site.node.has_answers());
    site.births(now);
    assert_eq!(site.node.answer(now), None);
    site.node.scan(5000);
    assert_eq!(said_of(&[site.node.answer(now).expect("the scan rate")]), [(Kind::NData, "")]);
    site.node.show([1]);
    site.node.begin(Some(8), 0);
    assert!(!site.node.has_answers());
}

#[tokio::test(start_paused = true)]
async fn a_host_sends_the_node_to_the_next_server_once_in_a_minute_over_all_sessions() {
    let (mut site, now) = (Site::new(), Instant::now());
    assert!(site.node.may_move(now));
    site.node.begin(Some(8), 0);
    assert!(!site.node.may_move(now + Duration::from_secs(59)));
    assert!(site.node.may_move(now + Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn data_wait_from_the_moment_a_request_is_accepted_until_the_last_birth_is_out() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    site.node.births_out(now);
    site.node.ask_for_births();
    assert_eq!(site.node.rebirth_due(now), Some(now), "accepted at once: births before data");
    site.node.begin_births(now);
    site.node.ask_for_births();
    let all = site.node.due.len();
    for left in (0..all).rev() {
        assert!(!site.node.due.is_empty(), "the feeder sends no data while a birth is due");
        assert_eq!(site.node.rebirth_due(now), None, "nor begins again before the last");
        site.node.next_due(now);
        assert_eq!(site.node.due.len(), left);
    }
    let out = now + Duration::from_secs(40); // a thin link
    site.node.births_out(out);
    assert_eq!(site.node.rebirth_due(out), Some(out + Duration::from_secs(40)), "as long for data");
}

#[tokio::test(start_paused = true)]
async fn metrics_of_the_node_stand_in_the_order_of_their_times() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    site.time.advance(Duration::from_secs(10));
    let event = |seq, name: &str, micros| happened(seq, "ironbridge/gw/event", name, micros);
    let records = vec![event(1, "later", 3_000_000), event(2, "first", 1_000_000), event(3, "second", 2_000_000)];
    let said = site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    assert_eq!(said_of(&said), [(Kind::NData, "")]);
    let bytes = sealed(&mut site, &said[0]);
    let place = |name: &str| bytes.windows(name.len()).position(|part| part == name.as_bytes()).expect("it is there");
    assert!(place("first") < place("second") && place("second") < place("later"));
}

#[tokio::test(start_paused = true)]
async fn births_say_the_last_alarm_event_and_loss_again_with_their_times_in_every_session() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    let cost = site.node.births_cost();
    site.time.advance(Duration::from_secs(10));
    let alarm = |seq, state: &str, micros| happened(seq, "ironbridge/gw/alarm/pump/a", state, micros);
    let records = vec![alarm(1, "cleared", 2_000_000), alarm(2, "active", 3_000_000)];
    site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    site.node.say(Said::Gap("{\"missing\":7}".to_owned()), MESSAGE_BYTES_MAX, now);
    let records = vec![happened(3, "ironbridge/gw/event", "begun", 1_000_000)];
    site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
    site.node.begin(Some(8), 0);
    let births = site.births(now);
    let bytes = sealed(&mut site, &births[0]);
    let text = String::from_utf8_lossy(&bytes);
    let place = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is in {text}"));
    assert!(place("begun") < place("active") && place("active") < place("missing"), "in the order of time");
    assert!(place("missing") < place("bdSeq"), "which is of now");
    assert!(!text.contains("cleared"), "the last alone");
    assert!(site.node.births_cost() > cost, "and they are paid for");
}

#[tokio::test(start_paused = true)]
async fn an_alarm_of_the_backlog_is_historical_behind_one_that_the_store_numbered_later_and_else_it_is_not() {
    let (mut site, now) = (Site::new(), Instant::now());
    site.births(now);
    site.time.advance(Duration::from_secs(10));
    let historical = |site: &mut Site, seq, name: &str, micros| {
        let records = vec![happened(seq, "ironbridge/gw/alarm/pump/a", name, micros)];
        let said = site.node.say(Said::Records { records, bytes: 0 }, MESSAGE_BYTES_MAX, now);
        super::historical(&mut site.node, &said[0])
    };
    assert_eq!(historical(&mut site, 1, "active", 1_000_000), 0, "of an outage, and nothing has followed");
    assert_eq!(historical(&mut site, 4, "cleared", 4_000_000), 0, "live");
    assert_eq!(historical(&mut site, 2, "active", 2_000_000), 1, "the backlog beside it");
    assert_eq!(historical(&mut site, 5, "active", 4_000_000), 0, "another of the same poll");
    assert_eq!(historical(&mut site, 6, "active", 3_900_000), 0, "of a slower bus");
    site.node.begin(Some(8), 0);
    site.births(now);
    assert_eq!(
        historical(&mut site, 5, "active", 4_000_000),
        1,
        "what is in doubt goes again, and births told what came last"
    );
    assert_eq!(historical(&mut site, 6, "active", 3_900_000), 1);
    assert_eq!(historical(&mut site, 7, "cleared", 5_000_000), 0, "while the link was down");
}

#[tokio::test(start_paused = true)]
async fn what_births_take_is_known_before_they_are_made_to_a_fifth() {
    let mut site = Site::new();
    let mut plan = plan();
    let types = [DataType::Float32, DataType::Uint16, DataType::Float64, DataType::Uint64, DataType::Bool];
    plan.tags.clear();
    for (device, kept) in plan.devices.iter_mut().enumerate() {
        let begin = plan.tags.len();
        for number in 0..200 {
            let address = Address { table: Table::Holding, start: number * 4, bit: None };
            let name = format!("{}-{number}", ["flow", "discharge pressure of the second stage"][device]);
            let kind = types[usize::from(number) % types.len()];
            let ix = DeviceIx(u32::try_from(device).expect("two"));
            let mut tag =
                TagPlan { topic: format!("p/{}/{name}", kept.name).into(), ..TagPlan::plain(&name, ix, address, kind) };
            tag.unit = ["bar", ""][usize::from(number) % 2].to_owned();
            tag.limits = Limits { min: Some(0.0), max: Some(f64::from(number)).filter(|_| number % 3 == 0) };
            tag.access = if number % 4 == 0 { Access::ReadWrite } else { Access::Read };
            plan.tags.push(tag);
        }
        kept.tags = begin..plan.tags.len();
    }
    let numbered = plan.tags.iter().zip(1..).map(|(tag, id)| {
        let (device, name) = (plan[tag.device].name.clone(), tag.name.clone());
        let (topic, data_type) = (tag.topic.to_string(), tag.data_type);
        Arc::new(DictionaryTag { id, device, name, topic, data_type })
    });
    site.dictionary = numbered.collect();
    let samples: Vec<Sample> = (0..)
        .zip(&plan.tags)
        .map(|(ix, tag)| {
            let value = match tag.data_type {
                DataType::Bool => Value::Bool(true),
                DataType::Uint16 | DataType::Uint64 => Value::Uint(60_000),
                _ => Value::Float(1.5),
            };
            Sample { tag: TagIx(ix), value: Some(value), quality: Quality::Good, at: at(5_000_000) }
        })
        .collect();
    site.latest.put(&samples);
    site.time.advance(Duration::from_secs(10));
    let told = births(&plan.devices, &plan.tags, &uplink().classes, uplink().commands);
    site.plan.store(Arc::new(plan));
    let made = site.births(Instant::now());
    let sizes: Vec<usize> = made
        .iter()
        .map(|telegram| {
            let (topic, bytes) = site.node.seal(telegram.clone());
            topic.len() + bytes.len()
        })
        .collect();
    let fits = |told: usize, made: usize| told >= made && told * 5 <= made * 6;
    assert_eq!(told.messages, made.len());
    assert!(fits(told.bytes, sizes.iter().sum()), "{} and {sizes:?}", told.bytes);
    let (device, largest) = told.largest.expect("there are devices");
    assert_eq!(device, "valve", "its names are longer");
    assert!(fits(largest, sizes[2]), "{largest} and {sizes:?}");
    assert_eq!(site.node.births_cost(), (told.messages, told.bytes));
}
