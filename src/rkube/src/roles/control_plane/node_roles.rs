//! Sets the labels and taints that a node may not set when it registers (NodeRestriction).
//!
//! These are the labels that `kubectl get nodes` shows as roles, and the labels and taints of the
//! profile. kubeadm sets them during installation. Those of the profile are set once, with the
//! roles, so that what users change later is kept.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use rkube_client::controller::{Controller, Watches, start};
use rkube_client::error::Result;
use rkube_client::informers::{Key, Source, Store, reflect};
use rkube_client::queue::Queue;
use rkube_config::{NodeAddress, NodeConfig, paths};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const WORKER: &str = "node-role.kubernetes.io/worker";
/// The number of attempts of a write that conflicts with another one.
const ATTEMPTS: usize = 10;

/// Labels and taints nodes. An item is the name of a node without its roles.
struct NodeRoles {
    queue: Queue<Key>,
    nodes: Store<PartialObjectMeta<Node>>,
    client: Client,
    /// The configuration of the control-plane node.
    config: NodeConfig,
}

impl Controller for NodeRoles {
    type Item = Key;

    fn name(&self) -> &'static str {
        "node-roles"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.present(&self.nodes);
    }

    async fn reconcile(&self, item: Key) -> Result<()> {
        let Some(node) = self.nodes.by_key(&item) else {
            return Ok(());
        };
        let roles = roles(&item.name, &self.config);
        if roles.iter().all(|role| node.labels().contains_key(*role)) {
            return Ok(());
        }
        Ok(register(&self.client, &item.name, &roles, &self.config).await?)
    }
}

/// Labels and taints all nodes until the future is dropped. `config` is that of the control-plane
/// node.
pub async fn run(client: Client, config: NodeConfig) -> anyhow::Result<()> {
    let nodes = Store::new();
    let roles = start(NodeRoles {
        queue: Queue::new(),
        nodes: nodes.clone(),
        client: client.clone(),
        config,
    });
    let source = Source::of::<Node>(None).metadata_only();
    tokio::join!(roles, reflect(client, source, nodes));
    anyhow::bail!("the controller of node roles ended")
}

/// Returns the labels of a node's roles.
fn roles(name: &str, config: &NodeConfig) -> Vec<&'static str> {
    match name == config.name {
        true => vec![WORKER, CONTROL_PLANE],
        false => vec![WORKER],
    }
}

/// Sets the labels and taints of a node that has registered.
async fn register(
    client: &Client,
    name: &str,
    roles: &[&str],
    config: &NodeConfig,
) -> kube::Result<()> {
    // Read again: nodes may have been added since this process started.
    let current = NodeConfig::read(paths::NODE_CONFIG);
    let all = current
        .as_ref()
        .map_or(&config.cluster.nodes, |c| &c.cluster.nodes);
    let wanted = all.iter().find(|node| node.name == name);
    let api: Api<Node> = Api::all(client.clone());
    let options = PostParams {
        field_manager: Some("rkube".into()),
        ..PostParams::default()
    };
    for attempt in 1.. {
        // Taints are replaced as a whole, so that a patch could drop those of controllers.
        let Some(mut node) = api.get_opt(name).await? else {
            return Ok(());
        };
        complete(&mut node, roles, wanted);
        match api.replace(name, &options, &node).await {
            // The node was deleted in the meantime.
            Err(kube::Error::Api(e)) if e.code == 404 => return Ok(()),
            Err(kube::Error::Api(e)) if e.code == 409 && attempt < ATTEMPTS => {}
            result => return result.map(drop),
        }
    }
    Ok(())
}

/// Adds labels and taints to a node.
fn complete(node: &mut Node, roles: &[&str], wanted: Option<&NodeAddress>) {
    let labels = node.labels_mut();
    for role in roles {
        labels.insert((*role).to_owned(), String::new());
    }
    let Some(wanted) = wanted else {
        return;
    };
    labels.extend(wanted.labels.clone());
    let taints = node
        .spec
        .get_or_insert_default()
        .taints
        .get_or_insert_default();
    for taint in &wanted.taints {
        taints.retain(|other| other.key != taint.key || other.effect != taint.effect);
        taints.push(Taint {
            key: taint.key.clone(),
            value: (!taint.value.is_empty()).then(|| taint.value.clone()),
            effect: taint.effect.clone(),
            time_added: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_the_taints_of_controllers() {
        let taint = |key: &str, effect: &str| Taint {
            key: key.into(),
            effect: effect.into(),
            ..Taint::default()
        };
        let mut node = Node::default();
        let not_ready = taint("node.kubernetes.io/not-ready", "NoSchedule");
        node.spec.get_or_insert_default().taints = Some(vec![not_ready.clone()]);
        let wanted = NodeAddress {
            name: "n".into(),
            ip: [10, 0, 0, 2].into(),
            labels: [("tier".to_owned(), "a".to_owned())].into(),
            taints: vec![rkube_config::Taint {
                key: "dedicated".into(),
                value: String::new(),
                effect: "NoExecute".into(),
            }],
        };
        complete(&mut node, &[WORKER], Some(&wanted));
        // Nothing is added twice.
        complete(&mut node, &[WORKER], Some(&wanted));
        let taints = node.spec.as_ref().unwrap().taints.as_ref().unwrap();
        assert_eq!(taints, &[not_ready, taint("dedicated", "NoExecute")]);
        assert_eq!(node.labels()["tier"], "a");
        assert!(node.labels().contains_key(WORKER));
    }
}
