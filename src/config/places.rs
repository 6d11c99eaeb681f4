//! Where keys have their place, for whoever wrote one at another: the schema, looked up by the way to a table.

use super::nearest;
use super::schema::{Key, Kind, ROOT};

/// More tables than this have a key of this name: naming them is no help.
const HOMES_MAX: usize = 2;

/// What others call it, and what it is called here.
const SYNONYMS: [(&str, &str); 24] = [
    ("slave_id", "unit_id"),
    ("slave", "unit_id"),
    ("station", "unit_id"),
    ("id", "unit_id"),
    ("host", "endpoint"),
    ("ip", "endpoint"),
    ("address", "endpoint"),
    ("baud", "serial"),
    ("baudrate", "serial"),
    ("baud_rate", "serial"),
    ("parity", "serial"),
    ("timeout", "response_timeout"),
    ("protocol", "type"),
    ("interval", "poll"),
    ("poll_interval", "poll"),
    ("scan_rate", "poll"),
    ("factor", "scale"),
    ("multiplier", "scale"),
    ("register", "address"),
    ("data_type", "type"),
    ("byte_order", "order"),
    ("word_order", "order"),
    ("user", "username"),
    ("ca", "ca_file"),
];

/// Is a table of this path, such as `device.tag`, an entry of a list?
pub fn is_list(path: &str) -> bool {
    let mut keys = ROOT;
    let mut list = false;
    for part in path.split('.') {
        (keys, list) = match keys.iter().find(|key| key.name == part).map(|key| key.kind) {
            Some(Kind::Table(below)) => (below, false),
            Some(Kind::Tables(below)) => (below, true),
            _ => return false,
        };
    }
    list
}

/// For the message about an unknown key among these: what it may have meant, or the table that has one of this name.
pub fn hint(unknown: &str, keys: &[Key]) -> String {
    let has = |word: &str| keys.iter().any(|key| key.name == word);
    let near = nearest::nearest(unknown, keys.iter().map(|key| key.name));
    let plain = unknown.to_lowercase().replace('-', "_");
    let synonym = || SYNONYMS.iter().find(|(other, own)| *other == plain && has(own)).map(|(_, own)| *own);
    if let Some(word) = near.or_else(synonym) {
        return format!(", did you mean `{word}`?");
    }
    let mut homes = Vec::new();
    look("", ROOT, unknown, &mut homes);
    match &homes[..] {
        [] => String::new(),
        homes if homes.len() > HOMES_MAX => String::new(),
        homes => format!(" here: it is {}", homes.join(", or ")),
    }
}

/// Every table that has this key, as one would write it.
fn look(path: &str, keys: &[Key], wanted: &str, homes: &mut Vec<String>) {
    for key in keys {
        let own = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        if key.name == wanted {
            homes.push(match key.kind {
                Kind::Table(_) => format!("[{own}]"),
                Kind::Tables(_) => format!("[[{own}]]"),
                _ if path.is_empty() => continue,
                _ if is_list(path) => format!("a key of [[{path}]]"),
                _ => format!("a key of [{path}]"),
            });
        }
        if let Kind::Table(below) | Kind::Tables(below) = key.kind {
            look(&own, below, wanted, homes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{BUS, DEVICE, TAG};

    #[test]
    fn an_unknown_key_is_told_what_it_is_called_here_or_where_it_stands() {
        for (unknown, keys, told) in [
            ("slave_id", DEVICE, ", did you mean `unit_id`?"),
            ("Slave-ID", DEVICE, ", did you mean `unit_id`?"),
            ("baud", BUS, ", did you mean `serial`?"),
            ("tag", ROOT, " here: it is [[device.tag]]"),
            ("device", BUS, " here: it is [[device]]"),
            ("listener", ROOT, " here: it is [[broker.listener]]"),
            ("unit_id", TAG, " here: it is a key of [[device]]"),
            ("endpoint", DEVICE, " here: it is a key of [[bus]]"),
            ("colour", DEVICE, ""),
            ("name", &[], ""),
        ] {
            assert_eq!(hint(unknown, keys), told, "{unknown}");
        }
    }

    #[test]
    fn every_synonym_leads_to_a_key_and_is_none_itself_where_that_key_is() {
        fn tables<'k>(keys: &'k [Key], all: &mut Vec<&'k [Key]>) {
            all.push(keys);
            for key in keys {
                if let Kind::Table(below) | Kind::Tables(below) = key.kind {
                    tables(below, all);
                }
            }
        }
        let mut all = Vec::new();
        tables(ROOT, &mut all);
        for (other, own) in SYNONYMS {
            assert!(all.iter().any(|keys| keys.iter().any(|key| key.name == own)), "{own}");
            let both = |keys: &&[Key]| [other, own].iter().all(|word| keys.iter().any(|key| key.name == *word));
            assert!(!all.iter().any(both), "{other} is a key beside {own}");
        }
    }

    #[test]
    fn a_path_is_a_list_where_its_last_table_is_written_in_two_brackets() {
        assert!(is_list("device") && is_list("device.tag") && is_list("uplink.path"));
        assert!(!is_list("gateway") && !is_list("device.tag.alarm") && !is_list("nothing") && !is_list(""));
    }
}
