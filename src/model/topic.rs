//! Topics are built and parsed here, and nowhere else: validity, filters, templates, and who owns what (`ownership`).
//!
//! Rules from MQTT 3.1.1 and 5, section 4.7. To the gateway belong tag topics, `…/set/result`, `ironbridge/…` and `$SYS/…`.

mod ownership;

pub use ownership::{Owner, Ownership};

/// Longest topic we accept, bytes (MQTT allows 65 535; nobody's plant needs it and every retained topic costs memory).
pub const TOPIC_BYTES_MAX: usize = 1024;

/// Longest shared subscription as it comes, `$share/<group>/<filter>`, bytes: a group has a short name.
pub const SHARED_BYTES_MAX: usize = TOPIC_BYTES_MAX + 128;

/// Client ids that begin so belong to the gateway itself on its own broker: no client may come with one.
pub const INSIDE_ID: &str = "$ironbridge/";

/// Why a text is no topic or no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// Zero characters.
    #[error("a topic must not be empty")]
    Empty,
    /// More than [`TOPIC_BYTES_MAX`] bytes.
    #[error("a topic has at most 1024 bytes")]
    TooLong,
    /// U+0000. Other control characters are allowed, though nobody should use them (MQTT 5, section 1.5.4): what shows or logs a
    /// topic escapes them.
    #[error("a topic must not contain NUL")]
    Nul,
    /// `+` or `#` in a topic.
    #[error("a topic must not contain the wildcards + and #")]
    Wildcard,
    /// `+` or `#` in a filter, but not as a whole level, or `#` not last.
    #[error("in a filter + and # stand alone between slashes, and # comes last")]
    MisplacedWildcard,
    /// `$share/` without group or filter.
    #[error("a shared subscription is $share/<group>/<filter>")]
    BadShare,
    /// More than [`SHARED_BYTES_MAX`] bytes.
    #[error("a shared subscription has at most 1152 bytes")]
    ShareTooLong,
}

/// Checks the name of a topic.
pub fn check_topic(topic: &str) -> Result<(), BadTopic> {
    check_text(topic)?;
    if topic.contains(['+', '#']) { Err(BadTopic::Wildcard) } else { Ok(()) }
}

/// Checks a subscription filter (without `$share`; see [`split_share`]).
pub fn check_filter(filter: &str) -> Result<(), BadTopic> {
    check_text(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let alone = level.len() == 1;
        if level.contains('+') && !alone || level.contains('#') && (!alone || levels.peek().is_some()) {
            return Err(BadTopic::MisplacedWildcard);
        }
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), BadTopic> {
    if text.is_empty() {
        Err(BadTopic::Empty)
    } else if text.len() > TOPIC_BYTES_MAX {
        Err(BadTopic::TooLong)
    } else if text.contains('\0') {
        Err(BadTopic::Nul)
    } else {
        Ok(())
    }
}

/// `$share/<group>/<filter>` to (group, filter); `None` when the filter is not shared.
pub fn split_share(filter: &str) -> Result<Option<(&str, &str)>, BadTopic> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return Ok(None);
    };
    if filter.len() > SHARED_BYTES_MAX {
        return Err(BadTopic::ShareTooLong);
    }
    match rest.split_once('/') {
        Some((group, inner)) if !group.is_empty() && !inner.is_empty() && !group.contains(['+', '#']) => {
            Ok(Some((group, inner)))
        }
        _ => Err(BadTopic::BadShare),
    }
}

/// Does a valid filter match a valid topic? Wildcards in the first level never match a topic that begins with `$`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Does a filter cover every topic that `inner` covers? For ACLs: a subscription is allowed when a rule covers it.
pub fn covers(filter: &str, inner: &str) -> bool {
    if inner.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = inner.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            ("+", Some("#")) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// The gateway's own topics below `ironbridge/<gateway>/`.
#[derive(Debug, Clone)]
pub struct GatewayTopics {
    base: String,
}

impl GatewayTopics {
    /// Topics of the gateway with this name (already checked to be one level).
    pub fn new(gateway: &str) -> Self {
        Self { base: format!("ironbridge/{gateway}") }
    }

    /// Retained `{"state":"online",…}`; upstream also the last will.
    pub fn status(&self) -> String {
        format!("{}/status", self.base)
    }

    /// Retained state of one device.
    pub fn device(&self, device: &str) -> String {
        format!("{}/device/{device}", self.base)
    }

    /// Retained while an alarm of this tag is active.
    pub fn alarm(&self, device: &str, tag: &str) -> String {
        format!("{}/alarm/{device}/{tag}", self.base)
    }

    /// Events of the gateway.
    pub fn event(&self) -> String {
        format!("{}/event", self.base)
    }

    /// Many records in one message.
    pub fn batch(&self) -> String {
        format!("{}/batch", self.base)
    }

    /// A summary of an outage, not retained.
    pub fn summary(&self) -> String {
        format!("{}/summary", self.base)
    }

    /// Declared losses.
    pub fn gap(&self) -> String {
        format!("{}/gap", self.base)
    }
}

/// Whether a bridge of this client id is connected, as mosquitto has it.
pub fn bridge_state(client_id: &str) -> String {
    format!("$SYS/broker/connection/{client_id}/state")
}

/// The command topic of a tag.
pub fn set_topic(tag_topic: &str) -> String {
    format!("{tag_topic}/set")
}

/// The result topic of a tag's commands.
pub fn result_topic(tag_topic: &str) -> String {
    format!("{tag_topic}/set/result")
}

/// The topic of a whole device: that of one of its tags, made from this template, without `{tag}` (and without the level,
/// where `{tag}` was all of it). `None` where nothing would be left, or where the topic was not made from the template, as
/// those of old records may not be. `names` are gateway, device and tag.
pub fn device_topic(template: &str, topic: &str, names: [&str; 3]) -> Option<String> {
    let [gateway, device, tag] = names;
    if template.split('/').count() != topic.split('/').count() {
        return None;
    }
    let (mut levels, mut found) = (Vec::new(), false);
    for (made_from, level) in template.split('/').zip(topic.split('/')) {
        let Some((_, after)) = made_from.rsplit_once("{tag}") else {
            levels.push(level.to_owned());
            continue;
        };
        found = true;
        let after = after.replace("{gateway}", gateway).replace("{device}", device);
        let before = level.strip_suffix(&after)?.strip_suffix(tag)?;
        if !before.is_empty() || !after.is_empty() {
            levels.push(format!("{before}{after}"));
        }
    }
    let topic = levels.join("/");
    (found && !topic.is_empty()).then_some(topic)
}

/// True for texts no tag topic may be: the gateway's own, and what looks like a command.
pub fn is_reserved(topic: &str) -> bool {
    is_gateways(topic) || topic.ends_with("/set")
}

/// True for topics that are the gateway's whatever its tags are called, and for filters that match nothing else.
pub fn is_gateways(topic: &str) -> bool {
    topic.starts_with('$')
        || topic == "ironbridge"
        || topic.starts_with("ironbridge/")
        || topic.ends_with("/set/result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        let yes = [
            ("#", "a"),
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("+/b", "a/b"),
            ("+/b", "/b"),
            ("a/+", "a/"),
            ("/+", "/a"),
            ("+/+", "/a"),
            ("$SYS/#", "$SYS/broker"),
            ("a/+/c", "a/é/c"),
            ("a", "a"),
        ];
        let no =
            [("a/+", "a"), ("a/+", "a/b/c"), ("+", "/a"), ("#", "$SYS/x"), ("+/x", "$SYS/x"), ("a", "b"), ("a/b", "a")];
        for (filter, topic) in yes {
            assert!(matches(filter, topic), "{filter} should match {topic}");
        }
        for (filter, topic) in no {
            assert!(!matches(filter, topic), "{filter} should not match {topic}");
        }
    }

    #[test]
    fn a_rule_covers_only_what_it_matches_whole() {
        for (rule, filter) in [("#", "a/#"), ("a/#", "a/+/b"), ("a/+", "a/+"), ("a/#", "a"), ("a/+/c", "a/b/c")] {
            assert!(covers(rule, filter), "{rule} covers {filter}");
        }
        for (rule, filter) in [("a/+", "a/#"), ("a/b", "a/+"), ("a/#", "#"), ("#", "$SYS/#"), ("+/b", "#")] {
            assert!(!covers(rule, filter), "{rule} does not cover {filter}");
        }
    }

    #[test]
    fn malformed_topics_and_filters_are_refused() {
        assert_eq!(check_topic(""), Err(BadTopic::Empty));
        assert_eq!(check_topic("a/+"), Err(BadTopic::Wildcard));
        assert_eq!(check_topic("a\0"), Err(BadTopic::Nul));
        assert_eq!(check_topic(&"x".repeat(1025)), Err(BadTopic::TooLong));
        for filter in ["a+", "a/#/b", "#a", "a/b+"] {
            assert_eq!(check_filter(filter), Err(BadTopic::MisplacedWildcard), "{filter}");
        }
        for filter in ["#", "+", "a/+/b/#", "/", "+/é"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        assert_eq!(split_share("$share/g/a/#"), Ok(Some(("g", "a/#"))));
        assert_eq!(split_share("$share/g"), Err(BadTopic::BadShare));
        let shared = |group: usize| format!("$share/{}/x", "g".repeat(group));
        assert!(split_share(&shared(128)).is_ok_and(|shared| shared.is_some()));
        assert_eq!(split_share(&shared(SHARED_BYTES_MAX - 8)), Err(BadTopic::ShareTooLong));
    }

    #[test]
    fn a_devices_topic_is_its_tags_topic_without_the_tag() {
        let of = |template, topic| device_topic(template, topic, ["gw", "pump", "flow"]);
        assert_eq!(of("acme/{gateway}/{device}/{tag}", "acme/gw/pump/flow").as_deref(), Some("acme/gw/pump"));
        assert_eq!(of("a/{tag}/{device}", "a/flow/pump").as_deref(), Some("a/pump"));
        assert_eq!(of("a/{tag}/b", "a/flow/b").as_deref(), Some("a/b"));
        assert_eq!(of("{group}/{device}-{tag}.raw", "hot/pump-flow.raw").as_deref(), Some("hot/pump-.raw"));
        assert_eq!(of("{tag}/{bus}/{device}", "flow/net/pump").as_deref(), Some("net/pump"));
        assert_eq!(of("flow/{tag}", "flow/flow").as_deref(), Some("flow"));
        assert_eq!(of("{tag}", "flow"), None, "nothing would be left");
        assert_eq!(of("a/{device}", "a/pump"), None, "no tag in it");
        assert_eq!(of("acme/{device}/{tag}", "acme/gw/pump/flow"), None, "an older template made it");
        assert_eq!(of("acme/{device}/{tag}", "acme/pump/level"), None);
    }
}
