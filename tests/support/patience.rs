//! How tests wait: for something that holds, never for luck, and whoever waits in vain says for what.

#![allow(dead_code, reason = "each test file waits in its own way")]

use std::time::{Duration, Instant};

/// Nothing takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until something holds; panics after [`PATIENCE`].
pub async fn until(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds).await;
}

/// Waits until something holds; panics when it took longer than this.
pub async fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "in vain for {limit:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks until there is an answer; panics after [`PATIENCE`].
pub async fn answer<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain for {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// [`until`] where there is no runtime.
pub fn until_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain for {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
