//! What happened, one line per event, and a digest over all of it: two runs of a seed are the same
//! when their digests are.

use std::{fmt::Write, io};

/// The record of one run. The legend of its lines is in docs/simulator.md.
#[derive(Debug, Default)]
pub struct Trace {
    digest: u64,
    events: u64,
    /// Lines are printed as they come.
    loud: bool,
    line: String,
}

impl Trace {
    /// A record that is only digested, or printed as well.
    #[must_use]
    pub fn new(loud: bool) -> Self {
        Self { loud, ..Self::default() }
    }

    /// Over every line so far.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Lines so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// At `now_ns` `what` happened, to whom and how much.
    pub fn say(&mut self, now_ns: u64, what: &'static str, about: &[(&'static str, u64)]) {
        self.events += 1;
        let mut fold = |value: u64| {
            self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        };
        fold(now_ns);
        what.bytes().for_each(|byte| fold(u64::from(byte)));
        about.iter().for_each(|(_, value)| fold(*value));
        if self.loud {
            self.print(now_ns, what, about, "");
        }
    }

    /// The same with words, which do not count for the digest: they may name paths.
    pub fn tell(&mut self, now_ns: u64, what: &'static str, node: u64, words: &str) {
        self.events += 1;
        if self.loud {
            self.print(now_ns, what, &[("node", node)], words);
        }
    }

    fn print(&mut self, now_ns: u64, what: &str, about: &[(&str, u64)], words: &str) {
        let (seconds, us) = (now_ns / 1_000_000_000, now_ns / 1_000 % 1_000_000);
        self.line.clear();
        write!(self.line, "{seconds:>3}.{us:06} {what:<16}").expect("a string takes everything");
        for (name, value) in about {
            write!(self.line, " {name}={value}").expect("a string takes everything");
        }
        if !words.is_empty() {
            write!(self.line, " {words}").expect("a string takes everything");
        }
        self.line.push('\n');
        // Whoever stopped reading wants no more of it.
        io::Write::write_all(&mut io::stdout().lock(), self.line.as_bytes()).ok();
    }
}
