//! Feeds systemd's watchdog while every worker makes progress, names the one that does not, and keeps the line of
//! `systemctl status`.
//!
//! A thread of its own: when all threads of the tasks are blocked, it is the one that can still say by whom. It kills
//! nothing: it withholds `WATCHDOG=1`, and systemd ends the process after `WatchdogSec=` and starts it again. Without
//! systemd it looks all the same, and says what it sees.
//!
//! Threads that wait for questions (store, ledger, journal of commands) are asked one from time to time, by a task
//! whose step is the answer.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::{error, info};

use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::progress::{self, Late, Progress, Stuck};
use crate::flow::stop::Stop;
use crate::host::notify::Notify;
use crate::store::{StoreHandle, StoreStats};

use super::roster::{PlanNow, UplinkRoster};
use super::supervisor::Crew;

/// How often the board is looked at; more often where systemd wants to hear more often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often a thread is asked.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// A disk that does not come back for so long never does. A worn flash card may stall for a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// Works until dropped.
#[derive(Debug)]
pub struct Watchdog {
    end: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has.
pub(super) struct Guard {
    progress: Progress,
    notices: Notices,
    notify: Notify,
    every: Duration,
    looked: Instant,
    /// Who has been named, until there is progress again.
    named: Vec<(&'static str, String)>,
    /// The line as it was told last.
    line: String,
}

impl Watchdog {
    /// Begins to look; `interval` is systemd's, `line` makes the line for people.
    pub(super) fn start(
        progress: Progress,
        notices: Notices,
        notify: Notify,
        interval: Option<Duration>,
        line: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Self> {
        let every = interval.map_or(LOOK_EVERY, |interval| LOOK_EVERY.min(interval / 4));
        let mut guard = Guard::new(progress, notices, notify, every);
        let (end, ended) = sync_channel(0);
        let work = move || {
            guard.look(Instant::now(), &line());
            while ended.recv_timeout(guard.every) == Err(RecvTimeoutError::Timeout) {
                guard.look(Instant::now(), &line());
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(work)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join()); // a panic there has been reported by the panic hook
        }
    }
}

impl Guard {
    fn new(progress: Progress, notices: Notices, notify: Notify, every: Duration) -> Self {
        Self { progress, notices, notify, every, looked: Instant::now(), named: Vec::new(), line: String::new() }
    }

    /// Looks at the board once.
    fn look(&mut self, now: Instant, line: &str) {
        let since = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        if since > self.every * 4 {
            // The whole process stood still (a suspended machine, a stopped process): the workers have their turn first.
            info!(elapsed_ms = millis(since), "the process stood still");
            return;
        }
        let late = self.progress.late(now);
        if late.is_empty() {
            self.notify.alive();
        }
        for late in &late {
            if !self.named.iter().any(|(kind, name)| late.kind == *kind && late.name == *name) {
                self.name(late);
            }
        }
        let notices = &self.notices;
        self.named.retain(|(kind, name)| {
            let still = late.iter().any(|late| late.kind == *kind && late.name == *name);
            if !still {
                info!(worker = *kind, name, "worker makes progress again");
                notices.tell(notice(Phase::Cleared, kind, name, "it makes progress again".to_owned()));
            }
            still
        });
        let line = late.first().map_or_else(|| line.to_owned(), |late| format!("stuck: {} {}", late.kind, late.name));
        if line != self.line {
            self.notify.status(&line);
            self.line = line;
        }
    }

    fn name(&mut self, late: &Late) {
        let (worker, name, reason) = (late.kind, late.name.as_str(), reason(late.stuck));
        error!(worker, name, reason, elapsed_ms = millis(late.by), "worker makes no progress, the watchdog is not fed");
        let detail = format!("{worker} {name}: {reason}; systemd, where it watches, starts the gateway again");
        self.notices.tell(notice(Phase::Active, worker, name, detail));
        self.named.push((late.kind, late.name.clone()));
    }
}

const fn reason(stuck: Stuck) -> &'static str {
    match stuck {
        Stuck::Unserved => "its task is given no turn any more",
        Stuck::Overdue => "what it waits for takes longer than it ever may",
    }
}

fn notice(phase: Phase, kind: &str, name: &str, detail: String) -> Notice {
    Notice { event: "worker_stuck", phase, subject: format!("{kind} {name}").trim_end().to_owned(), detail }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What `systemctl status` shows.
pub(super) struct Line {
    plan: PlanNow,
    store: Arc<StoreStats>,
    uplinks: UplinkRoster,
}

impl Line {
    pub(super) fn new(plan: PlanNow, store: Arc<StoreStats>, uplinks: UplinkRoster) -> Self {
        Self { plan, store, uplinks }
    }

    /// At this moment. Figures that change all the time are not in it: each change is a message to systemd.
    pub(super) fn now(&self) -> String {
        let plan = self.plan.load();
        let devices = plan.live_devices().count();
        let buses = plan.buses.iter().filter(|bus| !bus.name.is_empty()).count();
        let tags = plan.live_tags().count();
        let mut line = format!("{devices} devices on {buses} buses, {tags} tags");
        if self.store.failed.get() > 0 {
            line += "; the store cannot commit";
        }
        for (name, uplink) in self.uplinks.load().iter() {
            line.extend(["; ", name, " ", uplink.standing().as_str()]);
        }
        line
    }
}

/// Asks the writer of a store; of a bridge, if there is a name.
pub(super) fn ask_store(tasks: &mut JoinSet<()>, crew: &Crew, name: &str, store: &StoreHandle, stop: &Stop) {
    let writer = store.clone();
    let asking = ask(async move || writer.answers().await, stop.clone());
    tasks.spawn(crew.run_one("store", name, asking));
}

/// Asks a thread for a sign of life from time to time, until stopping begins.
pub(super) async fn ask(question: impl AsyncFn(), stop: Stop) {
    ask_patiently(question, stop, ANSWER_WITHIN).await;
}

async fn ask_patiently(question: impl AsyncFn(), stop: Stop, within: Duration) {
    loop {
        progress::rest();
        tokio::select! {
            () = stop.begun() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        progress::step(within);
        tokio::select! {
            () = stop.begun() => return,
            () = question() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::notice;
    use std::future::pending;
    use std::io::Write;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Mutex;
    use tokio::sync::mpsc::Receiver;

    /// A systemd that listens, and what the operator and the log are told.
    struct Rig {
        systemd: UnixDatagram,
        told: Receiver<Notice>,
        guard: Guard,
        progress: Progress,
        log: Log,
        _home: tempfile::TempDir,
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Rig {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let systemd = UnixDatagram::bind(home.path().join("notify")).expect("bound");
            systemd.set_nonblocking(true).expect("set");
            let notify = Notify::to(home.path().join("notify").as_os_str()).expect("connected");
            let (progress, (notices, told)) = (Progress::default(), notice::notices());
            let guard = Guard::new(progress.clone(), notices, notify, Duration::from_secs(5));
            Self { systemd, told, guard, progress, log: Log::default(), _home: home }
        }

        /// Looks as if it were so many seconds later, with all looks in between; what systemd hears.
        fn look(&mut self, after: u64) -> Vec<String> {
            let log = self.log.clone();
            let layer = tracing_subscriber::fmt().with_writer(move || log.clone()).with_ansi(false).finish();
            let at = Instant::now() + Duration::from_secs(after);
            self.guard.looked = at.checked_sub(Duration::from_secs(5)).expect("late enough");
            tracing::subscriber::with_default(layer, || self.guard.look(at, "2 buses"));
            let mut heard = Vec::new();
            let mut buffer = [0; 256];
            while let Ok(length) = self.systemd.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            heard
        }

        fn logged(&self, text: &str) -> usize {
            String::from_utf8_lossy(&self.log.0.lock().expect("whole")).matches(text).count()
        }
    }

    #[tokio::test]
    async fn a_worker_that_hangs_is_named_once_and_the_watchdog_goes_unfed_until_it_goes_on() {
        let mut rig = Rig::new();
        let (go_on, hung) = tokio::sync::oneshot::channel::<()>();
        let worker = rig.progress.watch("bus", "rs485-1", async move {
            progress::step(Duration::from_secs(10));
            drop(hung.await);
            progress::rest();
            pending::<()>().await;
        });
        let worker = tokio::spawn(worker);
        tokio::task::yield_now().await;
        assert_eq!(rig.look(5), ["WATCHDOG=1", "STATUS=2 buses"]);
        assert_eq!(rig.look(20), ["STATUS=stuck: bus rs485-1"], "withheld");
        assert_eq!(rig.look(25), Vec::<String>::new());
        assert_eq!(rig.logged("worker makes no progress"), 1, "the change is logged, not the condition");
        assert_eq!(rig.logged("name=\"rs485-1\""), 1);
        let told = rig.told.try_recv().expect("told");
        assert_eq!((told.event, told.phase, told.subject.as_str()), ("worker_stuck", Phase::Active, "bus rs485-1"));
        drop(go_on);
        tokio::task::yield_now().await;
        assert_eq!(rig.look(30), ["WATCHDOG=1", "STATUS=2 buses"]);
        assert_eq!((rig.logged("progress again"), rig.told.try_recv().expect("told").phase), (1, Phase::Cleared));
        worker.abort();
    }

    #[tokio::test]
    async fn after_a_standstill_of_the_whole_process_nobody_is_accused_before_he_had_his_turn() {
        let mut rig = Rig::new();
        let worker = tokio::spawn(rig.progress.watch("router", "", async {
            progress::step(Duration::from_secs(10));
            pending::<()>().await;
        }));
        tokio::task::yield_now().await;
        rig.guard.look(Instant::now() + Duration::from_secs(3600), "");
        assert!(rig.told.try_recv().is_err());
        assert_eq!(rig.look(3605), ["STATUS=stuck: router "]);
        worker.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_not_answer_is_a_step_that_does_not_end() {
        let (progress, within) = (Progress::default(), Duration::from_secs(20));
        let (stop, well) = (Stop::new(), Stop::new());
        let mute = ask_patiently(pending::<()>, stop.clone(), within);
        let lively = ask_patiently(async || {}, well.clone(), within);
        let mute = tokio::spawn(progress.watch("store", "", mute));
        let lively = tokio::spawn(progress.watch("ledger", "", lively));
        tokio::time::sleep(ASK_EVERY * 3 + Duration::from_secs(1)).await;
        let late = progress.late(Instant::now() + within + Duration::from_secs(1));
        assert_eq!(late.iter().map(|late| (late.kind, late.stuck)).collect::<Vec<_>>(), [("store", Stuck::Overdue)]);
        stop.begin();
        well.begin();
        assert!(mute.await.is_ok() && lively.await.is_ok(), "a stop is heard while an answer is waited for");
    }

    #[test]
    fn the_thread_feeds_at_once_and_ends_when_nobody_needs_it() {
        let Rig { systemd, guard, .. } = Rig::new();
        let Guard { progress, notices, notify, .. } = guard;
        let watchdog = Watchdog::start(progress, notices, notify, Some(Duration::from_secs(60)), String::new);
        let watchdog = watchdog.expect("a thread");
        systemd.set_nonblocking(false).expect("set");
        systemd.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).expect("fed");
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
        drop(watchdog);
    }
}
