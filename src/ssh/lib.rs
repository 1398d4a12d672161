//! SSH into a node: the server that a node runs, and the client that the CLI uses.
//!
//! The server takes public keys only and runs what it is asked for as root, in
//! the node's own namespaces. The client is as much of `ssh` as `rkube ssh`
//! needs: an interactive shell, a command with separate streams, and a forwarded
//! port. Both are checked against OpenSSH's programs.

pub mod client;
pub mod keys;
mod pty;
mod server;
mod session;
mod words;

pub use server::{Server, SshConfig, serve};

/// Why an SSH server, client or key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A file or socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A key file is not a key, or cannot be made.
    #[error("{what}: {reason}")]
    Key {
        /// The key and what was wanted of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server showed another host key than the expected one.
    #[error("the host key of {0} is not the one this cluster was made with")]
    HostKey(String),
    /// The server did not take the key.
    #[error("{0} refused the key")]
    Refused(String),
    /// The connection broke or the protocol was violated.
    #[error("ssh: {0}")]
    Protocol(#[from] russh::Error),
}

impl SshError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The number of an SSH signal name on Linux, the names of RFC 4254 section 6.10 and a few more.
pub(crate) fn signal_number(signal: &russh::Sig) -> Option<i32> {
    use russh::Sig;
    Some(match signal {
        Sig::ABRT => libc::SIGABRT,
        Sig::ALRM => libc::SIGALRM,
        Sig::FPE => libc::SIGFPE,
        Sig::HUP => libc::SIGHUP,
        Sig::ILL => libc::SIGILL,
        Sig::INT => libc::SIGINT,
        Sig::KILL => libc::SIGKILL,
        Sig::PIPE => libc::SIGPIPE,
        Sig::QUIT => libc::SIGQUIT,
        Sig::SEGV => libc::SIGSEGV,
        Sig::TERM => libc::SIGTERM,
        Sig::USR1 => libc::SIGUSR1,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => libc::SIGUSR2,
            "CONT" => libc::SIGCONT,
            "STOP" => libc::SIGSTOP,
            "TSTP" => libc::SIGTSTP,
            "WINCH" => libc::SIGWINCH,
            "BUS" => libc::SIGBUS,
            "SYS" => libc::SIGSYS,
            "TRAP" => libc::SIGTRAP,
            _ => return None,
        },
    })
}

/// The SSH name of a Linux signal; signals without a standard name get `SIGn@rkube`-like names.
pub(crate) fn signal_name(number: i32) -> russh::Sig {
    use russh::Sig;
    match number {
        libc::SIGABRT => Sig::ABRT,
        libc::SIGALRM => Sig::ALRM,
        libc::SIGFPE => Sig::FPE,
        libc::SIGHUP => Sig::HUP,
        libc::SIGILL => Sig::ILL,
        libc::SIGINT => Sig::INT,
        libc::SIGKILL => Sig::KILL,
        libc::SIGPIPE => Sig::PIPE,
        libc::SIGQUIT => Sig::QUIT,
        libc::SIGSEGV => Sig::SEGV,
        libc::SIGTERM => Sig::TERM,
        libc::SIGUSR1 => Sig::USR1,
        libc::SIGUSR2 => Sig::Custom("USR2".into()),
        libc::SIGBUS => Sig::Custom("BUS".into()),
        libc::SIGSYS => Sig::Custom("SYS".into()),
        libc::SIGTRAP => Sig::Custom("TRAP".into()),
        n => Sig::Custom(format!("SIG{n}@rkube")),
    }
}

#[cfg(test)]
mod tests;
