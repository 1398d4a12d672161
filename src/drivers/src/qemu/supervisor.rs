//! The process that keeps one machine running and can serve as the cluster's switch.
//!
//! It starts QEMU, follows its events and restarts it unless the guest shut down. The machine does
//! not depend on it: the next `rkube start` replaces a supervisor that died, and the new one takes
//! over the running machine. Commands kill the supervisor before they change the machine, so the
//! two never interfere.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::machine::{self, Launch};
use super::qmp::{Qmp, QmpMessage};
use super::{layout, switch};
use crate::types::ClusterPlan;

/// The role's name on the command line.
pub const ROLE: &str = rkube_config::roles::VM_SUPERVISE;
/// Timeout for QEMU to open its sockets.
const SOCKETS_TIMEOUT: Duration = Duration::from_secs(30);
/// A machine that ran at least this long before it ended is restarted without delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The maximum delay between two starts.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);
/// Interval of the attempts to resume a machine that a full host disk has paused.
const RESUME_PERIOD: Duration = Duration::from_secs(5);

/// Returns the path of the plan that the command line writes for the supervisors.
pub fn plan_path(cluster: &Path) -> PathBuf {
    cluster.join("vm").join("plan.json")
}

fn lock_path(cluster: &Path, node: &str) -> PathBuf {
    layout::run_dir(cluster, node).join("supervisor.lock")
}

fn read_plan(cluster: &Path) -> anyhow::Result<ClusterPlan> {
    let path = plan_path(cluster);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

fn open_lock(path: &Path) -> anyhow::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn whole_file(kind: libc::c_short) -> libc::flock {
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Returns the process of the node's supervisor, if it has one. Asks the kernel for the holder of
/// the lock, because a pid file could be stale.
pub fn holder(cluster: &Path, node: &str) -> Option<Pid> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(lock_path(cluster, node))
        .ok()?;
    let mut lock = whole_file(libc::F_WRLCK as libc::c_short);
    fcntl(file.as_raw_fd(), FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != libc::F_UNLCK as libc::c_short && lock.l_pid > 0)
        .then(|| Pid::from_raw(lock.l_pid))
}

/// Kills the node's supervisor. The machine keeps running.
pub fn end(cluster: &Path, node: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(pid) = holder(cluster, node) {
        let _ = kill(pid, Signal::SIGKILL);
        if Instant::now() >= deadline {
            bail!("the supervisor of {node} (process {pid}) does not die");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Starts the node's supervisor in a new session, with its output appended to `log`.
pub fn spawn(plan: &ClusterPlan, node: &str, log: &Path) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    // On Linux the nodes' binary also runs here. It stays in place when the command's own program
    // is removed.
    let program = match cfg!(target_os = "linux") {
        true => plan.binary.clone(),
        false => std::env::current_exe().context("cannot find the running rkube")?,
    };
    let mut command = Command::new(&program);
    command
        .arg(ROLE)
        .arg(&plan.run_dir)
        .arg(node)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is async-signal-safe. Ctrl-C at the CLI must not reach it.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))
}

/// Runs `rkube vm-supervise <run dir> <node>`. Returns at once if the node has a supervisor.
pub fn run(cluster: &Path, node: &str) -> anyhow::Result<()> {
    let file = open_lock(&lock_path(cluster, node))?;
    let lock = whole_file(libc::F_WRLCK as libc::c_short);
    if fcntl(file.as_raw_fd(), FcntlArg::F_SETLK(&lock)).is_err() {
        // Another supervisor already runs.
        return Ok(());
    }
    offer_switch(cluster)?;
    let mut failures = 0;
    let mut first = true;
    loop {
        let started = Instant::now();
        let mut child = None;
        let mut qmp = match Qmp::connect(&layout::monitor(cluster, node)) {
            Ok(Some(qmp)) => qmp,
            Ok(None) => match launch(cluster, node, &mut child) {
                Ok(qmp) => qmp,
                // The process that started this one waits for its error.
                Err(e) if first => return Err(e),
                Err(e) => {
                    rkube_fsutil::say!("supervisor: {node}: {e:#}");
                    failures += 1;
                    std::thread::sleep(pause(failures));
                    continue;
                }
            },
            Err(e) => {
                rkube_fsutil::say!("supervisor: {node}: {e:#}; it is started again");
                kill_machine(cluster, node)?;
                continue;
            }
        };
        first = false;
        let reason = follow(&mut qmp, node);
        drop(qmp);
        if let Some(mut child) = child {
            child.wait().context("cannot wait for QEMU")?;
        }
        if reason.as_deref() == Some("guest-shutdown") {
            rkube_fsutil::say!("supervisor: {node} has switched itself off");
            return Ok(());
        }
        rkube_fsutil::say!(
            "supervisor: {node} ended ({}), starting it again",
            reason.as_deref().unwrap_or("killed")
        );
        failures = if started.elapsed() >= HEALTHY_AFTER {
            0
        } else {
            failures + 1
        };
        std::thread::sleep(pause(failures));
    }
}

/// Returns the delay before the start that follows `failures` consecutive failures. The first
/// restart is not delayed.
fn pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1)
            .saturating_mul(1 << (n - 2).min(10))
            .min(MAX_RESTART_DELAY),
    }
}

/// Starts QEMU and connects to it. Returns QEMU's output as the error if it exits.
fn launch(cluster: &Path, node: &str, child: &mut Option<Child>) -> anyhow::Result<Qmp> {
    let path = layout::run_dir(cluster, node).join("launch.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let launch: Launch =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let before = std::fs::metadata(&launch.log).map_or(0, |m| m.len());
    let running = child.insert(machine::spawn(&launch)?);
    let socket = layout::monitor(cluster, node);
    let deadline = Instant::now() + SOCKETS_TIMEOUT;
    loop {
        if let Some(qmp) = Qmp::connect(&socket).ok().flatten() {
            return Ok(qmp);
        }
        if let Some(status) = running.try_wait()? {
            let log = std::fs::read(&launch.log).unwrap_or_default();
            let said = log.get(before as usize..).unwrap_or_default();
            let said = String::from_utf8_lossy(said);
            let last = said.lines().rev().find(|l| !l.trim().is_empty());
            match last {
                Some(line) => bail!("{}", line.trim()),
                None => bail!("QEMU ended without a word ({status})"),
            }
        }
        if Instant::now() >= deadline {
            let _ = running.kill();
            let _ = running.wait();
            bail!("QEMU does not come up; see {}", launch.log.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Follows QEMU's events until the machine ends. Returns the reason for the shutdown, if
/// QEMU reported one.
fn follow(qmp: &mut Qmp, node: &str) -> Option<String> {
    let mut reason = None;
    let mut full = false;
    loop {
        match qmp.next_message(full.then_some(RESUME_PERIOD)) {
            Ok(QmpMessage::Event(name, data)) => match name.as_str() {
                "SHUTDOWN" => {
                    reason = data["reason"].as_str().map(str::to_owned);
                }
                "BLOCK_IO_ERROR" if data["nospace"] == Value::Bool(true) => {
                    if !full {
                        rkube_fsutil::say!(
                            "supervisor: {node} is stopped: the disk of this host is full; \
                             it goes on when there is space"
                        );
                    }
                    full = true;
                }
                "RESUME" => full = false,
                _ => {}
            },
            // QEMU sends no event when the disk has space again.
            Ok(QmpMessage::Timeout) => {
                if let Err(e) = qmp.execute("cont", None) {
                    rkube_fsutil::say!("supervisor: {node}: {e:#}");
                }
                full = false;
            }
            Ok(QmpMessage::End) => return reason,
            Err(e) => {
                rkube_fsutil::say!("supervisor: {node}: {e:#}");
                return reason;
            }
        }
    }
}

/// Kills a machine that does not respond.
pub fn kill_machine(cluster: &Path, node: &str) -> anyhow::Result<()> {
    let socket = layout::control(cluster, node);
    let deadline = Instant::now() + Duration::from_secs(10);
    while super::qmp::is_alive(&socket) {
        for pid in super::processes::of_machine(cluster, node) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if Instant::now() >= deadline {
            bail!("the machine of {node} does not die");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits in a thread for the lock of the cluster's switch, then serves as the switch.
fn offer_switch(cluster: &Path) -> anyhow::Result<()> {
    let file = open_lock(&cluster.join("vm").join("switch.lock"))?;
    let cluster = cluster.to_path_buf();
    std::thread::Builder::new()
        .name("switch".into())
        // Frames are on the heap and the call depth is small.
        .stack_size(256 << 10)
        .spawn(move || {
            let served = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, e)| anyhow::Error::from(e))
                .context("cannot lock the switch")
                .and_then(|lock| {
                    let plan = read_plan(&cluster)?;
                    let result = switch::run(&plan);
                    drop(lock);
                    result
                });
            if let Err(e) = served {
                rkube_fsutil::say!("switch: {e:#}");
                // The lock is released now: another supervisor takes over as the switch. This one
                // does not try again.
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_slow_down() {
        assert_eq!(pause(1), Duration::ZERO);
        assert_eq!(pause(2), Duration::from_secs(1));
        assert_eq!(pause(40), MAX_RESTART_DELAY);
    }

    #[test]
    fn nobody_holds_what_nobody_locked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path(), "n"), None);
        let run = layout::run_dir(dir.path(), "n");
        machine::private_dir(&run).unwrap();
        drop(open_lock(&lock_path(dir.path(), "n")).unwrap());
        assert_eq!(holder(dir.path(), "n"), None);
        end(dir.path(), "n").unwrap();
    }
}
