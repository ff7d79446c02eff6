//! Signatures of session tokens. The users' few tokens are the same in every world, and come with
//! every HELLO: their check costs as much as all else that a HELLO does. So a thread checks each
//! once, with the cryptography of the node, and knows it again by all its bytes.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{CryptoProvider, JwtVerifier, aws_lc},
    errors::Result,
    signature::{Error, Verifier},
};
use std::{cell::RefCell, collections::HashMap};

/// Good signatures by what they sign: the public key, and the signature.
type Good = HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>;

thread_local! {
    static GOOD: RefCell<Good> = RefCell::default();
}

/// From now on every thread of this process remembers what it found good; nothing that is signed
/// or checked in another way changes. Does nothing where a token was made or checked before.
pub(crate) fn remember() {
    let provider =
        CryptoProvider { verifier_factory: remembering, ..aws_lc::DEFAULT_PROVIDER.clone() };
    // Whoever was first stays: then every check is made in full, which is only slower.
    Box::leak(Box::new(provider)).install_default().ok();
}

fn remembering(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let full = (aws_lc::DEFAULT_PROVIDER.verifier_factory)(algorithm, key)?;
    let key = key.try_get_as_bytes()?.to_vec();
    Ok(Box::new(Remembering { full, key }))
}

struct Remembering {
    full: Box<dyn JwtVerifier>,
    key: Vec<u8>,
}

impl JwtVerifier for Remembering {
    fn algorithm(&self) -> Algorithm {
        self.full.algorithm()
    }
}

impl Verifier<Vec<u8>> for Remembering {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let is_known = |good: &Good| {
            good.get(message).is_some_and(|(key, known)| *key == self.key && known == signature)
        };
        if GOOD.with_borrow(is_known) {
            return Ok(());
        }
        self.full.verify(message, signature)?;
        GOOD.with_borrow_mut(|good| {
            good.insert(message.to_vec(), (self.key.clone(), signature.clone()));
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{START, identity};
    use yao_protocol::UserId;

    /// Through the node's own keys of tokens: what was found good is found good again, and not one
    /// bit of it may be another.
    #[test]
    fn what_is_remembered_changes_no_answer() {
        let (keys, token) = (identity().tokens.load(), identity().token(UserId(3)));
        for round in 0..3 {
            let proved = keys.identity(token.as_bytes(), START).map(|identity| identity.user);
            assert_eq!(proved, Some(UserId(3)), "round {round}");
            let known = GOOD.with_borrow(HashMap::len);
            assert_eq!(known, 1, "round {round}");
            for place in 0..token.len() {
                let mut wrong = token.as_bytes().to_vec();
                // Another letter of base64, so that it is the signature that refuses it.
                wrong[place] = if wrong[place] == b'A' { b'Q' } else { b'A' };
                assert!(keys.identity(&wrong, START).is_none(), "round {round}, place {place}");
            }
        }
    }

    #[test]
    fn another_key_s_signature_is_another() {
        let token = identity().token(UserId(4));
        let (message, signature) = token.rsplit_once('.').expect("a token has three parts");
        let check = |seed: u8| {
            let public = yao_protocol::keys::SignKey::from_seed(&[seed; 32]).public().to_bytes();
            let key = DecodingKey::from_ed_der(&public);
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, Algorithm::EdDSA)
        };
        for round in 0..3 {
            assert!(check(0x21).expect("a key"), "round {round}");
            assert!(!check(0x22).expect("a key"), "round {round}");
        }
        assert_eq!(GOOD.with_borrow(HashMap::len), 1);
    }
}
