//! What an uplink or a path may cost: budgets, rates, reserve, price, schedule.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::plan::{Budget, Period, Schedule};
use super::super::section::{Section, Spot};
use super::super::units;

const BUDGET_FORM: &str = "bytes per day or month, such as \"200MiB/month\"";
const BUDGETS_FORM: &str = "[\"200MiB/month\", \"20MiB/day\"]: bytes per month, per day, or both";
const BUDGET: RangeInclusive<u64> = 64 << 10..=16 << 40;
const RATE_FORM: &str = "bytes per second, such as \"32KiB/s\"";
const RATE: RangeInclusive<u64> = 128..=1 << 30;
const RESERVE: f64 = 0.2;
const RESERVE_ALLOWED: &str = "\"0%\" ..= \"90%\"";
const PRICE_FORM: &str = "money per size, such as \"0.03/MiB\"";
const SCHEDULE_FORM: &str = "such as \"*/15min for 2min\": from each quarter of an hour (UTC), for two minutes";
const SCHEDULE_EVERY: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(86_400);
const SCHEDULE_LASTS_MIN: Duration = Duration::from_secs(10);

/// `budget = ["200MiB/month", "20MiB/day"]`
pub fn budgets(section: &Section<'_, '_>) -> Vec<Budget> {
    let mut budgets: Vec<Budget> = Vec::new();
    for Spot { value: text, at } in section.texts_like("budget", BUDGETS_FORM).unwrap_or_default() {
        let budget = match budget(text) {
            Ok(budget) => budget,
            Err(message) => {
                section.report(section.wrong("budget", at, message).allowed(BUDGET_FORM));
                continue;
            }
        };
        if !BUDGET.contains(&budget.bytes) {
            let allowed = format!("{} ..= {}", units::write_size(*BUDGET.start()), units::write_size(*BUDGET.end()));
            section.report(section.wrong("budget", at, "out of range").allowed(allowed));
        } else if budgets.iter().any(|other| other.period == budget.period) {
            section.report(section.wrong("budget", at, "there is a budget for this period already"));
        } else {
            budgets.push(budget);
        }
    }
    budgets
}

fn budget(text: &str) -> Result<Budget, String> {
    let Some((bytes, period)) = text.split_once('/') else {
        let cure = if units::size(text).is_some() { format!(": write \"{text}/month\"") } else { String::new() };
        return Err(format!("does not say for how long{cure}"));
    };
    let period = match period.trim() {
        "day" => Period::Day,
        "month" => Period::Month,
        _ => return Err("is no budget: behind / stands day or month".to_owned()),
    };
    let bytes = units::size(bytes).ok_or_else(|| format!("is no budget: before / stands {}", units::SIZE_FORM))?;
    Ok(Budget { bytes, period })
}

/// `max_rate = "32KiB/s"`
pub fn max_rate(section: &Section<'_, '_>) -> Option<u64> {
    let text = section.text_like("max_rate", RATE_FORM)?;
    let rate = text.value.trim().strip_suffix("/s").and_then(units::size);
    match rate {
        Some(rate) if RATE.contains(&rate) => return Some(rate),
        Some(_) => {
            let allowed = format!("{}/s ..= {}/s", units::write_size(*RATE.start()), units::write_size(*RATE.end()));
            section.report(section.wrong("max_rate", text.at, "out of range").allowed(allowed));
        }
        None => {
            let cure = match units::size(text.value) {
                Some(_) => format!(": write \"{}/s\"", text.value.trim()),
                None => String::new(),
            };
            section.report(section.wrong("max_rate", text.at, format!("is no rate{cure}")).allowed(RATE_FORM));
        }
    }
    None
}

/// `reserve = "20%"`, as a part of 1.
pub fn reserve(section: &Section<'_, '_>) -> f64 {
    let Some(text) = section.text_like("reserve", RESERVE_ALLOWED) else { return RESERVE };
    let percent = text.value.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=90.0).contains(&percent) => percent / 100.0,
        _ => {
            section.report(section.wrong("reserve", text.at, "is no part of a budget").allowed(RESERVE_ALLOWED));
            RESERVE
        }
    }
}

/// `price = "0.03/MiB"`, per MiB.
pub fn price(section: &Section<'_, '_>) -> Option<f64> {
    let text = section.text_like("price", PRICE_FORM)?;
    let price = price_per_mib(text.value);
    if price.is_none() {
        section.report(section.wrong("price", text.at, "is no price").allowed(PRICE_FORM));
    }
    price
}

#[expect(clippy::cast_precision_loss, reason = "a unit has far fewer than 2^53 bytes")]
fn price_per_mib(text: &str) -> Option<f64> {
    let (money, unit) = text.split_once('/')?;
    let money = money.trim().parse::<f64>().ok().filter(|money| money.is_finite() && *money >= 0.0)?;
    let bytes = units::size(&format!("1{}", unit.trim()))?;
    Some(money * 1_048_576.0 / bytes as f64)
}

/// `schedule = "*/15min for 2min"`
pub fn schedule(section: &Section<'_, '_>) -> Option<Schedule> {
    let text = section.text_like("schedule", SCHEDULE_FORM)?;
    let parts = text.value.trim().strip_prefix("*/").and_then(|rest| rest.split_once(" for "));
    let times = parts.and_then(|(every, lasts)| units::duration(every).zip(units::duration(lasts)));
    let Some((every, lasts)) = times else {
        section.report(section.wrong("schedule", text.at, "is no schedule").allowed(SCHEDULE_FORM));
        return None;
    };
    if !SCHEDULE_EVERY.contains(&every) || !(SCHEDULE_LASTS_MIN..=every).contains(&lasts) {
        let allowed = "every 1m ..= 1d, for 10s ..= the whole of it";
        section.report(section.wrong("schedule", text.at, "out of range").allowed(allowed));
        return None;
    }
    Some(Schedule { every, lasts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_kept_per_mebibyte() {
        let per_mib = |text| price_per_mib(text).expect("a price");
        assert!((per_mib("0.03/MiB") - 0.03).abs() < 1e-12);
        assert!((per_mib("10 / GiB") - 10.0 / 1024.0).abs() < 1e-12);
        assert!((per_mib("1/MB") - 1.048_576).abs() < 1e-12);
        for wrong in ["0.03", "-1/MiB", "x/MiB", "1/", "nan/MiB"] {
            assert_eq!(price_per_mib(wrong), None, "{wrong}");
        }
    }
}
