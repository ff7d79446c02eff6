//! Legitimate visitors: each comes at a moment fixed before, whatever the server does, and counts
//! from that moment until it is welcomed.

use crate::load::{Latency, Received, Signal, Target, Wires, now_ns};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::{collections::VecDeque, time::Duration};
use yao_protocol::{
    client::{Hello, kind},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// Visitors inside at one time; more wait outside, and their wait counts.
const INSIDE_MAX: usize = 256;
/// Session tokens made before: more than a window's visitors, so that nobody meets himself.
const TOKENS: usize = 2_048;
/// A visit that takes longer has failed.
const VISIT_NS_MAX: u64 = 5_000_000_000;

/// What a window saw.
pub(super) struct Window {
    pub(super) done: u64,
    /// Closed, or not welcomed in time.
    pub(super) failed: u64,
    pub(super) latency: Latency,
}

/// See the module.
pub(super) struct Visits {
    target: Target,
    wires: Wires,
    rate: u32,
    tokens: Vec<String>,
    number: usize,
    /// When whoever is at this place should have come.
    inside: Vec<Option<u64>>,
    inbox: Vec<Vec<u8>>,
    histogram: Histogram<u64>,
    done: u64,
    failed: u64,
}

impl Visits {
    pub(super) fn new(mut target: Target, rate: u32) -> Result<Self> {
        let users: Vec<_> = (0..TOKENS).map(|_| target.next_user()).collect();
        Ok(Self {
            wires: Wires::new(&target)?,
            tokens: users.into_iter().map(|user| target.token(user)).collect(),
            target,
            rate,
            number: 0,
            inside: vec![None; INSIDE_MAX],
            inbox: vec![Vec::new(); INSIDE_MAX],
            histogram: Histogram::new_with_bounds(1, 2 * VISIT_NS_MAX, 3)?,
            done: 0,
            failed: 0,
        })
    }

    /// Visitors come for `duration`; returns when the last has left.
    pub(super) fn run(&mut self, duration: Duration) -> Result<Window> {
        self.histogram.reset();
        (self.done, self.failed) = (0, 0);
        let start = now_ns();
        let end = start + u64::try_from(duration.as_nanos())?;
        let gap = 1_000_000_000 / u64::from(self.rate);
        let mut moments: VecDeque<u64> =
            (0..).map(|n| start + n * gap).take_while(|at| *at < end).collect();
        let mut signals = Vec::new();
        while !moments.is_empty() || self.inside.iter().any(Option::is_some) {
            let now = now_ns();
            while let Some(at) = moments.front().copied().filter(|at| *at <= now) {
                let Some(place) = self.inside.iter().position(Option::is_none) else { break };
                moments.pop_front();
                self.enter(place, at)?;
            }
            self.wires.poll(Duration::from_millis(1), &mut signals)?;
            for (place, signal) in signals.drain(..) {
                match signal {
                    Signal::Open => self.greet(place),
                    Signal::Bytes => self.listen(place)?,
                    Signal::Lost => self.leave(place, false)?,
                }
            }
            self.give_up_late()?;
        }
        let latency = Latency::of(&self.histogram);
        Ok(Window { done: self.done, failed: self.failed, latency })
    }

    fn enter(&mut self, place: usize, at_ns: u64) -> Result<()> {
        self.number += 1;
        self.inbox[place].clear();
        self.inside[place] = Some(at_ns);
        Ok(self.wires.connect(place, self.number % 65_536)?)
    }

    fn greet(&mut self, place: usize) {
        let token = self.tokens[self.number % TOKENS].as_bytes();
        let campaign = self.target.campaign;
        let (version_min, version_max) = (1, 1);
        let hello = Hello { version_min, version_max, software: 1, campaign, tally: None, token };
        let mut bytes = Vec::new();
        hello.put(&mut bytes, 1);
        // When it fails a signal says so.
        self.wires.send(place, &bytes);
    }

    fn listen(&mut self, place: usize) -> Result<()> {
        let received = self.wires.receive(place, &mut self.inbox[place]);
        match split_frame(&self.inbox[place], CLIENT_PAYLOAD_BYTES_MAX) {
            Ok(Some((frame, _))) => self.leave(place, frame.header.kind == kind::WELCOME),
            Ok(None) if received == Received::All => Ok(()),
            Ok(None) | Err(_) => self.leave(place, false),
        }
    }

    fn leave(&mut self, place: usize, well: bool) -> Result<()> {
        self.wires.close(place);
        let Some(at) = self.inside[place].take() else { return Ok(()) };
        if well {
            self.done += 1;
            self.histogram.record(now_ns() - at)?;
        } else {
            self.failed += 1;
        }
        Ok(())
    }

    fn give_up_late(&mut self) -> Result<()> {
        let now = now_ns();
        for place in 0..INSIDE_MAX {
            if self.inside[place].is_some_and(|at| now > at + VISIT_NS_MAX) {
                self.leave(place, false)?;
            }
        }
        Ok(())
    }
}
