//! Times before and after fixes, over restarts, and in boots that never had one.

use super::*;

#[test]
fn a_sample_taken_before_the_first_fix_gets_its_right_time_afterwards() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(2), 1_700_000_000_000);
    let early = clock.now();
    assert_eq!(clock.wall(early).certainty, Certainty::Floor);
    assert_eq!(clock.wall(early).unix_ms, 1_700_000_000_000);
    time.advance(Duration::from_secs(10));
    clock.learn(Fix { at: clock.now(), unix_ms: 1_800_000_010_000 });
    assert_eq!(clock.wall(early), Wall { unix_ms: 1_800_000_000_000, certainty: Certainty::Fixed });
    let other_boot = Stamp { boot: Boot(1), micros: 5 };
    assert!(!clock.wall(other_boot).certainty.is_fixed());
}

#[test]
fn steps_forward_and_back_by_hours_keep_the_order_and_end_with_the_right_times() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(1), 1_700_000_000_000);
    let mut stamps = Vec::new();
    // Wrong by two hours, then by minus three, then right.
    for unix_ms in [1_800_007_200_000, 1_799_989_200_000 + 10_000, 1_800_000_020_000] {
        stamps.push(clock.now());
        clock.learn(Fix { at: clock.now(), unix_ms });
        let times: Vec<i64> = stamps.iter().map(|stamp| clock.wall(*stamp).unix_ms).collect();
        assert!(times.is_sorted(), "{times:?}");
        time.advance(Duration::from_secs(10));
    }
    let times: Vec<i64> = stamps.iter().map(|stamp| clock.wall(*stamp).unix_ms).collect();
    assert_eq!(times, [1_800_000_000_000, 1_800_000_010_000, 1_800_000_020_000]);
}

#[test]
fn a_boot_that_never_had_a_fix_keeps_its_order_and_its_bracket() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time.clone(), Boot(3), 1_700_000_500_000);
    clock.learn(Fix::floor(Boot(1), 1_700_000_000_000));
    clock.learn(Fix::floor(Boot(2), 1_700_000_060_000));
    let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
    let moments = [at(1, 5), at(1, 50), at(2, 1), at(2, 400), at(3, 0)];
    let times: Vec<Wall> = moments.iter().map(|stamp| clock.wall(*stamp)).collect();
    assert!(times.iter().map(|wall| wall.unix_ms).is_sorted(), "{times:?}");
    assert!(times.iter().all(|wall| wall.certainty == Certainty::Floor));
    clock.learn(Fix { at: at(3, 100), unix_ms: 1_700_000_300_000 });
    let began = 1_700_000_200_000;
    assert_eq!(clock.wall(at(1, 5)), Wall { unix_ms: 1_700_000_005_000, certainty: Certainty::Until(began) });
    assert_eq!(clock.wall(at(2, 400)).unix_ms, began, "it was over when the next boot began");
}

#[test]
fn a_boot_without_a_fix_ended_when_the_next_one_began_by_the_fix_that_corrected_that() {
    let (time, noon, day) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 86_400_000);
    let clock = Clock::new(time.clone(), Boot(2), noon - 9 * day);
    let sample = Stamp { boot: Boot(1), micros: 5 };
    let learn = |unix_ms| clock.learn(Fix { at: clock.now(), unix_ms });
    time.advance(Duration::from_secs(100));
    learn(noon + day + 100_000); // by a battery that was a day ahead
    assert_eq!(clock.wall(sample).until_ms(), Some(noon + day));
    time.advance(Duration::from_secs(100));
    learn(noon + 200_000);
    assert_eq!((clock.wall(sample).until_ms(), clock.age(sample).as_secs()), (Some(noon), 200));
}

#[test]
fn the_latest_fix_of_a_boot_is_all_that_is_kept_of_it_in_whatever_order_they_come() {
    let clock = Clock::new(Arc::new(FakeTime::default()), Boot(1), 0);
    let fix = |micros| Fix { at: Stamp { boot: Boot(1), micros }, unix_ms: 1_800_000_000_000 - micros };
    for minute in [3, 1, 1000, 2] {
        clock.learn(fix(minute * 60_000_000));
    }
    assert_eq!(clock.wall(fix(60_000_000_000).at).unix_ms, fix(60_000_000_000).unix_ms);
    assert_eq!(clock.known.read().expect("no panic").fixes.len(), 1);
}

#[test]
fn a_restart_within_a_boot_goes_on_with_the_floor_of_that_boot() {
    let time = Arc::new(FakeTime::default());
    let before = Clock::new(time.clone(), Boot(1), 1_700_000_000_000);
    let floor = before.floor().expect("it is new");
    time.advance(Duration::from_secs(36_000));
    let sample = before.now();
    let seen = before.wall_now().unix_ms;
    let after = Clock::new(time, Boot(1), seen);
    after.learn(floor);
    assert_eq!((after.floor(), after.wall(sample)), (None, before.wall(sample)));
}

#[test]
fn a_boot_that_gets_its_number_late_has_the_times_and_ages_it_would_have_had_from_the_beginning() {
    let (time, noon, hour) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 3_600_000);
    let clock = Clock::new(time.clone(), Boot(0), 1_700_000_000_000);
    clock.learn(clock.floor().expect("it is new"));
    time.advance(Duration::from_secs(10));
    let early = clock.now();
    let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
    let stored = [Fix { at: at(5, 3), unix_ms: noon }, Fix::floor(Boot(6), noon + hour)];
    clock.resume(Boot(7), Seen::vouched(noon + 2 * hour), &stored);
    assert_eq!(clock.wall(at(5, 4)), Wall { unix_ms: noon + 1000, certainty: Certainty::Fixed });
    let floor = Fix::floor(Boot(7), noon + 2 * hour);
    assert_eq!((clock.floor(), clock.wall(early).unix_ms), (Some(floor), noon + 2 * hour + 10_000));
    clock.learn(floor);
    assert_eq!((clock.numbered(early), clock.wall(at(7, 10))), (at(7, 10), clock.wall(early)));
    // A fix of stamps without a number is one of this boot, for what is stored of it as well; it ends the boot before.
    clock.learn(Fix { at: clock.now(), unix_ms: noon + 3 * hour + 10_000 });
    let fixed = Wall { unix_ms: noon + 3 * hour + 10_000, certainty: Certainty::Fixed };
    assert_eq!((clock.wall(early), clock.wall(at(7, 10))), (fixed, fixed));
    assert_eq!(clock.wall(at(6, 1)).certainty, Certainty::Until(noon + 3 * hour));
    time.advance(Duration::from_secs(60));
    assert_eq!((clock.age(at(7, 10)).as_secs(), clock.age(early).as_secs()), (60, 60));
    assert_eq!(clock.age(at(5, 3)).as_secs(), 3 * 3600 + 70);
}

#[test]
fn a_fix_from_before_a_boot_got_its_number_stays_and_the_floor_of_that_boot_is_the_one_stored_first() {
    let time = Arc::new(FakeTime::default());
    let clock = Clock::new(time, Boot(0), 1_700_000_000_000);
    let fix = Fix { at: clock.now(), unix_ms: 1_800_000_000_000 };
    clock.learn(fix);
    clock.resume(Boot(7), Seen::default(), &[Fix::floor(Boot(7), 1_790_000_000_000)]);
    assert_eq!((clock.floor(), clock.is_fixed()), (None, true));
    assert_eq!(clock.wall(clock.numbered(fix.at)).unix_ms, fix.unix_ms);
}

#[test]
fn what_is_of_an_earlier_boot_is_as_old_as_is_known_and_never_younger_than_this_boot() {
    let (time, noon, hour) = (Arc::new(FakeTime::default()), 1_800_000_000_000, 3_600_000);
    let clock = Clock::new(time.clone(), Boot(3), noon);
    let at = |boot, seconds: i64| Stamp { boot: Boot(boot), micros: seconds * 1_000_000 };
    let seconds = |stamp| clock.age(stamp).as_secs();
    time.advance(Duration::from_secs(100));
    assert_eq!((seconds(at(3, 40)), seconds(at(2, 7)), seconds(at(1, 7))), (60, 100, 100));
    assert_eq!((seconds(at(0, 7)), seconds(at(4, 7)), seconds(at(3, 101))), (0, 0, 0), "no earlier boot at all");
    clock.learn(Fix { at: at(2, 0), unix_ms: noon });
    assert_eq!(seconds(at(2, 7)), 100, "nobody vouches for the clock of this boot");
    clock.learn(Fix { at: at(3, 0), unix_ms: noon + hour });
    assert_eq!((seconds(at(2, 7)), seconds(at(3, 40))), (3600 - 7 + 100, 60));
    assert_eq!(seconds(at(1, 7)), 3600 + 100, "it was over when the next one began");
}
