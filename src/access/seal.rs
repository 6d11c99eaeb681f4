//! A mark that only this process can make: HMAC-SHA-256 under a key that is drawn at the start and never leaves it.

use std::fmt::{self, Write as _};

use ring::hmac;

/// 32 bytes in hexadecimal.
const MARK_LETTERS: usize = 64;

/// Makes and checks marks.
pub struct Seal(hmac::Key);

impl Default for Seal {
    fn default() -> Self {
        let key: [u8; 32] = rand::random();
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// The mark of a text, 64 letters.
    pub fn mark(&self, text: &str) -> String {
        let tag = hmac::sign(&self.0, text.as_bytes());
        tag.as_ref().iter().fold(String::with_capacity(MARK_LETTERS), |mut mark, byte| {
            let _ = write!(mark, "{byte:02x}"); // memory takes everything
            mark
        })
    }

    /// Is it the mark of this text? Takes the same time however much of it is right.
    pub fn is_mark(&self, text: &str, mark: &str) -> bool {
        let letters = mark.as_bytes();
        if letters.len() != MARK_LETTERS {
            return false;
        }
        let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = letters.chunks(2).map(byte).collect();
        bytes.is_some_and(|bytes| hmac::verify(&self.0, text.as_bytes(), &bytes).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_fits_its_text_and_no_other_and_only_the_seal_that_made_it() {
        let (seal, other) = (Seal::default(), Seal::default());
        let mark = seal.mark("session");
        assert!(seal.is_mark("session", &mark));
        assert!(!seal.is_mark("sessiom", &mark));
        assert!(!other.is_mark("session", &mark));
        for wrong in ["", "00", &mark[1..], &format!("{mark}0"), &"é".repeat(32), &"+f".repeat(32)] {
            assert!(!seal.is_mark("session", wrong), "{wrong}");
        }
    }
}
