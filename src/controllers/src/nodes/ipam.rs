//! Allocates pod CIDRs to nodes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::Patch;
use serde_json::json;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Normal;
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "cidrAllocator";

/// Prefix lengths of a node's pod CIDRs, upstream's defaults.
const IPV4_MASK: u8 = 24;
const IPV6_MASK: u8 = 64;

/// Returns the node's pod CIDRs.
fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter();
    let first = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let all = listed.flatten().chain(first);
    all.filter_map(|range| range.parse().ok()).collect()
}

/// Returns the first range with prefix length `mask` within `cluster` that overlaps none of
/// `taken`.
pub fn find_free_range(cluster: IpNet, mask: u8, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    cluster
        .subnets(mask)
        .ok()?
        .find(|range| !taken.iter().any(|other| overlaps(range, other)))
}

/// The controller that gives nodes their ranges of pod addresses.
pub struct RangeAllocator {
    ctx: Context,
    queue: Queue<Key>,
}

impl RangeAllocator {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for RangeAllocator {
    type Item = Key;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn workers(&self) -> usize {
        1 // so that no range is allocated twice
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.watches(&self.ctx.informers.nodes, |change, queue| {
            if !change.is_deletion() && ranges(change.object()).is_empty() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, key).await
    }
}

async fn sync(ctx: &Context, key: Key) -> Result<()> {
    let store = &ctx.informers.nodes;
    let Some(node) = store.by_key(&key) else {
        return Ok(());
    };
    let has_range = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.pod_cidr.is_some());
    if has_range || node.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let taken = store.list().iter().flat_map(|node| ranges(node)).collect();
    let free = ctx.config.pod_cidrs.iter().map(|cluster| {
        let mask = match cluster {
            IpNet::V4(_) => IPV4_MASK,
            IpNet::V6(_) => IPV6_MASK,
        };
        find_free_range(*cluster, mask.max(cluster.prefix_len()), &taken)
    });
    let Some(free) = free.collect::<Option<Vec<IpNet>>>() else {
        let message = format!("Node {key} status is now: CIDRNotAvailable");
        ctx.recorder.event_about(
            NAME,
            super::reference(&node),
            Normal,
            "CIDRNotAvailable",
            message,
        );
        return Err(Error::other(format!(
            "no range of {:?} is left",
            ctx.config.pod_cidrs
        )));
    };
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"podCIDR": free.first(), "podCIDRs": free},
    });
    optional(
        ctx.patch(store, &node.metadata, None, &Patch::Merge(patch))
            .await,
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_range_is_taken() {
        let cluster: IpNet = "10.244.0.0/22".parse().unwrap();
        let mut taken = BTreeSet::new();
        for expected in [
            "10.244.0.0/24",
            "10.244.1.0/24",
            "10.244.2.0/24",
            "10.244.3.0/24",
        ] {
            let range = find_free_range(cluster, 24, &taken).unwrap();
            assert_eq!(range.to_string(), expected);
            taken.insert(range);
        }
        assert_eq!(find_free_range(cluster, 24, &taken), None);
        let wide = BTreeSet::from(["10.244.0.0/23".parse().unwrap()]);
        assert_eq!(
            find_free_range(cluster, 24, &wide).unwrap().to_string(),
            "10.244.2.0/24"
        );
        let cluster: IpNet = "fd00:10:244::/56".parse().unwrap();
        let taken = BTreeSet::from(["fd00:10:244::/64".parse().unwrap()]);
        let range = find_free_range(cluster, 64, &taken).unwrap();
        assert_eq!(range.to_string(), "fd00:10:244:1::/64");
    }
}
