//! The demo from beginning to end: plant, cloud, link, verifier and gateway are started, the story is told, the rest is
//! sent, the books are compared.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::commands::Failed;
use crate::commands::interrupt::Interrupt;
use crate::flow::clock::Clock;
use crate::plant::cloud::Cloud;
use crate::plant::cloud::front::ClientCertificate;
use crate::plant::link::{Link, LinkState};
use crate::road::Now;

use super::Args;
use super::gateway::{Gateway, Pulse, StartGateway};
use super::scenario::{DEAD, STORE, Scenario};
use super::screen::{Colours, Phase, Scene, Screen, say};
use super::timeline::{SHORTEST, Timeline};
use super::verdict::Evidence;
use super::verifier::Verifier;

/// How often the scene is looked at.
const TICK: Duration = Duration::from_millis(200);

/// When the story is over, the uplink may take this long to reconnect and to send its backlog, still polling.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// A backlog of this many records is what a healthy uplink has on its way; the stop sends the rest.
const BACKLOG_SMALL: u64 = 100;

/// After the gateway has stopped, what is still between broker and verifier arrives without a longer pause than this.
const ARRIVE_PAUSE_MAX: Duration = Duration::from_secs(4);

/// Tells the story; the verdict is in the result.
pub async fn tell(args: Args, clock: Clock, start: StartGateway) -> Result<(), Failed> {
    if args.run_for.is_some_and(|length| length < SHORTEST) {
        return Err(Failed::Usage(format!("--for: at least {} s, or there is nothing to see", SHORTEST.as_secs())));
    }
    let mut interrupt = Interrupt::listen()?;
    let place = Place::new(args.data_dir.as_deref())?;
    let try_again = |error: &dyn std::fmt::Display| Failed::TryAgain(format!("the demo cannot start: {error}"));
    let cloud = Cloud::start(&place.data, ClientCertificate::Required).await.map_err(|error| try_again(&error))?;
    let link = Link::to(cloud.address()).await.map_err(|error| try_again(&error))?;
    let Scenario { site, loaded, file } =
        Scenario::begin(&place.data, &link.address().to_string(), cloud.files()).await?;
    let now = Now::new(move || clock.wall_now());
    let verifier = Verifier::start(&cloud, place.private.clone(), now, Arc::new(site)).await?;
    let gateway = start(Arc::new(loaded.plan)).await?;
    introduce(&gateway, &cloud, &file);

    let mut play = Play {
        timeline: Timeline::new(args.run_for),
        begun: Instant::now(),
        link,
        verifier,
        screen: Screen::new(),
        away: Away::default(),
    };
    play.story(&gateway, &mut interrupt).await;
    let evidence = play.compare(gateway, &mut interrupt).await?;
    cloud.stop().await;
    say(&evidence.table(Colours::of_stdout()));
    if let Some(directory) = &args.data_dir {
        say(&format!("  Kept: {}\n", directory.display()));
    }
    if evidence.is_good() { Ok(()) } else { Err(Failed::Verdict) }
}

/// What the story is told with.
struct Play {
    timeline: Timeline,
    begun: Instant,
    link: Link,
    verifier: Verifier,
    screen: Screen,
    away: Away,
}

/// Counts what was stored while the link was away.
#[derive(Default)]
struct Away {
    since: Option<u64>,
    stored: u64,
}

impl Away {
    fn note(&mut self, link: LinkState, stored: u64) {
        match (link, self.since) {
            (LinkState::Up, Some(since)) => {
                self.stored += stored.saturating_sub(since);
                self.since = None;
            }
            (LinkState::Cut | LinkState::BlackHole, None) => self.since = Some(stored),
            _ => {}
        }
    }
}

impl Play {
    /// Until the story is over or a signal comes.
    async fn story(&mut self, gateway: &Gateway, interrupt: &mut Interrupt) {
        let mut ticks = interval(TICK);
        while !self.timeline.is_over(self.begun.elapsed()) {
            tokio::select! {
                _ = ticks.tick() => self.tick(&(gateway.pulse)(), Phase::Story),
                () = interrupt.came() => break,
            }
        }
    }

    fn tick(&mut self, pulse: &Pulse, phase: Phase) {
        let elapsed = self.begun.elapsed();
        let mut moment = self.timeline.at(elapsed);
        if phase == Phase::Draining {
            moment.link = LinkState::Up;
        }
        if self.link.state() != moment.link {
            self.link.set(moment.link);
        }
        self.away.note(moment.link, pulse.stored);
        let report = self.verifier.findings().report;
        let of = |figure: fn(&crate::receive::ledger::Report) -> u64| report.as_ref().map_or(0, figure);
        self.screen.show(&Scene {
            elapsed,
            percent: self.timeline.percent(elapsed),
            moment,
            pulse: pulse.clone(),
            forwarded: of(|report| report.received),
            missing: of(|report| report.missing),
            duplicates: of(|report| report.duplicates),
            phase,
        });
    }

    /// Sends the rest, stops the gateway, waits for the last records, closes the books.
    async fn compare(mut self, gateway: Gateway, interrupt: &mut Interrupt) -> Result<Evidence, Failed> {
        let hurried = || Failed::TryAgain("interrupted before the verdict".into());
        let mut ticks = interval(TICK);
        let (drain, before) = (Instant::now(), self.received());
        loop {
            let pulse = (gateway.pulse)();
            self.tick(&pulse, Phase::Draining);
            // Something new must have arrived: an uplink in a black hole believes that it is connected.
            let flows = pulse.connected && self.received() > before;
            if (flows && pulse.backlog <= BACKLOG_SMALL) || drain.elapsed() > DRAIN_MAX {
                break;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = interrupt.came() => return Err(hurried()),
            }
        }
        let last = (gateway.pulse)();
        let newest = tokio::select! {
            newest = (gateway.stop)() => newest?,
            () = interrupt.came() => return Err(hurried()),
        };
        self.verifier.expect(&newest);
        self.arrived(&last).await;
        self.screen.finish();
        let bytes_up = self.link.stats().bytes_up.get();
        self.link.stop().await;
        let findings = self.verifier.stop().await;
        Ok(Evidence { findings, stored_while_away: self.away.stored, sessions: last.sessions, bytes_up })
    }

    fn received(&self) -> u64 {
        self.verifier.findings().report.map_or(0, |report| report.received)
    }

    /// Until everything is there, or nothing more comes; the verdict tells which.
    async fn arrived(&mut self, last: &Pulse) {
        let mut ticks = interval(TICK);
        let (mut seen, mut since) = (0, Instant::now());
        while since.elapsed() < ARRIVE_PAUSE_MAX {
            ticks.tick().await;
            let Some(report) = self.verifier.findings().report else { continue };
            let owed = report.missing + report.outstanding;
            let stored = last.stored.max(report.received + owed);
            self.tick(&Pulse { stored, backlog: owed, ..last.clone() }, Phase::Draining);
            if owed == 0 {
                return;
            }
            if report.received != seen {
                (seen, since) = (report.received, Instant::now());
            }
        }
    }
}

fn introduce(gateway: &Gateway, cloud: &Cloud, config: &Path) {
    let (host, port) = (gateway.mqtt.ip(), gateway.mqtt.port());
    let plain = cloud.plain_address();
    let page = gateway.page.map_or_else(|| "cannot be opened".to_owned(), |page| format!("http://{page}/"));
    say(&format!(
        "\n  A pump station and a serial line (unit '{DEAD}' is dead) -> the gateway -> a link that fails -> a cloud.\n\n\
         \x20 Status page, in a browser:     {page}\n\
         \x20 Plant side, any MQTT client:   mosquitto_sub -h {host} -p {port} -t 'demo/#' -v\n\
         \x20 Move the pump:                 mosquitto_pub -h {host} -p {port} -q 1 -t demo/pump-station/speed_set/set -m 1200\n\
         \x20 Cloud side:                    mosquitto_sub -h {} -p {} -t '#' -v\n\
         \x20 The configuration of all this: {}\n\n",
        plain.ip(),
        plain.port(),
        config.display(),
    ));
}

/// Where the demo lives: a private temporary directory, removed at the end, and the data directory, in it or elsewhere.
struct Place {
    private: PathBuf,
    data: PathBuf,
}

impl Place {
    fn new(data: Option<&Path>) -> Result<Self, Failed> {
        let cannot = |path: &Path, error: std::io::Error| Failed::TryAgain(format!("{}: {error}", path.display()));
        let private = std::env::temp_dir().join(format!("ironbridge-demo-{:08x}", rand::random::<u32>()));
        std::fs::DirBuilder::new().mode(0o700).create(&private).map_err(|error| cannot(&private, error))?;
        let mut place = Self { data: private.clone(), private };
        if let Some(data) = data {
            place.data = std::path::absolute(data).map_err(|error| cannot(data, error))?;
            std::fs::create_dir_all(&place.data).map_err(|error| cannot(data, error))?;
            if place.data.join(STORE).exists() {
                // What is left in its store was held by another run's plant: no verdict would be right.
                return Err(Failed::Usage(format!("{} was used before; give an empty directory", data.display())));
            }
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Best effort: a left-over directory in the temporary one hurts nobody.
        let _ = std::fs::remove_dir_all(&self.private);
    }
}
