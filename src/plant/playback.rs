//! A recorded line, played back: somebody behind a line who says what was said, when it was said.
//!
//! Fed with requests by the line. Time runs from the start, as fast as told, once or again and again; at the end the last
//! state stays. How long an answer takes is not made faster: a client's patience is not either. What was not recorded is
//! answered with exception 2 (or 1, for a function that never was), counted and remembered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::behind::{Behind, Presence, Utterance};
use super::frames::Request;
use super::pdu;
use super::script::{Cue, Reply, Script};
use super::units::LineStats;
use crate::config::plan::Framing;
use crate::model::lock::Hold as _;
use crate::model::stats::Counter;

/// Different questions that were not recorded, remembered to be told.
const STRANGE_MAX: usize = 50;

/// How time runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tempo {
    /// Seconds of the recording in a second.
    pub speed: f64,
    /// What comes after the end.
    pub ending: Ending,
}

/// What comes after the end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its last state stays.
    Stay,
    /// It begins again.
    Again,
}

/// What was answered.
#[derive(Debug, Default)]
pub struct PlaybackStats {
    /// As recorded.
    pub recorded: Counter,
    /// Out of the image of what was recorded.
    pub image: Counter,
    /// Not recorded.
    pub not_recorded: Counter,
}

/// A question that was not recorded: unit and PDU.
pub type Strange = (u8, Vec<u8>);

/// A recorded line.
#[derive(Debug)]
pub struct Playback {
    script: Script,
    tempo: Tempo,
    began: Instant,
    presence: watch::Sender<Presence>,
    stats: LineStats,
    played: PlaybackStats,
    strange: Mutex<BTreeMap<Strange, u64>>,
}

impl Playback {
    /// Begins now.
    pub fn new(script: Script, tempo: Tempo) -> Self {
        Self {
            script,
            tempo,
            began: Instant::now(),
            presence: watch::Sender::new(Presence::Here(0)),
            stats: LineStats::default(),
            played: PlaybackStats::default(),
            strange: Mutex::default(),
        }
    }

    /// What is played.
    pub const fn script(&self) -> &Script {
        &self.script
    }

    /// The point of the recording that is played now.
    pub fn position(&self) -> Duration {
        let length = self.script.length();
        let passed = self.began.elapsed().mul_f64(self.tempo.speed);
        match self.tempo.ending {
            Ending::Again if !length.is_zero() => {
                let nanos = passed.as_nanos() % length.as_nanos();
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
            }
            _ => passed.min(length),
        }
    }

    /// What was answered.
    pub const fn played(&self) -> &PlaybackStats {
        &self.played
    }

    /// What was asked for and not recorded, the first few of them, and how often.
    pub fn strange(&self) -> Vec<(Strange, u64)> {
        self.remembered().iter().map(|(strange, count)| (strange.clone(), *count)).collect()
    }

    /// Ends connections and makes the line unreachable when that was so. Never ends. Cancel-safe.
    pub async fn conduct(&self) {
        let mut last: Option<Duration> = None;
        let (mut hung_up, mut is_away) = (0, false);
        loop {
            let now = self.position();
            if last.is_some_and(|last| now < last) {
                self.presence.send_replace(Presence::Here(hung_up)); // from the beginning again
                (last, is_away) = (None, false);
            }
            for (at, cue) in self.script.cues() {
                if *at <= now && last.is_none_or(|last| *at > last) {
                    hung_up += 1;
                    is_away = match cue {
                        Cue::Gone => true,
                        Cue::Back => false,
                        Cue::HangUp => is_away, // of several connections, one that outlived the line
                    };
                    self.presence.send_replace(if is_away { Presence::Away } else { Presence::Here(hung_up) });
                }
            }
            last = Some(now);
            let next = self.script.cues().iter().map(|(at, _)| *at).find(|at| *at > now);
            let left = next.unwrap_or(self.script.length()).saturating_sub(now).div_f64(self.tempo.speed);
            sleep(left.clamp(LOOK_MIN, LOOK_MAX)).await;
        }
    }

    fn remembered(&self) -> MutexGuard<'_, BTreeMap<Strange, u64>> {
        self.strange.hold()
    }

    fn not_recorded(&self, request: &Request) {
        self.played.not_recorded.one();
        let mut strange = self.remembered();
        let key = (request.unit_id, request.pdu.clone());
        if strange.len() < STRANGE_MAX || strange.contains_key(&key) {
            *strange.entry(key).or_default() += 1;
        }
    }
}

/// Between two looks at the script.
const LOOK_MIN: Duration = Duration::from_millis(5);
/// A recording that begins again is noticed within this.
const LOOK_MAX: Duration = Duration::from_millis(500);

impl Behind for Playback {
    fn hear(&self, framing: Framing, request: &Request) -> Vec<Utterance> {
        if request.unit_id == 0 && !framing.is_numbered() {
            return Vec::new();
        }
        self.stats.requests.one();
        let exception =
            |pdu: &[u8]| vec![Utterance::frame(Duration::ZERO, request.reply(framing, request.unit_id, pdu))];
        match self.script.reply(self.position(), framing, request) {
            Reply::Recorded(said) => {
                self.played.recorded.one();
                said
            }
            Reply::Image(said) => {
                self.played.image.one();
                said
            }
            Reply::NotRecorded(pdu) => {
                self.not_recorded(request);
                exception(&pdu)
            }
            Reply::Nobody => {
                self.not_recorded(request);
                let function = request.pdu.first().copied().unwrap_or_default();
                if framing.is_numbered() {
                    exception(&pdu::exception(function, pdu::TARGET_SILENT))
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn stats(&self) -> &LineStats {
        &self.stats
    }

    fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }
}
