//! `ironbridge receive --format sparkplug`: as a host hears edge nodes, value by value.
//!
//! A thread of its own writes and keeps the books. The report says what is known to be missing; exit codes are those of the
//! other formats.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{ARRIVING_MAX, ReceiveArgs, WINDOW, Waiting, target, version, watch};
use crate::commands::{self, Failed};
use crate::flow::clock::Clock;
use crate::flow::stop::Stop;
use crate::host::terminal::say;
use crate::model::lock::Hold as _;
use crate::model::sparkplug::{Kind, Node, check_id};
use crate::payload::sparkplug::{DataType, Metric, Payload, REBIRTH, Value};
use crate::receive::client::{Client, ClientParts, Delivery, Mouth, Presence};
use crate::receive::output::Output;
use crate::receive::sparkplug::{Account, Host};

/// What a host hears when nothing else is said.
const EVERYTHING: &str = "spBv1.0/#";
/// Edge nodes that are listed one by one.
const LISTED_MAX: usize = 50;

/// Runs it until `stop`, `--for`, or an error that retrying does not mend.
pub(super) async fn run(
    args: Arc<ReceiveArgs>,
    mut parts: ClientParts,
    clock: Clock,
    stop: Stop,
) -> Result<(), Failed> {
    check(&args)?;
    if args.topics == ["#"] {
        parts.filters = vec![EVERYTHING.to_owned()];
    }
    let output = target::open_output(&args)?;
    let (into, happened) = mpsc::channel(ARRIVING_MAX);
    let (to_writer, deliveries) = mpsc::channel(WINDOW);
    let (host, mouth) = (Arc::new(Mutex::new(Host::default())), Mouth::default());
    let writer = Writer { host: Arc::clone(&host), mouth: mouth.clone(), clock: clock.clone(), output };
    let writer = tokio::task::spawn_blocking(move || writer.run(deliveries));
    let inner = stop.child();
    let presence = args.host_id.clone().map(|host| Presence { host, clock });
    let client = Client::new(parts).speaking(version(args.mqtt_version)).kept_for(args.session_expiry);
    let client = tokio::spawn(client.heard(mouth, presence).run(into, inner.clone()));
    let mut told = String::new();
    let news = || {
        let line = line(host.hold().account());
        (told != line).then(|| told.clone_from(&line))?;
        Some(line)
    };
    let connected = watch(happened, to_writer, (&args, &inner), news).await;
    inner.begin();
    let ended = client.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let written = writer.await.map_err(|error| Failed::Internal(error.to_string()))?;
    let account = host.hold().account().clone();
    if connected.is_ok() {
        show(&account, &args);
    }
    written.map_err(|error| Failed::TryAgain(format!("cannot write: {error}")))?;
    ended.map_err(|error| Failed::TryAgain(error.to_string()))?;
    connected?;
    let complete = account.is_complete() && account.sum().values > 0;
    if args.expect_complete && !complete { Err(Failed::Verdict) } else { Ok(()) }
}

fn check(args: &ReceiveArgs) -> Result<(), Failed> {
    if args.sqlite_file().is_some() {
        let text =
            "values of Sparkplug have no numbers that a database could keep them by: --ndjson FILE or --csv FILE";
        return Err(Failed::Usage(text.into()));
    }
    if args.share.is_some() {
        let text = "--share: edge nodes count over all their messages, and a part of them says nothing of the rest";
        return Err(Failed::Usage(text.into()));
    }
    if args.from_start {
        return Err(Failed::Usage("--from-start: a host of Sparkplug begins with births, whenever it comes".into()));
    }
    let Some(host) = &args.host_id else { return Ok(()) };
    check_id(host).map_err(|error| Failed::Usage(format!("--host-id {host}: {error}")))
}

/// Puts away what comes, and asks for births.
struct Writer {
    host: Arc<Mutex<Host>>,
    mouth: Mouth,
    clock: Clock,
    output: Option<Output>,
}

impl Writer {
    fn run(mut self, mut from: mpsc::Receiver<Waiting>) -> io::Result<()> {
        while let Some(first) = from.blocking_recv() {
            let mut window = vec![first];
            while window.len() < WINDOW
                && let Ok(next) = from.try_recv()
            {
                window.push(next);
            }
            for waiting in &window {
                self.take(&waiting.delivery)?;
            }
            if let Some(output) = &mut self.output {
                output.flush()?;
            }
            for waiting in window {
                waiting.delivery.acknowledge();
            }
        }
        Ok(())
    }

    fn take(&mut self, delivery: &Delivery) -> io::Result<()> {
        let mut host = self.host.hold();
        let outcome = host.take(delivery.topic(), delivery.payload(), Instant::now());
        drop(host);
        if let Some(output) = &mut self.output {
            for line in &outcome.lines {
                output.write(&line.topic, &line.body)?;
            }
        }
        if let Some(node) = outcome.ask {
            self.mouth.say(&node.topic(Kind::NCmd), self.rebirth(&node));
        }
        Ok(())
    }

    fn rebirth(&self, node: &Node) -> Vec<u8> {
        tracing::debug!(group = node.group(), node = node.id(), "births are asked for");
        let now_ms = u64::try_from(self.clock.wall_now().unix_ms).unwrap_or(0);
        let mut payload = Payload::new(now_ms, None);
        payload.push(&Metric {
            name: Some(REBIRTH),
            alias: None,
            timestamp_ms: Some(now_ms),
            datatype: Some(DataType::Boolean),
            historical: false,
            value: Value::Bool(true),
            properties: &[],
        });
        payload.encode()
    }
}

fn line(account: &Account) -> String {
    let sum = account.sum();
    let mut text = format!(
        "edge nodes {}  values {}  historical {}  births {}  messages missing {}",
        account.nodes.len(),
        sum.values,
        sum.historical,
        sum.births,
        sum.missing
    );
    let broken: u64 = account.broken.values().sum();
    for (what, count) in [("not understood", sum.unknown), ("gap records", sum.gaps), ("broken", broken)] {
        if count > 0 {
            let _ = write!(text, "  {what} {count}");
        }
    }
    text
}

fn show(account: &Account, args: &ReceiveArgs) {
    if args.json {
        let text = serde_json::json!({ "report": account, "complete": account.is_complete() }).to_string();
        commands::tell(&text);
        return;
    }
    let mut nodes: Vec<_> = account.nodes.iter().collect();
    nodes.sort_by_key(|(_, node)| std::cmp::Reverse(node.missing + node.unknown));
    for (name, node) in nodes.iter().take(LISTED_MAX) {
        say(format_args!(
            "{name}: values {}, historical {}, births {}, deaths {}, messages missing {}, not understood {}",
            node.values, node.historical, node.births, node.deaths, node.missing, node.unknown
        ));
    }
    if nodes.len() > LISTED_MAX {
        say(format_args!("… and {} more", nodes.len() - LISTED_MAX));
    }
    for (why, count) in &account.broken {
        say(format_args!("not to be read: {count} × {why}"));
    }
    say(line(account));
}
