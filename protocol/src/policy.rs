//! The policy: compiled rules that the agent hands to the access process as one immutable
//! snapshot. JSON, at most one agent-link frame.

use crate::{
    UserId, WireError,
    limits::{AGENT_PAYLOAD_BYTES_MAX, SHAKE_INTERVAL_MS_MAX},
};
use serde::{Deserialize, Serialize};

/// What the access process obeys until the next snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Grows with each change; for people.
    pub version: u64,
    /// The cue whose greeting a losing shake shows.
    pub cue: u16,
    /// Least time between two shakes of one connection, ms. `None` leaves the node's own setting.
    pub shake_interval_ms: Option<u32>,
    /// Users who win nothing, rising. Kept small: a frame bounds it to a few thousand.
    pub banned: Vec<UserId>,
    /// Amounts from which a win is vetted, minor units; below it the agent is not asked.
    pub vet_amount_min: u64,
}

impl Policy {
    /// The JSON that travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data always serialises")
    }

    /// Reads a policy; the ban list is sorted whatever the sender did.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for more than a frame holds, [`WireError::Text`] for JSON that is
    /// not of this form, [`WireError::Value`] for an interval that nobody may ask for.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > AGENT_PAYLOAD_BYTES_MAX {
            return Err(WireError::TooLarge {
                what: "a policy",
                length: bytes.len(),
                limit: AGENT_PAYLOAD_BYTES_MAX,
            });
        }
        let mut policy: Self =
            serde_json::from_slice(bytes).map_err(|_| WireError::Text { field: "a policy" })?;
        if let Some(ms) = policy.shake_interval_ms.filter(|ms| *ms > SHAKE_INTERVAL_MS_MAX) {
            return Err(WireError::Value { field: "shake_interval_ms", value: u64::from(ms) });
        }
        policy.banned.sort_unstable();
        policy.banned.dedup();
        Ok(policy)
    }

    /// Whether `user` wins nothing.
    #[must_use]
    pub fn is_banned(&self, user: UserId) -> bool {
        self.banned.binary_search(&user).is_ok()
    }
}
