//! A phone of a few lines: it says HELLO and shakes, and keeps the tickets that it wins.

use anyhow::{Context, Result, bail};
use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use yao_protocol::{
    CampaignId, ShakeId,
    client::{Hello, ServerMessage, Shake},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// A node that lives answers within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// One user's connection.
pub(super) struct Player {
    stream: TcpStream,
    received: Vec<u8>,
    campaign: CampaignId,
    shakes: u64,
}

/// What a node says to a shake.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The ticket's bytes.
    Win(Vec<u8>),
    NoWin,
}

impl Player {
    /// A session at `address`.
    pub(super) fn connect(address: &str, campaign: u64, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true)?;
        let campaign = CampaignId(campaign);
        let mut player = Self { stream, received: Vec::new(), campaign, shakes: 0 };
        let token = token.trim().as_bytes();
        let hello =
            Hello { version_min: 1, version_max: 1, software: 0, campaign, tally: None, token };
        let mut out = Vec::new();
        hello.put(&mut out, 1);
        player.stream.write_all(&out)?;
        let is_welcome = |message: &ServerMessage<'_>| match message {
            ServerMessage::Welcome(_) => Some(Ok(())),
            ServerMessage::Error(refusal) => Some(Err(refusal.code)),
            _ => None,
        };
        match player.next(PATIENCE, is_welcome)? {
            Some(Ok(())) => Ok(player),
            Some(Err(code)) => bail!("{address} refused HELLO: {code:?}"),
            None => bail!("{address} did not welcome within {PATIENCE:?}"),
        }
    }

    /// Sends one new draw, whoever may read it.
    pub(super) fn shake(&mut self) -> Result<()> {
        self.shakes += 1;
        let shake = Shake {
            shake: ShakeId(self.shakes),
            campaign: self.campaign,
            merged_count: 1,
            resend: false,
        };
        let mut out = Vec::new();
        shake.put(&mut out, u32::try_from(self.shakes)?);
        self.stream.write_all(&out).context("a shake")
    }

    /// Shakes until it has won, or until `patience` is over; the ticket's bytes.
    pub(super) fn wins_within(&mut self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let start = Instant::now();
        while start.elapsed() < patience {
            self.shake()?;
            if let Answer::Win(ticket) = self.answer()? {
                return Ok(Some(ticket));
            }
            // A few hundred a second are enough, and leave the machine to others.
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(None)
    }

    /// The tickets among the next `count` answers.
    pub(super) fn wins_among(&mut self, count: u32) -> Result<Vec<Vec<u8>>> {
        let mut tickets = Vec::new();
        for _ in 0..count {
            if let Answer::Win(ticket) = self.answer()? {
                tickets.push(ticket);
            }
        }
        Ok(tickets)
    }

    fn answer(&mut self) -> Result<Answer> {
        self.next(PATIENCE, answer)?.context("a shake without an answer")
    }

    /// The next message that `wanted` knows, within `patience`.
    fn next<T>(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&ServerMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let start = Instant::now();
        let mut chunk = [0; 4_096];
        loop {
            while let Some((frame, rest)) = split_frame(&self.received, CLIENT_PAYLOAD_BYTES_MAX)? {
                let found = wanted(&ServerMessage::decode(frame)?);
                let rest_bytes = rest.len();
                self.received.drain(..self.received.len() - rest_bytes);
                if found.is_some() {
                    return Ok(found);
                }
            }
            let Some(left) = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return Ok(None);
            };
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the node closed the connection"),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn answer(message: &ServerMessage<'_>) -> Option<Answer> {
    match message {
        ServerMessage::Win { ticket, .. } => Some(Answer::Win(ticket.to_vec())),
        ServerMessage::NoWin(_) => Some(Answer::NoWin),
        _ => None,
    }
}
