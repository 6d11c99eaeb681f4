//! `GET /metrics` for Prometheus: OpenMetrics text (version 1.0.0), which the older format's readers understand too.
//!
//! The app gathers [`Figures`] from the counters of all rooms whenever somebody asks; this file names, sorts and writes them.
//! Names begin with `ironbridge_` (of the process itself: `process_`, as every Prometheus client has it), base units are
//! seconds and bytes, a counter ends in `_total`. Labels are names of the configuration, classes and words of the program:
//! what a client sends never becomes one, and no tag has a row of its own, so that a large plant stays a small scrape.
//!
//! Whoever may see the status page may scrape: off loopback that takes a login (HTTP Basic; Prometheus: `basic_auth`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder, MetricEncoder, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Lobby, visitor};
use crate::model::stats::{Times, UPPER_ENDS_MICROS};

/// Gathers the figures of this moment.
pub type Count = Arc<dyn Fn() -> Figures + Send + Sync>;

/// All figures of one moment, family by family.
#[derive(Debug, Clone, Default)]
pub struct Figures(BTreeMap<&'static str, Family>);

#[derive(Debug, Clone)]
struct Family {
    help: &'static str,
    rows: Vec<(Labels, Figure)>,
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, PartialEq)]
enum Figure {
    Count(u64),
    Seconds(f64),
    Level(f64),
    Times(Box<Times>),
}

impl Figures {
    /// A number that only grows since the start; `name` without prefix and `_total`. A row that is there is added to.
    pub fn count(&mut self, name: &'static str, help: &'static str, labels: &Labels, value: u64) {
        match self.row(name, help, labels, Figure::Count(0)) {
            Figure::Count(sum) => *sum = sum.saturating_add(value),
            other => debug_assert!(false, "{name} is {other:?}"),
        }
    }

    /// Time spent since the start; `name` ends in `_seconds`. A row that is there is added to.
    pub fn spent(&mut self, name: &'static str, help: &'static str, labels: &Labels, seconds: f64) {
        match self.row(name, help, labels, Figure::Seconds(0.0)) {
            Figure::Seconds(sum) => *sum += seconds,
            other => debug_assert!(false, "{name} is {other:?}"),
        }
    }

    /// A number that goes up and down. Of a row that is there the larger one stays.
    pub fn level(&mut self, name: &'static str, help: &'static str, labels: &Labels, value: f64) {
        match self.row(name, help, labels, Figure::Level(value)) {
            Figure::Level(level) => *level = level.max(value),
            other => debug_assert!(false, "{name} is {other:?}"),
        }
    }

    /// The same; of a row that is there the smaller one stays: something holds only where it holds of all.
    pub fn least(&mut self, name: &'static str, help: &'static str, labels: &Labels, value: f64) {
        match self.row(name, help, labels, Figure::Level(value)) {
            Figure::Level(level) => *level = level.min(value),
            other => debug_assert!(false, "{name} is {other:?}"),
        }
    }

    /// How long something took; `name` ends in `_seconds`. A row that is there is added to.
    pub fn times(&mut self, name: &'static str, help: &'static str, labels: &Labels, times: &Times) {
        match self.row(name, help, labels, Figure::Times(Box::default())) {
            Figure::Times(sum) => **sum = sum.and(times),
            other => debug_assert!(false, "{name} is {other:?}"),
        }
    }

    /// Rows of the same labels come one after the other, or not at all.
    fn row(&mut self, name: &'static str, help: &'static str, labels: &Labels, new: Figure) -> &mut Figure {
        let rows = &mut self.0.entry(name).or_insert(Family { help, rows: Vec::new() }).rows;
        if rows.last().is_none_or(|(last, _)| last != labels) {
            rows.push((labels.clone(), new));
        }
        let last = rows.len() - 1;
        &mut rows[last].1
    }

    /// As text.
    pub(crate) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, Family { help, rows }) in &self.0 {
            let full = if name.starts_with("process_") { (*name).to_owned() } else { format!("ironbridge_{name}") };
            let (bare, unit) = match (full.strip_suffix("_seconds"), full.strip_suffix("_bytes")) {
                (Some(bare), _) => (bare, Some(Unit::Seconds)),
                (_, Some(bare)) => (bare, Some(Unit::Bytes)),
                _ => (full.as_str(), None),
            };
            let kind = match rows.first() {
                Some((_, Figure::Count(_) | Figure::Seconds(_))) => MetricType::Counter,
                Some((_, Figure::Times(_))) => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(bare, help, unit.as_ref(), kind)?;
            for (labels, figure) in rows {
                if labels.is_empty() {
                    write(&mut family, figure)?;
                } else {
                    write(&mut family.encode_family(&Escaped(labels))?, figure)?;
                }
            }
        }
        Ok(())
    }
}

/// What is no label set of an exemplar; there are none.
type NoExemplar = [(&'static str, &'static str); 0];

#[allow(clippy::cast_precision_loss, reason = "microseconds of centuries")]
fn write(encoder: &mut MetricEncoder<'_>, figure: &Figure) -> fmt::Result {
    match figure {
        Figure::Count(count) => encoder.encode_counter::<NoExemplar, u64, f64>(count, None),
        Figure::Seconds(seconds) => encoder.encode_counter::<NoExemplar, f64, f64>(seconds, None),
        Figure::Level(level) => encoder.encode_gauge(level),
        Figure::Times(times) => {
            let ends = UPPER_ENDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
            let cells: Vec<(f64, u64)> = ends.zip(times.cells).collect();
            encoder.encode_histogram::<NoExemplar>(times.sum_micros as f64 / 1e6, times.count(), &cells, None)
        }
    }
}

/// Labels whose values may be anything: the library writes them as they are.
struct Escaped<'a>(&'a Labels);

struct Value<'a>(&'a str);

impl EncodeLabelSet for Escaped<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let labels: Vec<(&str, Value<'_>)> = self.0.iter().map(|(name, value)| (*name, Value(value))).collect();
        labels.as_slice().encode(encoder)
    }
}

/// Backslash, quote and line feed (OpenMetrics 1.0, section "ABNF": escaped-char).
impl EncodeLabelValue for Value<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => encoder.write_str("\\\\")?,
                '"' => encoder.write_str("\\\"")?,
                '\n' => encoder.write_str("\\n")?,
                c => encoder.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// `GET /metrics`
pub(super) async fn answer(State(lobby): State<Lobby>, parts: Parts) -> Response {
    if let Err(refused) = visitor::identify(&lobby, &parts).await {
        return visitor::challenge(refused);
    }
    // Readers of the older format take lines with # for comments; they only want to be told its name.
    let accepts = parts.headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    let older = accepts.contains("text/plain") && !accepts.contains("openmetrics");
    let kind = if older {
        "text/plain; version=0.0.4; charset=utf-8"
    } else {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    };
    match (lobby.count)().text() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "figures cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stats::Histogram;
    use std::time::Duration;

    fn bus(name: &str) -> Labels {
        vec![("bus", name.to_owned())]
    }

    #[test]
    fn figures_are_written_as_the_format_wants_them_and_rows_of_the_same_labels_are_one() {
        let (mut figures, took) = (Figures::default(), Histogram::default());
        took.add(Duration::from_millis(3));
        took.add(Duration::from_secs(100));
        figures.count("bus_requests", "Requests.", &bus("a"), 2);
        figures.count("bus_requests", "Requests.", &bus("a"), 3);
        figures.count("bus_requests", "Requests.", &bus("b\"\\\n"), 1);
        figures.count("store_written_bytes", "Written.", &Vec::new(), 7);
        figures.spent("process_cpu_seconds", "CPU.", &Vec::new(), 1.5);
        figures.level("bus_load_ratio", "Load.", &bus("a"), 0.25);
        figures.times("store_commit_seconds", "Commits.", &Vec::new(), &took.times());
        let text = figures.text().expect("written");
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "# TYPE ironbridge_bus_requests counter",
            "ironbridge_bus_requests_total{bus=\"a\"} 5",
            "ironbridge_bus_requests_total{bus=\"b\\\"\\\\\\n\"} 1",
            "# UNIT ironbridge_store_written_bytes bytes",
            "ironbridge_store_written_bytes_total 7",
            "process_cpu_seconds_total 1.5",
            "ironbridge_bus_load_ratio{bus=\"a\"} 0.25",
            "ironbridge_store_commit_seconds_bucket{le=\"0.005\"} 1",
            "ironbridge_store_commit_seconds_bucket{le=\"30.0\"} 1",
            "ironbridge_store_commit_seconds_bucket{le=\"+Inf\"} 2",
            "ironbridge_store_commit_seconds_count 2",
            "ironbridge_store_commit_seconds_sum 100.003",
            "# EOF",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
    }
}
