//! Pauses clusters: their processes keep their memory and get no CPU time.
//!
//! Nothing records that a cluster is paused: the drivers ask the kernel, the engine or the
//! hypervisor. So a machine that was switched off has no paused clusters, only stopped ones.

use rkube_drivers::{Driver, NodeState};
use rkube_failure::{Failure, Kind, Source, command};

use crate::Progress;
use crate::files::Home;
use crate::profile::{Node, Profile};

/// Freezes all running nodes of a cluster, or lets them and all paused namespaces go on. Returns how
/// many nodes and containers changed; 0 if the cluster was in that state already.
///
/// # Errors
/// Fails with `Kind::NotRunning` if no node runs.
pub async fn set_paused(
    home: &Home,
    name: &str,
    paused: bool,
    progress: &dyn Progress,
) -> Result<usize, Failure> {
    let (_lock, profile) = Profile::lock(home, name)?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    let is_up = |state: &NodeState| matches!(state, NodeState::Running | NodeState::Paused);
    if !states.iter().any(is_up) {
        return Err(crate::access::not_running(name));
    }
    let changed = change(home, &profile, driver.as_ref(), &states, paused, progress).await?;
    match paused {
        true => Ok(changed),
        // Also what was paused by namespaces.
        false => Ok(changed + crate::paused::release(home, &profile, driver.as_ref()).await?),
    }
}

/// Lets a paused cluster go on. Does nothing if it is not paused.
pub(crate) async fn resume(
    home: &Home,
    profile: &Profile,
    driver: &dyn Driver,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    // If the states are not available, the start reports why.
    let Ok(states) = driver.states(&profile.plan(home)).await else {
        return Ok(());
    };
    change(home, profile, driver, &states, false, progress).await?;
    crate::paused::release(home, profile, driver).await?;
    Ok(())
}

async fn change(
    home: &Home,
    profile: &Profile,
    driver: &dyn Driver,
    states: &[NodeState],
    paused: bool,
    progress: &dyn Progress,
) -> Result<usize, Failure> {
    let from = match paused {
        true => NodeState::Running,
        false => NodeState::Paused,
    };
    let nodes = profile.nodes.iter().zip(states);
    let nodes: Vec<String> = nodes
        .filter(|(_, state)| **state == from)
        .map(|(node, _)| node.name.clone())
        .collect();
    if !nodes.is_empty() {
        let (count, plural) = (nodes.len(), if nodes.len() == 1 { "" } else { "s" });
        match paused {
            true => progress.step("pause", &format!("Pausing {count} node{plural}")),
            false => progress.step("unpause", &format!("Unpausing {count} node{plural}")),
        }
        driver
            .set_paused(&profile.plan(home), &nodes, paused)
            .await?;
    }
    Ok(nodes.len())
}

/// Fails if a node is paused, because a client of it would wait forever.
pub(crate) async fn refuse(home: &Home, profile: &Profile, node: &Node) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    let states = driver.states(&plan).await?;
    let mut nodes = plan.nodes.iter().zip(states);
    match nodes.find(|(other, _)| other.name == node.name) {
        Some((_, NodeState::Paused)) => Err(failure(&profile.name)),
        _ => Ok(()),
    }
}

/// Returns the failure of a command that a paused cluster cannot answer.
pub(crate) fn failure(profile: &str) -> Failure {
    Failure::new(
        Source::Guest,
        Kind::NotRunning,
        format!("the cluster '{profile}' is paused"),
    )
    .advise(format!("resume it with: {}", command("unpause", profile)))
}
