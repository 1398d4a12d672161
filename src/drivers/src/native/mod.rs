//! Nodes as containers that this driver creates with system calls of Linux.
//!
//! A cluster is a process tree: two supervisors in the cluster's network namespace,
//! and below them one sandbox per node with its own mount, PID, network, UTS, IPC and
//! cgroup namespaces.
//!
//! The driver needs root. If root acts for another user ([`ClusterPlan::owner_uid`]),
//! the control socket belongs to that user, who may only ask for the nodes' states.
//! A user who administers a cluster can become root on the host, as with Docker:
//! privileged pods are not isolated from it.

mod cgroup;
mod control;
mod folders;
mod mounts;
mod network;
mod preflight;
mod privileges;
mod sandbox;
mod state;
mod supervisor;
mod types;

pub(crate) use folders::devices;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkube_config::roles;
use rkube_failure::{Failure, Kind, Source};

pub use self::control::socket_path as control_socket;
use self::control::{Request, Response, ask};
use self::state::State;
use crate::types::{ClusterPlan, Driver, HostMount, Log, NodeState, Problem};

/// Timeout of the supervisor's response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a standby to replace a primary that died.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the processes of a node to freeze.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for killed processes to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The native driver.
pub struct Native;

/// Runs a role of this driver; returns `None` if `role` is not one.
pub fn helper_main(role: &str, args: &[OsString]) -> Option<i32> {
    let path = |i: usize| {
        args.get(i)
            .map(PathBuf::from)
            .with_context(|| format!("{role} needs more arguments"))
    };
    let number = |i: usize| -> anyhow::Result<i32> {
        args.get(i)
            .and_then(|a| a.to_str())
            .and_then(|a| a.parse().ok())
            .with_context(|| format!("{role} needs a number as argument {i}"))
    };
    let run = || -> anyhow::Result<()> {
        match role {
            roles::SUPERVISE => supervisor::primary(&path(0)?),
            roles::STANDBY => {
                nix::fcntl::fcntl(
                    number(2)?,
                    nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
                )
                .context("the descriptor of the host's network is not there")?;
                // SAFETY: the primary hands this descriptor down and names it here. It is open, as
                // was just checked, and nothing else in this process uses it.
                let netns = unsafe { OwnedFd::from_raw_fd(number(2)?) };
                supervisor::standby(&path(0)?, Pid::from_raw(number(1)?), netns)
            }
            _ => sandbox::native_init(&path(0)?),
        }
    };
    matches!(role, roles::SUPERVISE | roles::STANDBY | roles::NATIVE_INIT).then(|| match run() {
        Ok(()) => 0,
        Err(e) => {
            rkube_fsutil::say!("{role}: {e:#}");
            1
        }
    })
}

/// Returns the name of the host's network interface to a cluster's nodes.
pub(crate) fn link_name(plan: &ClusterPlan) -> String {
    network::host(plan).link_name()
}

fn failure(e: &anyhow::Error) -> Failure {
    Failure::new(Source::Driver, Kind::Error, format!("{e:#}"))
}

/// Runs blocking work on a thread where it does not block the caller's runtime.
fn blocking<'a, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> BoxFuture<'a, Result<T, Failure>> {
    Box::pin(async move {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Failure::new(Source::Driver, Kind::Error, e.to_string())))
    })
}

impl Driver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn preflight<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Vec<Problem>> {
        Box::pin(async move { preflight::check(plan) })
    }

    fn is_up<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, bool> {
        Box::pin(async move { control::socket_path(&plan.run_dir).exists() })
    }

    fn free_range<'a>(&'a self, taken: &'a [Ipv4Net]) -> BoxFuture<'a, Result<Ipv4Net, Failure>> {
        Box::pin(async move { crate::ranges::free_on_host(taken) })
    }

    fn start<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            preflight::require_root("start")?;
            start(&plan, nodes).map_err(|e| failure(&e))
        })
    }

    fn stop<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            preflight::require_root("stop")?;
            stop(&plan, nodes, true).map_err(|e| failure(&e))
        })
    }

    fn remove<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            preflight::require_root("delete")?;
            stop(&plan, nodes.clone(), false).map_err(|e| failure(&e))?;
            for node in nodes {
                remove_tree(&plan.node_dir(&node)).map_err(|e| failure(&e))?;
            }
            Ok(())
        })
    }

    fn states<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<NodeState>, Failure>> {
        let plan = plan.clone();
        blocking(move || states(&plan).map_err(|e| failure(&e)))
    }

    fn logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async move {
            let files = [
                ("init", "init.log"),
                ("control-plane", "rkube/control-plane.log"),
                ("agent", "rkube/agent.log"),
                ("ingress", "rkube/ingress.log"),
            ];
            crate::types::read_logs(&plan.node_dir(node).join("log"), &files)
        })
    }

    fn driver_logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async move {
            crate::types::read_logs(&plan.dir.join("logs"), &[("supervisor", "supervisor.log")])
        })
    }

    fn set_paused<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
        paused: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            preflight::require_root(if paused { "pause" } else { "unpause" })?;
            set_frozen(&plan, &nodes, paused).map_err(|e| failure(&e))
        })
    }

    fn mount<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
        mount: &'a HostMount,
        present: bool,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        let (plan, node, mount) = (plan.clone(), node.to_owned(), mount.clone());
        blocking(move || {
            preflight::require_root("mount")?;
            let changed = || -> anyhow::Result<()> {
                let running = running(&plan)?;
                let init = running.get(&node).context("the node does not run")?;
                folders::change(Pid::from_raw(*init), &mount, present)
            };
            changed().map_err(|e| failure(&e))?;
            Ok(true)
        })
    }

    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>> {
        let plan = plan.clone();
        blocking(move || {
            preflight::require_root("delete")?;
            destroy(&plan).map_err(|e| failure(&e))
        })
    }
}

/// Creates the directory of the control socket. If root acts for another user, the
/// directory can be passed through: the socket belongs to that user, everything else in
/// it is private to root.
fn make_run_dir(plan: &ClusterPlan) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&plan.run_dir)
        .with_context(|| format!("cannot create {}", plan.run_dir.display()))?;
    if plan.owner_uid.is_some() {
        for dir in plan.run_dir.parent().into_iter().chain([&*plan.run_dir]) {
            std::fs::set_permissions(dir, Permissions::from_mode(0o711))
                .with_context(|| format!("cannot change the mode of {}", dir.display()))?;
        }
    }
    Ok(())
}

fn start(plan: &ClusterPlan, nodes: Vec<String>) -> anyhow::Result<()> {
    make_run_dir(plan)?;
    let path = plan.run_dir.join("plan.json");
    rkube_fsutil::write_atomic_private(&path, &serde_json::to_vec(plan)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let request = Request::Start { nodes };
    let answer = match ask_any(plan, &request)? {
        Some(answer) => answer,
        None => {
            // Removes what a crash left behind.
            clear(plan)?;
            spawn_supervisor(plan)?;
            ask(&plan.run_dir, &request, RESPONSE_TIMEOUT)?.context("the supervisor ended")?
        }
    };
    succeed(answer)
}

/// Sends a request to the cluster's supervisor. If none listens, waits for a standby that is about
/// to. Returns `None` if no supervisor is left.
fn ask_any(plan: &ClusterPlan, request: &Request) -> anyhow::Result<Option<Response>> {
    let deadline = Instant::now() + TAKEOVER_TIMEOUT;
    loop {
        // Looked for first: one that ends its work in between has removed the cluster.
        let expected = !supervisors(&plan.run_dir).is_empty();
        if let Some(answer) = ask(&plan.run_dir, request, RESPONSE_TIMEOUT)? {
            return Ok(Some(answer));
        }
        if !expected || Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn succeed(answer: Response) -> anyhow::Result<()> {
    match answer.error {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!(error)),
    }
}

fn spawn_supervisor(plan: &ClusterPlan) -> anyhow::Result<()> {
    let folder = plan.dir.join("logs");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    let path = folder.join("supervisor.log");
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        // The directory may belong to the user for whom root acts.
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let start = log.metadata()?.len();
    let mut command = Command::new(&plan.binary);
    command
        .arg(roles::SUPERVISE)
        .arg(&plan.run_dir)
        .current_dir("/")
        .stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    // SAFETY: setsid is async-signal-safe. Ctrl-C at the CLI must not reach it.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // SAFETY: plain syscall; closes nothing that exec would need.
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            Ok(())
        });
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", plan.binary.display()))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(&plan.run_dir, &Request::Status, RESPONSE_TIMEOUT)?.is_none() {
        if child.try_wait()?.is_some() {
            let log = std::fs::read(&path).unwrap_or_default();
            let said = String::from_utf8_lossy(log.get(start as usize..).unwrap_or_default())
                .trim()
                .to_owned();
            anyhow::bail!("{said}");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the supervisor does not start; see {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Freezes the processes of nodes, or lets them go on.
fn set_frozen(plan: &ClusterPlan, nodes: &[String], frozen: bool) -> anyhow::Result<()> {
    let hierarchies = rkube_cgroups::hierarchies()?;
    for node in nodes {
        cgroup::groups(&hierarchies, &plan.name, Some(node)).set_frozen(frozen, FREEZE_TIMEOUT)?;
    }
    Ok(())
}

fn stop(plan: &ClusterPlan, nodes: Vec<String>, grace: bool) -> anyhow::Result<()> {
    set_frozen(plan, &nodes, false)?;
    let Some(answer) = ask_any(plan, &Request::Stop { nodes, grace })? else {
        // No supervisor: removes what a crash left behind.
        return clear(plan);
    };
    let none_left = answer.running.is_empty();
    succeed(answer)?;
    if none_left
        && let Some(answer) = ask(
            &plan.run_dir,
            &Request::Shutdown { grace },
            RESPONSE_TIMEOUT,
        )?
    {
        succeed(answer)?;
    }
    Ok(())
}

/// Returns the process ids of the running nodes' inits.
fn running(plan: &ClusterPlan) -> anyhow::Result<BTreeMap<String, i32>> {
    let answer = ask(&plan.run_dir, &Request::Status, RESPONSE_TIMEOUT)?;
    Ok(answer.map(|answer| answer.running).unwrap_or_default())
}

fn states(plan: &ClusterPlan) -> anyhow::Result<Vec<NodeState>> {
    let running = running(plan)?;
    let hierarchies = rkube_cgroups::hierarchies()?;
    Ok(plan
        .nodes
        .iter()
        .map(|node| {
            if running.contains_key(&node.name) {
                match cgroup::groups(&hierarchies, &plan.name, Some(&node.name)).is_frozen() {
                    true => NodeState::Paused,
                    false => NodeState::Running,
                }
            } else if plan.node_dir(&node.name).exists() {
                NodeState::Stopped
            } else {
                NodeState::Missing
            }
        })
        .collect())
}

fn destroy(plan: &ClusterPlan) -> anyhow::Result<()> {
    // A frozen process does not even die on version 1.
    cgroup::thaw(&rkube_cgroups::hierarchies()?, &plan.name, FREEZE_TIMEOUT)?;
    // A supervisor that does not respond is killed below.
    let _ = ask(
        &plan.run_dir,
        &Request::Shutdown { grace: false },
        KILL_TIMEOUT * 2,
    );
    clear(plan)?;
    remove_tree(&plan.run_dir)?;
    if let Some(parent) = plan.run_dir.parent() {
        // Shared by all profiles; removed with the last one.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes every process, control group, network interface and firewall rule of the
/// cluster. The caller must be in the host's network namespace.
fn clear(plan: &ClusterPlan) -> anyhow::Result<()> {
    for pid in supervisors(&plan.run_dir) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    if let Ok(state) = State::load(&plan.run_dir) {
        for process in state.nodes.values().flatten().filter(|p| p.alive()) {
            let _ = kill(process.pid(), Signal::SIGKILL);
        }
    }
    let hierarchies = rkube_cgroups::hierarchies()?;
    cgroup::thaw(&hierarchies, &plan.name, FREEZE_TIMEOUT)?;
    cgroup::groups(&hierarchies, &plan.name, None).kill_all(KILL_TIMEOUT)?;
    cgroup::remove(&hierarchies, &plan.name, None, KILL_TIMEOUT)?;
    network::host(plan).down()?;
    for file in ["state.json", "control.sock"] {
        match std::fs::remove_file(plan.run_dir.join(file)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| {
                    format!("cannot remove {file} from {}", plan.run_dir.display())
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Finds the cluster's supervisors by their command lines; they are in no control group.
fn supervisors(run_dir: &Path) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut args = line.split(|b| *b == 0).skip(1);
            let role = args.next()?;
            let dir = args.next()?;
            let supervisors = [roles::SUPERVISE, roles::STANDBY];
            let ours = supervisors.iter().any(|name| name.as_bytes() == role)
                && dir == run_dir.as_os_str().as_encoded_bytes();
            ours.then(|| Pid::from_raw(pid))
        })
        .collect()
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    rkube_fsutil::remove_tree(path).with_context(|| format!("cannot remove {}", path.display()))
}
