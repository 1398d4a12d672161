//! Limits of the node's own processes. The process that starts a node should not decide them.

use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The score of PID 1, with which the kernel never kills it when memory is short: the whole node
/// would end.
pub const INIT_OOM_SCORE: i32 = -1000;
/// The score of the services that make a node, that of upstream's kubelet. Every container has a higher
/// one, so the kernel kills those first.
pub const SERVICE_OOM_SCORE: i32 = -999;

/// Sets the preference with which the kernel kills this process when memory is short, from -1000
/// (never) to 1000. Its children inherit it.
pub fn set_oom_score(score: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Raises the number of files that this process may open to what is allowed, as Go does in
/// upstream's components. Its children inherit it.
pub fn raise_open_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Sets the limits of PID 1. A node that may not is run without them.
pub(crate) fn protect_init() {
    if let Err(e) = set_oom_score(INIT_OOM_SCORE) {
        rkube_fsutil::say!("init: cannot be protected from a lack of memory: {e}");
    }
    if let Err(e) = raise_open_files() {
        rkube_fsutil::say!("init: cannot raise the number of open files: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_open_files_is_raised() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
        raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }

    #[test]
    fn children_inherit_the_score() {
        // Only privileged processes may lower it.
        set_oom_score(500).unwrap();
        let child = std::process::Command::new("cat")
            .arg("/proc/self/oom_score_adj")
            .output()
            .unwrap();
        assert_eq!(child.stdout, b"500\n");
    }
}
