//! Remembering signatures, for a program that plays signers and verifiers alike, thousands of
//! times on one thread: the simulator. Nothing is believed here that was not signed or checked in
//! full before, byte for byte the same; so what is remembered changes no answer, only its cost.
//!
//! Off unless a thread asks for it.

use super::SIGNATURE_BYTES;
use std::{cell::RefCell, collections::HashMap};

/// Signatures that a thread remembers; then it begins anew. Some 20 MB.
const REMEMBERED_MAX: usize = 131_072;

/// What was signed, or checked: a hash of the public key and the message, and its signature.
type Memo = HashMap<[u8; 32], [u8; SIGNATURE_BYTES]>;

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// From now on this thread remembers the signatures that it makes, and those that it found good.
pub fn remember_signatures() {
    MEMO.with_borrow_mut(|memo| {
        memo.get_or_insert_default();
    });
}

fn name(public: &[u8; 32], message: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(public).update(message).finalize().as_bytes()
}

/// The signature of `message`, context and all: remembered, or made by `sign`.
pub(super) fn signature(
    public: &[u8; 32],
    message: &[u8],
    sign: impl FnOnce() -> [u8; SIGNATURE_BYTES],
) -> [u8; SIGNATURE_BYTES] {
    recall(public, message).unwrap_or_else(|| {
        let signature = sign();
        keep(public, message, &signature);
        signature
    })
}

/// Whether this very signature was made or found good on this thread.
pub(super) fn is_known(
    public: &[u8; 32],
    message: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
) -> bool {
    recall(public, message).is_some_and(|known| known == *signature)
}

/// A signature was found good.
pub(super) fn keep(public: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_BYTES]) {
    MEMO.with_borrow_mut(|memo| {
        let Some(memo) = memo else { return };
        if memo.len() >= REMEMBERED_MAX {
            memo.clear();
        }
        memo.insert(name(public, message), *signature);
    });
}

fn recall(public: &[u8; 32], message: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    MEMO.with_borrow(|memo| memo.as_ref()?.get(&name(public, message)).copied())
}

#[cfg(test)]
mod tests {
    use super::super::{SignKey, context, verify_batch};
    use super::*;

    #[test]
    fn what_is_remembered_changes_no_answer() {
        let keys = [1, 2].map(|seed| SignKey::from_seed(&[seed; 32]));
        let sign = |key: &SignKey| key.sign(context::TICKET, b"message");
        let plain = keys.each_ref().map(sign);
        for round in 0..3 {
            assert_eq!(keys.each_ref().map(sign), plain, "round {round}");
            let public = keys[0].public();
            assert!(public.verifies(context::TICKET, b"message", &plain[0]));
            assert!(!public.verifies(context::TICKET, b"message", &plain[1]), "another key's");
            assert!(!public.verifies(context::TICKET, b"massage", &plain[0]), "another message's");
            assert!(!public.verifies(context::BATCH, b"message", &plain[0]), "another purpose's");
            for bit in 0..512 {
                let mut wrong = plain[0];
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(!public.verifies(context::TICKET, b"message", &wrong), "bit {bit}");
            }
            let both = [plain[0], plain[0]];
            let found =
                verify_batch(context::TICKET, &[b"message", b"massage"], &both, &[public, public]);
            assert_eq!(found, [true, false]);
            remember_signatures();
        }
    }

    #[test]
    fn a_thread_that_did_not_ask_remembers_nothing() {
        let key = SignKey::from_seed(&[3; 32]);
        let signature = key.sign(context::TICKET, b"m");
        let message = [&context::TICKET.0[..], b"m"].concat();
        assert!(!is_known(&key.public().to_bytes(), &message, &signature));
        remember_signatures();
        assert!(!is_known(&key.public().to_bytes(), &message, &signature));
        assert_eq!(key.sign(context::TICKET, b"m"), signature);
        assert!(is_known(&key.public().to_bytes(), &message, &signature));
    }
}
