//! The process that keeps a cluster's nodes running.
//!
//! Two supervisors run in the cluster's network namespace. The primary serves the
//! control socket and restarts nodes. The standby watches the primary and takes over
//! when it dies; the primary replaces a standby that died. Nodes keep running while
//! no supervisor does.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::cgroup;
use super::control::{self, Request, Response};
use super::folders;
use super::network;
use super::sandbox::{self, PendingInit};
use super::state::{ProcessId, State};
use super::types::SandboxSpec;
use crate::types::{ClusterPlan, NodePlan};
use rkube_cgroups::{Hierarchy, Limits};
use rkube_fsutil::write_atomic_private;

/// Timeout of a node's shutdown, after which it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for killed processes and their groups to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that ran at least this long before it died is restarted without delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// The maximum delay between two restarts of a node.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(30);

/// A running node: its init process.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    since: Instant,
}

/// A node that died and will be restarted.
struct Pending {
    due: Instant,
    failures: u32,
}

struct Supervisor {
    run_dir: PathBuf,
    host_netns: OwnedFd,
    hierarchies: Vec<Hierarchy>,
    state: State,
    running: BTreeMap<String, Running>,
    pending: BTreeMap<String, Pending>,
    failures: BTreeMap<String, u32>,
    standby: Option<(Pid, OwnedFd)>,
    // Held while this process is the primary.
    _lock: Flock<File>,
}

/// Reads the plan that the CLI wrote for the supervisor.
pub fn read_plan(run_dir: &Path) -> anyhow::Result<ClusterPlan> {
    let path = run_dir.join("plan.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// `rkube supervise <run dir>`: the first supervisor of a cluster.
pub fn primary(run_dir: &Path) -> anyhow::Result<()> {
    let host_netns = rkube_network::netlink::current_netns()?;
    let lock = lock(run_dir)?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot create the cluster's network namespace")?;
    let plan = read_plan(run_dir)?;
    network::up(&plan, host_netns.as_fd())?;
    Supervisor::new(run_dir, host_netns, lock, State::default())?.run()
}

/// `rkube standby <run dir> <primary> <netns fd>`: waits for the primary to die.
pub fn standby(run_dir: &Path, primary: Pid, host_netns: OwnedFd) -> anyhow::Result<()> {
    if let Ok(pidfd) = sandbox::pidfd(primary) {
        wait_readable(&[pidfd.as_fd()], None)?;
    }
    // A primary that shut down has removed the state.
    if !run_dir.join("state.json").exists() {
        return Ok(());
    }
    rkube_fsutil::say!("supervisor: {primary} died, taking over");
    let lock = lock(run_dir)?;
    let state = State::load(run_dir)?;
    Supervisor::new(run_dir, host_netns, lock, state)?.run()
}

fn lock(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = run_dir.join("supervisor.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .with_context(|| format!("cannot lock {}", path.display()))
}

/// Waits for any of `fds` and returns which are ready.
fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> anyhow::Result<Vec<bool>> {
    let mut polled: Vec<PollFd> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let timeout = match timeout {
        Some(left) => {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(e).context("cannot wait"),
    }
    Ok(polled
        .iter()
        .map(|p| p.revents().is_some_and(|r| !r.is_empty()))
        .collect())
}

impl Supervisor {
    fn new(
        run_dir: &Path,
        host_netns: OwnedFd,
        lock: Flock<File>,
        state: State,
    ) -> anyhow::Result<Self> {
        // SAFETY: no handler is installed, the kernel reaps and ignores.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.context("cannot ignore SIGPIPE")?;
        let mut supervisor = Self {
            run_dir: run_dir.to_path_buf(),
            host_netns,
            hierarchies: rkube_cgroups::hierarchies()?,
            state,
            running: BTreeMap::new(),
            pending: BTreeMap::new(),
            failures: BTreeMap::new(),
            standby: None,
            _lock: lock,
        };
        supervisor.adopt();
        Ok(supervisor)
    }

    /// Takes over the nodes of a supervisor that died.
    fn adopt(&mut self) {
        self.state.primary = ProcessId::of(Pid::this());
        self.state.standby = None;
        for (name, process) in &self.state.nodes {
            let alive = process.filter(ProcessId::alive);
            match alive.and_then(|p| Some((p.pid(), sandbox::pidfd(p.pid()).ok()?))) {
                Some((pid, pidfd)) => {
                    let running = Running {
                        pid,
                        pidfd,
                        since: Instant::now(),
                    };
                    self.running.insert(name.clone(), running);
                }
                None => {
                    self.pending.insert(
                        name.clone(),
                        Pending {
                            due: Instant::now(),
                            failures: 0,
                        },
                    );
                }
            }
        }
    }

    fn run(mut self) -> anyhow::Result<()> {
        let path = control::socket_path(&self.run_dir);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        // Not fatal: only the owner's status requests fail.
        if let Err(e) = self.share(&path) {
            rkube_fsutil::say!(
                "supervisor: cannot give {} to its owner: {e:#}",
                path.display()
            );
        }
        self.state.save(&self.run_dir)?;
        self.ensure_standby();

        loop {
            let now = Instant::now();
            let timeout = self
                .pending
                .values()
                .map(|p| p.due.saturating_duration_since(now))
                .min();
            let (asked, standby_died) = {
                let mut fds = vec![listener.as_fd()];
                fds.extend(self.standby.as_ref().map(|(_, pidfd)| pidfd.as_fd()));
                fds.extend(self.running.values().map(|r| r.pidfd.as_fd()));
                let ready = wait_readable(&fds, timeout)?;
                (ready[0], self.standby.is_some() && ready[1])
            };
            reap();
            if standby_died {
                rkube_fsutil::say!("supervisor: the standby died, replacing it");
                self.standby = None;
            }
            self.ensure_standby();
            self.restart_exited();
            if !asked {
                continue;
            }
            match listener.accept().map(|(stream, _)| self.serve(stream)) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => rkube_fsutil::say!("supervisor: cannot accept: {e}"),
            }
        }
    }

    /// Makes the control socket accessible to the cluster's owner, who may request the status.
    fn share(&self, socket: &Path) -> anyhow::Result<()> {
        std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        if let Some(owner) = read_plan(&self.run_dir)?.owner_uid {
            std::os::unix::fs::chown(socket, Some(owner), None)?;
        }
        Ok(())
    }

    fn ensure_standby(&mut self) {
        if self.standby.is_some() {
            return;
        }
        match self.spawn_standby() {
            Ok(standby) => {
                self.state.standby = ProcessId::of(standby.0);
                self.standby = Some(standby);
                self.save();
            }
            Err(e) => rkube_fsutil::say!("supervisor: cannot start a standby: {e:#}"),
        }
    }

    fn spawn_standby(&self) -> anyhow::Result<(Pid, OwnedFd)> {
        let plan = read_plan(&self.run_dir)?;
        // The original descriptor is close-on-exec; the duplicate is inherited.
        let netns = nix::unistd::dup(self.host_netns.as_raw_fd())
            .context("cannot duplicate a descriptor")?;
        let mut command = Command::new(&plan.binary);
        command
            .arg(rkube_config::roles::STANDBY)
            .arg(&self.run_dir)
            .arg(Pid::this().to_string())
            .arg(netns.to_string());
        let spawned = command.stdin(Stdio::null()).spawn();
        nix::unistd::close(netns)?;
        let pid = Pid::from_raw(spawned.context("cannot run the standby")?.id() as RawFd);
        Ok((pid, sandbox::pidfd(pid)?))
    }

    /// Records nodes that exited and starts those whose back-off has elapsed.
    fn restart_exited(&mut self) {
        let dead: Vec<String> = self
            .running
            .iter()
            .filter(|(_, r)| sandbox::has_ended(&r.pidfd))
            .map(|(name, _)| name.clone())
            .collect();
        for name in dead {
            let Some(was) = self.running.remove(&name) else {
                continue;
            };
            let failures = if was.since.elapsed() >= HEALTHY_AFTER {
                0
            } else {
                self.failures.get(&name).copied().unwrap_or(0)
            };
            rkube_fsutil::say!(
                "supervisor: node {name} (process {}) died, restarting it",
                was.pid
            );
            self.pending.insert(
                name.clone(),
                Pending {
                    due: Instant::now() + restart_delay(failures),
                    failures,
                },
            );
        }
        let now = Instant::now();
        let due: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, p)| p.due <= now)
            .map(|(n, _)| n.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        for name in &due {
            if let Some(p) = self.pending.remove(name) {
                self.failures.insert(name.clone(), p.failures + 1);
            }
        }
        if let Err(e) = self.start(&due) {
            rkube_fsutil::say!("supervisor: {e:#}");
            for name in due {
                if !self.running.contains_key(&name) {
                    let failures = self.failures.get(&name).copied().unwrap_or(0);
                    self.pending.insert(
                        name,
                        Pending {
                            due: now + restart_delay(failures),
                            failures,
                        },
                    );
                }
            }
        }
    }

    /// Serves one request. Returns true if the supervisor must exit.
    fn serve(&mut self, mut stream: UnixStream) -> bool {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let request: Request = match control::receive(&stream) {
            Ok(request) => request,
            Err(e) => {
                rkube_fsutil::say!("supervisor: invalid request: {e:#}");
                return false;
            }
        };
        let mut end = false;
        let result = match request {
            Request::Status => Ok(()),
            _ if !is_root(&stream) => Err(anyhow!("only root may start and stop nodes")),
            Request::Start { nodes } => self.start(&nodes),
            Request::Stop { nodes, grace } => self.stop(&nodes, grace),
            Request::Shutdown { grace } => {
                end = true;
                self.shutdown(grace)
            }
        };
        let response = Response {
            error: result.err().map(|e| format!("{e:#}")),
            running: self
                .running
                .iter()
                .map(|(name, r)| (name.clone(), r.pid.as_raw()))
                .collect(),
        };
        // After a failed shutdown the supervisor keeps running.
        end &= response.error.is_none();
        if let Err(e) = control::send(&mut stream, &response) {
            rkube_fsutil::say!("supervisor: cannot send the response: {e:#}");
        }
        end
    }

    fn start(&mut self, names: &[String]) -> anyhow::Result<()> {
        let plan = read_plan(&self.run_dir)?;
        let mut wanted = Vec::new();
        for name in names {
            let node = plan
                .node(name)
                .with_context(|| format!("the cluster has no node {name}"))?;
            if !self.running.contains_key(name) {
                wanted.push(node);
            }
        }
        // Clones all processes first, while this process has one thread. Control groups
        // take longer and are set up in parallel afterwards.
        let inits: Vec<(&NodePlan, PendingInit)> = wanted
            .into_iter()
            .map(|node| Ok((node, self.spawn_init(&plan, node)?)))
            .collect::<anyhow::Result<_>>()?;
        let prepared: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let tasks: Vec<_> = inits
                .iter()
                .map(|(node, init)| {
                    scope.spawn(|| prepare(&self.hierarchies, &plan, node, init.pid))
                })
                .collect();
            tasks
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|_| bail!("a thread panicked")))
                .collect()
        });
        let mut failed = None;
        for ((node, init), prepared) in inits.into_iter().zip(prepared) {
            let pid = init.pid;
            let started = prepared.and_then(|()| {
                let pidfd = sandbox::pidfd(pid).context("the node's first process died")?;
                // Before the release: a standby that takes over must know every running node.
                self.state
                    .nodes
                    .insert(node.name.clone(), ProcessId::of(pid));
                self.state.save(&self.run_dir)?;
                init.release().context("the node's first process died")?;
                Ok(pidfd)
            });
            match started {
                Ok(pidfd) => {
                    self.pending.remove(&node.name);
                    self.running.insert(
                        node.name.clone(),
                        Running {
                            pid,
                            pidfd,
                            since: Instant::now(),
                        },
                    );
                }
                Err(e) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    failed = Some(e.context(format!("cannot start node {}", node.name)));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn spawn_init(&self, plan: &ClusterPlan, node: &NodePlan) -> anyhow::Result<PendingInit> {
        let dir = plan.node_dir(&node.name);
        let spec = SandboxSpec {
            etc: plan.node_etc(&node.name),
            binary: plan.binary.clone(),
            images: plan.dir.join("images"),
            dir: dir.clone(),
            mounts: node.mounts.clone(),
        };
        for folder in [
            dir.join("log"),
            self.run_dir.join("nodes"),
            spec.images.clone(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let path = self
            .run_dir
            .join("nodes")
            .join(format!("{}.json", node.name));
        write_atomic_private(&path, &serde_json::to_vec(&spec)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        // The groups of a node that died may still contain those of its pods.
        cgroup::remove(
            &self.hierarchies,
            &plan.name,
            Some(&node.name),
            KILL_TIMEOUT,
        )?;
        sandbox::spawn_init(&plan.binary, &path, &dir.join("log/init.log"))
    }

    fn stop(&mut self, names: &[String], grace: bool) -> anyhow::Result<()> {
        let plan = read_plan(&self.run_dir)?;
        let mut leaving = Vec::new();
        for name in names {
            self.pending.remove(name);
            self.state.nodes.remove(name);
            leaving.extend(self.running.remove(name).map(|r| (name, r)));
        }
        // Recorded first, so that a standby that takes over does not start them again.
        self.save();
        let signal = if grace {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        for (_, running) in &leaving {
            let _ = kill(running.pid, signal);
        }
        let deadline = Instant::now() + if grace { STOP_TIMEOUT } else { KILL_TIMEOUT };
        for (name, running) in &leaving {
            while !sandbox::has_ended(&running.pidfd) {
                let left = deadline.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    wait_readable(&[running.pidfd.as_fd()], Some(left))?;
                    continue;
                }
                let _ = kill(running.pid, Signal::SIGKILL);
                wait_readable(&[running.pidfd.as_fd()], Some(KILL_TIMEOUT))?;
                anyhow::ensure!(
                    sandbox::has_ended(&running.pidfd),
                    "node {name} (process {}) does not die",
                    running.pid
                );
            }
        }
        reap();
        for name in names {
            if let Some(node) = plan.node(name) {
                network::disconnect(node)?;
            }
            cgroup::remove(&self.hierarchies, &plan.name, Some(name), KILL_TIMEOUT)?;
        }
        Ok(())
    }

    fn shutdown(&mut self, grace: bool) -> anyhow::Result<()> {
        let plan = read_plan(&self.run_dir)?;
        let mut names: Vec<String> = self.state.nodes.keys().cloned().collect();
        names.extend(
            self.running
                .keys()
                .filter(|n| !self.state.nodes.contains_key(*n))
                .cloned()
                .collect::<Vec<_>>(),
        );
        self.stop(&names, grace)?;
        cgroup::remove(&self.hierarchies, &plan.name, None, KILL_TIMEOUT)?;
        // Without its state file, the standby ends instead of taking over.
        for file in ["state.json", "control.sock"] {
            let path = self.run_dir.join(file);
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        if let Some((pid, pidfd)) = self.standby.take() {
            let _ = kill(pid, Signal::SIGKILL);
            wait_readable(&[pidfd.as_fd()], Some(KILL_TIMEOUT))?;
            reap();
        }
        network::down(&plan, self.host_netns.as_fd())
    }

    fn save(&self) {
        if let Err(e) = self.state.save(&self.run_dir) {
            rkube_fsutil::say!("supervisor: {e:#}");
        }
    }
}

/// Sets up the control groups and the network of a node whose init is still blocked.
fn prepare(
    hierarchies: &[Hierarchy],
    plan: &ClusterPlan,
    node: &NodePlan,
    pid: Pid,
) -> anyhow::Result<()> {
    let limits = Limits {
        cpu_millis: node.cpu_millis,
        memory_bytes: node.memory_bytes,
    };
    let declared = plan.nodes.iter().flat_map(|node| &node.mounts);
    let declared = declared.flat_map(|mount| folders::devices(&mount.host));
    cgroup::create_cluster(hierarchies, &plan.name, declared.collect())?;
    let groups = cgroup::groups(hierarchies, &plan.name, Some(&node.name));
    groups.create(limits)?;
    groups.add_process(pid.as_raw())?;
    network::connect(plan, node, pid)
}

/// Reaps children that ended: nodes and standbys of this supervisor.
fn reap() {
    while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
        if status == nix::sys::wait::WaitStatus::StillAlive {
            break;
        }
    }
}

/// Whether the client is root. The cluster's owner may connect as well.
fn is_root(stream: &UnixStream) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

/// Returns the delay before a node is restarted that failed `failures` times in a row.
fn restart_delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_millis(500)
            .saturating_mul(1 << (n - 1).min(10))
            .min(MAX_RESTART_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_slow_down() {
        assert_eq!(restart_delay(0), Duration::ZERO);
        assert_eq!(restart_delay(1), Duration::from_millis(500));
        assert_eq!(restart_delay(30), MAX_RESTART_DELAY);
    }
}
