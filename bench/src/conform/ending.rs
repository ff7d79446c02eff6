//! The end of a run, when the server drains, cuts or dies: the scripts that see it come together
//! first, and then the server is told.

use anyhow::{Result, bail};
use std::{
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

/// Everybody is there, and the server was told, within this time.
const GATHER_MAX: Duration = Duration::from_secs(90);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ending {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Scripts that wait.
    there: usize,
    /// Scripts that are over.
    lost: usize,
    /// The server was told.
    over: bool,
}

/// One script that waits.
pub(super) struct Arrival<'a> {
    ending: &'a Ending,
    since: Instant,
}

impl Ending {
    /// A script has come to the point from which it sees the end.
    pub(super) fn arrive(&self) -> Arrival<'_> {
        self.change(|state| state.there += 1);
        Arrival { ending: self, since: Instant::now() }
    }

    /// A script is over. Before the server was told it has failed: it is not waited for any longer.
    pub(super) fn leave(&self) {
        self.change(|state| state.lost += 1);
    }

    /// Waits until `count` scripts have arrived, or failed on the way.
    pub(super) fn gather(&self, count: usize) {
        let state = self.state.lock().expect("no holder panics");
        let lacking = |state: &mut State| state.there + state.lost < count;
        let waited = self.changed.wait_timeout_while(state, GATHER_MAX, lacking);
        drop(waited.expect("no holder panics"));
    }

    /// The server was told.
    pub(super) fn tell(&self) {
        self.change(|state| state.over = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no holder panics"));
        self.changed.notify_all();
    }
}

impl Arrival<'_> {
    /// Whether the server was told, by `patience` from now.
    ///
    /// # Errors
    /// It takes too long.
    pub(super) fn is_over(&self, patience: Duration) -> Result<bool> {
        if self.since.elapsed() > GATHER_MAX {
            bail!("the end did not come within {GATHER_MAX:?}");
        }
        let state = self.ending.state.lock().expect("no holder panics");
        let waited = self.ending.changed.wait_timeout_while(state, patience, |it| !it.over);
        Ok(waited.expect("no holder panics").0.over)
    }
}
