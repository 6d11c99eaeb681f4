//! A host application made of srad (crates.io), which nobody here wrote: what it makes of an edge node, as a line of JSON each; what
//! is written here, as commands. `sparkplug.py` builds it, in target/foreign; it is no target of this package.
//!
//! usage: PROGRAM PORT       in: {"group", "node", "device": "pump"|null, "alias": 7, "name": …, "value": …}
//! out: {"kind", "group", "node", "device", "list": [[name, value, time, historical, null], …], "births": {name: [type, alias]}}

use std::collections::HashMap;
use std::io::BufRead;

use serde_json::{Value, json};
use srad::app::generic_app::{ApplicationBuilder, MetricStore, StateUpdateError};
use srad::app::{MetricBirthDetails, MetricDetails, PublishMetric, PublishTopic, SubscriptionConfig};
use srad::client_rumqtt::{EventLoop, MqttOptions};
use srad::types::payload::DataType;
use srad::types::{MetricId, MetricValueKind};

/// The metrics of a node, or of a device of it.
struct Store {
    group: String,
    node: String,
    device: Option<String>,
    known: HashMap<MetricId, (String, DataType)>,
}

impl Store {
    fn say(&self, kind: &str, list: Vec<Value>, births: Value) {
        let letter = if self.device.is_some() { "D" } else { "N" };
        let kind = format!("{letter}{kind}");
        let (group, node, device) = (&self.group, &self.node, &self.device);
        println!(
            "{}",
            json!({"kind": kind, "group": group, "node": node, "device": device, "list": list, "births": births})
        );
    }
}

fn told(name: &str, kind: DataType, details: MetricDetails) -> Result<Value, StateUpdateError> {
    let null = details.value.is_none();
    let value = match details.value {
        None => Value::Null,
        Some(value) => match MetricValueKind::try_from_metric_value(kind, value) {
            Ok(MetricValueKind::Int32(value)) => json!(value),
            Ok(MetricValueKind::Int64(value)) => json!(value),
            Ok(MetricValueKind::UInt64(value)) => json!(value),
            Ok(MetricValueKind::Float(value)) => json!(f64::from(value)),
            Ok(MetricValueKind::Double(value)) => json!(value),
            Ok(MetricValueKind::Boolean(value)) => json!(value),
            Ok(MetricValueKind::String(value)) => json!(value),
            Ok(other) => json!(format!("{other:?}")),
            Err(error) => {
                println!("{}", json!({"kind": "ERROR", "error": format!("{name}: {error}")}));
                return Err(StateUpdateError::InvalidValue);
            }
        },
    };
    Ok(json!([name, value, details.timestamp, details.is_historical, null]))
}

impl MetricStore for Store {
    fn set_stale(&mut self) {
        self.say("STALE", Vec::new(), Value::Null);
    }

    fn update_from_birth(&mut self, details: Vec<(MetricBirthDetails, MetricDetails)>) -> Result<(), StateUpdateError> {
        self.known.clear();
        let (mut list, mut births) = (Vec::new(), serde_json::Map::new());
        for (birth, details) in details {
            self.known.insert(birth.get_metric_id(), (birth.name.clone(), birth.datatype));
            births.insert(birth.name.clone(), json!([format!("{:?}", birth.datatype), birth.alias]));
            list.push(told(&birth.name, birth.datatype, details)?);
        }
        self.say("BIRTH", list, births.into());
        Ok(())
    }

    fn update_from_data(&mut self, details: Vec<(MetricId, MetricDetails)>) -> Result<(), StateUpdateError> {
        let mut list = Vec::new();
        for (id, details) in details {
            let (name, kind) = self.known.get(&id).ok_or(StateUpdateError::UnknownMetric)?;
            list.push(told(name, *kind, details)?);
        }
        self.say("DATA", list, Value::Null);
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let mut options = MqttOptions::new("srad-host", "127.0.0.1", port);
    options.set_keep_alive(std::time::Duration::from_secs(5));
    let (events, client) = EventLoop::new(options, 100);
    let builder = ApplicationBuilder::new("srad", events, client, SubscriptionConfig::AllGroups);
    let builder = builder.on_online(|| println!("{}", json!({"kind": "READY"}))).on_node_created(|node| {
        let (group, id) = (node.id().group.clone(), node.id().node.clone());
        let store = |device| Store { group: group.clone(), node: id.clone(), device, known: HashMap::new() };
        node.register_metric_store(store(None));
        let (group, id) = (group.clone(), id.clone());
        node.on_device_created(move |device| {
            let name = Some(device.name().to_owned());
            device.register_metric_store(Store {
                group: group.clone(),
                node: id.clone(),
                device: name,
                known: HashMap::new(),
            });
        });
    });
    let (application, client) = builder.build();
    tokio::spawn(application.run());
    let (wishes, mut wished) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let wish: Value = serde_json::from_str(&line).expect("a wish");
            if wishes.blocking_send(wish).is_err() {
                return;
            }
        }
    });
    while let Some(wish) = wished.recv().await {
        let text = |key: &str| wish[key].as_str().unwrap_or_default().to_owned();
        let Some(device) = wish["device"].as_str() else {
            client.publish_node_rebirth(&text("group"), &text("node")).await.expect("sent");
            continue;
        };
        let topic = PublishTopic::new_device_cmd(&text("group"), &text("node"), device);
        let id = wish["alias"].as_u64().map_or_else(|| MetricId::Name(text("name")), MetricId::Alias);
        let metric = match &wish["value"] {
            Value::Number(number) if number.is_i64() => PublishMetric::new(id, number.as_i64().unwrap_or(0) as i32),
            other => PublishMetric::new(id, other.as_f64().unwrap_or(0.0) as f32),
        };
        client.publish_metrics(topic, vec![metric]).await.expect("sent");
    }
}
