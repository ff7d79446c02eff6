//! What a newcomer must show before anything depends on it: both sockets greeted with its secret,
//! a policy that can be read, and the right answers to two probes. Pure.

use super::wire::Word;
use yao_protocol::{
    Fen, PacketId, ShakeId, SponsorId, UserId,
    agent::{Greet, Role, VERSION, VERSION_MIN, Vet, VetKind, agreed},
    policy::Policy,
};

/// Calls of the link's own probes. Wins count up from below 2^63 and opens from there, so that
/// neither ever comes here.
pub const CALL_YES: u64 = u64::MAX;
const CALL_NO: u64 = u64::MAX - 1;

/// A probe: its answer must be yes for amount 1 and no for amount 0.
pub fn probe(call: u64) -> Vet {
    Vet {
        call,
        kind: VetKind::Probe,
        user: UserId(0),
        sponsor: SponsorId::new(0).expect("below 64"),
        amount: if call == CALL_YES { Fen(1) } else { Fen(0) },
        packet: PacketId(0),
        shake: ShakeId(0),
    }
}

/// Both probes of a newcomer.
pub fn probes() -> [Vet; 2] {
    [probe(CALL_YES), probe(CALL_NO)]
}

/// How far a newcomer has come.
#[derive(Debug)]
pub struct Proving {
    generation: u32,
    proof: [u8; 16],
    /// What was agreed on with the first greeting; the second must come to the same.
    version: Option<u16>,
    vet_greeted: bool,
    deliver_greeted: bool,
    policy: Option<Policy>,
    yes: bool,
    no: bool,
}

impl Proving {
    /// A newcomer that was started as `generation` with the secret `proof`.
    pub const fn new(generation: u32, proof: [u8; 16]) -> Self {
        Self {
            generation,
            proof,
            version: None,
            vet_greeted: false,
            deliver_greeted: false,
            policy: None,
            yes: false,
            no: false,
        }
    }

    /// Takes a GREET and returns the version that the socket has; the error says what is wrong.
    pub fn handle_greet(&mut self, greet: &Greet) -> Result<u16, String> {
        let Some(version) = agreed(greet.version) else {
            return Err(format!(
                "speaks version {} of the agent link, this node {VERSION_MIN} to {VERSION}",
                greet.version
            ));
        };
        if greet.generation != self.generation {
            return Err(format!(
                "says it is generation {}, it was started as {}",
                greet.generation, self.generation
            ));
        }
        // Hashes compare in constant time.
        if blake3::hash(&greet.proof) != blake3::hash(&self.proof) {
            return Err("does not know the secret it was started with".to_owned());
        }
        let greeted = match greet.role {
            Role::Vet => &mut self.vet_greeted,
            Role::Deliver => &mut self.deliver_greeted,
        };
        if std::mem::replace(greeted, true) {
            return Err(format!("greeted twice for {:?}", greet.role));
        }
        if *self.version.get_or_insert(version) != version {
            return Err("greeted with another version on its other socket".to_owned());
        }
        Ok(version)
    }

    /// Takes any later message; the error says why it has no place here.
    pub fn handle_word(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Verdict { call: CALL_YES, allowed: true } => self.yes = true,
            Word::Verdict { call: CALL_NO, allowed: false } => self.no = true,
            Word::Verdict { call: CALL_YES | CALL_NO, .. } => {
                return Err("answered a probe wrongly".to_owned());
            }
            Word::Policy(bytes) => {
                let policy = Policy::decode(&bytes);
                self.policy = Some(policy.map_err(|error| format!("sent no policy: {error}"))?);
            }
            Word::Verdict { call, .. } => return Err(format!("answered call {call} unasked")),
            Word::Delivered { .. } | Word::Undelivered { .. } => {
                return Err("answered a batch that it was not given".to_owned());
            }
            Word::GrantAnswer(_) | Word::GrantUnanswered { .. } => {
                return Err("answered a request for a grant that it was not given".to_owned());
            }
            Word::Bye => return Err("took its leave".to_owned()),
        }
        Ok(())
    }

    /// Whether everything was shown.
    pub const fn is_proved(&self) -> bool {
        self.vet_greeted && self.deliver_greeted && self.yes && self.no && self.policy.is_some()
    }

    /// The policy it brought.
    pub const fn take_policy(&mut self) -> Option<Policy> {
        self.policy.take()
    }

    /// What is still missing, for people.
    pub fn missing(&self) -> String {
        let parts = [
            (self.vet_greeted, "a greeting on the vet socket"),
            (self.deliver_greeted, "a greeting on the deliver socket"),
            (self.policy.is_some(), "a policy"),
            (self.yes && self.no, "the answers to the probes"),
        ];
        let missing: Vec<&str> =
            parts.iter().filter(|(shown, _)| !shown).map(|(_, what)| *what).collect();
        missing.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greet(role: Role) -> Greet {
        Greet { version: VERSION, role, generation: 3, proof: [7; 16], software: String::new() }
    }

    fn verdict(call: u64, allowed: bool) -> Word {
        Word::Verdict { call, allowed }
    }

    #[test]
    fn everything_must_be_shown_in_any_order() {
        let mut proving = Proving::new(3, [7; 16]);
        proving.handle_greet(&greet(Role::Vet)).expect("right");
        proving.handle_word(Word::Policy(Policy::default().encode())).expect("right");
        proving.handle_word(verdict(CALL_NO, false)).expect("right");
        proving.handle_greet(&greet(Role::Deliver)).expect("right");
        assert!(!proving.is_proved());
        assert_eq!(proving.missing(), "the answers to the probes");
        proving.handle_word(verdict(CALL_YES, true)).expect("right");
        assert!(proving.is_proved());
        assert_eq!(proving.missing(), "");
    }

    #[test]
    fn a_newer_agent_is_answered_with_the_version_of_the_node() {
        let mut proving = Proving::new(3, [7; 16]);
        for role in [Role::Vet, Role::Deliver] {
            let newer = Greet { version: VERSION + 1, ..greet(role) };
            assert_eq!(proving.handle_greet(&newer), Ok(VERSION));
        }
    }

    #[test]
    fn each_wrong_greeting_is_named() {
        fn check(greet: &Greet, expected: &str) {
            let error = Proving::new(3, [7; 16]).handle_greet(greet).expect_err("wrong");
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        check(&Greet { version: VERSION_MIN - 1, ..greet(Role::Vet) }, "speaks version 0");
        check(&Greet { generation: 2, ..greet(Role::Vet) }, "generation 2, it was started as 3");
        check(&Greet { proof: [0; 16], ..greet(Role::Vet) }, "secret");
        let mut proving = Proving::new(3, [7; 16]);
        proving.handle_greet(&greet(Role::Vet)).expect("right");
        assert!(proving.handle_greet(&greet(Role::Vet)).expect_err("wrong").contains("twice"));
    }

    #[test]
    fn each_wrong_word_is_named() {
        fn check(word: Word, expected: &str) {
            let error = Proving::new(3, [7; 16]).handle_word(word).expect_err("wrong");
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        check(verdict(CALL_YES, false), "probe wrongly");
        check(verdict(CALL_NO, true), "probe wrongly");
        check(verdict(5, true), "call 5 unasked");
        check(Word::Policy(b"{".to_vec()), "no policy");
        check(Word::Delivered { request_id: 1, answer: Vec::new() }, "not given");
        check(Word::Undelivered { request_id: 1, retry_after_ms: 1 }, "not given");
        check(Word::Bye, "leave");
    }
}
