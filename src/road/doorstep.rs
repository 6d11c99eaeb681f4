//! Where somebody knocks and cannot be taken in: what an error of accept(2) means to who listens.

use std::io;

use rustix::io::Errno;

/// Whom an error of accept concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// That connection had gone before it was taken in, or the firewall did not like it.
    ThatOne,
    /// No file descriptor is free.
    NoFile,
    /// The system is short of something else.
    Short,
    /// The listener itself.
    Broken,
}

/// What it means.
pub fn judge(error: &io::Error) -> Trouble {
    let Some(number) = error.raw_os_error().map(Errno::from_raw_os_error) else { return Trouble::Broken };
    match number {
        Errno::MFILE | Errno::NFILE => Trouble::NoFile,
        Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN => Trouble::Short,
        Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT => Trouble::Broken,
        // ECONNABORTED, EPERM, EINTR, and what the network has reported for that connection already
        _ => Trouble::ThatOne,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_is_passed_over_and_only_a_broken_listener_ends() {
        let judged = |number: Errno| judge(&io::Error::from(number));
        for number in [Errno::CONNABORTED, Errno::PERM, Errno::INTR, Errno::PROTO, Errno::NETDOWN, Errno::HOSTUNREACH] {
            assert_eq!(judged(number), Trouble::ThatOne, "{number}");
        }
        assert_eq!((judged(Errno::MFILE), judged(Errno::NFILE)), (Trouble::NoFile, Trouble::NoFile));
        assert_eq!((judged(Errno::NOMEM), judged(Errno::BADF)), (Trouble::Short, Trouble::Broken));
    }
}
