//! `[gateway]` and `[store]`.

use std::path::PathBuf;
use std::time::Duration;

use super::super::plan::{GatewayPlan, StorePlan};
use super::super::raw::Trail;
use super::super::schema;
use super::super::section::{Section, Spot};
use super::names::{NAME_ALLOWED, level_problem};
use super::topics::Template;

const DATA_DIR: &str = "/var/lib/ironbridge";
const STORE_SIZE: u64 = 512 << 20;
const STORE_SIZE_MIN: u64 = 8 << 20;
const STORE_SIZE_MAX: u64 = 16 << 40;
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
    let Some(section) = root.get("gateway").and_then(|node| Section::open(root.cx, node, &trail, schema::GATEWAY))
    else {
        let plan = GatewayPlan { name: hostname.to_owned(), data_dir: PathBuf::from(DATA_DIR) };
        return Gateway { plan, template: Some(Template::standard()), hostname };
    };
    let name = match section.get("name") {
        None => hostname.to_owned(),
        Some(_) => {
            section.required_text("name", "").map_or_else(String::new, |text| gateway_name(&section, text, hostname))
        }
    };
    let template = match section.get("topic") {
        None => Some(Template::standard()),
        Some(_) => section.text("topic").and_then(|text| Template::parse(&section, text, &name)),
    };
    let data_dir = section.path("data_dir").map_or_else(|| PathBuf::from(DATA_DIR), |path| path.value);
    Gateway { plan: GatewayPlan { name, data_dir }, template, hostname }
}

fn gateway_name(section: &Section<'_, '_>, text: Spot<&str>, hostname: &str) -> String {
    let name = text.value.replace("{hostname}", hostname);
    if let Some(message) = level_problem(&name) {
        let message =
            if name == text.value { message } else { format!("becomes \"{name}\" on this machine: {message}") };
        section.report(section.wrong("name", text.at, message).allowed(NAME_ALLOWED));
    } else if name.contains(['{', '}']) {
        section.report(section.wrong("name", text.at, "only {hostname} is replaced in a gateway's name"));
    }
    name
}

/// `[store]`; all its keys have defaults.
pub fn store(root: &Section<'_, '_>) -> StorePlan {
    let mut plan = StorePlan { max_size: STORE_SIZE, commit_interval: COMMIT_INTERVAL };
    let trail = Trail::Key(root.trail, "store");
    if let Some(section) = root.get("store").and_then(|node| Section::open(root.cx, node, &trail, schema::STORE)) {
        let size = section.size("max_size", STORE_SIZE_MIN..=STORE_SIZE_MAX);
        plan.max_size = size.unwrap_or(STORE_SIZE);
        let interval = section.duration("commit_interval", COMMIT_INTERVAL_MIN..=COMMIT_INTERVAL_MAX);
        plan.commit_interval = interval.unwrap_or(COMMIT_INTERVAL);
    }
    plan
}
