//! The process under test, running: what it says is heard all the time, and it can be stopped or killed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::witness::Said;
use super::workload::{LOG, ORDER, Order};

pub struct Subject {
    pub process: Child,
    order: Order,
    socket: UnixStream,
    commits: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    all: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
}

impl Subject {
    /// Runs the test `name` of this binary in a process of its own.
    pub fn run(name: &str, order: &Order) -> Self {
        let listener = UnixListener::bind(&order.socket).expect("bound");
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(ORDER, order.text())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os(LOG).is_some() { Stdio::inherit() } else { Stdio::null() })
            .spawn()
            .expect("started");
        listener.set_nonblocking(true).expect("set");
        let socket = loop {
            match listener.accept() {
                Ok((socket, _)) => break socket,
                Err(_) => assert!(process.try_wait().expect("a child").is_none(), "no test has the name {name}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        socket.set_nonblocking(false).expect("set");
        let (commits, bytes, all) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::default());
        let (counted, heard, sink): (_, _, Arc<Mutex<Vec<u8>>>) =
            (Arc::clone(&commits), Arc::clone(&bytes), Arc::clone(&all));
        let mut ear = socket.try_clone().expect("cloned");
        let listening = std::thread::spawn(move || {
            let mut part = vec![0; 65_536];
            while let Ok(length) = ear.read(&mut part)
                && length > 0
            {
                sink.lock().expect("no panic").extend_from_slice(&part[..length]);
                let commit = part[..length].windows(7).filter(|word| word == b"commit ").count();
                counted.fetch_add(commit as u64, Ordering::Relaxed);
                heard.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Self { process, order: order.clone(), socket, commits, bytes, all, listening }
    }

    /// Waits until it has said so many bytes.
    pub fn has_said(&mut self, bytes: u64) {
        while self.bytes.load(Ordering::Relaxed) < bytes {
            let ended = self.process.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended by itself: {ended:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for so many more commits; false when they do not come in time.
    pub fn commits(&self, more: u64, within: Duration) -> bool {
        let (began, upto) = (Instant::now(), self.commits.load(Ordering::Relaxed) + more);
        while self.commits.load(Ordering::Relaxed) < upto {
            if began.elapsed() > within {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// kill -9; what it had said counts.
    pub fn kill(mut self, said: &mut Said) {
        self.process.kill().expect("SIGKILL");
        let status = self.process.wait().expect("gone");
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
        self.end(said);
    }

    /// Tells it to end in order; false when it did not end well, and in time.
    pub fn stop(mut self, within: Duration, said: &mut Said) -> bool {
        let _ = self.socket.shutdown(Shutdown::Write);
        let began = Instant::now();
        let mut status = self.process.try_wait().expect("a child");
        while status.is_none() && began.elapsed() < within {
            std::thread::sleep(Duration::from_millis(5));
            status = self.process.try_wait().expect("a child");
        }
        if status.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        self.end(said);
        status.is_some_and(|status| status.success())
    }

    fn end(self, said: &mut Said) {
        self.listening.join().expect("heard");
        said.hear(&self.all.lock().expect("no panic"));
        said.cut();
        std::fs::remove_file(&self.order.socket).expect("removed");
    }
}
