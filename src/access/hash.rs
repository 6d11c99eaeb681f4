//! Passwords as they are kept: ours, and those that mosquitto has written.
//!
//! ```text
//! $argon2id$v=19$m=12288,t=3,p=1$<salt>$<tag>   RFC 9106 in PHC form, base64 without padding; written by `ironbridge passwd`
//! $7$<iterations>$<salt>$<tag>                  PBKDF2-HMAC-SHA512 (RFC 8018), base64 with padding; mosquitto_passwd 2
//! $6$<salt>$<tag>                               SHA-512 over password and salt; mosquitto_passwd 1
//! ```
//!
//! What a line of a file asks for is bounded: a check must not take more memory or time than a small box has to spare.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

/// What `ironbridge passwd` takes: 12 MiB, three passes, one lane. The memory is what a gateway with 256 MiB can spare for
/// the one check that runs at a time; OWASP's password storage cheat sheet counts it as strong as 19 MiB with two.
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;

/// The most that a line may ask for: RFC 9106, section 4, second choice, and what any box can do in a second or two.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;
const ITERATIONS_MAX: u32 = 2_000_000;

const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 32;

/// Salts and tags of other writers; mosquitto's tags have 64 bytes.
const PART_BYTES_MAX: usize = 128;

/// Shorter tags would fit by chance.
const TAG_BYTES_MIN: usize = 16;

/// One kept password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    kind: Kind,
    salt: Box<[u8]>,
    tag: Box<[u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Argon2 { memory_kib: u32, passes: u32, lanes: u32 },
    Pbkdf2 { iterations: NonZeroU32 },
    Sha512,
}

/// Why a text is no kept password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    /// Not one of the three forms.
    #[error("is no password of ironbridge passwd ($argon2id$) or mosquitto_passwd ($7$, $6$)")]
    Form,
    /// It would take too much memory or time.
    #[error("asks for more memory or time than a login may take (at most m=65536, t=16, p=8; 2000000 iterations)")]
    TooCostly,
}

/// The system has no random numbers, or not enough memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers or no memory for a password")]
pub struct NotHashed;

impl Hash {
    pub(super) fn parse(text: &str) -> Result<Self, BadHash> {
        let parts: Vec<&str> = text.split('$').collect();
        match parts[..] {
            ["", "argon2id", "v=19", cost, salt, tag] => {
                Self::from_parts(argon2_cost(cost)?, STANDARD_NO_PAD.decode(salt), STANDARD_NO_PAD.decode(tag))
            }
            ["", "7", iterations, salt, tag] => {
                let iterations: NonZeroU32 = iterations.parse().map_err(|_| BadHash::Form)?;
                if iterations.get() > ITERATIONS_MAX {
                    return Err(BadHash::TooCostly);
                }
                Self::from_parts(Kind::Pbkdf2 { iterations }, STANDARD.decode(salt), STANDARD.decode(tag))
            }
            ["", "6", salt, tag] => Self::from_parts(Kind::Sha512, STANDARD.decode(salt), STANDARD.decode(tag)),
            _ => Err(BadHash::Form),
        }
    }

    fn from_parts<E>(kind: Kind, salt: Result<Vec<u8>, E>, tag: Result<Vec<u8>, E>) -> Result<Self, BadHash> {
        let (Ok(salt), Ok(tag)) = (salt, tag) else { return Err(BadHash::Form) };
        let fits = (1..=PART_BYTES_MAX).contains(&salt.len()) && (TAG_BYTES_MIN..=PART_BYTES_MAX).contains(&tag.len());
        let fits = fits && (salt.len() >= argon2::MIN_SALT_LEN || !matches!(kind, Kind::Argon2 { .. }));
        let fits = fits && (tag.len() == digest::SHA512_OUTPUT_LEN || kind != Kind::Sha512);
        if fits { Ok(Self { kind, salt: salt.into(), tag: tag.into() }) } else { Err(BadHash::Form) }
    }

    /// Something to compare with for a name that nobody has: never right, and as costly as what we write.
    pub(super) fn decoy() -> Self {
        let kind = Kind::Argon2 { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 };
        Self { kind, salt: [0; SALT_BYTES].into(), tag: [0; TAG_BYTES].into() }
    }

    /// Is it this password? Takes a fraction of a second of a processor and up to 64 MiB: not for async threads.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut tag = vec![0; self.tag.len()];
        match self.kind {
            Kind::Argon2 { memory_kib, passes, lanes } => argon2(memory_kib, passes, lanes).is_some_and(|argon2| {
                argon2.hash_password_into(password, &self.salt, &mut tag).is_ok() && same(&tag, &self.tag)
            }),
            Kind::Pbkdf2 { iterations } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &self.salt, password, &self.tag).is_ok()
            }
            Kind::Sha512 => {
                let mut hasher = digest::Context::new(&digest::SHA512);
                hasher.update(password);
                hasher.update(&self.salt);
                same(hasher.finish().as_ref(), &self.tag)
            }
        }
    }
}

/// Could a login be checked against this?
pub fn check_hash(text: &str) -> Result<(), BadHash> {
    Hash::parse(text).map(drop)
}

/// A password as it is kept in the file.
pub fn hash(password: &[u8]) -> Result<String, NotHashed> {
    let (mut salt, mut tag) = ([0; SALT_BYTES], [0; TAG_BYTES]);
    SystemRandom::new().fill(&mut salt).map_err(|_| NotHashed)?;
    let argon2 = argon2(MEMORY_KIB, PASSES, 1).ok_or(NotHashed)?;
    argon2.hash_password_into(password, &salt, &mut tag).map_err(|_| NotHashed)?;
    let (salt, tag) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(tag));
    Ok(format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${salt}${tag}"))
}

fn argon2(memory_kib: u32, passes: u32, lanes: u32) -> Option<Argon2<'static>> {
    let params = Params::new(memory_kib, passes, lanes, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// `m=12288,t=3,p=1`
fn argon2_cost(text: &str) -> Result<Kind, BadHash> {
    let mut numbers = text.split(',').zip(["m=", "t=", "p="]).map(|(part, name)| part.strip_prefix(name)?.parse().ok());
    let mut number = || numbers.next().flatten().ok_or(BadHash::Form);
    let (memory_kib, passes, lanes) = (number()?, number()?, number()?);
    if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(BadHash::TooCostly);
    }
    // Also what the crate would not do, such as zero passes.
    argon2(memory_kib, passes, lanes).ok_or(BadHash::Form)?;
    Ok(Kind::Argon2 { memory_kib, passes, lanes })
}

/// In a time that tells nothing about where they differ: what is compared is a digest under a key that nobody knows.
fn same(left: &[u8], right: &[u8]) -> bool {
    let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()) else { return false };
    hmac::verify(&key, left, hmac::sign(&key, right).as_ref()).is_ok()
}

/// Neither salt nor tag.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({:?}, …)", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mosquitto_passwd 2.0.11 wrote the first; the second has the form of 1.6, and mosquitto 2.0.11 takes it. Both: "secret".
    const MOSQUITTO_7: &str = "$7$101$fn4sad3Gqi7Eq6G0$uE2Tjv1Whx8Y7MtoMaM0+MBsABtSeQM30qqOYmcJMgezaB76cGpHg5dB7MGMW6aVc63hHnNC7aKMVlPNdrC7+A==";
    const MOSQUITTO_6: &str =
        "$6$AAECAwQFBgcICQoL$JqsxEv/ucyxjA5DKsQ+Y8CDWaQDNQI9FpAkmfwAqWfwZLk/JEGgM0EpylrJHAZKKyFQjJeZ3nFaHjPzOzPPmPw==";

    #[test]
    fn what_mosquitto_wrote_is_read_as_it_is() {
        for text in [MOSQUITTO_7, MOSQUITTO_6] {
            let hash = Hash::parse(text).expect("a line of mosquitto_passwd");
            assert!(hash.verify(b"secret"), "{text}");
            for wrong in [&b""[..], b"Secret", b"secret ", b"secre", b"secret\0"] {
                assert!(!hash.verify(wrong), "{text} takes {wrong:?}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_differs_each_time() {
        let (one, two) = (hash(b"p\xe4ss\0word").expect("hashed"), hash(b"p\xe4ss\0word").expect("hashed"));
        assert_ne!(one, two);
        assert!(one.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"), "{one}");
        let kept = Hash::parse(&one).expect("its own form");
        assert!(kept.verify(b"p\xe4ss\0word"));
        assert!(!kept.verify(b"p\xe4ss"));
        assert!(!Hash::decoy().verify(b"anything"));
    }

    /// From the reference implementation of Argon2: `echo -n password | argon2 somesalt -id -t 2 -k 256 -p 1 -l 32`.
    #[test]
    fn argon2_is_the_one_everybody_means() {
        let text = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(Hash::parse(text).expect("PHC").verify(b"password"));
    }

    #[test]
    fn a_line_cannot_ask_for_the_memory_of_the_box_nor_be_no_hash_at_all() {
        let argon2 =
            |cost: &str| format!("$argon2id$v=19${cost}$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4");
        for cost in ["m=4194304,t=1,p=1", "m=256,t=4000000000,p=1", "m=256,t=1,p=9"] {
            assert_eq!(Hash::parse(&argon2(cost)), Err(BadHash::TooCostly), "{cost}");
        }
        assert_eq!(Hash::parse(&MOSQUITTO_7.replace("$101$", "$4000000000$")), Err(BadHash::TooCostly));
        let broken =
            ["", "secret", "$", "$6$$", "$7$0$AAAA$AAAA", "$5$x$y", "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$x"];
        for text in broken.map(str::to_owned).into_iter().chain(["m=0,t=1,p=1", "t=1", "m=-1,t=1,p=1"].map(argon2)) {
            assert_eq!(Hash::parse(&text), Err(BadHash::Form), "{text}");
        }
        assert_eq!(Hash::parse("$6$AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA"), Err(BadHash::Form), "a tag that is too short");
    }

    #[test]
    fn nothing_of_a_kept_password_is_ever_shown() {
        let shown = format!("{:?}", Hash::parse(MOSQUITTO_6).expect("a line"));
        assert_eq!(shown, "Hash(Sha512, …)");
    }
}
