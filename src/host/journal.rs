//! Log lines with their fields: to systemd-journald when stderr is its socket, else to stderr.
//!
//! `journalctl BUS=rs485-1 -p warning` works because each field of an event, and of the spans around it, is a field of
//! the journal entry (upper case by journald's rules). The `log` bridge of tracing would flatten them into the text.
//!
//! `way` takes lines there · `queue` keeps those of the daemon until they are taken, so that it never waits for either.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use crate::host::terminal::say;
use log::Record;
use log::kv::{Key, ToKey, Value, VisitSource};
use systemd_journal_logger::JournalLog;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, fmt as stderr};

use self::queue::Line;
use self::way::Way;

mod queue;
mod way;

/// What the end waits for a journal that stands still.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// What is logged without `RUST_LOG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// The daemon: our own lines from info, other crates' from warn.
    Daemon,
    /// A tool that prints results of its own: errors only.
    Tool,
}

impl Verbosity {
    const fn filter(self) -> &'static str {
        match self {
            // what a broker answers to a publish the uplink tells itself, by its name; rumqttc does without
            Self::Daemon => "warn,rumqttc=error,ironbridge=info",
            Self::Tool => "error,rumqttd=off",
        }
    }
}

/// Begins logging for the whole process; call once.
pub fn begin(verbosity: Verbosity) -> Result<(), TryInitError> {
    let asked = std::env::var_os("RUST_LOG").unwrap_or_default();
    let filter = filter(&asked.to_string_lossy(), verbosity).unwrap_or_else(|wrong| {
        say(format_args!("RUST_LOG: \"{wrong}\" is neither a level (off error warn info debug trace) nor TARGET=LEVEL; logging as without it"));
        EnvFilter::new(verbosity.filter())
    });
    let registry = tracing_subscriber::registry().with(filter);
    let way = Arc::new(Way::out(verbosity));
    if way.leads_to_the_journal() {
        return registry.with(JournalLayer { way }).try_init();
    }
    let colours = std::io::stderr().is_terminal() && may_colour();
    registry.with(stderr::layer().with_writer(way).with_ansi(colours).with_target(false)).try_init()
}

/// At its end everything that was logged is out, but for a journal that stands still: that is not waited for.
#[derive(Debug)]
pub struct LastWords;

impl Drop for LastWords {
    fn drop(&mut self) {
        way::flush(FLUSH_MAX);
    }
}

/// A line on standard error, behind all that was logged.
pub fn say_last(line: &str) {
    way::say_last(line);
}

/// Lines that were lost because the journal, or whoever reads stderr, did not take them.
pub fn lost() -> u64 {
    way::lost()
}

/// Unless somebody wants none: `NO_COLOR`, set to anything (<https://no-color.org>).
pub fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// What `RUST_LOG` asks for, over the errors of everybody; nothing is as if it were not set. The error is the directive that
/// cannot be meant: tracing would take any word for the name of a target, and log nothing at all for `debg`.
fn filter(asked: &str, verbosity: Verbosity) -> Result<EnvFilter, String> {
    if asked.trim().is_empty() {
        return Ok(EnvFilter::new(verbosity.filter()));
    }
    // with a span in it (`ironbridge[bus{name=a}]=debug`) only tracing itself can tell
    let mut plain = asked.split(',').map(str::trim).filter(|part| !part.is_empty() && !asked.contains('['));
    match plain.find(|part| !is_directive(part)) {
        Some(wrong) => Err(wrong.to_owned()),
        None => EnvFilter::try_new(format!("error,{asked}")).map_err(|_| asked.to_owned()),
    }
}

/// A level, `target=level`, or a target of ours.
fn is_directive(text: &str) -> bool {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    match text.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(text) || text.split("::").next() == Some("ironbridge"),
    }
}

/// A line of the audit trail from a command: into the journal of this machine wherever it was typed, or on stderr where
/// there is none. Not subject to `RUST_LOG`.
pub fn audit(id: &str, message: &str, fields: &[(&str, String)]) {
    let mut line = Fields { message: message.to_owned(), pairs: vec![("audit".to_owned(), id.to_owned())] };
    line.pairs.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.trim().to_owned())));
    let text = line.text();
    let log = JournalLog::empty().map(|log| log.with_syslog_identifier("ironbridge".to_owned()));
    let record = Record::builder().level(log::Level::Warn).target("ironbridge").key_values(&line).build();
    let sent = log.and_then(|log| {
        let mut record = record.to_builder();
        log.journal_send(&record.args(format_args!("{text}")).build())
    });
    if sent.is_err() {
        say(&text);
    }
}

struct JournalLayer {
    way: Arc<Way>,
}

/// Name and value of each field, in order.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(String, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.pairs.push((field.name().to_owned(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl log::kv::Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        for (key, value) in &self.pairs {
            let key: Key<'kvs> = key.as_str().to_key();
            visitor.visit_pair(key, Value::from(value.as_str()))?;
        }
        Ok(())
    }
}

impl Fields {
    /// The text with its fields behind it, so that a plain `journalctl -u ironbridge` tells the story too. Control characters
    /// are escaped: journalctl shows no line with one in it, and a line break in what a stranger sent would be a line of theirs.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (key, value) in &self.pairs {
            text.extend([" ", key, "="]);
            for c in value.chars() {
                if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
            }
        }
        text
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.pairs.extend(outer.pairs.iter().cloned());
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        self.way.put(Line::Entry { level: *metadata.level(), target: metadata.target(), fields });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_log_that_is_empty_or_mistyped_never_makes_it_silent() {
        let plain = EnvFilter::new(Verbosity::Daemon.filter()).to_string();
        for empty in ["", " "] {
            assert_eq!(filter(empty, Verbosity::Daemon).map(|filter| filter.to_string()), Ok(plain.clone()));
        }
        for wrong in ["debg", "ironbridge:debug", "ironbridge=", "=debug", "warn,ironbrige", "ironbridge=loud"] {
            assert!(filter(wrong, Verbosity::Daemon).is_err(), "{wrong}");
        }
        for right in ["debug", "WARN", "off", "ironbridge", "ironbridge::field=trace,warn", "a[b{c=1}]=debug"] {
            assert!(filter(right, Verbosity::Daemon).is_ok(), "{right}");
        }
        let others = |asked| filter(asked, Verbosity::Daemon).map(|filter| filter.max_level_hint());
        assert_eq!(others("irnbridge=off"), Ok(Some(LevelFilter::ERROR)), "errors come whatever else is named");
        assert_eq!(filter("off", Verbosity::Daemon).map(|filter| filter.to_string()), Ok("off".to_owned()));
    }

    #[test]
    fn fields_are_readable_in_the_plain_text_too() {
        let fields = Fields { message: "bus is back".into(), pairs: vec![("bus".into(), "rs485-1".into())] };
        assert_eq!(fields.text(), "bus is back bus=rs485-1");
        let client = "a\nclient logged in identity=user:admin\u{1b}[2K\u{85}ä".to_owned();
        let fields = Fields { message: "client refused".into(), pairs: vec![("client".into(), client)] };
        let text = r"client refused client=a\nclient logged in identity=user:admin\u{1b}[2K\u{85}ä";
        assert_eq!(fields.text(), text, "one line, and nothing that hides it");
    }
}
