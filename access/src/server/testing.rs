//! A node's threads of sessions without its money: real sockets, certificates and session tokens.

use super::{
    ports::{self, Addresses},
    threads,
};
use crate::{
    config::{self, TlsConfig},
    crypto::{self, CryptoContext},
    messages::{ToCrypto, ToIssuer, ToShard},
    node::{Node, Shards},
    quic::ResetSecret,
    sessions::SessionContext,
    tls::TlsSettings,
    token_keys::{TokenKeys, tests::base64_url},
};
use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use std::{
    fs,
    path::Path,
    sync::{
        Arc, LazyLock,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
};
use yao_protocol::{CampaignId, keys::KeySet};

pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);

/// See the module.
pub(crate) struct Rig {
    pub(crate) addresses: Addresses,
    pub(crate) shards: Shards,
    /// Certificates that clients must trust: Ed25519 and P-256.
    pub(crate) roots: Vec<rustls::pki_types::CertificateDer<'static>>,
    pub(crate) context: SessionContext,
    /// What new connections of TLS and QUIC are made with; a test may put others in force.
    pub(crate) tls: TlsSettings,
    pub(crate) tls_config: TlsConfig,
    /// What waits for a crypto thread that is stuck.
    pub(crate) unchecked: Option<Receiver<ToCrypto>>,
    /// What the sessions told the issuer, who is nobody here.
    _issuer: Receiver<ToIssuer>,
    threads: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Starts the threads that `listen`, the body of the section of that name, asks for.
    pub(crate) fn start(listen: &str) -> Self {
        Self::start_as(listen, Crypto::Working, &ResetSecret::derive(&Node::TEST_TICKET_SEED))
    }

    /// The same for a node with `resets`.
    pub(crate) fn start_with(listen: &str, resets: &ResetSecret) -> Self {
        Self::start_as(listen, Crypto::Working, resets)
    }

    /// The same, and who checks tokens.
    pub(crate) fn start_checked(listen: &str, crypto: Crypto) -> Self {
        Self::start_as(listen, crypto, &ResetSecret::derive(&Node::TEST_TICKET_SEED))
    }

    fn start_as(listen: &str, crypto: Crypto, resets: &ResetSecret) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut roots = Vec::new();
        let mut text = format!(
            "[node]\nname='n'\nstate='s'\nkeys='k'\n[shard]\nseed='s'\nkey='k'\nmanifest='m'\n\
             schedule='t'\n[identity]\njwks='j'\n[listen]\n{listen}\n"
        );
        for (name, algorithm) in [("a", &PKCS_ED25519), ("b", &PKCS_ECDSA_P256_SHA256)] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let parameters = CertificateParams::new(names).expect("good names");
            let certificate = parameters.self_signed(&key).expect("signed");
            let path = |end: &str| folder.path().join(format!("{name}{end}"));
            fs::write(path(".pem"), certificate.pem()).expect("written");
            fs::write(path(".key"), key.serialize_pem()).expect("written");
            text += &format!("[[tls.certificates]]\nchain='{name}.pem'\nkey='{name}.key'\n");
            roots.push(certificate.der().clone());
        }
        let (rig, environment) = (Path::new("rig"), std::iter::empty());
        let config = config::load::parse(&text, rig, folder.path(), environment);
        let config = config.expect("a good configuration");
        let tls = TlsSettings::default();
        let tls_config = config.tls.clone().expect("has certificates");
        tls.put_in_force(tls.prepare(&tls_config).expect("good certificates"));
        let opened = ports::open(&config, &tls, resets).expect("ports");
        let shards = Shards::new(opened.outlets);
        let (issuer, issued) = sync_channel(65_536);
        let tokens = TokenKeys::parse(&BACKEND.1, AUDIENCE).expect("a good key");
        let tokens = Arc::new(ArcSwap::from_pointee(tokens));
        let room = if let Crypto::Stuck(room) = crypto { room } else { 65_536 };
        let (asking, asked) = sync_channel(room);
        let unchecked = match crypto {
            Crypto::Working => check_tokens(&shards, &tokens, asked),
            Crypto::Stuck(_) => Some(asked),
        };
        let context = SessionContext {
            node: Node::for_tests(1, KeySet::default()),
            gate: Arc::default(),
            registry: Arc::default(),
            shards: shards.clone(),
            issuer,
            crypto: vec![asking],
            tokens,
            policy: Arc::default(),
            orders: Arc::default(),
            reconnect: Arc::new(ArcSwap::from_pointee(None)),
            hint: Arc::new(ArcSwap::from_pointee(config.hint())),
            admission: config.admission.limits(),
            counters: Arc::default(),
        };
        let start = |(number, way): (usize, threads::Way)| {
            let context = SessionContext { counters: Arc::default(), ..context.clone() };
            let thread = u16::try_from(number).expect("few threads");
            let settings = super::shard_settings(&config, &context.node, thread, 1);
            thread::spawn(move || threads::run(&context, settings, way))
        };
        Self {
            threads: opened.ways.into_iter().enumerate().map(start).collect(),
            addresses: opened.addresses,
            shards,
            roots,
            context,
            tls,
            tls_config,
            unchecked,
            _issuer: issued,
            _folder: folder,
        }
    }

    /// Ends as a killed process does: sockets are closed, and nobody is told.
    pub(crate) fn kill(self) {
        self.end(&ToShard::Panic);
    }

    fn end(&self, how: &ToShard) {
        self.context.orders.stopping.store(true, Ordering::Relaxed);
        for number in 0..self.shards.count() {
            self.shards.send(u16::try_from(number).expect("few threads"), how.clone());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // After a kill it finds nobody.
        self.end(&ToShard::Stop);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread of sessions never panics outside of its guard");
        }
    }
}

/// A session token of `user` that a rig believes.
pub(crate) fn token(user: u64) -> Vec<u8> {
    let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let claims = serde_json::json!({ "sub": user.to_string(), "aud": AUDIENCE, "exp": u32::MAX });
    encode(&header, &claims, &BACKEND.0).expect("signs").into_bytes()
}

const KID: &str = "rig";
const AUDIENCE: &str = "yao";

/// The key of the app's backend, and what nodes know of it: the same in every process of a test.
static BACKEND: LazyLock<(EncodingKey, String)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
    let document = pair.to_pkcs8v1().expect("a document");
    let x = base64_url(pair.public_key().as_ref());
    let jwk = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "kid": KID, "x": x });
    let jwks = serde_json::json!({ "keys": [jwk] }).to_string();
    (EncodingKey::from_ed_der(document.as_ref()), jwks)
});

/// Who checks the tokens of a rig's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crypto {
    /// A crypto thread as in a node.
    Working,
    /// Nobody looks into the queue, which has room for so many.
    Stuck(usize),
}

/// Starts a crypto thread with nowhere to put opens: a rig has no spool. It takes the queue, so
/// that nobody else can look into it, and ends with the rig.
fn check_tokens(
    shards: &Shards,
    tokens: &Arc<ArcSwap<TokenKeys>>,
    queue: Receiver<ToCrypto>,
) -> Option<Receiver<ToCrypto>> {
    let (spool, _) = sync_channel(0);
    let context = CryptoContext {
        node: Node::for_tests(1, KeySet::default()),
        tokens: Arc::clone(tokens),
        shards: shards.clone(),
        spool,
        counters: Arc::default(),
    };
    thread::spawn(move || crypto::run(&context, &queue));
    None
}
