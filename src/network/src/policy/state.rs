//! The cluster's policies, namespaces and pods, and their compilation, step by step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use rkube_component_helpers::label_selector::Labels;

use super::compile::{self, Applying, Compiled, Direction, Isolation, PodChains, SetNames, both};
use super::members::Members;
use super::types::{Namespaces, Peer, PodPeer, PodPort, Policy, PolicyPod};
use crate::nft::{Data, Family, Field, Key, Name, Table};
use crate::node::Protocol;

/// Namespace and name.
type PolicyKey = (String, String);

/// Protocol and name of a port.
type PortName = (Protocol, String);

/// The pod for which the node's name server stands in.
const NAME_SERVER: &str = "rkube-name-server";

/// The cluster's policies, namespaces and pods as seen by one node, for the families of the cluster.
pub struct PolicyState {
    families: Vec<FamilyState>,
}

impl PolicyState {
    /// Returns the state of a cluster without objects. `dns` are the addresses of the cluster's DNS
    /// on the node, one for each family of the cluster. Connections to it are judged like those to a
    /// pod of the usual DNS deployment: in the namespace `kube-system`, with the label
    /// `k8s-app: kube-dns` and the ports `dns` and `dns-tcp`.
    pub fn new(dns: &[IpAddr]) -> Self {
        Self {
            families: dns.iter().map(|ip| FamilyState::new(*ip)).collect(),
        }
    }

    /// Returns whether there is no policy.
    pub fn has_no_policy(&self) -> bool {
        self.families.iter().all(|state| state.policies.is_empty())
    }

    /// Adds, replaces or removes a policy.
    pub fn set_policy(&mut self, namespace: &str, name: &str, policy: Option<Policy>) {
        for state in &mut self.families {
            state.set_policy(namespace, name, policy.clone());
        }
    }

    /// Removes the policies for which `keep` (namespace, name) returns false.
    pub fn retain_policies(&mut self, keep: impl Fn(&str, &str) -> bool) {
        for state in &mut self.families {
            state
                .policies
                .retain(|(namespace, name), _| keep(namespace, name));
        }
    }

    /// Adds, replaces or removes a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        for state in &mut self.families {
            state.set_namespace(name, labels.clone());
        }
    }

    /// Removes the namespaces for which `keep` returns false.
    pub fn retain_namespaces(&mut self, keep: impl Fn(&str) -> bool) {
        for state in &mut self.families {
            state.retain_namespaces(&keep);
        }
    }

    /// Adds, replaces or removes a pod. `None` also stands for a pod that has no own address.
    pub fn set_pod(&mut self, uid: &str, pod: Option<PolicyPod>) {
        for state in &mut self.families {
            let family = state.family;
            let own = pod.clone().and_then(|mut pod| {
                pod.ips.retain(|ip| Family::of(*ip) == family);
                (!pod.ips.is_empty()).then_some(pod)
            });
            state.set_pod(uid, own);
        }
    }

    /// Removes the pods for whose UID `keep` returns false.
    pub fn retain_pods(&mut self, keep: impl Fn(&str) -> bool) {
        for state in &mut self.families {
            state.retain_pods(&keep);
        }
    }

    /// Compiles the rules for this node's pods: a table for each family in which a policy isolates
    /// any of them.
    ///
    /// Chains and sets that did not change are shared with the tables compiled before.
    pub fn tables(&mut self) -> Vec<Table> {
        let tables = self.families.iter_mut().map(FamilyState::table);
        tables.flatten().collect()
    }
}

/// The same for one family.
///
/// A change costs time in proportion to what it concerns: of a pod, to the number of different peer
/// selectors of the policies that apply to this node's pods; of a policy, to the number of pods.
struct FamilyState {
    family: Family,
    /// Address of the cluster's DNS, which the node itself serves.
    dns: IpAddr,
    namespaces: Namespaces,
    /// Pods by UID.
    pods: HashMap<String, PolicyPod>,
    /// UIDs of this node's pods.
    local: BTreeSet<String>,
    policies: BTreeMap<PolicyKey, Entry>,
    /// The peers of policies that apply to this node's pods, by identity.
    peers: HashMap<String, (PodPeer, Members)>,
    /// The pods with a named port that such policies name: address, protocol and port.
    named: HashMap<PortName, Members>,
    chains: PodChains,
    /// Number of names given to policies and sets.
    names: u32,
}

/// A policy and its chains.
struct Entry {
    policy: Policy,
    /// Number in the names of the chains.
    number: u32,
    /// `None` while it applies to no pod of this node.
    compiled: Option<Compiled>,
}

impl FamilyState {
    /// Returns the state of a cluster without objects for the family of its DNS's address.
    fn new(dns: IpAddr) -> Self {
        let mut state = Self {
            family: Family::of(dns),
            dns,
            namespaces: Namespaces::new(),
            pods: HashMap::new(),
            local: BTreeSet::new(),
            policies: BTreeMap::new(),
            peers: HashMap::new(),
            named: HashMap::new(),
            chains: PodChains::default(),
            names: 0,
        };
        let port = |name: &str, protocol| PodPort {
            name: name.into(),
            protocol,
            port: 53,
        };
        let server = PolicyPod {
            namespace: "kube-system".into(),
            labels: Labels::from([("k8s-app".into(), "kube-dns".into())]),
            ips: vec![dns],
            ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
            local: false,
        };
        state.set_pod(NAME_SERVER, Some(server));
        state
    }

    /// Adds, replaces or removes a policy.
    fn set_policy(&mut self, namespace: &str, name: &str, policy: Option<Policy>) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(policy) = policy else {
            self.policies.remove(&key);
            return;
        };
        if self
            .policies
            .get(&key)
            .is_some_and(|old| old.policy == policy)
        {
            return;
        }
        // A new number: the chains of the old version are replaced as a whole.
        self.names += 1;
        let entry = Entry {
            policy,
            number: self.names,
            compiled: None,
        };
        self.policies.insert(key, entry);
    }

    /// Adds, replaces or removes a namespace.
    fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        let concerned: Vec<&PolicyPod> = self
            .pods
            .values()
            .filter(|pod| pod.namespace == name)
            .collect();
        let mut now = self.namespaces.clone();
        match labels {
            Some(labels) => now.insert(name.to_owned(), labels),
            None => now.remove(name),
        };
        for (peer, members) in self.peers.values_mut() {
            if !peer.depends_on(name, &self.namespaces, &now) {
                continue;
            }
            for pod in &concerned {
                if peer.selects(pod, &now) {
                    addresses(pod).for_each(|key| members.add(key));
                } else if peer.selects(pod, &self.namespaces) {
                    addresses(pod).for_each(|key| members.remove(key));
                }
            }
        }
        self.namespaces = now;
    }

    /// Removes the namespaces for which `keep` returns false.
    fn retain_namespaces(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self
            .namespaces
            .keys()
            .filter(|name| !keep(name))
            .cloned()
            .collect();
        for name in gone {
            self.set_namespace(&name, None);
        }
    }

    /// Adds, replaces or removes a pod. `None` also stands for a pod that has no own address.
    fn set_pod(&mut self, uid: &str, pod: Option<PolicyPod>) {
        let old = self.pods.get(uid);
        if old == pod.as_ref() {
            return;
        }
        for (peer, members) in self.peers.values_mut() {
            let selected = |pod: &&PolicyPod| peer.selects(pod, &self.namespaces);
            // Added first: an element that stays is not removed in between.
            let (was, now) = (old.filter(selected), pod.as_ref().filter(selected));
            now.into_iter()
                .flat_map(addresses)
                .for_each(|key| members.add(key));
            was.into_iter()
                .flat_map(addresses)
                .for_each(|key| members.remove(key));
        }
        for (port, members) in &mut self.named {
            let elements = |pod: Option<&PolicyPod>| pod.map_or_else(Vec::new, |p| named(p, port));
            elements(pod.as_ref())
                .into_iter()
                .for_each(|key| members.add(key));
            elements(old)
                .into_iter()
                .for_each(|key| members.remove(key));
        }
        self.local.remove(uid);
        match pod {
            Some(pod) => {
                if pod.local {
                    self.local.insert(uid.to_owned());
                }
                self.pods.insert(uid.to_owned(), pod);
            }
            None => {
                self.pods.remove(uid);
            }
        }
    }

    /// Removes the pods for whose UID `keep` returns false.
    fn retain_pods(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| *uid != NAME_SERVER && !keep(uid))
            .cloned()
            .collect();
        for uid in gone {
            self.set_pod(&uid, None);
        }
    }

    /// Compiles the rules for this node's pods. Returns `None` if no policy isolates any of them.
    ///
    /// Chains and sets that did not change are shared with the tables compiled before.
    fn table(&mut self) -> Option<Table> {
        let isolated = self.isolated();
        let active: BTreeSet<&PolicyKey> = isolated
            .iter()
            .flat_map(|(_, applying)| both(applying))
            .flatten()
            .collect();
        let active: BTreeSet<PolicyKey> = active.into_iter().cloned().collect();
        for members in self.peers.values_mut().map(|(_, members)| members) {
            members.used = false;
        }
        for members in self.named.values_mut() {
            members.used = false;
        }
        for key in &active {
            self.use_sets(key);
        }
        self.peers.retain(|_, (_, members)| members.used);
        self.named.retain(|_, members| members.used);
        let names = SetNames {
            family: self.family,
            peers: &self.peers,
            named: &self.named,
        };
        for (key, entry) in &mut self.policies {
            if !active.contains(key) {
                entry.compiled = None;
            } else if entry.compiled.is_none() {
                entry.compiled = Some(compile::policy(&entry.policy, entry.number, &names));
            }
        }
        if isolated.is_empty() {
            self.chains = PodChains::default();
            return None;
        }
        let mut table = Table::new(self.family, compile::TABLE);
        for (_, members) in self.peers.values() {
            table.sets.insert(members.name.clone(), members.set.clone());
        }
        for members in self.named.values() {
            table.sets.insert(members.name.clone(), members.set.clone());
        }
        for compiled in self.policies.values().filter_map(|e| e.compiled.as_ref()) {
            table.chains.extend(compiled.chains.iter().cloned());
        }
        let isolation = self.pod_chains(&mut table, isolated);
        compile::base_chains(&mut table, isolation, self.dns);
        Some(table)
    }

    /// Returns the addresses of this node's pods that a policy isolates, with the policies that
    /// apply to each.
    fn isolated(&self) -> Vec<(IpAddr, Applying<PolicyKey>)> {
        let mut isolated = Vec::new();
        for pod in self.local.iter().filter_map(|uid| self.pods.get(uid)) {
            let applying = self.applying(pod);
            if both(&applying).next().is_some() {
                isolated.extend(pod.ips.iter().map(|ip| (*ip, applying.clone())));
            }
        }
        isolated
    }

    /// Returns the policies that apply to a pod.
    fn applying(&self, pod: &PolicyPod) -> Applying<PolicyKey> {
        let mut applying = Applying::default();
        let policies = self
            .policies
            .range((pod.namespace.clone(), String::new())..)
            .take_while(|((namespace, _), _)| *namespace == pod.namespace)
            .filter(|(_, entry)| entry.policy.applies_to(pod));
        for (key, entry) in policies {
            let isolating = Direction::BOTH
                .into_iter()
                .filter(|direction| direction.rules(&entry.policy).is_some());
            for direction in isolating {
                let policies = applying.of(direction);
                policies.get_or_insert_with(Vec::new).push(key.clone());
            }
        }
        applying
    }

    /// Marks the sets that a policy's rules refer to as used; creates those that do not exist.
    fn use_sets(&mut self, key: &PolicyKey) {
        let Some(entry) = self.policies.get(key) else {
            return;
        };
        let directions = Direction::BOTH.map(|direction| direction.rules(&entry.policy));
        for rule in directions.into_iter().flatten().flatten() {
            for peer in rule.peers.iter().flatten() {
                let Peer::Pods(peer) = peer else { continue };
                if let Some((_, members)) = self.peers.get_mut(&peer.identity) {
                    members.used = true;
                    continue;
                }
                self.names += 1;
                let name: Name = format!("peers-{}", self.names).into();
                let mut members = Members::new(name, &[self.family.address()]);
                let selected = self
                    .pods
                    .values()
                    .filter(|p| peer.selects(p, &self.namespaces));
                selected
                    .flat_map(addresses)
                    .for_each(|key| members.add(key));
                self.peers
                    .insert(peer.identity.clone(), (peer.clone(), members));
            }
            for port in rule.ports.iter().flat_map(|ports| &ports.named) {
                if let Some(members) = self.named.get_mut(port) {
                    members.used = true;
                    continue;
                }
                self.names += 1;
                let name: Name = format!("named-port-{}", self.names).into();
                let key = [self.family.address(), Field::Protocol, Field::Port];
                let mut members = Members::new(name, &key);
                let elements = self.pods.values().flat_map(|pod| named(pod, port));
                elements.for_each(|key| members.add(key));
                self.named.insert(port.clone(), members);
            }
        }
    }

    /// Adds the chains of the pods. Returns each isolated address with its chains.
    fn pod_chains(
        &mut self,
        table: &mut Table,
        isolated: Vec<(IpAddr, Applying<PolicyKey>)>,
    ) -> Isolation {
        let mut isolation = Isolation::default();
        let mut chains = std::mem::take(&mut self.chains).renewal();
        for (ip, mut applying) in isolated {
            for direction in Direction::BOTH {
                let Some(policies) = applying.of(direction).take() else {
                    continue;
                };
                let compiled = policies
                    .iter()
                    .filter_map(|key| self.policies.get(key))
                    .filter_map(|entry| Some((entry.number, entry.compiled.as_ref()?)))
                    .map(|(number, compiled)| (number, compiled.entry(direction).cloned()))
                    .collect();
                let (name, chain) = chains.get(direction, compiled);
                isolation.insert(direction, ip, name.clone());
                table.chains.insert(name, chain);
            }
        }
        self.chains = chains.finish();
        isolation
    }
}

impl PodPeer {
    /// Returns whether another version of the namespace changes the selection.
    fn depends_on(&self, namespace: &str, was: &Namespaces, now: &Namespaces) -> bool {
        let super::types::Scope::Selected(selector) = &self.scope else {
            return false;
        };
        let selected = |of: &Namespaces| of.get(namespace).is_some_and(|l| selector.matches(l));
        selected(was) != selected(now)
    }
}

/// Returns the elements of a pod in a set of peers.
fn addresses(pod: &PolicyPod) -> impl Iterator<Item = Key> + '_ {
    pod.ips.iter().map(|ip| Key::from(*ip))
}

/// Returns the elements of a pod in the set of a named port.
fn named(pod: &PolicyPod, (protocol, name): &PortName) -> Vec<Key> {
    let mut keys = BTreeSet::new();
    for port in pod
        .ports
        .iter()
        .filter(|p| p.protocol == *protocol && p.name == *name)
    {
        keys.extend(pod.ips.iter().map(|ip| {
            Key::new(&[
                Data::ip(*ip),
                Data::byte(protocol.number()),
                Data::port(port.port),
            ])
        }));
    }
    keys.into_iter().collect()
}
