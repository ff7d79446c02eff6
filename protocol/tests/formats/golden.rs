//! Golden vectors: `tests/vectors/*.json`. From now on they are append-only, their `fields` as much
//! as their bytes and errors: what a published vector says is what every later version reads from
//! the same bytes.
//!
//! `YAO_VECTORS=append cargo test -p yao-protocol` adds cases that are new in `cases.rs`; it never
//! changes one that is there. How `fields` are told is in `fields.rs`.

use super::{
    cases,
    codecs::{CODECS, Codec},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::HashMap, fs, path::PathBuf, sync::Once};
use yao_protocol::hex;

#[derive(Serialize, Deserialize)]
struct Vectors {
    format: String,
    valid: Vec<Valid>,
    invalid: Vec<Invalid>,
}

#[derive(Serialize, Deserialize)]
struct Valid {
    name: String,
    hex: String,
    fields: Value,
}

#[derive(Serialize, Deserialize)]
struct Invalid {
    name: String,
    hex: String,
    error: String,
}

fn path(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{format}.json"))
}

fn load(format: &str) -> Option<Vectors> {
    let text = fs::read_to_string(path(format)).ok()?;
    Some(serde_json::from_str(&text).expect("a vector file is JSON"))
}

fn decode(codec: Codec, name: &str, digits: &str) -> super::codecs::Read {
    codec(&hex::decode(digits).unwrap_or_else(|| panic!("{name}: not hexadecimal")))
}

#[test]
fn every_published_vector_reads_as_it_did() {
    append_new_cases();
    for (format, codec) in CODECS {
        let vectors = load(format).unwrap_or_else(|| panic!("{format} has no vectors"));
        assert_eq!(vectors.format, *format);
        assert!(!vectors.valid.is_empty() && !vectors.invalid.is_empty(), "{format} lacks cases");
        for valid in &vectors.valid {
            let read = decode(*codec, &valid.name, &valid.hex);
            let (fields, bytes) = read.unwrap_or_else(|e| panic!("{format}, {}: {e}", valid.name));
            assert_eq!(fields, valid.fields, "{format}, {}", valid.name);
            assert_eq!(hex::encode(&bytes), valid.hex, "{format}, {}", valid.name);
        }
        for invalid in &vectors.invalid {
            let error = decode(*codec, &invalid.name, &invalid.hex)
                .expect_err(&format!("{format}, {} was read", invalid.name));
            assert_eq!(error.to_string(), invalid.error, "{format}, {}", invalid.name);
        }
    }
}

#[test]
fn what_this_build_writes_is_published() {
    append_new_cases();
    let invalid = cases::invalid();
    for (format, _) in CODECS {
        let vectors = load(format).unwrap_or_else(|| panic!("{format} has no vectors"));
        let published: HashMap<&str, &str> = vectors
            .valid
            .iter()
            .map(|valid| (valid.name.as_str(), valid.hex.as_str()))
            .chain(vectors.invalid.iter().map(|case| (case.name.as_str(), case.hex.as_str())))
            .collect();
        let names = vectors.valid.len() + vectors.invalid.len();
        assert_eq!(published.len(), names, "{format}: each name stands once");
        let valid = cases::valid().iter().map(|case| (case.0, case.1, &case.2));
        let made = valid.chain(invalid.iter().map(|case| (case.0, case.1.as_str(), &case.2)));
        for (_, name, bytes) in made.filter(|case| case.0 == *format) {
            let hex = published.get(name).unwrap_or_else(|| {
                panic!("{format}, {name} is new: YAO_VECTORS=append cargo test -p yao-protocol")
            });
            assert_eq!(**hex, hex::encode(bytes), "{format}, {name} is written differently");
        }
    }
}

/// With `YAO_VECTORS=append`: adds cases whose names are not published yet.
fn append_new_cases() {
    // Once, and before any test reads: they run side by side.
    static APPENDED: Once = Once::new();
    APPENDED.call_once(append_new_cases_once);
}

fn append_new_cases_once() {
    if std::env::var("YAO_VECTORS").as_deref() != Ok("append") {
        return;
    }
    for (format, codec) in CODECS {
        let mut vectors = load(format).unwrap_or_else(|| Vectors {
            format: (*format).to_owned(),
            valid: Vec::new(),
            invalid: Vec::new(),
        });
        for (_, name, bytes) in cases::valid().iter().filter(|case| case.0 == *format) {
            if vectors.valid.iter().all(|valid| valid.name != *name) {
                let (fields, _) = codec(bytes).unwrap_or_else(|e| panic!("{format}, {name}: {e}"));
                let hex = hex::encode(bytes);
                vectors.valid.push(Valid { name: (*name).to_owned(), hex, fields });
            }
        }
        for (_, name, bytes) in cases::invalid().into_iter().filter(|case| case.0 == *format) {
            if vectors.invalid.iter().all(|invalid| invalid.name != name) {
                let error = codec(&bytes).expect_err(&format!("{format}, {name} was read"));
                let (hex, error) = (hex::encode(&bytes), error.to_string());
                vectors.invalid.push(Invalid { name, hex, error });
            }
        }
        let text = serde_json::to_string_pretty(&vectors).expect("plain data");
        fs::write(path(format), text + "\n").expect("the folder of vectors is there");
    }
}
