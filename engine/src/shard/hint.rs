//! Where clients go that this node does not want, and when they may come back.

use super::{Effect, ShardEngine};
use yao_protocol::client::{GoAway, GoAwayReason, RetryClass};

/// See the module. A reload changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// Clients come back after at least this long, ms.
    pub return_ms_min: u32,
    /// And up to this much longer, ms: each draws its own delay, so that they do not come together.
    pub return_ms_jitter: u32,
    /// The same of those for whom there is no room: at least this long, ms.
    pub overload_ms_min: u32,
    /// And up to this much longer, ms.
    pub overload_ms_jitter: u32,
    /// Other nodes, "host:port"; told in WELCOME, too.
    pub endpoints: Vec<String>,
}

impl Hint {
    /// Appends the GOAWAY that says so.
    pub fn put_go_away(&self, reason: GoAwayReason, out: &mut Vec<u8>) {
        let (delay_ms, jitter_ms) = match reason {
            GoAwayReason::Overload => (self.overload_ms_min, self.overload_ms_jitter),
            GoAwayReason::Drain | GoAwayReason::Replaced => {
                (self.return_ms_min, self.return_ms_jitter)
            }
        };
        let (class, endpoints) = (RetryClass::After, self.endpoints.clone());
        GoAway { reason, class, delay_ms, jitter_ms, endpoints }.put(out);
    }

    /// The GOAWAY for those for whom there is no room.
    pub(super) fn no_room(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put_go_away(GoAwayReason::Overload, &mut bytes);
        bytes
    }
}

impl ShardEngine {
    /// What clients are told from now on.
    pub fn handle_hint(&mut self, hint: Hint) {
        self.no_room = hint.no_room();
        self.settings.hint = hint;
    }

    /// What newcomers are told for whom there is no room: a whole GOAWAY. Made once for each hint,
    /// not for each newcomer: they come in crowds.
    #[must_use]
    pub fn no_room(&self) -> &[u8] {
        &self.no_room
    }

    /// Whether newcomers are turned away instead of welcomed; who has a session keeps it. A drain
    /// turns them away in any case.
    pub fn handle_refuse_new(&mut self, refuse_new: bool) {
        self.refuse_new = refuse_new;
    }

    /// Whether no session may open.
    pub(super) const fn refuses_new(&self) -> bool {
        self.refuse_new || self.is_draining()
    }

    /// Tells the newcomer in `slot` where to go instead, and closes.
    pub(super) fn turn_away(&mut self, slot: u32) {
        let connection = self.id(slot);
        let bytes = self.farewell();
        self.counters.turned_away += 1;
        self.effects.push_back(Effect::Send { connection, bytes });
        self.begin_close(slot);
    }

    /// What one is told who shall leave, or shall not come in.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.settings.hint.put_go_away(GoAwayReason::Drain, &mut bytes);
        bytes
    }
}
