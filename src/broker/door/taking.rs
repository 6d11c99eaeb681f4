//! Taking connections in, whatever the system says instead: what concerns one connection is passed over, a shortage is waited
//! for, and only a broken listener is opened anew.
//!
//! Without a free file descriptor the connection stays in the kernel's queue and accept fails at once, again and again. One
//! descriptor is kept in reserve: given up for a moment, it lets us take the connection in and close it, so that its
//! client knows.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::listening::{Listening, Raw};
use crate::broker::talk;
use crate::road::doorstep::{Trouble, judge};

/// Pause in a shortage, which does not get better by trying at once.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes in for one door.
#[derive(Debug)]
pub(super) struct Taking {
    reserve: Option<File>,
    shortage: talk::Trouble,
}

impl Taking {
    pub(super) fn new() -> Self {
        Self { reserve: reserve(), shortage: talk::Trouble::default() }
    }

    /// The next connection; an error: the listener is of no use any more. Cancel-safe.
    pub(super) async fn next(&mut self, listening: &Listening) -> io::Result<Raw> {
        loop {
            let error = match listening.accept().await {
                Ok(raw) => {
                    self.reserve = self.reserve.take().or_else(reserve);
                    return Ok(raw);
                }
                Err(error) => error,
            };
            let trouble = judge(&error);
            match trouble {
                Trouble::Broken => return Err(error),
                Trouble::ThatOne => {
                    tracing::debug!(%error, "a connection had gone before it was taken in");
                    continue;
                }
                Trouble::NoFile | Trouble::Short => {}
            }
            if self.shortage.is_news() {
                tracing::error!(%error, "cannot take in connections, trying on");
            }
            if trouble == Trouble::NoFile && self.reserve.take().is_some() {
                // Whoever waits longest is turned away; if nobody waits any more, so much the better.
                drop(tokio::time::timeout(Duration::ZERO, listening.accept()).await);
                self.reserve = reserve();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A descriptor that can be given up; `None`: there is none to be had now.
fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
