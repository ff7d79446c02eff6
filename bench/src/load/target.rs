//! Whom the load is aimed at and as whom: addresses, session tokens, user ids, source addresses.

use super::trust;
use crate::identity::{KEY_ID, Minter, unix_seconds};
use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
};
use yao_protocol::{
    CampaignId, UserId,
    endpoint::{Endpoint, Transports},
};

/// Longer than any run.
const TOKEN_LIFETIME_SECONDS: u64 = 24 * 3_600;
/// The options that every load shares.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Node to connect to: host:port, or tls://host:port, or quic://host:port
    #[arg(long)]
    pub(crate) addr: Endpoint,
    /// CA that signs the node's certificate, PEM (see `netbench certificates`); for TLS and QUIC
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    /// Private key that mints the session tokens (PEM, see `netbench keys`)
    #[arg(long)]
    pub(crate) session_key: Option<PathBuf>,
    /// Key id in the tokens' headers
    #[arg(long, default_value = KEY_ID)]
    pub(crate) kid: String,
    /// Audience of the tokens
    #[arg(long, default_value = "yao")]
    pub(crate) audience: String,
    /// Campaign to take part in
    #[arg(long, default_value_t = 1)]
    pub(crate) campaign: u64,
    /// User id of the first connection; the others follow
    #[arg(long, default_value_t = 1)]
    pub(crate) first_user: u64,
}

/// Whom to connect to.
pub(crate) struct Target {
    /// As it was named.
    pub(super) endpoint: Endpoint,
    pub(super) address: SocketAddr,
    /// Settings and the name that the certificate must bear; `None`: plain TCP.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    session: Option<(Minter, String)>,
    /// The campaign named in HELLO and SHAKE.
    pub(crate) campaign: CampaignId,
    next_user: u64,
}

impl Target {
    /// The node that `args` name, with its identity provider's key.
    ///
    /// # Errors
    /// A name that does not resolve, or no usable session key.
    pub(crate) fn node(args: &TargetArgs) -> Result<Self> {
        let Some(path) = &args.session_key else {
            bail!("--session-key is missing; `netbench keys --out D` makes D/session.key.pem");
        };
        let minter = Minter::from_pem_file(path, &args.kid)?;
        Ok(Self {
            address: resolve(&args.addr)?,
            tls: node_tls(&args.addr, args.ca.as_deref())?,
            endpoint: args.addr.clone(),
            session: Some((minter, args.audience.clone())),
            campaign: CampaignId(args.campaign),
            next_user: args.first_user,
        })
    }

    /// A server that sends each 32 bytes back: no session, no users.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub(crate) fn echo(endpoint: &Endpoint) -> Result<Self> {
        let tls = match endpoint.transports {
            Transports::Tcp => None,
            other => {
                let config = Arc::new(trust::echo(other == Transports::Quic)?);
                Some((config, ServerName::try_from("localhost")?))
            }
        };
        Ok(Self {
            address: resolve(endpoint)?,
            endpoint: endpoint.clone(),
            tls,
            session: None,
            campaign: CampaignId(0),
            next_user: 0,
        })
    }

    /// The same target for clients that resume no TLS session: each handshake is a full one.
    pub(crate) fn forgetful(mut self) -> Self {
        if let Some((config, _)) = &mut self.tls {
            *config = Arc::new(trust::forgetful(ClientConfig::clone(config)));
        }
        self
    }

    /// As it was named.
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The name that the certificate must bear.
    pub(super) fn server_name(&self) -> String {
        self.tls.as_ref().map_or_else(String::new, |(_, name)| name.to_str().into_owned())
    }

    /// Whether connections greet and frames are Yao's.
    pub(crate) const fn has_sessions(&self) -> bool {
        self.session.is_some()
    }

    /// A user that was not handed out before.
    pub(crate) const fn next_user(&mut self) -> UserId {
        let user = UserId(self.next_user);
        self.next_user += 1;
        user
    }

    /// How many users were handed out.
    pub(crate) const fn users_until(&self) -> u64 {
        self.next_user
    }

    /// A session token for `user`.
    pub(crate) fn token(&self, user: UserId) -> String {
        let (minter, audience) = self.session.as_ref().expect("only nodes are greeted");
        minter.mint(user, audience, TOKEN_LIFETIME_SECONDS, unix_seconds())
    }
}

fn node_tls(
    endpoint: &Endpoint,
    ca: Option<&Path>,
) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
    if endpoint.transports == Transports::Tcp {
        return Ok(None);
    }
    let Some(ca) = ca else {
        bail!("--ca is missing: {endpoint} shows a certificate, and this is whose to believe");
    };
    let name = ServerName::try_from(endpoint.host.clone())
        .with_context(|| format!("--addr {endpoint}: no name that a certificate could bear"))?;
    Ok(Some((Arc::new(trust::believing(ca)?), name)))
}

fn resolve(endpoint: &Endpoint) -> Result<SocketAddr> {
    let mut addresses = endpoint
        .address()
        .to_socket_addrs()
        .with_context(|| format!("--addr {endpoint}: the host is not known"))?;
    addresses.next().with_context(|| format!("--addr {endpoint} has no address"))
}
