//! The published schema of Sparkplug payloads, and the program that writes them: every field that is written or read is one
//! that stands in `config/ironbridge-sparkplug.proto`, under that number, in that type and that oneof.

#[path = "../support/wire_plant.rs"]
mod wire_plant;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ironbridge::model::value::Value as Of;
use ironbridge::payload::sparkplug::{DataType, Kind, Metric, Node, Payload, Value, value_of};

/// Message or enum to its fields: number to what it is (`optional uint64`, `oneof uint32`) and its name.
type Schema = BTreeMap<String, BTreeMap<u32, (String, String)>>;

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("readable")
}

/// `optional uint64 timestamp = 1;` of each message, the members of its oneof, `Int8 = 1;` of the enum.
fn published() -> Schema {
    let mut schema = Schema::new();
    let mut open: Vec<String> = Vec::new();
    for line in text("config/ironbridge-sparkplug.proto").lines() {
        let line = line.split("//").next().expect("first part").trim();
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        match words.as_slice() {
            ["message" | "enum" | "oneof", name, "{"] => open.push((*name).to_owned()),
            ["}"] => drop(open.pop()),
            [kind @ .., name, "=", number] if !open.is_empty() => {
                let oneof = if open.len() > 1 { "oneof " } else { "" };
                let field = (format!("{oneof}{}", kind.join(" ")), (*name).to_owned());
                let number = number.parse().expect("a field number");
                assert_eq!(schema.entry(open[0].clone()).or_default().insert(number, field), None, "{number} twice");
            }
            _ => {}
        }
    }
    schema
}

/// `StringValue` is `string_value`.
fn snake(name: &str) -> String {
    let lower = |letter: char| format!("_{}", letter.to_ascii_lowercase());
    let split = name.chars().map(|letter| if letter.is_ascii_uppercase() { lower(letter) } else { letter.into() });
    split.collect::<String>().trim_start_matches('_').to_owned()
}

/// The same from the attributes of `proto.rs`, and the types of `kind.rs`.
fn written() -> Schema {
    let mut schema = Schema::new();
    let (mut open, mut attribute) = (String::new(), None);
    for line in text("src/payload/sparkplug/proto.rs").lines().map(str::trim) {
        if let Some((_, name)) = line.split_once("pub(super) struct ").or_else(|| line.split_once("pub(super) enum ")) {
            name.trim_end_matches(" {").trim_end_matches("Value").clone_into(&mut open);
            if name.starts_with("PropertyValue") {
                "PropertyValue".clone_into(&mut open);
            }
        } else if let Some(inside) = line.strip_prefix("#[prost(").and_then(|rest| rest.strip_suffix(")]")) {
            attribute = Some(inside.to_owned()).filter(|inside| !inside.starts_with("oneof"));
        } else if let Some(attribute) = attribute.take() {
            let (kind, number) = attribute.split_once("tag = \"").expect("its number");
            let number = number.trim_end_matches('"').parse().expect("a field number");
            let first = kind.split(',').next().expect("its type").split(" = ").next().expect("its type");
            let label = ["optional", "repeated"].into_iter().find(|label| kind.contains(label));
            let (name, first) = match line.strip_prefix("pub(super) ").and_then(|field| field.split_once(": ")) {
                Some((name, rust)) if first == "message" => (
                    name.to_owned(),
                    rust.trim_end_matches(',').trim_end_matches('>').rsplit('<').next().expect("a type"),
                ),
                Some((name, _)) => (name.trim_start_matches("r#").to_owned(), first),
                None => (snake(line.split('(').next().expect("a variant")), first),
            };
            let field = (format!("{} {first}", label.unwrap_or("oneof")), name);
            assert_eq!(schema.entry(open.clone()).or_default().insert(number, field), None, "{open} {number} twice");
        }
    }
    schema
}

#[test]
fn the_program_writes_what_the_published_schema_of_sparkplug_says() {
    let mut published = published();
    let types = published.remove("DataType").expect("an enum");
    assert_eq!(published, written());
    assert_eq!(published["Metric"].len(), 15, "the reader of this test reads all of it");
    assert_eq!(published["Metric"][&10], ("oneof uint32".to_owned(), "int_value".to_owned()));
    for (number, (_, name)) in types {
        let kind = ironbridge::payload::sparkplug::DataType::from_code(number).map(|kind| format!("{kind:?}"));
        assert_eq!(kind.is_some(), (1..=15).contains(&number), "{name}");
        assert!(kind.is_none_or(|kind| kind.eq_ignore_ascii_case(&name)), "{name} = {number}");
    }
}

/// Bytes for each sample in messages of 1000: of the payload, and on the wire as the head of `cargo bench --bench wire` says.
#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn bytes_per_sample(pack: impl Fn(Payload) -> Vec<u8>) -> (f64, f64) {
    let samples = wire_plant::plant(20_000, false);
    let topic = Node::new("acme", wire_plant::GATEWAY).expect("good ids").device_topic(Kind::DData, "pump-01");
    let message = |samples: &[wire_plant::Sample]| {
        let mut payload = Payload::new(1_795_204_900_000, Some(7));
        for sample in samples {
            let kind = match sample.value {
                Of::Bool(_) => DataType::Boolean,
                Of::Float(_) => DataType::Float,
                _ => DataType::Int64,
            };
            payload.push(&Metric {
                name: None,
                alias: u64::try_from(sample.device * wire_plant::TAGS + sample.tag + 1).ok(),
                timestamp_ms: u64::try_from(sample.unix_ms).ok(),
                datatype: None,
                historical: false,
                value: value_of(Some(&sample.value), kind).unwrap_or(Value::Null),
                properties: &[],
            });
        }
        let payload = pack(payload).len();
        (payload, wire_plant::wire(&topic, payload))
    };
    let sizes: Vec<_> = samples.chunks(1000).map(message).collect();
    let each = |bytes: usize| bytes as f64 / samples.len() as f64;
    (each(sizes.iter().map(|size| size.0).sum()), each(sizes.iter().map(|size| size.1).sum()))
}

/// Seven in ten of these tags are floats, which take 17: two around it, three of alias, seven of time, five of value.
#[test]
fn a_sample_of_1000_tags_takes_16_5_bytes_and_on_the_wire_6_5_compressed() {
    let ((payload, wire), (_, packed)) = (bytes_per_sample(Payload::encode), bytes_per_sample(Payload::compressed));
    println!("{payload:.2} B a sample, {wire:.2} B on the wire, {packed:.2} B compressed");
    assert!(payload <= 16.5 && wire <= 17.5 && packed <= 6.5, "{payload:.2}, {wire:.2} and {packed:.2}");
}
