//! mosquitto's acl_file, and what becomes of it.
//!
//! ```text
//! topic [read|write|readwrite|deny] <filter>     before the first `user`: of anonymous clients; else of that user
//! user <name>
//! pattern [read|write|readwrite|deny] <filter>   of everybody, with %u and %c
//! ```
//!
//! Our rules only add up. A filter that a deny rule touches is therefore left out whole: the user can do less than before,
//! never more, and is named. Where both give: mosquitto lets a client subscribe to anything and holds back what it may not
//! read; we refuse a filter that no rule covers.

use std::fs;

use super::conf::Mosquitto;
use super::{Failed, Notes, Users, Weight};
use crate::access::{ANONYMOUS, CERTIFICATE, EVERYONE, check_name};
use crate::model::topic::{check_filter, covers};

/// One of ours, of one user.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub user: String,
    pub read: Vec<String>,
    pub write: Vec<String>,
}

/// One line of the file.
#[derive(Debug, Clone)]
struct Entry {
    place: String,
    of: Of,
    kind: Kind,
    filter: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Anonymous,
    User(String),
    Everybody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Allow { read: bool, write: bool },
    Deny,
}

/// The rules for everyone that mosquitto knows.
pub(super) fn translate(mosquitto: &Mosquitto, users: &Users, notes: &mut Notes) -> Result<Vec<Rule>, Failed> {
    let mut entries = match &mosquitto.acl_file {
        None => without_a_file(mosquitto),
        Some((file, place)) => {
            let text = fs::read_to_string(file)
                .map_err(|error| Failed::unread(format_args!("{place}: acl_file {}", file.display()), &error))?;
            parse(&file.display().to_string(), &text, notes)
        }
    };
    by_name(&mut entries, mosquitto, notes);
    let allowed = without_denied(&entries, notes);
    let mut rules: Vec<Rule> = Vec::new();
    for entry in allowed {
        let Kind::Allow { read, write } = entry.kind else { continue };
        for user in names(entry, mosquitto, users, notes) {
            let place = rules.iter().position(|rule| rule.user == user).unwrap_or_else(|| {
                rules.push(Rule { user, ..Rule::default() });
                rules.len() - 1
            });
            let rule = &mut rules[place];
            for (given, list) in [(read, &mut rule.read), (write, &mut rule.write)] {
                if given && !list.contains(&entry.filter) {
                    list.push(entry.filter.clone());
                }
            }
        }
    }
    Ok(rules)
}

/// Then everybody may do everything; unless a plugin says what they may.
fn without_a_file(mosquitto: &Mosquitto) -> Vec<Entry> {
    if mosquitto.plugin {
        return Vec::new();
    }
    let entry = |filter: &str, write| Entry {
        place: "without an acl_file".to_owned(),
        of: Of::Everybody,
        kind: Kind::Allow { read: true, write },
        filter: filter.to_owned(),
    };
    // For anonymous clients the listener says the same: anonymous = "read-write".
    let named = mosquitto.password_file.is_some() || mosquitto.listeners.iter().any(|door| door.identity_is_user);
    if named { vec![entry("#", true), entry("$SYS/#", false)] } else { Vec::new() }
}

/// Where mosquitto makes the user name the client id, a pattern's %c is %u. Here a client says its id itself: %c would be
/// whatever it likes.
fn by_name(entries: &mut [Entry], mosquitto: &Mosquitto, notes: &mut Notes) {
    let Some(place) = mosquitto.listeners.iter().find_map(|door| door.name_is_id.as_ref()) else { return };
    let text = "use_username_as_clientid is not carried over: clients keep the id they give; in patterns %c is written as %u, \
                which was the same";
    notes.add(Weight::Loud, place, text);
    for entry in entries.iter_mut().filter(|entry| entry.of == Of::Everybody && entry.filter.contains("%c")) {
        entry.filter = entry.filter.replace("%c", "%u");
        notes.add(Weight::Quiet, &entry.place, format!("%c is written as %u ({place}): {}", entry.filter));
    }
}

fn parse(file: &str, text: &str, notes: &mut Notes) -> Vec<Entry> {
    let (mut entries, mut of) = (Vec::new(), Of::Anonymous);
    for (number, line) in (1..).zip(text.lines()) {
        let place = format!("{file}:{number}");
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "user" => of = Of::User(rest.to_owned()),
            "topic" | "pattern" => {
                let of = if word == "topic" { of.clone() } else { Of::Everybody };
                let (kind, filter) = kind_and_filter(rest);
                let placeholder = filter.contains("%u") || filter.contains("%c");
                if let Err(bad) = check_filter(filter) {
                    notes.add(Weight::Loud, &place, format!("is left out: {bad}"));
                } else if word == "topic" && placeholder && kind != Kind::Deny {
                    let text = "is left out: in a topic line %u and %c mean themselves, in our rules they would not";
                    notes.add(Weight::Loud, &place, text);
                } else {
                    entries.push(Entry { place, of, kind, filter: filter.to_owned() });
                }
            }
            _ => notes.add(Weight::Loud, &place, format!("{word} is not carried over: no line of an acl_file")),
        }
    }
    entries
}

fn kind_and_filter(rest: &str) -> (Kind, &str) {
    let both = Kind::Allow { read: true, write: true };
    match rest.split_once([' ', '\t']) {
        Some(("read", filter)) => (Kind::Allow { read: true, write: false }, filter.trim()),
        Some(("write", filter)) => (Kind::Allow { read: false, write: true }, filter.trim()),
        Some(("readwrite", filter)) => (both, filter.trim()),
        Some(("deny", filter)) => (Kind::Deny, filter.trim()),
        _ => (both, rest),
    }
}

/// What may be carried over of what is allowed. In mosquitto the deny lines of a user stand before the other ones and
/// before all patterns, those of patterns before the other patterns.
fn without_denied<'a>(entries: &'a [Entry], notes: &mut Notes) -> Vec<&'a Entry> {
    let denials: Vec<&Entry> = entries.iter().filter(|entry| entry.kind == Kind::Deny).collect();
    let mut allowed = Vec::new();
    'entries: for entry in entries.iter().filter(|entry| entry.kind != Kind::Deny) {
        for denial in &denials {
            let applies = denial.of == entry.of || entry.of == Of::Everybody;
            if !applies || !overlap(&denial.filter, &entry.filter) {
                continue;
            }
            let whole = denial.of == entry.of && covers(&denial.filter, &entry.filter);
            let (weight, text) = if whole {
                (Weight::Quiet, format!("is left out: {} denies all of it", denial.place))
            } else {
                let text = format!(
                    "{} IS LEFT OUT WHOLE, because {} denies a part of it ({}) and our rules cannot take away. Write the \
                     filters that are still wanted by hand",
                    entry.filter, denial.place, denial.filter
                );
                (Weight::Loud, text)
            };
            notes.add(weight, &entry.place, text);
            continue 'entries;
        }
        allowed.push(entry);
    }
    for denial in denials {
        notes.add(Weight::Quiet, &denial.place, "deny has no counterpart: what no rule allows is denied");
    }
    allowed
}

/// Is there a topic that both match? A level with a placeholder may be anything.
fn overlap(one: &str, other: &str) -> bool {
    let (mut left, mut right) = (one.split('/'), other.split('/'));
    loop {
        let any = |level: &str| level == "+" || level.contains("%u") || level.contains("%c");
        match (left.next(), right.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(left), Some(right)) if left == right || any(left) || any(right) => {}
            _ => return false,
        }
    }
}

/// Whose rule it is here.
fn names(entry: &Entry, mosquitto: &Mosquitto, users: &Users, notes: &mut Notes) -> Vec<String> {
    let certificates = mosquitto.listeners.iter().any(|door| door.identity_is_user);
    let anonymous = mosquitto.listeners.iter().any(|door| door.anonymous == Some(true));
    // A certificate is a login here; where it was not one, it must not get what everybody, or the user of its name, has.
    let only_users = mosquitto.listeners.iter().any(|door| door.require_certificate && !door.identity_is_user);
    match &entry.of {
        Of::Anonymous if anonymous => vec![ANONYMOUS.to_owned()],
        Of::Anonymous => {
            notes.add(Weight::Quiet, &entry.place, "is left out: it is for anonymous clients, and none are let in");
            Vec::new()
        }
        Of::User(name) => {
            let mut of = Vec::new();
            if let Err(why) = check_name(name) {
                notes.add(Weight::Loud, &entry.place, format!("user {name:?} is left out: the name {why}"));
                return of;
            }
            if users.path.is_some() {
                of.push(name.clone());
            }
            if certificates && only_users {
                let text = format!(
                    "cert:{name} is given no rule: at another listener a certificate alone was no login, and here it is one"
                );
                notes.add(Weight::Loud, &entry.place, text);
            } else if certificates {
                of.push(format!("{CERTIFICATE}{name}"));
            }
            if of.is_empty() {
                let text = format!("user {name:?} is left out: without a password_file anybody could claim that name");
                notes.add(Weight::Loud, &entry.place, text);
            }
            of
        }
        Of::Everybody => {
            let mut of = if only_users { users.names.clone() } else { vec![EVERYONE.to_owned()] };
            if anonymous && mosquitto.acl_file.is_some() && !entry.filter.contains("%u") {
                of.push(ANONYMOUS.to_owned());
            }
            of
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(acl: &str) -> (Vec<(String, String)>, Vec<String>) {
        let mut notes = Notes::default();
        let entries = parse("acl", acl, &mut notes);
        let allowed = without_denied(&entries, &mut notes);
        let shown = |entry: &&Entry| (format!("{:?}", entry.of), entry.filter.clone());
        let loud = notes.0.iter().filter(|note| note.weight == Weight::Loud).map(|note| note.place.clone());
        (allowed.iter().map(shown).collect(), loud.collect())
    }

    #[test]
    fn what_a_deny_rule_touches_is_left_out_and_never_becomes_wider() {
        let (left, loud) = rules("user a\ntopic read #\ntopic read b/c\ntopic deny b/+\ntopic write d\n");
        assert_eq!(left, [("User(\"a\")".to_owned(), "d".to_owned())]);
        assert_eq!(loud, ["acl:2"], "b/c is denied whole and needs no word");
        let (left, loud) =
            rules("user a\ntopic deny x/#\nuser b\ntopic read x/1\npattern read x/%u\npattern read y/%u\n");
        assert_eq!(left.iter().map(|(_, filter)| filter.as_str()).collect::<Vec<_>>(), ["x/1", "y/%u"]);
        assert_eq!(loud, ["acl:5"]);
        let (left, _) = rules("user b\ntopic read x/1\npattern deny x/#\npattern read +/1\n");
        assert_eq!(left.len(), 1, "a pattern takes nothing from a user's own lines, as in mosquitto");
    }

    #[test]
    fn lines_mean_what_mosquitto_means_by_them() {
        let (left, loud) =
            rules("topic x y\n# c\nuser a b\ntopic readwrite  z/#\ntopic read a/%u\nnonsense\ntopic a+b\n");
        assert_eq!(left, [("Anonymous".to_owned(), "x y".to_owned()), ("User(\"a b\")".to_owned(), "z/#".to_owned())]);
        assert_eq!(loud, ["acl:5", "acl:6", "acl:7"]);
    }
}
