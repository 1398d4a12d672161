//! Directories of the host in the nodes of a cluster.

use std::path::Path;

use rkube_drivers::{HostMount, NodeState};
use rkube_failure::{Failure, Kind, Source, command};

use crate::Progress;
use crate::files::Home;
use crate::pause;
use crate::plan::{check_mounts, refuse_mounts};
use crate::profile::Profile;

/// Mounts a directory of the host in all nodes, or in one. It is there until it is taken away, also
/// after a restart.
///
/// # Errors
/// Fails if the driver cannot change running nodes and one runs.
pub async fn mount(
    home: &Home,
    profile: &str,
    node: Option<&str>,
    mount: &HostMount,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    refuse_mounts(rkube_drivers::by_name(&profile.driver)?.as_ref())?;
    let nodes = names(&profile, node)?;
    for node in profile.nodes.iter().filter(|n| nodes.contains(&n.name)) {
        let mut all = profile.mounts_of(node);
        all.push(mount.clone());
        check_mounts(&all)?;
    }
    progress.step("mount", &format!("Mounting {}", mount.host.display()));
    let mut done = Vec::new();
    if let Err(failure) = change(home, &profile, &nodes, mount, true, &mut done).await {
        // Nodes that have it already lose it again; the first failure is the one to report.
        let _ = change(home, &profile, &done, mount, false, &mut Vec::new()).await;
        return Err(failure);
    }
    match node {
        None => profile.mounts.push(mount.clone()),
        Some(_) => {
            let chosen = profile.nodes.iter_mut();
            for node in chosen.filter(|n| nodes.contains(&n.name)) {
                node.mounts.push(mount.clone());
            }
        }
    }
    profile.save(home)
}

/// Takes the directory away that is mounted at `path` of the nodes, or of a single one.
pub async fn unmount(
    home: &Home,
    profile: &str,
    only: Option<&str>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    let only = match only {
        Some(name) => Some(profile.node(Some(name))?.name.clone()),
        None => None,
    };
    let chosen = |node: &crate::Node| only.as_ref().is_none_or(|name| node.name == *name);
    let everywhere = profile.mounts.iter().filter(|_| only.is_none());
    let of_nodes = profile.nodes.iter().filter(|node| chosen(node));
    let mut all = everywhere.chain(of_nodes.flat_map(|node| &node.mounts));
    let Some(mount) = all.find(|mount| mount.node == path).cloned() else {
        return Err(Failure::new(
            Source::Program,
            Kind::NotFound,
            format!("no directory is mounted on {}", path.display()),
        )
        .advise(format!(
            "list the directories with: {}",
            command("mount", &profile.name)
        )));
    };
    progress.step("unmount", &format!("Unmounting {}", path.display()));
    let has = |node: &&crate::Node| {
        chosen(node) && profile.mounts_of(node).iter().any(|m| m.node == path)
    };
    let nodes: Vec<String> = profile
        .nodes
        .iter()
        .filter(has)
        .map(|node| node.name.clone())
        .collect();
    change(home, &profile, &nodes, &mount, false, &mut Vec::new()).await?;
    profile.mounts.retain(|m| only.is_some() || m.node != path);
    for node in profile.nodes.iter_mut().filter(|node| chosen(node)) {
        node.mounts.retain(|m| m.node != path);
    }
    profile.save(home)
}

/// Returns the names of all nodes, or of one.
fn names(profile: &Profile, node: Option<&str>) -> Result<Vec<String>, Failure> {
    Ok(match node {
        Some(name) => vec![profile.node(Some(name))?.name.clone()],
        None => profile.nodes.iter().map(|n| n.name.clone()).collect(),
    })
}

/// Mounts a directory in those of `nodes` that run, or takes it away. Adds the names of the nodes
/// that were changed to `done`.
async fn change(
    home: &Home,
    profile: &Profile,
    nodes: &[String],
    mount: &HostMount,
    present: bool,
    done: &mut Vec<String>,
) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    let states = driver.states(&plan).await?;
    let chosen = plan.nodes.iter().zip(states);
    for (node, state) in chosen.filter(|(node, _)| nodes.contains(&node.name)) {
        match state {
            NodeState::Stopped | NodeState::Missing => {}
            NodeState::Paused => return Err(pause::failure(&profile.name)),
            NodeState::Running => {
                if !driver.mount(&plan, &node.name, mount, present).await? {
                    return Err(must_stop(profile, driver.name()));
                }
                done.push(node.name.clone());
            }
        }
    }
    Ok(())
}

fn must_stop(profile: &Profile, driver: &str) -> Failure {
    let with = |words: &str| command(words, &profile.name);
    Failure::new(
        Source::Driver,
        Kind::Conflict,
        format!("the driver {driver} cannot change the directories of a running node"),
    )
    .advise(format!(
        "stop the cluster first, and start it afterwards: {}, the same command again, {}",
        with("stop"),
        with("start")
    ))
}
