//! Snapshots of a node's data: the volumes of the built-in provisioner. They are saved
//! while the node runs, and restored at its boot, before anything uses them.
//!
//! A snapshot is staged below [`paths::RESTORE`] in a directory with its name. The next boot
//! restores the snapshot that the node's configuration names, by renaming, and removes all
//! others. A staged snapshot that the configuration does not name has no effect.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rkube_config::paths;

use crate::tree;

const OBJECTS: &str = "objects.gz";
const VOLUMES: &str = "volumes";

/// The paths of the data and of staged snapshots; configurable for tests.
#[derive(Clone, Debug)]
pub struct State {
    volumes: PathBuf,
    restore: PathBuf,
    objects: PathBuf,
}

/// A part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The API objects, a compressed dump of the store.
    Objects,
    /// The node's volumes, an archive as written by [`State::save`].
    Volumes,
}

impl State {
    /// Returns the paths inside a node.
    pub fn of_node() -> Self {
        Self {
            volumes: paths::VOLUMES.into(),
            restore: paths::RESTORE.into(),
            objects: paths::RESTORED_OBJECTS.into(),
        }
    }

    /// Writes the volumes as a gzip-compressed tar archive. Pods may write meanwhile, so the
    /// archive is only crash-consistent. Sockets and files that disappear meanwhile are left
    /// out.
    pub fn save(&self, output: impl Write) -> anyhow::Result<()> {
        let compressed = GzEncoder::new(output, Compression::fast());
        let mut archive = tar::Builder::new(compressed);
        if self.volumes.exists() {
            tree::append(&mut archive, &self.volumes)
                .with_context(|| format!("cannot read {}", self.volumes.display()))?;
        }
        archive.into_inner()?.finish()?.flush()?;
        Ok(())
    }

    /// Stages a part of the snapshot `id`. The first part of a snapshot removes all others.
    ///
    /// # Errors
    ///
    /// Fails if `id` has other characters than lowercase letters and digits, or if the input
    /// is damaged.
    pub fn stage(&self, id: &str, part: SnapshotPart, input: impl Read) -> anyhow::Result<()> {
        let folder = self.folder(id)?;
        if !folder.exists() {
            remove(&self.restore)?;
        }
        make_private(&folder)?;
        match part {
            SnapshotPart::Objects => {
                let mut input = input;
                let mut file = File::create(folder.join(OBJECTS))?;
                io::copy(&mut input, &mut file).context("cannot keep the objects")?;
                file.sync_all()?;
            }
            SnapshotPart::Volumes => {
                let volumes = folder.join(VOLUMES);
                make_private(&volumes)?;
                let mut archive = tar::Archive::new(GzDecoder::new(input));
                archive.set_preserve_permissions(true);
                archive.set_preserve_ownerships(true);
                archive.set_preserve_mtime(true);
                archive
                    .unpack(&volumes)
                    .context("cannot unpack the volumes")?;
            }
        }
        Ok(())
    }

    /// Restores the snapshot `wanted`, if it is staged, and removes all staged snapshots. Must
    /// be called at boot, before any service runs.
    pub fn apply(&self, wanted: Option<&str>) -> anyhow::Result<()> {
        if let Some(id) = wanted {
            let folder = self.folder(id)?;
            let volumes = folder.join(VOLUMES);
            if volumes.exists() {
                // The old volumes are moved away first: a boot interrupted here finds either
                // the old or the new volumes, never both in one directory.
                if self.volumes.exists() {
                    let old = folder.join("old");
                    remove(&old)?;
                    fs::rename(&self.volumes, &old).context("cannot move the old volumes")?;
                }
                fs::rename(&volumes, &self.volumes).context("cannot move the new volumes")?;
            }
            let objects = folder.join(OBJECTS);
            if objects.exists() {
                fs::rename(&objects, &self.objects).context("cannot move the objects")?;
            }
        }
        remove(&self.restore)
    }

    /// Returns the staging directory of a snapshot. Validates `id`, which becomes a path
    /// component.
    fn folder(&self, id: &str) -> anyhow::Result<PathBuf> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if id.is_empty() || !id.chars().all(plain) {
            bail!("'{id}' names no snapshot");
        }
        Ok(self.restore.join(id))
    }
}

fn make_private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    rkube_fsutil::remove_tree(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn state(dir: &Path) -> State {
        State {
            volumes: dir.join("volumes"),
            restore: dir.join("restore"),
            objects: dir.join("restored.gz"),
        }
    }

    fn saved(state: &State) -> Vec<u8> {
        let mut archive = Vec::new();
        state.save(&mut archive).unwrap();
        archive
    }

    #[test]
    fn volumes_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        let claim = dir.path().join("volumes/default-data-pvc-1");
        fs::create_dir_all(claim.join("sub")).unwrap();
        fs::set_permissions(&claim, fs::Permissions::from_mode(0o2770)).unwrap();
        fs::write(claim.join("sub/file"), "before").unwrap();
        fs::set_permissions(claim.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/nowhere", claim.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(claim.join("socket")).unwrap();
        let archive = saved(&state);

        fs::write(claim.join("sub/file"), "after").unwrap();
        fs::write(claim.join("new"), "").unwrap();
        state
            .stage("a1", SnapshotPart::Volumes, &archive[..])
            .unwrap();
        state
            .stage("a1", SnapshotPart::Objects, &b"objects"[..])
            .unwrap();
        assert_eq!(fs::read(claim.join("sub/file")).unwrap(), b"after");

        state.apply(Some("a1")).unwrap();
        assert_eq!(fs::read(claim.join("sub/file")).unwrap(), b"before");
        assert!(!claim.join("new").exists());
        assert!(!claim.join("socket").exists());
        assert_eq!(
            fs::read_link(claim.join("link")).unwrap(),
            Path::new("/nowhere")
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&claim), 0o2770);
        assert_eq!(mode(&claim.join("sub/file")), 0o640);
        assert_eq!(
            fs::read(dir.path().join("restored.gz")).unwrap(),
            b"objects"
        );
        assert!(!dir.path().join("restore").exists());

        // A second boot with the same configuration does not restore again.
        fs::write(claim.join("sub/file"), "later").unwrap();
        state.apply(Some("a1")).unwrap();
        assert_eq!(fs::read(claim.join("sub/file")).unwrap(), b"later");
    }

    #[test]
    fn unrequested_content_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        let nothing = saved(&state);
        fs::create_dir(dir.path().join("volumes")).unwrap();
        for wanted in [None, Some("b2")] {
            state
                .stage("a1", SnapshotPart::Volumes, &nothing[..])
                .unwrap();
            state.apply(wanted).unwrap();
            assert!(dir.path().join("volumes").exists());
            assert!(!dir.path().join("restore").exists());
        }
        // Staging another snapshot removes an incomplete one.
        state
            .stage("a1", SnapshotPart::Objects, &b"old"[..])
            .unwrap();
        state
            .stage("b2", SnapshotPart::Volumes, &nothing[..])
            .unwrap();
        assert!(!dir.path().join("restore/a1").exists());
        for id in ["", "..", "a/b", "A"] {
            assert!(
                state.stage(id, SnapshotPart::Objects, &b""[..]).is_err(),
                "{id}"
            );
        }
    }

    #[test]
    fn a_damaged_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        fs::create_dir(dir.path().join("volumes")).unwrap();
        fs::write(dir.path().join("volumes/file"), vec![7; 4096]).unwrap();
        let archive = saved(&state);
        let cut = &archive[..archive.len() / 2];
        assert!(state.stage("a1", SnapshotPart::Volumes, cut).is_err());
        assert!(
            state
                .stage("a1", SnapshotPart::Volumes, &b"not an archive"[..])
                .is_err()
        );
    }
}
