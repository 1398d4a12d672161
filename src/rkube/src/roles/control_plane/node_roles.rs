//! Sets the labels that `kubectl get nodes` shows as roles.
//!
//! A node may not set these labels itself (NodeRestriction). kubeadm sets them during
//! installation.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const WORKER: &str = "node-role.kubernetes.io/worker";

/// Labels all nodes until the watch ends. `control_plane` is the name of the control-plane node.
pub async fn run(client: Client, control_plane: String) -> anyhow::Result<()> {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
    let changes = watcher(nodes.clone(), watcher::Config::default())
        .default_backoff()
        .touched_objects();
    futures::pin_mut!(changes);
    while let Some(change) = changes.next().await {
        let node = match change {
            Ok(node) => node,
            Err(e) => {
                tracing::warn!("watching nodes for their roles: {e}");
                continue;
            }
        };
        let name = node.name_any();
        let mut wanted = vec![WORKER];
        if name == control_plane {
            wanted.push(CONTROL_PLANE);
        }
        if wanted
            .iter()
            .all(|label| node.labels().contains_key(*label))
        {
            continue;
        }
        let labels: serde_json::Map<String, serde_json::Value> = wanted
            .iter()
            .map(|label| ((*label).to_owned(), "".into()))
            .collect();
        let patch = serde_json::json!({ "metadata": { "labels": labels } });
        match nodes
            .patch(
                &name,
                &PatchParams {
                    field_manager: Some("rkube".into()),
                    ..PatchParams::default()
                },
                &Patch::Merge(patch),
            )
            .await
        {
            Ok(_) => {}
            // The node was deleted in the meantime.
            Err(kube::Error::Api(e)) if e.code == 404 => {}
            Err(e) => tracing::warn!("labelling node {name} with its roles: {e}"),
        }
    }
    anyhow::bail!("the watch of nodes ended")
}
