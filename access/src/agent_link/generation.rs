//! One agent: its process, its two sockets, and how far it has proved itself. Dropped, it is killed
//! and its sockets close.

use super::{
    process::Process,
    proving::{Proving, probes},
    wire::{self, Event, Outbox},
};
use tokio::{net::UnixStream, sync::mpsc, task::JoinSet};
use yao_engine::Timestamp;
use yao_protocol::agent::{FromAccess, Greet, Question, Role, Vet};

/// Bytes of vets that may wait for an agent that does not read: more than both owners can have in
/// flight at once.
const VET_BYTES_MAX: usize = 256 * 1024;
/// Bytes of batches that may wait: all that can be in flight, full.
const DELIVER_BYTES_MAX: usize = super::in_flight::BATCHES_MAX * 64 * 1024;
/// Sockets of one agent.
const SOCKETS_MAX: usize = 2;

/// One agent.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) software: String,
    pub(super) proving: Proving,
    /// When it must have proved itself, or, told to leave, must be gone.
    pub(super) deadline: Timestamp,
    /// When it began to serve.
    pub(super) served_since: Timestamp,
    process: Process,
    vet_out: Option<Outbox>,
    deliver_out: Option<Outbox>,
    sockets: usize,
    /// Greeted sockets that have not ended.
    open: usize,
    exited: bool,
    /// Readers and writers of its sockets; they end with it.
    tasks: JoinSet<()>,
}

impl Generation {
    /// The agent that runs as `process` and must prove itself until `deadline`.
    pub(super) fn new(number: u32, proof: [u8; 16], process: Process, deadline: Timestamp) -> Self {
        Self {
            number,
            software: String::new(),
            proving: Proving::new(number, proof),
            deadline,
            served_since: Timestamp::NEVER,
            process,
            vet_out: None,
            deliver_out: None,
            sockets: 0,
            open: 0,
            exited: false,
            tasks: JoinSet::new(),
        }
    }

    /// Its process id.
    pub(super) const fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Takes a socket of its process and waits for the greeting; `false` when it has both.
    pub(super) fn accept(&mut self, stream: UnixStream, events: &mpsc::Sender<Event>) -> bool {
        if self.sockets >= SOCKETS_MAX {
            return false;
        }
        self.sockets += 1;
        self.tasks.spawn(wire::read_greet(self.number, stream, events.clone()));
        true
    }

    /// Checks a greeting and, when it is right, answers it and serves the socket. The vet socket is
    /// asked both probes at once.
    pub(super) fn greet(
        &mut self,
        greet: Greet,
        stream: UnixStream,
        received: Vec<u8>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), String> {
        let version = self.proving.handle_greet(&greet)?;
        let role = greet.role;
        self.software = greet.software;
        self.open += 1;
        let outbox = match role {
            Role::Vet => self.vet_out.insert(Outbox::new(VET_BYTES_MAX)),
            Role::Deliver => self.deliver_out.insert(Outbox::new(DELIVER_BYTES_MAX)),
        };
        // An empty outbox has room.
        outbox.put(&FromAccess::Greeted { version }, 0);
        if role == Role::Vet {
            for probe in probes() {
                outbox.put(&FromAccess::Vet(probe), 0);
            }
        }
        let (reading, writing) = stream.into_split();
        self.tasks.spawn(outbox.clone().write(writing));
        self.tasks.spawn(wire::read(self.number, role, reading, received, events.clone()));
        Ok(())
    }

    /// One of its greeted sockets ended: everything it said there has been read.
    pub(super) const fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Its process ended.
    pub(super) const fn exited(&mut self) {
        self.exited = true;
    }

    /// Whether it has left: the process is gone and its last words were read.
    pub(super) const fn is_gone(&self) -> bool {
        self.exited && self.open == 0
    }

    /// Sends a question; `false` when the agent has not read for too long.
    pub(super) fn vet(&self, question: &Question) -> bool {
        let Question { vet, standing } = *question;
        let standing = FromAccess::Standing { call: vet.call, standing };
        self.vet_out
            .as_ref()
            .is_some_and(|outbox| outbox.put(&standing, 0) && outbox.put(&FromAccess::Vet(vet), 0))
    }

    /// Asks whether it lives, and decides rightly.
    pub(super) fn probe(&self, probe: Vet) -> bool {
        self.vet_out.as_ref().is_some_and(|outbox| outbox.put(&FromAccess::Vet(probe), 0))
    }

    /// Sends a batch; `false` when the agent has not read for too long.
    pub(super) fn deliver(&self, request_id: u32, batch: &[u8]) -> bool {
        let message = FromAccess::Deliver(batch);
        self.deliver_out.as_ref().is_some_and(|outbox| outbox.put(&message, request_id))
    }

    /// Sends a request for a grant; `false` when the agent has not read for too long.
    pub(super) fn ask_grant(&self, request_id: u32, request: &[u8]) -> bool {
        let message = FromAccess::GrantAsk(request);
        self.deliver_out.as_ref().is_some_and(|outbox| outbox.put(&message, request_id))
    }

    /// Asks it to leave until `deadline`.
    pub(super) fn drain(&mut self, deadline: Timestamp) {
        self.deadline = deadline;
        for outbox in [&self.vet_out, &self.deliver_out].into_iter().flatten() {
            // An agent that does not read is ended at the deadline instead.
            outbox.put(&FromAccess::Drain, 0);
        }
    }
}
