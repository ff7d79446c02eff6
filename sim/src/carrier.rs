//! What carries the bytes of a simulated node's sessions: it keeps what the sessions do, for the
//! world to pass on.

use yao_access::sessions::Carrier;

/// What the sessions did.
#[derive(Debug)]
pub enum Carried {
    /// Bytes for the peer of this link.
    Bytes(usize, Vec<u8>),
    /// The node closed this link.
    Closed(usize),
}

/// Links by slot of the engine.
#[derive(Debug, Default)]
pub struct SimCarrier {
    links: Vec<Option<usize>>,
    done: Vec<Carried>,
}

impl SimCarrier {
    /// The connection in `slot` is the world's `link`.
    pub fn insert(&mut self, slot: u32, link: usize) {
        let slot = slot as usize;
        if self.links.len() <= slot {
            self.links.resize(slot + 1, None);
        }
        self.links[slot] = Some(link);
    }

    /// The link in `slot`.
    #[must_use]
    pub fn link(&self, slot: u32) -> Option<usize> {
        self.links.get(slot as usize).copied().flatten()
    }

    /// All links.
    #[must_use]
    pub fn links(&self) -> Vec<usize> {
        self.links.iter().flatten().copied().collect()
    }

    /// What was done since the last call.
    pub fn take_done(&mut self) -> Vec<Carried> {
        std::mem::take(&mut self.done)
    }
}

impl Carrier for SimCarrier {
    fn is_live(&mut self, slot: u32) -> bool {
        self.link(slot).is_some()
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if let (Some(link), false) = (self.link(slot), bytes.is_empty()) {
            self.done.push(Carried::Bytes(link, bytes.to_vec()));
        }
        true
    }

    fn remove(&mut self, slot: u32) {
        if let Some(link) = self.links.get_mut(slot as usize).and_then(Option::take) {
            self.done.push(Carried::Closed(link));
        }
    }
}
