//! The sockets of an agent: whole messages in, coalesced writes out. Bounded both ways: a reader
//! waits for the supervisor, and a full outbox refuses. Decides nothing.

use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
};
use yao_protocol::{
    WireError,
    agent::{FromAccess, FromAgent, Greet, Role},
    frame::{KIND_OPTIONAL, split_frame},
    limits::{AGENT_PAYLOAD_BYTES_MAX, FRAME_HEADER_BYTES, GREETING_PAYLOAD_BYTES_MAX},
};

/// Bytes read at once at most: one full frame.
const READ_BYTES: usize = AGENT_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES;
/// A write buffer beyond this is given back after use, bytes.
const KEPT_BYTES: usize = 256 * 1024;

/// A message of an agent, owned; see [`FromAgent`].
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// [`FromAgent::Verdict`].
    Verdict {
        /// Which call.
        call: u64,
        /// Yes or no.
        allowed: bool,
    },
    /// [`FromAgent::Delivered`].
    Delivered {
        /// Of which batch.
        request_id: u32,
        /// Settlement's bytes, not yet verified.
        answer: Vec<u8>,
    },
    /// [`FromAgent::Undelivered`].
    Undelivered {
        /// Which batch.
        request_id: u32,
        /// When to ask again, ms.
        retry_after_ms: u32,
    },
    /// [`FromAgent::GrantAnswer`].
    GrantAnswer(Vec<u8>),
    /// [`FromAgent::GrantUnanswered`].
    GrantUnanswered {
        /// To which request.
        request_id: u32,
        /// When to ask again, ms.
        retry_after_ms: u32,
    },
    /// [`FromAgent::Policy`].
    Policy(Vec<u8>),
    /// [`FromAgent::Bye`].
    Bye,
}

/// What happens to an agent. `generation` tells of which.
#[derive(Debug)]
pub(super) enum Event {
    /// A socket's first frame, with whatever followed it.
    Greeted { generation: u32, greet: Greet, stream: UnixStream, received: Vec<u8> },
    /// Messages, in order.
    Words { generation: u32, words: Vec<Word> },
    /// A socket ended, or something came that is no message.
    Closed { generation: u32, why: String },
    /// The process ended.
    Exited { generation: u32, how: String },
}

/// Reads the GREET of a fresh socket.
pub(super) async fn read_greet(generation: u32, stream: UnixStream, events: mpsc::Sender<Event>) {
    let event = match first_frame(stream).await {
        Ok((greet, stream, received)) => Event::Greeted { generation, greet, stream, received },
        Err(why) => Event::Closed { generation, why },
    };
    // No receiver: the link has ended, and with it the interest in any agent.
    events.send(event).await.ok();
}

async fn first_frame(mut stream: UnixStream) -> Result<(Greet, UnixStream, Vec<u8>), String> {
    let mut received = Vec::new();
    loop {
        let split = split_frame(&received, GREETING_PAYLOAD_BYTES_MAX).map_err(no_message)?;
        if let Some((frame, rest)) = split {
            let FromAgent::Greet(greet) = FromAgent::decode(frame).map_err(no_message)? else {
                return Err("did not begin with a greeting".to_owned());
            };
            let rest = rest.to_vec();
            return Ok((greet, stream, rest));
        }
        received.reserve(GREETING_PAYLOAD_BYTES_MAX);
        match stream.read_buf(&mut received).await {
            Ok(0) => return Err("closed a socket before it greeted".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("broke a socket before it greeted: {error}")),
        }
    }
}

/// Reads a greeted socket until it ends.
pub(super) async fn read(
    generation: u32,
    role: Role,
    mut half: OwnedReadHalf,
    mut received: Vec<u8>,
    events: mpsc::Sender<Event>,
) {
    let why = loop {
        match words(role, &mut received) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => {
                if events.send(Event::Words { generation, words }).await.is_err() {
                    return;
                }
            }
            Err(why) => break why,
        }
        received.reserve(READ_BYTES);
        match half.read_buf(&mut received).await {
            Ok(0) => break format!("closed its {role:?} socket"),
            Ok(_) => {}
            Err(error) => break format!("broke its {role:?} socket: {error}"),
        }
    };
    events.send(Event::Closed { generation, why }).await.ok();
}

/// Takes every whole message off the front of `received`.
///
/// # Errors
/// What is wrong with the first one that has no place on `role`'s socket.
pub fn words(role: Role, received: &mut Vec<u8>) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = received.as_slice();
    while let Some((frame, behind)) =
        split_frame(rest, AGENT_PAYLOAD_BYTES_MAX).map_err(no_message)?
    {
        rest = behind;
        let request_id = frame.header.request_id;
        let message = match FromAgent::decode(frame) {
            Err(WireError::Kind { kind }) if kind & KIND_OPTIONAL != 0 => continue,
            message => message.map_err(no_message)?,
        };
        words.push(match (role, message) {
            (Role::Vet, FromAgent::Verdict { call, allowed }) => Word::Verdict { call, allowed },
            (Role::Vet, FromAgent::Policy(bytes)) => Word::Policy(bytes.to_vec()),
            (Role::Deliver, FromAgent::Delivered(bytes)) => {
                Word::Delivered { request_id, answer: bytes.to_vec() }
            }
            (Role::Deliver, FromAgent::Undelivered { retry_after_ms }) => {
                Word::Undelivered { request_id, retry_after_ms }
            }
            (Role::Deliver, FromAgent::GrantAnswer(bytes)) => Word::GrantAnswer(bytes.to_vec()),
            (Role::Deliver, FromAgent::GrantUnanswered { retry_after_ms }) => {
                Word::GrantUnanswered { request_id, retry_after_ms }
            }
            (_, FromAgent::Bye) => Word::Bye,
            (role, _) => return Err(format!("sent a message that has no place on {role:?}")),
        });
    }
    let rest_bytes = rest.len();
    received.drain(..received.len() - rest_bytes);
    Ok(words)
}

fn no_message(error: WireError) -> String {
    format!("sent bytes that are no message: {error}")
}

/// Messages on their way to one socket.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    buffer: Arc<Buffer>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// An outbox that holds about `bytes_max` at most.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: Arc::default(), bytes_max }
    }

    /// Appends a message; `false` when the agent has not read for too long.
    pub(super) fn put(&self, message: &FromAccess<'_>, request_id: u32) -> bool {
        let mut bytes = self.buffer.bytes.lock().expect("no holder panics");
        if bytes.len() >= self.bytes_max {
            return false;
        }
        message.put(&mut bytes, request_id);
        drop(bytes);
        self.buffer.filled.notify_one();
        true
    }

    /// Writes what is put, as much as there is in one write, until the socket breaks.
    pub(super) async fn write(self, mut half: OwnedWriteHalf) {
        let mut sending = Vec::new();
        loop {
            std::mem::swap(&mut *self.buffer.bytes.lock().expect("no holder panics"), &mut sending);
            if sending.is_empty() {
                self.buffer.filled.notified().await;
                continue;
            }
            // A broken socket is reported by its reader.
            if half.write_all(&sending).await.is_err() {
                return;
            }
            sending.clear();
            if sending.capacity() > KEPT_BYTES {
                sending = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(messages: &[FromAgent<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            message.put(&mut out, 9);
        }
        out
    }

    #[test]
    fn messages_are_taken_whole_and_in_order() {
        let all = bytes(&[
            FromAgent::Verdict { call: 1, allowed: true },
            FromAgent::Policy(b"{}"),
            FromAgent::Bye,
        ]);
        for cut in 0..=all.len() {
            let mut received = all[..cut].to_vec();
            let mut found = words(Role::Vet, &mut received).expect("valid");
            received.extend_from_slice(&all[cut..]);
            found.extend(words(Role::Vet, &mut received).expect("valid"));
            let expected =
                [Word::Verdict { call: 1, allowed: true }, Word::Policy(b"{}".to_vec()), Word::Bye];
            assert_eq!(found, expected, "cut at {cut}");
            assert!(received.is_empty());
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        fn check(role: Role, bytes: &[u8], expected: &str) {
            let error = words(role, &mut bytes.to_vec()).expect_err("refused");
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        check(Role::Vet, &bytes(&[FromAgent::Delivered(b"")]), "no place on Vet");
        check(Role::Deliver, &bytes(&[FromAgent::Policy(b"{}")]), "no place on Deliver");
        check(
            Role::Deliver,
            &bytes(&[FromAgent::Verdict { call: 1, allowed: true }]),
            "no place on Deliver",
        );
        check(Role::Vet, &[0, 0, 0x33, 0, 0, 0, 0, 0], "unknown frame kind 0x33");
        check(Role::Vet, &[1, 0, 0x02, 0, 0, 0, 0, 0, 5], "no message");
        // Optional kinds are for a later version.
        assert_eq!(words(Role::Vet, &mut vec![0, 0, 0x73, 0, 0, 0, 0, 0]), Ok(Vec::new()));
    }

    #[test]
    fn an_outbox_refuses_when_nobody_reads() {
        let outbox = Outbox::new(100);
        let taken = (0..100).take_while(|_| outbox.put(&FromAccess::Drain, 0)).count();
        assert_eq!(taken, 13, "eight bytes each, refused from 100 on");
    }
}
