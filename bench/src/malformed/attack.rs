//! Connections that each send one broken frame, before or after HELLO, and see what comes back.

use super::mutate::Mutator;
use crate::load::{Target, now_ns};
use anyhow::Result;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use serde::Serialize;
use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};
use yao_protocol::{
    client::{Hello, kind},
    frame::split_frame,
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
    socket: TcpStream,
    step: Step,
    after_hello: bool,
}

/// The attacker.
pub(super) struct Attack {
    target: Target,
    poll: Poll,
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
        Ok(Self {
            target,
            poll: Poll::new()?,
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
        let mut events = Events::with_capacity(SLOTS);
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
            self.poll.poll(&mut events, Some(Duration::from_millis(1)))?;
            for event in events.iter() {
                self.on_event(event.token().0)?;
            }
            self.give_up_silent();
        }
        // What is under way is closed: the next window begins with none.
        self.slots.iter_mut().for_each(|slot| *slot = None);
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        self.number += 1;
        let mut socket = self.target.connect(self.number % 65_536)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        let after_hello = self.number.is_multiple_of(2);
        self.slots[index] = Some(Slot { socket, step: Step::Connecting, after_hello });
        Ok(())
    }

    fn on_event(&mut self, index: usize) -> Result<()> {
        let Some(slot) = &mut self.slots[index] else { return Ok(()) };
        if matches!(slot.step, Step::Connecting) {
            if slot.socket.take_error()?.is_some() || slot.socket.peer_addr().is_err() {
                self.slots[index] = None;
                return Ok(());
            }
            if slot.after_hello {
                slot.step = Step::Greeting;
                let token = self.tokens[self.number % TOKENS].as_bytes();
                let campaign = self.target.campaign;
                let (version_min, version_max) = (1, 1);
                let hello =
                    Hello { version_min, version_max, software: 1, campaign, tally: None, token };
                let mut bytes = Vec::new();
                hello.put(&mut bytes, 1);
                self.write(index, &bytes);
            } else {
                self.send_broken(index);
            }
            return Ok(());
        }
        self.read(index);
        Ok(())
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

    /// A few hundred bytes into an empty socket: they go at once or not at all.
    fn write(&mut self, index: usize, bytes: &[u8]) {
        let Some(slot) = &mut self.slots[index] else { return };
        if slot.socket.write_all(bytes).is_err() {
            self.end(index, true);
        }
    }

    fn read(&mut self, index: usize) {
        let mut bytes = [0_u8; 2_048];
        loop {
            let Some(slot) = &mut self.slots[index] else { return };
            let read = match slot.socket.read(&mut bytes) {
                Ok(0) => return self.end(index, true),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.end(index, true),
            };
            let first = split_frame(&bytes[..read], bytes.len());
            let is =
                |wanted: u8| matches!(first, Ok(Some((frame, _))) if frame.header.kind == wanted);
            match &mut slot.step {
                Step::Greeting if is(kind::WELCOME) => self.send_broken(index),
                Step::Sent { answered, .. } => {
                    *answered = true;
                    if is(kind::ERROR) {
                        self.outcomes.refused += 1;
                        return self.end(index, false);
                    }
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, index: usize, closed_by_server: bool) {
        if let Some(Slot { step: Step::Sent { answered, .. }, .. }) = self.slots[index].take() {
            if answered && closed_by_server {
                self.outcomes.answered += 1;
            } else if closed_by_server {
                self.outcomes.closed += 1;
            }
        }
    }

    fn give_up_silent(&mut self) {
        let now = now_ns();
        for slot in &mut self.slots {
            let Some(Slot { step: Step::Sent { at_ns, answered }, .. }) = slot else { continue };
            if now - *at_ns > SILENCE_NS_MAX {
                if *answered {
                    self.outcomes.answered += 1;
                } else {
                    self.outcomes.silent += 1;
                }
                *slot = None;
            }
        }
    }
}
