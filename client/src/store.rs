//! Where a wallet is kept between lives of the app. Two stores: [`MemoryStore`] forgets with the
//! process (load tests, guests), [`FileStore`] survives a crash at any byte.

mod file;

pub use crate::error::StoreError;
pub use file::FileStore;

use crate::wallet::{Record, Wallet};

/// Keeps one user's wallet in one campaign. Calls come from the client's task, one at a time.
pub trait Store: Send + 'static {
    /// What was kept. Called once, before anything is appended.
    ///
    /// # Errors
    /// When nothing trustworthy can be read; the client does not start then.
    fn load(&mut self) -> Result<Wallet, StoreError>;

    /// Keeps one record more; when it [`Record::must_be_durable`], on disk before this returns,
    /// together with everything appended before.
    ///
    /// # Errors
    /// After an error the store must refuse every later record; the client stops.
    fn append(&mut self, record: &Record) -> Result<(), StoreError>;

    /// Whether a durable append waits for a disk, so that it must not run on the async thread.
    fn waits_for_disk(&self) -> bool;
}

/// Keeps the wallet in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    wallet: Wallet,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Wallet, StoreError> {
        Ok(self.wallet.clone())
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        self.wallet.apply(record).expect("the session applied it to its own wallet before");
        Ok(())
    }

    fn waits_for_disk(&self) -> bool {
        false
    }
}
