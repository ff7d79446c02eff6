//! What the spool thread tells metrics and `/status`; written by it alone, read by everybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use yao_engine::spool::{Counters, Level, Spool};
use yao_protocol::WallTime;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since start, and the state of the spool at the last look.
        #[derive(Debug, Default)]
        pub struct SpoolCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// The watermark on disk: settlement has answered every record up to it.
            pub watermark: AtomicU64,
            /// Sequence of the next record.
            pub next_sequence: AtomicU64,
            /// Bytes of all segments.
            pub disk_bytes: AtomicU64,
            /// Bytes that can still be written, as the file system says; looked at once a second.
            pub space_bytes: AtomicU64,
            /// How full the spool is, thousandths of `spool.bytes_max`.
            pub filled_permille: AtomicU64,
            /// What that calls for: 0 nothing, 1 an alarm, 2 slower issuing, 3 refused opens.
            pub level: AtomicU64,
            /// Whether the spool's own directory has failed and the fallback serves.
            pub on_fallback: AtomicBool,
            /// Age of the oldest unsettled open that is in memory, microseconds; 0 without one.
            pub oldest_unsettled_us: AtomicU64,
            /// Dead letters that could not be written to their file.
            pub dead_letter_failures: AtomicU64,
            /// Places of damage found at start, and segments that went bad since.
            pub damage: AtomicU64,
            /// Bytes of a torn tail cut off at start.
            pub torn_bytes: AtomicU64,
            /// Whether a write or sync failed: no open is acknowledged until the next start (M3).
            pub fenced: AtomicBool,
        }

        impl SpoolCounters {
            fn publish_counts(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            /// Every number with its name; `_total` marks those that only grow.
            pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
                [
                    $((concat!(stringify!($name), "_total"), read(&self.$name)),)*
                    ("watermark", read(&self.watermark)),
                    ("next_sequence", read(&self.next_sequence)),
                    ("disk_bytes", read(&self.disk_bytes)),
                    ("space_bytes", read(&self.space_bytes)),
                    ("filled_permille", read(&self.filled_permille)),
                    ("level", read(&self.level)),
                    ("on_fallback", u64::from(self.is_on_fallback())),
                    ("oldest_unsettled_us", read(&self.oldest_unsettled_us)),
                    ("dead_letter_failures_total", read(&self.dead_letter_failures)),
                    ("damage", read(&self.damage)),
                    ("torn_bytes", read(&self.torn_bytes)),
                    ("fenced", u64::from(self.is_fenced())),
                ]
                .into_iter()
            }
        }
    };
}

counters! {
    /// Opens that became a record.
    accepted,
    /// Opens of a packet that had a record.
    duplicate,
    /// Receipts given.
    acknowledged,
    /// Refused: the ticket had expired.
    refused_expired,
    /// Refused: another user's packet, or another campaign's.
    refused_invalid,
    /// Refused: the agent's policy said no.
    refused_policy,
    /// Refused: the spool is full, or too many opens wait for the disk.
    refused_full,
    /// Refused: a write or sync failed.
    refused_fenced,
    /// Syncs that succeeded.
    syncs,
    /// Bytes of records synced.
    bytes,
    /// Records put into batches of the live lane.
    batched_live,
    /// Records put into batches of the backlog.
    batched_backlog,
    /// Records with a final answer from settlement.
    settled,
    /// Of these: paid now.
    applied,
    /// Of these: paid before.
    same,
    /// Of these: belongs to another user.
    conflict,
    /// Of these: over a limit of the campaign.
    over_limit,
    /// Of these: accepted after expiry.
    expired,
    /// Of these: not genuine.
    invalid,
    /// Of these: voided before their open came, the value given out again.
    reclaimed,
    /// Answers that settlement did not sign, or that did not match their batch.
    forged_answers,
    /// Batches that did not reach settlement.
    undelivered,
    /// Batches whose answer never came in time.
    overdue,
    /// Times that segments could not be read.
    read_failures,
}

impl SpoolCounters {
    /// Whether a write or sync failed.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Whether new opens are refused for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.level.load(Ordering::Relaxed) == Level::Full as u64
    }

    /// Whether the spool's own directory has failed.
    #[must_use]
    pub fn is_on_fallback(&self) -> bool {
        self.on_fallback.load(Ordering::Relaxed)
    }

    /// What somebody should look at although the spool serves, a line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.is_on_fallback() {
            let text = "spool: its own directory has failed and the fallback serves; mend that \
                        disk, then restart";
            warnings.push(text.to_owned());
        }
        let permille = self.filled_permille.load(Ordering::Relaxed);
        if self.level.load(Ordering::Relaxed) > Level::Normal as u64 {
            warnings.push(format!(
                "spool: {}.{} % full: settlement does not answer, or the disk has no room",
                permille / 10,
                permille % 10
            ));
        }
        warnings
    }

    /// Stores what the machine says now.
    pub(super) fn publish(
        &self,
        spool: &Spool,
        disk_bytes: u64,
        on_fallback: bool,
        wall: WallTime,
    ) {
        self.publish_counts(spool.counters());
        self.watermark.store(spool.settled_on_disk(), Ordering::Relaxed);
        self.next_sequence.store(spool.next_sequence(), Ordering::Relaxed);
        self.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.filled_permille.store(spool.fill_permille(), Ordering::Relaxed);
        self.level.store(spool.level() as u64, Ordering::Relaxed);
        self.on_fallback.store(on_fallback, Ordering::Relaxed);
        let age_us = spool.oldest_unsettled().map_or(0, |accepted| wall.us_since(accepted));
        self.oldest_unsettled_us.store(age_us, Ordering::Relaxed);
        self.fenced.store(spool.is_fenced(), Ordering::Relaxed);
    }
}
