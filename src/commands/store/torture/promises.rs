//! What a store has promised: numbers and what they mean, as the child says it and a ledger keeps it.
//!
//! ```text
//! commit CLASS EPOCH FIRST LAST ID      committed; record FIRST has this id, the next one the next
//! ack CLASS EPOCH FIRST LAST            about to be acknowledged by the uplink
//! slowest MS                            the longest commit so far in this process
//! ```
//!
//! What a record holds follows from its id. A ledger is a file of such lines on another medium than the store: it is
//! what a real power cut cannot take. Its last line may be cut off and then does not count.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::number::{Class, Number};
use crate::model::value::Value;
use crate::store::{Owed, OwedBody};

/// The topic of events.
pub(super) const TOPIC: &str = "torture/event";

/// One epoch of a stream.
pub(super) type Stream = (Class, u64);

/// Numbers in a row that mean ids in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) id: u64,
}

/// Everything promised so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Promises {
    /// In order, never overlapping.
    pub(super) runs: BTreeMap<Stream, Vec<Run>>,
    /// Numbers up to here may have been acknowledged.
    pub(super) acknowledged: BTreeMap<Stream, u64>,
    pub(super) slowest_ms: u64,
    /// Something that cannot be: a number that was promised twice.
    pub(super) twice: Vec<String>,
}

impl Promises {
    /// Takes a line. Lines that say nothing of these things are not looked at.
    pub(super) fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
        let stream = || Some((Class::from_name(words.get(1)?)?, number(2)?));
        match words.first() {
            Some(&"commit") if words.len() == 6 => {
                if let (Some(stream), Some(first), Some(last), Some(id)) = (stream(), number(3), number(4), number(5)) {
                    self.promise(stream, Run { first, last, id });
                }
            }
            Some(&"ack") if words.len() == 5 => {
                if let (Some(stream), Some(last)) = (stream(), number(4)) {
                    let upto = self.acknowledged.entry(stream).or_default();
                    *upto = last.max(*upto);
                }
            }
            Some(&"slowest") => self.slowest_ms = self.slowest_ms.max(number(1).unwrap_or(0)),
            _ => {}
        }
    }

    /// A number means this from now on.
    pub(super) fn promise(&mut self, stream: Stream, run: Run) {
        if self.id_of(stream, run.first) == Some(run.id) && self.id_of(stream, run.last).is_some() {
            return; // the same again
        }
        let runs = self.runs.entry(stream).or_default();
        match runs.last_mut() {
            Some(last) if last.last + 1 == run.first && last.id + (run.first - last.first) == run.id => {
                last.last = run.last;
            }
            Some(last) if last.last >= run.first => {
                let (class, epoch) = stream;
                self.twice.push(format!("{class} {epoch}: {}..{} was promised twice", run.first, run.last));
            }
            _ => runs.push(run),
        }
    }

    /// What a number was promised to mean.
    pub(super) fn id_of(&self, stream: Stream, seq: u64) -> Option<u64> {
        let runs = self.runs.get(&stream)?;
        let run = runs[..runs.partition_point(|run| run.first <= seq)].last()?;
        (seq <= run.last).then(|| run.id + seq - run.first)
    }

    /// Promised records.
    pub(super) fn count(&self) -> u64 {
        self.runs.values().flatten().map(|run| run.last + 1 - run.first).sum()
    }

    /// All of it, as lines of a ledger.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for ((class, epoch), runs) in &self.runs {
            for Run { first, last, id } in runs {
                let _ = writeln!(text, "commit {class} {epoch} {first} {last} {id}");
            }
        }
        for ((class, epoch), last) in &self.acknowledged {
            let _ = writeln!(text, "ack {class} {epoch} 1 {last}");
        }
        text
    }
}

/// What a record of this id holds: every tenth is an event that does not compress (`None`: a sample).
pub(super) fn event(id: u64) -> Option<Vec<u8>> {
    if !id.is_multiple_of(10) {
        return None;
    }
    let mut random = id | 1;
    let mut pad = String::with_capacity(400);
    for _ in 0..400 {
        // Marsaglia's xorshift64.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        pad.push(char::from(b'a' + u8::try_from(random >> 59).unwrap_or(0) % 26));
    }
    Some(format!("{{\"id\":{id},\"pad\":\"{pad}\"}}").into_bytes())
}

/// The id of a record, or `None` where not every byte of it is as it was stored.
pub(super) fn id_of(owed: &Owed) -> Option<u64> {
    match &owed.body {
        OwedBody::Sample { value: Some(Value::Uint(id)), tag, .. } => {
            (tag.name == owed.number.stream.as_str() && event(*id).is_none()).then_some(*id)
        }
        OwedBody::Sample { .. } | OwedBody::Message { .. } => None,
        OwedBody::Event { topic, body } => {
            let text = std::str::from_utf8(body).ok()?;
            let id = text.strip_prefix("{\"id\":")?.split(',').next()?.parse().ok()?;
            (**topic == *TOPIC && event(id)? == **body).then_some(id)
        }
    }
}

/// Stream and seq of a number.
pub(super) const fn place(number: Number) -> (Stream, u64) {
    ((number.stream, number.epoch.0), number.seq.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_read_back_from_their_ledger_and_a_number_promised_twice_is_noticed() {
        let mut promises = Promises::default();
        for line in ["commit alarm 7 1 4 100", "commit alarm 7 5 9 104", "commit alarm 7 20 21 900", "ack alarm 7 1 3"]
        {
            promises.take(line);
        }
        promises.take("commit alarm 7 30 3"); // cut off
        promises.take("slowest 12");
        let stream = (Class::Alarm, 7);
        assert_eq!(promises.runs[&stream].len(), 2, "what goes on is one run");
        assert_eq!(promises.id_of(stream, 9), Some(108));
        assert_eq!((promises.id_of(stream, 10), promises.id_of(stream, 21)), (None, Some(901)));
        let mut again = Promises::default();
        promises.text().lines().for_each(|line| again.take(line));
        assert_eq!((&again.runs, again.count(), again.acknowledged[&stream]), (&promises.runs, 11, 3));
        promises.take("commit alarm 7 21 22 950");
        assert_eq!(promises.twice.len(), 1);
    }

    #[test]
    fn every_byte_of_an_event_follows_from_its_id() {
        assert!(event(7).is_none());
        let body = event(70).expect("an event");
        assert!(body.len() > 400 && body != event(80).expect("an event"));
    }
}
