//! `ironbridge diag`: one file for whoever helps, with everything that is usually asked for and no secret.
//!
//! Works while the gateway runs, when it does not, and when its configuration does not parse: each part is gathered on its
//! own, and what cannot be had is named in `manifest.txt` with the reason. Changes nothing on the box but the file it
//! writes (mode 0600, never over another one).
//!
//! `blank` takes secrets out of configurations, `table` out of register maps · `scrub` out of everything else ·
//! `bundle` holds the bounds, `zip` the form · `daemon` asks the running gateway and the system's services, `machine`
//! the box. The files that `password_file`, `key` and the like name are never opened, nor any environment.
//!
//! ```text
//! ironbridge-diag/manifest.txt       what is there, what is missing and why
//!                 config/…           the main file, ironbridge.d/*.toml, register maps: without secrets
//!                 plan.txt           what `check` prints, or every problem
//!                 store.txt, bridge-NAME.txt, data-dir.txt
//!                 status.json, metrics.txt, health.txt    of the running gateway, which is asked over the control socket
//!                 process.txt, unit.txt, journal.txt
//!                 versions.txt, clock.txt, machine.txt, network.txt, serial-ports.txt
//! ```

mod blank;
mod bundle;
mod daemon;
mod machine;
mod scrub;
mod table;
mod zip;

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use self::bundle::{Bundle, Keep, patiently};
use self::daemon::Room;
use super::scan::ports;
use super::{Failed, check, run, store};
use crate::config::plan::{Plan, TimeTrust};
use crate::config::{self, HostFacts, Loaded, Problem, Problems};

/// Of one configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where the status room is when nobody says so.
const STATUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Arguments of `ironbridge diag`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "The file is a ZIP archive that any system opens; manifest.txt in it says what is there and what is missing.\n\
    Passwords, keys, user names for brokers, comments and whatever is no setting of ours are taken out; look into it before\n\
    you send it all the same. From a box without a screen: ssh box ironbridge diag --output - > box.zip"
)]
pub struct Args {
    /// The configuration; it need not be right
    #[arg(long, value_name = "FILE", default_value = run::DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The file to write, - for standard output; without it ironbridge-diag-HOST-TIME.zip here
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Gathers and writes the file.
pub fn run(args: &Args, facts: &HostFacts) -> Result<(), Failed> {
    let now = super::plain_clock().wall_now().to_string();
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failed::Usage("this is no text for a terminal: name a file, or send it on (> box.zip)".into()));
    }
    let mut bundle = Bundle::new(zip::Moment::of(&now));
    gather(&args.config, facts, &now, &mut bundle);
    let manifest = bundle.manifest();
    let head = format!(
        "ironbridge diag of {}, {now}\nSecrets were taken out: (removed) stands in their place.\n",
        facts.hostname
    );
    let bytes = bundle.finish(&head);
    if to_stdout {
        return super::print(bytes);
    }
    let stamp: String = now.chars().take(19).filter(char::is_ascii_digit).collect();
    let path = args.output.clone().unwrap_or_else(|| format!("ironbridge-diag-{}-{stamp}.zip", facts.hostname).into());
    write(&path, &bytes).map_err(|error| Failed::TryAgain(format!("cannot write {}: {error}", path.display())))?;
    super::tell(&format!("{manifest}\n{} bytes in {}; readable by you alone", bytes.len(), path.display()));
    Ok(())
}

/// A new file, never another one's place.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(path))) // half of it helps nobody
}

/// All parts. Configurations first: what is a secret there must not be seen in what follows.
fn gather(config: &Path, facts: &HostFacts, now: &str, bundle: &mut Bundle) {
    let (path, known) = (config.to_owned(), facts.clone());
    let loaded = patiently(move || config::load(&path, &known));
    let files = match &loaded {
        Ok(Ok(loaded)) => loaded.files.clone(),
        _ => files_beside(config),
    };
    add_files(config, &files, bundle);
    let plan = loaded.as_ref().ok().and_then(|loaded| loaded.as_ref().ok()).map(|loaded| loaded.plan.clone());
    bundle.add("plan.txt", loaded.and_then(|loaded| plan_text(config, facts, loaded)), Keep::Front);

    let data_dir = plan.as_ref().map(|plan| plan.gateway.data_dir.clone()).or_else(|| super::data_dir_of(config));
    let data_dir = data_dir.unwrap_or_else(|| super::DEFAULT_DATA_DIR.into());
    add_stores(&data_dir, bundle);
    let listed = data_dir.clone();
    bundle.add("data-dir.txt", patiently(move || machine::listing(&listed)).and_then(|listing| listing), Keep::Front);
    add_daemon(plan.as_ref(), (config, facts), &data_dir, bundle);

    bundle.add("versions.txt", patiently(machine::versions), Keep::Front);
    let trust = plan.as_ref().map_or(TimeTrust::Auto, |plan| plan.gateway.time_source.clone());
    let now = now.to_owned();
    bundle.add("clock.txt", patiently(move || machine::clock(&now, &trust)), Keep::Front);
    bundle.add("machine.txt", patiently(move || machine::memory_and_disks(&data_dir)), Keep::Front);
    bundle.add("network.txt", machine::network(), Keep::Front);
    bundle.add("serial-ports.txt", patiently(ports::there_are), Keep::Front);
}

/// The main file and its fragments, when nobody can say which files belong to it.
fn files_beside(config: &Path) -> Vec<PathBuf> {
    let fragments = config.parent().unwrap_or(Path::new(".")).join("ironbridge.d");
    let entries = fs::read_dir(fragments).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files.insert(0, config.to_owned());
    files
}

fn add_files(config: &Path, files: &[PathBuf], bundle: &mut Bundle) {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let home = config.parent().unwrap_or(Path::new("/"));
    let mut texts = Vec::new();
    for (number, path) in files.iter().filter(|path| !path.starts_with("<shipped profile>")).enumerate() {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let shown = path.strip_prefix(home).map_or_else(
            |_| format!("{number}-{}", path.file_name().unwrap_or_default().to_string_lossy()),
            |below| below.display().to_string(),
        );
        let text = patiently(move || read(&path).map(|text| (path, text))).and_then(|read| read);
        texts.push((format!("config/{shown}"), text.map(|(path, text)| blanked(&path, &text, bundle))));
    }
    // Only now: what was taken out of the last one may be repeated in the first.
    for (name, text) in texts {
        bundle.add(&name, text, Keep::Front);
    }
}

fn blanked(path: &Path, text: &str, bundle: &mut Bundle) -> String {
    if path.extension().is_some_and(|end| end == "csv") {
        return table::blank(text);
    }
    let home = path.parent().unwrap_or(Path::new("/"));
    let blank::Blanked { text, taken } = blank::blank(text, &|name| home.join(name).is_file());
    bundle.hide(taken);
    text
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn plan_text(config: &Path, facts: &HostFacts, loaded: Result<Loaded, Problems>) -> Result<String, String> {
    let Err(problems) = loaded else {
        let args = check::Args {
            config: config.to_owned(),
            tags: false,
            json: false,
            against_running: false,
            socket: None,
            live: false,
            strict: false,
            bus: Vec::new(),
            device: Vec::new(),
        };
        let facts = facts.clone();
        return patiently(move || check::report(&args, &facts).0);
    };
    // Neither values nor lines: what stands there is in config/, as far as it may be seen.
    let one = |problem: &Problem| {
        let place = problem.place.as_ref().map_or_else(|| problem.file.display().to_string(), ToString::to_string);
        let allowed = problem.allowed.as_ref().map(|allowed| format!("; allowed: {allowed}")).unwrap_or_default();
        format!("{place}: `{}`: {}{allowed}\n", problem.path, problem.message)
    };
    let list: String = problems.iter().map(one).collect();
    Ok(format!("{} problems: the gateway does not start with this configuration\n\n{list}", problems.count()))
}

/// Our own store and those of bridges, by what lies there: a bridge that was taken out of the configuration counts too.
fn add_stores(data_dir: &Path, bundle: &mut Bundle) {
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("bridge-"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.insert(0, "store".to_owned());
    for name in names {
        let dir = data_dir.join(&name);
        let text = patiently(move || store::status_text(&dir).map_err(|error| error.to_string()));
        bundle.add(&format!("{name}.txt"), text.and_then(|text| text), Keep::Front);
    }
}

fn add_daemon(plan: Option<&Plan>, (config, facts): (&Path, &HostFacts), data_dir: &Path, bundle: &mut Bundle) {
    let running = daemon::holder(&data_dir.join("store"));
    let process = running.ok_or_else(|| format!("no process has the store in {} open", data_dir.display()));
    bundle.add("process.txt", process.and_then(daemon::process), Keep::Front);
    let room = status_room(plan);
    for told in daemon::TOLD {
        let (room, config, facts) = (room.clone(), config.to_owned(), facts.clone());
        // The page may want a login, or there is none; but what is wrong with the socket may be what is looked for.
        let answer = patiently(move || told.of_socket(&config, &facts)).and_then(|answer| answer);
        let answer = answer.or_else(|untold| {
            let answer = patiently(move || room.and_then(|room| daemon::get(&room, told.path)));
            answer.and_then(|answer| answer).map_err(|error| format!("{untold}; {error}"))
        });
        bundle.add(told.file, answer, Keep::Front);
    }
    bundle.add("unit.txt", patiently(daemon::unit).and_then(|text| text), Keep::Front);
    bundle.add("journal.txt", patiently(daemon::journal).and_then(|text| text), Keep::End);
}

/// Where the running gateway can be asked without a login; without a plan, where it usually is.
fn status_room(plan: Option<&Plan>) -> Result<Room, String> {
    let Some(plan) = plan else { return Ok(Room { address: STATUS, certificate: None }) };
    match &plan.status {
        None => Err("there is no [status] in the configuration".to_owned()),
        Some(page) if page.listen.port() == 0 => {
            Err(format!("{page}: the system chose the port, the journal names it"))
        }
        Some(page) => {
            let address = match page.listen.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, page.listen.port()).into(),
                IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, page.listen.port()).into(),
                _ => page.listen,
            };
            Ok(Room { address, certificate: page.tls.as_ref().map(|tls| tls.certificate.clone()) })
        }
    }
}
