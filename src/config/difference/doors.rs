//! What a listener is called where plans are compared, and what becomes of one that is another, for people. Pure.

use std::collections::HashMap;
use std::hash::Hash;

use super::super::plan::{ListenerPlan, MqttSnPlan};

/// Listeners by where they listen; of several at one place (a free port each) the later ones have a number.
pub fn numbered(listeners: &[ListenerPlan]) -> Vec<(String, ListenerPlan)> {
    let mut named: Vec<(String, ListenerPlan)> = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let place = listener.place();
        let twins = named.iter().filter(|(_, known)| known.place() == place).count();
        let name = if twins == 0 { place } else { format!("{place} ({})", twins + 1) };
        named.push((name, listener.clone()));
    }
    named
}

/// Of one that is another.
pub(super) fn told(old: &ListenerPlan, new: &ListenerPlan) -> String {
    match (&old.mqtt_sn, &new.mqtt_sn) {
        (Some(before), Some(after)) if old.may_become(new) => format!("{}, stays open", sensors_told(before, after)),
        _ => "closed and opened anew".to_owned(),
    }
}

/// What is another for sensors: `2 sensors added, 1 removed, 1 topic changed`.
pub fn sensors_told(before: &MqttSnPlan, after: &MqttSnPlan) -> String {
    let sensors = counted(&before.sensors, &after.sensors, |sensor| sensor.client_id.as_str());
    let topics = counted(&before.topics, &after.topics, |(id, _)| id);
    let of_lists =
        ["sensor", "topic"].into_iter().zip([sensors, topics]).filter_map(|(what, counts)| said(what, counts));
    let mut told: Vec<String> = of_lists.collect();
    let (sensors, topics) = (before.sensors.clone(), before.topics.clone());
    if (MqttSnPlan { sensors, topics, ..after.clone() }) != *before {
        told.push("other keys".to_owned());
    }
    if told.is_empty() { "another order".to_owned() } else { told.join(", ") }
}

/// How many are added, removed and changed.
fn counted<T: PartialEq, K: Hash + Eq + ?Sized>(before: &[T], after: &[T], key: fn(&T) -> &K) -> [usize; 3] {
    let old: HashMap<&K, &T> = before.iter().map(|one| (key(one), one)).collect();
    let new: HashMap<&K, &T> = after.iter().map(|one| (key(one), one)).collect();
    let added = new.keys().filter(|key| !old.contains_key(*key)).count();
    let removed = old.keys().filter(|key| !new.contains_key(*key)).count();
    let changed = new.iter().filter(|(key, one)| old.get(*key).is_some_and(|before| before != *one)).count();
    [added, removed, changed]
}

/// `2 sensors added, 1 removed`; `None`: there is nothing to say.
fn said(what: &str, counts: [usize; 3]) -> Option<String> {
    let mut said = String::new();
    for (count, how) in counts.into_iter().zip(["added", "removed", "changed"]).filter(|(count, _)| *count > 0) {
        if said.is_empty() {
            let plural = if count == 1 { "" } else { "s" };
            said = format!("{count} {what}{plural} {how}");
        } else {
            said = format!("{said}, {count} {how}");
        }
    }
    (!said.is_empty()).then_some(said)
}

#[cfg(all(test, feature = "mqtt-sn"))]
mod tests {
    use std::path::Path;

    use super::super::super::plan::Plan;
    use super::super::super::{HostFacts, parse};
    use super::super::{arranged, difference};

    const SENSORS: &str = "listen = \"udp:127.0.0.1:1884\"\nprotocol = \"mqtt-sn\"\n";

    fn plan(door: &str) -> Plan {
        let text = format!("[gateway]\nname = \"gw\"\n[[broker.listener]]\n{door}");
        parse(&text, Path::new("ironbridge.toml"), &HostFacts::default()).expect("it is right").plan
    }

    fn told(before: &str, after: &str) -> Vec<String> {
        let old = plan(before);
        difference(&old, &arranged(&old, plan(after))).touched.iter().map(ToString::to_string).collect()
    }

    fn with(keys: &str, sensors: &[&str], topics: &[&str]) -> String {
        let sensors = sensors.iter().map(|it| format!("[[broker.listener.sensor]]\n{it}\n"));
        let topics = topics.iter().map(|it| format!("[[broker.listener.topic]]\n{it}\n"));
        format!("{SENSORS}{keys}\n{}", sensors.chain(topics).collect::<String>())
    }

    #[test]
    fn of_a_listener_that_changed_it_is_told_whether_it_is_closed_or_what_is_another_for_its_sensors() {
        let sensor = |id: &str| format!("client_id = \"{id}\"");
        let [a, b, c] = ["a", "b", "c"].map(sensor);
        let named = format!("{a}\nuser = \"n\"");
        let (one, other) = ("id = 1\nname = \"x/one\"", "id = 1\nname = \"x/other\"");
        let base = with("", &[&a, &b], &[one]);
        let cases = [
            (with("", &[&a, &b, &c], &[one]), "1 sensor added, stays open"),
            (with("", &[&named, &c], &[one]), "1 sensor added, 1 removed, 1 changed, stays open"),
            (with("", &[], &[other]), "2 sensors removed, 1 topic changed, stays open"),
            (with("", &[&b, &a], &[one]), "another order, stays open"),
            (with("mqtt_sn = { retry = \"2s\" }", &[&a, &b], &[]), "1 topic removed, other keys, stays open"),
            (with("mqtt_sn = { gateway_id = 9 }", &[&a, &b, &c], &[one]), "closed and opened anew"),
            (with("mqtt_sn = { max_datagram = \"100B\" }", &[&a, &b], &[one]), "closed and opened anew"),
            (with("max_qos = 1", &[&a, &b], &[one]), "closed and opened anew"),
        ];
        for (after, detail) in cases {
            assert_eq!(told(&base, &after), [format!("listener udp:127.0.0.1:1884 changed: {detail}")]);
        }
        let plain = |rights: &str| format!("listen = \"127.0.0.1:1883\"\nanonymous = \"{rights}\"\n");
        let changed = ["listener 127.0.0.1:1883 changed: closed and opened anew"];
        assert_eq!(told(&plain("read"), &plain("read-write")), changed);
    }
}
