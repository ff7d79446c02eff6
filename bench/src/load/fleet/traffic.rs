//! What the connections of a fleet say and hear, and how one comes and goes.

use super::{Fleet, Wake};
use crate::load::{
    now_ns,
    peer::{ECHO_BYTES, Peer, Phase, Wish},
    wires::Received,
};
use anyhow::{Result, bail};
use std::{cmp::Reverse, mem};

impl Fleet {
    /// The way is open: a node is greeted, an echo needs no greeting.
    pub(super) fn on_open(&mut self, index: usize) -> Result<()> {
        let mut out = mem::take(&mut self.out);
        if self.target.has_sessions() {
            let token = self.target.token(self.peers[index].user);
            self.peers[index].put_hello(self.habits.campaign, &token, &mut out);
        } else {
            self.peers[index].phase = Phase::Open;
            self.welcomed(index, 0)?;
        }
        self.send(index, out)
    }

    fn welcomed(&mut self, index: usize, interval_ms: u32) -> Result<()> {
        self.connecting -= 1;
        self.open += 1;
        if self.closed_loop && self.peers[index].owes_nothing() {
            self.shake_after(index, interval_ms)?;
        }
        Ok(())
    }

    fn shake_after(&mut self, index: usize, interval_ms: u32) -> Result<()> {
        let now = now_ns();
        if interval_ms == 0 {
            return self.shake(index, now);
        }
        let at = now + u64::from(interval_ms) * 1_000_000;
        self.peers[index].shake_at_ns = at;
        self.timers.push(Reverse((at, index, Wake::Shake)));
        Ok(())
    }

    pub(super) fn shake_open(&mut self, index: usize, at: u64) -> Result<()> {
        if self.peers[index].phase == Phase::Open {
            return self.shake(index, at);
        }
        self.books.counts.unsent += 1;
        Ok(())
    }

    pub(super) fn shake(&mut self, index: usize, scheduled_ns: u64) -> Result<()> {
        let peer = &mut self.peers[index];
        if peer.phase != Phase::Open {
            return Ok(());
        }
        let mut out = mem::take(&mut self.out);
        if self.target.has_sessions() {
            peer.put_shake(self.habits, scheduled_ns, &mut self.books.random, &mut out);
        } else {
            peer.put_echo(scheduled_ns, &mut out);
        }
        self.send(index, out)
    }

    /// Sends `out` after what waits already, and takes the buffer back.
    pub(super) fn send(&mut self, index: usize, mut out: Vec<u8>) -> Result<()> {
        let mut failed = false;
        if !out.is_empty() && self.wires.is_there(index) {
            failed = !self.wires.send(index, &out);
            self.peers[index].sent_ns = now_ns();
        }
        out.clear();
        self.out = out;
        if failed { self.down(index, 0) } else { Ok(()) }
    }

    pub(super) fn on_bytes(&mut self, index: usize) -> Result<()> {
        let mut inbox = mem::take(&mut self.inbox);
        inbox.clear();
        inbox.append(&mut self.peers[index].partial);
        let received = self.wires.receive(index, &mut inbox);
        let used = self.read_frames(index, &inbox)?;
        if self.wires.is_there(index) {
            self.peers[index].partial.extend_from_slice(&inbox[used..]);
            if received == Received::Ended {
                self.down(index, 0)?;
            }
        }
        self.inbox = inbox;
        Ok(())
    }

    fn read_frames(&mut self, index: usize, bytes: &[u8]) -> Result<usize> {
        let now = now_ns();
        let (mut wish, mut out) = (Wish::default(), mem::take(&mut self.out));
        let peer = &mut self.peers[index];
        let used = if self.target.has_sessions() {
            peer.read(bytes, now, self.habits, &mut self.books, &mut wish, &mut out)?
        } else {
            peer.read_echo(bytes, now, &mut self.books, &mut wish)
        };
        self.send(index, out)?;
        if wish.leave {
            self.down(index, wish.delay_ms)?;
            return Ok(used);
        }
        if wish.welcomed {
            self.welcomed(index, wish.interval_ms)?;
        }
        let peer = &self.peers[index];
        if self.relogin && peer.sated && peer.is_idle() && peer.phase == Phase::Open {
            self.hand_over(index);
        } else if wish.answered && self.closed_loop {
            self.shake_after(index, wish.interval_ms)?;
        }
        Ok(used)
    }

    /// This user has won enough: the connection is used for the next one.
    fn hand_over(&mut self, index: usize) {
        self.wires.close(index);
        self.open -= 1;
        self.peers[index] = Peer::new(self.target.next_user());
        self.to_connect.push_back(index);
    }

    /// The connection is gone.
    pub(super) fn down(&mut self, index: usize, delay_ms: u32) -> Result<()> {
        if !self.wires.close(index) {
            return Ok(());
        }
        self.books.counts.closed += 1;
        if self.peers[index].phase == Phase::Open {
            self.open -= 1;
        } else {
            self.connecting -= 1;
        }
        self.peers[index].on_down();
        if self.reconnect {
            self.connect_later(index, delay_ms);
        } else if !self.target.has_sessions() {
            bail!("the echo server closed a connection");
        }
        Ok(())
    }
}

/// What an echo run moves each way, bytes; equal to SHAKE and NO_WIN.
const _: () = assert!(
    ECHO_BYTES == yao_protocol::limits::FRAME_HEADER_BYTES + yao_protocol::client::SHAKE_BYTES
);
