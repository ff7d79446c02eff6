//! Whom the load is aimed at and as whom: addresses, session tokens, user ids, source addresses.

use crate::identity::{KEY_ID, Minter};
use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use yao_protocol::{CampaignId, UserId};

/// Connections per source address: far below the 28,000 ephemeral ports that each has, so that
/// ports never bind even when connections come and go.
const CONNECTIONS_PER_ADDRESS: usize = 2_048;
/// Longer than any run.
const TOKEN_LIFETIME_SECONDS: u64 = 24 * 3_600;
/// RST instead of FIN, so that a closed connection leaves no TIME_WAIT behind.
const LINGER: Option<Duration> = Some(Duration::ZERO);

/// The options that every load shares.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// Node to connect to, "host:port"
    #[arg(long)]
    pub(crate) addr: String,
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
    address: SocketAddr,
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
            session: Some((minter, args.audience.clone())),
            campaign: CampaignId(args.campaign),
            next_user: args.first_user,
        })
    }

    /// A server that sends each 32 bytes back: no session, no users.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub(crate) fn echo(address: &str) -> Result<Self> {
        let campaign = CampaignId(0);
        Ok(Self { address: resolve(address)?, session: None, campaign, next_user: 0 })
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (minter, audience) = self.session.as_ref().expect("only nodes are greeted");
        minter.mint(user, audience, TOKEN_LIFETIME_SECONDS, now)
    }

    /// Begins to connect the `index`-th connection.
    pub(crate) fn connect(&self, index: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(self.address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        if self.address.is_ipv4() && self.address.ip().is_loopback() {
            let number = index / CONNECTIONS_PER_ADDRESS;
            let third = u8::try_from(number % 256).expect("below 256");
            let source = IpAddr::V4(Ipv4Addr::new(127, 2, third, 1));
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(LINGER)?;
        match socket.connect(&SockAddr::from(self.address)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }
}

fn resolve(address: &str) -> Result<SocketAddr> {
    let mut addresses = address
        .to_socket_addrs()
        .with_context(|| format!("--addr {address:?} is not \"host:port\" of a known host"))?;
    addresses.next().with_context(|| format!("--addr {address:?} has no address"))
}
