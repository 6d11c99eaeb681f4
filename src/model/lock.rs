//! Locks that are taken whether or not somebody panicked while holding them.
//!
//! Whoever runs a task tells of its panic and begins it anew; the others go on with what it left. That is sound for data
//! that is whole after each statement, and no lock of this house guards any other.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A lock for one at a time.
pub trait Hold<T: ?Sized> {
    /// Waits for the lock; poisoned or not, it is had.
    fn hold(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> Hold<T> for Mutex<T> {
    fn hold(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock for many readers, or one writer.
pub trait HoldEither<T: ?Sized> {
    /// Waits for the lock, to read beside others.
    fn hold_read(&self) -> RwLockReadGuard<'_, T>;

    /// Waits for the lock, to write alone.
    fn hold_write(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T: ?Sized> HoldEither<T> for RwLock<T> {
    fn hold_read(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_write(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_lock_whose_holder_panicked_is_had_by_the_next() {
        let lock = Arc::new(Mutex::new(7));
        let held = Arc::clone(&lock);
        let holder = std::thread::spawn(move || {
            let _held = held.hold();
            panic!("while it is held");
        });
        assert!(holder.join().is_err() && lock.is_poisoned());
        assert_eq!(*lock.hold(), 7);
    }
}
