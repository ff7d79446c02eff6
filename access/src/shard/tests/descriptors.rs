//! A node that runs out of descriptors goes on, and tells those for whom it has none.

use super::*;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Set for the process that is the node.
const CHILD: &str = "YAO_TEST_DESCRIPTORS";
/// Descriptors the node may have. Its threads, listeners and the like need about 20.
const LIMIT: usize = 64;

/// The node of the test below, in a process of its own: its limit is nobody else's.
#[test]
#[expect(clippy::print_stdout, reason = "how a process tells its parent where it listens")]
fn the_node_without_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let rig = Rig::start("tcp = ['127.0.0.1:0']\ntls = ['127.0.0.1:0']\nthreads = 1");
    println!("listening {} {}", rig.addresses.tcp[0], rig.addresses.tls[0]);
    // Until the parent has seen enough.
    io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
}

#[test]
fn a_node_without_descriptors_tells_newcomers_and_recovers() {
    let name = "shard::tests::descriptors::the_node_without_descriptors";
    let program = std::env::current_exe().expect("this very program");
    let limited = format!("ulimit -n {LIMIT}; exec \"$0\" --exact {name} --nocapture");
    let mut node = Command::new("sh")
        .args(["-c", &limited])
        .arg(program)
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut lines = BufReader::new(node.stdout.take().expect("piped")).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains("listening "));
    let line = line.expect("the node listens");
    let addresses = line.split_once("listening ").expect("as it was found").1;
    let (tcp, tls) = addresses.split_once(' ').expect("two addresses");
    let [tcp, tls]: [SocketAddr; 2] = [tcp, tls].map(|text| text.parse().expect("an address"));

    let (mut open, mut busy) = (Vec::new(), 0);
    for user in 0..100 {
        let mut stream = connect(tcp);
        match greet(&mut stream, user) {
            Ok(true) => open.push(stream),
            // A HELLO that crossed the farewell may have reset the connection before it was read.
            Ok(false) => busy += 1,
            Err(farewell) => {
                assert_eq!(farewell, elsewhere());
                busy += 1;
            }
        }
    }
    assert!((10..LIMIT).contains(&open.len()), "{} came in", open.len());
    assert_eq!(open.len() + busy, 100, "and nobody was left hanging");
    assert_eq!(first_word(&mut connect(tcp)), Err(elsewhere()), "who listens is told");
    assert_eq!(first_word(&mut connect(tls)), Ok(false), "over TLS only that it is over");
    // Those who are in are served, and when they go others come in.
    open.truncate(3);
    let started = Instant::now();
    while greet(&mut connect(tcp), 1_000) != Ok(true) {
        assert!(started.elapsed() < PATIENCE, "descriptors were given back");
    }
    drop(node.stdin.take());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(node.wait().expect("it ends").success(), "{rest:?}");
}
