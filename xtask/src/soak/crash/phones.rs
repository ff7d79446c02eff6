//! The phones of an event, one after another on a few threads: where the node is now, and when
//! enough have played.

use super::{
    phone::{Phone, Visit},
    seen::Seen,
};
use anyhow::{Result, bail};
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use yao_protocol::CampaignId;

/// A phone that lost its connection tries the same node again after this time.
const AGAIN: Duration = Duration::from_millis(5);

/// The running phones.
pub(super) struct Phones {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    campaign: CampaignId,
    tokens: Arc<[String]>,
    next: AtomicUsize,
    seen: Seen,
    place: Mutex<Place>,
    moved: Condvar,
}

#[derive(Default)]
struct Place {
    /// Where the node is; none while there is no node, or nobody shall play.
    address: Option<String>,
    /// Counts the changes of `address`.
    moves: u64,
    /// No phone begins any more.
    last: bool,
    /// Phones end in the middle.
    stop: bool,
    wrong: Vec<String>,
}

impl Phones {
    /// Starts so many, none of which has a node yet. Each user is one token.
    pub(super) fn start(threads: usize, campaign: CampaignId, tokens: &Arc<[String]>) -> Self {
        let shared = Arc::new(Shared {
            campaign,
            tokens: Arc::clone(tokens),
            next: AtomicUsize::new(0),
            seen: Seen::default(),
            place: Mutex::default(),
            moved: Condvar::new(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.run())
        };
        let threads = (0..threads).map(spawn).collect();
        Self { shared, threads }
    }

    /// The node is here now, or nowhere.
    pub(super) fn go_to(&self, address: Option<&str>) {
        self.shared.change(|place| place.address = address.map(str::to_owned));
    }

    /// What they saw so far.
    pub(super) fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// No phone begins any more; those under way go on to their receipt.
    pub(super) fn last_round(&self) {
        self.shared.change(|place| place.last = true);
    }

    /// Whether all have ended.
    pub(super) fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends them, in the middle if need be; what a node told one of them that it must not.
    pub(super) fn end(&mut self) -> Result<Vec<String>> {
        self.shared.change(|place| place.stop = true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                bail!("a phone panicked");
            }
        }
        Ok(self.shared.place().wrong.clone())
    }
}

impl Drop for Phones {
    fn drop(&mut self) {
        // Whoever wants to know has called it already.
        drop(self.end());
    }
}

impl Shared {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Place)) {
        let mut place = self.place();
        change(&mut place);
        place.moves += 1;
        self.moved.notify_all();
    }

    fn run(&self) {
        while let Some((user, token)) = self.next_user() {
            let mut phone = Phone::new(user, token, self.campaign);
            loop {
                let Some((address, moves)) = self.await_node() else { return };
                let stop = || {
                    let place = self.place();
                    place.stop || (place.moves != moves && place.address.as_ref() != Some(&address))
                };
                match phone.visit(&address, &self.seen, &stop) {
                    Visit::Done => break,
                    Visit::Lost => thread::sleep(AGAIN),
                    Visit::Stopped => {}
                    Visit::Wrong(text) => {
                        self.place().wrong.push(text);
                        break;
                    }
                }
            }
        }
    }

    /// The next user who plays, from 1 on.
    fn next_user(&self) -> Option<(u64, &str)> {
        if self.place().last {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(token) = self.tokens.get(index) else {
            self.place().wrong.push("there are no users left".to_owned());
            return None;
        };
        Some((index as u64 + 1, token))
    }

    /// Waits for a node; where it is, and the number of that move. `None` when all shall end.
    fn await_node(&self) -> Option<(String, u64)> {
        let place = self.place();
        let waits = |place: &mut Place| place.address.is_none() && !place.stop;
        let place = self.moved.wait_while(place, waits).unwrap_or_else(PoisonError::into_inner);
        if place.stop {
            return None;
        }
        place.address.clone().map(|address| (address, place.moves))
    }
}
