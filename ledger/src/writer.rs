//! The one thread that writes. Batches that wait together share one transaction; an answer is
//! signed only after its commit. The first failed write ends the thread, and so the process: what
//! is on disk is read by the next start, never guessed (M3).

use crate::{LedgerError, state::Limits, store::Store};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;
use yao_protocol::{
    KeyId, WallTime,
    keys::SignKey,
    settlement::{Answer, Batch},
};

/// Batches that wait for the writer. Beyond them the front says 503 (`Retry-After`).
const QUEUE_BATCHES: usize = 64;
/// Batches that share one transaction: 8,192 opens, some 100 ms of a slow disk.
const TRANSACTION_BATCHES: usize = 32;

/// A batch to settle: its signature is good, and each of its opens is judged.
#[derive(Debug)]
pub struct Job {
    /// The batch.
    pub batch: Batch,
    /// The bytes it came in, for the digest in the answer.
    pub bytes: Vec<u8>,
    /// Which of its opens are genuine.
    pub genuine: Vec<bool>,
    /// Gets the signed answer; dropped when there is none.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// There is no room, or no writer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What the writer has done since start.
#[derive(Debug, Default)]
pub struct WriterCounters {
    /// Transactions committed.
    pub transactions: AtomicU64,
    /// Batches settled.
    pub batches: AtomicU64,
    /// Opens settled.
    pub opens: AtomicU64,
}

/// The way to the writer; cheap to clone. When the last one is dropped the thread ends.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: SyncSender<Job>,
    /// What it has done.
    pub counters: Arc<WriterCounters>,
}

impl Writer {
    /// Starts the thread. `stopped` is told when it ends by itself: a write failed.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn start(
        store: Store,
        limits: Limits,
        key: SignKey,
        key_id: KeyId,
        stopped: oneshot::Sender<()>,
    ) -> Result<(Self, JoinHandle<Result<(), LedgerError>>), LedgerError> {
        let (queue, jobs) = sync_channel(QUEUE_BATCHES);
        let counters = Arc::<WriterCounters>::default();
        let mut run = Run { store, limits, key, key_id, counters: Arc::clone(&counters) };
        let thread = thread::Builder::new()
            .name("yao-ledger-writer".to_owned())
            .spawn(move || {
                let result = run.run(&jobs);
                // Nobody listens any more when the service ends first.
                stopped.send(()).ok();
                result
            })
            .map_err(|error| LedgerError::System { doing: "start the writer".into(), error })?;
        Ok((Self { queue, counters }, thread))
    }

    /// Hands a batch over; never waits.
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub fn submit(&self, job: Job) -> Result<(), Busy> {
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Busy,
        })
    }
}

struct Run {
    store: Store,
    limits: Limits,
    key: SignKey,
    key_id: KeyId,
    counters: Arc<WriterCounters>,
}

impl Run {
    fn run(&mut self, jobs: &Receiver<Job>) -> Result<(), LedgerError> {
        while let Ok(first) = jobs.recv() {
            let mut together = vec![first];
            together.extend(jobs.try_iter().take(TRANSACTION_BATCHES - 1));
            self.settle(together)?;
        }
        Ok(())
    }

    fn settle(&mut self, jobs: Vec<Job>) -> Result<(), LedgerError> {
        let judged: Vec<Judged<'_>> = jobs
            .iter()
            .map(|job| Judged { batch: &job.batch, bytes: &job.bytes, genuine: &job.genuine })
            .collect();
        let signer = (&self.key, self.key_id);
        let answers = settle(&mut self.store, self.limits, wall_now(), signer, &judged);
        let answers = answers.map_err(|error| {
            tracing::error!(%error, "a transaction failed: nothing of it is acknowledged");
            LedgerError::WriterStopped
        })?;
        let count = |counter: &AtomicU64, more: usize| {
            counter.fetch_add(more as u64, Ordering::Relaxed);
        };
        count(&self.counters.transactions, 1);
        count(&self.counters.batches, jobs.len());
        for (job, answer) in jobs.into_iter().zip(answers) {
            count(&self.counters.opens, job.genuine.len());
            // A node that left asks again and hears the same.
            job.answer.send(answer).ok();
        }
        Ok(())
    }
}

/// A batch whose signature is good, with the bytes it came in and a verdict on each open.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The batch.
    pub batch: &'a Batch,
    /// Its bytes, for the digest in the answer.
    pub bytes: &'a [u8],
    /// Which of its opens are genuine.
    pub genuine: &'a [bool],
}

/// Settles `judged` in one transaction and signs an answer to each, after the commit.
///
/// # Errors
/// Those of SQLite: nothing is answered then.
pub fn settle(
    store: &mut Store,
    limits: Limits,
    now: WallTime,
    (key, key_id): (&SignKey, KeyId),
    judged: &[Judged<'_>],
) -> rusqlite::Result<Vec<Vec<u8>>> {
    let batches: Vec<(&Batch, &[bool])> =
        judged.iter().map(|judged| (judged.batch, judged.genuine)).collect();
    let settled = store.settle(limits, now, &batches)?;
    let sign = |(judged, results): (&Judged<'_>, _)| {
        Answer::to_batch(judged.batch, judged.bytes, now, key_id, results).encode(key)
    };
    Ok(judged.iter().zip(settled).map(sign).collect())
}

/// The only reading of the clock: when something is settled. No rule depends on it.
fn wall_now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
