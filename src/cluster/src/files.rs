//! Where rkube keeps its files, and writing them safely.

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
    /// Finds the folder; makes nothing.
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
                        "the home folder is not known",
                    )
                    .advise("set HOME or RKUBE_HOME")
                })?
                .join(".rkube"),
        };
        Ok(Self { root })
    }

    /// A home at a place of the caller's.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of all profiles.
    pub fn profiles_dir(&self) -> PathBuf {
        self.root.join("profiles")
    }

    /// The folder of one profile.
    pub fn profile_dir(&self, name: &str) -> PathBuf {
        self.profiles_dir().join(name)
    }

    /// The folder of the user's own addons.
    pub fn addons_dir(&self) -> PathBuf {
        self.root.join("addons")
    }

    /// Sockets and pid files of one profile; lost at reboot.
    pub fn run_dir(&self, name: &str) -> PathBuf {
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::MetadataExt as _;
            let of_root = Path::new("/run/rkube").join(name);
            let user = nix::unistd::geteuid();
            // A cluster of this user's that was started with sudo.
            let shared = rkube_drivers::native::control_socket(&of_root)
                .metadata()
                .is_ok_and(|socket| socket.uid() == user.as_raw());
            if user.is_root() || shared {
                return of_root;
            }
        }
        // Drivers that need no root need a place that none has to make.
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("rkube").join(name),
            _ => self.root.join("run").join(name),
        }
    }

    /// Names of all profiles on disk, sorted.
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

    /// Removes the home's own folders when the last profile has gone.
    pub fn tidy(&self) {
        // Not empty is the normal case, and then they stay.
        let _ = fs::remove_dir(self.profiles_dir());
        let _ = fs::remove_dir(self.root.join("run"));
        let _ = fs::remove_dir(&self.root);
    }

    /// Keeps two commands from changing one profile at once.
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
            .advise("wait until it has ended"),
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

    /// Removes the lock's file; the caller still holds the lock.
    pub fn forget_lock(&self, name: &str) {
        let _ = fs::remove_file(self.profiles_dir().join(format!(".{name}.lock")));
    }
}

/// Returns the home directory of the user for whom this process runs.
pub(crate) fn home_dir() -> Option<PathBuf> {
    match sudo_user() {
        Some(user) => Some(user.home.clone()),
        None => dirs::home_dir(),
    }
}

/// A file that only this process has, until dropped.
pub struct Lock(File);

impl Lock {
    /// Locks the file unless somebody else has.
    pub(crate) fn take(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do while a child that has not become another
        // program yet holds a copy. Without a lock there is nothing to take back.
        let _ = self.0.unlock();
    }
}

/// Makes the files and folders of these options their owner's, with these rights.
/// On Windows they inherit the rights of the folder that they are in: what is in a
/// user's profile is that user's.
#[cfg(unix)]
mod rights {
    use std::fs::{DirBuilder, OpenOptions, Permissions};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    pub fn file(options: &mut OpenOptions, mode: u32) {
        options.mode(mode);
    }

    pub fn folder(builder: &mut DirBuilder, mode: u32) {
        builder.mode(mode);
    }

    pub fn of(path: &Path) -> Option<u32> {
        Some(path.metadata().ok()?.permissions().mode() & 0o777)
    }

    pub fn set(path: &Path, mode: u32) -> std::io::Result<()> {
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

#[cfg(not(unix))]
mod rights {
    use std::fs::{DirBuilder, OpenOptions};
    use std::path::Path;

    pub fn file(_options: &mut OpenOptions, _mode: u32) {}

    pub fn folder(_builder: &mut DirBuilder, _mode: u32) {}

    pub fn of(_path: &Path) -> Option<u32> {
        None
    }

    #[allow(clippy::unnecessary_wraps)] // As where there are such rights.
    pub fn set(_path: &Path, _mode: u32) -> std::io::Result<()> {
        Ok(())
    }
}

/// Options for a file that gets these rights when it is made.
pub(crate) fn owned(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    rights::file(options, mode);
    options
}

/// The rights of a file; `None` where it is not there, or the system has no such.
pub(crate) fn mode(path: &Path) -> Option<u32> {
    rights::of(path)
}

/// Makes the file a program that everyone may run.
pub(crate) fn make_executable(path: &Path) -> std::io::Result<()> {
    rights::set(path, 0o755)
}

/// A failed file operation, in words.
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

/// Makes a folder, and those above it, for the owner only.
pub fn make_private_dir(path: &Path) -> Result<(), Failure> {
    let _owner = act_for_owner_of(path);
    let mut builder = DirBuilder::new();
    rights::folder(&mut builder, 0o700);
    builder
        .recursive(true)
        .create(path)
        .map_err(|e| io_failure("make", path, &e))
}

/// Writes a file so that a reader sees the old or the new content, never half.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Failure> {
    replace(path, content, 0o600, false)
}

/// As [`write_private`], and on disk before it returns: a power cut loses nothing.
pub fn write_durable(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    replace(path, content, mode, true)
}

fn replace(path: &Path, content: &[u8], mode: u32, durable: bool) -> Result<(), Failure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let _owner = act_for_owner_of(path);
    let write = || {
        let mut options = File::options();
        options.create(true).write(true).truncate(true);
        let mut file = owned(&mut options, mode).open(&temporary)?;
        file.write_all(content)?;
        if durable {
            file.sync_data()?;
        }
        // An open file may not be renamed everywhere.
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io_failure("write", path, &e)
    })
}

/// Removes a folder with all it holds; nothing there is fine.
pub fn remove_tree(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", path, &e)),
        _ => Ok(()),
    }
}
