//! Adds, stops, starts and deletes single nodes.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use kube::api::{DeleteParams, EvictParams, ListParams};
use kube::{Api, Client, ResourceExt};
use rkube_drivers::NodeState;
use rkube_failure::{Failure, Kind, Source, command};

use crate::files::Home;
use crate::pki::Pki;
use crate::plan::check_mounts;
use crate::profile::{Node, NodeSpec, Profile};
use crate::provision::{configure, provision};
use crate::publish;
use crate::ready::{RestartedNodes, wait_for_nodes};
use crate::{Progress, access};

/// The time that a new node may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// The time that the pods of a deleted node may take to terminate.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Adds a node to a cluster and starts it if the cluster is running. Takes it away again if that
/// fails, or when `interrupt` completes.
///
/// The future must not be dropped before it completes: the driver would continue its step.
pub async fn add_node(
    home: &Home,
    profile: &str,
    spec: &NodeSpec,
    interrupt: impl Future<Output = ()>,
    progress: &dyn Progress,
) -> Result<Node, Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let name = profile.push_spec(spec)?.name.clone();
    set_behind(&mut profile, &name, true);
    let added = profile.node(Some(&name))?;
    check_mounts(&profile.mounts_of(added))?;
    publish::check(&added.ports)?;
    if driver.publishes() {
        publish::complete(home, &mut profile)?;
    }
    let node = profile.node(Some(&name))?.clone();
    let states = driver.states(&profile.plan(home)).await?;
    if states.first() == Some(&NodeState::Paused) {
        return Err(crate::pause::failure(&profile.name));
    }
    progress.step("add", &format!("Adding the node {}", node.name));
    let result = async {
        profile.save(home)?;
        provision(home, &profile, &driver.binary().await?)?;
        if states.first() == Some(&NodeState::Running) {
            driver
                .start(&profile.plan(home), std::slice::from_ref(&node.name))
                .await?;
            let client = access::client(home, &profile).await?;
            let restarted = RestartedNodes::none();
            let ready = wait_for_nodes(
                &client,
                &profile.name,
                std::slice::from_ref(&node.name),
                &restarted,
                Instant::now() + READY_TIMEOUT,
            );
            tokio::select! {
                biased;
                () = interrupt => return Err(Failure::interruption()),
                ready = ready => ready?,
            }
            crate::paused::join(home, &profile, &node.name).await?;
        }
        Ok(())
    }
    .await;
    if let Err(failure) = result {
        // Undoes what was created; the first failure is the one to report.
        let _ = driver
            .remove(&profile.plan(home), std::slice::from_ref(&node.name))
            .await;
        if states.first() == Some(&NodeState::Running)
            && let Ok(client) = access::client(home, &profile).await
        {
            let _ = forget(&client, &node.name).await;
        }
        profile.nodes.retain(|n| n.name != node.name);
        profile.save(home)?;
        return Err(failure);
    }
    Ok(node)
}

/// Deletes the object of a node, if it has registered.
async fn forget(client: &Client, node: &str) -> Result<(), Failure> {
    let api: Api<ApiNode> = Api::all(client.clone());
    match api.delete(node, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        Err(e) => Err(Failure::new(
            Source::ControlPlane,
            Kind::Error,
            format!("cannot remove the node {node} from the cluster: {e}"),
        )),
    }
}

fn refuse_control_plane(profile: &str, node: &Node, action: &str) -> Result<(), Failure> {
    if node.control_plane {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!(
                "{} is the control-plane node, which the cluster cannot do without",
                node.name
            ),
        )
        .advise(format!(
            "{action} the whole cluster: {}",
            command(action, profile)
        )));
    }
    Ok(())
}

/// Drains a node and deletes it.
pub async fn delete_node(
    home: &Home,
    profile: &str,
    node: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    let node = profile.node(Some(node))?.clone();
    refuse_control_plane(&profile.name, &node, "delete")?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    let state = driver.states(&plan).await?.into_iter().next();
    if state == Some(NodeState::Paused) {
        return Err(crate::pause::failure(&profile.name));
    }
    let cluster_runs = state == Some(NodeState::Running);
    let client = if cluster_runs {
        Some(access::client(home, &profile).await?)
    } else {
        None
    };
    if let Some(client) = &client {
        progress.step("drain", &format!("Draining the node {}", node.name));
        if let Err(e) = drain(client, &node.name).await {
            progress.warn(&format!("the node was not drained completely: {e}"));
        }
    }
    progress.step("remove", &format!("Deleting the node {}", node.name));
    driver
        .remove(&plan, std::slice::from_ref(&node.name))
        .await?;
    if let Some(client) = &client {
        forget(client, &node.name).await?;
    }
    Pki::open(&home.profile_dir(&profile.name).join("pki"))?.forget(&node.name);
    profile.nodes.retain(|n| n.name != node.name);
    profile.save(home)?;
    configure(home, &profile)
}

/// Cordons the node and evicts its pods, except those of DaemonSets, like `kubectl drain
/// --ignore-daemonsets --delete-emptydir-data --force`. Gives up silently after [`DRAIN_TIMEOUT`].
async fn drain(client: &Client, node: &str) -> Result<(), kube::Error> {
    let nodes: Api<ApiNode> = Api::all(client.clone());
    match nodes.cordon(node).await {
        Ok(_) => {}
        // The node never registered, so it has no pods.
        Err(kube::Error::Api(e)) if e.code == 404 => return Ok(()),
        Err(e) => return Err(e),
    }
    let all: Api<Pod> = Api::all(client.clone());
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let evictable = |pod: &Pod| !pod.owner_references().iter().any(|o| o.kind == "DaemonSet");
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    loop {
        let pods: Vec<Pod> = all
            .list(&here)
            .await?
            .items
            .into_iter()
            .filter(evictable)
            .collect();
        if pods.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        let evictions = pods
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_none())
            .map(|pod| {
                let api: Api<Pod> =
                    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
                let name = pod.name_any();
                async move { api.evict(&name, &EvictParams::default()).await }
            });
        // Evictions that a disruption budget refuses (429) are retried in the next round.
        join_all(evictions).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Stops a node; it stays stopped until `rkube node start`.
pub async fn stop_node(
    home: &Home,
    profile: &str,
    node: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    let name = profile.node(Some(node))?.name.clone();
    refuse_control_plane(&profile.name, profile.node(Some(node))?, "stop")?;
    progress.step("stop", &format!("Stopping the node {name}"));
    let driver = rkube_drivers::by_name(&profile.driver)?;
    driver
        .stop(&profile.plan(home), std::slice::from_ref(&name))
        .await?;
    set_stopped(&mut profile, &name, true);
    profile.save(home)
}

/// Starts a node and waits for it to be ready.
pub async fn start_node(
    home: &Home,
    profile: &str,
    node: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    let name = profile.node(Some(node))?.name.clone();
    let driver = rkube_drivers::by_name(&profile.driver)?;
    crate::pause::refuse(home, &profile, profile.control_plane()).await?;
    progress.step("start", &format!("Starting the node {name}"));
    provision(home, &profile, &driver.binary().await?)?;
    let restarted = RestartedNodes::stopped(driver.as_ref(), home, &profile).await?;
    driver
        .start(&profile.plan(home), std::slice::from_ref(&name))
        .await?;
    set_stopped(&mut profile, &name, false);
    set_behind(&mut profile, &name, true);
    profile.save(home)?;
    let client = access::client(home, &profile).await?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let started = std::slice::from_ref(&name);
    wait_for_nodes(&client, &profile.name, started, &restarted, deadline).await?;
    crate::paused::join(home, &profile, &name).await
}

/// Notes that a node has the images that others got while it was stopped, or not there.
pub fn caught_up(home: &Home, profile: &str, node: &str) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, profile)?;
    set_behind(&mut profile, node, false);
    profile.save(home)
}

fn set_behind(profile: &mut Profile, name: &str, behind: bool) {
    for node in profile.nodes.iter_mut().filter(|n| n.name == name) {
        node.behind = behind;
    }
}

fn set_stopped(profile: &mut Profile, name: &str, stopped: bool) {
    for node in profile.nodes.iter_mut().filter(|n| n.name == name) {
        node.stopped = stopped;
    }
}
