//! The two counts of an edge node (Sparkplug 3.0, tck-id-topics-nbirth-bdseq-increment and
//! tck-id-payloads-sequence-num-incrementing). Pure.
//!
//! `bdSeq` is drawn before each CONNECT (from the store, so that it goes on over restarts) and stays for the session: the will,
//! every NBIRTH and the NDEATH carry it. `seq` begins with 0 in each NBIRTH and counts all that the node publishes, devices
//! included, 0 after 255; a death of the node has none.

/// Of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Of this session.
    pub(super) bdseq: u8,
    next: u8,
}

impl Numbers {
    pub(super) const fn begin(bdseq: u8) -> Self {
        Self { bdseq, next: 0 }
    }

    /// For an NBIRTH.
    pub(super) fn birth(&mut self) -> u8 {
        self.next = 0;
        self.take()
    }

    /// For anything else.
    pub(super) fn take(&mut self) -> u8 {
        let seq = self.next;
        self.next = self.next.wrapping_add(1);
        seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_is_0_and_0_comes_after_255() {
        let mut numbers = Numbers::begin(9);
        assert_eq!(numbers.birth(), 0);
        let all: Vec<u8> = (0..256).map(|_| numbers.take()).collect();
        assert_eq!((all[0], all[254], all[255]), (1, 255, 0));
        assert_eq!((numbers.birth(), numbers.take(), numbers.bdseq), (0, 1, 9));
    }
}
