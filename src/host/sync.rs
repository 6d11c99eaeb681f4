//! Who vouches for the wall clock: systemd-timesyncd, chronyd, a file of the operator's choice, or nobody.
//!
//! The hardened unit cannot ask the kernel (adjtimex) or the RTC, so the daemons are asked. timesyncd touches a file
//! when it has synchronised. chronyd answers a "tracking" request on 127.0.0.1:323 to any local user:
//!
//! ```text
//! request  104 bytes: version 6 | type 1 (request) | 0 0 | command u16 = 33 (tracking) | attempt u16 | sequence u32 | zeros
//!          (as long as the reply, or chronyd ignores it)
//! reply    104 bytes: version 6 | type 2 (reply) | 0 0 | command u16 = 33 | reply u16 = 5 | status u16 = 0 | … |
//!          sequence u32 at 16 | … | from 28: reference id u32, address 20 bytes, stratum u16 at 52,
//!          leap status u16 at 54 (3: not synchronised)
//! ```
//!
//! All numbers big-endian (chrony, candm.h, protocol version 6).
//!
//! Only a port that nobody listens at says that chronyd is not there. One that is late, or begun anew, has vouched for
//! nothing: it counts as waiting, for `GONE_AFTER`, lest a clock that it calls wrong is taken for right meanwhile.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::config::plan::TimeTrust;

/// systemd-timesyncd.service(8): exists once the clock was synchronised in this boot.
const TIMESYNCD: &str = "/run/systemd/timesync";
const CHRONY_PORT: u16 = 323;
/// It is on this machine; an answer takes microseconds.
const CHRONY_WAIT: Duration = Duration::from_millis(100);
/// How often chronyd is asked.
const CHRONY_EVERY: Duration = Duration::from_secs(10);
/// One that was there and does not answer is gone after this long: more than an upgrade takes to begin it anew.
const GONE_AFTER: Duration = Duration::from_secs(300);
const TRACKING_BYTES: usize = 104;
const TRACKING_COMMAND: [u8; 2] = 33_u16.to_be_bytes();
const TRACKING_REPLY: [u8; 2] = 5_u16.to_be_bytes();
const LEAP_UNSYNCHRONISED: [u8; 2] = 3_u16.to_be_bytes();

/// What they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The wall clock is right.
    Synchronised,
    /// Not yet, or no longer.
    Waiting,
    /// There is nobody to ask.
    Nobody,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synchronised => "synchronised",
            Self::Waiting => "not synchronised yet",
            Self::Nobody => "no NTP daemon answers, and the clock is behind what was seen before",
        })
    }
}

/// What came of one question to chronyd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Said(Sync),
    /// Not in time, or nothing that can be understood.
    Silence,
    /// Nobody listens there.
    Refused,
}

/// Remembers chronyd's last answer for a while.
#[derive(Debug, Default)]
pub struct Asked {
    /// When it was asked, and what that is worth; `None`: it is not there.
    chrony: Option<(Duration, Option<Sync>)>,
    /// When it answered last; of one that never did, when it was silent first.
    there: Option<Duration>,
}

impl Asked {
    /// Asks whoever the operator trusts; `now` is any clock that only goes forward.
    pub fn ask(&mut self, trust: &TimeTrust, now: Duration) -> Sync {
        match trust {
            TimeTrust::System => Sync::Synchronised,
            TimeTrust::File(path) => marker(path),
            TimeTrust::Auto => self.either(Path::new(TIMESYNCD), now, CHRONY_PORT),
        }
    }

    /// One that vouches is enough: timesyncd's directory outlives it where chronyd has taken its place.
    fn either(&mut self, timesyncd: &Path, now: Duration, chrony_port: u16) -> Sync {
        let marked = timesyncd.is_dir().then(|| marker(&timesyncd.join("synchronized")));
        match marked {
            Some(Sync::Synchronised) => Sync::Synchronised,
            waiting => self.chrony(now, chrony_port).or(waiting).unwrap_or(Sync::Nobody),
        }
    }

    fn chrony(&mut self, now: Duration, port: u16) -> Option<Sync> {
        match self.chrony {
            Some((asked, answer)) if now.saturating_sub(asked) < CHRONY_EVERY => answer,
            _ => {
                let answer = self.weigh(chrony(port), now);
                self.chrony = Some((now, answer));
                answer
            }
        }
    }

    fn weigh(&mut self, answer: Answer, now: Duration) -> Option<Sync> {
        match answer {
            Answer::Said(sync) => {
                self.there = Some(now);
                return Some(sync);
            }
            Answer::Silence => self.there = self.there.or(Some(now)),
            Answer::Refused => {}
        }
        self.there.filter(|there| now.saturating_sub(*there) < GONE_AFTER).map(|_| Sync::Waiting)
    }
}

fn marker(path: &Path) -> Sync {
    if path.exists() { Sync::Synchronised } else { Sync::Waiting }
}

fn chrony(port: u16) -> Answer {
    match tracking(port) {
        Ok(Some(sync)) => Answer::Said(sync),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
        Ok(None) | Err(_) => Answer::Silence,
    }
}

/// `None`: what came is no answer to this.
fn tracking(port: u16) -> io::Result<Option<Sync>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(CHRONY_WAIT))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    let sequence = rand::random::<[u8; 4]>();
    let mut request = [0; TRACKING_BYTES];
    request[..2].copy_from_slice(&[6, 1]);
    request[4..6].copy_from_slice(&TRACKING_COMMAND);
    request[8..12].copy_from_slice(&sequence);
    socket.send(&request)?;
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply)?;
    Ok(read_tracking(&reply[..length], sequence))
}

fn read_tracking(reply: &[u8], sequence: [u8; 4]) -> Option<Sync> {
    let ours = reply.len() >= TRACKING_BYTES
        && reply[..2] == [6, 2]
        && reply[4..6] == TRACKING_COMMAND
        && reply[6..8] == TRACKING_REPLY
        && reply[8..10] == [0, 0]
        && reply[16..20] == sequence;
    let synchronised = || if reply[54..56] == LEAP_UNSYNCHRONISED { Sync::Waiting } else { Sync::Synchronised };
    ours.then(synchronised)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(leap: u16, sequence: [u8; 4]) -> Vec<u8> {
        let mut reply = vec![0; TRACKING_BYTES];
        reply[..2].copy_from_slice(&[6, 2]);
        reply[4..6].copy_from_slice(&TRACKING_COMMAND);
        reply[6..8].copy_from_slice(&TRACKING_REPLY);
        reply[16..20].copy_from_slice(&sequence);
        reply[54..56].copy_from_slice(&leap.to_be_bytes());
        reply
    }

    #[test]
    fn chronyd_is_asked_and_its_leap_status_counts() {
        for (leap, expected) in [(0, Sync::Synchronised), (1, Sync::Synchronised), (3, Sync::Waiting)] {
            let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let port = daemon.local_addr().expect("bound").port();
            let answering = std::thread::spawn(move || {
                let mut request = [0; 512];
                let (length, from) = daemon.recv_from(&mut request).expect("a request");
                assert_eq!((length, &request[..2]), (TRACKING_BYTES, &[6, 1][..]));
                let sequence = [request[8], request[9], request[10], request[11]];
                daemon.send_to(&reply(leap, sequence), from).expect("sent");
            });
            let answer = chrony(port);
            answering.join().expect("answered");
            // A machine that stalled for longer than the wait has not been answered; it asks again later.
            assert!([Answer::Said(expected), Answer::Silence].contains(&answer), "{answer:?}");
            assert_eq!(read_tracking(&reply(leap, [1, 2, 3, 4]), [1, 2, 3, 4]), Some(expected));
        }
    }

    #[test]
    fn chronyd_vouches_where_a_timesyncd_that_is_gone_has_left_its_directory() {
        let home = tempfile::tempdir().expect("a directory");
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = daemon.local_addr().expect("bound").port();
        let mut asked = Asked { chrony: Some((Duration::ZERO, Some(Sync::Synchronised))), there: None };
        assert_eq!(asked.either(home.path(), Duration::from_secs(1), port), Sync::Synchronised);
        assert_eq!(Asked::default().either(home.path(), Duration::ZERO, port), Sync::Waiting, "nobody answers in time");
        drop(daemon);
        assert_eq!(Asked::default().either(&home.path().join("none"), Duration::ZERO, port), Sync::Nobody);
        std::fs::write(home.path().join("synchronized"), b"").expect("written");
        assert_eq!(Asked::default().either(home.path(), Duration::ZERO, port), Sync::Synchronised);
    }

    #[test]
    fn a_chronyd_that_is_late_or_begun_anew_has_vouched_for_nothing() {
        let (none, second) = (Path::new("/nowhere"), Duration::from_secs);
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = daemon.local_addr().expect("bound").port();
        assert_eq!(Asked::default().either(none, second(100), port), Sync::Waiting, "late with its first answer");
        let mut asked = Asked { chrony: Some((second(100), Some(Sync::Waiting))), there: Some(second(100)) };
        assert_eq!(asked.either(none, second(110), port), Sync::Waiting, "late once");
        drop(daemon);
        assert_eq!(asked.either(none, second(120), port), Sync::Waiting, "begun anew");
        assert_eq!(asked.either(none, second(400), port), Sync::Nobody, "and never came back");
    }

    #[test]
    fn what_chronyd_said_counts_for_as_long_as_it_says_so_and_silence_is_not_for_ever() {
        let (mut asked, second) = (Asked::default(), Duration::from_secs);
        assert_eq!(asked.weigh(Answer::Refused, second(90)), None, "there never was one");
        assert_eq!(asked.weigh(Answer::Said(Sync::Synchronised), second(100)), Some(Sync::Synchronised));
        assert_eq!(asked.weigh(Answer::Silence, second(110)), Some(Sync::Waiting));
        assert_eq!(asked.weigh(Answer::Said(Sync::Waiting), second(120)), Some(Sync::Waiting));
        assert_eq!(asked.weigh(Answer::Refused, second(419)), Some(Sync::Waiting));
        for answer in [Answer::Silence, Answer::Refused] {
            assert_eq!(asked.weigh(answer, second(420)), None, "gone");
        }
        assert_eq!(asked.weigh(Answer::Said(Sync::Waiting), second(430)), Some(Sync::Waiting));
    }

    #[test]
    fn answers_to_others_and_garbage_are_nobody() {
        let right = reply(0, [1, 2, 3, 4]);
        assert_eq!(read_tracking(&right, [9, 9, 9, 9]), None);
        assert_eq!(read_tracking(&right[..100], [1, 2, 3, 4]), None);
        for place in [0, 1, 5, 7, 9, 17] {
            let mut wrong = right.clone();
            wrong[place] ^= 0x40;
            assert_eq!(read_tracking(&wrong, [1, 2, 3, 4]), None, "byte {place}");
        }
    }

    #[test]
    fn a_marker_file_vouches_while_it_is_there() {
        let home = tempfile::tempdir().expect("a directory");
        let trust = TimeTrust::File(home.path().join("gps-locked"));
        let mut asked = Asked::default();
        assert_eq!(asked.ask(&trust, Duration::ZERO), Sync::Waiting);
        std::fs::write(home.path().join("gps-locked"), b"").expect("written");
        assert_eq!(asked.ask(&trust, Duration::ZERO), Sync::Synchronised);
        assert_eq!(asked.ask(&TimeTrust::System, Duration::ZERO), Sync::Synchronised);
    }
}
