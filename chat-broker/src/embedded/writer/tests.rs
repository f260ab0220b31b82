use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

/// What the next commits do instead of succeeding.
#[derive(Clone, Default)]
pub(super) struct CommitFaults(Arc<AtomicU8>);

const NONE: u8 = 0;
const FAIL_BEFORE: u8 = 1;
const FAIL_AFTER: u8 = 2;

impl CommitFaults {
    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::SeqCst);
    }

    fn fail_if(&self, fault: u8) -> rusqlite::Result<()> {
        if self.0.compare_exchange(fault, NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            return Err(rusqlite::Error::SqliteFailure(code, None));
        }
        Ok(())
    }

    pub(super) fn before_commit(&self) -> rusqlite::Result<()> {
        self.fail_if(FAIL_BEFORE)
    }

    pub(super) fn after_commit(&self) -> rusqlite::Result<()> {
        self.fail_if(FAIL_AFTER)
    }
}
