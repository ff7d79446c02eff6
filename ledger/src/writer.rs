//! The one thread that writes. Batches that wait together share one transaction, and so do requests
//! for grants; an answer is signed only after its commit. The first failed write ends the thread,
//! and so the process: what is on disk is read by the next start, never guessed (M3).

use crate::{
    LedgerError,
    clock::Clock,
    grants::{GrantPolicy, answer},
    reclaim::{Refused, VoidPolicy},
    state::Limits,
    store::{Store, reclaim::Ground, seals::Kept},
};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;
use yao_protocol::{
    KeyId, WallTime,
    grant::GrantRequest,
    keys::SignKey,
    seal::Seal,
    settlement::{Answer, Batch},
    void::{VoidAnswer, VoidRequest},
};

/// Jobs that wait for the writer. Beyond them the front says 503 (`Retry-After`).
const QUEUE_JOBS: usize = 64;
/// Jobs that share one transaction: 8,192 opens, some 100 ms of a slow disk.
const TRANSACTION_JOBS: usize = 32;

/// What the writer is asked for. The answer is dropped when there is none.
#[derive(Debug)]
pub enum Job {
    /// Settle a batch.
    Batch(BatchJob),
    /// Rule on a request for a grant.
    Grant(GrantJob),
    /// Keep a seal.
    Seal(SealJob),
    /// Take packets back.
    Void(VoidJob),
}

/// A batch to settle: its signature is good, and each of its opens is judged.
#[derive(Debug)]
pub struct BatchJob {
    /// The batch.
    pub batch: Batch,
    /// The bytes it came in, for the digest in the answer.
    pub bytes: Vec<u8>,
    /// Which of its opens are genuine.
    pub genuine: Vec<bool>,
    /// Gets the signed answer.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// A request for a grant, whose signature is good.
#[derive(Debug)]
pub struct GrantJob {
    /// The request.
    pub request: GrantRequest,
    /// BLAKE3 of the bytes it came in.
    pub digest: [u8; 32],
    /// Whether the plan has such a section.
    pub planned: bool,
    /// Gets the signed answer.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// A seal to keep: its signature is good, and it fits the plan.
#[derive(Debug)]
pub struct SealJob {
    /// The seal.
    pub seal: Seal,
    /// The bytes it came in.
    pub bytes: Vec<u8>,
    /// What it is judged by.
    pub ground: Ground,
    /// Told what became of it.
    pub answer: oneshot::Sender<Kept>,
}

/// A request to void packets: its signature is good, and the plan has these packets.
#[derive(Debug)]
pub struct VoidJob {
    /// The request.
    pub request: VoidRequest,
    /// What it is judged by.
    pub ground: Ground,
    /// Gets the signed answer, or why there is none.
    pub answer: oneshot::Sender<Result<Vec<u8>, Refused>>,
}

/// By which rules it decides, and with which key it signs.
#[derive(Debug)]
pub struct Rules {
    /// Per user.
    pub limits: Limits,
    /// Of grants.
    pub grants: GrantPolicy,
    /// Of packets that are taken back.
    pub voids: VoidPolicy,
    /// Settlement's key.
    pub key: SignKey,
    /// Its name.
    pub key_id: KeyId,
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
    /// Requests for grants ruled on.
    pub grants: AtomicU64,
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
        mut store: Store,
        rules: Rules,
        stopped: oneshot::Sender<()>,
    ) -> Result<(Self, JoinHandle<Result<(), LedgerError>>), LedgerError> {
        let (queue, jobs) = sync_channel(QUEUE_JOBS);
        let counters = Arc::<WriterCounters>::default();
        let clock = Clock::start();
        let grants = store.bring_grants_back(clock.wall()).map_err(self::stopped)?;
        let reclaim = store.bring_reclaim_back(clock.wall()).map_err(self::stopped)?;
        if grants + reclaim > 0 {
            tracing::warn!(
                event = "clock_was_ahead",
                grants,
                reclaim,
                "ends of grants, and when seals and requests to void came, were brought back"
            );
        }
        let mut run = Run { store, rules, clock, counters: Arc::clone(&counters) };
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

    /// Hands a job over; never waits.
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
    rules: Rules,
    clock: Clock,
    counters: Arc<WriterCounters>,
}

impl Run {
    fn run(&mut self, jobs: &Receiver<Job>) -> Result<(), LedgerError> {
        while let Ok(first) = jobs.recv() {
            let more = jobs.try_iter().take(TRANSACTION_JOBS - 1);
            let (mut batches, mut grants) = (Vec::new(), Vec::new());
            for job in [first].into_iter().chain(more) {
                match job {
                    Job::Batch(job) => batches.push(job),
                    Job::Grant(job) => grants.push(job),
                    // Both are judged by rows and grants: nothing overtakes what came first.
                    Job::Seal(job) => {
                        self.decide(mem::take(&mut grants), mem::take(&mut batches))?;
                        self.keep_seal(job)?;
                    }
                    Job::Void(job) => {
                        self.decide(mem::take(&mut grants), mem::take(&mut batches))?;
                        self.void(job)?;
                    }
                }
            }
            self.decide(grants, batches)?;
        }
        Ok(())
    }

    /// Grants first: who waits for one issues nothing meanwhile.
    fn decide(&mut self, grants: Vec<GrantJob>, batches: Vec<BatchJob>) -> Result<(), LedgerError> {
        self.grant(grants)?;
        self.settle(batches)
    }

    fn grant(&mut self, jobs: Vec<GrantJob>) -> Result<(), LedgerError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let (now, policy) = (self.clock.wall(), self.rules.grants);
        let asked: Vec<_> =
            jobs.iter().map(|job| (&job.request, job.digest, job.planned)).collect();
        let ruled = self.store.grant(policy, now, &asked).map_err(stopped)?;
        count(&self.counters.transactions, 1);
        count(&self.counters.grants, jobs.len());
        for (job, (verdict, section)) in jobs.into_iter().zip(ruled) {
            let GrantJob { request, digest, .. } = job;
            tracing::info!(
                event = "grant",
                shard = request.shard.0,
                wave = request.wave.0,
                node = request.node.as_str(),
                claim = request.claim.name(),
                ?verdict,
                id = section.as_ref().map_or(0, |section| section.id),
                hi = section.as_ref().map_or(0, |section| section.hi),
            );
            let (asked, said) = ((&request, digest), (verdict, section.as_ref()));
            let answer = answer(policy, now, self.rules.key_id, asked, said);
            // A node that left asks again and hears how it stands.
            job.answer.send(answer.encode(&self.rules.key)).ok();
        }
        Ok(())
    }

    fn settle(&mut self, jobs: Vec<BatchJob>) -> Result<(), LedgerError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let judged: Vec<Judged<'_>> = jobs
            .iter()
            .map(|job| Judged { batch: &job.batch, bytes: &job.bytes, genuine: &job.genuine })
            .collect();
        let (now, signer) = (self.clock.wall(), (&self.rules.key, self.rules.key_id));
        let answers = settle(&mut self.store, self.rules.limits, now, signer, &judged);
        let answers = answers.map_err(stopped)?;
        count(&self.counters.transactions, 1);
        count(&self.counters.batches, jobs.len());
        for (job, answer) in jobs.into_iter().zip(answers) {
            count(&self.counters.opens, job.genuine.len());
            // A node that left asks again and hears the same.
            job.answer.send(answer).ok();
        }
        Ok(())
    }

    fn keep_seal(&mut self, job: SealJob) -> Result<(), LedgerError> {
        let SealJob { seal, bytes, ground, answer } = job;
        let (now, policy) = (self.clock.wall(), self.rules.voids);
        let kept = self.store.keep_seal(now, policy, &ground, (&seal, &bytes)).map_err(stopped)?;
        count(&self.counters.transactions, 1);
        let (shard, generation) = (seal.shard.0, seal.generation);
        tracing::info!(event = "seal", shard, generation, epoch = seal.epoch.0, ?kept);
        answer.send(kept).ok();
        Ok(())
    }

    fn void(&mut self, job: VoidJob) -> Result<(), LedgerError> {
        let VoidJob { request, ground, answer } = job;
        let (now, policy) = (self.clock.wall(), self.rules.voids);
        let voided = self.store.void(now, policy, &ground, &request).map_err(stopped)?;
        count(&self.counters.transactions, 1);
        let voided = voided.map(|(voided_at, void)| VoidAnswer {
            request,
            voided_at,
            key_id: self.rules.key_id,
            void,
        });
        let (shard, generation) = (request.shard.0, request.generation);
        let packets = voided.as_ref().map(|answer| answer.packets().count());
        tracing::info!(event = "void", shard, generation, child = request.child, ?packets);
        // Whoever left asks again and hears the same.
        answer.send(voided.map(|answer| answer.encode(&self.rules.key))).ok();
        Ok(())
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

fn stopped(error: rusqlite::Error) -> LedgerError {
    tracing::error!(%error, "a transaction failed: nothing of it is acknowledged");
    LedgerError::WriterStopped
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

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
