//! kill -9 at random moments, while the store is opened, written, read, merged, evicted and closed at full speed:
//! everything promised is there, no number means two things, whoever has not acknowledged a record is owed it.
//!
//! `IRONBRIDGE_KILLS` sets the number of rounds (20; a long run: 500), `IRONBRIDGE_SEED` the seed.

use crate::subject;
use crate::witness;
use crate::workload;

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use subject::Subject;
use witness::{Audit, FRESH, Figures, Said};
use workload::Order;

/// Rounds on one store, before an empty one is begun.
const ROUNDS_OF_ONE: u64 = 10;

/// Not a test of its own: what is killed.
#[test]
fn the_process_that_is_killed() {
    if let Some(order) = Order::mine() {
        order.obey();
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn order(home: &Path, round: u64, random: &mut StdRng) -> Order {
    Order {
        dir: home.join("store"),
        socket: home.join("socket"),
        seed: random.random(),
        ids: (round + 1) * 1_000_000_000,
        steps: random.random_range(5..200),
        lives: u64::MAX,
        max_size: 3 * 1024 * 1024,
        auditor: true,
    }
}

#[test]
fn after_kill_9_everything_promised_is_there_and_owed_to_whoever_did_not_acknowledge_it() {
    let (rounds, seed) = (number("IRONBRIDGE_KILLS", 20), number("IRONBRIDGE_SEED", 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut home, mut said, mut figures) = (witness::place(), Said::default(), Figures::default());
    for round in 0..rounds {
        if round % ROUNDS_OF_ONE == 0 {
            (home, said) = (witness::place(), Said::default());
        }
        let order = order(home.path(), round, &mut random);
        // Every third is hit while it starts, the others anywhere.
        let after = if round % 3 == 0 { 0 } else { random.random_range(1..120_000) };
        let mut subject = Subject::run("kill::the_process_that_is_killed", &order);
        subject.has_said(after);
        std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        subject.kill(&mut said);
        let wrong: Vec<_> = said.other.iter().filter(|line| line.starts_with("wrong")).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let audit = Audit { id: FRESH + round * 100, ..Audit::of(&order.dir, order.max_size) };
        match runtime.block_on(audit.run(&said)) {
            Ok(more) => figures.add(&more),
            Err(complaints) => panic!("seed {seed}, round {round}: {}", complaints.join("\n  ")),
        }
    }
    eprintln!("{rounds} kills: {figures:?}");
    assert!(figures.promised > rounds * 100, "{figures:?}");
}
