//! What of this machine does not fit: disk, permissions, keys, addresses, files. Pure.

use std::path::Path;

use super::evidence::{Address, Directory, DirectoryState, Evidence, KeyFile};
use super::finding::Finding;
use super::judge::sentence;
use crate::config::Config;

/// Less than this is used up by a busy day.
const FREE_BYTES_WELL: u64 = 5 << 30;

/// Less than this may be gone in minutes.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// Files that a node opens besides connections.
const FILES_BESIDES: u64 = 256;

/// All of it.
pub(super) fn judge(config: &Config, evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(directory) = &evidence.directory {
        findings.push(judge_directory(directory));
        findings.push(judge_space(config, directory));
    }
    findings.push(judge_keys(&evidence.keys, evidence.directory.is_some()));
    for (setting, address, state) in &evidence.addresses {
        let check = format!("{setting} {address}");
        findings.push(match state {
            Address::Free => Finding::ok(&check, "It is free."),
            Address::ChatNode => Finding::ok(&check, "A chat node answers there."),
            Address::Taken => Finding::fail(
                &check,
                "Another program listens there.",
                format!("Stop it, or choose another address with {setting}."),
            ),
            Address::Unusable(error) => Finding::fail(
                &check,
                sentence(error),
                format!("Set {setting} to an address of this machine."),
            ),
        });
    }
    findings.push(judge_files(config, evidence.files_max));
    findings
}

fn judge_directory(directory: &Directory) -> Finding {
    let check = format!("data directory {}", directory.path.display());
    let state = match &directory.state {
        Err(error) => {
            let advice = "Choose another one with data_dir, or give this user the right to use it.";
            return Finding::fail(&check, sentence(error), advice);
        }
        Ok(None) => return Finding::ok(&check, "It does not exist yet; the first start makes it."),
        Ok(Some(state)) => state,
    };
    let DirectoryState { mode, is_writable, is_in_use, .. } = *state;
    if !is_writable {
        let advice = "Give it to the user that runs the node (chown).";
        return Finding::fail(&check, "This user cannot write in it.", advice);
    }
    if mode & 0o077 != 0 {
        return Finding::warn(
            &check,
            format!(
                "Other users of this machine can get at it (mode {mode:o}): it holds messages and keys."
            ),
            format!("Run `chmod 700 {}`.", directory.path.display()),
        );
    }
    Finding::ok(&check, if is_in_use { "A node uses it." } else { "It can be used." })
}

fn judge_space(config: &Config, directory: &Directory) -> Finding {
    let check = "disk";
    let Some(free) = directory.free_bytes else {
        let found = "The file system does not say how much is free.";
        return Finding::warn(check, found, "Look with `df`.");
    };
    let mib = |bytes: u64| bytes >> 20;
    let used = directory.state.as_ref().ok().copied().flatten().map_or(0, |state| state.used_bytes);
    let found = format!("{} MiB are free; store and log have {} MiB.", mib(free), mib(used));
    let advice = "Free some space, or move the data directory to a larger disk.";
    if free < FREE_BYTES_MIN {
        return Finding::fail(check, found, advice);
    }
    let limits = [config.storage.store_bytes_max, config.storage.log_bytes_max];
    let room = free.saturating_add(used);
    if limits.iter().all(|limit| *limit > 0) && limits.iter().sum::<u64>() > room {
        return Finding::warn(
            check,
            format!("{found} The limits in [storage] add up to {} MiB.", mib(limits.iter().sum())),
            "Lower them: with a full disk the node takes nothing either.",
        );
    }
    match free < FREE_BYTES_WELL {
        true => Finding::warn(check, found, advice),
        false => Finding::ok(check, found),
    }
}

fn judge_keys(keys: &KeyFile, is_alone: bool) -> Finding {
    let check = format!("signing keys {}", keys.path.display());
    match &keys.state {
        Err(error) => Finding::fail(
            &check,
            sentence(error),
            "Put the platform's key set there, and let this user read it.",
        ),
        Ok(None) if is_alone => {
            Finding::ok(&check, "There is no file yet; the first start makes it.")
        }
        Ok(None) => Finding::warn(
            &check,
            "There is no file; the first start makes one of its own.",
            "Give all nodes the same file, or each refuses the tokens of the others.",
        ),
        Ok(Some(mode)) if mode & 0o077 != 0 => Finding::warn(
            &check,
            format!(
                "Other users of this machine can read it (mode {mode:o}), and make tokens for any account."
            ),
            format!("Run `chmod 600 {}`, unless a group is meant to read it.", shown(&keys.path)),
        ),
        Ok(Some(_)) => Finding::ok(&check, "The keys can be read."),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn judge_files(config: &Config, files_max: Option<u64>) -> Finding {
    let needed = config.connections_max.saturating_add(FILES_BESIDES);
    match files_max {
        None => Finding::ok("open files", "There is no limit, or the system does not say."),
        Some(max) if max < needed => Finding::warn(
            "open files",
            format!("This process may have {max}; connections_max needs {needed}."),
            "Raise the limit (`ulimit -n`, LimitNOFILE of systemd), or lower connections_max.",
        ),
        Some(max) => Finding::ok("open files", format!("This process may have {max}.")),
    }
}
