//! SSH to a node: the server that a node runs, and the client of `rkube ssh`.
//!
//! The server accepts public keys only, and runs shells and commands as root in the node's
//! namespaces. The client provides an interactive shell, commands with separate streams, and
//! port forwarding. The tests use both this client and OpenSSH's programs.

pub mod client;
pub mod keys;
#[cfg(unix)]
mod modes;
// Only nodes run the server, and nodes are Linux.
#[cfg(target_os = "linux")]
mod logins;
#[cfg(target_os = "linux")]
mod pty;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod session;
#[cfg_attr(unix, path = "terminal/unix.rs")]
#[cfg_attr(windows, path = "terminal/windows.rs")]
mod terminal;
#[cfg(target_os = "linux")]
mod words;

#[cfg(target_os = "linux")]
pub use server::{Server, SshConfig, serve};

/// An error of an SSH server, client or key.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// An I/O error of a file or socket.
    #[error("{what}: {source}")]
    Io {
        /// The attempted operation, as in `reading /a`.
        what: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A key is invalid, or cannot be created.
    #[error("{what}: {reason}")]
    Key {
        /// The key or the attempted operation.
        what: String,
        /// The reason.
        reason: String,
    },
    /// The server's host key is not the expected one.
    #[error("the host key of {0} is not the one this cluster was made with")]
    HostKey(String),
    /// The server rejected the client's key.
    #[error("{0} refused the key")]
    Refused(String),
    /// The connection was closed, or a protocol error occurred.
    #[error("ssh: {0}")]
    Protocol(#[from] russh::Error),
}

impl SshError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Linux signal numbers, independent of the client's platform.
mod number {
    pub const SIGHUP: i32 = 1;
    pub const SIGINT: i32 = 2;
    pub const SIGQUIT: i32 = 3;
    pub const SIGILL: i32 = 4;
    pub const SIGTRAP: i32 = 5;
    pub const SIGABRT: i32 = 6;
    pub const SIGBUS: i32 = 7;
    pub const SIGFPE: i32 = 8;
    pub const SIGKILL: i32 = 9;
    pub const SIGUSR1: i32 = 10;
    pub const SIGSEGV: i32 = 11;
    pub const SIGUSR2: i32 = 12;
    pub const SIGPIPE: i32 = 13;
    pub const SIGALRM: i32 = 14;
    pub const SIGTERM: i32 = 15;
    pub const SIGCONT: i32 = 18;
    pub const SIGSTOP: i32 = 19;
    pub const SIGTSTP: i32 = 20;
    pub const SIGWINCH: i32 = 28;
    pub const SIGSYS: i32 = 31;
}

/// Returns the Linux number of an SSH signal name (RFC 4254 section 6.10, and a few more).
pub(crate) fn signal_number(signal: &russh::Sig) -> Option<i32> {
    use russh::Sig;
    Some(match signal {
        Sig::ABRT => number::SIGABRT,
        Sig::ALRM => number::SIGALRM,
        Sig::FPE => number::SIGFPE,
        Sig::HUP => number::SIGHUP,
        Sig::ILL => number::SIGILL,
        Sig::INT => number::SIGINT,
        Sig::KILL => number::SIGKILL,
        Sig::PIPE => number::SIGPIPE,
        Sig::QUIT => number::SIGQUIT,
        Sig::SEGV => number::SIGSEGV,
        Sig::TERM => number::SIGTERM,
        Sig::USR1 => number::SIGUSR1,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => number::SIGUSR2,
            "CONT" => number::SIGCONT,
            "STOP" => number::SIGSTOP,
            "TSTP" => number::SIGTSTP,
            "WINCH" => number::SIGWINCH,
            "BUS" => number::SIGBUS,
            "SYS" => number::SIGSYS,
            "TRAP" => number::SIGTRAP,
            _ => return None,
        },
    })
}

/// Returns the SSH name of a Linux signal; `SIGn@rkube` for signals without a standard name.
#[cfg(target_os = "linux")]
pub(crate) fn signal_name(number: i32) -> russh::Sig {
    use russh::Sig;
    match number {
        number::SIGABRT => Sig::ABRT,
        number::SIGALRM => Sig::ALRM,
        number::SIGFPE => Sig::FPE,
        number::SIGHUP => Sig::HUP,
        number::SIGILL => Sig::ILL,
        number::SIGINT => Sig::INT,
        number::SIGKILL => Sig::KILL,
        number::SIGPIPE => Sig::PIPE,
        number::SIGQUIT => Sig::QUIT,
        number::SIGSEGV => Sig::SEGV,
        number::SIGTERM => Sig::TERM,
        number::SIGUSR1 => Sig::USR1,
        number::SIGUSR2 => Sig::Custom("USR2".into()),
        number::SIGBUS => Sig::Custom("BUS".into()),
        number::SIGSYS => Sig::Custom("SYS".into()),
        number::SIGTRAP => Sig::Custom("TRAP".into()),
        n => Sig::Custom(format!("SIG{n}@rkube")),
    }
}

// The tests need the server.
#[cfg(all(test, target_os = "linux"))]
mod tests;
