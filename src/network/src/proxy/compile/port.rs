//! The chains and map elements of one service port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::rules::{mark, pick_chain, pick_endpoint, translate};
use super::types::{HealthCheck, Maps, Ruleset, UdpBackends, UdpEndpoints};
use crate::hash;
use crate::nft::{CmpOp, Data, Expr, Family, Key, Name, Reg, Rule, Set, SetRef, Table, Verdict};
use crate::node::Protocol;
use crate::proxy::endpoints::{Categories, categorize};
use crate::proxy::state::{Endpoint, ServicePort};
use crate::proxy::types::ProxyConfig;

/// A service port and everything that its rules depend on.
pub(super) struct Port<'a> {
    service: &'a ServicePort,
    config: &'a ProxyConfig,
    /// Address range of all pods of the port's family.
    cluster_cidr: IpNet,
    endpoints: Categories<'a>,
    /// Suffix of the names of the port's chains.
    id: String,
    /// Name of the chain that translates to one of the cluster's endpoints.
    cluster_chain: String,
    /// Name of the chain that translates to one of this node's endpoints.
    local_chain: String,
    /// Name of the chain that rejects packets.
    refuse: &'a Name,
}

impl<'a> Port<'a> {
    /// Selects the port's endpoints for a node in `zone`. `refuse` is the chain that rejects packets.
    pub(super) fn new(
        service: &'a ServicePort,
        config: &'a ProxyConfig,
        cluster_cidr: IpNet,
        zone: Option<&str>,
        refuse: &'a Name,
    ) -> Self {
        let id = identity(service);
        Self {
            service,
            config,
            cluster_cidr,
            endpoints: categorize(service, &config.node_name, zone),
            cluster_chain: format!("service-{id}"),
            local_chain: format!("local-{id}"),
            id,
            refuse,
        }
    }

    /// Returns the map key of the port at an address.
    fn key(&self, ip: IpAddr) -> Key {
        Key::new(&[
            Data::ip(ip),
            Data::byte(self.service.protocol.number()),
            Data::port(self.service.port),
        ])
    }

    /// Returns the map key of the node port, if any.
    fn node_port_key(&self) -> Option<Key> {
        let protocol = Data::byte(self.service.protocol.number());
        let port = self.service.node_port?;
        Some(Key::new(&[protocol, Data::port(port)]))
    }

    /// Returns the addresses for clients outside the cluster.
    fn external_ips(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let service = self.service;
        let ips = service.external_ips.iter();
        ips.chain(&service.load_balancer_ips).copied()
    }

    /// Returns the verdict on traffic whose policy leaves it without an endpoint: rejected if no
    /// node has one, otherwise dropped. Returns `None` if `usable`.
    fn verdict_without_endpoint(&self, usable: bool) -> Option<Verdict> {
        match (self.endpoints.any, usable) {
            (false, _) => Some(Verdict::Goto(self.refuse.clone())),
            (true, false) => Some(Verdict::Drop),
            (true, true) => None,
        }
    }

    /// Adds the port's rules, map elements and health check.
    pub(super) fn compile(&self, table: &mut Table, rules: &mut Ruleset, maps: &mut Maps) {
        self.service_chains(table, maps);
        self.cluster_ip(maps);
        if self.service.externally_accessible() {
            self.external(table, maps);
        }
        self.firewall(table, maps);
        self.health_check(&mut rules.health_checks);
        self.udp_backends(&mut rules.udp);
    }

    /// Adds the chains that translate the destination to an endpoint, one per traffic policy.
    fn service_chains(&self, table: &mut Table, maps: &mut Maps) {
        let Categories { cluster, local, .. } = &self.endpoints;
        for endpoint in cluster.iter().chain(local) {
            let ip = Data::ip(endpoint.ip);
            maps.hairpins.insert(Key::new(&[ip, ip]));
        }
        let endpoint_chains = self.endpoint_chains(table);
        let internal_local = self.service.internal_local;
        for (name, endpoints, internal) in [
            (&self.cluster_chain, cluster, !internal_local),
            (&self.local_chain, local, internal_local),
        ] {
            if endpoints.is_empty() {
                continue;
            }
            let mut chain = Vec::new();
            if internal {
                chain.push(self.masquerade_rule());
            }
            if self.service.affinity.is_some() {
                let endpoints: Vec<(&Endpoint, Name)> = endpoints
                    .iter()
                    .map(|e| (*e, endpoint_chains[&(e.ip, e.port)].clone()))
                    .collect();
                chain.extend(
                    endpoints
                        .iter()
                        .map(|(e, name)| self.affinity_rule(e, name)),
                );
                chain.push(pick_chain(&endpoints));
            } else {
                chain.push(pick_endpoint(
                    name,
                    table.family,
                    endpoints,
                    &mut maps.endpoints,
                ));
            }
            table.chain(name.as_str(), chain);
        }
    }

    /// Adds one chain per endpoint if the service has session affinity. An endpoint that both
    /// policies use has a single chain.
    fn endpoint_chains(&self, table: &mut Table) -> BTreeMap<(IpAddr, u16), Name> {
        let mut chains = BTreeMap::new();
        if let Some(timeout) = self.service.affinity {
            for endpoint in self.endpoints.cluster.iter().chain(&self.endpoints.local) {
                chains
                    .entry((endpoint.ip, endpoint.port))
                    .or_insert_with(|| endpoint_chain(table, &self.id, endpoint, timeout));
            }
        }
        chains
    }

    /// Returns the rule that marks traffic to the cluster IP for masquerading. Clients outside the
    /// pod network have no return route to pods.
    fn masquerade_rule(&self) -> Rule {
        let to_cluster_ip = Rule::new()
            .destination(CmpOp::Eq, self.service.cluster_ip)
            .source(CmpOp::Ne, self.cluster_cidr);
        mark(to_cluster_ip).comment("masquerade what comes from outside")
    }

    /// Returns the rule that sends the clients of an endpoint with affinity to its chain.
    fn affinity_rule(&self, endpoint: &Endpoint, chain: &Name) -> Rule {
        Rule::new()
            .expr(Expr::source_ip(Reg::word(0)))
            .expr(Expr::Lookup {
                set: SetRef::Named(affinity_set(&self.id, endpoint).into()),
                reg: Reg::word(0),
                invert: false,
            })
            .goto(chain)
    }

    /// Adds the map elements of the cluster IP.
    fn cluster_ip(&self, maps: &mut Maps) {
        let ip = self.service.cluster_ip;
        if !self.config.local_ips.contains(&ip) {
            maps.cluster_ips.insert(ip.into());
        }
        let (chain, endpoints) = if self.service.internal_local {
            (&self.local_chain, &self.endpoints.local)
        } else {
            (&self.cluster_chain, &self.endpoints.cluster)
        };
        match self.verdict_without_endpoint(!endpoints.is_empty()) {
            None => {
                let verdict = Verdict::Goto(chain.as_str().into());
                maps.service_ips.insert(self.key(ip), verdict);
            }
            Some(verdict) => {
                maps.no_endpoint_ips.insert(self.key(ip), verdict);
            }
        }
    }

    /// Adds the map elements of external IPs, load balancer IPs and the node port.
    fn external(&self, table: &mut Table, maps: &mut Maps) {
        let Categories { local, any, .. } = &self.endpoints;
        let node_port = self.node_port_key();
        if *any {
            let name = self.external_chain(table);
            for ip in self.external_ips() {
                maps.service_ips
                    .insert(self.key(ip), Verdict::Goto(name.clone()));
            }
            if let Some(key) = node_port {
                maps.service_node_ports.insert(key, Verdict::Goto(name));
            }
        }
        let usable = if self.service.external_local {
            !local.is_empty()
        } else {
            *any
        };
        if let Some(verdict) = self.verdict_without_endpoint(usable) {
            for ip in self.external_ips() {
                maps.no_endpoint_ips.insert(self.key(ip), verdict.clone());
            }
            if let Some(key) = node_port {
                maps.no_endpoint_node_ports.insert(key, verdict);
            }
        }
    }

    /// Adds the chain of traffic to external addresses.
    fn external_chain(&self, table: &mut Table) -> Name {
        let cluster: Name = self.cluster_chain.as_str().into();
        let has_cluster = !self.endpoints.cluster.is_empty();
        let mut rules = Vec::new();
        if self.service.external_local {
            if has_cluster {
                // The policy preserves the addresses of clients outside. Traffic from the cluster
                // may go to any node, as with the cluster IP.
                rules.push(
                    Rule::new()
                        .source(CmpOp::Eq, self.cluster_cidr)
                        .goto(&cluster)
                        .comment("pods"),
                );
                rules.push(mark(Rule::new().source_local()).comment("this node"));
                rules.push(
                    Rule::new()
                        .source_local()
                        .goto(&cluster)
                        .comment("this node"),
                );
            }
            if !self.endpoints.local.is_empty() {
                rules.push(Rule::new().goto(&self.local_chain.as_str().into()));
            }
        } else if has_cluster {
            rules.push(mark(Rule::new()));
            rules.push(Rule::new().goto(&cluster));
        }
        table.chain(format!("external-{}", self.id), rules)
    }

    /// Adds the chain that drops clients outside `loadBalancerSourceRanges`.
    fn firewall(&self, table: &mut Table, maps: &mut Maps) {
        let service = self.service;
        if service.source_ranges.is_empty() || service.load_balancer_ips.is_empty() {
            return;
        }
        let allowed = Set::of_ranges(&service.source_ranges);
        let rule = Rule::new()
            .expr(Expr::source_ip(Reg::word(0)))
            .expr(Expr::Lookup {
                set: SetRef::Anonymous(Box::new(allowed)),
                reg: Reg::word(0),
                invert: true,
            })
            .drop();
        let name = table.chain(format!("firewall-{}", self.id), vec![rule]);
        for ip in &service.load_balancer_ips {
            maps.firewall_ips
                .insert(self.key(*ip), Verdict::Goto(name.clone()));
        }
    }

    /// Adds the service's health check, if its external traffic policy is `Local`.
    fn health_check(&self, checks: &mut BTreeMap<u16, HealthCheck>) {
        let service = self.service;
        let Some(port) = service
            .health_check_node_port
            .filter(|_| service.external_local)
        else {
            return;
        };
        let check = checks.entry(port).or_insert_with(|| HealthCheck {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            local_endpoints: 0,
        });
        // Endpoints that are terminating still serve, but load balancers must choose other nodes. All
        // ports of a service have the same pods.
        let ready = service.endpoints.iter().filter(|e| e.local && e.ready);
        check.local_endpoints = check.local_endpoints.max(ready.count());
    }

    /// Records the serving endpoints of a UDP service.
    fn udp_backends(&self, udp: &mut UdpBackends) {
        let service = self.service;
        if service.protocol != Protocol::Udp {
            return;
        }
        let serving: UdpEndpoints = service
            .endpoints
            .iter()
            .filter(|e| e.serving)
            .map(|e| (e.ip, e.port))
            .collect();
        if serving.is_empty() {
            return;
        }
        for ip in self.external_ips().chain([service.cluster_ip]) {
            udp.by_address.insert((ip, service.port), serving.clone());
        }
        if let Some(port) = service.node_port {
            let family = Family::of(service.cluster_ip);
            udp.by_node_port[UdpBackends::index(family)].insert(port, serving);
        }
    }
}

/// Returns the suffix of a service port's chain names: a hash followed by the readable name. The
/// hash keeps the names unique if they are truncated; the readable name is for `nft list`.
fn identity(service: &ServicePort) -> String {
    let protocol = match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let ServicePort {
        namespace,
        name,
        port_name,
        port,
        ..
    } = service;
    let words = format!("{namespace}/{name}/{protocol}/{port_name}");
    let hash = hash::fnv64(format!("{words}/{port}").as_bytes());
    format!("{:08x}-{words}", hash >> 32)
}

/// Returns the name of the set of an endpoint's clients with affinity.
fn affinity_set(id: &str, endpoint: &Endpoint) -> String {
    format!("affinity-{id}__{}/{}", endpoint.ip, endpoint.port)
}

/// Adds the chain that records the client and translates the destination to an endpoint.
fn endpoint_chain(table: &mut Table, id: &str, endpoint: &Endpoint, timeout: Duration) -> Name {
    let reg = Reg::word(0);
    let set = table.set(
        affinity_set(id, endpoint),
        Set::dynamic(&[table.family.address()], timeout),
    );
    let remember = Rule::new().expr(Expr::source_ip(reg)).expr(Expr::Update {
        set,
        reg,
        timeout: None,
    });
    let name = format!("endpoint-{id}__{}/{}", endpoint.ip, endpoint.port);
    table.chain(name, vec![translate(remember, endpoint)])
}
