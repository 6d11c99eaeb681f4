//! The users file: who may log in with name and password.
//!
//! ```text
//! <name>:<password as `hash` keeps it>     one user per line; UTF-8; the name has no colon
//! # a line that starts like this, and empty ones, are passed over
//! ```
//!
//! It is mosquitto's `password_file`; both programs read a file that either has written, as long as it holds no argon2id.
//! A line that cannot be used is named and left out, the others count. Nothing here decides: `desk` asks, `file` reads.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest;

use super::acl::{ANONYMOUS, CERTIFICATE, EVERYONE};
use super::hash::Hash;

/// Users that a file may hold: as many as mosquitto installations were seen with, and ten times that.
const USERS_MAX: usize = 10_000;

/// Longest name, bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest password, bytes: a will and a client id fit into the same CONNECT.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// Lines that are named before it is said how many more there are.
const NAMED_MAX: usize = 5;

/// Everybody in the file.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_name: HashMap<Arc<str>, User>,
    /// By line, for decoys.
    names: Vec<Arc<str>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct User {
    pub name: Arc<str>,
    pub hash: Arc<Hash>,
    /// A number of the kept password: another one means that it was changed.
    pub proof: u64,
}

impl Users {
    /// Reads a file's text; what is wrong with it, in words, if anything is.
    pub(super) fn parse(text: &str) -> (Self, Option<String>) {
        let mut users = Self::default();
        let mut wrong = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end_matches('\r');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(why) = users.add(line) {
                wrong.push(format!("line {number} {why}"));
            }
        }
        if wrong.len() > NAMED_MAX {
            let more = wrong.len() - NAMED_MAX;
            wrong.truncate(NAMED_MAX);
            wrong.push(format!("and {more} more"));
        }
        (users, (!wrong.is_empty()).then(|| wrong.join("; ")))
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (name, kept) = line.split_once(':').ok_or("has no colon between name and password")?;
        check_name(name).map_err(|why| format!("is left out: the name {why}"))?;
        let hash = Hash::parse(kept.trim_end()).map_err(|bad| format!("({name}) {bad}"))?;
        if self.by_name.contains_key(name) {
            return Err(format!("has the name {name} a second time; the first one counts"));
        }
        if self.names.len() == USERS_MAX {
            return Err(format!("is left out: more than {USERS_MAX} users"));
        }
        let name: Arc<str> = name.into();
        let user = User { name: Arc::clone(&name), hash: Arc::new(hash), proof: proof(kept) };
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, user);
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// What an unknown name's password is compared with: always the same for one name, and of the kinds that are in the
    /// file, so that the time of the answer does not tell who is in it. A few names more or less do not change that: the
    /// `salt` of this process does the choosing.
    pub(super) fn decoy(&self, name: &str, salt: u64) -> Arc<Hash> {
        if self.names.is_empty() {
            return Arc::new(Hash::decoy());
        }
        let drawn = proof(&format!("{salt} {name}"));
        let place = usize::try_from(drawn % self.names.len() as u64).unwrap_or(0);
        self.by_name.get(&self.names[place]).map_or_else(|| Arc::new(Hash::decoy()), |user| Arc::clone(&user.hash))
    }
}

fn proof(kept: &str) -> u64 {
    let digest = digest::digest(&digest::SHA256, kept.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Why this is no name of a user; nothing when it is one.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Err("is longer than 255 bytes")
    } else if name == ANONYMOUS || name == EVERYONE || name.starts_with(CERTIFICATE) {
        Err("means something else in [[broker.acl]]: anonymous, * and cert:… are no users")
    } else if name.starts_with('#') {
        Err("begins with #, as comments do")
    } else if name.contains(':') || name.chars().any(char::is_control) || name.trim() != name {
        Err("contains a colon or a control character, or blanks at its ends")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    #[test]
    fn a_line_that_cannot_be_used_is_named_and_the_others_count() {
        let text = format!(
            "# plant\r\n\nhmi:{LINE}\r\nbroken\nold:$5$x\nhmi:{LINE}\nanonymous:{LINE}\ncert:x:{LINE}\nlogger:{LINE}"
        );
        let (users, wrong) = Users::parse(&text);
        assert_eq!(users.count(), 2);
        assert!(users.find("hmi").is_some_and(|user| user.hash.verify(b"password")));
        assert!(users.find("logger").is_some() && users.find("anonymous").is_none() && users.find("cert").is_none());
        let wrong = wrong.expect("told");
        for part in ["line 4 has no colon", "line 5 (old) is no password", "line 6 has the name hmi a second", "line 7"]
        {
            assert!(wrong.contains(part), "{part} in {wrong}");
        }
        assert!(!wrong.contains("c29tZ"), "{wrong}");
        assert_eq!(Users::parse("").1, None);
    }

    #[test]
    fn a_changed_password_has_another_proof_and_an_unknown_name_a_decoy_of_its_own() {
        let (users, _) = Users::parse(&format!("a:{LINE}\nb:{}", LINE.replace("nf65", "nf66")));
        let proof = |name| users.find(name).expect("there").proof;
        assert_ne!(proof("a"), proof("b"));
        let (again, _) = Users::parse(&format!("a:{LINE}"));
        assert_eq!(again.find("a").expect("there").proof, proof("a"));
        assert_eq!(users.decoy("nobody", 1), users.decoy("nobody", 1));
        let drawn: std::collections::HashSet<bool> = (0..64)
            .map(|number| *users.decoy(&number.to_string(), 1) == *users.find("a").expect("there").hash)
            .collect();
        assert_eq!(drawn.len(), 2, "decoys come from all lines");
    }
}
