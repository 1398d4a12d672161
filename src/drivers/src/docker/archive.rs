//! Tar archives that are copied to and from a node's container.

use std::io::{self, Read};
use std::path::Path;

use crate::types::Log;

/// Reads the host's trusted CA certificates (PEM); `None` if the host has no bundle.
#[cfg(not(windows))]
fn roots() -> io::Result<Option<Vec<u8>>> {
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let bundle = BUNDLES.iter().find(|b| Path::new(b).is_file());
    bundle.map(std::fs::read).transpose()
}

/// Exports the trusted CA certificates of the Windows certificate store (PEM).
#[cfg(windows)]
fn roots() -> io::Result<Option<Vec<u8>>> {
    use base64::Engine as _;

    let mut text = String::new();
    // Certificates that cannot be loaded are skipped: other programs cannot use them either.
    for certificate in rustls_native_certs::load_native_certs().certs {
        let body = base64::engine::general_purpose::STANDARD.encode(&certificate);
        text += "-----BEGIN CERTIFICATE-----\n";
        for line in body.as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text += "-----END CERTIFICATE-----\n";
    }
    Ok((!text.is_empty()).then(|| text.into_bytes()))
}

/// Archives a node's `etc` directory as `etc/rkube`, together with the host's trusted CA
/// certificates for registries. All files belong to root.
pub fn of_etc(etc: &Path) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    folder(&mut tar, Path::new("etc"), 0o755)?;
    add(&mut tar, etc, Path::new("etc/rkube"))?;
    if let Some(content) = roots()? {
        for path in ["etc/ssl", "etc/ssl/certs"] {
            folder(&mut tar, Path::new(path), 0o755)?;
        }
        let path = Path::new("etc/ssl/certs/ca-certificates.crt");
        file(&mut tar, path, 0o644, &content)?;
    }
    tar.into_inner()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, source: &Path, path: &Path) -> io::Result<()> {
    folder(tar, path, 0o700)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            add(tar, &entry.path(), &path)?;
        } else {
            // Some files are private keys, and no other user needs to read any of them.
            file(tar, &path, 0o600, &std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn folder(tar: &mut tar::Builder<Vec<u8>>, path: &Path, mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    tar.append_data(&mut header, path, io::empty())
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

/// Returns the logs (`*.log`) in an archive of a node's log directory, in reverse order of their
/// names, so that the control plane's is first.
pub fn logs(archive: &[u8]) -> io::Result<Vec<Log>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let Some(name) = path.file_stem().and_then(|n| n.to_str()) else {
            continue;
        };
        let name = name.to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        found.push(Log { name, content });
    }
    found.sort_by(|a, b| b.name.cmp(&a.name));
    found.sort_by_key(|log| log.name != "control-plane");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_private_in_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        std::fs::write(dir.path().join("pki/ca.key"), "secret").unwrap();
        std::fs::write(dir.path().join("node.yaml"), "a: b").unwrap();
        let archive = of_etc(dir.path()).unwrap();
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            found.insert(
                path.trim_end_matches('/').to_owned(),
                entry.header().mode().unwrap(),
            );
        }
        assert_eq!(found["etc/rkube"], 0o700);
        assert_eq!(found["etc/rkube/pki/ca.key"], 0o600);
        assert_eq!(found["etc/rkube/node.yaml"], 0o600);
    }

    #[test]
    fn only_logs_come_out() {
        let mut tar = tar::Builder::new(Vec::new());
        folder(&mut tar, Path::new("rkube"), 0o755).unwrap();
        for name in ["agent.log", "agent.log.1", "control-plane.log"] {
            file(
                &mut tar,
                &Path::new("rkube").join(name),
                0o600,
                name.as_bytes(),
            )
            .unwrap();
        }
        let found = logs(&tar.into_inner().unwrap()).unwrap();
        let names: Vec<_> = found.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["control-plane", "agent"]);
    }
}
