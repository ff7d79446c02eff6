//! What a bad agent makes of a real one's words. Pure: frames in, bytes out.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use yao_protocol::{
    agent::{FromAccess, FromAgent, Greet, Role, VERSION},
    frame::{Frame, KIND_OPTIONAL, put_frame},
};

/// Calls from here on are the node's own probes, which every manner answers rightly: else it would
/// never serve.
const PROBES_FROM: u64 = u64::MAX - 1;
/// A call that is nowhere near those of the moment.
const CALLS_AHEAD: u64 = 1 << 40;
/// A frame that a later version may bring: a kind that nobody knows, and may ignore.
const KIND_LATER: u8 = KIND_OPTIONAL | 0x2a;
/// The same, of which nobody knows whether it may be ignored.
const KIND_UNKNOWN: u8 = 0x2a;

/// How an agent behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manner {
    /// It is the real one.
    Honest,
    /// The real one's words come half a second later.
    Late,
    /// Proves itself; then answers with bytes that are none, each agent with others.
    Garbage,
    /// Well-formed lies: answers of settlement that are forged, exchanged or withheld, verdicts
    /// twice, the other way round, and about what nobody asked.
    Lies,
    /// Speaks only the version before ours.
    Older,
    /// Knows none of the frame kinds that were added to our version.
    Plain,
    /// Speaks the version after ours, and sends what only that one knows and we may ignore.
    Newer,
}

/// What an agent has said on one socket.
pub(super) struct Spoiler {
    manner: Manner,
    /// What the socket is for, as soon as it was greeted.
    role: Option<Role>,
    /// Tells one agent from the next.
    seed: u64,
    /// Words spoiled so far.
    spoiled: u64,
    /// Settlement's answer to an earlier batch.
    earlier: Vec<u8>,
}

impl Spoiler {
    pub(super) const fn new(manner: Manner, seed: u64) -> Self {
        Self { manner, role: None, seed, spoiled: 0, earlier: Vec::new() }
    }

    /// Appends what becomes of a frame of the real agent.
    pub(super) fn upwards(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let request_id = frame.header.request_id;
        let Ok(message) = FromAgent::decode(frame) else { return put_same(frame, out) };
        if let FromAgent::Greet(greet) = message {
            self.role = Some(greet.role);
            let version = match self.manner {
                Manner::Older => VERSION - 1,
                Manner::Newer => VERSION + 1,
                _ => greet.version,
            };
            return FromAgent::Greet(Greet { version, ..greet }).put(out, request_id);
        }
        match self.manner {
            Manner::Newer => {
                put_frame(out, KIND_LATER, 0xff, request_id, |out| out.extend(b"later"));
                put_same(frame, out);
            }
            Manner::Garbage if is_answer(&message) => self.put_garbage(out),
            Manner::Lies if is_answer(&message) => self.put_lie(frame, &message, out),
            _ => put_same(frame, out),
        }
    }

    /// Each agent begins with other garbage: it is ended at the first.
    fn put_garbage(&mut self, out: &mut Vec<u8>) {
        let which = self.seed.wrapping_add(self.spoiled) % 8;
        self.spoiled += 1;
        let vets = self.role == Some(Role::Vet);
        match which {
            0 => put_frame(out, KIND_UNKNOWN, 0, 0, |_| {}),
            1 => out.extend([4, 0, 0x99, 1, 2, 3, 4, 5, 0xde, 0xad, 0xbe, 0xef]),
            // A word that belongs on the other socket.
            2 if vets => FromAgent::Delivered(b"paid").put(out, 1),
            2 => FromAgent::Policy(b"{}").put(out, 0),
            // A verdict that is neither yes nor no.
            3 => put_frame(out, yao_protocol::agent::kind::VERDICT, 0, 0, |out| {
                out.extend([1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
            }),
            4 => FromAgent::Policy(b"{\"cue\":-1}").put(out, 0),
            5 => {
                let (role, software) = (self.role.unwrap_or(Role::Vet), "again".to_owned());
                let proof = [0; 16];
                FromAgent::Greet(Greet { version: VERSION, role, generation: 0, proof, software })
                    .put(out, 0);
            }
            6 => FromAgent::Bye.put(out, 0),
            // A word that is a byte too long.
            _ => put_frame(out, yao_protocol::agent::kind::UNDELIVERED, 0, 1, |out| {
                out.extend([0; 5]);
            }),
        }
    }

    fn put_lie(&mut self, frame: Frame<'_>, message: &FromAgent<'_>, out: &mut Vec<u8>) {
        let request_id = frame.header.request_id;
        self.spoiled += 1;
        match message {
            FromAgent::Verdict { call, allowed } => {
                put_same(frame, out);
                put_same(frame, out);
                for call in [*call, call.wrapping_add(CALLS_AHEAD)] {
                    FromAgent::Verdict { call, allowed: !allowed }.put(out, 0);
                }
            }
            FromAgent::Delivered(answer) => {
                match self.spoiled % 5 {
                    0 => FromAgent::Delivered(&self.earlier).put(out, request_id),
                    1 => {
                        let mut forged = answer.to_vec();
                        let middle = forged.len() / 2;
                        forged.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
                        FromAgent::Delivered(&forged).put(out, request_id);
                    }
                    2 => FromAgent::Delivered(&[]).put(out, request_id),
                    3 => FromAgent::Undelivered { retry_after_ms: 0 }.put(out, request_id),
                    // True, but of a batch that nobody has asked about.
                    _ => put_frame(out, frame.header.kind, 0, !request_id, |out| {
                        out.extend(*answer);
                    }),
                }
                self.earlier = answer.to_vec();
            }
            _ => put_same(frame, out),
        }
    }
}

/// What becomes of a frame of the node.
///
/// # Errors
/// The node speaks another version than ours to an agent that knows ours, too.
pub(super) fn downwards(manner: Manner, frame: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    if manner == Manner::Newer
        && let Ok(FromAccess::Greeted { version }) = FromAccess::decode(frame)
    {
        ensure!(version == VERSION, "the node wants version {version}");
    }
    let later = frame.header.kind & KIND_OPTIONAL != 0;
    if manner != Manner::Plain || !later {
        put_same(frame, out);
    }
    Ok(())
}

/// Whether it answers what the node asked in earnest.
const fn is_answer(message: &FromAgent<'_>) -> bool {
    match message {
        FromAgent::Verdict { call, .. } => *call < PROBES_FROM,
        FromAgent::Delivered(_)
        | FromAgent::Undelivered { .. }
        | FromAgent::GrantAnswer(_)
        | FromAgent::GrantUnanswered { .. } => true,
        FromAgent::Greet(_) | FromAgent::Policy(_) | FromAgent::Bye => false,
    }
}

fn put_same(frame: Frame<'_>, out: &mut Vec<u8>) {
    out.extend(frame.header.encode());
    out.extend(frame.payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{WireError, frame::split_frame, limits::AGENT_PAYLOAD_BYTES_MAX};

    fn bytes(message: &FromAgent<'_>, request_id: u32) -> Vec<u8> {
        let mut out = Vec::new();
        message.put(&mut out, request_id);
        out
    }

    fn greet(role: Role) -> FromAgent<'static> {
        let (generation, proof, software) = (3, [7; 16], "real".to_owned());
        FromAgent::Greet(Greet { version: VERSION, role, generation, proof, software })
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        split_frame(bytes, AGENT_PAYLOAD_BYTES_MAX).expect("a frame").expect("a whole one").0
    }

    /// What a greeted socket makes of each of `messages`.
    fn said(manner: Manner, seed: u64, role: Role, messages: &[FromAgent<'_>]) -> Vec<Vec<u8>> {
        let mut spoiler = Spoiler::new(manner, seed);
        spoiler.upwards(frame(&bytes(&greet(role), 0)), &mut Vec::new());
        let mut all = Vec::new();
        for message in messages {
            let mut out = Vec::new();
            spoiler.upwards(frame(&bytes(message, 5)), &mut out);
            all.push(out);
        }
        all
    }

    #[test]
    fn a_version_is_greeted_with() {
        for (manner, expected) in
            [(Manner::Lies, VERSION), (Manner::Older, VERSION - 1), (Manner::Newer, VERSION + 1)]
        {
            let mut out = Vec::new();
            let real = bytes(&greet(Role::Vet), 9);
            Spoiler::new(manner, 0).upwards(frame(&real), &mut out);
            let FromAgent::Greet(found) = FromAgent::decode(frame(&out)).expect("a greeting")
            else {
                panic!("{manner:?} greets")
            };
            assert_eq!((found.version, found.generation, found.proof), (expected, 3, [7; 16]));
        }
    }

    #[test]
    fn each_piece_of_garbage_is_none_of_the_words_of_its_socket() {
        let answers = [
            (Role::Vet, FromAgent::Verdict { call: 1, allowed: true }),
            (Role::Deliver, FromAgent::Delivered(b"answer")),
        ];
        for (role, answer) in answers {
            for seed in 0..8 {
                let said = said(Manner::Garbage, seed, role, std::slice::from_ref(&answer));
                let decoded = split_frame(&said[0], AGENT_PAYLOAD_BYTES_MAX)
                    .map(|split| split.map(|(frame, _)| FromAgent::decode(frame)).transpose());
                let is_bad = match decoded {
                    Err(_) | Ok(Err(_)) => true,
                    Ok(Ok(Some(FromAgent::Greet(_) | FromAgent::Bye))) => true,
                    Ok(Ok(Some(FromAgent::Policy(text)))) => {
                        role == Role::Deliver || text.starts_with(b"{\"cue\":-")
                    }
                    Ok(Ok(Some(FromAgent::Delivered(_)))) => role == Role::Vet,
                    Ok(Ok(Some(_) | None)) => false,
                };
                assert!(is_bad, "{role:?} {seed}: {:?}", said[0]);
            }
        }
    }

    #[test]
    fn a_probe_is_answered_and_a_policy_is_sent_in_every_manner() {
        let words = [
            FromAgent::Verdict { call: u64::MAX, allowed: true },
            FromAgent::Verdict { call: u64::MAX - 1, allowed: false },
            FromAgent::Policy(b"{}"),
        ];
        for manner in [Manner::Garbage, Manner::Lies, Manner::Late, Manner::Plain] {
            for (word, said) in words.iter().zip(said(manner, 0, Role::Vet, &words)) {
                assert_eq!(said, bytes(word, 5), "{manner:?}");
            }
        }
    }

    #[test]
    fn an_answer_of_settlement_never_arrives_as_it_was_given() {
        let answers = [&b"first"[..], b"second", b"third", b"fourth", b"fifth", b"sixth"];
        let words = answers.map(FromAgent::Delivered);
        for (word, said) in words.iter().zip(said(Manner::Lies, 0, Role::Deliver, &words)) {
            assert_ne!(said, bytes(word, 5));
        }
    }

    #[test]
    fn what_a_newer_one_adds_may_be_ignored_and_what_it_says_is_the_same() {
        let word = FromAgent::Verdict { call: 1, allowed: true };
        let said = said(Manner::Newer, 0, Role::Vet, std::slice::from_ref(&word));
        let (added, rest) =
            split_frame(&said[0], AGENT_PAYLOAD_BYTES_MAX).expect("a frame").expect("whole");
        let unknown = FromAgent::decode(added).expect_err("a kind that we do not know");
        assert!(matches!(unknown, WireError::Kind { kind } if kind & KIND_OPTIONAL != 0));
        assert_eq!(rest, bytes(&word, 5));
    }
}
