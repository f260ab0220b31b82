//! Password hashes: argon2id (RFC 9106), bounded in memory and processor time.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use chat_protocol::Code;
use chat_protocol::error::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SetupError;

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PasswordCost {
    /// OWASP's first recommendation for argon2id: 19 MiB, two passes, one lane.
    fn default() -> PasswordCost {
        PasswordCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PasswordCost {
    /// As cheap as the algorithm allows: for tests and benchmarks, which make thousands of accounts.
    pub fn cheapest() -> PasswordCost {
        PasswordCost { memory_kib: 8, passes: 1, lanes: 1 }
    }
}

/// Requests that may wait for each running hash. More would not be answered within the wait anyway.
const WAITING_PER_RUNNING: usize = 16;

/// Hashes and checks passwords, a few at a time.
pub struct Passwords {
    argon2: Argon2<'static>,
    running: Arc<Semaphore>,
    admitted: Semaphore,
    wait: Duration,
    /// Checked in place of a hash that is not there, so that an unknown handle takes as long as a wrong password.
    decoy: String,
}

impl Passwords {
    /// Hashes at most `concurrency` at a time; who would wait longer than `wait` is refused.
    pub fn new(
        cost: PasswordCost,
        concurrency: usize,
        wait: Duration,
    ) -> Result<Passwords, SetupError> {
        let setup = |problem: String| SetupError::PasswordCost(problem);
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
            .map_err(|e| setup(e.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let decoy = hash(&argon2, "decoy").map_err(setup)?;
        let concurrency = concurrency.max(1);
        Ok(Passwords {
            argon2,
            running: Arc::new(Semaphore::new(concurrency)),
            admitted: Semaphore::new(concurrency * (1 + WAITING_PER_RUNNING)),
            wait,
            decoy,
        })
    }

    /// The hash of a password in PHC string form, with a new salt.
    pub async fn hash(&self, password: String) -> Result<String, Refusal> {
        let argon2 = self.argon2.clone();
        self.run(move || hash(&argon2, &password)).await?.map_err(|problem| {
            tracing::error!(problem, "password hashing failed");
            internal()
        })
    }

    /// Whether the password is the one behind the hash. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Refusal> {
        let argon2 = self.argon2.clone();
        let decoy = self.decoy.clone();
        self.run(move || {
            let known = hash.as_deref().and_then(|text| PasswordHash::new(text).ok());
            let is_known = known.is_some();
            let Some(stored) = known.or_else(|| PasswordHash::new(&decoy).ok()) else {
                return false;
            };
            // `&`, not `&&`: the work is done in either case.
            argon2.verify_password(password.as_bytes(), &stored).is_ok() & is_known
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let _admitted = self.admitted.try_acquire().map_err(|_| overloaded())?;
        let running = tokio::time::timeout(self.wait, Arc::clone(&self.running).acquire_owned());
        let permit: OwnedSemaphorePermit =
            running.await.map_err(|_| overloaded())?.map_err(|_| overloaded())?;
        // The permit goes along: a caller that went away does not make room before the work has ended.
        let finished = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        finished.await.map_err(|problem| {
            tracing::error!(%problem, "password work did not finish");
            internal()
        })
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> Result<String, String> {
    let hash: PasswordHash =
        argon2.hash_password(password.as_bytes()).map_err(|e| e.to_string())?;
    Ok(hash.to_string())
}

fn overloaded() -> Refusal {
    let detail = "Too many people are logging in at this moment. Try again in a few seconds.";
    Refusal::new(Code::Overloaded, detail).retry_after(2_000)
}

fn internal() -> Refusal {
    Refusal::new(Code::Internal, "The password could not be checked. Try again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(wait_ms: u64) -> Passwords {
        Passwords::new(PasswordCost::cheapest(), 1, Duration::from_millis(wait_ms)).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_is_accepted() {
        let passwords = passwords(5_000);
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".into(), Some(hash)).await.unwrap());
        for missing in [None, Some(String::new()), Some("junk".into())] {
            assert!(!passwords.verify("decoy".into(), missing).await.unwrap());
        }
    }

    #[tokio::test]
    async fn who_would_wait_too_long_is_refused_as_overloaded() {
        let passwords = passwords(10);
        let busy = Arc::clone(&passwords.running).acquire_owned().await.unwrap();
        let refusal = passwords.hash("anything".into()).await.unwrap_err();
        assert_eq!(refusal.code, Code::Overloaded);
        assert!(refusal.retry_after_ms.is_some());
        drop(busy);
        passwords.hash("anything".into()).await.unwrap();
    }

    #[tokio::test]
    async fn the_queue_of_waiting_logins_is_bounded() {
        let passwords = Arc::new(passwords(60_000));
        let busy = Arc::clone(&passwords.running).acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..=WAITING_PER_RUNNING)
            .map(|_| {
                let passwords = Arc::clone(&passwords);
                tokio::spawn(async move { passwords.hash("anything".into()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(passwords.hash("x".into()).await.unwrap_err().code, Code::Overloaded);
        drop(busy);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }
}
