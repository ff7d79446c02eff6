//! The node's configuration: every key, its default, its unit and its range. The comments here are
//! the documentation of the keys; `docs/config.md` lists them. Loading is in [`load`].

pub mod load;
mod network;

pub use network::Network;

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};
use yao_engine::{admission::AdmissionLimits, shard::Hint};

/// The longest silence that a node may allow, ms. QUIC itself ends a silent connection at the
/// lesser of its two ends' figures: 3,700 s here (`quic/settings.rs`), 1,800 s in the SDK
/// (`client/src/limits.rs`). A heartbeat must come well before, or sessions end without a word.
pub const HEARTBEAT_MS_MAX: u32 = 1_500_000;

/// The whole file. Every key can also be set by the environment: `YAO__SECTION__KEY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this node is.
    pub node: NodeConfig,
    /// Where clients connect.
    pub listen: ListenConfig,
    /// Who may come in before it is known who he is.
    #[serde(default)]
    pub admission: AdmissionConfig,
    /// Certificates for TLS and QUIC; a reload reads them again.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// The seed shard and what belongs to it.
    pub shard: ShardConfig,
    /// How sessions are believed.
    pub identity: IdentityConfig,
    /// What clients are told and held to.
    #[serde(default)]
    pub session: SessionConfig,
    /// The durable queue of accepted opens.
    #[serde(default)]
    pub spool: SpoolConfig,
    /// The agent process; without this section there is none, and opens wait in the spool.
    #[serde(default)]
    pub agent: Option<AgentConfig>,
    /// The operators' HTTP port.
    #[serde(default)]
    pub admin: AdminConfig,
    /// How the node is drained.
    #[serde(default)]
    pub drain: DrainConfig,
}

impl Config {
    /// What clients are told that shall go elsewhere.
    #[must_use]
    pub fn hint(&self) -> Hint {
        Hint {
            return_ms_min: self.drain.return_ms_min,
            return_ms_jitter: self.drain.return_ms_jitter,
            overload_ms_min: self.admission.return_ms_min,
            overload_ms_jitter: self.admission.return_ms_jitter,
            endpoints: self.listen.endpoints.clone(),
        }
    }
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name in logs and metrics.
    pub name: String,
    /// Directory of cursor, journal, spool and ticket key. One node owns it.
    pub state: PathBuf,
    /// Directory of public keys, `*.pub.json`.
    pub keys: PathBuf,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Addresses for plain TCP; port 0 takes a free one.
    #[serde(default)]
    pub tcp: Vec<SocketAddr>,
    /// Addresses for TLS 1.3 over TCP; they need a `[tls]` section.
    #[serde(default)]
    pub tls: Vec<SocketAddr>,
    /// Addresses (UDP) for QUIC; they need a `[tls]` section.
    #[serde(default)]
    pub quic: Vec<SocketAddr>,
    /// Shard threads; 0 = one per core.
    #[serde(default)]
    pub threads: u16,
    /// Threads for each address of `quic`; 0 = one per core, at most 64.
    #[serde(default)]
    pub quic_threads: u16,
    /// Connections the node holds at most: so many over TCP and TLS, and as many over QUIC.
    #[serde(default = "connections_max")]
    pub connections_max: u32,
    /// Addresses of other nodes that clients are told, "host:port", at most 8; a reload changes
    /// them.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Balancers, as blocks of addresses, at most 64: their TCP connections begin with a header of
    /// the PROXY protocol, version 2. Nobody else's may.
    #[serde(default)]
    pub proxy_from: Vec<Network>,
}

/// Budgets of connections whose session is not open yet; of the whole node, spread evenly over the
/// threads of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Connections that are not open, at most, over TCP and TLS.
    pub connections_max: u32,
    /// Newcomers a second, sustained.
    pub handshakes_per_second: u32,
    /// Newcomers at once, after a time of rest.
    pub burst: u32,
    /// Not open, or come within a second, from one address (IPv4, or the /64 of IPv6), before it
    /// is refused first when a budget is nearly used up.
    pub per_address: u32,
    /// Clients for whom there is no room wait at least this long before they come back, ms. A
    /// reload changes it.
    pub return_ms_min: u32,
    /// And up to this much longer, ms. A reload changes it.
    pub return_ms_jitter: u32,
}

impl AdmissionConfig {
    /// As the engine wants them.
    #[must_use]
    pub const fn limits(&self) -> AdmissionLimits {
        AdmissionLimits {
            connections_max: self.connections_max,
            handshakes_per_second: self.handshakes_per_second,
            burst: self.burst,
            per_address: self.per_address,
        }
    }
}

/// Certificates for TLS and QUIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// In order of preference; a client gets the first whose signature it understands.
    pub certificates: Vec<CertificateConfig>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM file with the chain, the server's own certificate first.
    pub chain: PathBuf,
    /// PEM file with its private key (PKCS#8), Ed25519 or P-256.
    pub key: PathBuf,
}

/// The seed shard and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardConfig {
    /// The sealed seed file.
    pub seed: PathBuf,
    /// Its shard key file, mode 0600.
    pub key: PathBuf,
    /// The campaign's signed manifest.
    pub manifest: PathBuf,
    /// The schedule: when each wave starts.
    pub schedule: PathBuf,
    /// Who says which packets this node may issue (M4).
    #[serde(default)]
    pub ownership: Ownership,
    /// Directory in memory (tmpfs), such as /run/yao, which remembers the newest cursors: with it a
    /// node that is started again in the same boot needs nobody's word, and a state directory that
    /// was put back is noticed.
    #[serde(default)]
    pub witness: Option<PathBuf>,
    /// What a node asks for after a reboot, in fleet mode.
    #[serde(default)]
    pub after_reboot: AfterReboot,
}

/// How a node comes by the right to its shard (M4).
#[derive(Clone, Debug, Default)]
pub struct Owning {
    /// `shard.ownership`.
    pub ownership: Ownership,
    /// `shard.witness`.
    pub witness: Option<PathBuf>,
    /// `shard.after_reboot`.
    pub after_reboot: AfterReboot,
}

impl ShardConfig {
    /// How this node comes by its right.
    #[must_use]
    pub fn owning(&self) -> Owning {
        let Self { ownership, after_reboot, .. } = *self;
        Owning { ownership, witness: self.witness.clone(), after_reboot }
    }
}

/// Who says which packets a node may issue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// Its own state directory: nobody else has this shard.
    #[default]
    Local,
    /// Settlement, by grants; needs an `[agent]`.
    Fleet,
}

/// What a node asks for after a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AfterReboot {
    /// To go on where its disk says that it stopped.
    #[default]
    Resume,
    /// For packets that were granted to nobody, whatever its disk says.
    Burn,
}

/// How sessions are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// JWKS file with the public keys of the app's backend.
    pub jwks: PathBuf,
    /// What `aud` of a session token must be.
    #[serde(default = "audience")]
    pub audience: String,
    /// Threads that check tokens and tickets.
    #[serde(default = "crypto_threads")]
    pub threads: u16,
    /// Reconnect tickets; without this section there are none, and every return shows the session
    /// token.
    #[serde(default)]
    pub reconnect: Option<ReconnectConfig>,
}

/// Reconnect tickets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconnectConfig {
    /// JSON list of keys, the same on every node: the first signs, all verify. Mode 0600.
    pub keys: PathBuf,
    /// Life of a ticket, seconds, 600 to 1,800.
    #[serde(default = "reconnect_lifetime_seconds")]
    pub lifetime_seconds: u32,
}

/// What clients are told and held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// Least time between two shakes of a connection, ms; 0 = no limit.
    pub shake_interval_ms: u32,
    /// Least time between two PINGs, ms.
    pub heartbeat_ms_min: u32,
    /// Silence after which a connection is closed, ms; [`HEARTBEAT_MS_MAX`] at most.
    pub heartbeat_ms_max: u32,
    /// Time for the handshake of TLS or QUIC, ms.
    pub handshake_ms_max: u32,
    /// Time for the first whole frame, ms.
    pub greeting_ms_max: u32,
    /// Time for any whole frame, ms.
    pub frame_ms_max: u32,
}

/// The durable queue of accepted opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Opens are collected this long before one fsync serves them all, microseconds.
    pub commit_us_max: u64,
    /// Or until this many bytes are waiting.
    pub commit_bytes_max: usize,
    /// Bytes of segments that are kept; settled ones go first, unsettled ones never. By this the
    /// spool's fullness is measured.
    pub bytes_max: u64,
    /// Batches that are under way to settlement at once.
    pub batches_in_flight_max: usize,
    /// Opens of the backlog that are delivered in a second, at most; 0 = 1.5 times the plan's
    /// highest rate, and at least 100.
    pub backlog_per_second: u32,
    /// A directory on another disk, where opens are stored once the spool's own has failed.
    pub fallback: Option<PathBuf>,
}

/// The agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The program to start.
    pub program: PathBuf,
    /// Its own configuration file.
    pub config: PathBuf,
    /// Unix socket on which the node waits for it. At most 107 bytes.
    pub socket: PathBuf,
    /// Time for a verdict before it counts as yes, ms.
    #[serde(default = "vet_ms_max")]
    pub vet_ms_max: u32,
    /// Time for a newcomer to prove itself, ms.
    #[serde(default = "prove_ms_max")]
    pub prove_ms_max: u32,
    /// Time for a replaced agent to drain before it is ended, ms.
    #[serde(default = "leave_ms_max")]
    pub leave_ms_max: u32,
}

/// The operators' HTTP port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Loopback address; port 0 takes a free one. There is no login: other addresses are refused.
    pub listen: SocketAddr,
    /// Whether `POST /fail-point/...` may break things, for rehearsals.
    pub fail_points: bool,
}

/// How the node is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Clients asked to leave each second, of the whole node. At least 1.
    pub per_second: u32,
    /// After this long the rest is cut, seconds.
    pub deadline_seconds: u32,
    /// Clients that are asked to leave, or are not let in, wait at least this long before they come
    /// back, ms.
    pub return_ms_min: u32,
    /// And up to this much longer, ms.
    pub return_ms_jitter: u32,
}

const fn connections_max() -> u32 {
    1_000_000
}

fn audience() -> String {
    "yao".to_owned()
}

const fn crypto_threads() -> u16 {
    1
}

const fn reconnect_lifetime_seconds() -> u32 {
    1_200
}

const fn vet_ms_max() -> u32 {
    20
}

const fn prove_ms_max() -> u32 {
    3_000
}

const fn leave_ms_max() -> u32 {
    5_000
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            shake_interval_ms: 1_000,
            heartbeat_ms_min: 15_000,
            heartbeat_ms_max: 300_000,
            handshake_ms_max: 5_000,
            greeting_ms_max: 3_000,
            frame_ms_max: 5_000,
        }
    }
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        // The 550,000 clients that a node expects (DESIGN.md 1) are back within a minute, at a
        // core's cost in handshakes of 100 us. What all who wait may hold: 4 KiB each, and
        // 3.5 KiB more with TLS.
        Self {
            connections_max: 50_000,
            handshakes_per_second: 10_000,
            burst: 20_000,
            per_address: 100,
            // Half a minute, as an SDK's own longest wait: at 10,000 a second 300,000 clients fit
            // in, more than half of those a node expects.
            return_ms_min: 5_000,
            return_ms_jitter: 25_000,
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            commit_us_max: 2_000,
            commit_bytes_max: 256 * 1024,
            bytes_max: 2 * 1024 * 1024 * 1024,
            batches_in_flight_max: 4,
            backlog_per_second: 0,
            fallback: None,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9_638)), fail_points: false }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            per_second: 1_000,
            deadline_seconds: 60,
            return_ms_min: 1_000,
            return_ms_jitter: 10_000,
        }
    }
}
