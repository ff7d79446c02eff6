//! Who vouches for whom: the app's backend with its session tokens, and the node's certificate.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm::EdDSA, EncodingKey, Header, encode};
use rcgen::generate_simple_self_signed;
use serde::Serialize;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use yao_access::clock::Clock;
use yao_client::Trust;
use yao_protocol::token::TokenClaims;

/// Life of a session token, seconds: longer than any test.
const TOKEN_SECONDS: u64 = 3_600;

/// One Ed25519 key of the app's backend. A node believes its tokens while its public half is in the
/// JWKS file.
pub(crate) struct Backend {
    key_id: String,
    key: EncodingKey,
    public: Vec<u8>,
}

impl Backend {
    /// A new key that tokens name `key_id`.
    pub(crate) fn new(key_id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("randomness");
        let document = pair.to_pkcs8v1().expect("a document");
        Self {
            key_id: key_id.to_owned(),
            key: EncodingKey::from_ed_der(document.as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    /// A session token for `user` with the audience "yao".
    pub(crate) fn token(&self, user: u64) -> String {
        self.sign(&Self::claims(user))
    }

    /// A session token that says this.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> String {
        self.sign_with(&Header { kid: Some(self.key_id.clone()), ..Header::new(EdDSA) }, claims)
    }

    /// A token with this header; its algorithm must be EdDSA.
    pub(crate) fn sign_with(&self, header: &Header, claims: &impl Serialize) -> String {
        encode(header, claims, &self.key).expect("an Ed25519 key signs")
    }

    /// What a good token of `user` says; his number is his device's, too.
    pub(crate) fn claims(user: u64) -> TokenClaims {
        let now = Clock::start().wall().seconds();
        TokenClaims {
            sub: user.to_string(),
            aud: "yao".to_owned(),
            exp: now + TOKEN_SECONDS,
            iat: now,
            nbf: now,
            device: user,
            risk: 0,
        }
    }

    /// Its public half, as the JWKS file has it.
    pub(crate) fn jwk(&self) -> Value {
        let x = base64_url(&self.public);
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.key_id, "x": x})
    }
}

/// Writes the JWKS file with the public halves of `backends`.
pub(crate) fn write_jwks(path: &Path, backends: &[&Backend]) {
    let keys: Vec<Value> = backends.iter().map(|backend| backend.jwk()).collect();
    fs::write(path, json!({ "keys": keys }).to_string()).expect("a folder of ours");
}

/// Writes a new certificate for 127.0.0.1 that signs itself, and its key; returns trust in it.
pub(crate) fn write_certificate(chain: &Path, key: &Path) -> Trust {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certified = generate_simple_self_signed(names).expect("a certificate");
    fs::write(chain, certified.cert.pem()).expect("a folder of ours");
    write_secret(key, certified.signing_key.serialize_pem().as_bytes());
    Trust::from_pem(certified.cert.pem().as_bytes()).expect("a certificate")
}

/// Writes what only its owner may read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a folder of ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}

/// Base64 as JWT has it (RFC 7515, 2).
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
