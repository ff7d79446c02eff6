//! A node's threads of sessions without its money: real sockets and certificates, and a crypto
//! thread that believes any token that is a decimal user id.

use super::{
    ports::{self, Addresses},
    threads,
};
use crate::{
    config::{self, TlsConfig},
    messages::{ToCrypto, ToIssuer, ToShard},
    node::{Node, Shards},
    quic::ResetSecret,
    sessions::SessionContext,
    tls::TlsSettings,
};
use arc_swap::ArcSwap;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
};
use yao_protocol::{CampaignId, UserId, WallTime, keys::KeySet, token::Identity};

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
    /// What the sessions told the issuer, who is nobody here.
    _issuer: Receiver<ToIssuer>,
    threads: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Starts the threads that `listen`, the body of the section of that name, asks for.
    pub(crate) fn start(listen: &str) -> Self {
        Self::start_with(listen, &ResetSecret::derive(&Node::TEST_TICKET_SEED))
    }

    /// The same for a node with `resets`.
    pub(crate) fn start_with(listen: &str, resets: &ResetSecret) -> Self {
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
        let environment = std::iter::empty();
        let config = config::load::parse(&text, Path::new("rig"), folder.path(), environment);
        let config = config.expect("a good configuration");
        let tls = TlsSettings::default();
        let tls_config = config.tls.clone().expect("has certificates");
        tls.put_in_force(tls.prepare(&tls_config).expect("good certificates"));
        let opened = ports::open(&config, &tls, resets).expect("ports");
        let shards = Shards::new(opened.outlets);
        let (issuer, issued) = sync_channel(65_536);
        let context = SessionContext {
            node: Node::for_tests(1, KeySet::default()),
            gate: Arc::default(),
            registry: Arc::default(),
            shards: shards.clone(),
            issuer,
            crypto: vec![believer(&shards)],
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
        let threads = opened.ways.into_iter().enumerate().map(start).collect();
        let addresses = opened.addresses;
        Self {
            addresses,
            shards,
            roots,
            context,
            tls,
            tls_config,
            _issuer: issued,
            threads,
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

/// Answers every token at once: a decimal number is that user.
fn believer(shards: &Shards) -> std::sync::mpsc::SyncSender<ToCrypto> {
    let (sender, queue) = sync_channel(65_536);
    let shards = shards.clone();
    thread::spawn(move || {
        for message in queue {
            if let ToCrypto::Token { connection, token } = message {
                let user = std::str::from_utf8(&token).ok().and_then(|text| text.parse().ok());
                let identity = user.map(|user| Identity {
                    user: UserId(user),
                    device: 0,
                    risk: 0,
                    expires_at: WallTime(u64::MAX),
                });
                let answer = ToShard::TokenChecked { connection, identity };
                shards.send(connection.thread, answer);
            }
        }
    });
    sender
}
