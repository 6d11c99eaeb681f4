//! Threads of their own for all that local clients cause: the broker and what publishes to it.
//!
//! Tasks on one set of threads wait for each other: thousands of packets of greedy clients stood before a bus whose poll
//! was due, and polls were late by a second or left out. On threads of their own the system shares the processor out, and
//! whoever sleeps most of the time, as buses, store and uplinks do, is woken at once.
//!
//! One processor is left to those others, so that clients never have them all. On a box with two this means one thread, and
//! a message from client to client is handed over without waking another: with one message at a time on its way, that was
//! half of what it cost.
//!
//! Not here: what these threads wait for. The core's lock is held for a message or a page at a time.

use std::io;
use std::num::NonZeroUsize;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The threads; dropped, they end without being waited for (what runs on them is waited for one by one).
#[derive(Debug)]
pub(super) struct Quarters(Option<Runtime>);

impl Quarters {
    /// One fewer than the machine has processors, and at least one.
    pub(super) fn new() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(processors.saturating_sub(1).max(1)).thread_name("clients").enable_all();
        builder.build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs a task on these threads.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task), // only while it is dropped
        }
    }
}

impl Drop for Quarters {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
