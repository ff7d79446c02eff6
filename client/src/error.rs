//! What can go wrong, and whose turn it is to act. Errors are plain data: they can be cloned,
//! compared and shown.

use std::io;
use thiserror::Error;
use yao_protocol::{
    CampaignId, WireError,
    client::{ErrorCode, GoAwayReason},
};

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The app: its configuration, its token, its use of the SDK.
    App,
    /// This device: its disk.
    Device,
    /// The network between here and the node. The client retries by itself.
    Network,
    /// The server: it refused, or broke the protocol.
    Server,
}

/// Why a connection ended, or why the client stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The app asked for it. Not a fault.
    #[error("closed by the app")]
    Closed,
    /// The configuration cannot work.
    #[error("client configuration: {0}")]
    Config(&'static str),
    /// The app's token provider failed.
    #[error("the app gave no session token: {0}")]
    Token(String),
    /// The server wants a new token and the app gave only one.
    #[error("the session token was refused and there is no provider to ask for another one")]
    TokenRefused,
    /// The store failed; nothing more is promised about what it holds.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    /// The connection could not be made, or broke.
    #[error("the connection to {endpoint} failed: {reason}")]
    Link {
        /// The endpoint, "host:port".
        endpoint: String,
        /// What the system said.
        reason: LinkError,
    },
    /// Nothing was heard in time.
    #[error("the server was silent for {after_ms} ms while the client waited for {waiting_for}")]
    Silent {
        /// What should have come.
        waiting_for: &'static str,
        /// How long the client waited, ms.
        after_ms: u64,
    },
    /// The server sent something that the protocol forbids.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The server refused the session.
    #[error("the server refused: {0:?}")]
    Refused(ErrorCode),
    /// The server asked the client to leave.
    #[error("the server asked the client to leave: {0:?}")]
    GoAway(GoAwayReason),
    /// The node could not store opens; another one may.
    #[error("the node cannot store opens now")]
    OpenUnavailable,
}

impl Error {
    /// Who has to act.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Closed | Self::Config(_) | Self::Token(_) | Self::TokenRefused => Blame::App,
            Self::Store(error) => error.blame(),
            Self::Link { .. } | Self::Silent { .. } => Blame::Network,
            Self::Refused(ErrorCode::Version | ErrorCode::AuthFailed) => Blame::App,
            Self::Refused(ErrorCode::WrongCampaign) => Blame::App,
            Self::Protocol(_) | Self::Refused(_) | Self::GoAway(_) | Self::OpenUnavailable => {
                Blame::Server
            }
        }
    }
}

/// What the server did that the protocol forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// Bytes that are no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A message that has no place in this state of the session.
    #[error("{message} came {when}")]
    Unexpected {
        /// The message.
        message: &'static str,
        /// The state of the session.
        when: &'static str,
    },
    /// A ticket, receipt or welcome for a campaign that the client does not take part in.
    #[error("{message} is for campaign {campaign}, not for the client's own")]
    OtherCampaign {
        /// The message.
        message: &'static str,
        /// The campaign it names.
        campaign: CampaignId,
    },
    /// A receipt that names another user than the ticket.
    #[error("a receipt names another user than the ticket it answers")]
    OtherUser,
    /// More tickets than any campaign allows a user.
    #[error("the server sent more tickets than any campaign allows one user")]
    TooManyTickets,
}

/// Why the connection failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The peer closed it.
    #[error("closed by the server")]
    Closed,
    /// It could not be made in time.
    #[error("no connection within {0} ms")]
    Timeout(u64),
    /// The name has no address of the right family.
    #[error("no usable address")]
    Address,
    /// The resolver knows no address of the name, or does not answer.
    #[error("the name was not resolved: {0}")]
    Name(String),
    /// The peer stopped reading.
    #[error("the server does not read: {0} bytes are waiting")]
    Backlog(usize),
    /// The handshake of TLS failed, or its records do: the server's certificate is not trusted,
    /// or somebody is in between.
    #[error("TLS: {0}")]
    Tls(String),
    /// The endpoint wants TLS or QUIC, and the configuration has no roots to trust.
    #[error("the configuration names nobody to trust; set `trust`")]
    NoTrust,
    /// QUIC ended the connection.
    #[error("QUIC: {0}")]
    Quic(String),
    /// The app said that the network changed while the connection was being made.
    #[error("the network changed")]
    NetworkChanged,
    /// Nothing at all came over the network for so long, although an answer was due.
    #[error("the network was silent for {0} ms")]
    Silent(u64),
    /// The operating system's word.
    #[error("{message}")]
    Io {
        /// Its kind.
        kind: io::ErrorKind,
        /// Its text.
        message: String,
    },
}

impl LinkError {
    /// Whether it says nothing about the node: the device has no network, no such local address, or
    /// no address of the node to go to.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable};
        match self {
            Self::Address | Self::Name(_) => true,
            Self::Io { kind, .. } => matches!(
                kind,
                AddrNotAvailable | HostUnreachable | NetworkDown | NetworkUnreachable
            ),
            _ => false,
        }
    }

    /// Of this and a later failure of the same attempt the one to tell: what a node said counts
    /// for more than that there was no way to another of its addresses.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        if later.is_own() && !self.is_own() { self } else { later }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }
}

/// Why the store cannot be used (any more).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The disk refused. After this the store refuses everything: what a failed write or flush
    /// left behind is unknown, so trying again would only look like success.
    #[error("{action} {path}: {message}; restart the app to read what is really on disk")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's word.
        message: String,
    },
    /// Another process uses the file.
    #[error("{path} is in use by another process; give each client a file of its own")]
    Locked {
        /// The file.
        path: String,
    },
    /// The file belongs to another campaign.
    #[error("{path} holds campaign {campaign}; give each campaign and user a file of its own")]
    OtherCampaign {
        /// The file.
        path: String,
        /// The campaign it holds.
        campaign: CampaignId,
    },
    /// The file is no store, or was damaged in the middle.
    #[error("{path} is damaged: {reason}; move it away to start with what the server still knows")]
    Damaged {
        /// The file.
        path: String,
        /// What does not fit.
        reason: WireError,
    },
}

impl StoreError {
    /// Who has to act.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Locked { .. } | Self::OtherCampaign { .. } => Blame::App,
            Self::Io { .. } | Self::Damaged { .. } => Blame::Device,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_spoke_counts_for_more_than_an_address_without_a_way() {
        let io = |kind| LinkError::Io { kind, message: String::new() };
        let own = [
            LinkError::Address,
            LinkError::Name("none".to_owned()),
            io(io::ErrorKind::NetworkUnreachable),
            io(io::ErrorKind::HostUnreachable),
            io(io::ErrorKind::NetworkDown),
            io(io::ErrorKind::AddrNotAvailable),
        ];
        let of_the_node = [
            io(io::ErrorKind::ConnectionRefused),
            io(io::ErrorKind::ConnectionReset),
            LinkError::Closed,
            LinkError::Timeout(1),
            LinkError::Tls("bad".to_owned()),
        ];
        for own in &own {
            assert!(own.is_own());
            for other in &of_the_node {
                assert!(!other.is_own());
                assert_eq!(own.clone().or(other.clone()), *other);
                assert_eq!(other.clone().or(own.clone()), *other);
            }
        }
        let [.., first, last] = of_the_node;
        assert_eq!(first.or(last.clone()), last);
    }
}
