//! Who comes in makes work: a TLS handshake takes about a millisecond of this thread, ten on a slow box, in one piece. After a
//! power cut hundreds of clients begin theirs at once, and whoever is inside already would have to wait for all of them.
//!
//! So handshakes go in single file: a step of one, then everybody else who is ready or has just been written to, then a step
//! of the next. A handshake that waits for its client stands in nobody's way. Who has begun goes before who has not: in a crowd
//! somebody is let in from the start, and no work is spent on those whom a limit of time sends away all the same.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Semaphore;

use crate::model::lock::Hold as _;

/// Of all doors.
#[derive(Debug, Clone)]
pub(super) struct Turnstile {
    /// One, for the first step.
    newcomer: Arc<Semaphore>,
    /// One, for each step.
    turn: Arc<Semaphore>,
}

impl Turnstile {
    pub(super) fn new() -> Self {
        Self { newcomer: Arc::new(Semaphore::new(1)), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Does the work, each step of it (what it does between two waits) in its turn. Cancel-safe if the work is.
    pub(super) async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut newcomer = Some(self.newcomer.acquire().await); // neither is ever closed
        loop {
            let turn = self.turn.acquire().await;
            let step = work.as_mut().poll(&mut Context::from_waker(&waker));
            // The runtime asks its sockets before it comes back here, as it does not after a mere turn of its queue.
            tokio::task::yield_now().await;
            drop((turn, newcomer.take()));
            if let Poll::Ready(result) = step {
                return result;
            }
            std::future::poll_fn(|context| bell.rung(context)).await;
        }
    }
}

/// Rung when the work can go on; kept for a task that does something else just then.
#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    fn rung(&self, context: &Context<'_>) -> Poll<()> {
        *self.task.hold() = Some(context.waker().clone());
        if self.has_rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        if let Some(task) = self.task.hold().take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::task::JoinSet;

    use super::*;

    /// Three hundred who come in at once, in three steps each, and how many steps they have taken together: of each when it
    /// is through, and of all as they go.
    fn crowd() -> (JoinSet<usize>, Arc<AtomicUsize>) {
        let (turnstile, steps) = (Turnstile::new(), Arc::new(AtomicUsize::new(0)));
        let mut all = JoinSet::new();
        for _ in 0..300 {
            let (turnstile, steps) = (turnstile.clone(), Arc::clone(&steps));
            all.spawn(async move {
                let long = async {
                    for _ in 0..3 {
                        steps.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                };
                turnstile.pass(long).await;
                steps.load(Ordering::Relaxed)
            });
        }
        (all, steps)
    }

    #[tokio::test]
    async fn hundreds_who_come_in_at_once_take_a_step_or_two_between_two_turns_of_the_others() {
        let (mut all, steps) = crowd();
        // A task as they are: the test's own turn comes more seldom.
        let others = tokio::spawn(async move {
            let (mut before, mut most) = (0, 0);
            while before < 900 {
                tokio::task::yield_now().await;
                let now = steps.load(Ordering::Relaxed);
                most = most.max(now - before);
                before = now;
            }
            most
        });
        let most = others.await.expect("no panic");
        assert!(most <= 2, "{most} steps between two turns");
        while all.join_next().await.is_some() {}
    }

    #[tokio::test]
    async fn whoever_is_written_to_meanwhile_has_a_turn_between_two_steps() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let (mut all, steps) = crowd();
        let (mut one, mut other) = tokio::net::UnixStream::pair().expect("a pair of sockets");
        let inside = tokio::spawn(async move {
            let mut byte = [0];
            while other.read_exact(&mut byte).await.is_ok() && other.write_all(&byte).await.is_ok() {}
        });
        let (mut before, mut most, mut byte) = (0, 0, [0]);
        while before < 900 {
            one.write_all(&byte).await.expect("taken");
            one.read_exact(&mut byte).await.expect("answered");
            let now = steps.load(Ordering::Relaxed);
            most = most.max(now - before);
            before = now;
        }
        assert!(most <= 4, "{most} steps between a question and its answer");
        drop(one);
        inside.await.expect("no panic");
        while all.join_next().await.is_some() {}
    }

    #[tokio::test]
    async fn in_a_crowd_who_has_begun_goes_before_who_has_not() {
        let (mut all, _) = crowd();
        let first = all.join_next().await.expect("there are some").expect("no panic");
        assert!(first <= 12, "the first one was through after {first} steps of all");
        while all.join_next().await.is_some() {}
    }

    #[tokio::test]
    async fn who_waits_for_its_client_stands_in_nobodys_way() {
        let turnstile = Turnstile::new();
        let silent = turnstile.clone();
        let silent = tokio::spawn(async move { silent.pass(std::future::pending::<()>()).await });
        tokio::task::yield_now().await;
        turnstile.pass(tokio::time::sleep(std::time::Duration::from_millis(1))).await;
        assert!(!silent.is_finished());
        silent.abort();
        turnstile.pass(async {}).await;
    }
}
