//! A recording as scripts, one for each line: its questions, and what happened to the line itself. Pure but for the reading.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::commands::Failed;
use crate::commands::capture::show::not_read;
use crate::commands::capture::takes::{Found, Item, Takes};
use crate::commands::capture::wires;
use crate::config::plan::{BusLink, Carrier};
use crate::plant::behind::Then;
use crate::plant::script::{Cue, Heard, Script, Take};
use crate::recording::{By, Head, Line, Reader, Record, Tail, What};

/// A connection that ends this long after an answer ended by itself, not because of the question.
const BY_ITSELF: Duration = Duration::from_millis(100);

/// A whole recording.
pub struct Tracks {
    /// When it was made, and the configuration.
    pub head: Head,
    /// Its lines.
    pub lines: Vec<(Line, BusLink, Script)>,
    /// Lines of a kind that this version does not know.
    pub unknown: Vec<Line>,
    /// How the file ends.
    pub tail: Tail,
    /// How long it is.
    pub length: Duration,
    /// Events that the recorder could not keep.
    pub missed: u64,
}

/// Reads a file.
pub fn read(file: &Path) -> Result<Tracks, Failed> {
    let mut reader = Reader::open(file).map_err(|error| not_read(&error))?;
    let mut takes = Takes::default();
    let (mut head, mut lines, mut items) = (None, Vec::new(), Vec::new());
    let (mut length, mut missed) = (Duration::ZERO, 0);
    while let Some(record) = reader.read().map_err(|error| not_read(&error))? {
        match record {
            Record::Head(first) => head = Some(first),
            Record::Line(line) => {
                takes.line(&line);
                lines.push(line);
            }
            Record::Event(event) => {
                length = length.max(event.at);
                if let What::Missed(count) = event.what {
                    missed += count;
                }
                takes.push(event, &mut |item| items.push(item));
            }
            Record::End | Record::Unknown(_) => {}
        }
    }
    takes.finish(&mut |item| items.push(item));
    let head = head.ok_or_else(|| Failed::Usage(format!("{}: the recording is empty", file.display())))?;
    let mut tracks = Tracks { head, lines: Vec::new(), unknown: Vec::new(), tail: reader.tail(), length, missed };
    for (ix, line) in (0u32..).zip(lines) {
        match wires::link(&line) {
            Some(link) => {
                let own = items.iter().filter(|item| item.line() == ix);
                let script = script(own, &link, length);
                tracks.lines.push((line, link, script));
            }
            None => tracks.unknown.push(line),
        }
    }
    Ok(tracks)
}

fn script<'a>(items: impl Iterator<Item = &'a Item>, link: &BusLink, length: Duration) -> Script {
    let is_port = matches!(link.carrier, Carrier::Serial(_));
    let (mut takes, mut cues) = (Vec::new(), Vec::new());
    // Of several connections one may not be had because the device serves fewer: the line is there while any of them is.
    let mut open = BTreeSet::new();
    // A line that was lost, and has not been opened since.
    let mut lost: Option<Duration> = None;
    for item in items {
        match item {
            Item::Take(take) => {
                let Some(asked) = &take.asked else { continue };
                let ended = take
                    .closed
                    .filter(|_| !is_port)
                    .map(|(after, by)| (after, if by == By::Them { Then::HangUp } else { Then::Reset }));
                let by_itself = take
                    .answered_after
                    .is_some_and(|answered| ended.is_some_and(|(after, _)| after > answered + BY_ITSELF));
                if by_itself {
                    cues.push((take.at + take.lasted, Cue::HangUp));
                }
                let answer = match &take.found {
                    Found::Answer(pdu) => Some(pdu.clone()),
                    _ => None,
                };
                let heard = take.pieces.iter();
                let heard = heard.map(|piece| Heard { by: piece.after + piece.took, bytes: piece.bytes.clone() });
                takes.push(Take {
                    at: take.at,
                    unit_id: asked.unit,
                    request: asked.pdu.clone(),
                    number: asked.number,
                    heard: heard.collect(),
                    answer,
                    answered_after: take.answered_after.unwrap_or_default(),
                    then: ended.filter(|_| !by_itself),
                });
            }
            Item::Note(event) => match &event.what {
                What::Opened => {
                    open.insert(event.connection);
                    if lost.take().is_some() {
                        cues.push((event.at, Cue::Back));
                    }
                }
                What::NotOpened(_) => {
                    open.remove(&event.connection); // who opens has none, also where the recording missed its end
                    if lost.is_none() && open.is_empty() {
                        lost = Some(event.at);
                        cues.push((event.at, Cue::Gone));
                    }
                }
                What::Closed { by, .. } => {
                    open.remove(&event.connection);
                    if *by != By::Us && is_port && lost.is_none() {
                        lost = Some(event.at);
                        cues.push((event.at, Cue::Gone));
                    }
                }
                _ => {}
            },
        }
    }
    Script::new(takes, cues, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Event;

    fn cues(events: &[(u64, u32, What)]) -> Vec<(u64, Cue)> {
        let [name, kind, place, settings] = ["b", "modbus-tcp", "somewhere:502", ""].map(str::to_owned);
        let line = Line { name, kind, place, settings, response_timeout: Duration::from_secs(1) };
        let link = wires::link(&line).expect("a line that can be played");
        let at = Duration::from_secs;
        let note = |(second, connection, what): &(u64, u32, What)| {
            Item::Note(Event { at: at(*second), line: 0, connection: *connection, what: what.clone() })
        };
        let items: Vec<Item> = events.iter().map(note).collect();
        let script = script(items.iter(), &link, at(100));
        script.cues().iter().map(|(at, cue)| (at.as_secs(), *cue)).collect()
    }

    #[test]
    fn a_connection_too_many_does_not_take_the_line_away_and_the_last_one_does() {
        let refused = || What::NotOpened("connection refused".to_owned());
        let closed = |by| What::Closed { by, error: String::new() };
        let serves_one = [(0, 0, What::Opened), (1, 1, refused()), (11, 1, refused())];
        assert_eq!(cues(&serves_one), [], "the first connection goes on");
        let lost = [(20, 0, closed(By::Them)), (21, 0, refused()), (22, 1, refused()), (30, 1, What::Opened)];
        let all = [&serves_one[..], &lost[..]].concat();
        assert_eq!(cues(&all), [(21, Cue::Gone), (30, Cue::Back)]);
        assert_eq!(cues(&[(0, 0, refused()), (5, 0, What::Opened)]), [(0, Cue::Gone), (5, Cue::Back)]);
    }
}
