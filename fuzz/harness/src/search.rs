//! Searching for an input that fails, without any instrumentation: good inputs, changed again and
//! again by a seeded generator, for a bounded time.

use crate::Target;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// Longest input, bytes.
const INPUT_BYTES_MAX: usize = 8 * 1_024;
/// An input that takes longer is a finding, too: somebody could send it again and again.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
/// Numbers at which readers err.
const NUMBERS: &[u64] = &[0, 1, 0x7f, 0x80, 0xff, 0x100, 0x3ff, 0x401, 0x4000, 0xffff, u64::MAX];

/// An input that failed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// How it failed.
    pub message: String,
}

/// Changes inputs; the same seed makes the same changes (splitmix64).
#[derive(Clone, Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// A generator that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `count`, which is above 0.
    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).expect("below a usize")
    }

    /// An input made of the ones in `seeds`.
    pub fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes =
            if seeds.is_empty() { Vec::new() } else { seeds[self.below(seeds.len())].clone() };
        for _ in 0..=self.below(6) {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(bytes.len().max(1));
        let byte = self.next().to_le_bytes()[0];
        match self.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (byte % 8),
            1 if !bytes.is_empty() => bytes[at] = byte,
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), byte),
            4 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            5 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let width = 1 << self.below(4);
                for (to, from) in bytes.iter_mut().skip(at).zip(&number[..width]) {
                    *to = *from;
                }
            }
            6 if !seeds.is_empty() => {
                let other = &seeds[self.below(seeds.len())];
                bytes.splice(at..at, other.iter().copied()).for_each(drop);
            }
            7 => {
                let end = (at + 1 + self.below(64)).min(bytes.len());
                let copy = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, copy).for_each(drop);
            }
            _ => {
                let more = 1 + self.below(32);
                bytes.extend((0..more).map(|_| self.next().to_le_bytes()[0]));
            }
        }
    }
}

/// What a search did.
#[derive(Clone, Debug)]
pub struct Searched {
    /// Inputs tried.
    pub inputs: u64,
    /// The first that failed.
    pub finding: Option<Finding>,
}

/// Tries every seed, then changed ones until `time` is over or one fails.
#[must_use]
pub fn search(target: Target, seed: u64, time: Duration) -> Searched {
    let seeds = (target.seeds)();
    let (start, mut mutator, mut inputs) = (Instant::now(), Mutator::new(seed), 0);
    let mut next = seeds.iter();
    loop {
        let input = match next.next() {
            Some(seed) => seed.clone(),
            None if start.elapsed() >= time => return Searched { inputs, finding: None },
            None => mutator.input(&seeds),
        };
        inputs += 1;
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let message = match result {
            Ok(()) if begun.elapsed() <= INPUT_TIME_MAX => continue,
            Ok(()) => format!("took {:?}", begun.elapsed()),
            Err(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default(),
        };
        return Searched { inputs, finding: Some(Finding { input, message }) };
    }
}
