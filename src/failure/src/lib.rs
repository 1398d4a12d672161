//! Errors that are reported to the user.
//!
//! Exit codes follow minikube's scheme, so that scripts can be reused. The tens digit
//! identifies the component that failed, the ones digit the kind of problem.

use std::fmt;
use std::sync::OnceLock;

/// The profile of a machine whose user has chosen no other one.
pub const DEFAULT_PROFILE: &str = "rkube";

/// The profile that commands of this process's user act on without `-p`.
static CURRENT_PROFILE: OnceLock<String> = OnceLock::new();

/// Sets the profile that commands act on without `-p`, for [`command`]. Only the first call has an
/// effect.
pub fn set_current_profile(name: &str) {
    // A second call comes from a test, and the first one decides.
    let _ = CURRENT_PROFILE.set(name.to_owned());
}

/// Returns the command line `rkube WORDS` for one profile, to be shown as advice. It has
/// `-p PROFILE` unless the user's commands act on that profile anyway.
pub fn command(words: &str, profile: &str) -> String {
    let current = CURRENT_PROFILE.get().map_or(DEFAULT_PROFILE, |p| p);
    if profile == current {
        return format!("rkube {words}");
    }
    match words.split_once(" -- ") {
        // Words after the dashes do not belong to rkube.
        Some((own, rest)) => format!("rkube {own} -p {profile} -- {rest}"),
        None => format!("rkube {words} -p {profile}"),
    }
}

/// The component that failed: the tens of the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// rkube itself: flags, profiles, files (10).
    Program = 10,
    /// Memory, disk, permissions (20).
    Resource = 20,
    /// The host (30).
    Host = 30,
    /// A server on the internet, such as a registry (40).
    Internet = 40,
    /// The driver that creates nodes (50).
    Driver = 50,
    /// The software that the driver uses: a container engine or a hypervisor (60).
    Provider = 60,
    /// Networking on the host (70).
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

/// The kind of problem: the ones of the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No other kind fits.
    Error = 0,
    /// The request conflicts with existing state.
    Conflict = 1,
    /// The operation timed out.
    Timeout = 2,
    /// The component is not running.
    NotRunning = 3,
    /// The command line is invalid.
    Usage = 4,
    /// The object does not exist.
    NotFound = 5,
    /// The operation is not supported.
    Unsupported = 6,
    /// Permission is denied.
    Permission = 7,
    /// The configuration is invalid.
    Config = 8,
    /// The component does not respond.
    Unavailable = 9,
}

impl Kind {
    /// Returns the kind that the ones digit of an rkube exit code encodes.
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

/// An error for the user: what failed, why, and what to do next.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The component that failed.
    pub source: Source,
    /// The kind of problem.
    pub kind: Kind,
    /// The failure and its reason: one sentence without a full stop.
    pub message: String,
    /// The next step for the user.
    pub advice: Option<String>,
}

/// The exit code of a command that was interrupted with Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 2;

/// The message of [`Failure::interruption`].
const INTERRUPTED: &str = "interrupted";

impl Failure {
    /// Creates a failure without advice.
    pub fn new(source: Source, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            source,
            kind,
            message: message.into(),
            advice: None,
        }
    }

    /// Returns the marker for Ctrl-C: the process exits with [`EXIT_INTERRUPTED`].
    pub fn interruption() -> Self {
        Self::new(Source::Program, Kind::Error, INTERRUPTED)
    }

    /// Returns whether this is [`Failure::interruption`].
    pub fn is_interruption(&self) -> bool {
        self.source == Source::Program && self.kind == Kind::Error && self.message == INTERRUPTED
    }

    /// Sets the advice.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Prefixes the message with the operation that failed.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Returns the process's exit code.
    pub fn exit_code(&self) -> u8 {
        self.source as u8 + self.kind as u8
    }

    /// Returns the name of the exit code for JSON output, such as `PROGRAM_USAGE`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_profile() {
        assert_eq!(command("stop", "a"), "rkube stop -p a");
        assert_eq!(command("stop", DEFAULT_PROFILE), "rkube stop");
        assert_eq!(command("ssh -- ls -l", "a"), "rkube ssh -p a -- ls -l");
    }

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
