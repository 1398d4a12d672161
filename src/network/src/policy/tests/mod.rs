//! Tests of the compiled rules: by interpretation, and with packets in network namespaces.

mod kernel;
mod naive;
mod property;
mod scale;
mod simulate;
mod upstream;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{Policy, PolicyPod, PolicyState};
use crate::nft::Table;
use crate::node::Protocol;
use simulate::Connection;

/// Number of nodes of a [`World`].
const NODES: usize = 2;
/// Address of the cluster's DNS.
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Returns whether the rules of all nodes let a connection pass.
fn allowed_by(tables: &[Table], connection: &Connection) -> bool {
    tables
        .iter()
        .all(|table| simulate::forwards(table, connection))
}

/// A cluster of two nodes: the objects, and each node's state.
struct World {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<String, Pod>,
    policies: BTreeMap<(String, String), NetworkPolicy>,
    states: Vec<PolicyState>,
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn map(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            policies: BTreeMap::new(),
            states: (0..NODES)
                .map(|_| PolicyState::new(&[DNS.into()]))
                .collect(),
        }
    }

    /// Adds or replaces a namespace. It has the label of its name, too.
    fn namespace(&mut self, name: &str, labels: &Value) {
        let mut labels = map(labels);
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
        for state in &mut self.states {
            state.set_namespace(name, Some(labels.clone()));
        }
        self.namespaces.insert(name.into(), labels);
    }

    /// Adds or replaces the pod `namespace/name`. Its containers have the ports 80 and 81 of all
    /// protocols, named like `serve-80-tcp`.
    fn pod(&mut self, id: &str, labels: &Value, node: usize, ip: Ipv4Addr) {
        let (namespace, name) = id.split_once('/').unwrap();
        let mut ports = Vec::new();
        for port in [80, 81] {
            for protocol in ["TCP", "UDP", "SCTP"] {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                ports.push(json!({"name": name, "containerPort": port, "protocol": protocol}));
            }
        }
        let pod = json!({
            "metadata": {"namespace": namespace, "name": name, "uid": id, "labels": labels},
            "spec": {"nodeName": node_name(node), "containers": [{"name": "c", "ports": ports}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        });
        self.put_pod(id, serde_json::from_value(pod).unwrap());
    }

    fn put_pod(&mut self, uid: &str, pod: Pod) {
        for (number, state) in self.states.iter_mut().enumerate() {
            state.set_pod(uid, PolicyPod::from_object(&pod, &node_name(number), None));
        }
        self.pods.insert(uid.into(), pod);
    }

    fn remove_pod(&mut self, uid: &str) {
        for state in &mut self.states {
            state.set_pod(uid, None);
        }
        self.pods.remove(uid);
    }

    fn policy(&mut self, id: &str, spec: &Value) {
        let (namespace, name) = id.split_once('/').unwrap();
        let policy = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let policy: NetworkPolicy = serde_json::from_value(policy).unwrap();
        for state in &mut self.states {
            state.set_policy(namespace, name, Some(Policy::from_object(&policy)));
        }
        self.policies
            .insert((namespace.into(), name.into()), policy);
    }

    fn remove_policy(&mut self, id: &str) {
        let (namespace, name) = id.split_once('/').unwrap();
        for state in &mut self.states {
            state.set_policy(namespace, name, None);
        }
        self.policies.remove(&(namespace.into(), name.into()));
    }

    fn ip(&self, id: &str) -> Ipv4Addr {
        let status = self.pods[id].status.as_ref().unwrap();
        status.pod_ip.as_ref().unwrap().parse().unwrap()
    }

    /// Returns the tables of the nodes that have any.
    fn tables(&mut self) -> Vec<Table> {
        let tables = self.states.iter_mut().map(PolicyState::tables);
        tables.flatten().collect()
    }

    /// Returns whether the rules of all nodes let the connection pass.
    fn allows(&mut self, connection: &Connection) -> bool {
        allowed_by(&self.tables(), connection)
    }

    /// Returns whether one pod reaches another one.
    fn reaches(&mut self, from: &str, to: &str, protocol: Protocol, port: u16) -> bool {
        let connection = Connection::new(self.ip(from), self.ip(to), protocol, port);
        self.allows(&connection)
    }
}
