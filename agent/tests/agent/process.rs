//! The real binary: its start, its end, and what it does when settlement or the access process
//! fail.

use super::stage::{Agent, PATIENCE, POLICY, Settlement, command, write};
use std::{process::Command, sync::mpsc::RecvTimeoutError, time::Duration};
use yao_protocol::{
    agent::{FromAccess, FromAgent, PROOF_VARIABLE, VERSION},
    policy::Policy,
};

fn undelivered(request_id: u32, message: FromAgent<'_>) -> (u32, u32) {
    match message {
        FromAgent::Undelivered { retry_after_ms } => (request_id, retry_after_ms),
        other => panic!("expected UNDELIVERED, got {other:?}"),
    }
}

fn delivered(request_id: u32, message: FromAgent<'_>) -> (u32, Vec<u8>) {
    match message {
        FromAgent::Delivered(answer) => (request_id, answer.to_vec()),
        other => panic!("expected DELIVERED, got {other:?}"),
    }
}

#[test]
fn version_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_yao-agent")).arg("--version").output();
    let text = String::from_utf8(output.expect("runs").stdout).expect("text");
    assert_eq!(text.trim(), concat!("yao-agent ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_start_ends_with_its_code_and_names_the_mistake() {
    fn check(policy: &str, proof: &str, code: i32, expected: &str) {
        let directory = tempfile::tempdir().expect("a directory");
        let config = "[settlement]\nurl = \"http://127.0.0.1:1\"\n[policy]\nfile = \"p.toml\"\n";
        write(directory.path(), "agent.toml", config);
        write(directory.path(), "p.toml", policy);
        let output =
            command(directory.path()).env(PROOF_VARIABLE, proof).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said:?} should say {expected:?}");
    }
    let proof = "00112233445566778899aabbccddeeff";
    check(POLICY, "0011", 2, "32 hex digits");
    check("version = 1\nbaned = []\n", proof, 78, "did you mean `banned`?");
    check(POLICY, proof, 1, "is the access process running?");
}

#[test]
fn four_batches_are_posted_at_once_and_the_fifth_waits() {
    let settlement = Settlement::start();
    let agent = Agent::start(&settlement.url);
    let (_vet, mut deliver) = agent.greeted();
    for id in 1..=5 {
        deliver.send(&FromAccess::Deliver(&[9, 9]), id);
    }
    let mut waiting: Vec<_> = (0..4).map(|_| settlement.next()).collect();
    let fifth = settlement.requests.recv_timeout(Duration::from_millis(300));
    assert!(matches!(fifth, Err(RecvTimeoutError::Timeout)), "four are enough");
    waiting.pop().expect("four").respond("200 OK", "", &[1]);
    deliver.message(delivered);
    waiting.push(settlement.next());
    for request in waiting {
        request.respond("200 OK", "", &[2]);
        assert_eq!(deliver.message(delivered).1, [2]);
    }
}

#[test]
fn an_unreachable_settlement_is_asked_again_later_and_later() {
    // A port that nobody listens on: bound once, and free again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", free.local_addr().expect("bound"));
    drop(free);
    let agent = Agent::start(&url);
    let (_vet, mut deliver) = agent.greeted();
    for (id, whole_ms) in (1..).zip([50, 100, 200, 400]) {
        deliver.send(&FromAccess::Deliver(&[1]), id);
        let (answered, wait_ms) = deliver.message(undelivered);
        assert_eq!(answered, id);
        assert!((whole_ms / 2..=whole_ms).contains(&wait_ms), "{wait_ms} ms for {whole_ms}");
    }
}

#[test]
fn a_connection_that_breaks_and_an_endless_answer_are_undelivered() {
    let settlement = Settlement::start();
    let agent = Agent::start(&settlement.url);
    let (_vet, mut deliver) = agent.greeted();
    deliver.send(&FromAccess::Deliver(&[1]), 1);
    drop(settlement.next());
    assert_eq!(deliver.message(undelivered).0, 1);
    deliver.send(&FromAccess::Deliver(&[1]), 2);
    settlement.next().respond("200 OK", "", &vec![0; 65_536]);
    assert_eq!(deliver.message(undelivered).0, 2);
}

#[test]
fn a_changed_policy_file_is_sent_and_sighup_is_no_death() {
    let settlement = Settlement::start();
    let agent = Agent::start(&settlement.url);
    let (mut vet, _deliver) = agent.greeted();
    write(agent.directory.path(), "policy.toml", "version = 4\ncue = 9\n");
    let pid = agent.child.id().to_string();
    let hung_up = Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs");
    assert!(hung_up.success());
    let policy = vet.message(|_, message| match message {
        FromAgent::Policy(bytes) => Policy::decode(bytes).expect("a policy"),
        other => panic!("expected POLICY, got {other:?}"),
    });
    assert_eq!(policy, Policy { version: 4, cue: 9, ..Policy::default() });
}

#[test]
fn an_orphan_ends() {
    let settlement = Settlement::start();
    let mut agent = Agent::start(&settlement.url);
    drop(agent.greeted());
    assert_eq!(agent.exit_status().code(), Some(1));
}

#[test]
fn an_access_process_of_another_version_is_refused() {
    let settlement = Settlement::start();
    let mut agent = Agent::start(&settlement.url);
    let (mut vet, _) = agent.accept();
    vet.send(&FromAccess::Greeted { version: VERSION + 1 }, 0);
    assert_eq!(agent.exit_status().code(), Some(1));
}

#[test]
fn a_terminated_agent_finishes_what_is_under_way() {
    let settlement = Settlement::start();
    let mut agent = Agent::start(&settlement.url);
    let (mut vet, mut deliver) = agent.greeted();
    deliver.send(&FromAccess::Deliver(&[5]), 5);
    let request = settlement.requests.recv_timeout(PATIENCE).expect("posted");
    let pid = agent.child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success());
    request.respond("200 OK", "", &[6]);
    assert_eq!(deliver.message(delivered), (5, vec![6]));
    for socket in [&mut deliver, &mut vet] {
        socket.message(|_, message| assert_eq!(message, FromAgent::Bye));
    }
    assert!(agent.exit_status().success());
}
