//! A supervised role of the binary.

use std::fs::{File, OpenOptions};
use std::os::fd::FromRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rkube_config::paths;

/// Delay before the second restart in a row; the first is immediate.
const INITIAL_DELAY: Duration = Duration::from_millis(250);
/// Maximum delay between restarts.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Uptime after which a service counts as healthy and its restart delay is reset.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Size in bytes above which a log is rotated when the service restarts.
const LOG_LIMIT: u64 = 10 << 20;

/// The text of [`crate::limits::SERVICE_OOM_SCORE`].
const OOM_SCORE: &[u8] = b"-999";
/// That of services that a node can do without for a moment and whose memory grows with what others
/// send them, as for any container.
const NEUTRAL_OOM_SCORE: &[u8] = b"0";

/// One role, such as `agent`, run as `rkube <role>` and restarted when it exits.
pub struct Service {
    role: &'static str,
    /// The file whose presence says that the service is wanted; without one, it always is.
    condition: Option<&'static Path>,
    oom_score: &'static [u8],
    pid: Option<Pid>,
    started: Instant,
    due: Option<Instant>,
    failures: u32,
    port: Option<File>,
}

impl Service {
    /// Creates the service without starting it.
    pub fn new(role: &'static str) -> Self {
        Self {
            role,
            condition: None,
            oom_score: OOM_SCORE,
            port: crate::vm::log_port(role),
            pid: None,
            started: Instant::now(),
            due: None,
            failures: 0,
        }
    }

    /// Creates a service that runs only as long as a file exists. When memory is short, the kernel ends
    /// it like a container.
    pub fn with_condition(role: &'static str, condition: &'static str) -> Self {
        Self {
            condition: Some(Path::new(condition)),
            oom_score: NEUTRAL_OOM_SCORE,
            ..Self::new(role)
        }
    }

    /// Whether the service should run.
    fn is_wanted(&self) -> bool {
        self.condition.is_none_or(Path::exists)
    }

    /// Starts the service for the first time, unless it is not wanted yet.
    pub fn start_if_wanted(&mut self) {
        if self.is_wanted() {
            self.start();
        }
    }

    /// Starts a service that has become wanted and ends one that is no longer.
    pub fn look(&mut self) {
        if self.condition.is_none() {
            return;
        }
        match (self.is_wanted(), self.pid, self.due) {
            (true, None, None) => {
                self.failures = 0;
                self.start();
            }
            (false, _, _) => self.terminate(),
            _ => {}
        }
    }

    /// Returns the process ID, if the service is running.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Returns the time of the next start, if one is scheduled.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts the process. Schedules another attempt if that fails.
    pub fn start(&mut self) {
        self.due = None;
        self.started = Instant::now();
        match self.spawn() {
            Ok(pid) => self.pid = Some(pid),
            Err(e) => {
                rkube_fsutil::say!("init: cannot start {}: {e}", self.role);
                self.schedule();
            }
        }
    }

    /// Records that the process has exited and schedules its restart.
    pub fn ended(&mut self, status: WaitStatus) {
        self.pid = None;
        if !self.is_wanted() {
            rkube_fsutil::say!("init: {} ended, as it is no longer wanted", self.role);
            return;
        }
        rkube_fsutil::say!("init: {} ended ({status:?}), restarting it", self.role);
        if self.started.elapsed() >= HEALTHY_AFTER {
            self.failures = 0;
        }
        self.schedule();
    }

    /// Sends SIGTERM to the process and cancels a scheduled start. [`Service::ended`] schedules
    /// a start again, which the caller must ignore.
    pub fn terminate(&mut self) {
        self.due = None;
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }

    fn schedule(&mut self) {
        self.due = Some(Instant::now() + pause(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    /// Spawns the process with a clean environment and its output in the log.
    fn spawn(&self) -> std::io::Result<Pid> {
        let log = self.log()?;
        let mut command = Command::new(paths::BINARY);
        command
            .arg(self.role)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for name in ["RKUBE_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let oom_score = self.oom_score;
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // Signals are blocked in init and the mask is inherited.
                SigSet::empty().thread_set_mask()?;
                nix::unistd::setsid()?;
                // A node that may not lower it runs without.
                let _ = set_own_oom_score(oom_score);
                Ok(())
            });
        }
        let child = command.spawn()?;
        // Reaped by init's main loop, not through `Child`.
        Ok(Pid::from_raw(child.id() as i32))
    }

    /// Opens the log: the machine's log port if there is one, else a file, which is rotated.
    fn log(&self) -> std::io::Result<File> {
        if let Some(port) = &self.port {
            return port.try_clone();
        }
        let path = format!("{}/{}.log", paths::LOGS, self.role);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_LIMIT) {
            std::fs::rename(&path, format!("{path}.1"))?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
    }
}

/// Sets the calling process's score. May be called between fork and exec.
fn set_own_oom_score(score: &[u8]) -> nix::Result<()> {
    let file = nix::fcntl::open(
        c"/proc/self/oom_score_adj",
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    let file = unsafe { std::os::fd::OwnedFd::from_raw_fd(file) };
    nix::unistd::write(&file, score).map(drop)
}

/// Returns the delay before a restart after `failures` earlier ones in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => INITIAL_DELAY
            .saturating_mul(1 << (n - 1).min(16))
            .min(MAX_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_their_own_score() {
        let expected = crate::limits::SERVICE_OOM_SCORE.to_string();
        assert_eq!(OOM_SCORE, expected.as_bytes());
        assert_eq!(Service::new("none").oom_score, OOM_SCORE);
        let optional = Service::with_condition("none", "/nonexistent/file");
        assert_eq!(optional.oom_score, b"0");
        let mut command = Command::new("cat");
        command.arg("/proc/self/oom_score_adj");
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            // Only privileged processes may lower it.
            command.pre_exec(|| Ok(set_own_oom_score(b"700")?));
        }
        assert_eq!(command.output().unwrap().stdout, b"700\n");
    }

    #[test]
    fn a_conditional_service_is_wanted_as_long_as_its_file_exists() {
        let mut service = Service::with_condition("none", "/nonexistent/file");
        service.look();
        assert_eq!((service.pid(), service.due()), (None, None));
        // Not started again.
        service.ended(WaitStatus::Exited(Pid::from_raw(1), 0));
        assert_eq!(service.due(), None);
        service.condition = Some(Path::new("/"));
        service.ended(WaitStatus::Exited(Pid::from_raw(1), 0));
        assert!(service.due().is_some());
    }

    #[test]
    fn first_restart_is_immediate_and_pauses_grow_to_a_limit() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), INITIAL_DELAY);
        assert_eq!(pause(2), INITIAL_DELAY * 2);
        assert_eq!(pause(40), MAX_DELAY);
    }
}
