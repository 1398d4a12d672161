//! Key pairs in OpenSSH's file formats.

use std::io::Write;
use std::path::Path;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};

use crate::SshError;

/// An ed25519 key pair as text.
pub struct KeyPair {
    /// The private key, OpenSSH PEM, not encrypted.
    pub private: String,
    /// The public key, one line as in `authorized_keys`, without a line break.
    pub public: String,
}

/// Creates an ed25519 key pair; `comment` is appended to the public key.
pub fn generate(comment: &str) -> Result<KeyPair, SshError> {
    let bad = |reason: russh::keys::ssh_key::Error| SshError::Key {
        what: "making a key".into(),
        reason: reason.to_string(),
    };
    let mut key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(bad)?;
    key.set_comment(comment);
    let private = key.to_openssh(LineEnding::LF).map_err(bad)?.to_string();
    let public = key.public_key().to_openssh().map_err(bad)?;
    Ok(KeyPair { private, public })
}

/// Creates a key pair and writes it to `path` (mode 0600) and `path.pub` (mode 0644).
///
/// Returns the public key as one line. Existing files are replaced.
pub fn generate_files(path: &Path, comment: &str) -> Result<String, SshError> {
    let pair = generate(comment)?;
    write(path, pair.private.as_bytes(), 0o600)?;
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    write(
        Path::new(&public),
        format!("{}\n", pair.public).as_bytes(),
        0o644,
    )?;
    Ok(pair.public)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), SshError> {
    let what = || format!("writing {}", path.display());
    // The mode applies to new files only, so an existing file is removed first.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(SshError::io(what())(e)),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    // On Windows, files in a user's profile directory inherit its access control.
    #[cfg(not(unix))]
    let _ = mode;
    options
        .open(path)
        .and_then(|mut f| f.write_all(content))
        .map_err(SshError::io(what()))
}

pub(crate) fn read_private(path: &Path) -> Result<PrivateKey, SshError> {
    let text = std::fs::read(path).map_err(SshError::io(format!("reading {}", path.display())))?;
    PrivateKey::from_openssh(&text).map_err(|e| SshError::Key {
        what: format!("{} is not an OpenSSH private key", path.display()),
        reason: e.to_string(),
    })
}

/// Parses a public key from one line (`ssh-ed25519 AAAA... comment`).
pub(crate) fn parse_public(line: &str) -> Result<PublicKey, SshError> {
    PublicKey::from_openssh(line.trim()).map_err(|e| SshError::Key {
        what: "not an OpenSSH public key".into(),
        reason: e.to_string(),
    })
}

/// Returns the keys of an `authorized_keys` file.
///
/// Lines with options are ignored: options are not enforced, so their keys must not be
/// accepted.
#[cfg(target_os = "linux")]
pub(crate) fn authorized(text: &str) -> Vec<PublicKey> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .filter_map(|l| PublicKey::from_openssh(l).ok())
        .collect()
}
