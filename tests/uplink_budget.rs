//! Budgets, paths and schedules as an operator of the link sees them: bytes counted outside, stores that are reopened.

#[path = "support/store.rs"]
mod store;

use ironbridge::store::MeterRow;
use store::{opening, start, until};

fn row(path: &str, number: i64, bytes: u64) -> MeterRow {
    MeterRow {
        uplink: "cloud".into(),
        path: path.into(),
        period: 0,
        number,
        bytes,
        bound: bytes + 7,
        told: 1,
        behind: None,
    }
}

#[tokio::test]
async fn what_was_counted_is_there_after_a_restart_and_old_days_are_forgotten() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(Vec::new()));
    for number in 100..200 {
        running.store.save_meters(vec![row("", number, 5), row("lte", number, 3)]);
        running.store.save_meters(vec![row("", number, 10)]);
    }
    running.close().await;
    let running = start(opening(home.path()));
    let rows = running.store.meters("cloud").expect("opened");
    let newest: Vec<_> = rows.iter().filter(|row| row.number == 199).cloned().collect();
    assert_eq!(newest, [row("", 199, 10), row("lte", 199, 3)]);
    assert_eq!(rows.iter().map(|row| row.number).min(), Some(199 - 62));
    assert_eq!(running.store.meters("another"), Some(Vec::new()));
    running.close().await;
}

#[tokio::test]
async fn a_store_of_a_version_that_knew_no_meters_opens_and_gets_them() {
    let home = tempfile::tempdir().expect("a directory");
    start(opening(home.path())).close().await;
    let meta = home.path().join("meta.db");
    let sql = |text: &str| rusqlite::Connection::open(&meta).expect("opens").execute_batch(text).expect("runs");
    sql("DROP TABLE meter");
    assert!(ironbridge::store::inspect::status(home.path()).is_ok(), "looking at it needs no table");
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(Vec::new()));
    running.store.save_meters(vec![row("", 1, 2)]);
    running.close().await;
    let running = start(opening(home.path()));
    assert_eq!(running.store.meters("cloud"), Some(vec![row("", 1, 2)]));
    running.close().await;
}

#[tokio::test]
async fn figures_reach_the_disk_beside_a_running_store_without_being_asked_for() {
    let home = tempfile::tempdir().expect("a directory");
    let running = start(opening(home.path()));
    running.store.save_meters(vec![row("", 42, 1000)]);
    until(|| ironbridge::store::survey(home.path()).is_ok_and(|seen| seen.meters == [row("", 42, 1000)])).await;
    running.close().await;
}
