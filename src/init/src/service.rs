//! A supervised role of the binary.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rkube_config::paths;

/// Pause before the second restart in a row; the first is immediate.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between restarts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A service that lived this long has recovered; its pauses start over.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// A log is moved aside at a restart once it is this big, in bytes.
const LOG_LIMIT: u64 = 10 << 20;

/// One role, e.g. `agent`, run as `rkube <role>` and restarted when it ends.
pub struct Service {
    role: &'static str,
    pid: Option<Pid>,
    started: Instant,
    due: Option<Instant>,
    failures: u32,
    port: Option<File>,
}

impl Service {
    pub fn new(role: &'static str) -> Self {
        Self {
            role,
            port: crate::vm::log_port(role),
            pid: None,
            started: Instant::now(),
            due: None,
            failures: 0,
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Time of the next start, while the service waits for it.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn start(&mut self) {
        self.due = None;
        self.started = Instant::now();
        match self.spawn() {
            Ok(pid) => self.pid = Some(pid),
            Err(e) => {
                eprintln!("init: cannot start {}: {e}", self.role);
                self.schedule();
            }
        }
    }

    /// Takes note that the process ended; it will be started again.
    pub fn ended(&mut self, status: WaitStatus) {
        self.pid = None;
        eprintln!("init: {} ended ({status:?}), restarting it", self.role);
        if self.started.elapsed() >= HEALTHY_AFTER {
            self.failures = 0;
        }
        self.schedule();
    }

    /// Asks the process to end; it is not started again.
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
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Init's signals are blocked; a service wants them.
                SigSet::empty().thread_set_mask()?;
                nix::unistd::setsid()?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        // Reaped by the loop of init, not through `Child`.
        Ok(Pid::from_raw(child.id() as i32))
    }

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

/// The pause before a restart after `failures` earlier ones in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => FIRST_PAUSE
            .saturating_mul(1 << (n - 1).min(16))
            .min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_restart_is_immediate_and_pauses_grow_to_a_limit() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(40), LONGEST_PAUSE);
    }
}
