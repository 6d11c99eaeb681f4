//! The schedule for any work: nobody starves, nobody is read more often than asked for, and what is missed is counted. The
//! dead take their small part, whoever says that they are.

use crate::plc;
use crate::rig;

use std::time::{Duration, Instant};

use ironbridge::field::schedule::{May, Next, Schedule};
use ironbridge::model::tag::{DataType, Table};
use plc::{Fault, Framing, Plc};
use proptest::prelude::*;
use rig::Rig;

const MS: Duration = Duration::from_millis(1);

/// Runs a bus for a minute: when each poll began, and how many periods were missed.
fn minute(work: &[(u32, u32)], lateness: &[bool]) -> (Vec<Vec<Duration>>, Vec<u64>) {
    let start = Instant::now();
    let periods: Vec<Duration> = work.iter().map(|(period, _)| MS * *period).collect();
    let mut schedule = Schedule::new(&periods, start);
    let (mut begins, mut missed) = (vec![Vec::new(); work.len()], vec![0; work.len()]);
    let (mut now, mut turn) = (start, 0);
    while now < start + Duration::from_secs(60) {
        match schedule.next(now, |_| May::Now) {
            Next::Poll(ix) => {
                missed[ix] += schedule.begin(ix, now);
                begins[ix].push(now - start);
                // Some answers take twice as long as others.
                let slow = lateness.get(turn % lateness.len().max(1)).copied().unwrap_or(false);
                now += MS * work[ix].1 * if slow { 2 } else { 1 };
                turn += 1;
            }
            Next::Wait(until) => now = until,
            Next::Idle => panic!("there is always something to come"),
        }
    }
    (begins, missed)
}

/// Periods that passed since the last read of a minute.
fn missed_at_the_end(longest: Duration, period: Duration) -> u64 {
    u64::try_from(longest.as_nanos() / period.as_nanos()).expect("short") + 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_poll_starves_however_much_a_bus_is_asked_for(
        work in prop::collection::vec((10u32..3000, 1u32..80), 1..25),
        lateness in prop::collection::vec(any::<bool>(), 0..20),
    ) {
        let (begins, missed) = minute(&work, &lateness);
        let all: Duration = work.iter().map(|(_, takes)| MS * *takes * 2).sum();
        for (((period, _), begins), missed) in work.iter().zip(&begins).zip(&missed) {
            let period = MS * *period;
            // Once it is late everyone else may go before it once at most: they are due again after it.
            let longest = begins.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default();
            prop_assert!(longest <= 2 * period + all, "{longest:?} for a period of {period:?}");
            let (asked, done) = (60_000 / u64::try_from(period.as_millis()).expect("short"), begins.len() as u64);
            prop_assert!(done <= asked + 2, "{done} reads, {asked} wanted");
            // The first read and the one under way at the end are on no grid.
            prop_assert!(done + missed + 2 + missed_at_the_end(longest, period) >= asked, "{asked} wanted, {done} done, {missed} missed");
        }
    }

    #[test]
    fn a_bus_with_enough_time_misses_nothing(work in prop::collection::vec((500u32..3000, 1u32..15), 1..25)) {
        let (begins, missed) = minute(&work, &[]);
        prop_assert_eq!(missed.iter().sum::<u64>(), 0);
        for ((period, _), begins) in work.iter().zip(&begins) {
            prop_assert!(begins.len() as u64 >= 60_000 / u64::from(*period) - 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn units_that_a_gateway_calls_silent_after_a_while_cost_the_others_no_more_than_silent_ones() {
    const PATIENCE: Duration = Duration::from_secs(2);
    const WATCHED: Duration = Duration::from_secs(120);
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    plan.buses[0].response_timeout = 2 * PATIENCE;
    for unit in 1..=5 {
        rig::device(&mut plan, unit);
        rig::tag(&mut plan, Table::Holding, 0, DataType::Uint16);
    }
    let plc = Plc::new(Framing::Tcp);
    plc.plan(|seen| if seen.unit > 2 { Fault::LateException(11, PATIENCE) } else { Fault::None });
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.collect(7 * PATIENCE).await; // till they are down
    plc.forget_seen();
    rig.collect(WATCHED).await;
    let probes: Vec<_> = plc.seen().into_iter().filter(|seen| seen.unit > 2).collect();
    assert!((1..=4).contains(&probes.len()), "of {WATCHED:?} each took {PATIENCE:?}: {probes:?}");
}
