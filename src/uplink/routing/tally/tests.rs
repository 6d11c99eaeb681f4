//! Periods by clocks that are right, late, ahead, and put.

use super::*;

const fn fixed(unix_ms: i64) -> Wall {
    Wall { unix_ms, certainty: Certainty::Fixed }
}

/// The clock was put just now.
const PUT: Duration = Duration::ZERO;
/// It has gone since, and is believed; it may still be put back.
const GONE: Duration = BELIEVED;

/// 2026-11-20T20:00:00Z
const NOW: i64 = 1_795_204_800_000;
const MIDNIGHT: i64 = NOW + 4 * 3_600_000;

fn counted(period: Period) -> Tally {
    let mut tally = Tally::new(period);
    assert!(!tally.turn(fixed(NOW), GONE));
    tally.bytes = 1000;
    tally.told = TOLD_80;
    tally
}

#[test]
fn a_day_ends_at_midnight_utc_and_a_month_after_its_own_length() {
    assert_eq!(end_ms(Period::Day, NOW), MIDNIGHT);
    assert_eq!(end_ms(Period::Day, MIDNIGHT), MIDNIGHT + DAY_MS);
    // First of a month, days in it: February of a common, a leap, a century and a 400th year; December.
    for (first, days) in [
        ("2026-11-01", 30),
        ("2027-02-01", 28),
        ("2028-02-01", 29),
        ("2100-02-01", 28),
        ("2000-02-01", 29),
        ("2026-12-01", 31),
    ] {
        let start = (0..60_000).map(|day| day * DAY_MS).find(|ms| fixed(*ms).to_string().starts_with(first));
        let start = start.expect("within 164 years of 1970");
        assert_eq!(end_ms(Period::Month, start), start + days * DAY_MS, "{first}");
        assert_eq!(end_ms(Period::Month, start + days * DAY_MS - 1), start + days * DAY_MS, "{first}");
        assert_ne!(number(Period::Month, start - 1), number(Period::Month, start));
    }
}

#[test]
fn a_period_turns_once_at_its_end() {
    let mut tally = counted(Period::Day);
    assert!(!tally.turn(fixed(MIDNIGHT - 1), GONE));
    assert_eq!((tally.bytes, tally.ends_ms(fixed(NOW))), (1000, Some(MIDNIGHT)));
    assert!(tally.turn(fixed(MIDNIGHT), GONE));
    assert_eq!((tally.bytes, tally.told), (0, 0));
    assert!(!tally.turn(fixed(MIDNIGHT + 1), GONE));
    let mut month = counted(Period::Month);
    assert!(!month.turn(fixed(MIDNIGHT), GONE));
    assert!(month.turn(fixed(NOW + 11 * DAY_MS), GONE), "December");
}

#[test]
fn a_backward_step_never_restarts_a_period_and_neither_does_the_way_back() {
    for period in [Period::Day, Period::Month] {
        let mut tally = counted(period);
        for step in [NOW - 3 * DAY_MS, NOW - 400 * DAY_MS, NOW - 1, NOW, NOW - 40 * DAY_MS, NOW + 1000] {
            assert!(!tally.turn(fixed(step), GONE), "{period:?} {step}");
        }
        assert_eq!(tally.bytes, 1000);
    }
    let mut tally = counted(Period::Day);
    assert!(tally.turn(fixed(MIDNIGHT), GONE));
    tally.bytes = 5;
    assert!(!tally.turn(fixed(MIDNIGHT - 2000), GONE), "an NTP correction just after midnight");
    assert!(!tally.turn(fixed(MIDNIGHT), GONE));
    assert_eq!(tally.bytes, 5);
}

#[test]
fn without_a_fix_the_last_known_period_goes_on() {
    let mut tally = counted(Period::Day);
    let floor = Wall { unix_ms: NOW + 90 * DAY_MS, certainty: Certainty::Floor };
    assert!(!tally.turn(floor, GONE));
    assert_eq!((tally.bytes, tally.ends_ms(floor)), (1000, None));
    let mut fresh = Tally::new(Period::Month);
    assert!(!fresh.turn(floor, GONE));
    fresh.bytes = 7;
    assert!(!fresh.turn(fixed(NOW), GONE), "counted before the first fix, and still counted after it");
    assert_eq!(fresh.bytes, 7);
}

#[test]
fn what_goes_out_before_the_first_fix_counts_for_the_period_that_begins_with_it() {
    let saved = [counted(Period::Day).row("u", "", 0)];
    let floor = Wall { unix_ms: NOW, certainty: Certainty::Floor };
    // Switched on in the morning: what is in the backlog goes out before anybody has told the time.
    let mut tally = Tally::new(Period::Day);
    tally.count(30);
    tally.adopt(&saved, "");
    assert!(!tally.turn(floor, GONE));
    tally.count(70);
    assert_eq!(tally.bytes, 1100);
    assert!(tally.turn(fixed(MIDNIGHT + 1), GONE));
    assert_eq!((tally.bytes, tally.told), (100, 0));
    tally.count(5);
    assert!(tally.turn(fixed(MIDNIGHT + DAY_MS), GONE));
    assert_eq!(tally.bytes, 0, "once");
    // On the same day: nothing counts twice.
    let mut tally = Tally::new(Period::Day);
    tally.adopt(&saved, "");
    tally.count(70);
    assert!(!tally.turn(fixed(MIDNIGHT - 1), GONE));
    assert_eq!(tally.bytes, 1070);
    assert!(tally.turn(fixed(MIDNIGHT), GONE));
    assert_eq!(tally.bytes, 0);
}

#[test]
fn what_goes_out_before_the_first_fix_is_not_forgotten_by_a_restart_before_it() {
    let mut rows = vec![counted(Period::Day).row("u", "", 0)];
    let save = |tally: &mut Tally, rows: &mut Vec<MeterRow>| {
        for row in [Some(tally.row("u", "", 0)), tally.undated_row("u", "", 0)].into_iter().flatten() {
            rows.retain(|older| !row.displaces(older));
            rows.push(row);
        }
    };
    for run in 1..=3 {
        let mut tally = Tally::new(Period::Day);
        tally.count(1);
        tally.adopt(&rows, "");
        tally.count(9);
        save(&mut tally, &mut rows);
        assert_eq!((tally.bytes, tally.undated), (1000 + run * 10, Some(run * 10)));
    }
    // A fix, and then the disk; and the other way round.
    let mut late = Tally::new(Period::Day);
    late.turn(fixed(MIDNIGHT + 1), GONE);
    late.adopt(&rows, "");
    assert_eq!(late.bytes, 30);
    let mut tally = Tally::new(Period::Day);
    tally.adopt(&rows, "");
    assert!(tally.turn(fixed(MIDNIGHT + 1), GONE));
    assert_eq!((tally.bytes, tally.has_outdated_row()), (30, true));
    save(&mut tally, &mut rows);
    let mut again = Tally::new(Period::Day);
    again.adopt(&rows, "");
    assert_eq!((again.bytes, again.undated, again.has_outdated_row()), (30, Some(0), false), "once");
}

#[test]
fn a_clock_that_was_years_ahead_costs_one_period_and_not_years() {
    let mut tally = counted(Period::Day);
    assert!(tally.turn(fixed(NOW + 3000 * DAY_MS), GONE));
    tally.bytes = 9;
    assert!(!tally.turn(fixed(NOW), GONE));
    assert_eq!(tally.ends_ms(fixed(NOW)), Some(NOW + signed_millis(SURE)));
    let saved = tally.row("u", "", 0);
    let mut tally = Tally::new(Period::Day);
    tally.adopt(&[saved], "");
    assert!(!tally.turn(fixed(NOW + DAY_MS - 1), GONE));
    assert!(tally.turn(fixed(NOW + DAY_MS), GONE), "also over a restart");
    assert_eq!(tally.bytes, 0);
}

#[test]
fn a_restart_goes_on_from_what_may_have_been_counted_and_forgets_other_ways() {
    let tally = counted(Period::Day);
    let rows = [tally.row("u", "lte", 77), tally.row("u", "", 24)];
    let mut again = Tally::new(Period::Day);
    again.adopt(&rows, "");
    assert_eq!((again.bytes, again.told), (1024, TOLD_80));
    assert!(!again.turn(fixed(NOW), GONE));
    assert_eq!(again.bytes, 1024);
    let mut month = Tally::new(Period::Month);
    month.adopt(&rows, "");
    assert_eq!(month.bytes, 0);
    // A sum that nobody can have counted panics nowhere.
    again.adopt(&[MeterRow { bound: u64::MAX, ..rows[1].clone() }], "");
    assert_eq!((again.bytes, again.row("u", "", 5).bound), (u64::MAX, u64::MAX));
    // The store could be opened only after some bytes had gone out.
    let mut late = counted(Period::Day);
    late.adopt(&rows, "lte");
    assert_eq!(late.bytes, 2077);
}

/// As after a restart.
fn again(tally: &Tally, rows: &mut Vec<MeterRow>) -> Tally {
    let row = tally.row("u", "", 0);
    rows.retain(|older| !row.displaces(older));
    rows.push(row);
    let mut again = Tally::new(tally.period);
    again.adopt(rows, "");
    again
}

/// Into the next period but one.
const fn ahead(period: Period) -> i64 {
    match period {
        Period::Day => 2 * DAY_MS,
        Period::Month => 45 * DAY_MS,
    }
}

#[test]
fn a_clock_that_is_ahead_for_seconds_opens_no_budget() {
    for period in [Period::Day, Period::Month] {
        let (mut tally, end) = (counted(period), end_ms(period, NOW));
        for glitch in 1..=3 {
            assert!(!tally.turn(fixed(NOW + ahead(period) * glitch), PUT));
            tally.count(50);
            assert!(!tally.turn(fixed(NOW + ahead(period) * glitch + 4000), Duration::from_secs(4)));
            assert!(!tally.turn(fixed(NOW + 4000), PUT));
        }
        assert_eq!((tally.bytes, tally.told, tally.ends_ms(fixed(NOW))), (1150, TOLD_80, Some(end)));
        assert!(tally.turn(fixed(end), GONE));
        assert_eq!(tally.bytes, 0, "the next one begins with nothing");
    }
}

#[test]
fn a_clock_that_is_put_forward_for_good_begins_a_period_ten_minutes_later_with_what_went_out_since() {
    let mut tally = counted(Period::Month);
    let put = NOW + 40 * DAY_MS;
    assert!(!tally.turn(fixed(put), PUT));
    tally.count(30);
    assert!(!tally.turn(fixed(put + 599_000), Duration::from_secs(599)));
    tally.count(4);
    assert!(tally.turn(fixed(put + 600_000), BELIEVED));
    assert_eq!((tally.bytes, tally.told), (34, 0));
}

#[test]
fn a_period_that_the_clock_comes_back_to_goes_on_with_both_sums_and_the_next_begins_with_nothing() {
    for (period, restarts) in
        [Period::Day, Period::Month].into_iter().flat_map(|period| [(period, false), (period, true)])
    {
        let (mut tally, mut rows) = (counted(period), Vec::new());
        let mut restart = |tally: Tally| if restarts { again(&tally, &mut rows) } else { tally };
        tally = restart(tally);
        assert!(tally.turn(fixed(NOW + ahead(period)), GONE));
        tally.count(300);
        tally = restart(tally);
        assert!(!tally.turn(fixed(NOW), PUT));
        assert_eq!((tally.bytes, tally.own()), (1300, 300), "{period:?} {restarts}");
        tally.count(20);
        tally = restart(tally);
        assert!(!tally.turn(fixed(NOW + 1), GONE));
        assert_eq!(tally.bytes, 1320, "nothing counts twice");
        // Ahead once more: nothing is there anew.
        assert!(!tally.turn(fixed(NOW + ahead(period)), PUT));
        assert_eq!(tally.bytes, 1320);
        assert!(!tally.turn(fixed(NOW + ahead(period)), GONE));
        assert_eq!(tally.bytes, 320);
        tally.count(5);
        assert!(!tally.turn(fixed(NOW + 2), PUT));
        assert_eq!(tally.bytes, 1325);
        // The true next one, some time after the clock was put.
        let (end, gone) = (end_ms(period, NOW), SURE);
        assert!(!tally.turn(fixed(end - 1), gone));
        assert!(tally.turn(fixed(end), gone));
        assert_eq!((tally.bytes, tally.ends_ms(fixed(end))), (0, Some(end_ms(period, end))));
        // The clock was wrong then, too.
        tally.count(6);
        assert!(!tally.turn(fixed(end - 3_600_000), PUT));
        assert_eq!(tally.bytes, 1331, "with all that was counted since the clock came back");
    }
}

#[test]
fn clocks_that_are_ahead_by_more_each_time_open_no_budget_each_time() {
    let mut tally = counted(Period::Month);
    for glitch in 1..=5 {
        assert!(tally.turn(fixed(NOW + glitch * 40 * DAY_MS), GONE));
        tally.count(100);
        assert!(!tally.turn(fixed(NOW + glitch), PUT));
        assert_eq!(tally.bytes, 1000 + glitch.unsigned_abs() * 100);
    }
    // Somewhere in between, for longer than a month by the clock.
    assert!(!tally.turn(fixed(NOW + 50 * DAY_MS), PUT));
    tally.count(100);
    assert_eq!(tally.bytes, 1600);
    assert!(!tally.turn(fixed(NOW + 50 * DAY_MS + 600_000), GONE));
    tally.count(10);
    assert!(!tally.turn(fixed(NOW + 6), PUT));
    assert_eq!(tally.bytes, 1610);
}

#[test]
fn what_goes_out_after_midnight_counts_also_where_the_clock_was_set_right_shortly_before() {
    let mut tally = counted(Period::Day);
    assert!(tally.turn(fixed(NOW + 2 * DAY_MS), GONE));
    assert!(!tally.turn(fixed(NOW), PUT));
    assert_eq!(tally.bytes, 1000);
    assert!(!tally.turn(fixed(MIDNIGHT), Duration::from_secs(4 * 3600)));
    tally.count(9);
    let sure = NOW + signed_millis(SURE);
    assert_eq!(tally.ends_ms(fixed(MIDNIGHT)), Some(sure));
    assert!(tally.turn(fixed(sure), SURE));
    assert_eq!(tally.bytes, 9);
}

#[test]
fn a_clock_that_was_put_back_for_hours_opens_no_budget_when_it_is_set_right() {
    for period in [Period::Day, Period::Month] {
        let mut tally = counted(period);
        let next = end_ms(period, NOW);
        assert!(tally.turn(fixed(next), SURE));
        tally.count(700);
        assert!(!tally.turn(fixed(NOW), PUT));
        assert_eq!(tally.bytes, 1700);
        tally.count(10);
        assert!(!tally.turn(fixed(next + 60_000), PUT));
        assert_eq!(tally.bytes, 1710);
        assert!(!tally.turn(fixed(next + 660_000), GONE));
        assert_eq!(tally.bytes, 710);
    }
}
