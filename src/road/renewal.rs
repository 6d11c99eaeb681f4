//! The certificates of a server over the years: what they are now, and what there is to say of them.
//!
//! Whoever serves with TLS looks when [`Renewal::due`] says so and acts on what it is given; this file remembers what was said,
//! so that each change is told once. Nothing is logged here: the caller knows whose certificates they are.

use std::time::Duration;

use tokio::sync::watch;

use super::expiry::Ends;
use super::server::{Server, Serving};
use crate::model::time::{Certainty, Wall};

/// A certificate is spoken of so many days before it ends.
const DAYS_AHEAD: i64 = 30;
const DAY_MS: i64 = 86_400_000;

/// Files are looked at this often; reading three small ones costs nothing, and writes nothing.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same while there are none that can be used.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The event of [`About::Unusable`].
pub const UNUSABLE: &str = "certificate_unusable";

/// The event of [`About::Ending`].
pub const EXPIRING: &str = "certificate_expiring";

/// Watches over the files of one server.
pub struct Renewal {
    server: Server,
    missing: bool,
    unusable: bool,
    ending: Ending,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// About what.
    pub about: About,
    /// Does it hold from now on, or no more?
    pub holds: Holds,
    /// For a person; names files and dates.
    pub detail: String,
}

/// What may be wrong with certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// There is nothing to serve with.
    Missing,
    /// The files as they are cannot be used; the last good ones are.
    Unusable,
    /// One of them ends within 30 days; told anew each day.
    Ending,
}

impl About {
    /// What it is called as an event; what is `missing` differs from server to server.
    pub const fn event(self, missing: &'static str) -> &'static str {
        match self {
            Self::Missing => missing,
            Self::Unusable => UNUSABLE,
            Self::Ending => EXPIRING,
        }
    }
}

/// Why files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is time.
    Time,
    /// Somebody wants them to be.
    Asked,
}

/// Whether it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// From now on.
    Now,
    /// No more.
    NoMore,
}

impl Renewal {
    /// Nothing is read yet.
    pub fn new(server: Server) -> Self {
        Self { server, missing: false, unusable: false, ending: Ending::default() }
    }

    /// Waits until they are to be looked at again: from time to time, and whenever `asked` changes. Cancel-safe.
    pub async fn due(&self, asked: &mut watch::Receiver<u64>) -> Reason {
        let pause = if self.missing { LOOK_AGAIN } else { LOOK_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => Reason::Time,
            Ok(()) = asked.changed() => Reason::Asked,
        }
    }

    /// What to serve with, if there is anything, and what there is to tell. Reads the files. Cancel-safe.
    pub async fn look(&mut self, wall: Wall) -> (Option<Serving>, Vec<News>) {
        let mut news = Vec::new();
        let mut tell = |about, holds, detail| news.push(News { about, holds, detail });
        let serving = match self.server.load().await {
            Ok(serving) => serving,
            Err(error) => {
                if !std::mem::replace(&mut self.missing, true) {
                    tell(About::Missing, Holds::Now, error.to_string());
                }
                return (None, news);
            }
        };
        if std::mem::take(&mut self.missing) {
            tell(About::Missing, Holds::NoMore, "the certificate can be used now".to_owned());
        }
        match (serving.fault.as_deref(), self.unusable) {
            (Some(fault), false) => {
                tell(About::Unusable, Holds::Now, format!("{fault}; the last good files stay in use"));
            }
            (None, true) => tell(About::Unusable, Holds::NoMore, "the files can be used again".to_owned()),
            _ => {}
        }
        self.unusable = serving.fault.is_some();
        news.extend(self.ending.note(serving.ends.as_ref(), wall));
        (Some(serving), news)
    }
}

/// What there is to say of the end of a certificate: once a day while it is near, and when it has been put off.
#[derive(Debug, Default)]
pub struct Ending {
    /// Of what, and how many days it then had.
    said: Option<(String, i64)>,
}

impl Ending {
    /// What ends first ends then. A clock without a fix would cry wolf, or keep silent: by that nothing is said.
    pub fn note(&mut self, ends: Option<&Ends>, wall: Wall) -> Option<News> {
        if wall.certainty != Certainty::Fixed {
            return None;
        }
        let near = ends.and_then(|ends| Some((ends, days_left(ends.unix_ms, wall)?)));
        let Some((Ends { what, unix_ms }, days)) = near else {
            let (what, _) = self.said.take()?;
            return Some(News {
                about: About::Ending,
                holds: Holds::NoMore,
                detail: format!("{what} has been renewed"),
            });
        };
        let news = Some((what.clone(), days));
        if self.said == news {
            return None;
        }
        self.said = news;
        let end = Wall { unix_ms: *unix_ms, certainty: Certainty::Fixed };
        let detail = match days {
            0 => format!("{what} ends within a day or has ended: {end}"),
            days => format!("{what} ends in {days} days: {end}"),
        };
        Some(News { about: About::Ending, holds: Holds::Now, detail })
    }
}

/// Whole days until the end, once there are no more than 30; 0 on the last day and afterwards. `None` too where nobody knows
/// how late it is.
pub fn days_left(end_ms: i64, wall: Wall) -> Option<i64> {
    let left = end_ms.saturating_sub(wall.unix_ms);
    let near = wall.certainty == Certainty::Fixed && left <= DAYS_AHEAD * DAY_MS;
    near.then(|| left.div_euclid(DAY_MS).max(0))
}
