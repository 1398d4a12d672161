//! The status of a cluster.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rkube_drivers::NodeState;
use rkube_failure::Failure;
use serde::Serialize;

use crate::access;
use crate::files::Home;
use crate::kubeconfig::Kubeconfig;
use crate::profile::Profile;
use crate::ready::is_ready;
use crate::schedule;

/// The time that the API server may take to respond.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// A cluster's state.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The profile's name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// One entry per node.
    pub nodes: Vec<NodeStatus>,
}

/// A node's state, with the field names of `minikube status -o json` and the node's address.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// The node's name.
    #[serde(rename = "Name")]
    pub name: String,
    /// The node's address.
    #[serde(rename = "IP")]
    pub ip: String,
    /// `Running`, `Stopped` or `Nonexistent`.
    #[serde(rename = "Host")]
    pub host: &'static str,
    /// `Running` when the node agent reports the node ready, else `Stopped`; the node's own state
    /// if that is not `Running`.
    #[serde(rename = "Kubelet")]
    pub kubelet: &'static str,
    /// `Running`, `Stopped`, `Paused`, or `Irrelevant` on a worker; the node's own state if that is
    /// not `Running`.
    #[serde(rename = "APIServer")]
    pub api_server: &'static str,
    /// `Configured`, `Misconfigured`, or `Irrelevant` on a worker; the node's own state if that is
    /// not `Running`.
    #[serde(rename = "Kubeconfig")]
    pub kubeconfig: &'static str,
    /// Whether this is a worker.
    #[serde(rename = "Worker")]
    pub worker: bool,
    /// The time until the scheduled stop, such as `4m59s`; of the control-plane node, if there is one.
    #[serde(rename = "TimeToStop", skip_serializing_if = "Option::is_none")]
    pub time_to_stop: Option<String>,
    /// The namespaces whose containers are frozen; of the control-plane node, if there are any.
    #[serde(rename = "PausedNamespaces", skip_serializing_if = "Vec::is_empty")]
    pub paused_namespaces: Vec<String>,
}

impl ClusterStatus {
    /// Returns the exit code of `rkube status` for these nodes.
    pub fn exit_code(&self) -> u8 {
        self.nodes
            .iter()
            .fold(0, |code, node| code | node.exit_code())
    }

    /// Whether the cluster is paused.
    pub fn is_paused(&self) -> bool {
        self.nodes.iter().any(|node| node.api_server == "Paused")
    }

    /// Whether every node and the API server run. The kubeconfig does not matter for it.
    pub fn is_healthy(&self) -> bool {
        self.nodes.iter().all(|node| node.exit_code() & 3 == 0)
    }
}

impl NodeStatus {
    /// Returns the exit code of `rkube status` for one node.
    ///
    /// As with minikube it is a sum: 1 if the node is not running, 2 if its kubelet or API server is
    /// not, 4 if the kubeconfig does not refer to the cluster.
    pub fn exit_code(&self) -> u8 {
        let off = |state| state != "Running" && state != "Irrelevant";
        u8::from(self.host != "Running")
            + 2 * u8::from(off(self.api_server) || off(self.kubelet))
            + 4 * u8::from(!matches!(self.kubeconfig, "Configured" | "Irrelevant"))
    }
}

/// Reads the status from the driver and the API server.
pub async fn status(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
) -> Result<ClusterStatus, Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    let api_nodes = if states.first() == Some(&NodeState::Running) {
        let client = access::client(home, profile).await?;
        let api: Api<ApiNode> = Api::all(client);
        let listed = tokio::time::timeout(API_TIMEOUT, api.list(&ListParams::default())).await;
        listed.ok().and_then(Result::ok).map(|l| l.items)
    } else {
        None
    };
    let server = access::server(home, profile)?;
    let paused_namespaces = crate::paused::paused_namespaces(home, &profile.name)?;
    let time_to_stop = schedule::time_to_stop(home, &profile.name);
    let up = |yes: bool| if yes { "Running" } else { "Stopped" };
    let nodes = profile
        .nodes
        .iter()
        .zip(states)
        .map(|(node, state)| {
            let host = match state {
                NodeState::Running | NodeState::Paused => "Running",
                NodeState::Stopped => "Stopped",
                NodeState::Missing => "Nonexistent",
            };
            let ready = state == NodeState::Running
                && api_nodes
                    .iter()
                    .flatten()
                    .any(|n| n.name_any() == node.name && is_ready(n));
            let paused = state == NodeState::Paused;
            let (api_server, configured) = if host != "Running" {
                (host, host)
            } else if node.control_plane {
                let configured = kubeconfig.has(&profile.context(), &server);
                (
                    match paused {
                        true => "Paused",
                        false => up(api_nodes.is_some()),
                    },
                    if configured {
                        "Configured"
                    } else {
                        "Misconfigured"
                    },
                )
            } else {
                ("Irrelevant", "Irrelevant")
            };
            NodeStatus {
                name: node.name.clone(),
                ip: profile.node_ip(node).to_string(),
                host,
                kubelet: if host == "Running" { up(ready) } else { host },
                api_server,
                kubeconfig: configured,
                worker: !node.control_plane,
                time_to_stop: time_to_stop.clone().filter(|_| node.control_plane),
                // A node that was switched off has forgotten them.
                paused_namespaces: match node.control_plane && host == "Running" {
                    true => paused_namespaces.clone(),
                    false => Vec::new(),
                },
            }
        })
        .collect();
    Ok(ClusterStatus {
        name: profile.name.clone(),
        driver: profile.driver.clone(),
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_adds_up() {
        let node = |host, kubelet, api_server| NodeStatus {
            name: "n".into(),
            ip: String::new(),
            host,
            kubelet,
            api_server,
            kubeconfig: "Configured",
            worker: false,
            time_to_stop: None,
            paused_namespaces: Vec::new(),
        };
        let status = |node| ClusterStatus {
            name: "p".into(),
            driver: "native".into(),
            nodes: vec![node],
        };
        assert_eq!(status(node("Running", "Running", "Running")).exit_code(), 0);
        let mut stopped = status(node("Stopped", "Stopped", "Stopped"));
        stopped.nodes[0].kubeconfig = "Stopped";
        assert_eq!(stopped.exit_code(), 7);
        let starting = status(node("Running", "Stopped", "Irrelevant"));
        assert_eq!(starting.exit_code(), 2);
        assert!(!starting.is_healthy());
        // minikube's code for a paused cluster.
        let paused = status(node("Running", "Stopped", "Paused"));
        assert_eq!(paused.exit_code(), 2);
        assert!(paused.is_paused());
        let mut stale = status(node("Running", "Running", "Running"));
        stale.nodes[0].kubeconfig = "Misconfigured";
        assert_eq!(stale.exit_code(), 4);
        assert!(stale.is_healthy());
    }
}
