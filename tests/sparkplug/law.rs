//! What a host may rely on, whatever happens: checked over everything that an edge node has said, and the values in it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use rumqttc::QoS;

use crate::host::{Did, Entry, Host, Message};
use crate::payload::{Metric, Payload, Value};

/// One value that a host has of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub unix_ms: u64,
    pub value: Option<Value>,
    pub historical: bool,
    pub in_birth: bool,
}

/// By device and metric name; the node's own stand under "".
pub type Values = BTreeMap<(String, String), Vec<Told>>;

/// An edge node as its host sees it.
#[derive(Default)]
struct Session {
    bd_seq: Option<u64>,
    next_seq: Option<u64>,
    /// Alias to device and name, of this session.
    aliases: BTreeMap<u64, (String, String)>,
    /// Devices that are alive.
    devices: Vec<String>,
    /// Those of before the NBIRTH: a host shows them as they were until it is told that they live or died.
    untold: Vec<String>,
    /// Has anything but births been sent since the NBIRTH?
    data: bool,
}

/// Everything an edge node said, held against the rules; panics where one is broken.
pub fn lawful(host: &Host, devices: &[&str]) -> Values {
    lawful_log(host.log(), devices)
}

/// The same of what somebody heard who was not asked to let it in.
pub fn lawful_log(log: Vec<Entry>, devices: &[&str]) -> Values {
    let (mut values, mut sessions) = (Values::new(), BTreeMap::<usize, Session>::new());
    for entry in log {
        let session = sessions.entry(entry.connection).or_default();
        match &entry.did {
            Did::Connect(connect) => {
                assert!(connect.clean_session, "nothing of an old session is wanted");
                let will = connect.last_will.as_ref().expect("a death is in every CONNECT");
                assert_eq!(
                    (will.topic.as_str(), will.qos, will.retain),
                    ("spBv1.0/acme/NDEATH/gw", QoS::AtLeastOnce, false)
                );
                session.bd_seq = Some(death(&will.message));
            }
            Did::Subscribe(filters) => {
                assert_eq!(session.next_seq, None, "it subscribes before its birth: {filters:?}");
                assert!(filters.iter().any(|(_, qos)| *qos == QoS::AtLeastOnce));
            }
            Did::Publish { .. } => {
                if let Some(message) = crate::host::Message::of(&entry) {
                    said(session, &message, devices, &mut values);
                }
            }
            Did::Unsubscribe | Did::Leave | Did::Gone => {}
        }
    }
    values
}

/// The payload of a death: bdSeq and nothing else. Its bdSeq.
pub fn death(payload: &[u8]) -> u64 {
    let death = Payload::decode(payload).expect("a payload of Sparkplug");
    assert_eq!((death.seq, death.metrics.len()), (None, 1), "{death:?}");
    let number = death.bd_seq().expect("a bdSeq");
    assert!(number <= 255);
    number
}

fn said(session: &mut Session, message: &Message, devices: &[&str], values: &mut Values) {
    let Message { kind, payload, .. } = message;
    assert_eq!((message.group.as_str(), message.node.as_str(), message.retain), ("acme", "gw", false));
    assert_eq!(message.device.is_some(), kind.starts_with('D'), "{kind}");
    assert!(payload.timestamp.is_some_and(|sent| sent > 1_700_000_000_000), "{kind}: when it was sent");
    if kind == "NDEATH" {
        assert_eq!(Some(death(&payload.encode_to_vec())), session.bd_seq);
        session.next_seq = None;
        return;
    }
    assert_eq!(message.qos, QoS::AtMostOnce, "{kind}");
    let seq = payload.seq.expect("every message but a death is counted");
    if kind == "NBIRTH" {
        assert_eq!(seq, 0);
        session.bd_seq = session.bd_seq.or(payload.bd_seq());
        assert_eq!(payload.bd_seq(), session.bd_seq, "the birth is of the death before it");
        let rebirth = payload.named("Node Control/Rebirth").expect("it can be asked for");
        assert_eq!((rebirth.alias, rebirth.datatype, &rebirth.value), (None, Some(11), &Some(Value::Bool(false))));
        session.untold.append(&mut session.devices);
        (session.aliases, session.data) = (BTreeMap::new(), false);
    } else {
        assert_eq!(Some(seq), session.next_seq, "{kind} {:?}: one count for all of it", message.device);
    }
    session.next_seq = Some((seq + 1) % 256);
    let device = message.device.clone().unwrap_or_default();
    match kind.as_str() {
        "NBIRTH" | "DBIRTH" => {
            born(session, &device, payload);
            session.untold.retain(|before| *before != device);
            if kind == "DBIRTH" && !session.devices.contains(&device) {
                session.devices.push(device.clone());
            }
        }
        "DDEATH" => {
            assert!(session.devices.contains(&device), "{device} dies, and did not live");
            session.devices.retain(|alive| *alive != device);
        }
        "NDATA" | "DDATA" => {
            let first = !std::mem::replace(&mut session.data, true);
            let all = devices.iter().all(|device| session.devices.iter().any(|born| born == device));
            assert!(!first || all, "all are born before data: {:?}", session.devices);
            assert!(session.untold.is_empty(), "neither born again nor dead: {:?}", session.untold);
            assert!(kind == "NDATA" || session.devices.contains(&device), "data of a device that is dead: {device}");
        }
        other => panic!("an edge node does not send {other}"),
    }
    let birth = kind.ends_with("BIRTH");
    let mut newest = 0;
    for metric in &payload.metrics {
        let at = metric.timestamp.unwrap_or_else(|| panic!("{kind}: a metric without a time: {metric:?}"));
        assert_eq!(metric.value.is_none(), metric.is_null == Some(true), "{metric:?}");
        let historical = metric.is_historical == Some(true);
        if !historical {
            assert!(newest <= at, "in order of time: {kind}");
            newest = at;
        }
        let key = if birth {
            (device.clone(), metric.name.clone().expect("a name"))
        } else {
            known(session, &device, metric)
        };
        let told = Told { unix_ms: at, value: metric.value.clone(), historical, in_birth: birth };
        values.entry(key).or_default().push(told);
    }
}

fn born(session: &mut Session, device: &str, payload: &Payload) {
    let mut names = BTreeSet::new();
    for metric in &payload.metrics {
        let name = metric.name.clone().expect("a birth names its metrics");
        assert!(names.insert(name.clone()), "{device}: two metrics are {name}");
        assert!(metric.datatype.is_some_and(|kind| (1..=19).contains(&kind)), "{name} has a type");
        if let Some(properties) = &metric.properties {
            assert_eq!(properties.keys.len(), properties.values.len(), "{name}");
            assert!(properties.values.iter().all(|value| value.kind.is_some()), "{name}: types of its properties");
        }
        if let Some(quality) = metric.property("Quality") {
            assert_eq!(quality.kind, Some(3));
            assert!([Some(0), Some(192), Some(500)].contains(&quality.int), "{name}: {quality:?}");
        }
        let whose = (device.to_owned(), name.clone());
        if let Some(alias) = metric.alias {
            let other = session.aliases.insert(alias, whose.clone());
            assert!(other.as_ref().is_none_or(|other| *other == whose), "{alias} is {whose:?} and {other:?}");
        } else {
            assert!(name == "bdSeq" || name.starts_with("Node Control/"), "{name} has an alias");
        }
    }
}

fn known(session: &Session, device: &str, metric: &Metric) -> (String, String) {
    if let Some(name) = &metric.name {
        assert!(metric.alias.is_none() && name.starts_with("Node Control/"), "data go by alias: {metric:?}");
        return (device.to_owned(), name.clone());
    }
    assert_eq!(metric.datatype, None, "the birth has said it: {metric:?}");
    let alias = metric.alias.expect("data go by alias");
    let whose = session.aliases.get(&alias).unwrap_or_else(|| panic!("{alias} is in no birth"));
    assert_eq!(whose.0, device, "{whose:?}");
    whose.clone()
}

impl Message {
    /// The message of an entry, if it is one of Sparkplug.
    fn of(entry: &Entry) -> Option<Self> {
        crate::host::message(entry.clone())
    }
}
