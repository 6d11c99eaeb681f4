//! How long a backlog takes at a rate. An estimate, and it says so: bytes on the wire per record differ by format.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::commands::{Failed, load};
use crate::config::plan::{Compress, Format, Layout, UplinkPlan};
use crate::store::detail::Detail;

/// Wire bytes per record, TLS, TCP and acknowledgements counted, where nothing better is known: JSON a message each, and
/// in arrays.
const JSON_SINGLE: f64 = 261.0;
const JSON_ARRAY: f64 = 69.0;
/// An edge node of Sparkplug, with aliases, and in gzip; a backlog says of each sample that it is historical. Births come on top.
const SPARKPLUG: f64 = 19.5;
const SPARKPLUG_GZIP: f64 = 8.4;
/// A batch takes about what the store does (0.86 to 2.7 B), and this much more around it.
const BATCH_AROUND: f64 = 0.3;
/// Days of the meters.
const DAY_MS: i64 = 86_400_000;

/// What an uplink's link carries.
pub(super) struct Rate {
    uplink: String,
    bytes_per_s: u64,
    from: &'static str,
    plan: Option<UplinkPlan>,
}

/// How long an uplink needs.
#[derive(Debug, Serialize)]
pub(super) struct Drain {
    uplink: String,
    bytes_per_s: u64,
    rate_from: &'static str,
    wire_bytes: u64,
    seconds: u64,
    format: &'static str,
}

impl Rate {
    /// The rate of each uplink that has one: as given, as configured, or as counted on its last day.
    pub(super) fn find(
        given: Option<u64>,
        config: Option<&Path>,
        detail: &Detail,
        now_ms: Option<i64>,
    ) -> Result<Vec<Self>, Failed> {
        let plans = config.map(load).transpose()?.map(|plan| plan.uplinks).unwrap_or_default();
        let mut names: Vec<&str> = detail.owed.iter().map(|owed| owed.uplink.as_str()).collect();
        names.dedup();
        let rate = |name: &str| {
            let plan = plans.iter().find(|plan| plan.name == name).cloned();
            let configured = plan.as_ref().and_then(|plan| plan.max_rate).map(|rate| (rate, "max_rate"));
            let counted = || counted(detail, name, now_ms).map(|rate| (rate, "the average of its last day"));
            let (bytes_per_s, from) = given.map(|rate| (rate, "given")).or(configured).or_else(counted)?;
            Some(Self { uplink: name.to_owned(), bytes_per_s, from, plan })
        };
        Ok(names.into_iter().filter_map(rate).collect())
    }

    /// What is owed, at this rate.
    pub(super) fn drain(&self, detail: &Detail) -> Drain {
        let owed = detail.owed.iter().filter(|owed| owed.uplink == self.uplink);
        let (records, bytes) = owed.fold((0, 0), |(records, bytes), owed| (records + owed.records, bytes + owed.bytes));
        let (format, wire_bytes) = self.wire(records, bytes);
        let seconds = wire_bytes.div_ceil(self.bytes_per_s.max(1));
        let (uplink, bytes_per_s, rate_from) = (self.uplink.clone(), self.bytes_per_s, self.from);
        Drain { uplink, bytes_per_s, rate_from, wire_bytes, seconds, format }
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an estimate
    fn wire(&self, records: u64, stored: u64) -> (&'static str, u64) {
        let by = |each: f64| (records as f64 * each) as u64;
        match &self.plan {
            Some(plan) if plan.format == Format::Batch => ("batch", stored + by(BATCH_AROUND)),
            Some(plan) if plan.format == Format::Sparkplug && plan.compress == Compress::Gzip => {
                ("sparkplug, gzip", by(SPARKPLUG_GZIP))
            }
            Some(plan) if plan.format == Format::Sparkplug => ("sparkplug", by(SPARKPLUG)),
            Some(plan) if plan.layout == Layout::Device || plan.batch_samples > 1 => {
                ("json, many a message", by(JSON_ARRAY))
            }
            Some(_) => ("json, one a message", by(JSON_SINGLE)),
            None => ("format not known: json, one a message", by(JSON_SINGLE)),
        }
    }
}

/// Bytes per second that an uplink sent on its last day, as far as that has gone.
fn counted(detail: &Detail, uplink: &str, now_ms: Option<i64>) -> Option<u64> {
    let days = detail.meters.iter().filter(|row| row.uplink == uplink && row.path.is_empty() && row.period == 0);
    let last = days.max_by_key(|row| row.number)?;
    let begin = last.number.checked_mul(DAY_MS)?;
    let passed = now_ms.map_or(DAY_MS, |now| (now - begin).clamp(1000, DAY_MS));
    let seconds = u64::try_from(passed / 1000).ok()?.max(1);
    Some(last.bytes / seconds).filter(|rate| *rate > 0)
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uplink, bytes_per_s, rate_from, wire_bytes, seconds, format } = self;
        write!(
            f,
            "drain      {uplink}: about {} for {wire_bytes} bytes on the wire ({format}) at {bytes_per_s} B/s ({rate_from})",
            span_text(*seconds)
        )
    }
}

/// Seconds for people: the two largest units.
pub(super) fn span_text(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::detail::OwedDetail;

    #[test]
    fn a_backlog_takes_what_its_format_costs_on_the_wire_at_the_rate_given() {
        let owed = OwedDetail {
            uplink: "cloud".into(),
            stream: "telemetry",
            records: 1_000_000,
            bytes: 900_000,
            gaps: 0,
            oldest_ms: None,
        };
        let detail = Detail { held: Vec::new(), owed: vec![owed], meters: Vec::new() };
        let seconds = |plan: Option<UplinkPlan>| {
            let rate = Rate { uplink: "cloud".into(), bytes_per_s: 32 * 1024, from: "given", plan };
            rate.drain(&detail).seconds
        };
        assert_eq!(seconds(None), 7966);
        let batch = UplinkPlan { format: Format::Batch, ..UplinkPlan::plain("cloud") };
        assert_eq!(seconds(Some(batch)), 37);
        let spark = UplinkPlan { format: Format::Sparkplug, batch_samples: 10_000, ..UplinkPlan::plain("cloud") };
        let gzip = UplinkPlan { compress: Compress::Gzip, ..spark.clone() };
        assert_eq!([seconds(Some(spark)), seconds(Some(gzip))], [596, 257]);
        let texts = [(5, "5 s"), (61, "1 min 1 s"), (7966, "2 h 12 min"), (200_000, "2 d 7 h")];
        for (seconds, text) in texts {
            assert_eq!(span_text(seconds), text);
        }
    }
}
