//! Where passwords are checked: off the async threads, one at a time, behind a short queue.
//!
//! A check costs memory and a processor by intention, and whoever can open a connection can ask for one. So: passwords
//! that were right lately are known without a check (`memory`); failures slow down what follows (`brake`); few wait for the
//! one check that runs, and a crowd waits for itself (`queue`); and after a wrong password the desk rests for as long as the
//! check took, so that guessing never has more than half of one processor. Unknown names cost what known ones cost.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::brake::{Brake, network};
use super::memory::Memory;
use super::queue::{Queue, Turn};
use super::users::{NAME_BYTES_MAX, Users};
use crate::model::lock::Hold as _;

#[derive(Debug)]
pub(super) struct Desk {
    brake: Mutex<Brake>,
    memory: Mutex<Memory>,
    queue: Arc<Queue>,
    rests_until: Mutex<Instant>,
    salt: u64,
}

/// Who says to be whom, from where.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    pub name: &'a str,
    pub password: Option<&'a [u8]>,
    pub from: IpAddr,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// The user's; with the proof of the kept password.
    Right(u64),
    /// Not a user, or not the password.
    Wrong,
    /// Too many wait.
    Busy,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            brake: Mutex::default(),
            memory: Mutex::new(Memory::new()),
            queue: Arc::default(),
            rests_until: Mutex::new(Instant::now()),
            salt: rand::random(),
        }
    }

    /// Checks one login; takes as long as it must. Cancelled, a check that has begun goes on to its end without a word.
    pub(super) async fn check(&self, users: &Users, login: Login<'_>) -> Checked {
        let Login { name, password, from } = login;
        let user = users.find(name);
        if let (Some(user), Some(password)) = (user, password)
            && lock(&self.memory).remembers(user, password, Instant::now())
        {
            return Checked::Right(user.proof);
        }
        // Nobody has a longer one; what the brake keeps of it must not depend on what a stranger sends.
        let shared_name: Arc<str> = if name.len() > NAME_BYTES_MAX { "".into() } else { name.into() };
        let Some(pause) = lock(&self.brake).wait(from, &shared_name, Instant::now()) else {
            return Checked::Busy;
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let hash = user.map_or_else(|| users.decoy(name, self.salt), |user| Arc::clone(&user.hash));
        let given = password.unwrap_or_default().to_vec();
        let Some(turn) = self.queue.turn(network(from), &shared_name).await else {
            return Checked::Busy;
        };
        let Some(fits) = self.look(turn, move || hash.verify(&given)).await else {
            return Checked::Busy;
        };
        match (user, password) {
            (Some(user), Some(password)) if fits => {
                lock(&self.brake).succeeded(from, &shared_name, Instant::now());
                lock(&self.memory).remember(user, password, Instant::now());
                Checked::Right(user.proof)
            }
            _ => {
                lock(&self.brake).failed(from, &shared_name, Instant::now());
                Checked::Wrong
            }
        }
    }

    /// `None`: the process is ending.
    async fn look(&self, turn: Turn, verify: impl FnOnce() -> bool + Send + 'static) -> Option<bool> {
        let rests_until = *lock(&self.rests_until);
        tokio::time::sleep_until(rests_until).await;
        let began = std::time::Instant::now();
        // The turn goes along: should nobody wait for the answer any more, the next check still waits for this one.
        let (fits, turn) = tokio::task::spawn_blocking(move || (verify(), turn)).await.ok()?;
        if !fits {
            *lock(&self.rests_until) = Instant::now() + began.elapsed().min(Duration::from_secs(2));
        }
        drop(turn);
        Some(fits)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.hold()
}

#[cfg(test)]
mod tests {
    use super::super::queue::WAITING_MAX;
    use super::*;

    /// Cheap to check: "password".
    const LINE: &str = "hmi:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn login<'a>(name: &'a str, password: &'a [u8]) -> Login<'a> {
        Login { name, password: Some(password), from: HERE }
    }

    #[tokio::test]
    async fn the_right_password_is_right_and_nothing_else_is() {
        let (users, desk) = (Users::parse(LINE).0, Desk::new());
        assert!(matches!(desk.check(&users, login("hmi", b"password")).await, Checked::Right(_)));
        for (name, password) in [("hmi", &b"Password"[..]), ("hm", b"password"), ("", b""), ("hmi", b"")] {
            assert_eq!(desk.check(&users, login(name, password)).await, Checked::Wrong, "{name}");
        }
        let without = Login { name: "hmi", password: None, from: HERE };
        assert_eq!(desk.check(&users, without).await, Checked::Wrong);
    }

    #[tokio::test]
    async fn a_storm_of_clients_that_were_here_lately_costs_no_checks() {
        let (users, desk) = (Users::parse(LINE).0, Desk::new());
        let first = desk.check(&users, login("hmi", b"password")).await;
        // Nobody is checked any more: who comes in now is remembered.
        let _held = desk.queue.turn(HERE, "").await;
        for _ in 0..500 {
            assert_eq!(desk.check(&users, login("hmi", b"password")).await, first);
        }
        let unknown = desk.check(&users, login("hmi", b"passwort"));
        assert!(tokio::time::timeout(Duration::ZERO, unknown).await.is_err(), "that one waits");
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_to_be_one_is_not_kept() {
        let (users, desk) = (Users::parse(LINE).0, Desk::new());
        for number in 0..5 {
            let name = format!("{number}{}", "x".repeat(65_000));
            assert_eq!(desk.check(&users, login(&name, b"password")).await, Checked::Wrong);
        }
        let kept = format!("{:?}", lock(&desk.brake)).len();
        assert!(kept < 10_000, "{kept} characters");
    }

    #[tokio::test]
    async fn at_most_one_is_checked_and_few_wait() {
        let (users, desk) = (Arc::new(Users::parse(LINE).0), Arc::new(Desk::new()));
        let held = desk.queue.turn(HERE, "").await.expect("nobody is there");
        let mut crowd = tokio::task::JoinSet::new();
        for number in 0..WAITING_MAX + 20 {
            let (users, desk) = (Arc::clone(&users), Arc::clone(&desk));
            let from = IpAddr::from([10, 0, 0, u8::try_from(number).expect("few")]);
            crowd.spawn(async move {
                let name = number.to_string();
                desk.check(&users, Login { name: &name, password: Some(b"x"), from }).await
            });
        }
        for _ in 0..20 {
            let turned_away = crowd.join_next().await.expect("one").expect("no panic");
            assert_eq!(turned_away, Checked::Busy);
        }
        drop(held);
        while let Some(checked) = crowd.join_next().await {
            assert_eq!(checked.expect("no panic"), Checked::Wrong);
        }
        assert!(tokio::time::timeout(Duration::from_secs(5), desk.queue.turn(HERE, "")).await.is_ok());
    }
}
