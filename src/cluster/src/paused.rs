//! Paused namespaces: the containers of their pods are frozen, on every node.
//!
//! The profile remembers the names, and every node has its own list, which it loses when it stops. So
//! a restart of the cluster lets everything go on.

use std::path::PathBuf;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use rkube_drivers::{Driver, NodeState};
use rkube_failure::{Failure, Kind, Source, command};

use crate::files::{Home, io_failure, write_private};
use crate::profile::{Node, Profile};
use crate::{Progress, access};

fn path(home: &Home, name: &str) -> PathBuf {
    home.profile_dir(name).join("paused-namespaces")
}

/// Returns the paused namespaces of a cluster, sorted.
///
/// # Errors
/// Fails if the list is there and cannot be read.
pub fn paused_namespaces(home: &Home, name: &str) -> Result<Vec<String>, Failure> {
    let path = path(home, name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        // Nothing is paused.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io_failure("read", &path, &e)),
    }
}

fn remember(home: &Home, name: &str, namespaces: &[String]) -> Result<(), Failure> {
    let path = path(home, name);
    if !namespaces.is_empty() {
        return write_private(&path, format!("{}\n", namespaces.join("\n")).as_bytes());
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", &path, &e)),
        _ => Ok(()),
    }
}

/// Freezes the containers of some namespaces, or lets them go on. Returns how many containers changed.
///
/// # Errors
/// Fails if the cluster does not run, if all of it is paused, or if there is no such namespace.
pub async fn set_namespaces_paused(
    home: &Home,
    name: &str,
    namespaces: &[String],
    paused: bool,
    progress: &dyn Progress,
) -> Result<usize, Failure> {
    let (_lock, profile) = Profile::lock(home, name)?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    if states.contains(&NodeState::Paused) {
        return Err(crate::pause::failure(name));
    }
    if states.first() != Some(&NodeState::Running) {
        return Err(crate::access::not_running(name));
    }
    let mut all = paused_namespaces(home, name)?;
    if paused {
        check(home, &profile, namespaces).await?;
        all.extend(namespaces.iter().cloned());
        all.sort();
        all.dedup();
    } else {
        all.retain(|known| !namespaces.contains(known));
    }
    let list = namespaces.join(", ");
    match paused {
        true => progress.step("pause", &format!("Pausing the namespaces {list}")),
        false => progress.step("unpause", &format!("Unpausing the namespaces {list}")),
    }
    // Remembered first: what a node that fails has frozen can be thawed by the same command.
    if paused {
        remember(home, name, &all)?;
    }
    let changed = apply(home, &profile, &states, &all).await?;
    remember(home, name, &all)?;
    Ok(changed)
}

/// Fails if one of the namespaces does not exist.
async fn check(home: &Home, profile: &Profile, namespaces: &[String]) -> Result<(), Failure> {
    let api: Api<Namespace> = Api::all(access::client(home, profile).await?);
    for namespace in namespaces {
        let found = api.get_opt(namespace).await.map_err(|e| {
            let message = format!("cannot read the namespace '{namespace}': {e}");
            Failure::new(Source::ControlPlane, Kind::Error, message)
        })?;
        if found.is_none() {
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::NotFound,
                format!("there is no namespace '{namespace}'"),
            )
            .advise(format!(
                "list them with: {}",
                command("kubectl -- get namespaces", &profile.name)
            )));
        }
    }
    Ok(())
}

/// Makes the running nodes pause exactly these namespaces. Returns how many containers changed.
async fn apply(
    home: &Home,
    profile: &Profile,
    states: &[NodeState],
    namespaces: &[String],
) -> Result<usize, Failure> {
    let nodes = profile.nodes.iter().zip(states);
    let running = nodes.filter(|(_, state)| **state == NodeState::Running);
    let counts = running.map(|(node, _)| apply_to(home, profile, node, namespaces));
    Ok(try_join_all(counts).await?.into_iter().sum())
}

async fn apply_to(
    home: &Home,
    profile: &Profile,
    node: &Node,
    namespaces: &[String],
) -> Result<usize, Failure> {
    // Names of namespaces have no characters that a shell would read.
    let line = format!("rkube ctl pause {}", namespaces.join(" "));
    let mut out = Vec::new();
    let none = None::<tokio::io::Empty>;
    let (code, error) = access::on_node(home, profile, node, line.trim(), none, &mut out).await?;
    let count = String::from_utf8_lossy(&out).trim().parse();
    match (code, count) {
        (0, Ok(count)) => Ok(count),
        _ => Err(Failure::new(
            Source::Guest,
            Kind::Error,
            format!("the node {} cannot pause containers: {error}", node.name),
        )),
    }
}

/// Pauses the cluster's paused namespaces on a node that was started or added.
pub(crate) async fn join(home: &Home, profile: &Profile, node: &str) -> Result<(), Failure> {
    let namespaces = paused_namespaces(home, &profile.name)?;
    if !namespaces.is_empty() {
        apply_to(home, profile, profile.node(Some(node))?, &namespaces).await?;
    }
    Ok(())
}

/// Lets all namespaces of a cluster go on and forgets them. Returns how many containers changed.
pub(crate) async fn release(
    home: &Home,
    profile: &Profile,
    driver: &dyn Driver,
) -> Result<usize, Failure> {
    if !path(home, &profile.name).exists() {
        return Ok(0);
    }
    let states = driver.states(&profile.plan(home)).await?;
    let changed = apply(home, profile, &states, &[]).await?;
    remember(home, &profile.name, &[])?;
    Ok(changed)
}

/// Lets all namespaces go on before nodes are stopped or deleted: on version 1 of control groups no
/// signal ends a frozen process. A node that does not answer is stopped nevertheless.
pub(crate) async fn release_to_stop(
    home: &Home,
    profile: &Profile,
    driver: &dyn Driver,
    progress: &dyn Progress,
) {
    if let Err(failure) = release(home, profile, driver).await {
        progress.warn(&format!(
            "paused namespaces could not be resumed: {}",
            failure.message
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_remembered_until_none_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::create_dir_all(home.profile_dir("p")).unwrap();
        assert!(paused_namespaces(&home, "p").unwrap().is_empty());
        let names = ["a".to_owned(), "b".to_owned()];
        remember(&home, "p", &names).unwrap();
        assert_eq!(paused_namespaces(&home, "p").unwrap(), names);
        remember(&home, "p", &[]).unwrap();
        remember(&home, "p", &[]).unwrap();
        assert!(!path(&home, "p").exists());
        std::fs::create_dir(path(&home, "p")).unwrap();
        assert!(paused_namespaces(&home, "p").is_err());
    }
}
