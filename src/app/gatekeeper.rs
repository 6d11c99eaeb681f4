//! Who may: the users file read at the start and again when it could not be, users and rules replaced while everything
//! runs, and the operator told.
//!
//! Without a users file that can be read nobody logs in with a password; the gateway runs all the same, says so, and tries
//! again. A file that has become bad changes nothing: those who could log in still can.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::access::{Access, Loading};
use crate::broker::{Control, Rejudged};
use crate::config::plan::BrokerPlan;
use crate::flow::notice::{Notice, Notices, Phase};
use crate::flow::stop::Stop;
use crate::model::lock::Hold as _;

/// How often a users file that could not be read is tried again, and how often failed logins are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// More failed logins than this in a minute are no slipped fingers: somebody tries passwords, or a client has an old one.
const WRONG_PER_MINUTE_MAX: u64 = 20;

/// Quiet for so long, it is over.
const QUIET_FOR: Duration = Duration::from_secs(300);

/// Watches over [`Access`].
#[derive(Debug)]
pub(super) struct Gatekeeper {
    access: Arc<Access>,
    control: Control,
    notices: Notices,
    /// The users file could not be read.
    locked: AtomicBool,
    /// What was wrong with it the last time.
    trouble: Mutex<Option<String>>,
    /// Each change asks the status page for its certificates.
    renewals: watch::Sender<u64>,
}

/// Failed logins, as far as they have been looked at.
#[derive(Debug)]
struct Siege {
    minute: Instant,
    seen: u64,
    /// Since when it has been told, and when it was last seen.
    told: Option<Instant>,
}

impl Gatekeeper {
    pub(super) fn new(access: Arc<Access>, control: Control, notices: Notices) -> Self {
        let (locked, trouble) = (AtomicBool::new(false), Mutex::default());
        Self { access, control, notices, locked, trouble, renewals: watch::Sender::new(0) }
    }

    /// Changes whenever certificates are to be read again.
    pub(super) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// The users file is wanted and could not be read the last time.
    pub(super) fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// Why it could not be read the last time, or some of its lines.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.hold().clone()
    }

    /// Reads the users file for the first time, or again.
    pub(super) async fn load(&self) {
        let access = Arc::clone(&self.access);
        let Ok(loading) = tokio::task::spawn_blocking(move || access.load_users()).await else { return };
        self.tell(&loading);
        if let Loading::Loaded(users, _) = loading {
            let Rejudged { clients, subscriptions } = self.control.rejudge();
            if clients + subscriptions > 0 {
                tracing::info!(audit = "access_reloaded", users, clients, subscriptions, "users reloaded");
            }
        }
    }

    /// Users and rules of another plan from now on.
    pub(super) async fn reload(&self, plan: &BrokerPlan) {
        self.control.reload_certificates();
        self.renewals.send_modify(|asked| *asked += 1);
        let (access, new) = (Arc::clone(&self.access), plan.clone());
        let Ok(loading) = tokio::task::spawn_blocking(move || access.reload(&new)).await else { return };
        let Rejudged { clients, subscriptions } = self.control.rejudge();
        self.tell(&loading);
        let users = match loading {
            Loading::Loaded(users, _) => format!("{users} users"),
            Loading::NotWanted => "no users file".to_owned(),
            Loading::Failed(_) => "users as before".to_owned(),
        };
        let rules = plan.acl.len();
        tracing::info!(audit = "access_reloaded", users, rules, clients, subscriptions, "users and rules reloaded");
        let detail = format!(
            "{users}, {rules} rules; {clients} clients and {subscriptions} subscriptions were not allowed any more"
        );
        self.notices.tell(notice("broker_access_reloaded", Phase::Once, detail));
    }

    /// Runs until stopping.
    pub(super) async fn run(self: Arc<Self>, stop: Stop) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut siege = Siege { minute: Instant::now(), seen: 0, told: None };
        loop {
            tokio::select! {
                () = stop.begun() => return,
                _ = looks.tick() => {}
            }
            if self.is_locked() {
                self.load().await;
            }
            if let Some((phase, detail)) = siege.look(self.access.stats.wrong.get(), Instant::now()) {
                self.notices.tell(notice("broker_login_failures", phase, detail));
            }
        }
    }

    fn tell(&self, loading: &Loading) {
        let locked = matches!(loading, Loading::Failed(_));
        let was_locked = self.locked.swap(locked, Ordering::Relaxed);
        *self.trouble.hold() = match loading {
            Loading::NotWanted | Loading::Loaded(_, None) => None,
            Loading::Loaded(_, Some(wrong)) => Some(format!("users file: {wrong}")),
            Loading::Failed(bad) => Some(bad.to_string()),
        };
        match loading {
            Loading::NotWanted => {}
            Loading::Loaded(users, None) => tracing::info!(users, "users file read"),
            Loading::Loaded(users, Some(wrong)) => {
                tracing::warn!(users, wrong, "users file read, but for some lines");
                self.notices.tell(notice("broker_users_incomplete", Phase::Once, format!("users file: {wrong}")));
            }
            Loading::Failed(bad) if !was_locked => {
                tracing::error!(error = %bad, "users file cannot be used, nobody new is known; trying on");
                self.notices.tell(notice("broker_users_unavailable", Phase::Active, bad.to_string()));
            }
            Loading::Failed(_) => {}
        }
        if was_locked && !locked {
            self.notices.tell(notice("broker_users_unavailable", Phase::Cleared, "the users file is read".to_owned()));
        }
    }
}

impl Siege {
    /// Once in a while; what there is to tell, with the count of failed logins since start.
    fn look(&mut self, wrong: u64, now: Instant) -> Option<(Phase, String)> {
        if now.duration_since(self.minute) < Duration::from_secs(60) && wrong - self.seen <= WRONG_PER_MINUTE_MAX {
            return None;
        }
        let count = wrong - self.seen;
        (self.minute, self.seen) = (now, wrong);
        let many = count > WRONG_PER_MINUTE_MAX;
        match self.told {
            None if many => {
                self.told = Some(now);
                let detail = format!("{count} failed logins within a minute; each further one is slowed down");
                Some((Phase::Active, detail))
            }
            Some(_) if many => {
                self.told = Some(now);
                None
            }
            Some(last) if now.duration_since(last) >= QUIET_FOR => {
                self.told = None;
                Some((Phase::Cleared, format!("{wrong} failed logins in all")))
            }
            _ => None,
        }
    }
}

fn notice(event: &'static str, phase: Phase, detail: String) -> Notice {
    Notice { event, phase, subject: "broker".to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::broker::{Broker, BrokerParts};
    use crate::config::plan::{Anonymous, BrokerLimits, ListenerPlan, SessionsPlan};
    use crate::flow::clock::{Clock, FakeTime};
    use crate::flow::forward::ForwardEntry;
    use crate::flow::{command, notice};
    use crate::model::time::Boot;
    use crate::model::topic::Ownership;

    /// A 3.1.1 client that has logged in; name, password and client id are one letter.
    async fn logged_in(address: SocketAddr, name: u8) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let text = [0, 1, name];
        let connect = [&[0x10, 19, 0, 4][..], b"MQTT", &[4, 0xC2, 0, 0], &text, &text, &text].concat();
        stream.write_all(&connect).await.expect("sent");
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.expect("a CONNACK");
        assert_eq!(connack, [0x20, 2, 0, 0]);
        stream
    }

    #[tokio::test]
    async fn a_users_file_that_can_be_read_again_throws_out_whoever_is_not_in_it_any_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let users = dir.path().join("users");
        let line = |name: &str| format!("{name}:{}\n", crate::access::hash(name.as_bytes()).expect("hashed"));
        let (one, other) = (line("a"), line("b"));
        let write = |text: &str| crate::access::replace(&users, text).expect("written");
        write(&format!("{one}{other}"));
        let listeners = vec![ListenerPlan::plain(([127, 0, 0, 1], 0).into(), Anonymous::None)];
        let (limits, sessions) = (BrokerLimits::default(), SessionsPlan::default());
        let plan = BrokerPlan { listeners, limits, users_file: Some(users.clone()), acl: Vec::new(), sessions };
        let access = Arc::new(Access::new(&plan));
        let (notices, mut told) = notice::notices();
        let parts = BrokerParts {
            plan: plan.clone(),
            access: Arc::clone(&access),
            ownership: Arc::new(Ownership::new([])),
            commands: command::road().0,
            forward: ForwardEntry::none(),
            clock: Clock::new(Arc::new(FakeTime::default()), Boot(1), 0),
            notices: notices.clone(),
            ledger_path: dir.path().join("broker.db"),
        };
        let (mut broker, _publisher) = Broker::new(parts).expect("a broker");
        let gatekeeper = Gatekeeper::new(access, broker.control(), notices);
        gatekeeper.load().await;
        let address = broker.bind().await[0].expect("bound");
        let (stop, end) = (Stop::new(), CancellationToken::new());
        let running = tokio::spawn(broker.run(stop.clone(), end.clone()));
        let (mut stays, mut goes) = (logged_in(address, b'a').await, logged_in(address, b'b').await);
        std::fs::remove_file(&users).expect("removed");
        gatekeeper.reload(&plan).await;
        assert!(gatekeeper.locked.load(Ordering::Relaxed));
        assert!(
            gatekeeper.trouble().is_some_and(|trouble| trouble.contains("users_file")),
            "it is answered to a reload"
        );
        let answered = async |client: &mut TcpStream| {
            client.write_all(&[0xC0, 0]).await.is_ok() && client.read_exact(&mut [0; 2]).await.is_ok()
        };
        assert!(answered(&mut stays).await && answered(&mut goes).await, "nobody goes for want of a file");
        write(&one);
        gatekeeper.load().await;
        assert_eq!(gatekeeper.trouble(), None);
        assert_eq!(goes.read(&mut [0; 2]).await.ok(), Some(0), "closed");
        assert!(answered(&mut stays).await);
        let mut phases = Vec::new();
        while let Ok(notice) = told.try_recv() {
            phases.extend((notice.event == "broker_users_unavailable").then_some(notice.phase));
        }
        assert_eq!(phases, [Phase::Active, Phase::Cleared]);
        stop.begin();
        end.cancel();
        running.await.expect("without a panic");
    }

    #[tokio::test]
    async fn many_failed_logins_are_told_once_and_their_end_too() {
        let begin = Instant::now();
        let mut siege = Siege { minute: begin, seen: 0, told: None };
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(siege.look(3, at(10)), None);
        assert!(matches!(siege.look(50, at(20)), Some((Phase::Active, _))));
        assert_eq!(siege.look(500, at(30)), None, "told already");
        assert_eq!(siege.look(501, at(200)), None, "not quiet for long enough");
        assert!(matches!(siege.look(502, at(400)), Some((Phase::Cleared, _))));
        assert_eq!(siege.look(502, at(500)), None);
    }
}
