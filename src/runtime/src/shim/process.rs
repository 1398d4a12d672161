//! Conversion of a command's description and of a process's exit status.

use std::fs::File;
use std::io::{self, Write};

use super::frame::Exit;
use super::log::now;
use super::plan::Plan;

/// Converts the wait status of a child, which has just exited.
pub(super) fn exit_of(status: i32) -> Exit {
    let at = i64::try_from(now()).unwrap_or(0);
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        Exit {
            code: 128 + signal,
            signal: Some(signal),
            oom: false,
            at,
        }
    } else {
        Exit {
            code: libc::WEXITSTATUS(status),
            signal: None,
            oom: false,
            at,
        }
    }
}

/// Writes the OCI description of a command to a memory file.
pub(super) fn process_file(plan: &Plan, tty: bool, oom_score_adj: Option<i32>) -> io::Result<File> {
    let mut process = serde_json::json!({
        "terminal": tty,
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "args": plan.args,
        "env": plan.env,
    });
    if let Some(adjustment) = oom_score_adj {
        process["oomScoreAdj"] = adjustment.into();
    }
    // SAFETY: the name is a string constant.
    let fd = crate::beneath::check(unsafe {
        libc::memfd_create(c"process".as_ptr(), libc::MFD_CLOEXEC)
    })?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    let mut file: File = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    file.write_all(process.to_string().as_bytes())?;
    Ok(file)
}
