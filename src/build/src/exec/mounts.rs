//! Mounts of steps: binds, caches, secrets, directories in memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use rkube_runtime::build::Workspace;
use rkube_runtime::{Mount as BindMount, TmpfsMount};

use super::cache::Key;
use super::errors::{blocking, failed, failed_at};
use super::files::{self, Copying};
use super::run::{PIPES, Run};
use super::stage::Running;
use crate::error::{BuildError, Result};
use crate::instruction::{Mount, MountKind};
use crate::pattern::Matcher;

/// The content of a step's file system besides the layers.
#[derive(Default)]
pub struct Mounts {
    pub binds: Vec<BindMount>,
    pub tmpfs: Vec<TmpfsMount>,
    pub env: Vec<(String, String)>,
    /// Locks of cache mounts, held while the step runs.
    locks: Vec<File>,
    /// Overlays of writable bind mounts.
    spaces: Vec<Workspace>,
    /// Sources that must stay mounted.
    sources: Vec<std::sync::Arc<super::types::Mounted>>,
}

impl Running<'_> {
    /// Returns the real path of a bind mount's source.
    pub async fn bind_source(
        &self,
        mount: &Mount,
    ) -> Result<(PathBuf, std::sync::Arc<super::types::Mounted>)> {
        let from = mount.options.get("from").map(String::as_str);
        let source = self.build.source(from, self.index).await?;
        let path = mount.options.get("source").map_or("/", String::as_str);
        let found = files::resolve(source.root(), path)
            .map_err(|e| BuildError::new(format!("{path}: {e}")))?
            .ok_or_else(|| BuildError::new(format!("{path:?}: not found")))?;
        let real = files::real_path(&found).map_err(failed)?;
        Ok((real, source))
    }

    /// Sets up what a step finds mounted.
    pub async fn mounts(&self, run: &Run, step: usize) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        let own = self.build.work.join("mounts").join(step.to_string());
        fs::create_dir_all(&own).map_err(failed_at(&own))?;
        // Copies, so that a step cannot see what the node's change to.
        for name in ["resolv.conf", "hosts"] {
            let file = own.join(name);
            let mut text = fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
            if name == "hosts" {
                for (host, address) in &self.build.request.hosts {
                    text.push_str(&format!("{address}\t{host}\n"));
                }
            }
            fs::write(&file, text).map_err(failed_at(&file))?;
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(file, format!("/etc/{name}"))
            });
        }
        if let Some((name, content)) = &run.script {
            let dir = own.join("pipes");
            fs::create_dir(&dir).map_err(failed_at(&dir))?;
            let file = dir.join(name);
            fs::write(&file, content).map_err(failed_at(&file))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .map_err(failed_at(&file))?;
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(dir, PIPES)
            });
        }
        self.lock_caches(run, &mut mounts).await?;
        for (number, mount) in run.mounts.iter().enumerate() {
            let dir = own.join(number.to_string());
            match mount.kind {
                MountKind::Bind => self.mount_bind(mount, &dir, &mut mounts).await?,
                MountKind::Cache => self.mount_cache(mount, &mut mounts).await?,
                MountKind::Tmpfs => mounts.tmpfs.push(TmpfsMount {
                    container_path: self.target(mount)?,
                    size_bytes: mount.options.get("size").map(|s| size(s)).transpose()?,
                    mode: None,
                }),
                MountKind::Secret => self.mount_secret(mount, step, number, &mut mounts)?,
            }
        }
        Ok(mounts)
    }

    /// Returns the absolute path of a mount.
    fn target(&self, mount: &Mount) -> Result<PathBuf> {
        let text = mount.options.get("target").map_or("", String::as_str);
        let path = self.now.document.config.absolute(text);
        match path.as_str() {
            "/" => Err(BuildError::new(
                "a mount cannot replace the root (target=/)",
            )),
            path => Ok(PathBuf::from(path.trim_end_matches('/'))),
        }
    }

    async fn mount_bind(&self, mount: &Mount, dir: &Path, mounts: &mut Mounts) -> Result<()> {
        let target = self.target(mount)?;
        let writable = switch(mount, "readwrite")? || option_is(mount, "readonly", false)?;
        let (path, source) = self.bind_source(mount).await?;
        mounts.sources.push(source);
        if !writable {
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(path, target)
            });
            return Ok(());
        }
        // Written files are dropped after the step.
        if path.is_dir() {
            let dir = dir.to_path_buf();
            let space =
                blocking(move || Workspace::writable(&dir, &[path]).map_err(failed)).await?;
            mounts.binds.push(BindMount::bind(space.root(), target));
            mounts.spaces.push(space);
        } else {
            fs::copy(&path, dir).map_err(failed_at(&path))?;
            mounts.binds.push(BindMount::bind(dir, target));
        }
        Ok(())
    }

    /// Returns the name of a cache mount's directory.
    fn cache_name(&self, mount: &Mount) -> Result<String> {
        let fallback = self.target(mount)?.to_string_lossy().into_owned();
        let id = mount.options.get("id").unwrap_or(&fallback);
        let mut key = Key::new("cache mount");
        key.add(id);
        Ok(key.finish())
    }

    /// Prevents that cache mounts are removed while the step runs, see [`super::prune`].
    /// Takes the locks of those that no other step may use meanwhile. Each is taken once, and in
    /// the same order in all steps, so that no two wait for each other.
    async fn lock_caches(&self, run: &Run, mounts: &mut Mounts) -> Result<()> {
        let mut names = std::collections::BTreeSet::new();
        let caches = || run.mounts.iter().filter(|m| m.kind == MountKind::Cache);
        if caches().next().is_some() {
            let path = self.build.mounts.with_extension("lock");
            let lock = blocking(move || {
                let file = File::create(&path).map_err(failed_at(&path))?;
                file.lock_shared().map_err(failed_at(&path))?;
                Ok(file)
            });
            mounts.locks.push(lock.await?);
        }
        for mount in caches() {
            if mount.options.get("sharing").is_some_and(|s| s == "locked") {
                names.insert(self.cache_name(mount)?);
            }
        }
        let parent = &self.build.mounts;
        fs::create_dir_all(parent).map_err(failed_at(parent))?;
        for name in names {
            let path = parent.join(format!("{name}.lock"));
            let lock = blocking(move || {
                let file = File::create(&path).map_err(failed_at(&path))?;
                file.lock().map_err(failed_at(&path))?;
                Ok(file)
            });
            mounts.locks.push(lock.await?);
        }
        Ok(())
    }

    async fn mount_cache(&self, mount: &Mount, mounts: &mut Mounts) -> Result<()> {
        let target = self.target(mount)?;
        let name = self.cache_name(mount)?;
        let parent = self.build.mounts.clone();
        fs::create_dir_all(&parent).map_err(failed_at(&parent))?;
        let sharing = mount
            .options
            .get("sharing")
            .map_or("shared", String::as_str);
        let (dir, lock) = match sharing {
            // Its lock is taken already.
            "shared" | "locked" => (parent.join(&name), None),
            "private" => first_free(&parent, &name)?,
            other => {
                return Err(BuildError::new(format!(
                    "unsupported sharing value {other:?} of a cache mount"
                )));
            }
        };
        mounts.locks.extend(lock);
        if !dir.is_dir() {
            self.fill_cache(mount, &dir).await?;
        }
        mounts.binds.push(BindMount {
            read_only: switch(mount, "readonly")?,
            ..BindMount::bind(dir, target)
        });
        Ok(())
    }

    /// Makes the directory of a cache mount with its first content.
    async fn fill_cache(&self, mount: &Mount, dir: &Path) -> Result<()> {
        let number = |name: &str, radix: u32, default: u32| match mount.options.get(name) {
            None => Ok(default),
            Some(text) => u32::from_str_radix(text, radix)
                .map_err(|_| BuildError::new(format!("invalid {name} {text:?} of a cache mount"))),
        };
        let mode = number("mode", 8, 0o755)?;
        let owner = (number("uid", 10, 0)?, number("gid", 10, 0)?);
        let source = match mount.options.get("from") {
            Some(_) => Some(self.bind_source(mount).await?),
            None => None,
        };
        // Filled under another name, so that a half-filled one is never used.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = dir.with_extension(format!("new-{}-{number}", std::process::id()));
        let dir = dir.to_path_buf();
        blocking(move || {
            rkube_fsutil::remove_tree(&new).map_err(failed_at(&new))?;
            fs::create_dir(&new).map_err(failed_at(&new))?;
            if let Some((path, _mounted)) = &source {
                let none = Matcher::default();
                let copying = Copying {
                    root: &new,
                    owner: None,
                    mode: None,
                    excluded: &none,
                };
                copying.copy(path, path.file_name().unwrap_or_default(), "/")?;
            }
            std::os::unix::fs::chown(&new, Some(owner.0), Some(owner.1))
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
                .map_err(failed_at(&new))?;
            match fs::rename(&new, &dir) {
                // Another step was faster.
                Err(_) if dir.is_dir() => rkube_fsutil::remove_tree(&new).map_err(failed_at(&new)),
                renamed => renamed.map_err(failed_at(&dir)),
            }
        })
        .await
    }

    fn mount_secret(
        &self,
        mount: &Mount,
        step: usize,
        number: usize,
        mounts: &mut Mounts,
    ) -> Result<()> {
        let option = |name: &str| mount.options.get(name).map(String::as_str);
        let from_target = option("target").and_then(|t| t.rsplit('/').next());
        let id = option("id").or(from_target).unwrap_or_default();
        if id.is_empty() {
            return Err(BuildError::new("a secret mount needs an id or a target"));
        }
        let Some(encoded) = self.build.request.secrets.get(id) else {
            if switch(mount, "required")? {
                return Err(BuildError::new(format!(
                    "secret {id}: not found: pass it with --secret id={id},src=FILE"
                )));
            }
            return Ok(());
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map_err(failed)?;
        if let Some(name) = option("env") {
            let text = String::from_utf8(bytes.clone())
                .map_err(|_| BuildError::new(format!("secret {id} is not text")))?;
            mounts.env.push((name.to_owned(), text));
            if option("target").is_none() {
                return Ok(());
            }
        }
        let file = format!("{step}-{number}");
        mounts
            .binds
            .push(self.secret_file(mount, id, &bytes, &file)?);
        Ok(())
    }

    /// Writes a secret to a file that only the step's user can read.
    fn secret_file(&self, mount: &Mount, id: &str, bytes: &[u8], name: &str) -> Result<BindMount> {
        let numeric = |name: &str, radix, default| match mount.options.get(name) {
            None => Ok(default),
            Some(text) => u32::from_str_radix(text, radix)
                .map_err(|_| BuildError::new(format!("invalid {name} {text:?} of a secret"))),
        };
        let target = match mount.options.contains_key("target") {
            true => self.target(mount)?,
            false => PathBuf::from(format!("/run/secrets/{id}")),
        };
        rkube_fsutil::make_dir(&self.build.secrets, 0o700)
            .map_err(failed_at(&self.build.secrets))?;
        let file = self.build.secrets.join(name);
        let write = || -> io::Result<()> {
            let mut out = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)?;
            out.write_all(bytes)?;
            let (uid, gid) = (
                numeric("uid", 10, 0).map_err(io::Error::other)?,
                numeric("gid", 10, 0).map_err(io::Error::other)?,
            );
            std::os::unix::fs::fchown(&out, Some(uid), Some(gid))?;
            let mode = numeric("mode", 8, 0o400).map_err(io::Error::other)?;
            out.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
        };
        write().map_err(failed_at(&file))?;
        Ok(BindMount {
            read_only: true,
            ..BindMount::bind(file, target)
        })
    }
}

/// Returns the value of a switch of a mount; false if it is absent.
fn switch(mount: &Mount, name: &str) -> Result<bool> {
    option_is(mount, name, true)
}

/// Returns whether an option is there and has this value.
fn option_is(mount: &Mount, name: &str, wanted: bool) -> Result<bool> {
    match mount.options.get(name).map(String::as_str) {
        None => Ok(false),
        Some("true" | "1") => Ok(wanted),
        Some("false" | "0") => Ok(!wanted),
        Some(other) => Err(BuildError::new(format!(
            "invalid value {other:?} of {name} in --mount"
        ))),
    }
}

/// Parses a size such as `64m`.
fn size(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(['b', 'i']);
    let (digits, shift) = match number.chars().last() {
        Some('k') => (&number[..number.len() - 1], 10),
        Some('m') => (&number[..number.len() - 1], 20),
        Some('g') => (&number[..number.len() - 1], 30),
        _ => (number, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_shl(shift))
        .ok_or_else(|| BuildError::new(format!("invalid size {text:?}")))
}

/// Returns the first copy of a private cache mount that no other step uses.
fn first_free(parent: &Path, name: &str) -> Result<(PathBuf, Option<File>)> {
    for number in 0.. {
        let path = parent.join(format!("{name}-{number}.lock"));
        let file = File::create(&path).map_err(failed_at(&path))?;
        if file.try_lock().is_ok() {
            return Ok((parent.join(format!("{name}-{number}")), Some(file)));
        }
    }
    Err(BuildError::new("no private cache mount is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64m").unwrap(), 64 << 20);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert_eq!(size("100").unwrap(), 100);
        assert!(size("x").is_err() && size("").is_err());
    }
}
