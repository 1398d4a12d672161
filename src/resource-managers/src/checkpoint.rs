//! The state files of the managers: JSON with the checksum that the kubelet writes.
//!
//! The checksum is the 32-bit FNV-1a hash of a textual form of the data, which each kind of file
//! defines ([`State::hashed`]).

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The content of a state file.
pub trait State: Serialize + DeserializeOwned + Default {
    /// Name of the manager in messages.
    const MANAGER: &'static str;
    /// Name of the file.
    const FILE: &'static str;
    /// What the name of a policy begins with in the message that it differs.
    const PREFIX: &'static str;

    /// Returns the text that the checksum is computed of.
    fn hashed(&self) -> String;

    /// Returns the name of the policy that wrote the state.
    fn policy(&self) -> &str;
}

/// Returns the 32-bit FNV-1a hash of a text.
fn fnv32a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// An error of a state file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The state cannot be used. The message is upstream's.
    #[error(
        "could not restore state from checkpoint: {reason}, please drain this node and delete the {manager} checkpoint file {path:?} before restarting Kubelet"
    )]
    Unusable {
        /// What is wrong.
        reason: String,
        /// Whose file it is.
        manager: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The state cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// Reads the state of a policy; a missing or empty file is one without content.
///
/// # Errors
///
/// Fails if the file is corrupt, or if another policy wrote it.
pub fn read<S: State>(dir: &Path, policy: &str) -> Result<Option<S>, CheckpointError> {
    let path = dir.join(S::FILE);
    let unusable = |reason: String| CheckpointError::Unusable {
        reason,
        manager: S::MANAGER,
        path: path.clone(),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(e.to_string())),
    };
    let document: Value = match serde_json::from_str(&text) {
        Ok(document) => document,
        Err(e) if e.is_eof() => return Err(unusable("unexpected end of JSON input".into())),
        Err(e) => return Err(unusable(e.to_string())),
    };
    let checksum = document.get("checksum").and_then(Value::as_u64);
    let state: S = serde_json::from_value(document).map_err(|e| unusable(e.to_string()))?;
    // The kubelet's first versions wrote no checksum.
    if checksum.unwrap_or(0) != 0 && checksum != Some(u64::from(fnv32a(&state.hashed()))) {
        return Err(unusable("checkpoint is corrupted".into()));
    }
    if state.policy() != policy {
        return Err(unusable(format!(
            "{}configured policy {policy:?} differs from state checkpoint policy {:?}",
            S::PREFIX,
            state.policy()
        )));
    }
    Ok(Some(state))
}

/// Writes the state atomically.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub fn write<S: State>(dir: &Path, state: &S) -> Result<(), CheckpointError> {
    let path = dir.join(S::FILE);
    let failed = |source| CheckpointError::Write {
        path: path.display().to_string(),
        source,
    };
    let mut document = serde_json::to_value(state).map_err(|e| failed(e.into()))?;
    document["checksum"] = fnv32a(&state.hashed()).into();
    rkube_fsutil::write_durable(&path, document.to_string().as_bytes()).map_err(failed)
}

/// Formats a map as the hashed text has it.
pub(crate) fn go_map<K: std::fmt::Display>(
    entries: impl IntoIterator<Item = (K, String)>,
) -> String {
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(key, value)| format!("{key}:{value}"))
        .collect();
    format!("map[{}]", entries.join(" "))
}

/// Formats a list of numbers as the hashed text has it.
pub(crate) fn go_numbers(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
