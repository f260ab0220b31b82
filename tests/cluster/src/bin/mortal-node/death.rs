//! Counts passes, and dies.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use cluster::step::{DEATH_FILE, Death, Step, last_words};

/// Knows the death that is to be died, if any.
pub(crate) struct Deaths {
    file: PathBuf,
    /// What the file said last, and how often its step was passed since.
    passes: Mutex<(Option<Death>, u32)>,
}

impl Deaths {
    /// As the environment says.
    pub(crate) fn from_environment() -> anyhow::Result<Arc<Deaths>> {
        let file =
            std::env::var_os(DEATH_FILE).with_context(|| format!("{DEATH_FILE} is not set"))?;
        Ok(Arc::new(Deaths { file: file.into(), passes: Mutex::default() }))
    }

    /// Whether the process is to die at this step, sooner or later. Reads the file: it may come and go at any time.
    pub(crate) fn is_due_at(&self, step: Step) -> bool {
        self.ordered().is_some_and(|death| death.step == step)
    }

    fn ordered(&self) -> Option<Death> {
        std::fs::read_to_string(&self.file).ok()?.parse().ok()
    }

    /// Counts a pass of this step. `true`: the process is to die now.
    pub(crate) fn passes(&self, step: Step) -> bool {
        let ordered = self.ordered();
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        if passes.0 != ordered {
            *passes = (ordered, 0);
        }
        let Some(death) = ordered.filter(|death| death.step == step) else { return false };
        passes.1 += 1;
        passes.1 == death.pass
    }

    /// Dies here, if it is time.
    pub(crate) fn pass(&self, step: Step) {
        if self.passes(step) {
            self.die(Duration::ZERO);
        }
    }

    /// Dies, after everything else in the process went on for a while.
    pub(crate) fn die(&self, meanwhile: Duration) -> ! {
        if !meanwhile.is_zero() {
            // What this thread was about to run next is run by another one.
            tokio::task::block_in_place(|| std::thread::sleep(meanwhile));
        }
        // A test that does not find it fails.
        std::fs::copy(&self.file, last_words(&self.file)).ok();
        loop {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .ok();
        }
    }
}
