//! Connections that each send one broken frame, before or after HELLO, and see what comes back.

use super::mutate::Mutator;
use crate::load::{Received, Signal, Target, Wires, now_ns};
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;
use yao_protocol::{
    client::{Hello, kind},
    frame::split_frame,
    limits::CLIENT_PAYLOAD_BYTES_MAX,
};

/// Connections at one time.
const SLOTS: usize = 192;
/// Session tokens made before the attack, so that minting does not slow it.
const TOKENS: usize = 4_096;
/// A frame that is not whole gets no answer: the connection is given up after this, ns.
const SILENCE_NS_MAX: u64 = 60_000_000;

/// What became of the broken frames.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Outcomes {
    /// Broken frames sent.
    pub(super) frames: u64,
    pub(super) before_hello: u64,
    pub(super) after_hello: u64,
    /// The server said ERROR.
    refused: u64,
    /// The server closed.
    closed: u64,
    /// The server answered, for the frame was good enough.
    answered: u64,
    /// Nothing within 60 ms: not a whole frame, or one to be ignored.
    silent: u64,
}

enum Step {
    Connecting,
    Greeting,
    /// The broken frame is sent.
    Sent {
        at_ns: u64,
        answered: bool,
    },
}

struct Slot {
    step: Step,
    after_hello: bool,
}

/// The attacker.
pub(super) struct Attack {
    target: Target,
    wires: Wires,
    inbox: Vec<u8>,
    tokens: Vec<String>,
    mutator: Mutator,
    slots: Vec<Option<Slot>>,
    outcomes: Outcomes,
    number: usize,
}

impl Attack {
    pub(super) fn new(mut target: Target, mutator: Mutator) -> Result<Self> {
        let tokens = (0..TOKENS)
            .map(|_| {
                let user = target.next_user();
                target.token(user)
            })
            .collect();
        let wires = Wires::new(&target)?;
        Ok(Self {
            target,
            wires,
            inbox: Vec::new(),
            tokens,
            mutator,
            slots: (0..SLOTS).map(|_| None).collect(),
            outcomes: Outcomes::default(),
            number: 0,
        })
    }

    pub(super) const fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Sends `frames` broken frames, evenly until `until_ns`, or as many as go until `stop`.
    pub(super) fn run(
        &mut self,
        frames: u64,
        until_ns: u64,
        stop: impl Fn() -> bool,
    ) -> Result<()> {
        let mut signals = Vec::with_capacity(SLOTS);
        let (start, mut begun) = (now_ns(), 0);
        let length = until_ns.saturating_sub(start).max(1);
        while !stop() {
            let passed = now_ns() - start;
            let due = u128::from(frames) * u128::from(passed.min(length)) / u128::from(length);
            let due = u64::try_from(due).unwrap_or(frames);
            for index in 0..SLOTS {
                if begun < due && self.slots[index].is_none() {
                    self.begin(index)?;
                    begun += 1;
                }
            }
            self.wires.poll(Duration::from_millis(1), &mut signals)?;
            for (index, signal) in signals.drain(..) {
                match signal {
                    Signal::Open => self.on_open(index),
                    Signal::Bytes => self.on_bytes(index),
                    Signal::Lost => self.end(index),
                }
            }
            self.give_up_silent();
        }
        // What is under way is closed: the next window begins with none.
        for index in 0..SLOTS {
            self.give_up(index);
        }
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        self.number += 1;
        self.wires.connect(index, self.number % 65_536)?;
        let after_hello = self.number.is_multiple_of(2);
        self.slots[index] = Some(Slot { step: Step::Connecting, after_hello });
        Ok(())
    }

    fn on_open(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        if !slot.after_hello {
            return self.send_broken(index);
        }
        slot.step = Step::Greeting;
        let token = self.tokens[self.number % TOKENS].as_bytes();
        let campaign = self.target.campaign;
        let (version_min, version_max) = (1, 1);
        let hello = Hello { version_min, version_max, software: 1, campaign, tally: None, token };
        let mut bytes = Vec::new();
        hello.put(&mut bytes, 1);
        self.write(index, &bytes);
    }

    fn send_broken(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        slot.step = Step::Sent { at_ns: now_ns(), answered: false };
        self.outcomes.frames += 1;
        if slot.after_hello {
            self.outcomes.after_hello += 1;
        } else {
            self.outcomes.before_hello += 1;
        }
        let bytes = self.mutator.next();
        self.write(index, &bytes);
    }

    fn write(&mut self, index: usize, bytes: &[u8]) {
        if !self.wires.send(index, bytes) {
            self.end(index);
        }
    }

    fn on_bytes(&mut self, index: usize) {
        self.inbox.clear();
        let received = self.wires.receive(index, &mut self.inbox);
        let first = split_frame(&self.inbox, CLIENT_PAYLOAD_BYTES_MAX);
        let is = |wanted: u8| matches!(first, Ok(Some((frame, _))) if frame.header.kind == wanted);
        let Some(slot) = &mut self.slots[index] else { return };
        match &mut slot.step {
            Step::Greeting if is(kind::WELCOME) => self.send_broken(index),
            Step::Sent { answered, .. } if !self.inbox.is_empty() => {
                *answered = true;
                if is(kind::ERROR) {
                    self.outcomes.refused += 1;
                    return self.give_up(index);
                }
            }
            _ => {}
        }
        if received == Received::Ended {
            self.end(index);
        }
    }

    /// Closes what is at `index`, without a word about it.
    fn give_up(&mut self, index: usize) {
        self.wires.close(index);
        self.slots[index] = None;
    }

    /// The server has ended the connection.
    fn end(&mut self, index: usize) {
        if let Some(Slot { step: Step::Sent { answered, .. }, .. }) = self.slots[index] {
            if answered {
                self.outcomes.answered += 1;
            } else {
                self.outcomes.closed += 1;
            }
        }
        self.give_up(index);
    }

    fn give_up_silent(&mut self) {
        let now = now_ns();
        for index in 0..SLOTS {
            let Some(Slot { step: Step::Sent { at_ns, answered }, .. }) = self.slots[index] else {
                continue;
            };
            if now - at_ns > SILENCE_NS_MAX {
                if answered {
                    self.outcomes.answered += 1;
                } else {
                    self.outcomes.silent += 1;
                }
                self.give_up(index);
            }
        }
    }
}
