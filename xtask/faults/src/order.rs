//! What shall happen, and when: one line of text, read anew at each call. Pure.
//!
//! ```text
//! STRIKE MS OPERATION NAME NUMBER     kill 0 sync journal/journal-#.yaojournal 3
//! STRIKE MS OPERATION NAME NUMBER+    eio 0 * * 1+
//! ```
//!
//! The strike happens at the NUMBERth OPERATION on NAME of this process, with `+` at each from then
//! on; `*` stands for any. Calls that any may be are counted together: `* * 40` is the fortieth of
//! all. First MS milliseconds pass, in which the other threads go on: whoever relies on a call that
//! has not returned yet is found out.

use std::{collections::BTreeMap, str::FromStr};

/// A persistence call, by what it does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// A file that may not have been there is opened.
    Create,
    /// Bytes are written.
    Write,
    /// Somebody waits for the disk: `fsync`, `fdatasync`.
    Sync,
    /// A file is cut or grown.
    Resize,
    /// A file gets a second name, counted under that one.
    Link,
    /// A name goes.
    Remove,
    /// A file gets another name, counted under the old one.
    Rename,
    /// A folder is made.
    Folder,
}

impl Operation {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Create, "create"),
        (Self::Write, "write"),
        (Self::Sync, "sync"),
        (Self::Resize, "resize"),
        (Self::Link, "link"),
        (Self::Remove, "remove"),
        (Self::Rename, "rename"),
        (Self::Folder, "folder"),
    ];

    /// Its word in orders and in the log.
    #[must_use]
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(operation, _)| *operation == self).map_or("?", |(_, word)| word)
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The process is killed before it.
    Kill,
    /// Half the bytes are written; then the process is killed.
    TornKill,
    /// Half the bytes are written and on disk; then the process is killed.
    TornSyncedKill,
    /// The file system loses its power before it, and then the process is killed. For a process
    /// whose only work that is: one that uses the file system must have ended before.
    Cut,
    /// It fails with this error number, and nothing is done.
    Fail(i32),
    /// Half the bytes are written, and it says so.
    Short,
    /// It takes the milliseconds of the order longer.
    Stall,
}

impl Strike {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Kill, "kill"),
        (Self::TornKill, "torn-kill"),
        (Self::TornSyncedKill, "torn-synced-kill"),
        (Self::Cut, "cut"),
        (Self::Fail(libc::EIO), "eio"),
        (Self::Fail(libc::ENOSPC), "enospc"),
        (Self::Short, "short"),
        (Self::Stall, "stall"),
    ];
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) strike: Strike,
    /// Passes before the strike, ms.
    pub(crate) wait_ms: u64,
    /// `None` means any.
    operation: Option<Operation>,
    /// `None` means any.
    name: Option<String>,
    number: u64,
    /// At each call from that number on.
    onwards: bool,
}

impl FromStr for Order {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [strike, wait_ms, operation, name, number] = words[..] else { return Err(()) };
        let strike = called(&Strike::ALL, strike)?;
        let operation = match operation {
            "*" => None,
            word => Some(called(&Operation::ALL, word)?),
        };
        let onwards = number.ends_with('+');
        Ok(Self {
            strike,
            wait_ms: wait_ms.parse().map_err(drop)?,
            operation,
            name: (name != "*").then(|| name.to_owned()),
            number: number.trim_end_matches('+').parse().map_err(drop)?,
            onwards,
        })
    }
}

fn called<T: Copy>(all: &[(T, &'static str)], word: &str) -> Result<T, ()> {
    let found = all.iter().find(|(_, its_word)| *its_word == word);
    found.map(|(thing, _)| *thing).ok_or(())
}

/// How often each call was made.
#[derive(Debug)]
pub(crate) struct Counts(BTreeMap<(Option<Operation>, Option<String>), u64>);

impl Counts {
    /// An empty book.
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Books a call; its number among its like.
    pub(crate) fn book(&mut self, operation: Operation, name: &str) -> u64 {
        let own = Some(name.to_owned());
        for key in [(None, None), (Some(operation), None), (None, own.clone())] {
            *self.0.entry(key).or_default() += 1;
        }
        let number = self.0.entry((Some(operation), own)).or_default();
        *number += 1;
        *number
    }

    /// Whether `order` means the call that was booked last, `operation` on `name`.
    #[must_use]
    pub(crate) fn meets(&self, order: &Order, operation: Operation, name: &str) -> bool {
        let same = order.operation.is_none_or(|wanted| wanted == operation)
            && order.name.as_deref().is_none_or(|wanted| wanted == name);
        let key = (order.operation, order.name.clone());
        let number = self.0.get(&key).copied().unwrap_or(0);
        same && (number == order.number || (order.onwards && number > order.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Order {
        text.parse().expect("a good order")
    }

    #[test]
    fn an_order_is_read_or_refused() {
        for (operation, word) in Operation::ALL {
            assert_eq!(operation.word(), word);
            assert_eq!(order(&format!("kill 0 {word} * 1")).operation, Some(operation));
        }
        let read = order("torn-kill 120 write spool/watermark.yaomark 2");
        assert_eq!((read.strike, read.wait_ms, read.number), (Strike::TornKill, 120, 2));
        assert_eq!(order("eio 0 * * 1+\n").strike, Strike::Fail(libc::EIO));
        for bad in ["", "kill", "slap 0 * * 1", "kill x * * 1", "kill 0 chmod * 1", "kill 0 * * x"]
        {
            bad.parse::<Order>().expect_err(bad);
        }
    }

    #[test]
    fn each_call_has_its_number_among_its_like() {
        let mut counts = Counts::new();
        let calls = [
            (Operation::Write, "a"),
            (Operation::Sync, "a"),
            (Operation::Write, "b"),
            (Operation::Write, "a"),
            (Operation::Sync, "a"),
        ];
        let check = |counts: &Counts, text: &str, (operation, name): (Operation, &str)| {
            counts.meets(&order(text), operation, name)
        };
        let mut met: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let orders = [
            "kill 0 write a 2",
            "kill 0 sync a 1+",
            "kill 0 * b 1",
            "kill 0 write * 2",
            "kill 0 * * 5",
            "kill 0 write c 1",
        ];
        for (place, call) in calls.iter().enumerate() {
            counts.book(call.0, call.1);
            for text in orders {
                if check(&counts, text, *call) {
                    met.entry(text).or_default().push(place);
                }
            }
        }
        assert_eq!(met["kill 0 write a 2"], [3]);
        assert_eq!(met["kill 0 sync a 1+"], [1, 4]);
        assert_eq!(met["kill 0 * b 1"], [2]);
        assert_eq!(met["kill 0 write * 2"], [2]);
        assert_eq!(met["kill 0 * * 5"], [4]);
        assert!(!met.contains_key("kill 0 write c 1"));
    }
}
