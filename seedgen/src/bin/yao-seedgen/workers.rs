//! Work on many shards at once: one thread per core, a progress bar, and the first error ends it.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use yao_protocol::ShardId;

/// Runs `work` on every shard with up to `threads` threads; the results are in order of `shards`.
///
/// # Errors
/// The first error; shards not yet begun are left out then.
pub(crate) fn run<T: Send>(
    title: &'static str,
    shards: &[ShardId],
    threads: usize,
    work: impl Fn(ShardId) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let progress = progress_bar(title, shards.len());
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(shards.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(shards.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(shard) = shards.get(position) else { return };
                    let result = work(*shard);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    results
                        .lock()
                        .expect("no thread panics with the lock")
                        .push((position, result));
                    progress.inc(1);
                }
            });
        }
    });
    progress.finish_and_clear();
    let mut results = results.into_inner().expect("no thread panics with the lock");
    // Errors first, so that the one reported does not depend on which thread was quicker to push.
    results.sort_by_key(|(position, result)| (result.is_ok(), *position));
    results.into_iter().map(|(_, result)| result).collect()
}

/// Drawn on standard error, and only when that is a terminal.
fn progress_bar(title: &'static str, shards: usize) -> ProgressBar {
    let template = "{prefix} {wide_bar} {pos}/{len} shards, {eta} left";
    let style = ProgressStyle::with_template(template).expect("a fixed, valid template");
    ProgressBar::new(shards as u64).with_style(style).with_prefix(title)
}
