//! Checks the docker driver's requirements before anything is created.

use std::collections::HashMap;

use rkube_failure::{Failure, Kind, Source};

use super::engine::Engine;
use super::network;
use super::objects::{HOME_LABEL, NODE_LABEL, PROFILE_LABEL, containers, label};
use crate::types::{ClusterPlan, Problem};

/// Minimum free disk space for the data of a local engine, in bytes.
#[cfg(target_os = "linux")]
const DISK_MIN: u64 = 1 << 30;

/// Checks all requirements; returns an empty list if a cluster can be created.
pub async fn check(plan: &ClusterPlan) -> Vec<Problem> {
    let fatal = |failure| Problem {
        failure,
        fatal: true,
    };
    let engine = match Engine::connect().await {
        Ok(engine) => engine,
        // All other checks need the engine.
        Err(failure) => return vec![fatal(failure)],
    };
    let mut problems = Vec::new();
    problems.extend(platform(&engine).map(fatal));
    problems.extend(rootless(&engine).map(fatal));
    problems.extend(disk(&engine).map(fatal));
    match network::conflict(&engine, plan).await {
        Ok(conflict) => problems.extend(conflict.map(fatal)),
        Err(failure) => problems.push(fatal(failure)),
    }
    problems.extend(range(&engine, plan).await.map(fatal));
    match names(&engine, plan).await {
        Ok(conflict) => problems.extend(conflict.map(fatal)),
        Err(failure) => problems.push(fatal(failure)),
    }
    problems.extend(loopback(plan).map(|failure| Problem {
        failure,
        fatal: false,
    }));
    problems
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(Source::Provider, Kind::Unsupported, message)
}

fn platform(engine: &Engine) -> Option<Failure> {
    if let Some(os) = engine.info.os_type.as_deref().filter(|os| *os != "linux") {
        return Some(
            unsupported(format!("the container engine runs {os} containers"))
                .advise("switch it to Linux containers"),
        );
    }
    // Nodes run a binary for the architecture of the engine's host.
    crate::binary::for_nodes(engine.architecture()).err()
}

/// Fails if root in containers is not root on the host: nodes must create devices and control
/// groups.
fn rootless(engine: &Engine) -> Option<Failure> {
    let options = engine.info.security_options.as_deref().unwrap_or_default();
    let rootless = options
        .iter()
        .any(|o| o.split(',').any(|part| part == "name=rootless"));
    let userns = options
        .iter()
        .any(|o| o.split(',').any(|part| part == "name=userns"));
    if rootless {
        return Some(
            unsupported("the container engine runs without root (rootless)").advise(
                "use an engine that runs as root: docker context ls, podman machine set --rootful",
            ),
        );
    }
    userns.then(|| {
        unsupported("the container engine maps root to another user (userns-remap)")
            .advise("remove userns-remap from the engine's configuration")
    })
}

#[cfg(target_os = "linux")]
fn disk(engine: &Engine) -> Option<Failure> {
    use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
    // The disk of a virtual machine cannot be inspected from here.
    let root = engine
        .info
        .docker_root_dir
        .as_deref()
        .filter(|_| engine.is_local())?;
    if statfs(root).ok()?.filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        return Some(
            unsupported(format!(
                "the container engine keeps its data in {root}, on an overlay file system, where nodes cannot keep theirs"
            ))
            .advise("move the engine's data to a real file system (data-root)"),
        );
    }
    let stat = nix::sys::statvfs::statvfs(root).ok()?;
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    (free < DISK_MIN).then(|| {
        Failure::new(
            Source::Resource,
            Kind::Unsupported,
            format!(
                "{root}, where the container engine keeps its data, has {} MiB free, a cluster needs {} MiB",
                free >> 20,
                DISK_MIN >> 20
            ),
        )
        .advise("free some space: docker system df, docker system prune")
    })
}

#[cfg(not(target_os = "linux"))]
fn disk(_engine: &Engine) -> Option<Failure> {
    None
}

/// Returns a conflict of the nodes' range with a network interface or route of the host other than
/// the cluster's own bridge.
async fn range(engine: &Engine, plan: &ClusterPlan) -> Option<Failure> {
    if !engine.is_local() || network::exists(engine, plan).await.ok()? {
        return None;
    }
    match crate::ranges::conflict_on_host(plan.node_cidr) {
        Ok(None) => None,
        Ok(Some(what)) => Some(crate::ranges::taken(plan, &format!(": {what}"))),
        Err(failure) => Some(failure),
    }
}

/// Returns a conflict with a container that has a node's name, or with the same profile under
/// another RKUBE_HOME.
async fn names(engine: &Engine, plan: &ClusterPlan) -> Result<Option<Failure>, Failure> {
    let home = plan.dir.display().to_string();
    for container in containers(engine, &HashMap::new()).await? {
        if label(&container, PROFILE_LABEL) == Some(&plan.name) {
            if label(&container, HOME_LABEL) == Some(&home) {
                continue;
            }
            let other = label(&container, HOME_LABEL).unwrap_or_default();
            return Ok(Some(
                Failure::new(
                    Source::Program,
                    Kind::Conflict,
                    format!(
                        "a cluster '{}' of another RKUBE_HOME is there ({other})",
                        plan.name
                    ),
                )
                .advise(
                    "choose another name with -p, or delete that cluster under its own RKUBE_HOME",
                ),
            ));
        }
        let taken = container
            .names
            .iter()
            .flatten()
            .map(|n| n.trim_start_matches('/'))
            .find(|n| plan.node(n).is_some());
        if let Some(name) = taken {
            let whose =
                label(&container, NODE_LABEL).map_or("no node", |_| "a node of another cluster");
            return Ok(Some(
                Failure::new(
                    Source::Provider,
                    Kind::Conflict,
                    format!("there is a container '{name}' already, which is {whose}"),
                )
                .advise(format!(
                    "choose another name with -p, or remove it: docker rm -f {name}"
                )),
            ));
        }
    }
    Ok(None)
}

fn loopback(plan: &ClusterPlan) -> Option<Failure> {
    let port = plan.loopback_ports.first()?;
    Some(
        Failure::new(
            Source::LocalNetwork,
            Kind::Unsupported,
            format!("containers do not reach port {port} of this machine's loopback"),
        )
        .advise(format!(
            "publish the registry on all addresses and use --insecure-registry {}:{port}",
            plan.gateway()
        )),
    )
}
