//! `netbench token`: mints session tokens for tests, shows what a token or reconnect ticket says,
//! and makes keys for both. For tests and for people who ask why a client is refused; a backend
//! mints its own. Never talks to a node.

mod show;

use crate::identity::{KEY_ID, KeyKind, Minter, create_keys_of, unix_seconds, write_private};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};
use yao_protocol::{limits::TOKEN_BYTES_MAX, reconnect::ReconnectKeyEntry, token::TokenClaims};

/// Mint, show, and make keys for session tokens
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Mint a session token and print it
    Mint(MintArgs),
    /// Say what a token claims and what a node would make of it
    Show(show::ShowArgs),
    /// Make a key pair: `session.key.pem` and `session.jwks.json`. What is there already is kept
    Keys {
        /// Folder that gets both files
        #[arg(long)]
        out: PathBuf,
        /// What the key signs with
        #[arg(long, default_value = "EdDSA")]
        algorithm: KeyKind,
        /// The key id
        #[arg(long, default_value = KEY_ID)]
        kid: String,
    },
    /// Make a file for `identity.reconnect.keys` with one new key
    ReconnectKeys {
        /// The file; it must not be there yet
        #[arg(long)]
        out: PathBuf,
        /// The key id
        #[arg(long, default_value_t = 1)]
        id: u32,
    },
}

/// What a token shall say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MintArgs {
    /// Private key (PKCS #8 PEM), Ed25519 or P-256
    #[arg(long)]
    key: PathBuf,
    /// The key id under which nodes know it
    #[arg(long, default_value = KEY_ID)]
    kid: String,
    /// The user, `sub`
    #[arg(long)]
    user: u64,
    /// For so many users, from that one on: a token on each line
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// For whom the token is, `aud`
    #[arg(long, default_value = "yao")]
    audience: String,
    /// Life from now on, seconds; negative for a token that has expired
    #[arg(long, default_value_t = 3_600, allow_negative_numbers = true)]
    seconds: i64,
    /// The device
    #[arg(long, default_value_t = 0)]
    device: u64,
    /// The risk class
    #[arg(long, default_value_t = 0)]
    risk: u8,
}

/// Does what `command` says.
///
/// # Errors
/// A file that cannot be read or written, or that is not what it should be.
pub(crate) fn run(command: &TokenCommand) -> Result<()> {
    let now = unix_seconds();
    let text = match command {
        TokenCommand::Mint(args) => mint(args, now)?,
        TokenCommand::Show(args) => show::show(args, now)?,
        TokenCommand::Keys { out, algorithm, kid } => {
            create_keys_of(out, *algorithm, kid)?;
            return Ok(());
        }
        TokenCommand::ReconnectKeys { out, id } => return create_reconnect_keys(out, *id),
    };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn mint(args: &MintArgs, now: u64) -> Result<String> {
    let minter = Minter::from_pem_file(&args.key, &args.kid)?;
    let end = args.user.checked_add(args.count).context("--user plus --count is no user")?;
    let tokens: Result<Vec<String>> =
        (args.user..end).map(|user| mint_for(args, &minter, user, now)).collect();
    Ok(tokens?.join("\n"))
}

fn mint_for(args: &MintArgs, minter: &Minter, user: u64, now: u64) -> Result<String> {
    let claims = TokenClaims {
        sub: user.to_string(),
        aud: args.audience.clone(),
        exp: now.saturating_add_signed(args.seconds),
        iat: now.min(now.saturating_add_signed(args.seconds)),
        nbf: 0,
        device: args.device,
        risk: args.risk,
    };
    let token = minter.sign(&claims)?;
    if token.len() > TOKEN_BYTES_MAX {
        bail!("the token has {} bytes, a HELLO carries {TOKEN_BYTES_MAX}", token.len());
    }
    Ok(token)
}

fn create_reconnect_keys(out: &std::path::Path, id: u32) -> Result<()> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|error| anyhow!("the operating system gives no randomness: {error}"))?;
    let text = serde_json::to_string_pretty(&[ReconnectKeyEntry { id, key }])?;
    write_private(out, format!("{text}\n").as_bytes())
        .with_context(|| format!("cannot make {}", out.display()))
}

/// The text of `place`: of the file of that name, or else the word itself.
fn text_or_file(place: &str) -> Result<Vec<u8>> {
    match fs::read(place) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place.as_bytes().to_vec()),
        // A token is too long for a file name.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            Ok(place.as_bytes().to_vec())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {place}")),
    }
}
