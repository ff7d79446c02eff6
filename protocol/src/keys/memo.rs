//! Remembering signatures, for a program that plays signers and verifiers alike, thousands of
//! times on one thread: the simulator. Nothing is believed here that was not signed or checked in
//! full before, byte for byte the same; so what is remembered changes no answer, only its cost.
//!
//! Such a thread may also bring a faster signer. Ed25519 is deterministic: each right signer makes
//! the same bytes, and one signature in [`CHECKED_EVERY`] is made by both and compared.
//!
//! Off unless a thread asks for it.

use super::SIGNATURE_BYTES;
use std::{cell::RefCell, collections::HashMap};

/// Signatures that a thread remembers; then it begins anew. Some ten worlds' worth, and less than
/// 2 MB.
const REMEMBERED_MAX: usize = 14_000;
/// One of so many signatures is made by both signers; the first is.
const CHECKED_EVERY: u64 = 32;

type Bytes = [u8; SIGNATURE_BYTES];
/// Makes the Ed25519 signature of a message by the key that grows from a seed of 32 bytes.
pub type MemoSigner = fn(seed: &[u8; 32], message: &[u8]) -> Bytes;

struct Memo {
    signer: MemoSigner,
    made: u64,
    /// What was signed, or checked: a hash of the public key and the message, and its signature.
    known: HashMap<[u8; 32], Bytes>,
}

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// From now on this thread remembers the signatures that it makes, by `signer`, and those that it
/// found good.
pub fn remember_signatures(signer: MemoSigner) {
    MEMO.with_borrow_mut(|memo| {
        memo.get_or_insert_with(|| Memo { signer, made: 0, known: HashMap::new() });
    });
}

/// The name of (`public`, `message`), on a thread that remembers.
fn name(public: &[u8; 32], message: &[u8]) -> Option<[u8; 32]> {
    MEMO.with_borrow(Option::is_some)
        .then(|| *blake3::Hasher::new().update(public).update(message).finalize().as_bytes())
}

/// The signature of `message`, context and all: remembered, or made by the thread's signer or by
/// `sign`. `seed` is the private half of `public`.
pub(super) fn signature(
    (public, seed): (&[u8; 32], &[u8; 32]),
    message: &[u8],
    sign: impl FnOnce() -> Bytes,
) -> Bytes {
    let Some(name) = name(public, message) else { return sign() };
    recall(&name).unwrap_or_else(|| {
        let signature = make(seed, message, sign);
        keep(name, &signature);
        signature
    })
}

fn make(seed: &[u8; 32], message: &[u8], sign: impl FnOnce() -> Bytes) -> Bytes {
    let next = MEMO.with_borrow_mut(|memo| {
        let memo = memo.as_mut()?;
        memo.made += 1;
        Some((memo.signer, memo.made))
    });
    let Some((signer, number)) = next else { return sign() };
    let signature = signer(seed, message);
    if number % CHECKED_EVERY == 1 {
        assert!(signature == sign(), "both signers make the same bytes");
    }
    signature
}

/// Whether `signature` is good: remembered, or found by `check`.
pub(super) fn is_good(
    public: &[u8; 32],
    message: &[u8],
    signature: &Bytes,
    check: impl FnOnce() -> bool,
) -> bool {
    let Some(name) = name(public, message) else { return check() };
    if recall(&name) == Some(*signature) {
        return true;
    }
    let good = check();
    if good {
        keep(name, signature);
    }
    good
}

/// Whether this very signature was made or found good on this thread.
pub(super) fn is_known(public: &[u8; 32], message: &[u8], signature: &Bytes) -> bool {
    name(public, message).is_some_and(|name| recall(&name) == Some(*signature))
}

fn keep(name: [u8; 32], signature: &Bytes) {
    MEMO.with_borrow_mut(|memo| {
        let Some(memo) = memo else { return };
        if memo.known.len() >= REMEMBERED_MAX {
            memo.known.clear();
        }
        memo.known.insert(name, *signature);
    });
}

fn recall(name: &[u8; 32]) -> Option<Bytes> {
    MEMO.with_borrow(|memo| memo.as_ref()?.known.get(name).copied())
}

#[cfg(test)]
mod tests {
    use super::super::{SignKey, context, verify_batch};
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn plainly(seed: &[u8; 32], message: &[u8]) -> Bytes {
        SigningKey::from_bytes(seed).sign(message).to_bytes()
    }

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
            remember_signatures(plainly);
        }
    }

    #[test]
    fn a_thread_that_did_not_ask_remembers_nothing() {
        let key = SignKey::from_seed(&[3; 32]);
        let signature = key.sign(context::TICKET, b"m");
        let message = [&context::TICKET.0[..], b"m"].concat();
        assert!(!is_known(&key.public().to_bytes(), &message, &signature));
        remember_signatures(plainly);
        assert!(!is_known(&key.public().to_bytes(), &message, &signature));
        assert_eq!(key.sign(context::TICKET, b"m"), signature);
        assert!(is_known(&key.public().to_bytes(), &message, &signature));
    }

    #[test]
    #[should_panic(expected = "both signers make the same bytes")]
    fn a_signer_that_errs_is_found() {
        remember_signatures(|seed, message| {
            let mut signature = plainly(seed, message);
            signature[63] ^= u8::from(message.ends_with(&[40]));
            signature
        });
        let key = SignKey::from_seed(&[4; 32]);
        // The 33rd is the second that is made by both.
        let all: Vec<_> = (8..=40).map(|last| key.sign(context::TICKET, &[last])).collect();
        assert_eq!(all.len(), 33, "nobody noticed");
    }
}
