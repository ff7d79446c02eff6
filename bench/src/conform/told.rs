//! What whoever set the server up says of it: its times, its keys, and in which way it is not
//! ordinary. What is not said is not asked.

use anyhow::{Context, Result, bail};
use jsonwebtoken::EncodingKey;
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    KeyId,
    keys::{KeyOwner, MacKey, PrivateKeyFile},
    reconnect::ReconnectKeyEntry,
};

use crate::identity::KEY_ID;

/// How the server is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Told {
    /// Time that the server gives for a handshake, ms
    #[arg(long, default_value_t = 5_000)]
    pub(super) handshake_ms: u64,
    /// Time that the server gives for HELLO, ms
    #[arg(long, default_value_t = 3_000)]
    pub(super) greeting_ms: u64,
    /// Time that the server gives for a frame, ms
    #[arg(long, default_value_t = 5_000)]
    pub(super) frame_ms: u64,
    /// How much later than wire.md allows a deadline may be heard, ms
    #[arg(long, default_value_t = 2_000)]
    pub(super) slack_ms: u64,
    /// When clients that are asked to leave may return, ms: least
    #[arg(long, default_value_t = 1_000)]
    pub(super) return_ms: u32,
    /// And so much longer, ms
    #[arg(long, default_value_t = 10_000)]
    pub(super) return_jitter_ms: u32,
    /// No wave runs
    #[arg(long)]
    pub(super) no_wave: bool,
    /// Reconnect tickets live so short, seconds, that half of it can be waited for
    #[arg(long)]
    pub(super) reconnect_seconds: Option<u64>,
    /// Policy bans this user
    #[arg(long)]
    pub(super) banned_user: Option<u64>,
    /// The spool takes no opens
    #[arg(long)]
    pub(super) spool: Option<Spool>,
    /// The agent is silent: wins and opens wait for their verdict as long as they may
    #[arg(long)]
    pub(super) agent_paused: bool,
    /// So many sessions have room
    #[arg(long)]
    pub(super) sessions_max: Option<usize>,
    /// So many connections may be without a session
    #[arg(long)]
    pub(super) newcomers_max: Option<usize>,
    /// Less than so many connections use up the server's descriptors
    #[arg(long)]
    pub(super) descriptors_max: Option<usize>,
    /// What happens to the server at the end of the run
    #[arg(long, requires = "ending_command")]
    pub(super) ending: Option<Ending>,
    /// Command (for `sh -c`) that makes it happen
    #[arg(long, requires = "ending")]
    pub(super) ending_command: Option<String>,
    /// With `--ending cut`: how long the drain waits before it cuts, seconds
    #[arg(long, default_value_t = 1)]
    pub(super) drain_seconds: u64,
}

/// Why a spool takes no opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Spool {
    /// No byte of room
    Full,
    /// The first open fences it
    Fenced,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ending {
    /// It drains, and all clients are asked at once
    Drain,
    /// It drains too slowly, and cuts whoever is left
    Cut,
    /// The thread, or the process, with the sessions dies
    Crash,
}

/// Where keys are.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// Private key that mints the session tokens (PEM, see `netbench keys`)
    #[arg(long)]
    pub(super) key: PathBuf,
    /// Key id in the tokens' headers
    #[arg(long, default_value = KEY_ID)]
    pub(super) kid: String,
    /// Audience of the tokens
    #[arg(long, default_value = "yao")]
    pub(super) audience: String,
    /// A second such key, of P-256
    #[arg(long, requires = "es256_kid")]
    es256_key: Option<PathBuf>,
    /// Its key id
    #[arg(long, requires = "es256_key")]
    es256_kid: Option<String>,
    /// The server's private ticket key: tickets of every kind can be made with it
    #[arg(long)]
    ticket_key: Option<PathBuf>,
    /// A private ticket key of another shard, whose public half the server has
    #[arg(long)]
    other_ticket_key: Option<PathBuf>,
    /// The server's keys of reconnect tickets
    #[arg(long)]
    reconnect_keys: Option<PathBuf>,
}

/// Keys that a client does not have.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) es256: Option<(EncodingKey, String)>,
    pub(super) ticket: Option<PrivateKeyFile>,
    pub(super) other_ticket: Option<PrivateKeyFile>,
    pub(super) reconnect: Option<MacKey>,
}

impl KeyArgs {
    /// Reads what there is.
    ///
    /// # Errors
    /// A file that is missing, or is no key of its kind.
    pub(super) fn read(&self) -> Result<Keys> {
        let es256 = match self.es256_key.as_deref().zip(self.es256_kid.clone()) {
            Some((path, kid)) => Some((p256(path)?, kid)),
            None => None,
        };
        Ok(Keys {
            es256,
            ticket: self.ticket_key.as_deref().map(ticket).transpose()?,
            other_ticket: self.other_ticket_key.as_deref().map(ticket).transpose()?,
            reconnect: self.reconnect_keys.as_deref().map(reconnect).transpose()?,
        })
    }
}

fn p256(path: &Path) -> Result<EncodingKey> {
    let pem = fs::read(path).with_context(|| path.display().to_string())?;
    EncodingKey::from_ec_pem(&pem).with_context(|| format!("{} is no P-256 key", path.display()))
}

fn ticket(path: &Path) -> Result<PrivateKeyFile> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: PrivateKeyFile = serde_json::from_str(&text)
        .with_context(|| format!("{} is no private key", path.display()))?;
    if !matches!(file.owner, KeyOwner::Ticket { .. }) {
        bail!("{} is no ticket key", path.display());
    }
    Ok(file)
}

/// The one that signs.
fn reconnect(path: &Path) -> Result<MacKey> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let entries: Vec<ReconnectKeyEntry> = serde_json::from_str(&text)
        .with_context(|| format!("{} is no list of reconnect keys", path.display()))?;
    let first = entries.first().with_context(|| format!("{} has no key", path.display()))?;
    Ok(MacKey::new(KeyId(first.id), first.key))
}
