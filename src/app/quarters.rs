//! A thread of its own for all that local clients cause: the broker, what publishes to it, the status page.
//!
//! Tasks on one set of threads wait for each other: thousands of packets of greedy clients stood before a bus whose poll
//! was due, and polls were late by a second or left out. On a thread of its own the system shares the processor out, and
//! whoever sleeps most of the time, as buses, store and uplinks do, is woken at once.
//!
//! One thread, whatever the machine has: a message from client to client is handed over without waking another, clients
//! never have all processors, and tokio's scheduler for one thread does the least between a packet in and a packet out.
//! With one message at a time on its way, waking another thread was half of what it cost.
//!
//! Not here: what this thread waits for. The core's lock is held for a message or a page at a time, passwords are hashed
//! on threads for what blocks.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The thread; dropped, it ends without being waited for (what runs on it is waited for one by one).
#[derive(Debug)]
pub(super) struct Quarters {
    handle: Handle,
    /// Its end ends the thread.
    _stay: oneshot::Sender<()>,
}

impl Quarters {
    /// Starts the thread.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stay, left) = oneshot::channel();
        thread::Builder::new().name("clients".to_owned()).spawn(move || {
            let _left = runtime.block_on(left); // an error says that the sender is gone: so it is meant
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _stay: stay })
    }

    /// Runs a task on this thread.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(task)
    }
}
