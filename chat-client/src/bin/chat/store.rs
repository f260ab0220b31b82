//! The state file: tokens, cursor and what was not acknowledged. Replaced as a whole, readable by its owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chat_client::State;
use chat_protocol::api::Tokens;
use serde::{Deserialize, Serialize};

/// What the file holds.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) url: String,
    pub(crate) tokens: Tokens,
    #[serde(default)]
    pub(crate) state: State,
}

impl Saved {
    pub(crate) fn new(url: &str, tokens: Tokens) -> Saved {
        Saved { url: url.to_owned(), tokens, state: State::default() }
    }
}

/// Where the file is.
#[derive(Clone)]
pub(crate) struct Store(PathBuf);

impl Store {
    /// The given file, or `chat/state.json` below the user's configuration.
    pub(crate) fn open(path: Option<PathBuf>) -> anyhow::Result<Store> {
        if let Some(path) = path {
            return Ok(Store(path));
        }
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        match base {
            Some(base) => Ok(Store(base.join("chat").join("state.json"))),
            None => bail!(
                "Neither HOME nor XDG_CONFIG_HOME is set. Say where to keep the login with --state FILE."
            ),
        }
    }

    pub(crate) fn load(&self) -> anyhow::Result<Option<Saved>> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read.", self.0.display()));
            }
        };
        let saved = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is damaged. Delete it and log in again.", self.0.display())
        })?;
        Ok(Some(saved))
    }

    /// Writes beside it and renames, so that a crash leaves the old file or the new one.
    pub(crate) fn save(&self, saved: &Saved) -> anyhow::Result<()> {
        self.write(saved).with_context(|| format!("{} cannot be written.", self.0.display()))
    }

    fn write(&self, saved: &Saved) -> anyhow::Result<()> {
        if let Some(directory) = self.0.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let beside = beside(&self.0);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(saved)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.0)?;
        Ok(())
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Saved)) -> anyhow::Result<()> {
        let Some(mut saved) = self.load()? else { bail!("{} is gone.", self.0.display()) };
        change(&mut saved);
        self.save(&saved)
    }

    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.0).with_context(|| format!("{} cannot be removed.", self.0.display()))
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use chat_protocol::{DeviceId, Millis, UserId};

    use super::*;

    #[test]
    fn the_state_survives_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep").join("state.json");
        let store = Store::open(Some(path.clone())).unwrap();
        assert!(store.load().unwrap().is_none());
        let tokens = Tokens {
            user_id: UserId::random(),
            device_id: DeviceId::random(),
            access_token: "access".into(),
            access_expires_at: Millis(1),
            refresh_token: "refresh".into(),
        };
        store.save(&Saved::new("http://example.com", tokens.clone())).unwrap();
        store.change(|saved| saved.state.cursor = Some("abc".into())).unwrap();
        let saved = store.load().unwrap().unwrap();
        assert_eq!((saved.tokens, saved.state.cursor.as_deref()), (tokens, Some("abc")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
