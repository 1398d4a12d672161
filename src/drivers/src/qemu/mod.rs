//! Nodes as virtual machines of QEMU.
//!
//! Every node is one machine: a distribution's kernel, an initramfs with rkube as PID 1, and a
//! disk. Its API and SSH servers are published on the host's loopback; nodes reach each other
//! through a [`switch`]. No privileges are needed. One [`supervisor`] per machine restarts it when
//! it ends.

mod accel;
mod cpio;
mod disk;
mod gate;
mod initramfs;
mod kernel;
mod layout;
mod machine;
mod modules;
mod preflight;
mod processes;
mod qmp;
mod supervisor;
mod switch;
#[cfg(target_os = "linux")]
mod tap;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use rkube_failure::{Failure, Kind, Source};

use self::layout::control;
use self::machine::Parts;
use self::qmp::{Qmp, QmpMessage};
use crate::ranges;
use crate::types::{ClusterPlan, Driver, Endpoints, Log, NodePlan, NodeState, Problem};

/// Timeout of a machine's graceful shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of the presses of the power button: a guest that is still booting ignores it.
const PRESS_PERIOD: Duration = Duration::from_secs(3);
/// Timeout for killed processes to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the first response of a machine's QEMU after its start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A log larger than this is rotated at the next start, in bytes.
const LOG_LIMIT: u64 = 10 << 20;
/// A node's logs: names, and paths in its log directory.
const LOGS: [(&str, &str); 4] = [
    ("machine", "qemu.log"),
    ("console", "console.log"),
    ("control-plane", "rkube/control-plane.log"),
    ("agent", "rkube/agent.log"),
];

/// The qemu driver.
pub struct Qemu;

/// Runs the supervisor's role and returns its exit code; `None` if `role` is another one.
pub fn helper_main(role: &str, args: &[OsString]) -> Option<i32> {
    if role != supervisor::ROLE {
        return None;
    }
    let run = || -> anyhow::Result<()> {
        let [cluster, node] = args else {
            anyhow::bail!("it needs a run directory and a node");
        };
        let node = node.to_str().context("the node's name is not UTF-8")?;
        supervisor::run(Path::new(cluster), node)
    };
    Some(match run() {
        Ok(()) => 0,
        Err(e) => {
            rkube_fsutil::say!("{e:#}");
            1
        }
    })
}

fn failure(e: &anyhow::Error) -> Failure {
    explain(&format!("{e:#}"))
}

/// Converts an error message of QEMU into a failure with advice.
fn explain(said: &str) -> Failure {
    let new = |source, kind| Failure::new(source, kind, said);
    if said.contains("host forwarding rule") {
        new(Source::LocalNetwork, Kind::Conflict)
            .advise("another program has taken that port; stop it, or choose another with --ports")
    } else if said.contains("No space left") {
        new(Source::Resource, Kind::Error)
            .advise("free some space, or set RKUBE_HOME to a directory on another disk")
    } else if said.contains("Cannot allocate memory") || said.contains("set up guest memory") {
        new(Source::Resource, Kind::Error)
            .advise("start fewer nodes, or smaller ones with --memory")
    } else if said.to_lowercase().contains("kvm") {
        new(Source::Provider, Kind::Unsupported)
            .advise("emulate the nodes instead: RKUBE_QEMU_ACCEL=tcg")
    } else if said.contains("\"write\" lock") {
        new(Source::Driver, Kind::Conflict)
            .advise("another QEMU uses the node's disk; end it, then start the cluster again")
    } else {
        new(Source::Driver, Kind::Error)
    }
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

impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn preflight<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Vec<Problem>> {
        let plan = plan.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || preflight::check(&plan))
                .await
                .unwrap_or_default()
        })
    }

    fn is_up<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            plan.nodes
                .iter()
                .any(|n| qmp::is_alive(&control(&plan.run_dir, &n.name)))
        })
    }

    fn free_range<'a>(&'a self, taken: &'a [Ipv4Net]) -> BoxFuture<'a, Result<Ipv4Net, Failure>> {
        Box::pin(async move { ranges::free_on_host(taken) })
    }

    fn publishes(&self) -> bool {
        true
    }

    fn endpoints(&self, plan: &ClusterPlan) -> Endpoints {
        #[cfg(target_os = "linux")]
        let routable = tap::exists(plan);
        #[cfg(not(target_os = "linux"))]
        let routable = false;
        Endpoints::published(plan, routable)
    }

    fn resolvers(&self) -> Option<Vec<IpAddr>> {
        Some(vec![layout::NAME_SERVER.into()])
    }

    #[cfg(not(target_os = "linux"))]
    fn binary(&self) -> BoxFuture<'_, Result<std::path::PathBuf, Failure>> {
        Box::pin(async { crate::binary::for_nodes(std::env::consts::ARCH) })
    }

    fn start<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || start(&plan, &nodes))
    }

    fn stop<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || stop(&plan, &nodes, true).map_err(|e| failure(&e)))
    }

    fn remove<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            stop(&plan, &nodes, false).map_err(|e| failure(&e))?;
            for node in nodes {
                for dir in [plan.node_dir(&node), layout::run_dir(&plan.run_dir, &node)] {
                    remove_tree(&dir).map_err(|e| failure(&e))?;
                }
            }
            Ok(())
        })
    }

    fn states<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<NodeState>, Failure>> {
        let plan = plan.clone();
        blocking(move || Ok(plan.nodes.iter().map(|n| state(&plan, n)).collect()))
    }

    fn set_paused<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        nodes: &'a [String],
        paused: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let (plan, nodes) = (plan.clone(), nodes.to_vec());
        blocking(move || {
            let command = if paused { "stop" } else { "cont" };
            for node in nodes {
                let sent = send(&control(&plan.run_dir, &node), command);
                sent.map_err(|e| failure(&e))?;
            }
            Ok(())
        })
    }

    fn no_mounts(&self) -> Option<&'static str> {
        Some("its nodes are virtual machines, which see no directories of this machine")
    }

    fn logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
        node: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async move { crate::types::read_logs(&plan.node_dir(node).join("log"), &LOGS) })
    }

    fn driver_logs<'a>(
        &'a self,
        plan: &'a ClusterPlan,
    ) -> BoxFuture<'a, Result<Vec<Log>, Failure>> {
        Box::pin(async move {
            let file = [("supervisor", "supervisor.log")];
            crate::types::read_logs(&plan.dir.join("logs"), &file)
        })
    }

    fn destroy<'a>(&'a self, plan: &'a ClusterPlan) -> BoxFuture<'a, Result<(), Failure>> {
        let plan = plan.clone();
        blocking(move || destroy(&plan).map_err(|e| failure(&e)))
    }
}

/// Sends a command to a machine, if it is there.
fn send(socket: &Path, command: &str) -> anyhow::Result<()> {
    if let Some(mut qmp) = Qmp::connect(socket)? {
        qmp.execute(command, None)?;
    }
    Ok(())
}

fn state(plan: &ClusterPlan, node: &NodePlan) -> NodeState {
    let socket = control(&plan.run_dir, &node.name);
    if qmp::is_alive(&socket) {
        // A machine that does not answer is not paused.
        let qmp = Qmp::connect(&socket).ok().flatten();
        match qmp.is_some_and(|mut qmp| is_paused(&mut qmp).unwrap_or(false)) {
            true => NodeState::Paused,
            false => NodeState::Running,
        }
    } else if plan.node_dir(&node.name).join("vm").exists() {
        NodeState::Stopped
    } else {
        NodeState::Missing
    }
}

fn start(plan: &ClusterPlan, nodes: &[String]) -> Result<(), Failure> {
    let qemu = preflight::qemu()?;
    let kernel = kernel::find(plan)?;
    let (accelerator, _) = accel::choose();
    let prepared = || -> anyhow::Result<Parts> {
        machine::private_dir(&plan.run_dir.join("vm"))?;
        machine::private_dir(&plan.dir.join("logs"))?;
        machine::write(
            &supervisor::plan_path(&plan.run_dir),
            &serde_json::to_vec(plan)?,
        )?;
        Parts::make(plan, qemu, accelerator, kernel)
    };
    let parts = prepared().map_err(|e| failure(&e))?;
    let results: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let tasks: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| start_node(plan, node, &parts)))
            .collect();
        tasks
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
            })
            .collect()
    });
    for (result, node) in results.into_iter().zip(nodes) {
        result.map_err(|e| {
            let mut failure = failure(&e);
            failure.message = format!("cannot start node {node}: {}", failure.message);
            failure
        })?;
    }
    Ok(())
}

fn start_node(plan: &ClusterPlan, name: &str, parts: &Parts) -> anyhow::Result<()> {
    let node = plan
        .node(name)
        .with_context(|| format!("the cluster has no node {name}"))?;
    let alive = qmp::is_alive(&control(&plan.run_dir, name));
    if alive && supervisor::holder(&plan.run_dir, name).is_some() {
        return Ok(());
    }
    if !alive {
        // A supervisor in its restart delay need not wait any longer.
        supervisor::end(&plan.run_dir, name)?;
        let logs = plan.node_dir(name).join("log");
        machine::private_dir(&logs.join("rkube"))?;
        for (_, file) in LOGS {
            rotate(&logs.join(file))?;
        }
        machine::prepare(plan, node, parts)?;
    }
    let log = plan.dir.join("logs/supervisor.log");
    let before = std::fs::metadata(&log).map_or(0, |m| m.len());
    let child = supervisor::spawn(plan, name, &log)?;
    wait_for(plan, name, child, &log, before)
}

/// Renames a log that exceeds the size limit to `.log.1`.
fn rotate(path: &Path) -> anyhow::Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > LOG_LIMIT) {
        let old = path.with_extension("log.1");
        std::fs::rename(path, &old)
            .with_context(|| format!("cannot move {} aside", path.display()))?;
    }
    Ok(())
}

/// Waits until the machine responds. Returns the supervisor's message if it exits first.
fn wait_for(
    plan: &ClusterPlan,
    node: &str,
    mut child: Child,
    log: &Path,
    before: u64,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        // QEMU listens before it has checked all its arguments, and responds only after that.
        let there = supervisor::holder(&plan.run_dir, node).is_some()
            && matches!(Qmp::connect(&control(&plan.run_dir, node)), Ok(Some(_)));
        if there {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read(log).unwrap_or_default();
            let said = String::from_utf8_lossy(text.get(before as usize..).unwrap_or_default())
                .trim()
                .to_owned();
            anyhow::ensure!(!said.is_empty(), "its supervisor ended ({status})");
            anyhow::bail!("{said}");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "it does not come up; see {}",
            log.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stop(plan: &ClusterPlan, nodes: &[String], grace: bool) -> anyhow::Result<()> {
    let results: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let tasks: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || stop_node(&plan.run_dir, node, grace)))
            .collect();
        tasks
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
            })
            .collect()
    });
    for (result, node) in results.into_iter().zip(nodes) {
        result.with_context(|| format!("cannot stop node {node}"))?;
    }
    let left = plan
        .nodes
        .iter()
        .any(|n| supervisor::holder(&plan.run_dir, &n.name).is_some());
    if !left {
        remove_tree(&plan.run_dir.join("vm"))?;
        #[cfg(target_os = "linux")]
        tap::forget(plan)?;
    }
    Ok(())
}

fn stop_node(cluster: &Path, node: &str, grace: bool) -> anyhow::Result<()> {
    // First, so that the supervisor does not restart the machine.
    supervisor::end(cluster, node)?;
    let powered_off = match Qmp::connect(&control(cluster, node)) {
        Ok(None) => true,
        Ok(Some(mut qmp)) => resume_and_power_off(&mut qmp, grace).unwrap_or_else(|e| {
            rkube_fsutil::say!("{node} does not power off: {e:#}");
            false
        }),
        // A machine that does not respond is killed.
        Err(_) => false,
    };
    if !powered_off {
        supervisor::kill_machine(cluster, node)?;
    }
    remove_tree(&layout::run_dir(cluster, node))
}

/// Lets a paused machine go on, so that it notices its power button, and shuts it down.
fn resume_and_power_off(qmp: &mut Qmp, grace: bool) -> anyhow::Result<bool> {
    if grace && is_paused(qmp)? {
        qmp.execute("cont", None)?;
    }
    power_off(qmp, grace)
}

/// Whether the machine was paused with [`Driver::set_paused`].
fn is_paused(qmp: &mut Qmp) -> anyhow::Result<bool> {
    // A machine whose disk is full has the status `io-error`.
    Ok(qmp.execute("query-status", None)?["status"] == "paused")
}

/// Shuts the machine down, at first by its power button if `grace` is set. Returns true when it is
/// off.
fn power_off(qmp: &mut Qmp, grace: bool) -> anyhow::Result<bool> {
    if grace {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            qmp.execute("system_powerdown", None)?;
            let pressed = Instant::now();
            while let Some(left) = PRESS_PERIOD.checked_sub(pressed.elapsed()) {
                if qmp.next_message(Some(left))? == QmpMessage::End {
                    return Ok(true);
                }
            }
        }
    }
    qmp.execute("quit", None)?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if qmp.next_message(Some(left))? == QmpMessage::End {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Kills all processes of the cluster and removes its files, whatever state they are in.
fn destroy(plan: &ClusterPlan) -> anyhow::Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        // Supervisors first: a remaining one would restart a machine.
        let supervisors = processes::supervisors(&plan.run_dir);
        let left = if supervisors.is_empty() {
            processes::machines(&plan.run_dir)
        } else {
            supervisors
        };
        if left.is_empty() {
            break;
        }
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} processes of the cluster do not die",
            left.len()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    #[cfg(target_os = "linux")]
    tap::forget(plan)?;
    remove_tree(&plan.run_dir)?;
    if let Some(parent) = plan.run_dir.parent() {
        // Shared by all profiles; removed with the last one.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    rkube_fsutil::remove_tree(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_becomes_a_failure_with_advice() {
        let port = explain(
            "qemu-system-x86_64: -netdev user,…: Could not set up host forwarding rule 'tcp:…'",
        );
        assert_eq!(port.exit_code(), 71);
        assert_eq!(
            explain("cannot write x: No space left on device").exit_code(),
            20
        );
        assert_eq!(
            explain("Could not access KVM kernel module").exit_code(),
            66
        );
        assert!(explain("whatever").advice.is_none());
    }
}
