//! The signer of a world. A world signs hundreds of tickets, batches and answers, each of them new.
//! This one makes the same bytes as the programs' own in half the time; the programs' own makes
//! some of them, too, and both are compared (`yao_protocol::keys::remember_signatures`).

use aws_lc_rs::signature::Ed25519KeyPair;
use std::{cell::RefCell, collections::HashMap};
use yao_protocol::keys::SIGNATURE_BYTES;

thread_local! {
    /// By their seeds: a world has a handful.
    static KEYS: RefCell<HashMap<[u8; 32], Ed25519KeyPair>> = RefCell::default();
}

/// The Ed25519 signature of `message` by the key that grows from `seed`.
pub(crate) fn sign(seed: &[u8; 32], message: &[u8]) -> [u8; SIGNATURE_BYTES] {
    KEYS.with_borrow_mut(|keys| {
        let key = keys.entry(*seed).or_insert_with(|| {
            Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed")
        });
        key.sign(message).as_ref().try_into().expect("64 bytes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::keys::{SignKey, context};

    #[test]
    fn it_makes_the_same_bytes_as_the_programs_own() {
        for number in 0..64_u8 {
            let (seed, message) = ([number % 5; 32], vec![number; usize::from(number) * 7]);
            let whole = [&context::BATCH.0[..], &message].concat();
            let own = SignKey::from_seed(&seed).sign(context::BATCH, &message);
            assert_eq!(sign(&seed, &whole), own, "{number}");
        }
    }
}
