//! Policies and pods, reduced to what decides about connections.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use rkube_component_helpers::label_selector::{Labels, Selector};
use serde::{Deserialize, Serialize};

use crate::node::Protocol;

/// A pod with own addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The ports of its containers that have a name.
    pub ports: Vec<PodPort>,
    /// Whether it runs on this node.
    pub local: bool,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPort {
    /// The port's name.
    pub name: String,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The port's number.
    pub port: u16,
}

/// A network policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The policy's namespace, whose pods it can apply to.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The pods that it applies to.
    pub pods: Selector,
    /// Rules that allow traffic to these pods; `None` if it does not isolate them for ingress.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules that allow traffic from these pods; `None` if it does not isolate them for egress.
    pub egress: Option<Vec<PolicyRule>>,
}

/// A rule, which allows connections with any of the peers on any of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The peers; `None` for everything.
    pub peers: Option<Vec<Peer>>,
    /// The ports of the side that answers; `None` for all protocols and ports.
    pub ports: Option<Ports>,
}

/// The peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods with own addresses.
    Pods(PodPeer),
    /// Address ranges of one family, which do not overlap.
    Block(Vec<IpNet>),
}

/// A selection of pods. The text identifies the selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPeer {
    /// A text that differs between different selections.
    pub identity: String,
    /// The pods' namespaces.
    pub scope: Scope,
    /// The pods within these namespaces.
    pub pods: Selector,
}

/// Namespaces of a selection of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One namespace.
    Namespace(String),
    /// Namespaces by their labels.
    Selected(Selector),
}

/// Ports of a rule; a connection matches if it matches any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Single ports.
    pub exact: BTreeSet<(Protocol, u16)>,
    /// Ranges: first and last port.
    pub ranges: BTreeSet<(Protocol, u16, u16)>,
    /// All ports of a protocol.
    pub protocols: BTreeSet<Protocol>,
    /// Ports by their name in the pod that answers.
    pub named: BTreeSet<(Protocol, String)>,
}

/// Labels of all namespaces.
pub(super) type Namespaces = HashMap<String, Labels>;

impl PodPeer {
    /// Returns whether the pod is selected. An unknown namespace is never selected by its labels.
    pub(super) fn selects(&self, pod: &PolicyPod, namespaces: &Namespaces) -> bool {
        let in_scope = match &self.scope {
            Scope::Namespace(name) => *name == pod.namespace,
            Scope::Selected(selector) => namespaces
                .get(&pod.namespace)
                .is_some_and(|labels| selector.matches(labels)),
        };
        in_scope && self.pods.matches(&pod.labels)
    }
}

impl Policy {
    /// Returns whether the policy applies to the pod.
    pub(super) fn applies_to(&self, pod: &PolicyPod) -> bool {
        self.namespace == pod.namespace && self.pods.matches(&pod.labels)
    }
}
