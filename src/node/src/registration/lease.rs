//! The node's lease, which serves as its heartbeat.

use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tracing::debug;

use crate::client::retry_delay;
use crate::host::Host;
use crate::kinds::*;
use crate::node_object::NodeObject;

/// Namespace of node leases.
const NAMESPACE: &str = "kube-node-lease";
/// Time between two renewals, the kubelet's default.
const RENEW_PERIOD: Duration = Duration::from_secs(10);
/// Time between two renewals while the lease has no owner.
const UNOWNED_PERIOD: Duration = Duration::from_secs(1);
/// Validity of a lease in seconds (the kubelet's default).
const DURATION_SECONDS: i32 = 40;

/// Renews the node's lease until the future is dropped.
pub(crate) async fn renew_lease(
    client: kube::Client,
    host: Arc<Host>,
    node: NodeObject,
) -> anyhow::Result<()> {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let name = host.name();
    let mut current: Option<Lease> = None;
    let mut failures = 0;
    loop {
        let result = match current.take() {
            Some(lease) => renew(&api, name, &node, lease).await,
            None => acquire(&api, name, &node).await,
        };
        match result {
            Ok(lease) => {
                // Without an owner, the lease would not be garbage-collected with its node.
                let owned = lease.metadata.owner_references.is_some();
                current = Some(lease);
                failures = 0;
                let period = if owned { RENEW_PERIOD } else { UNOWNED_PERIOD };
                tokio::time::sleep(period).await;
            }
            Err(e) => {
                debug!("node lease: {e}");
                // The next attempt fetches the lease: another writer may have changed it.
                tokio::time::sleep(retry_delay(failures)).await;
                failures += 1;
            }
        }
    }
}

fn lease_spec(name: &str) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        renew_time: Some(MicroTime(jiff::Timestamp::now())),
        ..Default::default()
    }
}

/// Returns an owner reference to the node; `None` before it is registered.
fn owner(name: &str, node: &NodeObject) -> Option<Vec<OwnerReference>> {
    Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.get()?.uid()?,
        ..Default::default()
    }])
}

/// Fetches and renews the lease; creates it if it does not exist.
async fn acquire(api: &Api<Lease>, name: &str, node: &NodeObject) -> Result<Lease, kube::Error> {
    if let Some(lease) = api.get_opt(name).await? {
        return renew(api, name, node, lease).await;
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner(name, node),
            ..Default::default()
        },
        spec: Some(lease_spec(name)),
    };
    api.create(&PostParams::default(), &lease).await
}

async fn renew(
    api: &Api<Lease>,
    name: &str,
    node: &NodeObject,
    mut lease: Lease,
) -> Result<Lease, kube::Error> {
    lease.spec = Some(lease_spec(name));
    if let Some(owner) = owner(name, node) {
        lease.metadata.owner_references = Some(owner);
    }
    api.replace(name, &PostParams::default(), &lease).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_belongs_to_a_registered_node() {
        let node = NodeObject::default();
        assert_eq!(owner("n", &node), None);
        node.set(Node {
            metadata: ObjectMeta {
                uid: Some("u".into()),
                ..Default::default()
            },
            ..Default::default()
        });
        let owner = owner("n", &node).unwrap().remove(0);
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Node", "n"));
        assert_eq!(owner.uid, "u");
        let spec = lease_spec("n");
        assert_eq!(spec.holder_identity.as_deref(), Some("n"));
        assert_eq!(spec.lease_duration_seconds, Some(40));
    }
}
