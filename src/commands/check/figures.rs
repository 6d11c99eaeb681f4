//! How `ironbridge check` writes figures: counts, times, bytes, ranges, tables. The same words in every section.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::forecast::Rate;
use crate::config::plan::{Budget, Period, Plan};
use crate::config::units::write_size;
use crate::model::tag::DeviceIx;

/// Columns as wide as their widest cell.
pub fn write_rows<const N: usize>(out: &mut impl fmt::Write, header: [&str; N], rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [&str; N]| {
        let mut row = String::from("   ");
        for (cell, width) in cells.iter().zip(widths) {
            write!(row, " {cell:width$} ")?;
        }
        writeln!(out, "{}", row.trim_end())
    };
    line(header)?;
    rows.iter().try_for_each(|row| line(std::array::from_fn(|column| row[column].as_str())))
}

/// The name of a device.
pub fn device_name(plan: &Plan, device: DeviceIx) -> &str {
    &plan[device].name
}

/// `1 tag`, `2 tags`
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `12.3 MB`
pub fn bytes_text(bytes: f64) -> String {
    let (scaled, unit) = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(size, _)| bytes >= *size)
        .map_or((bytes, "B"), |(size, unit)| (bytes / size, unit));
    format!("{scaled:.1} {unit}")
}

/// `12.3 MB to 15.0 MB`, or one figure where both ends read the same.
pub fn span(rate: Rate, write: impl Fn(f64) -> String) -> String {
    let (low, high) = (write(rate.least.min(rate.most)), write(rate.least.max(rate.most)));
    if low == high { low } else { format!("{low} to {high}") }
}

/// `200MiB/month`
pub fn budget_text(budget: Budget) -> String {
    format!("{}/{}", write_size(budget.bytes), period_text(budget.period))
}

/// As in the configuration.
pub const fn period_text(period: Period) -> &'static str {
    match period {
        Period::Day => "day",
        Period::Month => "month",
    }
}

/// Both ends for scripts.
pub fn rate_json(rate: Rate) -> Value {
    json!({ "most": rate.most, "least": rate.least })
}
