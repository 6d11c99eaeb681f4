//! The published schema of the format `batch`, and the program that writes it: every field that is written is one that
//! stands in `config/ironbridge-batch.proto`, under that number and in that type.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Message or enum to its fields: number to type and name.
type Schema = BTreeMap<String, BTreeMap<u32, (String, String)>>;

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("readable")
}

/// `repeated sint64 tags = 13;` of each message, `ALARM = 0;` of each enum.
fn published() -> Schema {
    let mut schema = Schema::new();
    let mut open = None;
    for line in text("config/ironbridge-batch.proto").lines() {
        let line = line.split("//").next().expect("first part").trim();
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        match words.as_slice() {
            ["message" | "enum", name, "{"] => open = Some((*name).to_owned()),
            ["}"] => open = None,
            [kind @ .., name, "=", number] if open.is_some() => {
                let fields = schema.entry(open.clone().expect("open")).or_default();
                let number = number.parse().expect("a field number");
                assert_eq!(fields.insert(number, (kind.join(" "), (*name).to_owned())), None, "number {number} twice");
            }
            _ => {}
        }
    }
    schema
}

/// The same from the attributes of `schema.rs`.
fn written() -> Schema {
    let mut schema = Schema::new();
    let (mut open, mut attribute) = (String::new(), None);
    for line in text("src/payload/batch/schema.rs").lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("pub(super) struct ").or_else(|| line.split_once("pub(super) enum ")) {
            rest.trim_end_matches(" {").clone_into(&mut open);
        } else if let Some(inside) = line.strip_prefix("#[prost(").and_then(|rest| rest.strip_suffix(")]")) {
            attribute = Some(inside.to_owned());
        } else if let (Some(attribute), Some(field)) = (attribute.take(), line.strip_prefix("pub(super) ")) {
            let (name, rust) = field.trim_end_matches(',').split_once(": ").expect("a field");
            let (rest, number) = attribute.split_once("tag = \"").expect("its number");
            let number = number.trim_end_matches('"').parse().expect("a field number");
            let repeated = if rest.contains("repeated") { "repeated " } else { "" };
            let first = rest.split(',').next().expect("its type");
            let kind = match first.split_once(" = \"") {
                Some(("enumeration", name)) => name.trim_end_matches('"').to_owned(),
                Some((kind, _)) => kind.to_owned(),
                None if first == "message" => rust.trim_start_matches("Vec<").trim_end_matches('>').to_owned(),
                None => first.to_owned(),
            };
            let field = (format!("{repeated}{kind}"), name.trim_start_matches("r#").to_owned());
            schema.entry(open.clone()).or_default().insert(number, field);
        } else if let Some((name, number)) = line.trim_end_matches(',').split_once(" = ")
            && let Ok(number) = number.parse()
        {
            schema.entry(open.clone()).or_default().insert(number, (String::new(), name.to_uppercase()));
        }
    }
    schema
}

#[test]
fn the_program_writes_what_the_published_schema_says() {
    let published = published();
    assert_eq!(published, written());
    assert_eq!(published["Content"].len(), 25, "the reader of this test reads all of it");
    assert_eq!(published["Content"][&15], ("repeated sint64".to_owned(), "shape_columns".to_owned()));
}
