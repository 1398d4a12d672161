//! A node's disk: an ext4 file system in a sparse file.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The default disk size of a node, in bytes. The file is sparse: it occupies only the space that
/// the node has written.
pub const DEFAULT_SIZE: u64 = 20 << 30;

/// A disk image on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Path of the image.
    pub path: PathBuf,
    /// QEMU's name for the image format.
    pub format: &'static str,
}

/// Finds a program in `PATH` and in the directories of administrators' programs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(
            [
                "/usr/sbin",
                "/sbin",
                "/usr/local/sbin",
                "/opt/homebrew/opt/e2fsprogs/sbin",
            ]
            .map(PathBuf::from),
        )
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Creates and formats the disk in `folder` unless it exists.
pub fn make(folder: &Path, size: u64) -> anyhow::Result<Disk> {
    let qcow = Disk {
        path: folder.join("disk.qcow2"),
        format: "qcow2",
    };
    let raw = Disk {
        path: folder.join("disk.raw"),
        format: "raw",
    };
    for disk in [&qcow, &raw] {
        if disk.path.exists() {
            return Ok(disk.clone());
        }
    }
    let blank = folder.join("disk.new");
    let finished = format(&blank, size).and_then(|()| match program("qemu-img") {
        Some(tool) => {
            let converted = folder.join("disk.qcow2.new");
            run(Command::new(tool)
                .args(["convert", "-f", "raw", "-O", "qcow2"])
                .arg(&blank)
                .arg(&converted))
            .inspect_err(|_| {
                let _ = fs::remove_file(&converted);
            })?;
            fs::set_permissions(
                &converted,
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )?;
            fs::rename(&converted, &qcow.path)?;
            Ok(qcow)
        }
        None => {
            fs::rename(&blank, &raw.path)?;
            Ok(raw)
        }
    });
    let _ = fs::remove_file(&blank);
    finished.with_context(|| format!("cannot create a disk in {}", folder.display()))
}

fn format(path: &Path, size: u64) -> anyhow::Result<()> {
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(size)?;
    let tool = program("mkfs.ext4").context("there is no mkfs.ext4; install e2fsprogs")?;
    run(Command::new(tool)
        .args(["-q", "-F", "-m", "0", "-L", "rkube-state", "-E"])
        // A new sparse file reads as zeros, so nothing needs to be initialized.
        .arg("lazy_itable_init=1,lazy_journal_init=1,nodiscard")
        .arg(path))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !done.status.success() {
        bail!(
            "{name} failed: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once_and_takes_little() {
        use std::os::unix::fs::MetadataExt;
        if program("mkfs.ext4").is_none() {
            rkube_testing::skip!("no mkfs.ext4");
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = make(dir.path(), DEFAULT_SIZE).unwrap();
        let before = fs::metadata(&disk.path).unwrap();
        assert!(
            before.blocks() * 512 < 64 << 20,
            "{} blocks",
            before.blocks()
        );
        assert_eq!(before.mode() & 0o777, 0o600);
        assert_eq!(make(dir.path(), DEFAULT_SIZE).unwrap(), disk);
        assert_eq!(before.ino(), fs::metadata(&disk.path).unwrap().ino());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
