//! Limits the connections of clients that are not the control plane.
//!
//! Every pod can connect, and each connection takes a task and buffers. The API server's streams
//! (logs, exec, port-forward) are not counted once its certificate is known. Until then, they
//! count as others of its node do: nodes have shares of their own, which pods cannot use up.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Maximum number of counted connections.
const ALL: usize = 512;
/// Maximum number of counted connections of one address.
const PER_ADDRESS: usize = 64;

/// The counted connections by address.
#[derive(Clone, Default)]
pub(super) struct Connections {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Addresses that are only limited by [`PER_ADDRESS`].
    nodes: Arc<HashSet<IpAddr>>,
}

/// A counted connection. It is no longer counted when this is dropped.
pub(super) struct Slot {
    connections: Connections,
    address: IpAddr,
}

impl Connections {
    /// Returns the limits of a cluster whose nodes have these addresses.
    pub(super) fn new(nodes: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            counts: Arc::default(),
            nodes: Arc::new(nodes.into_iter().collect()),
        }
    }

    /// Counts a connection; returns `None` if there are too many.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let mut counts = self.counts.lock();
        let own = counts.get(&address).copied().unwrap_or(0);
        let others = || -> usize {
            let counted = counts.iter().filter(|(a, _)| !self.nodes.contains(a));
            counted.map(|(_, count)| count).sum()
        };
        if own >= PER_ADDRESS || (!self.nodes.contains(&address) && others() >= ALL) {
            return None;
        }
        counts.insert(address, own + 1);
        Some(Slot {
            connections: self.clone(),
            address,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_others() {
        let connections = Connections::default();
        let address = |i: u8| IpAddr::from([10, 0, 0, i]);
        let mut held: Vec<Slot> = std::iter::from_fn(|| connections.admit(address(1))).collect();
        assert_eq!(held.len(), PER_ADDRESS);
        held.pop();
        held.push(connections.admit(address(1)).unwrap());
        assert!(connections.admit(address(1)).is_none());
        for client in 2..=u8::MAX {
            held.extend(std::iter::from_fn(|| connections.admit(address(client))));
        }
        assert_eq!(held.len(), ALL);
        assert!(connections.admit(address(0)).is_none());
        held.clear();
        assert!(connections.counts.lock().is_empty());
        assert!(connections.admit(address(0)).is_some());
    }

    #[test]
    fn pods_leave_room_for_nodes() {
        let node = IpAddr::from([10, 1, 0, 1]);
        let connections = Connections::new([node]);
        let of = |address| std::iter::from_fn(move || Some(address));
        let mut held = Vec::new();
        for pod in 1..=8 {
            let pod = IpAddr::from([10, 0, 0, pod]);
            held.extend(of(pod).map_while(|a| connections.admit(a)));
        }
        assert_eq!(held.len(), ALL);
        assert!(connections.admit(IpAddr::from([10, 0, 0, 9])).is_none());
        let own: Vec<Slot> = of(node).map_while(|a| connections.admit(a)).collect();
        assert_eq!(own.len(), PER_ADDRESS, "a share that is limited, too");
        // Nodes leave room for pods as well.
        held.pop();
        assert!(connections.admit(IpAddr::from([10, 0, 0, 9])).is_some());
    }
}
