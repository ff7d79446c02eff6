//! Bounded queues into a shard thread, which sleeps in its poller rather than on the queue.

use mio::Waker;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

/// The sending side; cheap to clone.
#[derive(Debug)]
pub struct Outlet<T> {
    queue: SyncSender<T>,
    wake: Arc<Wake>,
}

/// The receiving side, owned by the thread that polls.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Receiver<T>,
    wake: Arc<Wake>,
}

#[derive(Debug)]
struct Wake {
    waker: Waker,
    /// Whether the owner has been woken and has not looked yet: one wake-up serves a whole burst.
    pending: AtomicBool,
}

/// The queue is full, or its thread has ended: the message comes back.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// A queue of at most `capacity` messages whose receiver is woken by `waker`.
#[must_use]
pub fn inbox<T>(capacity: usize, waker: Waker) -> (Outlet<T>, Inbox<T>) {
    let (sender, receiver) = sync_channel(capacity);
    let wake = Arc::new(Wake { waker, pending: AtomicBool::new(false) });
    (Outlet { queue: sender, wake: Arc::clone(&wake) }, Inbox { queue: receiver, wake })
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> Outlet<T> {
    /// Hands `message` over and wakes the owner if he sleeps; never waits.
    ///
    /// # Errors
    /// [`Full`] returns the message: what to do without room is the sender's decision.
    pub fn send(&self, message: T) -> Result<(), Full<T>> {
        match self.queue.try_send(message) {
            Ok(()) => {
                if !self.wake.pending.swap(true, Ordering::AcqRel) {
                    // A waker fails only when its poller is gone, and then nobody listens.
                    self.wake.waker.wake().ok();
                }
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                Err(Full(message))
            }
        }
    }
}

impl<T> Inbox<T> {
    /// The next message, if there is one. Drain until `None` after each wake-up.
    pub fn next(&self) -> Option<T> {
        // Cleared before looking: a message that arrives after the look wakes again.
        self.wake.pending.store(false, Ordering::Release);
        self.queue.try_recv().ok()
    }
}
