//! Passwords that were right a short while ago: when a switch comes back and five hundred clients with it, five hundred
//! expensive checks would keep the last of them out for minutes.
//!
//! What is remembered is a keyed digest of name, password and kept password, under a key that is drawn at start and never
//! leaves the process: a changed password is not remembered, a wrong one never was, and the table tells nothing by
//! itself. Bounded in number and in time.

use std::collections::HashMap;

use ring::hmac;
use ring::rand::SystemRandom;
use std::time::Duration;
use tokio::time::Instant;

use super::users::User;

/// As many as a broker has clients.
const REMEMBERED_MAX: usize = 1024;

/// From the last full check on; being remembered does not prolong it. As long as `brake` knows a name: else somebody who
/// tries passwords from the very address of an HMI could keep it out when it comes back.
const REMEMBERED_FOR: Duration = super::brake::KNOWN_FOR;

pub(super) struct Memory {
    key: Option<hmac::Key>,
    right: HashMap<[u8; 32], Instant>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self { key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(), right: HashMap::new() }
    }

    /// Was this password checked lately, and right?
    pub(super) fn remembers(&self, user: &User, password: &[u8], now: Instant) -> bool {
        let since = self.mark(user, password).and_then(|mark| self.right.get(&mark));
        since.is_some_and(|since| now.duration_since(*since) < REMEMBERED_FOR)
    }

    /// It was checked, and it was right.
    pub(super) fn remember(&mut self, user: &User, password: &[u8], now: Instant) {
        let Some(mark) = self.mark(user, password) else { return };
        if self.right.len() >= REMEMBERED_MAX {
            self.right.retain(|_, since| now.duration_since(*since) < REMEMBERED_FOR);
        }
        if self.right.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.right.iter().min_by_key(|(_, since)| **since).map(|(mark, _)| *mark)
        {
            self.right.remove(&oldest);
        }
        self.right.insert(mark, now);
    }

    fn mark(&self, user: &User, password: &[u8]) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        context.update(&user.proof.to_be_bytes());
        context.update(&(user.name.len() as u64).to_be_bytes());
        context.update(user.name.as_bytes());
        context.update(password);
        context.sign().as_ref().try_into().ok()
    }
}

/// Nothing of what it holds.
impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} remembered)", self.right.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::hash::Hash;
    use std::sync::Arc;

    fn user(name: &str, proof: u64) -> User {
        User { name: name.into(), hash: Arc::new(Hash::decoy()), proof }
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_same_user_is_remembered_and_not_for_ever() {
        let (mut memory, now) = (Memory::new(), Instant::now());
        memory.remember(&user("hmi", 1), b"secret", now);
        assert!(memory.remembers(&user("hmi", 1), b"secret", now));
        assert!(!memory.remembers(&user("hmi", 1), b"other", now));
        assert!(!memory.remembers(&user("hm", 1), b"isecret", now));
        assert!(!memory.remembers(&user("hmi", 2), b"secret", now), "the password was changed");
        assert!(!memory.remembers(&user("hmi", 1), b"secret", now + REMEMBERED_FOR));
        assert!(!Memory::new().remembers(&user("hmi", 1), b"secret", now), "the key is another one in each process");
    }

    #[tokio::test]
    async fn the_oldest_goes_first() {
        let (mut memory, now) = (Memory::new(), Instant::now());
        for number in 0..2000_u32 {
            memory.remember(&user("hmi", 1), &number.to_be_bytes(), now + Duration::from_millis(number.into()));
        }
        assert_eq!(memory.right.len(), REMEMBERED_MAX);
        assert!(memory.remembers(&user("hmi", 1), &1999_u32.to_be_bytes(), now + Duration::from_secs(2)));
        assert!(!memory.remembers(&user("hmi", 1), &0_u32.to_be_bytes(), now + Duration::from_secs(2)));
    }
}
