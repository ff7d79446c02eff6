//! The issuer's way to the money disk: messages in order, never a wait, and the word when issuing
//! must rest because the journal falls behind. Decides nothing about money.

use crate::{money_disk::ToMoneyDisk, telemetry::DiskCounters};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
};
use yao_engine::Timestamp;

/// Tickets may be ahead of the journal on disk by this much, ms. Usually they are by less than ten
/// (M8); a disk that stalls must not let seconds of them leave.
const LATE_MS_MAX: u64 = 250;

/// The way to the disk, with what did not fit its queue.
pub struct DiskOutlet {
    queue: SyncSender<ToMoneyDisk>,
    counters: Arc<DiskCounters>,
    held: VecDeque<ToMoneyDisk>,
    /// Journal records sent so far.
    journaled: u64,
    /// A record that is not known to be on disk, by count, and since when.
    oldest: Option<(u64, Timestamp)>,
    ended: bool,
}

impl DiskOutlet {
    /// The way into `queue`, whose thread tells in `counters` how many records it has synced.
    #[must_use]
    pub fn new(queue: SyncSender<ToMoneyDisk>, counters: Arc<DiskCounters>) -> Self {
        Self { queue, counters, held: VecDeque::new(), journaled: 0, oldest: None, ended: false }
    }

    /// Queues a message, or holds it here: this thread never waits for the disk, which may be
    /// waiting to hand this thread a reservation.
    pub fn send(&mut self, now: Timestamp, message: ToMoneyDisk) {
        if matches!(message, ToMoneyDisk::Journal(_)) {
            self.journaled += 1;
            self.oldest = self.oldest.or(Some((self.journaled, now)));
        }
        self.held.push_back(message);
        self.retry();
    }

    /// Hands over what was held, as far as there is room.
    pub fn retry(&mut self) {
        while let Some(message) = self.held.pop_front() {
            match self.queue.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.held.push_front(message);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => self.ended = true,
            }
        }
    }

    /// Whether issuing must rest: the queue is full, or a record has waited too long for its sync.
    pub fn must_hold(&mut self, now: Timestamp) -> bool {
        let synced = self.counters.journal_synced.value();
        if self.oldest.is_some_and(|(count, _)| synced >= count) {
            // The next one is a little older than now: it is judged that much too young.
            self.oldest = (self.journaled > synced).then_some((self.journaled, now));
        }
        let late = |(_, since)| now >= Timestamp::plus_ms(since, LATE_MS_MAX);
        !self.held.is_empty() || self.oldest.is_some_and(late)
    }

    /// The disk's thread is gone.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// At the end: everything that was decided reaches the disk, for its tickets have left.
    pub fn finish(&mut self) {
        for message in self.held.drain(..) {
            // Nothing waits for this thread any more, so it may wait for the disk.
            if self.queue.send(message).is_err() {
                tracing::error!(event = "journal_incomplete", "the money-disk thread has ended");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use yao_protocol::{WallTime, WaveIndex, journal::Event};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ns(ms * 1_000_000)
    }

    fn event() -> ToMoneyDisk {
        let (wave, at) = (WaveIndex(0), WallTime(1));
        ToMoneyDisk::Journal(Event::Reserve { wave, high: 1, at })
    }

    #[test]
    fn m8_a_journal_that_stalls_makes_issuing_rest() {
        let (sender, _queue) = sync_channel(100);
        let counters = Arc::<DiskCounters>::default();
        let mut outlet = DiskOutlet::new(sender, Arc::clone(&counters));
        outlet.send(at(0), event());
        outlet.send(at(5), event());
        assert!(!outlet.must_hold(at(249)));
        assert!(outlet.must_hold(at(250)), "the first waits for its sync since 250 ms");
        counters.journal_synced.set(1);
        assert!(!outlet.must_hold(at(260)), "the second is judged anew");
        counters.journal_synced.set(2);
        assert!(!outlet.must_hold(at(9_000)), "everything is on disk");
    }

    #[test]
    fn a_full_queue_keeps_order_and_loses_nothing() {
        let (sender, queue) = sync_channel(1);
        let mut outlet = DiskOutlet::new(sender, Arc::default());
        let reserve = |high| ToMoneyDisk::Reserve { wave: WaveIndex(0), first: 0, high };
        for high in 1..=3 {
            outlet.send(at(0), reserve(high));
        }
        assert!(outlet.must_hold(at(0)));
        let mut seen = Vec::new();
        for _ in 0..3 {
            match queue.try_recv() {
                Ok(ToMoneyDisk::Reserve { high, .. }) => seen.push(high),
                other => panic!("{other:?}"),
            }
            outlet.retry();
        }
        assert_eq!(seen, [1, 2, 3]);
        assert!(!outlet.must_hold(at(0)));
        drop(queue);
        outlet.send(at(0), reserve(4));
        assert!(outlet.has_ended());
    }
}
