//! The reconnect ticket: proof that its holder showed a good session token a short while ago
//! (wire.md 5.6). A node makes it, any node believes it after one MAC; the client cannot read more
//! from it than when it ends, and sends it in place of its session token.
//!
//! ```text
//!  0  u8   version = 1            16  u64  device
//!  1  u8   risk class             24  u64  issued at, Unix us
//!  2  2 B  reserved = 0           32  u64  expires at, Unix us
//!  4  u32  key id                 40  u64  the session token's end, Unix us
//!  8  u64  user                   48  32 B keyed BLAKE3 over context ++ bytes 0..48
//! ```
//!
//! Never here: whether a ticket was used before (each node remembers that for itself).

use crate::{
    KeyId, UserId, WallTime, WireError,
    codec::{Put, Reader},
    hex,
    keys::{MAC_BYTES, MacKey, context},
    token::{CLOCK_LEEWAY_SECONDS, Identity},
};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Bytes of a reconnect ticket.
pub const RECONNECT_BYTES: usize = 48 + MAC_BYTES;
/// Longest life of a ticket, seconds. A node forgets after this time which tickets were used.
pub const RECONNECT_SECONDS_MAX: u64 = 1_800;
/// Keys that are held at once: a rotation needs two.
pub const RECONNECT_KEYS_MAX: usize = 16;

/// Also the first byte. A JWT begins with `e`: the one is never taken for the other.
const VERSION: u8 = 1;

const _: () = assert!(RECONNECT_BYTES == 80);

/// Who returns, and for how long that may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectTicket {
    /// The user.
    pub user: UserId,
    /// The device of the session token; opaque.
    pub device: u64,
    /// The risk class of the session token; 0 = ordinary.
    pub risk: u8,
    /// When the node made it.
    pub issued_at: WallTime,
    /// From then on it proves nothing. Invariant: after `issued_at`, by at most
    /// [`RECONNECT_SECONDS_MAX`], and not after `token_expires_at`.
    pub expires_at: WallTime,
    /// When the session token ends that was checked in full.
    pub token_expires_at: WallTime,
}

/// Why a ticket is refused. Told to operators; the client hears AUTH_FAILED for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReconnectError {
    /// The bytes are no ticket, or none that a key of ours made.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its time is over.
    #[error("the reconnect ticket has expired")]
    Expired,
    /// It was made in the future, by more than clocks may differ.
    #[error("the reconnect ticket is not valid yet")]
    NotYet,
}

/// Whether the token of a HELLO is meant as a reconnect ticket; anything else is a session token.
#[must_use]
pub const fn is_reconnect(token: &[u8]) -> bool {
    matches!(token, [VERSION, ..])
}

impl ReconnectTicket {
    /// The ticket for `identity` that lives `lifetime_seconds` from `now` on, but never longer than
    /// the session token. `None` when that has ended already.
    #[must_use]
    pub fn issue(identity: &Identity, now: WallTime, lifetime_seconds: u64) -> Option<Self> {
        let lifetime_us = lifetime_seconds.min(RECONNECT_SECONDS_MAX) * 1_000_000;
        let expires_at = now.plus_us(lifetime_us).min(identity.expires_at);
        (expires_at > now).then_some(Self {
            user: identity.user,
            device: identity.device,
            risk: identity.risk,
            issued_at: now,
            expires_at,
            token_expires_at: identity.expires_at,
        })
    }

    /// Whom it proves.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            user: self.user,
            device: self.device,
            risk: self.risk,
            expires_at: self.token_expires_at,
        }
    }

    /// When half of its life is over: time for the next one. `None` when the next one could not
    /// live longer, because the session token ends with this one.
    #[must_use]
    pub const fn renew_at(&self) -> Option<WallTime> {
        if self.expires_at.0 >= self.token_expires_at.0 {
            return None;
        }
        Some(self.issued_at.plus_us(self.expires_at.us_since(self.issued_at) / 2))
    }

    /// The 80 bytes that travel, proved under `key`.
    #[must_use]
    pub fn encode(&self, key: &MacKey) -> [u8; RECONNECT_BYTES] {
        let mut out = Vec::with_capacity(RECONNECT_BYTES);
        out.put(&[VERSION, self.risk, 0, 0]);
        out.put_u32(key.id().0);
        out.put_u64(self.user.0);
        out.put_u64(self.device);
        out.put_u64(self.issued_at.0);
        out.put_u64(self.expires_at.0);
        out.put_u64(self.token_expires_at.0);
        let mac = key.mac(context::RECONNECT, &out);
        out.put(&mac);
        out.try_into().expect("the fields above are 80 bytes")
    }

    /// Reads what a ticket claims, unproved: for the client, which has no key, and for tools.
    ///
    /// # Errors
    /// A wrong length, version, reserved byte or order of times.
    pub fn peek(bytes: &[u8]) -> Result<Self, WireError> {
        Self::read(bytes).map(|(ticket, _)| ticket)
    }

    fn read(bytes: &[u8]) -> Result<(Self, KeyId), WireError> {
        let mut r = Reader::new("a reconnect ticket", bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "a reconnect ticket",
                version: u16::from(version),
                known: u16::from(VERSION),
            });
        }
        let risk = r.u8()?;
        r.reserved::<2>()?;
        let key_id = KeyId(r.u32()?);
        let ticket = Self {
            user: UserId(r.u64()?),
            device: r.u64()?,
            risk,
            issued_at: WallTime(r.u64()?),
            expires_at: WallTime(r.u64()?),
            token_expires_at: WallTime(r.u64()?),
        };
        r.array::<MAC_BYTES>()?;
        r.finish()?;
        let life_us = ticket.expires_at.us_since(ticket.issued_at);
        let bounded = life_us > 0 && life_us <= RECONNECT_SECONDS_MAX * 1_000_000;
        if !bounded || ticket.expires_at > ticket.token_expires_at {
            let (field, value) = ("a reconnect ticket's expires at", ticket.expires_at.0);
            return Err(WireError::Value { field, value });
        }
        Ok((ticket, key_id))
    }
}

/// One key as it stands in the file `identity.reconnect.keys`: a JSON list of these.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconnectKeyEntry {
    /// Names the key in tickets.
    pub id: u32,
    /// 32 random bytes as hexadecimal digits.
    #[serde(with = "hex::array")]
    pub key: [u8; 32],
}

impl fmt::Debug for ReconnectKeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReconnectKeyEntry({})", self.id)
    }
}

/// Why a list of keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReconnectKeysError {
    /// The text is not a JSON list of keys.
    #[error("not a JSON list of {{\"id\", \"key\"}}: {0}")]
    Text(String),
    /// No key, or too many.
    #[error("holds {0} keys; 1 to {RECONNECT_KEYS_MAX} can be used")]
    Count(usize),
    /// Two keys of one name.
    #[error("key id {0} stands twice")]
    Twice(u32),
}

/// The keys of reconnect tickets, the same on every node: the first signs, all verify.
#[derive(Clone, Debug)]
pub struct ReconnectKeys(Vec<MacKey>);

impl ReconnectKeys {
    /// The keys in `text`, a JSON list of [`ReconnectKeyEntry`].
    ///
    /// # Errors
    /// See [`ReconnectKeysError`].
    pub fn from_json(text: &str) -> Result<Self, ReconnectKeysError> {
        let entries: Vec<ReconnectKeyEntry> = serde_json::from_str(text)
            .map_err(|error| ReconnectKeysError::Text(error.to_string()))?;
        Self::new(entries.iter().map(|entry| MacKey::new(KeyId(entry.id), entry.key)).collect())
    }

    /// These keys.
    ///
    /// # Errors
    /// No key, more than [`RECONNECT_KEYS_MAX`], or two of one name.
    pub fn new(keys: Vec<MacKey>) -> Result<Self, ReconnectKeysError> {
        if keys.is_empty() || keys.len() > RECONNECT_KEYS_MAX {
            return Err(ReconnectKeysError::Count(keys.len()));
        }
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].iter().any(|earlier| earlier.id() == key.id()) {
                return Err(ReconnectKeysError::Twice(key.id().0));
            }
        }
        Ok(Self(keys))
    }

    /// The bytes of `ticket`, proved by the first key.
    #[must_use]
    pub fn sign(&self, ticket: &ReconnectTicket) -> [u8; RECONNECT_BYTES] {
        ticket.encode(self.0.first().expect("checked when the keys were taken"))
    }

    /// The ticket in `bytes`, when a key of these made it. Its times are not judged.
    ///
    /// # Errors
    /// As [`ReconnectTicket::peek`]; [`WireError::Forged`] for an unknown key id or a wrong MAC.
    pub fn open(&self, bytes: &[u8]) -> Result<ReconnectTicket, WireError> {
        let (ticket, key_id) = ReconnectTicket::read(bytes)?;
        let forged = WireError::Forged { what: "a reconnect ticket" };
        let key = self.0.iter().find(|key| key.id() == key_id).ok_or(forged)?;
        let (proved, mac) = bytes.split_last_chunk().expect("read as 80 bytes just now");
        if key.verifies(context::RECONNECT, proved, mac) { Ok(ticket) } else { Err(forged) }
    }

    /// The ticket in `bytes`, when it may be believed at `now`. Whether it was used before is the
    /// caller's to know.
    ///
    /// # Errors
    /// See [`ReconnectError`].
    pub fn verify(&self, bytes: &[u8], now: WallTime) -> Result<ReconnectTicket, ReconnectError> {
        let ticket = self.open(bytes)?;
        if now >= ticket.expires_at {
            return Err(ReconnectError::Expired);
        }
        if ticket.issued_at > now.plus_us(CLOCK_LEEWAY_SECONDS * 1_000_000) {
            return Err(ReconnectError::NotYet);
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_000_000_000_000);

    fn key(id: u32) -> MacKey {
        MacKey::new(KeyId(id), [u8::try_from(id).expect("small"); 32])
    }

    fn keys(ids: &[u32]) -> ReconnectKeys {
        ReconnectKeys::new(ids.iter().copied().map(key).collect()).expect("good keys")
    }

    fn identity() -> Identity {
        let expires_at = NOW.plus_us(3_600 * 1_000_000);
        Identity { user: UserId(77), device: 5, risk: 2, expires_at }
    }

    fn ticket() -> ReconnectTicket {
        ReconnectTicket::issue(&identity(), NOW, 1_200).expect("the token has not ended")
    }

    #[test]
    fn the_first_key_signs_and_all_verify_from_issue_to_end() {
        let bytes = keys(&[2, 1]).sign(&ticket());
        assert!(
            is_reconnect(&bytes) && !is_reconnect(b"eyJhbGciOiJFZERTQSJ9") && !is_reconnect(b"")
        );
        let at = |seconds: i64| {
            WallTime(NOW.0.checked_add_signed(seconds * 1_000_000).expect("near NOW"))
        };
        let check = |ids: &[u32], now: WallTime, expected: Result<(), ReconnectError>| {
            let found = keys(ids).verify(&bytes, now);
            assert_eq!(found.map(|found| assert_eq!(found, ticket())), expected);
        };
        let forged = Err(WireError::Forged { what: "a reconnect ticket" }.into());
        check(&[2], NOW, Ok(()));
        check(&[3, 2], at(1_199), Ok(()));
        check(&[3, 2], at(1_200), Err(ReconnectError::Expired));
        check(&[2], at(-30), Ok(()));
        check(&[2], at(-31), Err(ReconnectError::NotYet));
        check(&[1, 3], NOW, forged);
        let renamed = ReconnectKeys::new(vec![MacKey::new(KeyId(2), [9; 32])]).expect("one key");
        assert!(renamed.verify(&bytes, NOW).is_err(), "another key under the same name");
    }

    #[test]
    fn a_flipped_bit_anywhere_or_another_length_is_refused() {
        let bytes = keys(&[1]).sign(&ticket());
        for bit in 0..RECONNECT_BYTES * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(keys(&[1]).verify(&wrong, NOW).is_err(), "bit {bit}");
        }
        for length in 0..RECONNECT_BYTES {
            assert!(keys(&[1]).verify(&bytes[..length], NOW).is_err(), "{length} bytes");
        }
        assert!(keys(&[1]).verify(&[&bytes[..], &[0]].concat(), NOW).is_err());
    }

    #[test]
    fn a_ticket_never_outlives_the_token_and_is_renewed_at_half_of_its_life() {
        let check = |token_seconds: u64, lifetime: u64, life: Option<u64>, renew: Option<u64>| {
            let expires_at = NOW.plus_us(token_seconds * 1_000_000);
            let made =
                ReconnectTicket::issue(&Identity { expires_at, ..identity() }, NOW, lifetime);
            let seconds = |at: WallTime| at.us_since(NOW) / 1_000_000;
            assert_eq!(made.map(|made| seconds(made.expires_at)), life);
            assert_eq!(made.and_then(|made| made.renew_at()).map(seconds), renew);
        };
        check(3_600, 1_200, Some(1_200), Some(600));
        check(3_600, 1_000_000, Some(1_800), Some(900));
        check(1_200, 1_200, Some(1_200), None);
        check(7, 1_200, Some(7), None);
        check(0, 1_200, None, None);
    }

    #[test]
    fn a_key_list_is_taken_or_refused_as_a_whole() {
        let entry = |id: u32| format!("{{\"id\": {id}, \"key\": \"{}\"}}", "ab".repeat(32));
        let check = |text: &str, error: &str| {
            let found = ReconnectKeys::from_json(text);
            let found = found.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(found.contains(error) && found.is_empty() == error.is_empty(), "{found}");
        };
        check(&format!("[{}, {}]", entry(1), entry(2)), "");
        check(&format!("[{}, {}]", entry(1), entry(1)), "key id 1 stands twice");
        check("[]", "holds 0 keys");
        check("{}", "not a JSON list");
        check("[{\"id\": 1, \"key\": \"ab\"}]", "expected 64 hexadecimal digits");
    }
}
