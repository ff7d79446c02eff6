//! `yao-seedgen reclaim` as people run it without a network: requests out, answers in, and what is
//! refused. Settlement's side is signed here with a key of its own; `cargo xtask soak reclaim`
//! plays the same with the real one.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::{SMALL, keys, plan};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;
use yao_protocol::{
    Epoch, Incarnation, KeyId, WallTime,
    keys::{KeyOwner, PublicKeyFile, SignKey},
    seal::{Seal, SealedWave},
    seed_file::SeedHeader,
    void::{VoidAnswer, VoidRequest},
};

const SECRET: u8 = 7;
const RECLAIM: &str =
    "reclaim --campaign small.toml --secret s --seeds all --keys keys --wave-seconds 5 --shards 2";

struct Place(TempDir);

fn settlement() -> SignKey {
    SignKey::from_seed(&[9; 32])
}

impl Place {
    /// Generation 0, and a key directory with settlement's key.
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = Self(TempDir::new().expect("a temporary directory"));
        fs::write(place.path("small.toml"), SMALL).expect("written");
        fs::write(place.path("s"), [SECRET; 32]).expect("written");
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(place.path("s"), mode).expect("private");
        place.succeed("generate --campaign small.toml --secret s --out all");
        fs::create_dir(place.path("keys")).expect("made");
        let owner = KeyOwner::Settlement { key_id: KeyId(1) };
        let file = PublicKeyFile { owner, key: settlement().public().to_bytes() };
        let text = serde_json::to_string(&file).expect("plain data");
        fs::write(place.path("keys/settlement-1.pub.json"), text).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yao-seedgen"));
        command.args(arguments.split(' ')).current_dir(self.0.path());
        command.output().expect("the program starts")
    }

    fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn fail(&self, arguments: &str, says: &str) {
        self.ends(1, arguments, says);
    }

    /// Ends with this code, and says this to people.
    fn ends(&self, code: i32, arguments: &str, says: &str) {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {error}");
        assert!(error.contains(says), "{arguments}: {error} / {says}");
    }

    /// The seal of a shard's node, and the node's key: half of each wave never left.
    fn seal(&self, shard: u8) {
        let path = self.path(&format!("all/shard-{shard:05}.yaoseed"));
        let file = fs::read(path).expect("generated");
        let length = SeedHeader::peek_length(&file).expect("a header");
        let public = keys(&plan(SMALL), SECRET).public();
        let header = SeedHeader::decode(&file[..length], &public).expect("ours");
        let key = SignKey::from_seed(&[shard + 20; 32]);
        let (campaign, epoch) = (header.campaign, Epoch(1));
        let owner = KeyOwner::Ticket { campaign, shard: header.shard, epoch };
        let public = PublicKeyFile { owner, key: key.public().to_bytes() };
        let text = serde_json::to_string(&public).expect("plain data");
        fs::write(self.path(&format!("keys/ticket-{shard:05}-001.pub.json")), text).expect("made");
        let waves = header.sections.iter().map(|section| {
            let (wave, count) = (section.wave, section.count);
            SealedWave { wave, count, high: count / 2 }
        });
        let seal = Seal {
            campaign,
            shard: header.shard,
            generation: 0,
            epoch,
            incarnation: Incarnation([1; 16]),
            settled: 0,
            sealed_at: WallTime(1),
            merkle_root: header.merkle_root,
            waves: waves.collect(),
        };
        fs::create_dir_all(self.path("seals")).expect("a directory");
        let path = self.path(&format!("seals/shard-{shard:05}.yaoseal"));
        fs::write(path, seal.encode(&key)).expect("written");
    }

    /// Every file below `folder`.
    fn files(&self, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        fn add(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).expect("a directory") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    add(&path, files);
                } else {
                    files.insert(path.clone(), fs::read(&path).expect("readable"));
                }
            }
        }
        let mut files = BTreeMap::new();
        add(&self.path(folder), &mut files);
        files
    }

    /// Answers every request in `out`: each packet with an even index is void.
    fn answer(&self, out: &str, key: &SignKey) {
        for entry in fs::read_dir(self.path(out).join("requests")).expect("requests") {
            let path = entry.expect("readable").path();
            let answer = voided(&fs::read(&path).expect("readable"), key);
            let name = path.file_stem().expect("named").to_string_lossy().into_owned();
            let answers = self.path(out).join("answers");
            fs::write(answers.join(format!("{name}.yaovoided")), answer).expect("written");
        }
    }
}

/// What settlement says to a request: each packet with an even index is void.
fn voided(request: &[u8], key: &SignKey) -> Vec<u8> {
    let request = asked(request);
    let void = (0..request.count).map(|position| (request.first + position).is_multiple_of(2));
    let void = void.collect();
    VoidAnswer { request, voided_at: WallTime(1), key_id: KeyId(1), void }.encode(key)
}

fn asked(request: &[u8]) -> VoidRequest {
    let public = keys(&plan(SMALL), SECRET).public();
    VoidRequest::decode(request, &public).expect("by the campaign's key")
}

/// Settlement on a port of its own: what it answers to seals and to requests, as status codes.
fn serve(seals: u16, voids: u16) -> String {
    serve_each(seals, move |_| voids)
}

/// The same, with a status code for each request by its first packet and shard.
fn serve_each(seals: u16, voids: impl Fn(&VoidRequest) -> u16 + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (path, body) = read_request(&stream);
            let status = if path == "/v1/seals" { seals } else { voids(&asked(&body)) };
            let answer = match (path.as_str(), status) {
                ("/v1/voids", 200) => voided(&body, &settlement()),
                _ => b"because".to_vec(),
            };
            let head = format!("HTTP/1.1 {status} .\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all(&[head.as_bytes(), &answer].concat()).expect("the tool listens");
        }
    });
    url
}

/// Path and body.
fn read_request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.is_empty()) {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        lines.push(line.trim_end().to_owned());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("its length")];
    reader.read_exact(&mut body).expect("a body");
    (lines[0].split(' ').nth(1).expect("a path").to_owned(), body)
}

#[test]
fn files_carry_requests_and_answers_where_there_is_no_network() {
    let place = Place::new();
    place.fail(&format!("{RECLAIM} --out one"), "curl --fail --data-binary @one/requests/void-000");
    place.answer("one", &settlement());
    let said = place.succeed(&format!("{RECLAIM} --out one"));
    assert!(said.contains("as generation 1 in 2 shards from 3 on, wave 3"), "{said}");
    let verify = "verify --campaign small.toml --secret s --seeds all --keys keys --out one";
    let said = place.succeed(verify);
    assert!(said.contains("2 of 2 shards, 96 packets"), "{said}");
    let manifest = fs::read(place.path("one/manifest.yaomanifest")).expect("written");
    // What a crash before the last line leaves is made good, byte by byte.
    fs::remove_file(place.path("one/manifest.yaomanifest")).expect("there");
    fs::remove_file(place.path("one/shard-00004.yaoseed")).expect("there");
    place.succeed(&format!("{RECLAIM} --out one"));
    assert_eq!(fs::read(place.path("one/manifest.yaomanifest")).expect("written"), manifest);
    // A parents file that was changed is told.
    let parents = place.path("one/shard-00003.yaoparents");
    let mut bytes = fs::read(&parents).expect("readable");
    bytes[32] ^= 2;
    fs::write(&parents, bytes).expect("written");
    place.fail(verify, "its parents are not those that the manifest lists");
}

#[test]
fn what_settlement_did_not_say_to_this_plan_is_refused() {
    let place = Place::new();
    let one = format!("{RECLAIM} --out one");
    place.fail(&one, "there is no answer");
    place.answer("one", &SignKey::from_seed(&[8; 32]));
    place.fail(&one, "not authentic");
    place.answer("one", &settlement());
    place.succeed(&one);
    // Another plan does not take the place of this one, nor its answers.
    let other = RECLAIM.replace("--shards 2", "--shards 1");
    place.fail(&format!("{other} --out one"), "was made with other --seeds");
    place.fail(&format!("{other} --out two"), "there is no answer");
    for entry in fs::read_dir(place.path("one/answers")).expect("answers") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("named");
        fs::copy(&path, place.path("two/answers").join(name)).expect("copied");
    }
    place.fail(&format!("{other} --out two"), "it answers another request");
    let before = place.files("one");
    let says = "one holds generation 1, and what is reclaimed now becomes generation 2; choose";
    place.fail(&format!("{one} --seeds one"), says);
    place.fail(&format!("{RECLAIM} --out all"), "all holds generation 0, and what is reclaimed");
    assert_eq!(place.files("one"), before);
    assert!(!place.path("all/requests").exists(), "nothing is written");
    place.fail(&RECLAIM.replace("--seeds all", "--seeds one --out x"), "generation 0 is missing");
    place.fail(&format!("{one} --ledger https://x"), "write http://host:port");
}

const NEVER_LEFT: &str = " --seals seals --never-left --out one";

/// Some requests were granted, then the run was interrupted: what was granted belongs to the plan
/// of that time for ever, whichever nodes are sealed in between.
#[test]
fn m10_a_plan_that_was_begun_stays_when_more_seals_come() {
    let place = Place::new();
    place.seal(1);
    let one = format!("{RECLAIM}{NEVER_LEFT}");
    place.fail(&one, "there is no answer");
    let begun = place.files("one");
    assert_eq!(place.files("one/requests").len(), 3, "what never left of one shard's waves");
    place.seal(0);
    place.fail(&one, "there is no answer");
    assert_eq!(place.files("one"), begun, "the same is asked for");
    // Everything of it may be gone but the plan: it makes the same requests.
    fs::remove_dir_all(place.path("one/requests")).expect("there");
    place.fail(&one, "there is no answer");
    assert_eq!(place.files("one"), begun);
    place.fail(&one.replace(" --never-left", ""), "was made with other --seeds");
    place.answer("one", &settlement());
    let said = place.succeed(&one);
    assert!(said.contains("as generation 1 in 2 shards"), "{said}");
}

#[test]
fn where_another_plan_lies_nothing_is_written() {
    let place = Place::new();
    place.seal(1);
    let one = format!("{RECLAIM}{NEVER_LEFT}");
    place.fail(&one, "there is no answer");
    let plan = place.path("one/plan.yaoplan");
    let bytes = fs::read(&plan).expect("written");
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        fs::write(&plan, bad).expect("written");
        let before = place.files("one");
        place.fail(&one, "is of another plan or secret, or damaged");
        assert_eq!(place.files("one"), before, "byte {at}");
    }
    // Without it the plan is made anew, of more seals: its first requests are of another shard.
    fs::remove_file(&plan).expect("there");
    place.seal(0);
    let before = place.files("one");
    place.fail(&one, "is of another plan or secret, or damaged");
    assert_eq!(place.files("one"), before);
}

#[test]
fn a_seal_that_settlement_refuses_holds_nothing_up() {
    let place = Place::new();
    place.seal(0);
    let says = "going on without a seal: the seal of shard 0: settlement";
    for status in [400, 409, 503] {
        let url = serve(status, 200);
        let ask = format!("{RECLAIM} --seals seals --out out-{status} --ledger {url}");
        place.ends(0, &ask, says);
        assert!(place.path(&format!("out-{status}/manifest.yaomanifest")).exists());
    }
    // A plan that is made of the seals leaves out what was refused, and waits for what was not.
    let never_left = |status, out: &str| {
        let url = serve(status, 200);
        format!("{RECLAIM} --seals seals --never-left --out {out} --ledger {url}")
    };
    place.fail(&never_left(409, "none"), "there is no packet to ask for");
    place.ends(75, &never_left(503, "later"), "the seal of shard 0: settlement: because");
    assert!(!place.path("later/plan.yaoplan").exists());
    place.ends(0, &never_left(200, "later"), "");
    // One that is there does not change.
    place.fail(&format!("{RECLAIM}{NEVER_LEFT}"), "there is no answer");
    place.ends(0, &never_left(503, "one"), says);
}

#[test]
fn an_answer_that_was_cut_off_is_asked_for_again() {
    let place = Place::new();
    let one = format!("{RECLAIM} --out one");
    place.fail(&one, "there is no answer");
    place.answer("one", &settlement());
    let answers = place.files("one/answers");
    let (path, whole) = answers.first_key_value().expect("an answer");
    for length in [0, 4, whole.len() - 1] {
        fs::write(path, &whole[..length]).expect("written");
        // By hand it is named; settlement is asked for this one alone.
        place.fail(&one, &path.file_name().expect("named").to_string_lossy());
        place.ends(0, &format!("{one} --ledger {}", serve(200, 200)), "");
        assert_eq!(place.files("one/answers"), answers);
    }
}

#[test]
fn who_is_refused_hears_where_to_go_on_and_who_is_early_when_to_come_again() {
    let place = Place::new();
    let ask = |status| format!("{RECLAIM} --out one --ledger {}", serve(200, status));
    place.fail(&ask(409), "because; if requests of this generation were granted before, go on");
    place.ends(75, &ask(503), "settlement: because");
    assert_eq!(place.files("one/answers").len(), 0);
    // Shard 0 is refused, shard 1 may be opened yet: shard 2 is answered all the same.
    let ask = |voids: fn(u32) -> u16| {
        let url = serve_each(200, move |request| voids(request.shard.0));
        format!("{RECLAIM} --out one --ledger {url}")
    };
    let refused = "refused are 2 requests: void-000-00000-0000000000, void-000-00001-0000000000";
    place.fail(&ask(|shard| if shard < 2 { 409 } else { 200 }), refused);
    assert_eq!(place.files("one/answers").len(), 1);
    let both = "refused are 1 requests: void-000-00000-0000000000; 1 wait: void-000-00001-00000000";
    place.fail(&ask(|shard| [409, 503, 200][shard as usize]), both);
    let waiting = "1 wait: void-000-00001-0000000000: settlement: because";
    place.ends(75, &ask(|shard| if shard == 1 { 503 } else { 200 }), waiting);
    assert_eq!(place.files("one/answers").len(), 2);
    place.ends(0, &ask(|_| 200), "");
}
