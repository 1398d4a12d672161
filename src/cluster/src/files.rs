//! The directory of rkube's files, and safe writes to it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};

use crate::sudo::{act_for_owner_of, owner_of, refuse_link, sudo_user};

/// `$RKUBE_HOME`, `~/.rkube` by default.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Finds the directory without creating it.
    pub fn find() -> Result<Self, Failure> {
        let root = match std::env::var_os("RKUBE_HOME") {
            Some(dir) if !dir.is_empty() => std::path::absolute(dir).map_err(|e| {
                Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!("RKUBE_HOME is not a path: {e}"),
                )
            })?,
            _ => home_dir()
                .ok_or_else(|| {
                    Failure::new(
                        Source::Program,
                        Kind::Config,
                        "the home directory is not known",
                    )
                    .advise("set HOME or RKUBE_HOME")
                })?
                .join(".rkube"),
        };
        Ok(Self { root })
    }

    /// Returns a home at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the directory of all profiles.
    pub fn profiles_dir(&self) -> PathBuf {
        self.root.join("profiles")
    }

    /// Returns the directory of one profile.
    pub fn profile_dir(&self, name: &str) -> PathBuf {
        self.profiles_dir().join(name)
    }

    /// Returns the file of the user's settings (`rkube config`).
    pub fn settings_file(&self) -> PathBuf {
        self.root.join("config").join("config.json")
    }

    /// Returns the file of the log of commands.
    pub fn audit_file(&self) -> PathBuf {
        self.root.join("audit.jsonl")
    }

    /// Returns the directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of the user's own addons.
    pub fn addons_dir(&self) -> PathBuf {
        self.root.join("addons")
    }

    /// Returns the directory for sockets and PID files of one profile. Lost at reboot.
    pub fn run_dir(&self, name: &str) -> PathBuf {
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::MetadataExt as _;
            let of_root = Path::new("/run/rkube").join(name);
            let user = nix::unistd::geteuid();
            // A cluster that this user started with sudo.
            let shared = rkube_drivers::native::control_socket(&of_root)
                .metadata()
                .is_ok_and(|socket| socket.uid() == user.as_raw());
            if user.is_root() || shared {
                return of_root;
            }
        }
        // Without root, XDG_RUNTIME_DIR may be unset.
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("rkube").join(name),
            _ => self.root.join("run").join(name),
        }
    }

    /// Returns the names of all profiles, sorted.
    pub fn profile_names(&self) -> Result<Vec<String>, Failure> {
        let dir = self.profiles_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_failure("read", &dir, &e)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|e| e.path().is_dir())
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| !n.starts_with('.'))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes the directories of the home if they are empty.
    pub fn tidy(&self) {
        // Fails if they are not empty, as intended.
        let _ = fs::remove_dir(self.profiles_dir());
        let _ = fs::remove_dir(self.root.join("run"));
        let _ = fs::remove_dir(self.root.join("config"));
        // The log of commands alone is no reason to stay.
        let audit = self.audit_file();
        let names = fs::read_dir(&self.root).into_iter().flatten().flatten();
        if names.into_iter().all(|entry| entry.path() == audit) {
            let _ = fs::remove_file(audit);
        }
        let _ = fs::remove_dir(&self.root);
    }

    /// Locks a profile, so that only one command at a time changes it.
    pub fn lock(&self, name: &str) -> Result<Lock, Failure> {
        let dir = self.profiles_dir();
        if owner_of(&self.root).is_some() {
            self.refuse_links(name)?;
        }
        make_private_dir(&dir)?;
        let path = dir.join(format!(".{name}.lock"));
        let _owner = act_for_owner_of(&path);
        let file = owned(
            File::options().create(true).truncate(false).write(true),
            0o600,
        )
        .open(&path)
        .map_err(|e| io_failure("open", &path, &e))?;
        Lock::take(file).map_err(|e| match e {
            TryLockError::WouldBlock => Failure::new(
                Source::Program,
                Kind::Conflict,
                format!("another rkube command is changing the profile '{name}'"),
            )
            .advise("wait until that command has finished"),
            TryLockError::Error(e) => io_failure("lock", &path, &e),
        })
    }

    /// Fails if a directory that root writes below is a symbolic link.
    fn refuse_links(&self, name: &str) -> Result<(), Failure> {
        let profile = self.profile_dir(name);
        refuse_link(&self.root)?;
        refuse_link(&self.profiles_dir())?;
        refuse_link(&profile)?;
        for dir in [profile.join("nodes"), profile] {
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            for entry in entries {
                refuse_link(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns the user who may ask for the cluster's state, if root acts for one.
    pub(crate) fn owner_uid(&self) -> Option<u32> {
        owner_of(&self.root).map(|user| user.uid)
    }

    /// Removes the lock file. The caller must hold the lock.
    pub fn forget_lock(&self, name: &str) {
        let _ = fs::remove_file(self.profiles_dir().join(format!(".{name}.lock")));
    }
}

/// Returns the home directory of the user for whom this process runs.
pub fn home_dir() -> Option<PathBuf> {
    match sudo_user() {
        Some(user) => Some(user.home.clone()),
        None => dirs::home_dir(),
    }
}

/// Opens or creates a file to be locked, for the owner of its directory.
pub(crate) fn open_for_lock(path: &Path) -> Result<File, Failure> {
    let _owner = act_for_owner_of(path);
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| io_failure("open", path, &e))
}

/// A locked file; unlocked on drop.
pub struct Lock(File);

impl Lock {
    /// Locks the file, or fails if another process has locked it.
    pub(crate) fn take(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }

    /// Locks the file together with others that do so, or fails if a process has it for itself.
    pub(crate) fn share(file: File) -> Result<Self, TryLockError> {
        file.try_lock_shared()?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a forked child has a copy of the descriptor.
        // Unlocking fails only if there is no lock.
        let _ = self.0.unlock();
    }
}

/// File modes. On Windows, files inherit the permissions of their directory, and a user's
/// profile directory is private to the user.
#[cfg(unix)]
mod rights {
    use std::fs::{DirBuilder, OpenOptions, Permissions};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    /// Sets the mode of new files.
    pub fn file(options: &mut OpenOptions, mode: u32) {
        options.mode(mode);
    }

    /// Sets the mode of new directories.
    pub fn directory(builder: &mut DirBuilder, mode: u32) {
        builder.mode(mode);
    }

    /// Returns the permission bits of a file.
    pub fn of(path: &Path) -> Option<u32> {
        Some(path.metadata().ok()?.permissions().mode() & 0o777)
    }

    /// Changes the mode of a file.
    pub fn set(path: &Path, mode: u32) -> std::io::Result<()> {
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

#[cfg(not(unix))]
mod rights {
    use std::fs::{DirBuilder, OpenOptions};
    use std::path::Path;

    /// Does nothing.
    pub fn file(_options: &mut OpenOptions, _mode: u32) {}

    /// Does nothing.
    pub fn directory(_builder: &mut DirBuilder, _mode: u32) {}

    /// Returns `None`.
    pub fn of(_path: &Path) -> Option<u32> {
        None
    }

    /// Does nothing.
    #[allow(clippy::unnecessary_wraps, reason = "same signature as on Unix")]
    pub fn set(_path: &Path, _mode: u32) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sets the mode that a new file gets.
pub(crate) fn owned(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    rights::file(options, mode);
    options
}

/// Returns the mode of a file; `None` if it does not exist or the system has no modes.
pub(crate) fn mode(path: &Path) -> Option<u32> {
    rights::of(path)
}

/// Makes the file executable by everyone.
pub(crate) fn make_executable(path: &Path) -> std::io::Result<()> {
    rights::set(path, 0o755)
}

/// Converts the error of a file operation.
pub fn io_failure(action: &str, path: &Path, e: &std::io::Error) -> Failure {
    let kind = match e.kind() {
        std::io::ErrorKind::PermissionDenied => Kind::Permission,
        std::io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Error,
    };
    Failure::new(
        Source::Host,
        kind,
        format!("cannot {action} {}: {e}", path.display()),
    )
}

/// Creates a directory and its parents with mode 0700.
pub fn make_private_dir(path: &Path) -> Result<(), Failure> {
    let _owner = act_for_owner_of(path);
    let mut builder = DirBuilder::new();
    rights::directory(&mut builder, 0o700);
    builder
        .recursive(true)
        .create(path)
        .map_err(|e| io_failure("create", path, &e))
}

/// Adds a line to a private file such as `known_hosts`, which is created if need be. Returns false
/// if the file has that line already.
pub fn add_line(path: &Path, line: &str) -> Result<bool, Failure> {
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(io_failure("read", path, &e)),
    };
    if text.lines().any(|present| present == line) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        make_private_dir(dir)?;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    write_durable(path, text.as_bytes(), mode(path).unwrap_or(0o600))?;
    Ok(true)
}

/// Writes a file atomically with mode 0600.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Failure> {
    replace(path, content, 0o600, false)
}

/// Writes a file atomically and syncs its data to disk.
pub fn write_durable(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    replace(path, content, mode, true)
}

fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> Result<(), Failure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let _owner = act_for_owner_of(path);
    let write = || {
        // A remainder of an interrupted command may have another mode.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = File::options();
        options.create_new(true).write(true);
        let mut file = owned(&mut options, mode).open(&temporary)?;
        file.write_all(content)?;
        if durable {
            file.sync_data()?;
        }
        // Windows does not rename open files.
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io_failure("write", path, &e)
    })
}

/// Removes a directory tree. A missing directory is not an error.
pub fn remove_tree(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", path, &e)),
        _ => Ok(()),
    }
}
