//! Waiting for a cluster to become what it was asked to be.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longest wait for anything that a cluster does on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(420);

const PAUSE: Duration = Duration::from_millis(250);

/// Looks until there is something, and returns it. Panics after [`PATIENCE`], and says what was missing.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(PAUSE).await;
    }
}
