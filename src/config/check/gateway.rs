//! `[gateway]` and `[store]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::plan::{GatewayPlan, StorePlan, TimeTrust};
use super::super::problem::Finding;
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::super::source::At;
use super::names::{NAME_ALLOWED, level_problem};
use super::topics::Template;
use crate::model::topic::is_reserved;

const DATA_DIR: &str = "/var/lib/ironbridge";
const STORE_SIZE: u64 = 512 << 20;
/// `max_size` of a store: what one needs to work at all.
pub const STORE_SIZE_MIN: u64 = 8 << 20;
/// And what no disk has.
pub const STORE_SIZE_MAX: u64 = 16 << 40;
/// `max_age`
pub const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
const TRIAL: Duration = Duration::from_secs(60);
const TRIAL_MIN: Duration = Duration::from_secs(5);
const TRIAL_MAX: Duration = Duration::from_secs(600);
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(100);
const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// `[gateway]`, with what only the other checks need.
#[derive(Debug)]
pub struct Gateway<'a> {
    /// For the plan.
    pub plan: GatewayPlan,
    /// How tag topics are built; `None` when it is wrong, which was reported.
    pub template: Option<Template<'a>>,
    /// The host's name, for `{hostname}` elsewhere.
    pub hostname: &'a str,
}

impl Gateway<'_> {
    /// Puts the names in for `{hostname}` and `{gateway}`, so that one file serves many boxes.
    pub fn expand(&self, text: &str) -> String {
        text.replace("{hostname}", self.hostname).replace("{gateway}", &self.plan.name)
    }
}

/// `[gateway]`; all its keys have defaults.
pub fn gateway<'a>(root: &Section<'a, '_>) -> Gateway<'a> {
    let trail = Trail::Key(root.trail, "gateway");
    let hostname = root.cx.facts.hostname.as_str();
    let section = root.get("gateway").and_then(|node| Section::open(root.cx, node, &trail, schema::GATEWAY));
    let written = section.filter(|section| section.get("name").is_some());
    let name = match written {
        Some(section) => section.required_text("name", "").and_then(|text| written_name(&section, text, hostname)),
        None => host_name(root, section.map_or(root.at, |section| section.at), hostname),
    };
    let topic = section.filter(|section| section.get("topic").is_some());
    let template = match (&name, topic) {
        (Some(name), None) => standard_template(root, written.as_ref(), name),
        (Some(name), Some(topic)) => topic.text("topic").and_then(|text| Template::parse(&topic, text, name)),
        // Without a name no topic can be built, but what is wrong with the template itself is said all the same.
        (None, Some(topic)) => {
            let checked = topic.text("topic").and_then(|text| Template::parse(&topic, text, "gateway"));
            drop(checked);
            None
        }
        (None, None) => None,
    };
    let data_dir = section.and_then(|section| section.path("data_dir"));
    let data_dir = data_dir.map_or_else(|| PathBuf::from(DATA_DIR), |path| path.value);
    let time_source = section.and_then(|section| time_source(&section)).unwrap_or_default();
    let trial = section.map_or(Some(TRIAL), |section| trial(&section));
    Gateway { plan: GatewayPlan { name: name.unwrap_or_default(), data_dir, time_source, trial }, template, hostname }
}

/// How long a reloaded configuration is on trial; `None` with `rollback = false`.
fn trial(section: &Section<'_, '_>) -> Option<Duration> {
    let after = section.duration("rollback_after", TRIAL_MIN..=TRIAL_MAX).unwrap_or(TRIAL);
    section.flag("rollback").is_none_or(|rollback| rollback.value).then_some(after)
}

fn time_source(section: &Section<'_, '_>) -> Option<TimeTrust> {
    let text = section.text("time_source")?;
    match text.value {
        "auto" => Some(TimeTrust::Auto),
        "system" => Some(TimeTrust::System),
        other => match other.strip_prefix("file:").filter(|path| path.starts_with('/') && !path.contains('\0')) {
            Some(path) => Some(TimeTrust::File(path.into())),
            None => {
                let allowed = "\"auto\", \"system\" or \"file:/absolute/path\"";
                section.report(section.wrong("time_source", text.at, "nobody who knows the time").allowed(allowed));
                None
            }
        },
    }
}

fn written_name(section: &Section<'_, '_>, text: Spot<&str>, hostname: &str) -> Option<String> {
    let name = text.value.replace("{hostname}", hostname);
    if let Some(message) = level_problem(&name) {
        let message =
            if name == text.value { message } else { format!("becomes \"{name}\" on this machine: {message}") };
        section.report(section.wrong("name", text.at, message).allowed(NAME_ALLOWED));
        return None;
    }
    if name.contains(['{', '}']) {
        section.report(section.wrong("name", text.at, "only {hostname} is replaced in a gateway's name"));
        return None;
    }
    Some(name)
}

/// Without a name of its own the gateway is called as the machine is.
fn host_name(root: &Section<'_, '_>, at: At, hostname: &str) -> Option<String> {
    let Some(message) = level_problem(hostname) else { return Some(hostname.to_owned()) };
    let message = format!("is missing, and this machine's name \"{hostname}\" cannot stand in for it: {message}");
    root.report(Finding::line(at, "gateway.name", message).allowed(NAME_ALLOWED));
    None
}

/// A gateway that is called ironbridge would publish its tags in the tree of all gateways.
fn standard_template<'a>(
    root: &Section<'a, '_>,
    written: Option<&Section<'a, '_>>,
    name: &str,
) -> Option<Template<'a>> {
    if !is_reserved(&format!("{name}/device/tag")) {
        return Some(Template::standard());
    }
    let at = written.and_then(|section| section.get("name")).map_or(root.at, |node| node.at);
    let message =
        format!("tags would be published below \"{name}/\", which is reserved: choose another name, or a `topic`");
    root.report(Finding::line(at, "gateway.name", message));
    None
}

/// `[store]`; all its keys have defaults.
pub fn store(root: &Section<'_, '_>) -> StorePlan {
    let mut plan = StorePlan { max_size: STORE_SIZE, max_age: None, commit_interval: COMMIT_INTERVAL };
    let trail = Trail::Key(root.trail, "store");
    if let Some(section) = root.get("store").and_then(|node| Section::open(root.cx, node, &trail, schema::STORE)) {
        let size = section.size("max_size", STORE_SIZE_MIN..=STORE_SIZE_MAX);
        plan.max_size = size.unwrap_or(STORE_SIZE);
        plan.max_age = section.duration("max_age", MAX_AGE);
        let interval = section.duration("commit_interval", COMMIT_INTERVAL_MIN..=COMMIT_INTERVAL_MAX);
        plan.commit_interval = interval.unwrap_or(COMMIT_INTERVAL);
    }
    plan
}
