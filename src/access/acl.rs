//! The filters of `[[broker.acl]]`: does one of them cover a subscription, does one match a topic?
//!
//! Several rules for one client add up; there is nothing that takes away, and what no rule gives is denied. `%u` and `%c`
//! in a filter stand for the name and the client id of whoever asks. Both come from the client, so a name or id that
//! contains a wildcard or a slash fits no such filter: with `clients/%c/#` a client that calls itself `+` would read
//! everybody's topics, and one that calls itself `pump/secret` those of `pump`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::identity::{Identity, Who};
use crate::config::plan::{AclPlan, Anonymous};
use crate::model::topic::{covers, matches};

/// The name that stands for clients without one in `[[broker.acl]]`.
pub const ANONYMOUS: &str = "anonymous";

/// The name that stands for every client that has one and has proven it; `sensor:*` stands for all sensors.
pub const EVERYONE: &str = "*";

/// What stands before the name of a certificate.
pub const CERTIFICATE: &str = "cert:";

/// What stands before the name of a client of an MQTT-SN listener.
pub const SENSOR: &str = "sensor:";

/// All rules of one plan; immutable.
#[derive(Debug, Default)]
pub(super) struct Acl {
    anonymous: Rules,
    everyone: Rules,
    users: HashMap<Arc<str>, Rules>,
    certificates: HashMap<Arc<str>, Rules>,
    sensors: HashMap<Arc<str>, Rules>,
}

/// Everything the plan allows one name.
#[derive(Debug, Default)]
struct Rules {
    read: Vec<Rule>,
    write: Vec<Rule>,
    operate: Vec<Arc<str>>,
}

/// One filter.
#[derive(Debug)]
struct Rule {
    filter: Box<str>,
    /// Is there a `%u` or `%c` in it?
    placeholders: bool,
}

impl Acl {
    pub(super) fn new(plans: &[AclPlan]) -> Self {
        let mut acl = Self::default();
        for plan in plans {
            let rules = match plan.user.as_str() {
                ANONYMOUS => &mut acl.anonymous,
                EVERYONE => &mut acl.everyone,
                name => match (name.strip_prefix(CERTIFICATE), name.strip_prefix(SENSOR)) {
                    (Some(certificate), _) => acl.certificates.entry(certificate.into()).or_default(),
                    (None, Some(sensor)) => acl.sensors.entry(sensor.into()).or_default(),
                    (None, None) => acl.users.entry(name.into()).or_default(),
                },
            };
            rules.read.extend(plan.read.iter().map(|filter| Rule::new(filter)));
            rules.write.extend(plan.write.iter().map(|filter| Rule::new(filter)));
            rules.operate.extend(plan.operate.iter().map(|device| Arc::from(device.as_str())));
        }
        acl
    }

    /// The rules that count for a client.
    fn of(&self, who: &Identity) -> impl Iterator<Item = &Rules> {
        let (own, everyone) = match who.who() {
            Who::Anonymous(_) => (Some(&self.anonymous), None),
            Who::User(name) => (self.users.get(name), Some(&self.everyone)),
            Who::Certificate(name) => (self.certificates.get(name), Some(&self.everyone)),
            // A name that nobody has proven gets nothing of what is for everybody who has proven one.
            Who::Sensor(name) => (self.sensors.get(name), self.sensors.get(EVERYONE)),
            Who::Gateway => (None, None),
        };
        own.into_iter().chain(everyone)
    }

    /// Does a rule cover everything this filter would bring?
    pub(super) fn read(&self, who: &Identity, filter: &str) -> bool {
        if matches!(who.who(), Who::Anonymous(Anonymous::Read | Anonymous::ReadWrite) | Who::Gateway) {
            return true;
        }
        self.of(who).flat_map(|rules| &rules.read).any(|rule| rule.holds(who, |rule| covers(rule, filter)))
    }

    /// Does a rule match this topic?
    pub(super) fn write(&self, who: &Identity, topic: &str) -> bool {
        if matches!(who.who(), Who::Anonymous(Anonymous::ReadWrite)) && !topic.ends_with("/set") {
            return true;
        }
        self.command(who, topic)
    }

    /// Does a rule match this topic, whatever the listener gives?
    pub(super) fn command(&self, who: &Identity, topic: &str) -> bool {
        self.of(who).flat_map(|rules| &rules.write).any(|rule| rule.holds(who, |rule| matches(rule, topic)))
    }

    /// Is this device in one of its lists?
    pub(super) fn operate(&self, who: &Identity, device: &str) -> bool {
        self.of(who).flat_map(|rules| &rules.operate).any(|name| **name == *device || **name == *EVERYONE)
    }
}

impl Rule {
    fn new(filter: &str) -> Self {
        Self { filter: filter.into(), placeholders: filter.contains("%u") || filter.contains("%c") }
    }

    /// Is it so for the filter as it reads for this client?
    fn holds(&self, who: &Identity, question: impl FnOnce(&str) -> bool) -> bool {
        self.filled_in(who).is_some_and(|filter| question(&filter))
    }

    fn filled_in(&self, who: &Identity) -> Option<Cow<'_, str>> {
        if !self.placeholders {
            return Some(Cow::Borrowed(&*self.filter));
        }
        // Piece by piece, not one replacement after the other: a name may itself contain "%c".
        let mut filled = String::with_capacity(self.filter.len() + 32);
        let mut rest = &*self.filter;
        while let Some((before, after)) = rest.split_once('%') {
            filled.push_str(before);
            rest = match after.as_bytes().first() {
                Some(b'u') => put(&mut filled, who.name()?, after)?,
                Some(b'c') => put(&mut filled, who.client(), after)?,
                _ => {
                    filled.push('%');
                    after
                }
            };
        }
        filled.push_str(rest);
        Some(Cow::Owned(filled))
    }
}

/// Puts a name in; what comes behind the placeholder's letter is left. `None`: this name must not stand in a filter.
fn put<'a>(filled: &mut String, name: &str, after: &'a str) -> Option<&'a str> {
    filled.push_str(harmless(name)?);
    Some(&after[1..])
}

/// One level of a topic and nothing else. An empty one would let `a/%c/b` fit `a//b`, which is nobody's, and `$` at the
/// front would lead out of a rule's own tree.
fn harmless(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.contains(['+', '#', '/']) && !name.starts_with('$')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(user: &str, read: &[&str], write: &[&str]) -> AclPlan {
        let own = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
        AclPlan { user: user.to_owned(), read: own(read), write: own(write), operate: vec!["pump-1".to_owned()] }
    }

    fn user(name: &str, client: &str) -> Identity {
        Identity::new(Who::User(name.into()), client)
    }

    #[test]
    fn set_topics_need_a_rule_even_on_a_read_write_listener() {
        let acl = Acl::new(&[rule(ANONYMOUS, &["a/#"], &["acme/+/pump-1/+/set"])]);
        let who = Identity::anonymous(Anonymous::ReadWrite, "c");
        assert!(acl.write(&who, "machines/7"));
        assert!(!acl.write(&who, "acme/x/pump-2/speed/set"));
        assert!(acl.write(&who, "acme/x/pump-1/speed/set"));
        let reader = Identity::anonymous(Anonymous::Read, "c");
        assert!(acl.write(&reader, "acme/x/pump-1/speed/set"), "a rule adds to what the listener gives");
        assert!(!acl.write(&reader, "machines/7"));
    }

    #[test]
    fn reading_is_whole_for_admitted_strangers_and_a_rules_worth_for_others() {
        let acl = Acl::new(&[rule("hmi", &["a/#"], &[])]);
        assert!(acl.read(&Identity::anonymous(Anonymous::Read, "c"), "#"));
        assert!(acl.read(&Identity::anonymous(Anonymous::Read, "c"), "$SYS/#"));
        assert!(acl.read(&user("hmi", "c"), "a/+/c"));
        for filter in ["#", "+/x", "$SYS/#", "b"] {
            assert!(!acl.read(&user("hmi", "c"), filter), "{filter}");
        }
    }

    #[test]
    fn a_name_has_its_own_rules_and_those_of_everyone_and_nobody_elses() {
        let acl = Acl::new(&[
            rule("hmi", &["hmi"], &[]),
            rule("cert:hmi", &["cert"], &[]),
            rule("*", &["all"], &[]),
            rule(ANONYMOUS, &["strangers"], &[]),
        ]);
        let certificate = Identity::new(Who::Certificate("hmi".into()), "c");
        let may = |who: &Identity| ["hmi", "cert", "all", "strangers"].map(|filter| acl.read(who, filter));
        assert_eq!(may(&user("hmi", "c")), [true, false, true, false]);
        assert_eq!(may(&certificate), [false, true, true, false]);
        assert_eq!(may(&user("other", "c")), [false, false, true, false]);
        assert_eq!(may(&Identity::anonymous(Anonymous::None, "c")), [false, false, false, true]);
        assert!(acl.operate(&user("hmi", "c"), "pump-1"));
        assert!(!acl.operate(&user("hmi", "c"), "pump-2"));
    }

    #[test]
    fn placeholders_stand_for_one_level_and_a_crafted_name_widens_nothing() {
        let acl = Acl::new(&[rule("*", &["c/%c/#", "u/%u/in", "both/%u-%c"], &["c/%c/out", "100%/%u", "%c"])]);
        assert!(acl.read(&user("pump", "c1"), "c/c1/x"));
        assert!(acl.write(&user("pump", "c1"), "c/c1/out"));
        assert!(acl.read(&user("pump", "c1"), "u/pump/in"));
        assert!(acl.read(&user("pump", "c1"), "both/pump-c1"));
        assert!(acl.write(&user("pump", "c1"), "100%/pump"));
        assert!(!acl.read(&user("pump", "c1"), "c/c2/x"));
        for crafted in ["+", "#", "c1/x", "/", "", "+/#", "a+b", "$SYS"] {
            for filter in ["c/c1/x", "c/+/x", "c/#", "#", "c/c1/x/y", "c//x", "c/a+b/x"] {
                assert!(!acl.read(&user("pump", crafted), filter), "{crafted} reads {filter}");
            }
            for topic in ["c/c1/out", "c//out", "c/c1/x/out", "$SYS"] {
                assert!(!acl.write(&user("pump", crafted), topic), "{crafted} writes {topic}");
            }
            for filter in ["u/pump/in", "u/+/in", "u/#", "u//in"] {
                assert!(!acl.read(&user(crafted, "c1"), filter), "{crafted} reads {filter}");
            }
        }
        // A name is put in as it is: what looks like a placeholder in it is none.
        assert!(acl.read(&user("%c", "c1"), "u/%c/in"));
        assert!(!acl.read(&user("%c", "c1"), "u/c1/in"));
    }
}
