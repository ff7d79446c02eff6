//! Bounded queues into a shard thread, which sleeps in its poller rather than on the queue.

use crate::wake::WakeFlag;
use mio::Waker;
use std::sync::{
    Arc,
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
    /// None where the owner looks by himself.
    waker: Option<Waker>,
    flag: WakeFlag,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The queue is full.
    Full,
    /// The thread that read it has ended.
    Gone,
}

/// A queue of at most `capacity` messages whose receiver is woken by `waker`.
#[must_use]
pub fn inbox<T>(capacity: usize, waker: Waker) -> (Outlet<T>, Inbox<T>) {
    with_waker(capacity, Some(waker))
}

/// A queue of at most `capacity` messages whose receiver is woken by nobody: he looks by himself.
#[must_use]
pub fn unwoken<T>(capacity: usize) -> (Outlet<T>, Inbox<T>) {
    with_waker(capacity, None)
}

fn with_waker<T>(capacity: usize, waker: Option<Waker>) -> (Outlet<T>, Inbox<T>) {
    let (sender, receiver) = sync_channel(capacity);
    let wake = Arc::new(Wake { waker, flag: WakeFlag::new() });
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
    /// The message was not taken: what to do then is the sender's decision.
    pub fn send(&self, message: T) -> Result<(), NotTaken> {
        match self.queue.try_send(message) {
            Ok(()) => {
                if self.wake.flag.raise() {
                    // A waker fails only when its poller is gone, and then nobody listens.
                    self.wake.waker.as_ref().map(Waker::wake);
                }
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(NotTaken::Full),
            Err(TrySendError::Disconnected(_)) => Err(NotTaken::Gone),
        }
    }
}

impl<T> Inbox<T> {
    /// The next message, if there is one. Drain until `None` after each wake-up: before that no
    /// other comes.
    pub fn next(&self) -> Option<T> {
        self.queue.try_recv().ok().or_else(|| {
            self.wake.flag.lower();
            self.queue.try_recv().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_not_a_thread_that_ended() {
        let poll = mio::Poll::new().expect("a poller");
        let waker = Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let (outlet, inbox) = inbox(1, waker);
        assert_eq!(outlet.send(1), Ok(()));
        assert_eq!(outlet.send(2), Err(NotTaken::Full));
        assert_eq!(inbox.next(), Some(1));
        drop(inbox);
        assert_eq!(outlet.send(3), Err(NotTaken::Gone));
    }
}
