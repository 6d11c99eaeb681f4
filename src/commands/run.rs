//! `ironbridge run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::app;
use crate::config::difference::{Change, Changes};
use crate::config::plan::Plan;
use crate::config::{self, HostFacts, Loaded, Problems, Text};
use crate::flow::clock::TimeSource as _;
use crate::flow::stop::Stop;
use crate::host::control::{self, Answer, Question, Socket, Told};
use crate::host::journal;
use crate::host::lives::Lives;
use crate::host::notify::Notify;
use crate::host::signals::Signals;
use crate::host::{clock::BootTime, facts};
use crate::uplink::Timing;

use super::Failed;

/// Where the configuration is looked for when nobody says so.
pub const DEFAULT_CONFIG: &str = "/etc/ironbridge/ironbridge.toml";

/// What a start still takes after a stop was asked for.
const START_MAX: Duration = Duration::from_secs(5);

/// Run the gateway
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGTERM or Ctrl-C ends it: what was taken is stored, and sent as far as the link lets it. SIGHUP lets it read its\n\
    configuration again (as ironbridge reload does, which also says what came of it).\n\
    Exit codes: 0 ended as told · 64 usage · 70 internal · 75 try again (a disk that is not there yet, or another\n\
    gateway runs with this store) · 78 the configuration is wrong"
)]
pub struct Args {
    /// The configuration; `ironbridge.d/*.toml` beside it is read too
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Runs until a signal says stop, or something critical ends.
pub fn run(args: &Args) -> Result<(), Failed> {
    facts::forbid_core_dumps();
    journal::begin(journal::Verbosity::Daemon)
        .map_err(|error| Failed::Internal(format!("cannot begin logging: {error}")))?;
    super::block_on(serve(&args.config))
}

async fn serve(config: &Path) -> Result<(), Failed> {
    let mut signals = Signals::new().map_err(|error| Failed::Internal(format!("cannot take signals over: {error}")))?;
    let stop = Stop::new();
    let notify = Notify::from_environment();
    let lives = Lives::in_dir(facts::systemd_runtime_dir().as_deref());
    if waits_in_vain(&lives, &notify, &mut signals).await {
        lives.ended_in_order(); // whoever has mended it and starts it again waits for nothing
        return Ok(());
    }
    let Some(Beginning { plan, texts, origin }) = beginning(config, &lives, &mut signals).await? else { return Ok(()) };
    let asked = signals.reloads();
    let driver = tokio::spawn(signals.drive(stop.clone()));
    let starting = app::start(Arc::clone(&plan), stop.clone(), Timing::default());
    let Some(started) = unless_stopped(starting, &stop).await else {
        notify.stopping();
        lives.ended_in_order();
        return Ok(());
    };
    let mut running = started.map_err(|error| Failed::TryAgain(format!("cannot start: {error}")))?;
    let watchdog = running
        .watchdog(notify.clone())
        .map_err(|error| Failed::TryAgain(format!("cannot start the watchdog's thread: {error}")))?;
    notify.ready();
    let (reloader, one) = (running.reloader(), Mutex::new(()));
    reloader.began_with(texts, origin).await;
    let insight = running.insight();
    let reloads = Reloads { reloader, insight, config: config.to_owned(), notify: notify.clone(), one };
    let broken = tokio::select! {
        () = stop.begun() => None,
        what = running.broken() => Some(what),
        () = reloads.by_signal(asked) => None,
        () = reloads.by_command(&plan.gateway.data_dir) => None,
    };
    notify.stopping();
    running.stop().await;
    drop(watchdog);
    driver.abort();
    if broken.is_none() {
        lives.ended_in_order();
    }
    match broken {
        None => Ok(()),
        Some(what) => Err(Failed::Internal(format!("{what} ended on its own; see the log above"))),
    }
}

/// What it begins with.
struct Beginning {
    plan: Arc<Plan>,
    texts: Vec<Text>,
    origin: app::Origin,
}

/// Of the file, or of the configuration before where that in the file did not outlive its trial. Blocking.
fn read_first(path: &Path) -> Result<Beginning, Failed> {
    let facts = super::host_facts();
    let (loaded, texts) = config::load_with_texts(path, &facts).map_err(|problems| Failed::of(&problems))?;
    if let Some(before) = app::Fallback::in_dir(&loaded.plan.gateway.data_dir).instead_of(&texts) {
        match config::given(path, before.clone(), &facts) {
            Ok(Loaded { plan, .. }) => {
                return Ok(Beginning { plan: Arc::new(plan), texts: before, origin: app::Origin::Before });
            }
            Err(problems) => {
                let count = problems.count();
                tracing::error!(
                    count,
                    "the configuration before is wrong by now, the one that did badly is taken again"
                );
            }
        }
    }
    Ok(Beginning { plan: Arc::new(loaded.plan), texts, origin: app::Origin::File })
}

/// What it begins with; `None` if a stop was asked for meanwhile. A life that ends because its files cannot be read for now is a
/// short one like others: systemd starts the next in two seconds. One whose configuration is wrong is not: whoever has
/// mended that waits for nothing.
async fn beginning(config: &Path, lives: &Lives, signals: &mut Signals) -> Result<Option<Beginning>, Failed> {
    let path = config.to_owned();
    let loading = tokio::task::spawn_blocking(move || read_first(&path));
    let loaded = tokio::select! {
        loaded = loading => loaded.map_err(|error| Failed::Internal(format!("reading the configuration: {error}")))?,
        () = signals.stop_asked() => {
            lives.ended_in_order();
            return Ok(None);
        }
    };
    if matches!(loaded, Err(Failed::Config(_))) {
        lives.ended_in_order();
    }
    loaded.map(Some)
}

/// A start during which a stop was asked for has a moment to come to its end, so that all is taken down in order. `None` when
/// it takes longer: a large store on a slow card is opened for minutes. It is left as a power cut would leave it.
async fn unless_stopped<T>(starting: impl Future<Output = T>, stop: &Stop) -> Option<T> {
    let long = async {
        stop.begun().await;
        let _ = tokio::time::timeout(START_MAX, stop.hurried()).await; // asked twice: at once
    };
    tokio::select! {
        biased;
        started = starting => Some(started),
        () = long => {
            tracing::warn!("stopped in the middle of the start");
            None
        }
    }
}

/// After several short lives in a row it waits before the next one; true if a stop was asked for meanwhile.
async fn waits_in_vain(lives: &Lives, notify: &Notify, signals: &mut Signals) -> bool {
    let since_boot = Duration::from_micros(BootTime.boot_micros().unsigned_abs());
    let pause = lives.begin(since_boot);
    if pause.is_zero() {
        return false;
    }
    let seconds = pause.as_secs();
    tracing::warn!(seconds, "ended badly several times in a row, waiting before the next start");
    notify.status(&format!("ended badly several times in a row; starts in {seconds} s"));
    tokio::select! {
        () = tokio::time::sleep(pause) => false,
        () = signals.stop_asked() => true,
    }
}

/// Reads the configuration again when that is asked for: by a signal, or over the control socket; which has other questions,
/// too.
struct Reloads {
    reloader: app::Reloader,
    insight: app::Insight,
    config: PathBuf,
    notify: Notify,
    /// From reading to the word of readiness: a text that was read earlier must not come after a newer one.
    one: Mutex<()>,
}

impl Reloads {
    /// Whenever SIGHUP comes; until the gateway stops.
    async fn by_signal(&self, mut asked: watch::Receiver<()>) {
        while asked.changed().await.is_ok() {
            self.reload().await;
        }
        std::future::pending::<()>().await;
    }

    /// Whenever a command asks; until the gateway stops.
    async fn by_command(&self, data_dir: &Path) {
        let path = control::path(facts::systemd_runtime_dir().as_deref(), data_dir);
        match Socket::open(&path) {
            Ok(socket) => {
                let answer = async |question| match question {
                    Question::Reload => self.reload().await,
                    Question::Status => fitting(self.insight.status()),
                    Question::Metrics => fitting(self.insight.metrics()),
                    Question::Compare { config, texts } => self.compare(config, texts).await,
                };
                socket.serve(answer).await;
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no control socket; reload with SIGHUP");
                std::future::pending::<()>().await;
            }
        }
    }

    async fn reload(&self) -> Answer {
        let _one = self.one.lock().await;
        self.notify.reloading();
        tracing::info!("reloading");
        let answer = match read(self.config.clone()).await {
            Ok((loaded, texts)) => applied(self.reloader.apply(loaded.plan, texts).await),
            Err(Unread::Wrong(problems)) => {
                self.reloader.refuse(&problems).await;
                wrong(&problems)
            }
            Err(Unread::Fault(text)) => outcome("fault", text),
        };
        self.notify.ready(); // also with what it was before
        answer
    }

    async fn compare(&self, config: PathBuf, texts: Option<Vec<Text>>) -> Answer {
        let running = self.config.clone();
        let read = match texts {
            Some(texts) => {
                let (config, texts) = beside(&running, config, texts);
                off_the_loop(move |facts| config::given(&config, texts, facts)).await
            }
            None => read(config).await.map(|(loaded, _)| loaded),
        };
        match read {
            Ok(loaded) => match self.reloader.compare(loaded.plan).await {
                Some(changes) if changes.is_empty() => outcome("unchanged", String::new()),
                Some(changes) => Answer { outcome: "differs".to_owned(), ..told(&changes) },
                None => outcome("stopping", String::new()),
            },
            Err(Unread::Wrong(problems)) => wrong(&problems),
            Err(Unread::Fault(text)) => outcome("fault", text),
        }
    }
}

/// A draft and its files as if they lay where the configuration in force does, which is where they would be put: a relative
/// path in them means the same. What names a file whole still finds it.
fn beside(running: &Path, draft: PathBuf, mut texts: Vec<Text>) -> (PathBuf, Vec<Text>) {
    let running = std::path::absolute(running).unwrap_or_else(|_| running.to_owned());
    let (Some(from), Some(to), Some(name)) = (draft.parent(), running.parent(), draft.file_name()) else {
        return (draft, texts);
    };
    if from == to {
        return (draft, texts);
    }
    let moved = |(path, text): &Text| Some((to.join(path.strip_prefix(from).ok()?), text.clone()));
    let moved: Vec<Text> = texts.iter().filter_map(moved).collect();
    texts.extend(moved);
    (to.join(name), texts)
}

/// Why there is no new configuration.
enum Unread {
    Wrong(Problems),
    Fault(String),
}

async fn read(path: PathBuf) -> Result<(Loaded, Vec<Text>), Unread> {
    off_the_loop(move |facts| config::load_with_texts(&path, facts)).await
}

async fn off_the_loop<T: Send + 'static>(
    read: impl FnOnce(&HostFacts) -> Result<T, Problems> + Send + 'static,
) -> Result<T, Unread> {
    let facts = super::host_facts();
    match tokio::task::spawn_blocking(move || read(&facts)).await {
        Ok(read) => read.map_err(Unread::Wrong),
        Err(error) => {
            tracing::error!(%error, "the configuration could not be read again");
            Err(Unread::Fault(error.to_string()))
        }
    }
}

fn outcome(outcome: &str, text: String) -> Answer {
    Answer { outcome: outcome.to_owned(), text, ..Answer::default() }
}

/// A plant of many thousands of devices has more to tell than goes through the socket.
fn fitting(text: String) -> Answer {
    let bytes = text.len();
    if bytes <= control::TEXT_MAX {
        outcome("told", text)
    } else {
        outcome("fault", format!("{bytes} bytes are more than the control socket takes"))
    }
}

fn wrong(problems: &Problems) -> Answer {
    outcome("wrong", problems.to_string())
}

fn applied(applied: app::Outcome) -> Answer {
    match applied {
        app::Outcome::Applied { changes, trial, users } => {
            let trial_s = trial.map(|trial| trial.as_secs());
            Answer { outcome: "applied".to_owned(), trial_s, users, ..told(&changes) }
        }
        app::Outcome::Unchanged { users } => Answer { users, ..outcome("unchanged", String::new()) },
        app::Outcome::NeedsRestart { changes } => Answer { outcome: "restart".to_owned(), ..told(&changes) },
        app::Outcome::Stopping => outcome("stopping", String::new()),
    }
}

fn told(changes: &Changes) -> Answer {
    let one = |change: &Change| Told {
        part: change.part.as_str().to_owned(),
        name: change.name.clone(),
        how: change.how.as_str().to_owned(),
        detail: change.detail.clone(),
    };
    Answer {
        text: changes.to_string(),
        changes: changes.touched.iter().map(one).collect(),
        restart: changes.restart.iter().map(|key| (*key).to_owned()).collect(),
        ..Answer::default()
    }
}
