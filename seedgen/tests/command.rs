//! The program as people run it: files, refusals, exit codes.

#[expect(dead_code, reason = "each test file uses its own part of it")]
mod common;

use common::SMALL;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory with a campaign in it.
struct Place(TempDir);

struct Answer {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().expect("a temporary directory"));
        fs::write(place.path("small.toml"), SMALL).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program inside the directory; `arguments` are separated by spaces.
    fn run(&self, arguments: &str) -> Answer {
        let output = Command::new(env!("CARGO_BIN_EXE_yao-seedgen"))
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Answer { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
    }

    fn succeed(&self, arguments: &str) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, Some(0), "{arguments}: {}", answer.error);
        answer.out
    }

    /// One line on standard error, and the exit code.
    fn fail(&self, arguments: &str, code: i32, expected: &str) {
        let answer = self.run(arguments);
        assert_eq!(answer.code, Some(code), "{arguments}: {}", answer.error);
        assert!(answer.error.contains(expected), "{arguments}: {} / {expected}", answer.error);
        assert_eq!(answer.error.trim_end().lines().count(), 1, "{}", answer.error);
    }
}

/// All files below `directory` with their content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(name, content)| {
                (Path::new(path.file_name().expect("named")).join(name), content)
            }));
        } else {
            let name = PathBuf::from(path.file_name().expect("named"));
            found.insert(name, fs::read(&path).expect("readable"));
        }
    }
    found
}

#[test]
fn a_full_run_is_complete_and_verifies() {
    let place = Place::new();
    let out = place.succeed("generate --campaign small.toml --out all");
    assert!(out.contains("generated: 3 of 3 shards, 191 packets, 179.77 CNY"), "{out}");
    let names: Vec<_> = files(&place.path("all")).into_keys().collect();
    let expected = [
        "keyset/campaign-7.pub.json",
        "manifest.yaomanifest",
        "shard-00000.yaokey",
        "shard-00000.yaoseed",
        "shard-00001.yaokey",
        "shard-00001.yaoseed",
        "shard-00002.yaokey",
        "shard-00002.yaoseed",
    ];
    assert_eq!(names, expected.map(PathBuf::from));
    for name in ["small.secret", "all/shard-00001.yaokey"] {
        let mode = fs::metadata(place.path(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::read(place.path("small.secret")).expect("there").len(), 32);
    let out = place.succeed("verify --campaign small.toml --out all");
    let last = out.lines().last().expect("a last line");
    assert_eq!(last, "verified: 3 of 3 shards, 191 packets, 179.77 CNY");
}

#[test]
fn shards_alone_become_the_full_run_byte_for_byte() {
    let place = Place::new();
    place.succeed("generate --campaign small.toml --out all");
    place.succeed("generate --campaign small.toml --out alone --shard 2");
    place.succeed("verify --campaign small.toml --out alone --shard 2");
    place.fail("verify --campaign small.toml --out alone", 1, "lists 1 of 3 shards");
    place.fail("verify --campaign small.toml --out alone --shard 0", 1, "does not list shard 0");
    let (all, alone) = (files(&place.path("all")), files(&place.path("alone")));
    for name in ["shard-00002.yaoseed", "shard-00002.yaokey", "keyset/campaign-7.pub.json"] {
        assert_eq!(alone[Path::new(name)], all[Path::new(name)], "{name}");
    }
    place.succeed("generate --campaign small.toml --out alone --shard 0");
    place.succeed("generate --campaign small.toml --out alone --shard 1");
    assert_eq!(files(&place.path("alone")), all, "the manifest too");
    place.succeed("generate --campaign small.toml --out alone --threads 1");
    assert_eq!(files(&place.path("alone")), all, "once more, over what is there");
}

#[test]
fn what_belongs_to_another_plan_or_secret_is_not_overwritten() {
    let place = Place::new();
    place.succeed("generate --campaign small.toml --out all");
    let before = files(&place.path("all"));
    place.succeed("generate --campaign small.toml --secret other.secret --out other");
    place.fail(
        "generate --campaign small.toml --secret other.secret --out all",
        1,
        "is of another plan or secret",
    );
    fs::remove_dir_all(place.path("all/keyset")).expect("removed");
    place.fail(
        "generate --campaign small.toml --secret other.secret --out all --shard 1",
        1,
        "shard-00001.yaoseed is of another plan or secret",
    );
    fs::write(place.path("next.toml"), SMALL.replacen("98.77", "98.78", 1)).expect("written");
    place.fail(
        "generate --campaign next.toml --secret small.secret --out all --shard 1",
        1,
        "is of another plan or secret",
    );
    place.succeed("generate --campaign small.toml --out all --shard 1");
    assert_eq!(files(&place.path("all")), before);
    place.fail("verify --campaign small.toml --secret other.secret --out all", 1, "not authentic");
}

#[test]
fn a_flipped_byte_in_any_file_is_noticed() {
    let place = Place::new();
    place.succeed("generate --campaign small.toml --out all");
    for (name, mut content) in files(&place.path("all")) {
        let path = place.path("all").join(&name);
        for position in [0, content.len() / 3, content.len() / 2, content.len() - 3] {
            content[position] ^= 4;
            fs::write(&path, &content).expect("written");
            let answer = place.run("verify --campaign small.toml --out all");
            assert_eq!(answer.code, Some(1), "{} byte {position}", name.display());
            assert_eq!(answer.error.trim_end().lines().count(), 1, "{}", answer.error);
            content[position] ^= 4;
        }
        fs::write(&path, &content).expect("written");
    }
    place.succeed("verify --campaign small.toml --out all");
    fs::remove_file(place.path("all/shard-00001.yaoseed")).expect("removed");
    place.fail("verify --campaign small.toml --out all", 1, "shard-00001.yaoseed");
}

#[test]
fn a_secret_is_made_once_and_guarded() {
    let place = Place::new();
    place.fail("verify --campaign small.toml --out all", 1, "there is no secret small.secret");
    let answer = place.run("generate --campaign small.toml --out all");
    assert!(answer.error.contains("created the secret small.secret"), "{}", answer.error);
    let secret = fs::read(place.path("small.secret")).expect("there");
    let answer = place.run("generate --campaign small.toml --out all");
    assert_eq!((answer.code, answer.error.as_str()), (Some(0), ""), "no second secret, no bar");
    assert_eq!(fs::read(place.path("small.secret")).expect("there"), secret);

    let set_mode =
        |mode| fs::set_permissions(place.path("small.secret"), Permissions::from_mode(mode));
    set_mode(0o640).expect("changed");
    place.fail("generate --campaign small.toml --out all", 1, "has mode 0640");
    set_mode(0o600).expect("changed");
    fs::write(place.path("small.secret"), &secret[..31]).expect("written");
    place.fail("generate --campaign small.toml --out all", 1, "must have 32 bytes, it has 31");
    fs::write(place.path("small.secret"), [secret.as_slice(), b"\n"].concat()).expect("written");
    place.fail("generate --campaign small.toml --out all", 1, "must have 32 bytes, it has more");
}

#[test]
fn mistakes_have_their_exit_codes() {
    let place = Place::new();
    fs::write(place.path("bad.toml"), SMALL.replacen("shards = 3", "shard = 3", 1))
        .expect("written");
    place.fail(
        "plan --campaign bad.toml",
        78,
        "bad.toml: unknown key `shard`; did you mean `shards`?",
    );
    place.fail("generate --campaign bad.toml --out all", 78, "unknown key `shard`");
    assert!(!place.path("bad.secret").exists(), "a bad campaign gets no secret");
    place.fail("plan --campaign none.toml", 1, "cannot read the campaign none.toml");
    place.fail("generate --campaign small.toml --out all --shard 3", 1, "its shards are 0 to 2");
    assert_eq!(place.run("generate --campaign small.toml").code, Some(2), "--out is missing");
}

#[test]
fn plan_and_show_tell_what_is_public() {
    let place = Place::new();
    let out = place.succeed("plan --campaign small.toml");
    assert!(out.contains("total: 191 packets, 179.77 CNY, 3 shards"), "{out}");
    assert!(out.contains("shards: 62 to 65 packets each"), "{out}");
    assert!(!place.path("small.secret").exists(), "a plan needs no secret");
    place.succeed("generate --campaign small.toml --out all");
    let out = place.succeed("show all/shard-00001.yaoseed");
    assert!(out.contains("campaign 7, shard 1, generation 0"), "{out}");
    assert!(!out.contains("moment"), "records need the key: {out}");
    let show = "show all/shard-00001.yaoseed --records 2 --key all/shard-0000";
    let out = place.succeed(&format!("{show}1.yaokey"));
    assert_eq!(out.lines().skip_while(|line| !line.contains("moment")).count(), 3, "{out}");
    place.fail(&format!("{show}2.yaokey"), 1, "is the key of another shard or plan");
    place.fail("show small.toml", 1, "does not start with its magic bytes");
}
