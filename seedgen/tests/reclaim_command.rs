//! `yao-seedgen reclaim` as people run it without a network: requests out, answers in, and what is
//! refused. Settlement's side is signed here with a key of its own; `cargo xtask soak reclaim`
//! plays the same with the real one.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::{SMALL, keys, plan};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};
use tempfile::TempDir;
use yao_protocol::{
    KeyId, WallTime,
    keys::{KeyOwner, PublicKeyFile, SignKey},
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
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {error}");
        assert!(error.contains(says), "{arguments}: {error} / {says}");
    }

    /// Answers every request in `out`: each packet with an even index is void.
    fn answer(&self, out: &str, key: &SignKey) {
        let public = keys(&plan(SMALL), SECRET).public();
        for entry in fs::read_dir(self.path(out).join("requests")).expect("requests") {
            let path = entry.expect("readable").path();
            let bytes = fs::read(&path).expect("readable");
            let request = VoidRequest::decode(&bytes, &public).expect("by the campaign's key");
            let void =
                (0..request.count).map(|position| (request.first + position).is_multiple_of(2));
            let void = void.collect();
            let answer = VoidAnswer { request, voided_at: WallTime(1), key_id: KeyId(1), void };
            let name = path.file_stem().expect("named").to_string_lossy().into_owned();
            let answers = self.path(out).join("answers");
            let file = answers.join(format!("{name}.yaovoided"));
            fs::write(file, answer.encode(key)).expect("written");
        }
    }
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
    place.fail(&format!("{other} --out one"), "is of another plan or secret, or damaged");
    place.fail(&format!("{other} --out two"), "there is no answer");
    for entry in fs::read_dir(place.path("one/answers")).expect("answers") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("named");
        fs::copy(&path, place.path("two/answers").join(name)).expect("copied");
    }
    place.fail(&format!("{other} --out two"), "it answers another request");
    place.fail(&format!("{one} --seeds one"), "is of another plan or secret, or damaged");
    place.fail(&RECLAIM.replace("--seeds all", "--seeds one --out x"), "generation 0 is missing");
    place.fail(&format!("{one} --ledger https://x"), "write http://host:port");
}
