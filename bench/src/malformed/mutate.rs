//! Broken frames: good ones with bits flipped, cut short, lengths that lie, kinds that nobody
//! sends.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, path::Path};
use yao_client::random::Random;
use yao_protocol::{
    CampaignId, ShakeId,
    client::{Hello, Shake, kind, put_empty, put_open},
    frame::FrameHeader,
    hex,
    tally::TALLY_BYTES,
    ticket::TICKET_BYTES,
};

/// Longest vector that is sent, bytes: longer ones are files, not frames.
const VECTOR_BYTES_MAX: usize = 2_048;

/// Makes broken frames.
pub(super) struct Mutator {
    random: Random,
    good: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator of our own messages and of every vector in `vectors`.
    ///
    /// # Errors
    /// A folder of vectors that cannot be read.
    pub(super) fn new(seed: u64, campaign: u64, vectors: Option<&Path>) -> Result<Self> {
        let mut good = messages(CampaignId(campaign));
        if let Some(folder) = vectors {
            let entries = fs::read_dir(folder);
            for entry in entries.with_context(|| format!("--vectors {}", folder.display()))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "json") {
                    let text = fs::read_to_string(&path)?;
                    let value = serde_json::from_str(&text)
                        .with_context(|| format!("{} is no JSON", path.display()))?;
                    collect(&value, &mut good);
                }
            }
        }
        Ok(Self { random: Random::new(seed), good })
    }

    /// The next broken frame. By bad luck a few are whole and good.
    pub(super) fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let index = pick(random, self.good.len());
        let mut bytes = self.good[index].clone();
        match random.up_to(6) {
            0 | 1 => flip(random, &mut bytes),
            2 => bytes.truncate(pick(random, bytes.len()).max(1)),
            3 => giant(random, &mut bytes),
            4 => bytes[2] = random.next_u64().to_le_bytes()[0],
            5 => noise(random, &mut bytes),
            _ => longer(random, &mut bytes),
        }
        bytes
    }
}

fn messages(campaign: CampaignId) -> Vec<Vec<u8>> {
    let make = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let shake = Shake { shake: ShakeId(7), campaign, merged_count: 1, resend: false };
    let resent = Shake { resend: true, ..shake };
    let (tally, token) = ([7; TALLY_BYTES], [b'x'; 300]);
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        software: 1,
        campaign,
        tally: Some(&tally),
        token: &token,
    };
    vec![
        make(&|out| hello.put(out, 1)),
        make(&|out| shake.put(out, 2)),
        make(&|out| resent.put(out, 3)),
        make(&|out| put_open(out, 4, &[9; TICKET_BYTES])),
        make(&|out| put_empty(out, kind::PING, 5)),
        make(&|out| put_empty(out, kind::BYE, 6)),
    ]
}

/// Every string under a key "hex", anywhere in a file of vectors.
fn collect(value: &Value, good: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, good)),
        Value::Object(fields) => {
            for (key, value) in fields {
                let bytes = value.as_str().filter(|_| key == "hex").and_then(hex::decode);
                match bytes {
                    Some(bytes) if (8..=VECTOR_BYTES_MAX).contains(&bytes.len()) => {
                        good.push(bytes);
                    }
                    _ => collect(value, good),
                }
            }
        }
        _ => {}
    }
}

/// An index below `count`, which is above 0.
fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.up_to(count as u64 - 1)).expect("below a usize")
}

fn flip(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..=random.up_to(7) {
        let at = pick(random, bytes.len());
        bytes[at] ^= 1 << random.up_to(7);
    }
}

/// A length that no frame may have, followed by little.
fn giant(random: &mut Random, bytes: &mut [u8]) {
    let length = u16::try_from(random.between(1_025, 65_535)).expect("a u16");
    bytes[..2].copy_from_slice(&length.to_le_bytes());
}

fn noise(random: &mut Random, bytes: &mut [u8]) {
    for byte in bytes {
        *byte = random.next_u64().to_le_bytes()[0];
    }
}

/// More payload than the message has, with a length that says so.
fn longer(random: &mut Random, bytes: &mut Vec<u8>) {
    let more = usize::try_from(random.between(1, 600)).expect("small");
    bytes.resize(bytes.len() + more, 0xee);
    let payload = u16::try_from(bytes.len() - 8).expect("a short vector and 600 bytes");
    let mut head = [0; 8];
    head.copy_from_slice(&bytes[..8]);
    let header = FrameHeader { payload_bytes: payload, ..FrameHeader::decode(head) };
    bytes[..8].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{client::ClientMessage, frame::split_frame};

    #[test]
    fn most_of_what_it_makes_is_broken() {
        let mut mutator = Mutator::new(3, 1, None).expect("no folder to read");
        let is_good = |bytes: &[u8]| {
            matches!(split_frame(bytes, 16_384), Ok(Some((frame, _)))
                if ClientMessage::decode(frame).is_ok())
        };
        let good = (0..10_000).filter(|_| is_good(&mutator.next())).count();
        assert!(good < 2_500, "{good} of 10,000 were good frames");
    }
}
