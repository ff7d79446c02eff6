//! A TCP connection to a node. Moves bytes; knows no message. Everything that waits can be
//! cancelled at any await without losing a byte.

use super::{
    incoming::Incoming,
    lookup::{deadline, lookup},
};
use crate::{
    error::LinkError,
    limits::{CONNECT_MS_MAX, IDLE_BYTES_MAX, RACE_STAGGER_MS, READ_BYTES},
};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout_at},
};
use yao_protocol::{WireError, frame::Frame};

/// One TCP connection.
#[derive(Debug)]
pub struct TcpLink {
    stream: TcpStream,
    incoming: Incoming,
    outgoing: Vec<u8>,
}

impl TcpLink {
    /// Connects to `endpoint` ("host:port"); races its addresses. With `local`, from that address,
    /// to nodes of its family.
    ///
    /// # Errors
    /// No address, or the last error of those tried; the whole takes at most 10 s.
    pub async fn connect(endpoint: &str, local: Option<IpAddr>) -> Result<Self, LinkError> {
        let deadline = deadline();
        let addresses = lookup(endpoint, local, deadline).await?;
        let stream = timeout_at(deadline, connect_stream(addresses, local))
            .await
            .map_err(|_| LinkError::Timeout(CONNECT_MS_MAX))??;
        Ok(Self { stream, incoming: Incoming::default(), outgoing: Vec::new() })
    }

    /// Queues whole frames; [`TcpLink::progress`] sends them.
    ///
    /// # Errors
    /// [`LinkError::Backlog`] when the peer does not read.
    pub fn queue(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        super::queue(&mut self.outgoing, bytes)
    }

    /// Sends what can be sent without waiting.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.shrink_to(IDLE_BYTES_MAX);
        Ok(())
    }

    /// Waits until something can be sent or received, and does it. Take every frame with
    /// [`TcpLink::next_frame`] after it.
    ///
    /// # Errors
    /// The connection broke, or the peer closed it.
    pub async fn progress(&mut self) -> Result<(), LinkError> {
        let interest = if self.outgoing.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let ready = self.stream.ready(interest).await?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.receive()?;
        }
        Ok(())
    }

    /// After an error: takes in more of what came before it. False when that was all. Waits only
    /// until the runtime knows, which on a connection that broke is at once. Take every frame with
    /// [`TcpLink::next_frame`] before and after it.
    pub async fn salvage(&mut self) -> bool {
        let room = self.incoming.room();
        while self.stream.ready(Interest::READABLE).await.is_ok() {
            let received = self.receive();
            if self.incoming.room() < room {
                return true;
            }
            if received.is_err() {
                return false;
            }
        }
        false
    }

    /// Sends everything and says that no more comes.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        self.flush()?;
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.flush()?;
        }
        Ok(tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await?)
    }

    /// The next whole frame that was received.
    ///
    /// # Errors
    /// The bytes are no frame; the server is at fault.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        self.incoming.next_frame()
    }

    /// One read. The buffer lives on the stack of this call: an idle link owns none.
    fn receive(&mut self) -> Result<(), LinkError> {
        let mut bytes = [0; READ_BYTES];
        let room = self.incoming.room().min(READ_BYTES);
        assert!(room > 0, "every whole frame is taken before the next read");
        match self.stream.try_read(&mut bytes[..room]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                self.incoming.push(&bytes[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Connects to the first of `addresses` that answers, without a limit of time. Each starts when
/// the one before it has failed, or is still silent after 250 ms: it goes on meanwhile, because
/// silence says nothing (RFC 8305).
pub(super) async fn connect_stream(
    addresses: Vec<SocketAddr>,
    local: Option<IpAddr>,
) -> Result<TcpStream, LinkError> {
    let mut addresses = addresses.into_iter();
    let mut attempts = Vec::new();
    let mut last = LinkError::Address;
    loop {
        attempts.extend(addresses.next().map(|address| Box::pin(connect_address(address, local))));
        if attempts.is_empty() {
            return Err(last);
        }
        tokio::select! {
            connected = poll_fn(|context| poll_any(&mut attempts, context)) => match connected {
                Ok(stream) => {
                    // A shake is one small frame: waiting to fill a segment would only delay it.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = last.or(error),
            },
            () = sleep(Duration::from_millis(RACE_STAGGER_MS)), if addresses.len() > 0 => {}
        }
    }
}

/// What the first of `attempts` to end says; it is taken out.
fn poll_any<Attempt: Future>(
    attempts: &mut Vec<Pin<Box<Attempt>>>,
    context: &mut Context<'_>,
) -> Poll<Attempt::Output> {
    for index in 0..attempts.len() {
        if let Poll::Ready(ended) = attempts[index].as_mut().poll(context) {
            drop(attempts.swap_remove(index));
            return Poll::Ready(ended);
        }
    }
    Poll::Pending
}

/// `local` is of the address' family, if it is given.
async fn connect_address(
    address: SocketAddr,
    local: Option<IpAddr>,
) -> Result<TcpStream, LinkError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    Ok(socket.connect(address).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        net::TcpListener,
        time::{Instant, timeout},
    };

    /// Nothing on this machine takes so long, and less than any limit of the link.
    const PATIENCE: Duration = Duration::from_millis(CONNECT_MS_MAX / 2);

    fn socket() -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        socket
    }

    /// An address that swallows SYNs: a listener whose queue is full. It does so until it and the
    /// connections in its queue are dropped.
    async fn swallowing() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let listener = socket().listen(1).expect("listens");
        let address = listener.local_addr().expect("bound");
        let mut queued = Vec::new();
        let no_answer = Duration::from_millis(100);
        while let Ok(stream) = timeout(no_answer, TcpStream::connect(address)).await {
            queued.push(stream.expect("there is room"));
            assert!(queued.len() < 100, "the queue is bounded");
        }
        (address, listener, queued)
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_does_not_hide_the_next_one() {
        let (silent, _listener, _queued) = swallowing().await;
        let good = socket().listen(8).expect("listens");
        let good_address = good.local_addr().expect("bound");
        let started = Instant::now();
        let connecting = connect_stream(vec![silent, silent, good_address], None);
        let stream = timeout(PATIENCE, connecting).await.expect("in time").expect("connects");
        assert_eq!(stream.peer_addr().expect("connected"), good_address);
        let head_starts = Duration::from_millis(2 * RACE_STAGGER_MS);
        assert!(started.elapsed() >= head_starts, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn an_address_that_is_slow_is_not_given_up_for_the_next_one() {
        let (slow, listener, queued) = swallowing().await;
        let connecting = connect_stream(vec![slow, slow], None);
        let easing = async {
            // Both attempts are under way before the first has room: its SYN comes again.
            sleep(Duration::from_millis(2 * RACE_STAGGER_MS)).await;
            drop(queued);
            let accepting = async {
                loop {
                    drop(listener.accept().await);
                }
            };
            timeout(PATIENCE, accepting).await
        };
        tokio::select! {
            connected = connecting => assert!(connected.is_ok(), "{connected:?}"),
            _ = easing => panic!("it never connects"),
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_no_time_and_the_last_error_is_told() {
        let closed = socket().listen(1).expect("listens").local_addr().expect("bound");
        let good = socket().listen(8).expect("listens");
        let good_address = good.local_addr().expect("bound");
        let mut fastest = Duration::MAX;
        // Several, because a busy machine may be slow once.
        for _ in 0..5 {
            let started = Instant::now();
            connect_stream(vec![closed, good_address], None).await.expect("connects");
            fastest = fastest.min(started.elapsed());
        }
        assert!(fastest < Duration::from_millis(RACE_STAGGER_MS), "{fastest:?}");
        // TCP has no way to a multicast address; what the node said counts for more.
        let nowhere = "224.0.0.1:1".parse().expect("an address");
        let no_way = connect_stream(vec![nowhere], None).await.expect_err("no way");
        assert!(no_way.is_own(), "{no_way:?}");
        let refused = connect_stream(vec![closed, nowhere], None).await.expect_err("nobody there");
        let kind = io::ErrorKind::ConnectionRefused;
        assert!(matches!(refused, LinkError::Io { kind: told, .. } if told == kind), "{refused:?}");
        let nobody = connect_stream(Vec::new(), None).await.expect_err("nowhere to go");
        assert_eq!(nobody, LinkError::Address);
    }
}
