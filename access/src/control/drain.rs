//! The end of a node in order: newcomers are turned away, everybody is asked to leave at the stated
//! pace, and what became of it is what the process says when it ends.

use super::Control;
use crate::{
    config::DrainConfig,
    messages::{ToIssuer, ToShard},
    telemetry::ShardCounters,
};
use serde_json::{Value, json};
use std::{fmt, sync::Arc, time::Duration};
use yao_engine::Timestamp;

/// While draining, this often it is looked whether everybody has left.
const LOOK: Duration = Duration::from_millis(20);

/// How a node ended; the exit code of the process says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Sessions that were asked to leave.
    pub asked: u64,
    /// Of those, sessions that did not leave in the time they were given, and were cut off.
    pub overstayed: u64,
    /// Sessions that a thread which broke during the drain took along, asked or not.
    pub cut: u64,
    /// Sessions that were still open when the drain ended before its time: at its deadline, or
    /// because somebody was in a hurry. They were cut off, asked or not.
    pub remaining: u64,
}

impl Ended {
    /// After a drain that left `remaining` sessions, as far as the threads have told; `cut` as in
    /// [`Ended`].
    #[must_use]
    pub fn of(threads: &[Arc<ShardCounters>], cut: u64, remaining: u64) -> Self {
        let asked = |thread: &Arc<ShardCounters>| thread.sum("sessions_asked_to_leave_total");
        let overstayed =
            |thread: &Arc<ShardCounters>| thread.labelled("sessions_ended_total", "overstayed");
        Self {
            asked: threads.iter().map(asked).sum(),
            overstayed: threads.iter().map(overstayed).sum(),
            cut,
            remaining,
        }
    }

    /// Whether every client left by itself.
    #[must_use]
    pub const fn all_left(&self) -> bool {
        self.overstayed == 0 && self.cut == 0 && self.remaining == 0
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, overstayed, cut, remaining } = self;
        if *remaining > 0 {
            write!(f, "the drain ended before {remaining} clients had left; they were cut off")
        } else if *cut > 0 {
            write!(f, "{cut} clients were cut off when a thread broke, {overstayed} did not leave")
        } else if *overstayed > 0 {
            write!(f, "{overstayed} of {asked} clients did not leave when asked and were cut off")
        } else {
            write!(f, "every client left by itself")
        }
    }
}

/// What whoever asks for a drain may say; the configuration says the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// Clients asked to leave a second.
    pub per_second: Option<u32>,
    /// After this long the rest is cut, seconds.
    pub deadline_seconds: Option<u32>,
}

impl DrainOrder {
    /// What holds, as `configured` else. Returns clients a second, and seconds to the deadline.
    fn within(self, configured: &DrainConfig) -> (u32, u32) {
        (
            self.per_second.unwrap_or(configured.per_second),
            self.deadline_seconds.unwrap_or(configured.deadline_seconds),
        )
    }
}

impl Control {
    /// Asks for a drain; asked again, the newest order counts as a whole, and its deadline from the
    /// beginning of the drain. Returns what it comes to.
    ///
    /// # Errors
    /// An order that would never end.
    pub(super) fn order_drain(&self, order: DrainOrder) -> Result<String, String> {
        if order.per_second == Some(0) {
            return Err("per_second is 0: nobody would ever be asked; use at least 1".to_owned());
        }
        self.drain_order.store(order.into());
        self.stop.notify_one();
        let (per_second, deadline_seconds) = order.within(&self.config.load().drain);
        Ok(format!(
            "draining {} sessions at {per_second} a second; what is left after {deadline_seconds} \
             s is cut",
            self.registry.len(),
        ))
    }

    /// Asks everybody to leave and waits until they have, or until the deadline. Returns how many
    /// sessions are left. Whoever comes meanwhile is told to go elsewhere.
    pub(super) async fn drain(&self) -> u64 {
        self.obey_drain();
        for thread in 0..self.shards.count() {
            let thread = u16::try_from(thread).expect("at most 512 threads");
            self.shards.send(thread, ToShard::Drain);
        }
        let per_second = self.orders.per_second();
        tracing::info!(event = "draining", sessions = self.registry.len(), per_second);
        let mut issuer_knows = false;
        loop {
            // A full queue hears of it at the next look.
            issuer_knows = issuer_knows || self.issuer.try_send(ToIssuer::Leaving).is_ok();
            // The answer to whoever asked for the drain leaves meanwhile.
            tokio::time::sleep(LOOK).await;
            let deadline = self.obey_drain();
            if self.everybody_left() {
                return 0;
            }
            if self.node.clock.now() >= deadline {
                return self.cut_short("the deadline is over");
            }
        }
    }

    /// The drain ends here. Returns how many sessions are left.
    pub(super) fn cut_short(&self, reason: &str) -> u64 {
        let remaining = self.registry.len() as u64;
        tracing::warn!(event = "drain_cut_short", reason, remaining);
        remaining
    }

    /// Puts the rate in force that holds now. Returns the deadline that holds now.
    fn obey_drain(&self) -> Timestamp {
        let now = self.node.clock.now();
        let began = *self.drain_began.get_or_init(|| now);
        let (per_second, seconds) = self.drain_order.load().within(&self.config.load().drain);
        self.orders.drain(now, per_second);
        began.plus_ms(u64::from(seconds) * 1_000)
    }

    /// Whether nobody is here and nobody can come: connections without a session come and are
    /// turned away all the time.
    fn everybody_left(&self) -> bool {
        // In this order: what opened before a thread closed its door is in the registry.
        self.shard_counters.iter().all(|thread| thread.is_closed_to_new())
            && self.registry.is_empty()
    }

    /// The drain's part of `/status`; null while there is none. The counts are of up to a second
    /// ago.
    pub(super) fn drain_json(&self) -> Value {
        let Some(began) = self.drain_began.get() else { return Value::Null };
        let (per_second, deadline_seconds) =
            self.drain_order.load().within(&self.config.load().drain);
        let remaining = self.registry.len() as u64;
        let cut = self.orders.cut();
        let Ended { asked, overstayed, .. } = Ended::of(&self.shard_counters, cut, remaining);
        json!({
            "per_second": per_second,
            "deadline_seconds": deadline_seconds,
            "seconds": self.node.clock.now().since(*began).as_secs(),
            "asked": asked,
            "overstayed": overstayed,
            "cut": cut,
            "remaining": remaining,
        })
    }
}
