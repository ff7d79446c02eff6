//! The link against real processes: good agents, bad newcomers, crashes, swaps.
#![expect(clippy::disallowed_methods, reason = "a test has patience, not time")]

use super::{
    AgentHandle, AgentSinks, AgentState, AgentStatus, Swapped,
    fake_agent::{Mode, RISK_REFUSED, USER_BANNED, answer},
    start_at,
};
use crate::{clock::Clock, config::AgentConfig};
use arc_swap::ArcSwap;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use yao_engine::vetting::{Asked, VetDesk};
use yao_protocol::{
    Fen, PacketId, ShakeId, SponsorId, UserId,
    agent::{FromAgent, Greet, Question, Role, Standing, VERSION, Vet, VetKind},
    policy::Policy,
    token::Bearer,
};

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the link told its owners.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Available(bool),
    Win(u64, bool),
    Open(u64, bool),
    Delivered(u32, Vec<u8>),
    Undelivered(u32, u32),
    GrantAnswer(Vec<u8>),
    GrantUnanswered(u32),
    PolicyChanged(u64),
}

/// A link with a fake agent, and everything it said.
struct World {
    directory: TempDir,
    handle: AgentHandle,
    told: mpsc::Receiver<Told>,
    policy: Arc<ArcSwap<Policy>>,
}

impl World {
    fn new(mode: Mode) -> Self {
        Self::with(mode, |_| {})
    }

    fn with(mode: Mode, adjust: impl FnOnce(&mut AgentConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = AgentConfig {
            program: PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/agent_link/fake_agent.sh"
            )),
            config: directory.path().join("mode"),
            socket: directory.path().join("agent.sock"),
            // Long, so that what is in flight is still there when a successor comes.
            vet_ms_max: 60_000,
            prove_ms_max: 10_000,
            leave_ms_max: 5_000,
        };
        adjust(&mut config);
        let (sender, told) = mpsc::channel();
        let policy = Arc::<ArcSwap<Policy>>::default();
        set_mode(directory.path(), mode);
        let sinks = sinks(&sender, &policy);
        let handle = start_at(config, Clock::start(), sinks).expect("the socket is ours");
        Self { directory, handle, told, policy }
    }

    /// A link whose first agent serves.
    fn serving(mode: Mode) -> Self {
        let world = Self::new(mode);
        world.expect(&Told::Available(true));
        world
    }

    fn set_mode(&self, mode: Mode) {
        set_mode(self.directory.path(), mode);
    }

    /// Waits for `expected`, whatever comes before it.
    fn expect(&self, expected: &Told) {
        self.until(|told| told == expected, &format!("{expected:?}"));
    }

    fn until(&self, found: impl Fn(&Told) -> bool, what: &str) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.told.recv_timeout(PATIENCE);
            let told = told.unwrap_or_else(|_| {
                panic!("no {what} came, but {all:?}; {:?}", self.handle.status())
            });
            all.push(told);
            if all.last().is_some_and(&found) {
                return all;
            }
        }
    }

    /// The next `count` verdicts and answers, sorted; none may come twice.
    fn answers(&self, count: usize) -> Vec<Told> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let is_answer =
                |told: &Told| !matches!(told, Told::Available(_) | Told::PolicyChanged(_));
            answers.extend(self.until(is_answer, "answer").pop());
        }
        answers.sort();
        answers
    }

    fn status_when(&self, what: &str, holds: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let begun = Instant::now();
        loop {
            let status = self.handle.status();
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}: {status:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process of an agent, which says so by a file.
    fn pid(&self, generation: u32) -> u32 {
        let path = self.directory.path().join(format!("mode.{generation}.pid"));
        std::fs::read_to_string(path).expect("it was started").parse().expect("a number")
    }

    fn swap(&self) -> Swapped {
        self.handle.swap().blocking_recv().expect("always answered")
    }

    /// One vet of each kind, one for a banned user, and a batch.
    fn ask_four(&self) {
        assert!(self.handle.vet(vet(1, VetKind::Win, UserId(1))));
        assert!(self.handle.vet(vet(2, VetKind::Open, UserId(1))));
        assert!(self.handle.vet(vet(3, VetKind::Win, USER_BANNED)));
        assert!(self.handle.deliver(77, vec![1, 2, 3]));
    }

    /// The answers of a good agent to [`Self::ask_four`].
    fn expect_four_from(&self, generation: u32) {
        let expected = [
            Told::Win(1, true),
            Told::Win(3, false),
            Told::Open(2, true),
            Told::Delivered(77, answer(generation, &[1, 2, 3])),
        ];
        assert_eq!(self.answers(4), expected);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

fn set_mode(directory: &Path, mode: Mode) {
    // This very binary, even when a build has replaced its file meanwhile.
    let text = format!("{mode:?}\n/proc/{}/exe\n", std::process::id());
    // By rename: an agent that starts meanwhile reads the one or the other.
    let new = directory.join("mode.new");
    std::fs::write(&new, text).expect("writable");
    std::fs::rename(&new, directory.join("mode")).expect("writable");
}

fn sinks(sender: &mpsc::Sender<Told>, policy: &Arc<ArcSwap<Policy>>) -> AgentSinks {
    let to = |sender: &mpsc::Sender<Told>| {
        let sender = sender.clone();
        // A test that has ended listens no more.
        move |told| sender.send(told).unwrap_or_default()
    };
    let (win, open, delivered) = (to(sender), to(sender), to(sender));
    let (undelivered, available, changed) = (to(sender), to(sender), to(sender));
    let (grant, ungranted) = (to(sender), to(sender));
    let current = Arc::clone(policy);
    AgentSinks {
        win_verdict: Box::new(move |call, allowed| win(Told::Win(call, allowed))),
        open_verdict: Box::new(move |call, allowed| open(Told::Open(call, allowed))),
        delivered: Box::new(move |id, answer| delivered(Told::Delivered(id, answer))),
        undelivered: Box::new(move |id, ms| undelivered(Told::Undelivered(id, ms))),
        grant_answer: Box::new(move |answer| grant(Told::GrantAnswer(answer))),
        grant_unanswered: Box::new(move |id, _| ungranted(Told::GrantUnanswered(id))),
        available: Box::new(move |yes| available(Told::Available(yes))),
        policy: Arc::clone(policy),
        policy_changed: Box::new(move || changed(Told::PolicyChanged(current.load().version))),
    }
}

fn vet(call: u64, kind: VetKind, user: UserId) -> Question {
    let vet = Vet {
        call,
        kind,
        user,
        sponsor: SponsorId::new(1).expect("below 64"),
        amount: Fen(100),
        packet: PacketId(5),
        shake: ShakeId(6),
    };
    Question { vet, standing: Standing::default() }
}

/// The same of a user of this risk class.
fn risky(call: u64, kind: VetKind, risk: u8) -> Question {
    let standing = Standing { bearer: Bearer { device: 9, risk }, ..Standing::default() };
    Question { standing, ..vet(call, kind, UserId(1)) }
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn expect_gone(pid: u32) {
    let begun = Instant::now();
    while runs(pid) {
        assert!(begun.elapsed() < PATIENCE, "process {pid} was neither ended nor reaped");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Stops every thread of a process: SIGSTOP takes effect some time after it was sent.
fn freeze(pid: u32) {
    let number = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(number, Signal::STOP).expect("it runs");
    let begun = Instant::now();
    let stopped = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).expect("a thread");
        // "pid (name) T ..."
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    };
    while !std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("it runs")
        .all(|entry| stopped(entry.expect("readable")))
    {
        assert!(begun.elapsed() < PATIENCE, "never stopped");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_good_agent_serves() {
    let world = World::serving(Mode::Good);
    assert_eq!(world.policy.load().version, 1, "the policy was there before it served");
    world.ask_four();
    world.expect_four_from(1);
    let status = world.status_when("idle", |s| s.in_flight_vets + s.in_flight_batches == 0);
    assert_eq!((status.generation, status.state), (1, AgentState::Serving));
    assert_eq!((status.pid, status.software.as_str()), (world.pid(1), "fake Good"));
}

#[test]
fn m4_a_request_for_a_grant_is_carried_and_its_answer_untouched() {
    let world = World::serving(Mode::Good);
    assert!(world.handle.ask_grant(3, vec![1, 2, 3]));
    world.expect(&Told::GrantAnswer(answer(1, &[1, 2, 3])));
    // An empty one is what the fake cannot post.
    assert!(world.handle.ask_grant(5, Vec::new()));
    world.expect(&Told::GrantUnanswered(5));
}

#[test]
fn the_agent_hears_how_the_user_stands_before_each_question_also_after_a_swap() {
    let world = World::serving(Mode::Good);
    let ask = |call: u64| {
        assert!(world.handle.vet(risky(call, VetKind::Win, RISK_REFUSED - 1)));
        assert!(world.handle.vet(risky(call + 1, VetKind::Win, RISK_REFUSED)));
        assert!(world.handle.vet(risky(call + 2, VetKind::Open, RISK_REFUSED)));
    };
    let expect = |call: u64| {
        let expected =
            [Told::Win(call, true), Told::Win(call + 1, false), Told::Open(call + 2, false)];
        assert_eq!(world.answers(3), expected);
    };
    ask(1);
    expect(1);
    world.set_mode(Mode::Silent);
    world.swap().expect("the newcomer is good");
    ask(10);
    world.status_when("in flight", |status| status.in_flight_vets == 3);
    world.set_mode(Mode::Good);
    world.swap().expect("the newcomer is good");
    expect(10);
}

#[test]
fn an_agent_from_before_standing_serves_as_it_did() {
    let world = World::serving(Mode::Older);
    world.ask_four();
    world.expect_four_from(1);
    assert!(world.handle.vet(risky(9, VetKind::Win, RISK_REFUSED)));
    assert_eq!(world.answers(1), [Told::Win(9, true)], "it knows no risk");
}

#[test]
fn a_newer_agent_serves_in_the_version_of_the_node() {
    // It insists on being answered with that version.
    let world = World::serving(Mode::Newer);
    world.ask_four();
    world.expect_four_from(1);
}

#[test]
fn without_a_serving_agent_nothing_is_taken() {
    let world = World::new(Mode::Hanging);
    assert!(!world.handle.vet(vet(1, VetKind::Win, UserId(1))));
    assert!(!world.handle.deliver(1, vec![1]));
    assert!(!world.handle.ask_grant(1, vec![1]));
}

#[test]
fn calls_in_flight_are_sent_again_after_a_crash() {
    let world = World::serving(Mode::Crashing);
    world.set_mode(Mode::Good);
    let crashed = world.pid(1);
    world.ask_four();
    let all = world.until(|told| *told == Told::Available(true), "successor");
    assert!(all.contains(&Told::Available(false)), "{all:?}");
    world.expect_four_from(2);
    expect_gone(crashed);
    let status = world.handle.status();
    assert_eq!((status.restarts, status.swaps), (1, 0));
    let error = status.last_error.expect("the crash");
    assert!(error.contains("generation 1"), "{error}");
}

#[test]
fn garbage_from_the_serving_agent_ends_it() {
    let world = World::serving(Mode::TurningBad);
    world.set_mode(Mode::Good);
    world.ask_four();
    world.expect(&Told::Available(false));
    expect_gone(world.pid(1));
    world.expect(&Told::Available(true));
    world.expect_four_from(2);
}

#[test]
fn m7_calls_in_flight_are_sent_again_on_a_swap() {
    let world = World::serving(Mode::Silent);
    world.set_mode(Mode::Good);
    world.ask_four();
    world.status_when("in flight", |s| s.in_flight_vets == 3 && s.in_flight_batches == 1);
    let report = world.swap().expect("the newcomer is good");
    assert_eq!((report.generation, report.software.as_str()), (2, "fake Good"));
    world.expect_four_from(2);
    expect_gone(world.pid(1));
    let status = world.handle.status();
    assert_eq!((status.generation, status.swaps, status.restarts), (2, 1, 0));
    assert_eq!(world.policy.load().version, 2);
}

#[test]
fn answers_of_both_generations_count_once() {
    let world = World::serving(Mode::Late);
    world.set_mode(Mode::Good);
    world.ask_four();
    world.status_when("in flight", |s| s.in_flight_vets == 3 && s.in_flight_batches == 1);
    world.swap().expect("the newcomer is good");
    // The old one answers everything when it leaves, the new one everything again.
    let answers = world.answers(4);
    let old = Told::Delivered(77, answer(1, &[1, 2, 3]));
    let new = Told::Delivered(77, answer(2, &[1, 2, 3]));
    assert_eq!(answers[..3], [Told::Win(1, true), Told::Win(3, false), Told::Open(2, true)]);
    assert!(answers[3] == old || answers[3] == new, "{answers:?}");
    expect_gone(world.pid(1));
    // A last question, so that a duplicate before its answer would show.
    assert!(world.handle.vet(vet(9, VetKind::Win, UserId(1))));
    assert_eq!(world.answers(1), [Told::Win(9, true)]);
}

#[test]
fn a_failed_newcomer_changes_nothing() {
    let world = World::with(Mode::Good, |config| config.prove_ms_max = 2_000);
    world.expect(&Told::Available(true));
    let cases = [
        (Mode::Exiting, "exit status: 7"),
        (Mode::WrongVersion, "speaks version 0 of the agent link"),
        (Mode::WrongProof, "does not know the secret"),
        (Mode::Garbage, "no message"),
        (Mode::WrongProbe, "answered a probe wrongly"),
        (Mode::BadPolicy, "sent no policy"),
        (Mode::NoPolicy, "within 2000 ms: without a policy"),
        (Mode::Hanging, "without a greeting on the vet socket, a greeting on the deliver socket"),
    ];
    for (number, (mode, expected)) in (2..).zip(cases) {
        world.set_mode(mode);
        let error = world.swap().expect_err("refused");
        assert!(error.contains(expected), "{mode:?}: {error:?} should say {expected:?}");
        expect_gone(world.pid(number));
        let status = world.status_when("settled", |s| s.state == AgentState::Serving);
        assert_eq!((status.generation, status.restarts), (1, 0), "{mode:?}");
        assert_eq!(status.last_error, Some(error));
        world.ask_four();
        world.expect_four_from(1);
    }
    assert_eq!(world.policy.load().version, 1);
}

#[test]
fn a_program_that_cannot_be_started_is_reported() {
    let world = World::with(Mode::Good, |config| config.program = PathBuf::from("/no/such/agent"));
    world.status_when("backing off", |status| status.restarts >= 1);
    let error = world.swap().expect_err("refused");
    assert!(error.contains("cannot be started from /no/such/agent"), "{error}");
}

#[test]
fn the_second_of_two_swaps_is_refused() {
    let world = World::serving(Mode::Good);
    world.set_mode(Mode::Hanging);
    let first = world.handle.swap();
    world.status_when("swapping", |status| status.state == AgentState::Swapping);
    let error = world.swap().expect_err("refused");
    assert!(error.contains("another agent is proving itself"), "{error}");
    world.handle.stop();
    let error = first.blocking_recv().expect("always answered").expect_err("not needed");
    assert!(error.contains("the node is ending"), "{error}");
}

#[test]
fn restarts_wait_longer_each_time() {
    let begun = Instant::now();
    let world = World::new(Mode::Exiting);
    world.status_when("failed three times", |status| status.restarts >= 3);
    assert!(begun.elapsed() >= Duration::from_millis(100 + 200), "{:?}", begun.elapsed());
    world.set_mode(Mode::Good);
    world.expect(&Told::Available(true));
}

#[test]
fn strangers_are_refused() {
    let world = World::serving(Mode::Good);
    let path = world.directory.path().join("agent.sock");
    let mut stream = UnixStream::connect(path).expect("it listens");
    // Everything right but the process: even the secret of the serving agent would not help.
    let greet = Greet {
        version: VERSION,
        role: Role::Vet,
        generation: 1,
        proof: [0; 16],
        software: String::new(),
    };
    let mut out = Vec::new();
    FromAgent::Greet(greet).put(&mut out, 0);
    // The link may have closed already.
    stream.write_all(&out).ok();
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // Closed with our bytes unread is a reset, else an end.
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert!(answer.is_empty(), "{answer:?}");
    let status = world.status_when("counted", |status| status.refused == 1);
    assert_eq!(status.generation, 1);
}

#[test]
fn a_stopped_agent_holds_nobody_up_and_is_replaced() {
    let world = World::serving(Mode::Good);
    let pid = world.pid(1);
    freeze(pid);
    let clock = Clock::start();
    let mut desk: VetDesk<u64> = VetDesk::new(20, 1);
    desk.agent_available(true);
    let mut passed = 0;
    for subject in 0..80 {
        let asked_at = clock.now();
        match desk.ask(asked_at, subject) {
            Asked::Allowed(_) => passed += 1,
            Asked::Send { call } => {
                assert!(world.handle.vet(vet(call, VetKind::Win, UserId(1))));
                assert_eq!(world.told.try_recv().ok(), None, "it is stopped");
                while desk.poll_expired(clock.now()).is_none() {
                    thread::sleep(Duration::from_millis(1));
                }
                passed += 1;
                let waited = clock.now().since(asked_at);
                assert!(waited < Duration::from_secs(1), "{waited:?}");
            }
        }
    }
    assert_eq!((passed, desk.counters().breaker_opened), (80, 1));
    // Deliveries need an agent that lives: this one has hung.
    world.expect(&Told::Available(false));
    expect_gone(pid);
    world.expect(&Told::Available(true));
    assert_eq!(world.handle.status().generation, 2);
}

#[test]
fn an_agent_that_does_not_leave_is_killed() {
    let world = World::with(Mode::Staying, |config| config.leave_ms_max = 300);
    world.expect(&Told::Available(true));
    world.set_mode(Mode::Good);
    let begun = Instant::now();
    world.swap().expect("the newcomer is good");
    expect_gone(world.pid(1));
    assert!(begun.elapsed() >= Duration::from_millis(300), "it had its time");
}

#[test]
fn many_swaps_in_a_row_leave_nothing_behind() {
    let world = World::serving(Mode::Staying);
    for number in 2..=12 {
        assert_eq!(world.swap().expect("good enough").generation, number);
        world.ask_four();
        world.expect_four_from(number);
    }
    for number in 1..=7 {
        // At most four are leaving at once: the older ones were ended before their time.
        expect_gone(world.pid(number));
    }
}

#[test]
fn the_end_drains_the_agent_and_removes_the_socket() {
    let world = World::serving(Mode::Late);
    let socket = world.directory.path().join("agent.sock");
    assert!(socket.exists());
    world.ask_four();
    world.status_when("in flight", |s| s.in_flight_vets == 3 && s.in_flight_batches == 1);
    world.handle.stop();
    assert!(!runs(world.pid(1)) && !socket.exists());
    assert_eq!(world.handle.status().state, AgentState::Stopped);
    // What it finished while it drained still counts.
    world.expect_four_from(1);
    assert!(!world.handle.vet(vet(5, VetKind::Win, UserId(1))));
    let error = world.swap().expect_err("too late");
    assert!(error.contains("ended"), "{error}");
}
