//! An agent for the tests, good or bad in a chosen way. It is this test binary, started once more
//! by
//! `fake_agent.sh`, so that process, user and secret are checked as with a real one.

use std::{
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::exit,
    thread,
};
use yao_protocol::{
    Fen, UserId,
    agent::{
        FromAccess, FromAgent, Greet, PROOF_VARIABLE, Role, Standing, VERSION, VERSION_MIN, Vet,
        VetKind,
    },
    frame::{KIND_OPTIONAL, split_frame},
    hex,
    limits::AGENT_PAYLOAD_BYTES_MAX,
    policy::Policy,
};

/// This user's wins and opens are refused.
pub(super) const USER_BANNED: UserId = UserId(13);
/// Wins and opens of this risk class and those above it are refused.
pub(super) const RISK_REFUSED: u8 = 200;

/// Frames of a kind that does not exist.
const GARBAGE: [u8; 64] = [0; 64];

/// How the agent behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// By contract.
    Good,
    /// By contract, as it was before STANDING.
    Older,
    /// Answers nothing but probes.
    Silent,
    /// Answers nothing but probes, and crashes when it gets a batch.
    Crashing,
    /// Answers nothing but probes, and sends garbage when it gets a batch.
    TurningBad,
    /// Answers everything only when it is told to leave.
    Late,
    /// Never leaves.
    Staying,
    /// Ends at once.
    Exiting,
    /// Does not even connect.
    Hanging,
    /// Speaks a later version, too.
    Newer,
    /// Speaks versions only that this node has forgotten.
    WrongVersion,
    /// Does not know its secret.
    WrongProof,
    /// Greets, then sends garbage.
    Garbage,
    /// Says yes to everything.
    WrongProbe,
    /// Sends no policy.
    NoPolicy,
    /// Sends a policy that is none.
    BadPolicy,
}

impl Mode {
    const ALL: [Self; 16] = [
        Self::Good,
        Self::Older,
        Self::Silent,
        Self::Crashing,
        Self::TurningBad,
        Self::Late,
        Self::Staying,
        Self::Exiting,
        Self::Hanging,
        Self::Newer,
        Self::WrongVersion,
        Self::WrongProof,
        Self::Garbage,
        Self::WrongProbe,
        Self::NoPolicy,
        Self::BadPolicy,
    ];

    /// Whether vets and batches stay without an answer.
    const fn is_mute(self) -> bool {
        matches!(self, Self::Silent | Self::Crashing | Self::TurningBad | Self::Late)
    }
}

/// The program: returns at once when it runs as an ordinary test.
#[test]
fn process() {
    let Ok(name) = env::var("YAO_TEST_MODE") else { return };
    let mode = Mode::ALL.into_iter().find(|mode| format!("{mode:?}") == name).expect("a mode");
    let number = env::var("YAO_TEST_GENERATION").expect("set by the script");
    let config = env::var("YAO_TEST_CONFIG").expect("set by the script");
    let pid = std::process::id().to_string();
    std::fs::write(format!("{config}.{number}.pid"), pid).expect("writable");
    match mode {
        Mode::Exiting => exit(7),
        Mode::Hanging => loop {
            thread::park();
        },
        _ => {}
    }
    let serve = move |role| serve(mode, number.parse().expect("a number"), role);
    let delivers = thread::spawn({
        let serve = serve.clone();
        move || serve(Role::Deliver)
    });
    serve(Role::Vet);
    delivers.join().expect("no panic");
    exit(0);
}

fn serve(mode: Mode, generation: u32, role: Role) {
    let socket = env::var("YAO_TEST_SOCKET").expect("set by the script");
    let mut stream = UnixStream::connect(socket).expect("the link listens");
    let mut out = Vec::new();
    FromAgent::Greet(greeting(mode, generation, role)).put(&mut out, 0);
    if mode == Mode::Garbage {
        out.extend(GARBAGE);
    }
    if role == Role::Vet && mode != Mode::NoPolicy {
        let policy = Policy { version: u64::from(generation), ..Policy::default() }.encode();
        let policy = if mode == Mode::BadPolicy { b"{\"cue\":-1}".to_vec() } else { policy };
        FromAgent::Policy(&policy).put(&mut out, 0);
    }
    let mut received = Vec::new();
    let mut withheld = Vec::new();
    let mut stands: Option<(u64, Standing)> = None;
    loop {
        stream.write_all(&out).expect("the link reads");
        out.clear();
        let mut chunk = [0; 4_096];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => exit(1),
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
        let mut rest = received.as_slice();
        while let Some((frame, behind)) =
            split_frame(rest, AGENT_PAYLOAD_BYTES_MAX).expect("the link speaks the contract")
        {
            rest = behind;
            let answers = if mode.is_mute() { &mut withheld } else { &mut out };
            // Before STANDING it was one of the kinds that a later version may bring.
            let later = frame.header.kind & KIND_OPTIONAL != 0;
            if mode == Mode::Older && later {
                continue;
            }
            match FromAccess::decode(frame).expect("the link speaks the contract") {
                FromAccess::Greeted { version } => assert_eq!(version, VERSION),
                FromAccess::Vet(vet) if vet.kind == VetKind::Probe => {
                    verdict(&vet, mode == Mode::WrongProbe || vet.amount == Fen(1), &mut out);
                }
                FromAccess::Standing { call, standing } => stands = Some((call, standing)),
                FromAccess::Vet(vet) if mode == Mode::Older => {
                    verdict(&vet, vet.user != USER_BANNED, answers);
                }
                FromAccess::Vet(vet) => {
                    let (call, standing) = stands.take().expect("STANDING is right before it");
                    assert_eq!(call, vet.call);
                    let good = vet.user != USER_BANNED && standing.bearer.risk < RISK_REFUSED;
                    verdict(&vet, good, answers);
                }
                FromAccess::Deliver(_) if mode == Mode::Crashing => exit(9),
                FromAccess::Deliver(_) if mode == Mode::TurningBad => out.extend(GARBAGE),
                FromAccess::Deliver(batch) => {
                    FromAgent::Delivered(&answer(generation, batch))
                        .put(answers, frame.header.request_id);
                }
                FromAccess::GrantAsk(request) => {
                    ask(generation, request, frame.header.request_id, answers);
                }
                FromAccess::Drain if mode == Mode::Staying => {}
                FromAccess::Drain => {
                    return leave(stream, if mode == Mode::Late { withheld } else { Vec::new() });
                }
            }
        }
        received.drain(..received.len() - rest.len());
    }
}

/// An answer to a request for a grant; an empty one is not answered.
fn ask(generation: u32, request: &[u8], id: u32, out: &mut Vec<u8>) {
    match request {
        [] => FromAgent::GrantUnanswered { retry_after_ms: 7 }.put(out, id),
        request => FromAgent::GrantAnswer(&answer(generation, request)).put(out, id),
    }
}

/// Says `last`, then goodbye. The process ends when both sockets have.
fn leave(mut stream: UnixStream, mut last: Vec<u8>) {
    FromAgent::Bye.put(&mut last, 0);
    stream.write_all(&last).expect("the link reads");
}

fn greeting(mode: Mode, generation: u32, role: Role) -> Greet {
    let proof = env::var(PROOF_VARIABLE).expect("set by the link");
    let mut proof: [u8; 16] = hex::decode_array(&proof).expect("32 hex digits");
    if mode == Mode::WrongProof {
        proof[15] ^= 1;
    }
    let version = match mode {
        Mode::Newer => VERSION + 1,
        Mode::WrongVersion => VERSION_MIN - 1,
        _ => VERSION,
    };
    Greet { version, role, generation, proof, software: format!("fake {mode:?}") }
}

fn verdict(vet: &Vet, allowed: bool, out: &mut Vec<u8>) {
    FromAgent::Verdict { call: vet.call, allowed }.put(out, 0);
}

/// What a good fake answers to `batch`: its generation, then the batch.
pub(super) fn answer(generation: u32, batch: &[u8]) -> Vec<u8> {
    [&generation.to_le_bytes(), batch].concat()
}
