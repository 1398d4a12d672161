//! Errors for the person at the keyboard.
//!
//! Exit codes follow minikube's scheme, so that scripts carry over: the tens
//! say where the problem lies, the ones say of which kind it is.

use std::fmt;

/// Where a problem lies; the tens of the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// rkube itself: flags, profiles, files (10).
    Program = 10,
    /// Memory, disk, rights (20).
    Resource = 20,
    /// The machine (30).
    Host = 30,
    /// Something on the internet, a registry for example (40).
    Internet = 40,
    /// The driver that makes nodes (50).
    Driver = 50,
    /// What the driver relies on: an engine, a hypervisor (60).
    Provider = 60,
    /// Networking on this machine (70).
    LocalNetwork = 70,
    /// A node (80).
    Guest = 80,
    /// The container runtime (90).
    Runtime = 90,
    /// The Kubernetes control plane (100).
    ControlPlane = 100,
    /// A Kubernetes service (110).
    Service = 110,
}

/// What kind of problem it is; the ones of the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No other kind fits.
    Error = 0,
    /// Existing data is in the way.
    Conflict = 1,
    /// It took too long.
    Timeout = 2,
    /// It is not running.
    NotRunning = 3,
    /// The command line is wrong.
    Usage = 4,
    /// It does not exist.
    NotFound = 5,
    /// It is not supported.
    Unsupported = 6,
    /// Rights are missing.
    Permission = 7,
    /// A configuration is wrong.
    Config = 8,
    /// It does not answer.
    Unavailable = 9,
}

impl Kind {
    /// The kind that an exit code's ones say, as another rkube ended with it.
    pub fn of_exit_code(code: i32) -> Self {
        match code.rem_euclid(10) {
            1 => Self::Conflict,
            2 => Self::Timeout,
            3 => Self::NotRunning,
            4 => Self::Usage,
            5 => Self::NotFound,
            6 => Self::Unsupported,
            7 => Self::Permission,
            8 => Self::Config,
            9 => Self::Unavailable,
            _ => Self::Error,
        }
    }
}

/// What failed, why, and what to do next.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where the problem lies.
    pub source: Source,
    /// What kind it is.
    pub kind: Kind,
    /// What failed and why, one sentence without a full stop.
    pub message: String,
    /// What to do next, if there is something.
    pub advice: Option<String>,
}

/// Exit code of a command ended by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 2;

/// The message of [`Failure::interruption`].
const INTERRUPTED: &str = "interrupted";

impl Failure {
    /// A failure without advice.
    pub fn new(source: Source, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            source,
            kind,
            message: message.into(),
            advice: None,
        }
    }

    /// Not a failure, but Ctrl-C: the process ends with [`EXIT_INTERRUPTED`].
    pub fn interruption() -> Self {
        Self::new(Source::Program, Kind::Error, INTERRUPTED)
    }

    /// Whether this is [`Failure::interruption`].
    pub fn is_interruption(&self) -> bool {
        self.source == Source::Program && self.kind == Kind::Error && self.message == INTERRUPTED
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Puts what was being done before the message.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        self.source as u8 + self.kind as u8
    }

    /// The name of the exit code, for JSON output: `PROGRAM_USAGE` and the like.
    pub fn name(&self) -> String {
        let upper = |text: String| {
            let mut out = String::new();
            for c in text.chars() {
                if c.is_uppercase() && !out.is_empty() {
                    out.push('_');
                }
                out.push(c.to_ascii_uppercase());
            }
            out
        };
        format!(
            "{}_{}",
            upper(format!("{:?}", self.source)),
            upper(format!("{:?}", self.kind))
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<super::ConfigError> for Failure {
    fn from(e: super::ConfigError) -> Self {
        Self::new(Source::Program, Kind::Config, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_minikubes_scheme() {
        assert_eq!(
            Failure::new(Source::Program, Kind::Usage, "").exit_code(),
            14
        );
        assert_eq!(
            Failure::new(Source::ControlPlane, Kind::Timeout, "").exit_code(),
            102
        );
        assert_eq!(
            Failure::new(Source::LocalNetwork, Kind::NotRunning, "").name(),
            "LOCAL_NETWORK_NOT_RUNNING"
        );
    }
}
