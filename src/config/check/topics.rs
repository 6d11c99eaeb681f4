//! Tag topics: the template of `[gateway]`, and one unique topic per tag.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::plan::{DevicePlan, TagPlan};
use super::super::problem::Finding;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::gateway::Gateway;
use super::names::level_problem;
use crate::model::topic;

const VARIABLES: &str = "{gateway} {device} {tag} {bus} {group}";
const RESERVED: &str =
    "a tag topic must not begin with `$` or `ironbridge/` and must not end with `/set` or `/set/result`";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Gateway,
    Device,
    Tag,
    Bus,
    Group,
}

/// A topic with places for names.
#[derive(Debug)]
pub struct Template<'a> {
    /// As it was written.
    pub text: &'a str,
    parts: Vec<Part<'a>>,
    at: Option<At>,
}

/// What is put into a template.
#[derive(Debug, Clone, Copy)]
pub struct TopicNames<'a> {
    /// `{gateway}`
    pub gateway: &'a str,
    /// `{bus}`
    pub bus: &'a str,
    /// `{device}`
    pub device: &'a str,
    /// `{tag}`
    pub tag: &'a str,
    /// `{group}`
    pub group: &'a str,
}

impl<'a> Template<'a> {
    /// `{gateway}/{device}/{tag}`
    pub fn standard() -> Self {
        let slash = Part::Text("/");
        let parts = vec![Part::Gateway, slash, Part::Device, slash, Part::Tag];
        Self { text: "{gateway}/{device}/{tag}", parts, at: None }
    }

    /// Reads and checks a template; what is wrong with it alone is reported here, once, not at every tag.
    pub fn parse(section: &Section<'a, '_>, text: Spot<&'a str>, gateway: &str) -> Option<Self> {
        let template = match parts(text.value) {
            Ok(parts) => Self { text: text.value, parts, at: Some(text.at) },
            Err(message) => {
                section.report(section.wrong("topic", text.at, message).allowed(VARIABLES));
                return None;
            }
        };
        let any = "x";
        let topic = template.build(TopicNames { gateway, bus: any, device: any, tag: any, group: any });
        let problem = match topic::check_topic(&topic) {
            Err(bad) => bad.to_string(),
            Ok(()) if topic.chars().any(char::is_control) => "a topic must not contain control characters".to_owned(),
            Ok(()) if topic::is_reserved(&topic) => RESERVED.to_owned(),
            Ok(()) => return Some(template),
        };
        section.report(section.wrong("topic", text.at, problem));
        None
    }

    /// Does it have a place for the group?
    fn uses_group(&self) -> bool {
        self.parts.contains(&Part::Group)
    }

    fn build(&self, names: TopicNames<'_>) -> String {
        let mut topic = String::with_capacity(64);
        for part in &self.parts {
            topic.push_str(match part {
                Part::Text(text) => text,
                Part::Gateway => names.gateway,
                Part::Device => names.device,
                Part::Tag => names.tag,
                Part::Bus => names.bus,
                Part::Group => names.group,
            });
        }
        topic
    }
}

fn parts(mut rest: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    while let Some(open) = rest.find(['{', '}']) {
        let (text, behind) = rest.split_at(open);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        let Some((variable, after)) = behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            return Err("a brace without its partner".to_owned());
        };
        parts.push(match variable {
            "gateway" => Part::Gateway,
            "device" => Part::Device,
            "tag" => Part::Tag,
            "bus" => Part::Bus,
            "group" => Part::Group,
            other => return Err(format!("{{{other}}} is no name that can be put in here")),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

/// The layout `device` of an uplink needs a topic for each device, which is no tag's and no other device's.
pub fn device_topics(uplink: &Section<'_, '_>, gateway: &Gateway<'_>, devices: &[DevicePlan], tags: &[TagPlan]) {
    let Some(template) = &gateway.template else { return }; // reported
    let at = uplink.get("layout").map_or(uplink.at, |node| node.at);
    let problem = |message: String| uplink.report(uplink.wrong("layout", at, message));
    let tag_topics: HashSet<&str> = tags.iter().map(|tag| &*tag.topic).collect();
    let mut owners: HashMap<String, &str> = HashMap::new();
    for device in devices {
        for tag in tags.get(device.tags.clone()).unwrap_or_default() {
            if tag.topic.is_empty() {
                continue; // reported
            }
            let names = [gateway.plan.name.as_str(), &device.name, &tag.name];
            let Some(topic) = topic::device_topic(template.text, &tag.topic, names) else {
                return problem(format!("the layout device needs {{tag}} in the topic template \"{}\"", template.text));
            };
            if topic::is_reserved(&topic) {
                return problem(format!("the topic of the device {} would be \"{topic}\": {RESERVED}", device.name));
            }
            if tag_topics.contains(topic.as_str()) {
                return problem(format!(
                    "the topic of the device {} would be \"{topic}\": that is a tag's",
                    device.name
                ));
            }
            let owner = *owners.entry(topic.clone()).or_insert(&device.name);
            if owner != device.name {
                return problem(format!(
                    "the devices {owner} and {} would both have the topic \"{topic}\"",
                    device.name
                ));
            }
        }
    }
}

/// All tag topics, each with the place of the tag it belongs to.
#[derive(Debug, Default)]
pub struct TopicBook {
    taken: HashMap<Arc<str>, At>,
}

impl TopicBook {
    /// Builds the topic of a tag and checks it; an empty one when it is wrong, which was reported.
    pub fn enter(
        &mut self,
        section: &Section<'_, '_>,
        at: At,
        template: &Template<'_>,
        names: TopicNames<'_>,
    ) -> Arc<str> {
        if template.uses_group()
            && let Some(message) = level_problem(names.group)
        {
            let message = format!("the topic template of this gateway uses {{group}}: {message}");
            let at = section.get("group").map_or(at, |node| node.at);
            section.report(section.wrong("group", at, message));
            return Arc::from("");
        }
        let topic = template.build(names);
        let problem = |message: String| section.report(section.wrong("name", at, message));
        if let Err(bad) = topic::check_topic(&topic) {
            problem(format!("its topic would be \"{topic}\": {bad}"));
        } else if topic::is_reserved(&topic) {
            problem(format!("its topic would be \"{topic}\": {RESERVED}"));
        } else {
            return self.take(section, at, template, topic);
        }
        Arc::from("")
    }

    fn take(&mut self, section: &Section<'_, '_>, at: At, template: &Template<'_>, topic: String) -> Arc<str> {
        let topic: Arc<str> = topic.into();
        if let Some(first) = self.taken.get(&topic) {
            let missing = [(Part::Device, "{device}"), (Part::Tag, "{tag}")];
            let hint = match missing.iter().find(|(part, _)| !template.parts.contains(part)) {
                Some((_, variable)) if template.at.is_some() => format!("; the template has no {variable}"),
                _ => String::new(),
            };
            let finding: Finding =
                section.wrong("name", at, format!("its topic \"{topic}\" belongs to another tag already{hint}"));
            section.report(finding.also(*first));
            return topic;
        }
        self.taken.insert(topic.clone(), at);
        topic
    }
}
