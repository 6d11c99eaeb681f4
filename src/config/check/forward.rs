//! `[[forward]]`: topics of local clients that go upstream.

use std::collections::HashMap;

use super::super::plan::{ForwardPlan, UplinkPlan, Use};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use crate::model::number::Class;
use crate::model::topic::{check_filter, is_gateways};

/// Each publish of a client is compared with all of them.
const FORWARDS_MAX: usize = 256;

/// `[[forward]]`; what each uplink carries beside its own is written into its plan.
pub fn forwards(root: &Section<'_, '_>, uplinks: &mut [UplinkPlan]) -> Vec<ForwardPlan> {
    let list = Trail::Key(root.trail, "forward");
    let mut seen: HashMap<&str, At> = HashMap::new();
    let mut forwards = Vec::new();
    let tables = root.tables("forward");
    if let (true, Some(node)) = (tables.len() > FORWARDS_MAX, root.get("forward")) {
        let finding = root.wrong("forward", node.at, format!("{} of them", tables.len()));
        root.report(finding.allowed(format!("at most {FORWARDS_MAX}")));
    }
    for (position, node) in tables.iter().enumerate() {
        let trail = Trail::Index(&list, position);
        let Some(section) = Section::open(root.cx, node, &trail, schema::FORWARD) else { continue };
        let class = section.choice_of("class", &Class::ALL, Class::as_str).map_or(Class::Telemetry, |spot| spot.value);
        let named = named(&section, class, uplinks);
        let Some(filter) = section.required_text("filter", "which topics, such as \"machines/#\"") else { continue };
        if let Some(message) = problem(filter.value) {
            section.report(section.wrong("filter", filter.at, message));
            continue;
        }
        if let Some(first) = seen.insert(filter.value, filter.at) {
            let message = "this filter goes upstream already; a topic is stored once, under the first that matches";
            section.report(section.wrong("filter", filter.at, message).also(first));
        }
        for uplink in uplinks.iter_mut().filter(|uplink| named.contains(&uplink.name)) {
            if uplink.sparkplug.is_some() {
                let message = format!(
                    "the uplink {} is an edge node of Sparkplug, which carries no messages of clients: give them a class \
                     that it does not carry",
                    uplink.name
                );
                section.report(section.wrong("filter", filter.at, message));
            }
            uplink.usage = Use::Letters;
        }
        forwards.push(ForwardPlan { filter: filter.value.to_owned(), class, uplinks: named });
    }
    forwards
}

fn problem(filter: &str) -> Option<String> {
    if let Err(bad) = check_filter(filter) {
        return Some(bad.to_string().replace("a topic", "a filter"));
    }
    if filter.starts_with("$share/") {
        return Some("name the filter without $share/<group>/".to_owned());
    }
    if filter.chars().any(char::is_control) {
        return Some("a filter must not contain control characters".to_owned());
    }
    is_gateways(filter).then(|| "these topics belong to the gateway, which sends them in its own way".to_owned())
}

/// The uplinks meant: those named, or all that carry the class. A stream has one numbering, so whoever has the class has
/// all of it.
fn named(section: &Section<'_, '_>, class: Class, uplinks: &[UplinkPlan]) -> Vec<String> {
    let carriers: Vec<&str> =
        uplinks.iter().filter(|uplink| uplink.classes.contains(&class)).map(|u| &*u.name).collect();
    let Some(words) = section.texts("uplinks") else {
        if carriers.is_empty() && section.get("uplinks").is_none() {
            let message = format!("no [[uplink]] carries the class {class}: these messages would go nowhere");
            section.report(section.wrong("class", section.get("class").map_or(section.at, |node| node.at), message));
        }
        return carriers.into_iter().map(str::to_owned).collect();
    };
    let at = section.get("uplinks").map_or(section.at, |node| node.at);
    if words.is_empty() {
        section.report(section.wrong("uplinks", at, "names nobody"));
    }
    let mut named: Vec<String> = Vec::new();
    for Spot { value: word, at } in words {
        if !uplinks.iter().any(|uplink| uplink.name == word) {
            section.report(section.wrong("uplinks", at, "there is no [[uplink]] of this name"));
        } else if !carriers.contains(&word) {
            section.report(section.wrong("uplinks", at, format!("this uplink does not carry the class {class}")));
        } else if named.iter().any(|name| name == word) {
            section.report(section.wrong("uplinks", at, "the same uplink twice"));
        } else {
            named.push(word.to_owned());
        }
    }
    let left_out: Vec<&str> = carriers.into_iter().filter(|name| !named.iter().any(|named| named == name)).collect();
    if !named.is_empty() && !left_out.is_empty() {
        let message = format!(
            "{} also carries the class {class}, whose numbers would have holes there: choose a `class` that only the uplinks \
             named here carry, or leave `uplinks` out",
            left_out.join(", ")
        );
        section.report(section.wrong("uplinks", at, message));
    }
    named
}
