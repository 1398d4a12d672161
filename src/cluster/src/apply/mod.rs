//! Brings a cluster that runs to what a cluster file says.
//!
//! [`changes`] is a pure comparison of the profile with the file; [`make`] carries out one change.
//! Nodes have no names in the file. Each is paired with a node of the cluster: first those that are
//! equal, then those that differ only in what a node can change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Node as ApiNode, Taint as ApiTaint};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rkube_config::Taint;
use rkube_config::registries::Registries;
use rkube_drivers::{HostMount, NodeState, PortMapping};
use rkube_failure::{Failure, Kind, Source};

use crate::files::Home;
use crate::labels::taint_text;
use crate::plan::{check_mounts, refuse_mounts};
use crate::profile::{Node, NodeSpec, Profile};
use crate::provision::configure;
use crate::registries::{RegistryChanges, no_proxy};
use crate::{Progress, access, directories, nodes, pause, publish};

/// The number of attempts of a write that conflicts with another one.
const ATTEMPTS: usize = 10;

/// The settings of a cluster in a file; `None` for those that it does not mention.
#[derive(Clone, Debug, Default)]
pub struct DesiredState {
    /// The nodes, the first of which runs the control plane.
    pub nodes: Option<Vec<NodeSpec>>,
    /// Directories that all nodes see.
    pub mounts: Option<Vec<HostMount>>,
    /// Registries reached over plain HTTP.
    pub insecure_registries: Option<Vec<String>>,
    /// Mirrors, certificates and credentials.
    pub registries: Option<RegistryChanges>,
}

/// A difference between a cluster and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A directory that is no longer mounted, of all nodes or of one.
    Unmount {
        /// The node, if the directory is only in this one.
        node: Option<String>,
        /// The path in the nodes.
        path: PathBuf,
    },
    /// A directory to mount.
    Mount {
        /// The node, if the directory is for this one only.
        node: Option<String>,
        /// The directory.
        mount: HostMount,
    },
    /// Labels of a node.
    Label {
        /// The node.
        node: String,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Keys to remove.
        remove: BTreeSet<String>,
    },
    /// Taints of a node.
    Taint {
        /// The node.
        node: String,
        /// Taints to set.
        set: Vec<Taint>,
        /// Taints to remove.
        remove: Vec<Taint>,
    },
    /// A worker that the profile has and that does not run, although it was not stopped.
    Start(String),
    /// A node to add.
    Add(NodeSpec),
    /// A node to delete.
    Delete(String),
    /// Registries reached over plain HTTP, from the next start on.
    Registries(Vec<String>),
    /// Mirrors, certificates and credentials, from the next start on.
    RegistrySettings(Box<Registries>),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |node: &Option<String>| match node {
            Some(node) => format!("the node {node}"),
            None => "all nodes".to_owned(),
        };
        match self {
            Self::Unmount { node, path } => {
                write!(f, "unmount {} in {}", path.display(), of(node))
            }
            Self::Mount { node, mount } => write!(f, "mount {mount} in {}", of(node)),
            Self::Label { node, set, remove } => {
                let set = set.iter().map(|(key, value)| format!("{key}={value}"));
                let remove = remove.iter().map(|key| format!("{key}-"));
                let all: Vec<String> = set.chain(remove).collect();
                write!(f, "label the node {node}: {}", all.join(" "))
            }
            Self::Taint { node, set, remove } => {
                let set = set.iter().map(taint_text);
                let remove = remove.iter().map(|taint| format!("{}-", taint_text(taint)));
                let all: Vec<String> = set.chain(remove).collect();
                write!(f, "taint the node {node}: {}", all.join(" "))
            }
            Self::Start(node) => write!(f, "start the node {node}"),
            Self::Add(_) => f.write_str("add a worker node"),
            Self::Delete(node) => write!(f, "delete the node {node}"),
            Self::RegistrySettings(_) => {
                f.write_str("change mirrors, certificates and credentials of registries")
            }
            Self::Registries(names) => {
                let names = match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.join(", "),
                };
                write!(f, "set the registries without TLS: {names}")
            }
        }
    }
}

impl Step {
    /// Returns the words of the command that carries the step out on a cluster that is stopped. Only
    /// directories may have to wait for that.
    pub fn command(&self) -> Option<String> {
        let on = |node: &Option<String>| match node {
            Some(node) => format!(" --node {node}"),
            None => String::new(),
        };
        match self {
            Self::Unmount { node, path } => {
                Some(format!("mount --remove {}{}", path.display(), on(node)))
            }
            Self::Mount { node, mount } => Some(format!("mount {mount}{}", on(node))),
            _ => None,
        }
    }

    /// Whether the step mounts a directory where `other` takes one away, which has to come first.
    pub fn needs(&self, other: &Self) -> bool {
        let (Self::Mount { node, mount }, Self::Unmount { node: only, path }) = (self, other)
        else {
            return false;
        };
        mount.node == *path && (node.is_none() || only.is_none() || node == only)
    }
}

/// Returns what has to change for a cluster to be as wanted, in the order in which to do it.
///
/// # Errors
/// Fails with the reason if the control-plane node would have to be another one.
pub fn changes(profile: &Profile, wanted: &DesiredState) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    if let Some(mounts) = &wanted.mounts {
        mount_steps(None, &profile.mounts, mounts, &mut steps);
    }
    if let Some(specs) = &wanted.nodes {
        node_steps(profile, specs, &mut steps)?;
    }
    if let Some(registries) = &wanted.insecure_registries
        && *registries != profile.insecure_registries
    {
        steps.push(Step::Registries(registries.clone()));
    }
    if let Some(registries) = &wanted.registries {
        let settings = registries.applied(&profile.registries, &no_proxy(profile));
        if settings != profile.registries {
            steps.push(Step::RegistrySettings(Box::new(settings)));
        }
    }
    sort(&mut steps);
    Ok(steps)
}

/// Adds the start of the nodes in `down`, except those that are to go.
pub fn add_starts(steps: &mut Vec<Step>, down: Vec<String>) {
    for node in down {
        if !steps.contains(&Step::Delete(node.clone())) {
            steps.push(Step::Start(node));
        }
    }
    sort(steps);
}

/// Returns the workers that do not run, without those that `rkube node stop` has stopped.
pub async fn down(home: &Home, profile: &Profile) -> Result<Vec<String>, Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    let nodes = profile.nodes.iter().zip(states);
    let down = nodes.filter(|(node, state)| {
        let is_down = matches!(state, NodeState::Stopped | NodeState::Missing);
        is_down && !node.stopped && !node.control_plane
    });
    Ok(down.map(|(node, _)| node.name.clone()).collect())
}

/// Fails if a step cannot be carried out for a reason that is known before the first one.
///
/// Such are a directory that does not exist, two directories at one path, and a host port that is
/// taken.
pub fn check(profile: &Profile, steps: &[Step]) -> Result<(), Failure> {
    let mut then = profile.clone();
    // Nodes whose directories are looked at: others have theirs.
    let mut fresh = BTreeSet::new();
    let mut given_back = Vec::new();
    for step in steps {
        match step {
            Step::Unmount { node: None, path } => then.mounts.retain(|m| m.node != *path),
            Step::Mount { node: None, mount } => {
                then.mounts.push(mount.clone());
                fresh.extend(then.nodes.iter().map(|node| node.name.clone()));
            }
            Step::Unmount {
                node: Some(name),
                path,
            } => {
                for node in then.nodes.iter_mut().filter(|node| node.name == *name) {
                    node.mounts.retain(|m| m.node != *path);
                }
            }
            Step::Mount {
                node: Some(name),
                mount,
            } => {
                for node in then.nodes.iter_mut().filter(|node| node.name == *name) {
                    node.mounts.push(mount.clone());
                    fresh.insert(name.clone());
                }
            }
            Step::Add(spec) => {
                let at = |p: &PortMapping| (p.host_ip, p.host_port, p.protocol);
                for port in &spec.ports {
                    // Nodes that are stopped do not listen.
                    if then.all_ports().any(|other| at(other) == at(port)) {
                        return Err(twice(port));
                    }
                    if !given_back.iter().any(|held| at(held) == at(port)) {
                        publish::check([port])?;
                    }
                }
                fresh.insert(then.push_spec(spec)?.name.clone());
            }
            Step::Delete(name) => {
                let goes = then.nodes.iter().filter(|node| node.name == *name);
                given_back.extend(goes.flat_map(|node| node.ports.iter().copied()));
                then.nodes.retain(|node| node.name != *name);
                fresh.remove(name);
            }
            Step::Start(_)
            | Step::Label { .. }
            | Step::Taint { .. }
            | Step::Registries(_)
            | Step::RegistrySettings(_) => {}
        }
    }
    for node in then.nodes.iter().filter(|node| fresh.contains(&node.name)) {
        let mounts = then.mounts_of(node);
        if !mounts.is_empty() {
            refuse_mounts(rkube_drivers::by_name(&then.driver)?.as_ref())?;
        }
        check_mounts(&mounts)?;
    }
    Ok(())
}

fn twice(port: &PortMapping) -> Failure {
    let message = format!("two nodes cannot both publish the host port of {port}");
    Failure::new(Source::Program, Kind::Usage, message).advise("choose another host port")
}

/// Puts steps into the order in which to do them.
fn sort(steps: &mut [Step]) {
    // Steps that remove something make room for those that replace it.
    steps.sort_by_key(|step| match step {
        Step::Unmount { .. } => 0,
        Step::Mount { .. } => 1,
        // It registers then, and can be labelled.
        Step::Start(_) => 2,
        Step::Label { .. } | Step::Taint { .. } => 3,
        Step::Add(spec) if spec.ports.is_empty() => 4,
        Step::Delete(_) => 5,
        // Its ports may be those of a node that goes.
        Step::Add(_) => 6,
        Step::Registries(_) | Step::RegistrySettings(_) => 7,
    });
}

fn node_steps(profile: &Profile, specs: &[NodeSpec], steps: &mut Vec<Step>) -> Result<(), String> {
    let Some((first, workers)) = specs.split_first() else {
        return Ok(());
    };
    let control_plane = profile.control_plane();
    if !is_fixed_as(control_plane, first, &profile.ports) {
        return Err(format!(
            "CPU and memory limits and ports of the control-plane node {} cannot be changed",
            control_plane.name
        ));
    }
    alter(control_plane, first, steps);
    let present: Vec<&Node> = profile.nodes.iter().filter(|n| !n.control_plane).collect();
    let mut partner: Vec<Option<usize>> = vec![None; present.len()];
    let equal = |node: &Node, spec: &NodeSpec| {
        node.is_as(spec, &node.ports) && is_fixed_as(node, spec, &node.ports)
    };
    let alike = |node: &Node, spec: &NodeSpec| is_fixed_as(node, spec, &node.ports);
    for exactly in [true, false] {
        for (i, spec) in workers.iter().enumerate() {
            if partner.contains(&Some(i)) {
                continue;
            }
            let fits = |node: &Node| match exactly {
                true => equal(node, spec),
                false => alike(node, spec),
            };
            let free = |at: &usize| partner[*at].is_none() && fits(present[*at]);
            if let Some(at) = (0..present.len()).find(free) {
                partner[at] = Some(i);
            }
        }
    }
    for (node, partner) in present.iter().zip(&partner) {
        match partner {
            Some(i) => alter(node, &workers[*i], steps),
            None => steps.push(Step::Delete(node.name.clone())),
        }
    }
    let fresh = workers.iter().enumerate();
    let fresh = fresh.filter(|(i, _)| !partner.contains(&Some(*i)));
    steps.extend(fresh.map(|(_, spec)| Step::Add(spec.clone())));
    Ok(())
}

/// Whether a node is as `spec` says in what it cannot change. A limit that the file does not mention
/// may come from a flag or a setting, so it stays.
fn is_fixed_as(node: &Node, spec: &NodeSpec, ports: &[PortMapping]) -> bool {
    let stays = |now: Option<u64>, then: Option<u64>| then.is_none() || now == then;
    stays(node.cpu_millis, spec.cpu_millis)
        && stays(node.memory_bytes, spec.memory_bytes)
        && ports.len() == spec.ports.len()
        && spec.ports.iter().all(|port| ports.contains(port))
}

/// Adds what changes about a node that stays.
fn alter(node: &Node, spec: &NodeSpec, steps: &mut Vec<Step>) {
    mount_steps(Some(&node.name), &node.mounts, &spec.mounts, steps);
    let set = spec
        .labels
        .iter()
        .filter(|(k, v)| node.labels.get(*k) != Some(v));
    let set: BTreeMap<String, String> = set.map(|(k, v)| (k.clone(), v.clone())).collect();
    let remove = node.labels.keys().filter(|k| !spec.labels.contains_key(*k));
    let remove: BTreeSet<String> = remove.cloned().collect();
    if !set.is_empty() || !remove.is_empty() {
        let node = node.name.clone();
        steps.push(Step::Label { node, set, remove });
    }
    let without = |all: &[Taint], others: &[Taint]| -> Vec<Taint> {
        let rest = all.iter().filter(|taint| !others.contains(taint));
        rest.cloned().collect()
    };
    let set = without(&spec.taints, &node.taints);
    let remove = without(&node.taints, &spec.taints);
    if !set.is_empty() || !remove.is_empty() {
        let node = node.name.clone();
        steps.push(Step::Taint { node, set, remove });
    }
}

fn mount_steps(node: Option<&str>, now: &[HostMount], then: &[HostMount], steps: &mut Vec<Step>) {
    let node = node.map(str::to_owned);
    for mount in now.iter().filter(|mount| !then.contains(mount)) {
        steps.push(Step::Unmount {
            node: node.clone(),
            path: mount.node.clone(),
        });
    }
    for mount in then.iter().filter(|mount| !now.contains(mount)) {
        steps.push(Step::Mount {
            node: node.clone(),
            mount: mount.clone(),
        });
    }
}

/// Fails unless the cluster runs and is not paused.
pub async fn check_running(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    pause::refuse(home, profile, profile.control_plane()).await?;
    if driver.is_up(&profile.plan(home)).await {
        return Ok(());
    }
    Err(access::not_running(&profile.name))
}

/// Carries out a change, or undoes it when `interrupt` completes.
///
/// A future that adds a node must not be dropped before it completes; see [`nodes::add_node`].
/// Others do not look at `interrupt`.
pub async fn make(
    home: &Home,
    name: &str,
    step: &Step,
    interrupt: impl Future<Output = ()>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    match step {
        Step::Unmount { node, path } => {
            directories::unmount(home, name, node.as_deref(), path, progress).await
        }
        Step::Mount { node, mount } => {
            directories::mount(home, name, node.as_deref(), mount, progress).await
        }
        Step::Add(spec) => nodes::add_node(home, name, spec, interrupt, progress)
            .await
            .map(drop),
        Step::Start(node) => nodes::start_node(home, name, node, progress).await,
        Step::Delete(node) => nodes::delete_node(home, name, node, progress).await,
        Step::Label { node, set, remove } => {
            progress.step("label", &format!("Labelling the node {node}"));
            let client = access::client(home, &Profile::load(home, name)?).await?;
            label(&client, node, set, remove).await?;
            edit(home, name, node, |node| {
                node.labels.retain(|key, _| !remove.contains(key));
                node.labels.extend(set.clone());
            })
        }
        Step::Taint { node, set, remove } => {
            progress.step("taint", &format!("Tainting the node {node}"));
            let client = access::client(home, &Profile::load(home, name)?).await?;
            taint(&client, node, set, remove).await?;
            edit(home, name, node, |node| {
                node.taints.retain(|taint| !remove.contains(taint));
                node.taints.extend(set.iter().cloned());
            })
        }
        Step::RegistrySettings(registries) => {
            let (_lock, mut profile) = Profile::lock(home, name)?;
            profile.registries.clone_from(registries);
            profile.save(home)
        }
        Step::Registries(registries) => {
            let (_lock, mut profile) = Profile::lock(home, name)?;
            profile.insecure_registries.clone_from(registries);
            profile.save(home)
        }
    }
}

/// Changes the description of a node, with which it would register again.
fn edit(
    home: &Home,
    name: &str,
    node: &str,
    change: impl FnOnce(&mut Node),
) -> Result<(), Failure> {
    let (_lock, mut profile) = Profile::lock(home, name)?;
    if let Some(found) = profile.nodes.iter_mut().find(|other| other.name == node) {
        change(found);
    }
    profile.save(home)?;
    configure(home, &profile)
}

fn refused(what: &str, node: &str, e: &kube::Error) -> Failure {
    Failure::new(
        Source::ControlPlane,
        Kind::Error,
        format!("cannot {what} the node {node}: {e}"),
    )
}

async fn label(
    client: &Client,
    node: &str,
    set: &BTreeMap<String, String>,
    remove: &BTreeSet<String>,
) -> Result<(), Failure> {
    let mut labels = serde_json::Map::new();
    labels.extend(
        remove
            .iter()
            .map(|key| (key.clone(), serde_json::Value::Null)),
    );
    labels.extend(set.iter().map(|(k, v)| (k.clone(), v.clone().into())));
    let patch = serde_json::json!({ "metadata": { "labels": labels } });
    let api: Api<ApiNode> = Api::all(client.clone());
    let params = PatchParams {
        field_manager: Some("rkube".into()),
        ..PatchParams::default()
    };
    let done = api.patch(node, &params, &Patch::Merge(patch)).await;
    done.map(drop).map_err(|e| refused("label", node, &e))
}

/// Changes taints, and keeps those of controllers and users.
async fn taint(
    client: &Client,
    node: &str,
    set: &[Taint],
    remove: &[Taint],
) -> Result<(), Failure> {
    let api: Api<ApiNode> = Api::all(client.clone());
    let options = PostParams {
        field_manager: Some("rkube".into()),
        ..PostParams::default()
    };
    let mut attempt = 1;
    loop {
        let failed = |e: &kube::Error| refused("taint", node, e);
        let mut found = api.get(node).await.map_err(|e| failed(&e))?;
        let spec = found.spec.get_or_insert_default();
        let taints = with_taints(spec.taints.take().unwrap_or_default(), set, remove);
        spec.taints = Some(taints);
        match api.replace(node, &options, &found).await {
            Err(kube::Error::Api(e)) if e.code == 409 && attempt < ATTEMPTS => attempt += 1,
            done => return done.map(drop).map_err(|e| failed(&e)),
        }
    }
}

/// Returns the taints of a node after a change. Key and effect identify a taint.
fn with_taints(mut now: Vec<ApiTaint>, set: &[Taint], remove: &[Taint]) -> Vec<ApiTaint> {
    let is = |a: &ApiTaint, b: &Taint| a.key == b.key && a.effect == b.effect;
    now.retain(|taint| !set.iter().chain(remove).any(|other| is(taint, other)));
    now.extend(set.iter().map(|taint| ApiTaint {
        key: taint.key.clone(),
        effect: taint.effect.clone(),
        value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
        time_added: None,
    }));
    now
}

#[cfg(test)]
mod tests;
