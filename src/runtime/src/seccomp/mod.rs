//! Seccomp profiles: the default profile, profiles in the JSON format of Docker or OCI, and their
//! compilation to classic BPF.
//!
//! Profiles are compiled when a container is created, so that an invalid one is reported then. The
//! program is installed in the container's process right before it executes its command, and
//! likewise in commands that run in the container later.

mod compile;
mod profile;
mod syscalls;

pub use compile::Program;
pub use profile::Profile;

use std::io;
use std::path::Path;

use crate::error::{Context, Result, RuntimeError};
use crate::spec::SeccompProfile;

/// Compiles the profile of a container. Returns `None` for `Unconfined`. `capabilities` (with the
/// prefix `CAP_`) select the system calls that the default profile allows in addition.
pub fn program(wanted: &SeccompProfile, capabilities: &[String]) -> Result<Option<Program>> {
    let profile = match wanted {
        SeccompProfile::Unconfined => return Ok(None),
        SeccompProfile::RuntimeDefault => Profile::runtime_default(capabilities),
        SeccompProfile::Localhost(path) => read(path, capabilities)?,
    };
    profile.compile().map(Some).map_err(RuntimeError::Invalid)
}

/// Reads a profile from a file.
fn read(path: &Path, capabilities: &[String]) -> Result<Profile> {
    let text = std::fs::read(path)
        .context(|| format!("cannot load seccomp profile {}", path.display()))?;
    Profile::parse(&text, capabilities).map_err(|e| {
        RuntimeError::Invalid(format!(
            "cannot load seccomp profile {}: {e}",
            path.display()
        ))
    })
}

/// Installs a program in the current process. Requires `CAP_SYS_ADMIN` or `no_new_privs`.
pub fn install(program: &Program) -> io::Result<()> {
    let fprog = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const fprog,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
