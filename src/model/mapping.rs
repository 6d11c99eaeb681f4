//! Topics that have other names on the other side: `<local_prefix><rest>` here is `<remote_prefix><rest>` there, and which
//! topics two filters have in common. Pure.
//!
//! The meaning of the prefixes is mosquitto's (`topic <filter> both 2 <local_prefix> <remote_prefix>`): they are put before
//! filter and topics as they stand, without a slash between.

use super::topic::matches;

/// One rule of translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Of what stands behind either prefix; may be empty: then the prefixes are the topics.
    pub filter: String,
    /// Before it on the local broker.
    pub local_prefix: String,
    /// Before it on the broker upstream.
    pub remote_prefix: String,
}

impl Mapping {
    /// The same names on both sides.
    pub fn plain(filter: &str) -> Self {
        Self { filter: filter.to_owned(), local_prefix: String::new(), remote_prefix: String::new() }
    }

    /// What it means on the local broker.
    pub fn local_filter(&self) -> String {
        format!("{}{}", self.local_prefix, self.filter)
    }

    /// What it means upstream.
    pub fn remote_filter(&self) -> String {
        format!("{}{}", self.remote_prefix, self.filter)
    }

    /// The name upstream of a local topic (or of a filter of them); `None` where the rule does not mean it.
    pub fn to_remote(&self, topic: &str) -> Option<String> {
        translate(topic, (&self.local_prefix, &self.local_filter()), &self.remote_prefix)
    }

    /// The local name of a topic (or of a filter of them) upstream; `None` where the rule does not mean it.
    pub fn to_local(&self, topic: &str) -> Option<String> {
        translate(topic, (&self.remote_prefix, &self.remote_filter()), &self.local_prefix)
    }
}

fn translate(topic: &str, (prefix, filter): (&str, &str), other: &str) -> Option<String> {
    let rest = topic.strip_prefix(prefix).filter(|_| matches(filter, topic))?;
    Some(format!("{other}{rest}"))
}

/// The filter of all topics that both filters match; `None` where there are none.
pub fn intersect(one: &str, other: &str) -> Option<String> {
    let hidden = |filter: &str| filter.starts_with('$');
    let open = |filter: &str| filter.starts_with(['+', '#']);
    if hidden(one) && open(other) || hidden(other) && open(one) {
        return None;
    }
    let (mut left, mut right) = (one.split('/').peekable(), other.split('/').peekable());
    let mut common: Vec<&str> = Vec::new();
    loop {
        match (left.peek().copied(), right.peek().copied()) {
            (None, None) => break,
            (Some("#"), _) => {
                common.extend(right);
                break;
            }
            (_, Some("#")) => {
                common.extend(left);
                break;
            }
            (None, _) | (_, None) => return None,
            (Some("+"), Some(level)) | (Some(level), Some("+")) => common.push(level),
            (Some(level), Some(same)) if level == same => common.push(level),
            _ => return None,
        }
        left.next();
        right.next();
    }
    Some(common.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exchanged_as_they_stand() {
        let map = |filter: &str, local: &str, remote: &str| Mapping {
            filter: filter.into(),
            local_prefix: local.into(),
            remote_prefix: remote.into(),
        };
        let both = map("#", "local/", "remote/");
        assert_eq!(both.to_remote("local/a/b").as_deref(), Some("remote/a/b"));
        assert_eq!(both.to_local("remote/a/b").as_deref(), Some("local/a/b"));
        assert_eq!(both.to_remote("elsewhere/a"), None);
        assert_eq!(map("", "here", "there").to_remote("here").as_deref(), Some("there"), "one topic by another name");
        assert_eq!(map("temp", "a-", "").to_remote("a-temp").as_deref(), Some("temp"), "no slash is put between");
        assert_eq!(map("+/x", "", "up/").to_remote("p/x").as_deref(), Some("up/p/x"));
        assert_eq!(map("+/x", "", "up/").to_remote("p/y"), None);
        assert_eq!(map("#", "", "").to_remote("$SYS/broker"), None);
        assert_eq!(both.to_local("remote"), None, "`remote/#` matches it, but there is nothing behind the prefix");
    }

    #[test]
    fn what_two_filters_have_in_common_is_a_filter() {
        for (one, other, common) in [
            ("a/#", "a/+/c", Some("a/+/c")),
            ("#", "a/#", Some("a/#")),
            ("+/b", "a/+", Some("a/b")),
            ("a/#", "a", Some("a")),
            ("a/#", "b/#", None),
            ("a/+", "a", None),
            ("#", "$SYS/x", None),
            ("$SYS/#", "$SYS/x", Some("$SYS/x")),
            ("a/b/c", "a/b/c", Some("a/b/c")),
            ("+/+", "#", Some("+/+")),
        ] {
            assert_eq!(intersect(one, other).as_deref(), common, "{one} and {other}");
            assert_eq!(intersect(other, one).as_deref(), common, "{other} and {one}");
        }
    }
}
