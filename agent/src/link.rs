//! One unix socket to the access process: greeting, whole frames in, buffered frames out. Knows no
//! rule. A frame that is not of the contract ends the link: the access process is ours, and speaks
//! it or is not the one we were started by.

use std::{path::Path, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use yao_protocol::{
    WireError,
    agent::{FromAccess, FromAgent, Greet, Role, VERSION, VERSION_MIN},
    frame::{KIND_OPTIONAL, split_frame},
    limits::{AGENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES},
};

/// Time for the access process to answer a GREET. It answers in microseconds, or has refused us.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// Bytes read at once at most: one full frame.
const READ_BYTES: usize = AGENT_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES;

/// Why a link ended.
#[derive(Debug, Error)]
pub enum LinkError {
    /// No access process listens there.
    #[error("cannot connect to {path}: {source}; is the access process running?")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("the link to the access process broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The access process closed it.
    #[error("the access process closed the link")]
    Closed,
    /// GREET was not answered.
    #[error("the access process did not accept our greeting in time")]
    NotGreeted,
    /// It speaks none of our versions.
    #[error(
        "the access process wants version {0} of the link, we speak {VERSION_MIN} to {VERSION}"
    )]
    Version(u16),
    /// Bytes that are no message.
    #[error("the access process sent bytes that are no message: {0}")]
    Wire(#[from] WireError),
    /// A message that has no place on this socket, or at this time.
    #[error("the access process sent a {0} where none belongs")]
    Misplaced(&'static str),
}

/// A greeted socket.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    /// Received and not yet taken: less than a frame, but for what one read adds.
    received: Vec<u8>,
    /// Put and not yet sent.
    out: Vec<u8>,
}

impl Link {
    /// Connects to `path` and introduces this process.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open(path: &Path, greet: Greet) -> Result<Self, LinkError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| LinkError::Connect { path: path.display().to_string(), source })?;
        let mut link = Self { stream, received: Vec::new(), out: Vec::new() };
        link.put(&FromAgent::Greet(greet), 0);
        link.flush().await?;
        timeout(GREETING_MAX, link.greeted()).await.map_err(|_| LinkError::NotGreeted)??;
        Ok(link)
    }

    async fn greeted(&mut self) -> Result<(), LinkError> {
        loop {
            // Only the first frame: a VET may stand right behind it.
            if let Some((frame, rest)) = split_frame(&self.received, AGENT_PAYLOAD_BYTES_MAX)? {
                let answer = match FromAccess::decode(frame)? {
                    FromAccess::Greeted { version: VERSION_MIN..=VERSION } => Ok(()),
                    FromAccess::Greeted { version } => Err(LinkError::Version(version)),
                    other => Err(LinkError::Misplaced(name(&other))),
                };
                let rest_bytes = rest.len();
                self.received.drain(..self.received.len() - rest_bytes);
                return answer;
            }
            self.fill().await?;
        }
    }

    /// Waits for more bytes. Nothing is lost when it is dropped before it ends.
    ///
    /// # Errors
    /// When the access process closed the link, or it broke.
    pub async fn fill(&mut self) -> Result<(), LinkError> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(LinkError::Closed),
            _ => Ok(()),
        }
    }

    /// Hands every whole frame received to `each`, with its request id and the buffer for answers.
    ///
    /// # Errors
    /// Bytes that are no message, and what `each` refuses.
    pub fn take(
        &mut self,
        mut each: impl FnMut(u32, FromAccess<'_>, &mut Vec<u8>) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let mut rest = self.received.as_slice();
        while let Some((frame, behind)) = split_frame(rest, AGENT_PAYLOAD_BYTES_MAX)? {
            rest = behind;
            match FromAccess::decode(frame) {
                Ok(message) => each(frame.header.request_id, message, &mut self.out)?,
                Err(WireError::Kind { kind }) if kind & KIND_OPTIONAL != 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let rest_bytes = rest.len();
        self.received.drain(..self.received.len() - rest_bytes);
        Ok(())
    }

    /// Buffers a message.
    pub fn put(&mut self, message: &FromAgent<'_>, request_id: u32) {
        message.put(&mut self.out, request_id);
    }

    /// Sends what is buffered, in one write where the socket takes it.
    ///
    /// # Errors
    /// When the link broke.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }
}

/// The name of a message, for errors.
#[must_use]
pub const fn name(message: &FromAccess<'_>) -> &'static str {
    match message {
        FromAccess::Greeted { .. } => "GREETED",
        FromAccess::Vet(_) => "VET",
        FromAccess::Standing { .. } => "STANDING",
        FromAccess::Deliver(_) => "DELIVER",
        FromAccess::GrantAsk(_) => "GRANT_ASK",
        FromAccess::Drain => "DRAIN",
    }
}

/// The introduction of this build on the socket for `role`.
#[must_use]
pub fn greeting(role: Role, generation: u32, proof: [u8; 16]) -> Greet {
    let software = format!("yao-agent {}", env!("CARGO_PKG_VERSION"));
    Greet { version: VERSION, role, generation, proof, software }
}
