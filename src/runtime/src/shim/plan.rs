//! The process of a container, and the final steps to execute it.
//!
//! The launcher sets up namespaces, mounts and cgroups. It then calls this code, still as root with
//! all capabilities. Without `no_new_privs`, a seccomp filter must be installed before privileges
//! are dropped. Commands that run in a container later take the same steps as its first process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::beneath::{c_path, check};
use crate::seccomp::{self, Program};

/// A process to execute in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment variables of the form `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; created if missing.
    pub cwd: String,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Bounding, permitted and effective capabilities, as a bit mask.
    pub capabilities: u64,
    /// Whether to set `no_new_privs`, so that set-user-ID bits have no effect.
    pub no_new_privileges: bool,
    /// The seccomp filter, if any.
    pub seccomp: Option<Program>,
}

/// The header of `capset(2)`, version 3.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// Half of the data of `capset(2)`, for 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Device number of /dev/null.
const NULL: libc::dev_t = libc::makedev(1, 3);

impl Plan {
    /// Replaces the current process. Returns only on failure, with a reason worded like that of
    /// other runtimes.
    pub fn become_process(&self) -> String {
        match self.prepare().and_then(|()| self.execute()) {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    /// Sets up the current process: signals, streams, directory, privileges and seccomp filter.
    fn prepare(&self) -> Result<(), String> {
        let step = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
        reset_signals();
        // SAFETY: no memory is involved.
        unsafe { libc::umask(0o022) };
        self.own_stdio();
        self.enter_directory()?;
        if !self.no_new_privileges
            && let Some(program) = &self.seccomp
        {
            seccomp::install(program).map_err(step("cannot install the seccomp filter"))?;
        }
        self.drop_privileges()
            .map_err(step("cannot drop privileges"))?;
        if self.no_new_privileges {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(step("cannot set no_new_privs"))?;
            if let Some(program) = &self.seccomp {
                seccomp::install(program).map_err(step("cannot install the seccomp filter"))?;
            }
        }
        // A working directory outside the root would allow an escape (CVE-2024-21626).
        match std::env::current_dir() {
            Ok(dir) if dir.is_absolute() => Ok(()),
            Ok(dir) => Err(format!(
                "working directory {} is outside of the container",
                dir.display()
            )),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(e) => Err(format!(
                "current working directory is outside of container mount namespace root: {e}"
            )),
        }
    }

    /// Changes the owner of the standard streams, so that an unprivileged user can reopen them.
    fn own_stdio(&self) {
        for fd in 0..3 {
            // SAFETY: stat is plain integers, for which zero is valid.
            let mut stat: libc::stat = unsafe { std::mem::zeroed() };
            // SAFETY: the pointer is valid; a closed descriptor only causes an error.
            if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
                continue;
            }
            let is_null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == NULL;
            if !is_null && stat.st_uid != self.uid {
                // Some kinds of files do not support this; the failure is ignored.
                // SAFETY: no memory is involved.
                let _ = unsafe { libc::fchown(fd, self.uid, libc::gid_t::MAX) };
            }
        }
    }

    /// Changes to the working directory, which is created if missing.
    fn enter_directory(&self) -> Result<(), String> {
        let failed = |e: io::Error| {
            format!(
                "chdir to cwd ({:?}) set in config.json failed: {e}",
                self.cwd
            )
        };
        match std::env::set_current_dir(&self.cwd) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.cwd)
                    .map_err(|e| format!("mkdir {:?}: {e}", self.cwd))?;
                std::env::set_current_dir(&self.cwd).map_err(failed)
            }
            other => other.map_err(failed),
        }
    }

    /// Sets the groups, the user and the capabilities.
    fn drop_privileges(&self) -> io::Result<()> {
        for capability in 0..64 {
            if self.capabilities & 1 << capability != 0 {
                continue;
            }
            match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // The kernel has no capability with this number, nor with a greater one.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
                dropped => dropped?,
            }
        }
        prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        // SAFETY: the pointer and length are the vector's.
        check(unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr()) })?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::setresgid(self.gid, self.gid, self.gid) })?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::setresuid(self.uid, self.uid, self.uid) })?;
        prctl(libc::PR_SET_KEEPCAPS, 0, 0)?;
        let half = |shift: u32| {
            let bits = (self.capabilities >> shift) as u32;
            CapData {
                effective: bits,
                permitted: bits,
                inheritable: 0,
            }
        };
        let header = CapHeader {
            version: CAPABILITY_VERSION_3,
            pid: 0,
        };
        let data = [half(0), half(32)];
        // SAFETY: header and data have the kernel's layout and outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
        )
    }

    /// Executes the program.
    fn execute(&self) -> Result<std::convert::Infallible, String> {
        let strings = |list: &[String]| -> Result<Vec<CString>, String> {
            list.iter()
                .map(|s| {
                    CString::new(s.as_bytes()).map_err(|_| format!("{s:?} contains a NUL byte"))
                })
                .collect()
        };
        let args = strings(&self.args)?;
        let env = strings(&self.env)?;
        let program = self.find_program()?;
        let failed = |e: io::Error| format!("exec {}: {}", program.display(), lower(&e));
        let path = c_path(&program).map_err(failed)?;
        let (args, env) = (pointers(&args), pointers(&env));
        // SAFETY: both arrays end in a null pointer and outlive the call.
        unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        Err(failed(io::Error::last_os_error()))
    }

    /// Returns the program's path, looked up in the `PATH` of the process.
    fn find_program(&self) -> Result<PathBuf, String> {
        let Some(name) = self.args.first() else {
            return Err("no command specified".into());
        };
        if name.contains('/') {
            return match executable(Path::new(name)) {
                Ok(()) => Ok(PathBuf::from(name)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Err(format!("exec: {name:?}: stat {name}: {}", lower(&e)))
                }
                Err(e) => Err(format!("exec: {name:?}: {}", lower(&e))),
            };
        }
        let path = self
            .env
            .iter()
            .rev()
            .find_map(|v| v.strip_prefix("PATH="))
            .unwrap_or("");
        for dir in path.split(':') {
            let dir = if dir.is_empty() { "." } else { dir };
            let candidate = Path::new(dir).join(name);
            if executable(&candidate).is_ok() {
                return Ok(candidate);
            }
        }
        Err(format!(
            "exec: {name:?}: executable file not found in $PATH"
        ))
    }
}

/// Returns an error's text in lower case, as in C and Go programs.
fn lower(error: &io::Error) -> String {
    match error.raw_os_error() {
        // SAFETY: strerror returns a string that stays valid in a single-threaded process.
        Some(code) => unsafe { CStr::from_ptr(libc::strerror(code)) }
            .to_string_lossy()
            .to_lowercase(),
        None => error.to_string(),
    }
}

/// Checks that the effective user may execute a file.
fn executable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the string outlives the call.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, text.as_ptr(), libc::X_OK, libc::AT_EACCESS) })?;
    Ok(())
}

/// Returns pointers to the strings, terminated by a null pointer.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::prctl(option, first, second, 0, 0) })?;
    Ok(())
}

/// Restores default signal handling. Rust ignores SIGPIPE and the shim blocks signals, which a
/// container's process must not inherit.
pub fn reset_signals() {
    // SAFETY: the set is initialized before use; default actions are always valid.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
