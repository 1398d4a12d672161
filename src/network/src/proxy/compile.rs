//! From services to rules.
//!
//! The table's shape follows kube-proxy's nftables mode. Verdict maps lead from
//! address, protocol and port to a chain for each service port, which translates the
//! destination to an endpoint picked at random (or the one that the client used last):
//!
//! ```text
//! nat prerouting, output ─ services ─ @service-ips, @service-nodeports
//!     ├─ service-…   (any endpoint)           ─ dnat to one of @endpoints
//!     ├─ local-…     (endpoints on this node) ─ dnat to one of @endpoints
//!     └─ external-…  (mark for masquerading)  ─ service-… or local-…
//! filter prerouting, output ─ firewall ─ @firewall-ips ─ firewall-…
//! filter input, forward, output ─ no-endpoints ─ @no-endpoint-ips, @no-endpoint-nodeports
//! filter forward, output (translated) ─ cluster-ips: refuse ports that no service has
//! nat postrouting ─ masquerade what is marked, and pods that reach themselves
//! ```
//!
//! All services' endpoints are in one map, keyed by the chain's hash and a number, so
//! that a change of endpoints is a change of elements: the kernel looks chains and sets
//! up one by one when it loads rules, elements by hash. Services with session affinity
//! have a chain and a set of clients for each endpoint (`endpoint-…`, `affinity-…`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::ProxyConfig;
use super::endpoints::{Categories, categorize};
use super::state::{Endpoint, ServicePort, ServiceState};
use crate::hash;
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Field, Hook, HookKind, Key, Meta, Name, NatKind, Reg,
    Reject, Rule, Set, SetRef, Table, Verdict, ct_state, ct_status, priority,
};
use crate::node::Protocol;

/// Name of the proxy's table.
pub const TABLE: &str = "rkube-proxy";
/// The bit of the packet mark that asks for masquerading, kube-proxy's own choice.
const MASQUERADE: u32 = 0x4000;
/// Name of the map of endpoints.
const ENDPOINTS: &str = "endpoints";

/// All that follows from the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The packet filter's table.
    pub table: Table,
    /// Health checks to serve, by port.
    pub health_checks: BTreeMap<u16, HealthCheck>,
    /// Where UDP traffic may go, for finding stale connections.
    pub udp: UdpBackends,
}

/// What a load balancer is told about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// How many endpoints this node has for it.
    pub local_endpoints: usize,
}

/// Addresses of pods behind UDP services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpBackends {
    /// By address and port of the service.
    pub by_address: BTreeMap<(Ipv4Addr, u16), BTreeSet<Ipv4Addr>>,
    /// By node port.
    pub by_node_port: BTreeMap<u16, BTreeSet<Ipv4Addr>>,
}

impl UdpBackends {
    /// Whether there is no UDP service with endpoints.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }
}

/// Elements of the maps and sets, collected service by service.
#[derive(Default)]
struct Maps {
    service_ips: BTreeMap<Key, Verdict>,
    service_node_ports: BTreeMap<Key, Verdict>,
    no_endpoint_ips: BTreeMap<Key, Verdict>,
    no_endpoint_node_ports: BTreeMap<Key, Verdict>,
    firewall_ips: BTreeMap<Key, Verdict>,
    cluster_ips: BTreeSet<Key>,
    /// Chain's hash and number to address and port.
    endpoints: BTreeMap<Key, Key>,
    /// Pairs of a pod's address with itself.
    hairpins: BTreeSet<Key>,
}

/// Turns services into rules. Nothing is read and nothing is written.
pub fn compile(state: &ServiceState, config: &ProxyConfig) -> Ruleset {
    let mut rules = Ruleset {
        table: Table::new(Family::Ip, TABLE),
        health_checks: BTreeMap::new(),
        udp: UdpBackends::default(),
    };
    let refuse = refusal_chain(&mut rules.table);
    let mut maps = Maps::default();
    for service in &state.ports {
        if !config.local_ips.contains(&service.cluster_ip) {
            compile_port(&mut rules, &mut maps, service, config, &refuse);
        }
    }
    base_chains(&mut rules.table, maps, &refuse);
    rules
}

fn compile_port(
    rules: &mut Ruleset,
    maps: &mut Maps,
    service: &ServicePort,
    config: &ProxyConfig,
    refuse: &Name,
) {
    let Categories {
        cluster,
        local,
        any,
    } = categorize(service, &config.node_name, config.zone.as_deref());
    let id = identity(service);
    let table = &mut rules.table;
    let at = |ip: Ipv4Addr| {
        Key::new(&[
            Data::ip(ip),
            Data::byte(service.protocol.number()),
            Data::port(service.port),
        ])
    };
    let node_port = service
        .node_port
        .map(|port| Key::new(&[Data::byte(service.protocol.number()), Data::port(port)]));
    let external_ips = || {
        service
            .external_ips
            .iter()
            .chain(&service.load_balancer_ips)
            .copied()
    };
    let to_internal = if service.internal_local {
        &local
    } else {
        &cluster
    };
    let has_internal = !to_internal.is_empty();
    let has_external = if service.external_local {
        !local.is_empty()
    } else {
        any
    };

    for endpoint in cluster.iter().chain(&local) {
        maps.hairpins
            .insert(Key::new(&[Data::ip(endpoint.ip), Data::ip(endpoint.ip)]));
    }
    // With affinity, endpoints' chains: each once though it may be both kinds' choice.
    let mut chains: BTreeMap<(Ipv4Addr, u16), Name> = BTreeMap::new();
    if let Some(timeout) = service.affinity {
        for endpoint in cluster.iter().chain(&local) {
            chains
                .entry((endpoint.ip, endpoint.port))
                .or_insert_with(|| endpoint_chain(table, &id, endpoint, timeout));
        }
    }
    let cluster_chain = format!("service-{id}");
    let local_chain = format!("local-{id}");
    for (name, endpoints, internal) in [
        (&cluster_chain, &cluster, !service.internal_local),
        (&local_chain, &local, service.internal_local),
    ] {
        if endpoints.is_empty() {
            continue;
        }
        let mut chain = Vec::new();
        if internal {
            // Who is no pod has no route that answers would come back by.
            let to_cluster_ip = Rule::new()
                .destination(CmpOp::Eq, service.cluster_ip)
                .source(CmpOp::Ne, config.cluster_cidr.trunc());
            chain.push(mark(to_cluster_ip).comment("masquerade what comes from outside"));
        }
        if service.affinity.is_some() {
            let endpoints: Vec<(&Endpoint, Name)> = endpoints
                .iter()
                .map(|e| (*e, chains[&(e.ip, e.port)].clone()))
                .collect();
            for (endpoint, name) in &endpoints {
                let set = SetRef::Named(affinity_set(&id, endpoint).into());
                chain.push(
                    Rule::new()
                        .expr(Expr::source_ip(Reg::word(0)))
                        .expr(Expr::Lookup {
                            set,
                            reg: Reg::word(0),
                            invert: false,
                        })
                        .goto(name),
                );
            }
            chain.push(pick_chain(&endpoints));
        } else {
            chain.push(pick_endpoint(name, endpoints, &mut maps.endpoints));
        }
        table.chain(name.as_str(), chain);
    }

    if !config.local_ips.contains(&service.cluster_ip) {
        maps.cluster_ips.insert(service.cluster_ip.into());
    }
    let verdict_without = |usable: bool| match (any, usable) {
        (false, _) => Some(Verdict::Goto(refuse.clone())),
        (true, false) => Some(Verdict::Drop),
        (true, true) => None,
    };
    let internal_chain = if service.internal_local {
        &local_chain
    } else {
        &cluster_chain
    };
    match verdict_without(has_internal) {
        None => maps.service_ips.insert(
            at(service.cluster_ip),
            Verdict::Goto(internal_chain.as_str().into()),
        ),
        Some(verdict) => maps.no_endpoint_ips.insert(at(service.cluster_ip), verdict),
    };

    if service.externally_accessible() {
        if any {
            let name = external_chain(
                table,
                &id,
                service,
                config,
                &cluster_chain,
                !cluster.is_empty(),
                &local_chain,
                !local.is_empty(),
            );
            for ip in external_ips() {
                maps.service_ips.insert(at(ip), Verdict::Goto(name.clone()));
            }
            if let Some(key) = node_port {
                maps.service_node_ports.insert(key, Verdict::Goto(name));
            }
        }
        if let Some(verdict) = verdict_without(has_external) {
            for ip in external_ips() {
                maps.no_endpoint_ips.insert(at(ip), verdict.clone());
            }
            if let Some(key) = node_port {
                maps.no_endpoint_node_ports.insert(key, verdict);
            }
        }
    }

    if !service.source_ranges.is_empty() && !service.load_balancer_ips.is_empty() {
        let allowed = Set::of_ranges(&service.source_ranges);
        let name = table.chain(
            format!("firewall-{id}"),
            vec![
                Rule::new()
                    .expr(Expr::source_ip(Reg::word(0)))
                    .expr(Expr::Lookup {
                        set: SetRef::Anonymous(Box::new(allowed)),
                        reg: Reg::word(0),
                        invert: true,
                    })
                    .drop(),
            ],
        );
        for ip in &service.load_balancer_ips {
            maps.firewall_ips
                .insert(at(*ip), Verdict::Goto(name.clone()));
        }
    }

    if let Some(port) = service.health_check_node_port
        && service.external_local
    {
        let check = rules
            .health_checks
            .entry(port)
            .or_insert_with(|| HealthCheck {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                local_endpoints: 0,
            });
        // A service of several ports has the same pods behind all of them.
        check.local_endpoints = check.local_endpoints.max(local.len());
    }
    if service.protocol == Protocol::Udp {
        let serving: BTreeSet<Ipv4Addr> = service
            .endpoints
            .iter()
            .filter(|e| e.serving)
            .map(|e| e.ip)
            .collect();
        if !serving.is_empty() {
            for ip in external_ips().chain([service.cluster_ip]) {
                rules
                    .udp
                    .by_address
                    .insert((ip, service.port), serving.clone());
            }
            if let Some(port) = service.node_port {
                rules.udp.by_node_port.insert(port, serving);
            }
        }
    }
}

/// What names of a service port's chains end in: a hash, so that they differ whatever
/// is cut off, and the words, for whoever lists the table.
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

fn affinity_set(id: &str, endpoint: &Endpoint) -> String {
    format!("affinity-{id}__{}/{}", endpoint.ip, endpoint.port)
}

fn endpoint_chain(table: &mut Table, id: &str, endpoint: &Endpoint, timeout: Duration) -> Name {
    let reg = Reg::word(0);
    let set = table.set(
        affinity_set(id, endpoint),
        Set::dynamic(&[Field::Ipv4], timeout),
    );
    let remember = Rule::new().expr(Expr::source_ip(reg)).expr(Expr::Update {
        set,
        reg,
        timeout: None,
    });
    let name = format!("endpoint-{id}__{}/{}", endpoint.ip, endpoint.port);
    table.chain(name, vec![translate(remember, endpoint)])
}

/// Appends translating the destination to a certain endpoint.
fn translate(rule: Rule, endpoint: &Endpoint) -> Rule {
    let (address, port) = (Reg::word(0), Reg::word(1));
    rule.expr(Expr::Immediate(address, Data::ip(endpoint.ip)))
        .expr(Expr::Immediate(port, Data::port(endpoint.port)))
        .expr(Expr::Nat {
            kind: NatKind::Destination,
            address,
            port: Some(port),
        })
}

/// Translates the destination to one of the endpoints, each as likely as the others.
fn pick_endpoint(chain: &str, endpoints: &[&Endpoint], map: &mut BTreeMap<Key, Key>) -> Rule {
    if let [only] = endpoints {
        return translate(Rule::new(), only);
    }
    let hash = hash::fnv64(chain.as_bytes());
    let (high, low) = (Data::host((hash >> 32) as u32), Data::host(hash as u32));
    for (number, endpoint) in endpoints.iter().enumerate() {
        let key = Key::new(&[high, low, Data::host(number as u32)]);
        map.insert(
            key,
            Key::new(&[Data::ip(endpoint.ip), Data::port(endpoint.port)]),
        );
    }
    let reg = Reg::word;
    Rule::new()
        .expr(Expr::Immediate(reg(0), high))
        .expr(Expr::Immediate(reg(1), low))
        .expr(Expr::Random {
            reg: reg(2),
            modulus: endpoints.len() as u32,
        })
        .expr(Expr::LookupValue {
            map: SetRef::Named(ENDPOINTS.into()),
            reg: reg(0),
            to: reg(0),
        })
        .expr(Expr::Nat {
            kind: NatKind::Destination,
            address: reg(0),
            port: Some(reg(1)),
        })
}

/// Goes to one of the endpoints' chains, each as likely as the others.
fn pick_chain(endpoints: &[(&Endpoint, Name)]) -> Rule {
    if let [(_, only)] = endpoints {
        return Rule::new().goto(only);
    }
    let reg = Reg::word(0);
    let choices = endpoints
        .iter()
        .enumerate()
        .map(|(number, (_, chain))| (Key::from(number as u32), Verdict::Goto(chain.clone())));
    let map = SetRef::Anonymous(Box::new(Set::verdicts(&[Field::Number], choices)));
    Rule::new()
        .expr(Expr::Random {
            reg,
            modulus: endpoints.len() as u32,
        })
        .expr(Expr::LookupVerdict { map, reg })
}

#[expect(
    clippy::too_many_arguments,
    reason = "two chains, each with whether it exists"
)]
fn external_chain(
    table: &mut Table,
    id: &str,
    service: &ServicePort,
    config: &ProxyConfig,
    cluster_chain: &str,
    has_cluster: bool,
    local_chain: &str,
    has_local: bool,
) -> Name {
    let cluster: Name = cluster_chain.into();
    let mut rules = Vec::new();
    if service.external_local {
        if has_cluster {
            // The policy is about keeping strangers' addresses visible; the cluster's
            // own traffic goes anywhere, as to the cluster address.
            rules.push(
                Rule::new()
                    .source(CmpOp::Eq, config.cluster_cidr.trunc())
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
        if has_local {
            rules.push(Rule::new().goto(&local_chain.into()));
        }
    } else if has_cluster {
        rules.push(mark(Rule::new()));
        rules.push(Rule::new().goto(&cluster));
    }
    table.chain(format!("external-{id}"), rules)
}

/// Appends setting the masquerade bit.
fn mark(rule: Rule) -> Rule {
    let reg = Reg::word(0);
    rule.expr(Expr::Meta(Meta::Mark, reg))
        .expr(Expr::Bitwise {
            reg,
            mask: Data::host(!MASQUERADE),
            xor: Data::host(MASQUERADE),
        })
        .expr(Expr::SetMeta(Meta::Mark, reg))
}

fn refusal_chain(table: &mut Table) -> Name {
    table.chain(
        "refuse",
        vec![
            Rule::new()
                .protocol(Protocol::Tcp.number())
                .expr(Expr::Reject(Reject::TcpReset)),
            Rule::new().expr(Expr::Reject(Reject::PortUnreachable)),
        ],
    )
}

/// Appends loading `address . protocol . port` and looking it up.
fn by_address(rule: Rule, map: &Name) -> Rule {
    rule.expr(Expr::destination_ip(Reg::word(0)))
        .expr(Expr::Meta(Meta::L4Proto, Reg::word(1)))
        .expr(Expr::destination_port(Reg::word(2)))
        .expr(Expr::LookupVerdict {
            map: SetRef::Named(map.clone()),
            reg: Reg::word(0),
        })
}

/// Appends loading `protocol . port` of what is for this node and looking it up.
fn by_node_port(map: &Name) -> Rule {
    // Answers to 127.0.0.1 could not come back from a pod.
    let loopback = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    Rule::new()
        .destination_local()
        .destination(CmpOp::Ne, loopback)
        .expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
        .expr(Expr::destination_port(Reg::word(1)))
        .expr(Expr::LookupVerdict {
            map: SetRef::Named(map.clone()),
            reg: Reg::word(0),
        })
}

fn base_chains(table: &mut Table, maps: Maps, refuse: &Name) {
    let address = [Field::Ipv4, Field::Protocol, Field::Port];
    let port = [Field::Protocol, Field::Port];
    let service_ips = table.set("service-ips", Set::verdicts(&address, maps.service_ips));
    let node_ports = table.set(
        "service-nodeports",
        Set::verdicts(&port, maps.service_node_ports),
    );
    let no_ips = table.set(
        "no-endpoint-ips",
        Set::verdicts(&address, maps.no_endpoint_ips),
    );
    let no_node_ports = table.set(
        "no-endpoint-nodeports",
        Set::verdicts(&port, maps.no_endpoint_node_ports),
    );
    let firewall_ips = table.set("firewall-ips", Set::verdicts(&address, maps.firewall_ips));
    let hairpins = table.set(
        "hairpins",
        Set::of(&[Field::Ipv4, Field::Ipv4], maps.hairpins),
    );
    table.set(
        ENDPOINTS,
        Set::map(
            &[Field::Mark; 3],
            &[Field::Ipv4, Field::Port],
            maps.endpoints,
        ),
    );
    let cluster_ips = table.set("cluster-ips", Set::of(&[Field::Ipv4], maps.cluster_ips));

    let services = table.chain(
        "services",
        vec![
            by_address(Rule::new(), &service_ips),
            by_node_port(&node_ports),
        ],
    );
    let no_endpoints = table.chain("no-endpoints", vec![by_address(Rule::new(), &no_ips)]);
    let no_endpoints_here = table.chain("no-endpoints-here", vec![by_node_port(&no_node_ports)]);
    let firewall = table.chain("firewall", vec![by_address(Rule::new(), &firewall_ips)]);
    let unserved = table.chain(
        "unserved-ports",
        vec![
            Rule::new()
                .expr(Expr::destination_ip(Reg::word(0)))
                .expr(Expr::Lookup {
                    set: SetRef::Named(cluster_ips),
                    reg: Reg::word(0),
                    invert: false,
                })
                .goto(refuse),
        ],
    );

    for (name, hook) in [
        ("nat-prerouting", HookKind::Prerouting),
        ("nat-output", HookKind::Output),
    ] {
        let hook = Hook::new(ChainKind::Nat, hook, priority::DNAT);
        table.base_chain(name, hook, vec![Rule::new().jump(&services)]);
    }
    let new = |chain: &Name| Rule::new().ct_state(ct_state::NEW).jump(chain);
    let mut filter = |name: &str, hook, priority, chains: &[&Name]| {
        let hook = Hook::new(ChainKind::Filter, hook, priority);
        table.base_chain(name, hook, chains.iter().map(|chain| new(chain)).collect());
    };
    let (before, after) = (priority::DNAT - 10, priority::DNAT + 10);
    filter(
        "firewall-prerouting",
        HookKind::Prerouting,
        before,
        &[&firewall],
    );
    filter("firewall-output", HookKind::Output, before, &[&firewall]);
    filter(
        "filter-input",
        HookKind::Input,
        priority::FILTER,
        &[&no_endpoints_here, &no_endpoints],
    );
    filter(
        "filter-forward",
        HookKind::Forward,
        priority::FILTER,
        &[&no_endpoints, &unserved],
    );
    filter(
        "filter-output",
        HookKind::Output,
        after,
        &[&no_endpoints_here, &no_endpoints, &unserved],
    );

    let reg = Reg::word(0);
    table.base_chain(
        "nat-postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .ct_status(ct_status::DNAT)
                .expr(Expr::source_ip(reg))
                .expr(Expr::destination_ip(Reg::word(1)))
                .expr(Expr::Lookup {
                    set: SetRef::Named(hairpins),
                    reg,
                    invert: false,
                })
                .expr(Expr::Masquerade { fully_random: true })
                .comment("a pod reaching itself"),
            Rule::new()
                .expr(Expr::Meta(Meta::Mark, reg))
                .expr(Expr::Bitwise {
                    reg,
                    mask: Data::host(MASQUERADE),
                    xor: Data::host(0),
                })
                .expr(Expr::eq(reg, Data::host(0)))
                .ret(),
            // Cleared, so that a packet that comes round again (a tunnel's) is not
            // masqueraded twice.
            Rule::new()
                .expr(Expr::Meta(Meta::Mark, reg))
                .expr(Expr::Bitwise {
                    reg,
                    mask: Data::host(u32::MAX),
                    xor: Data::host(MASQUERADE),
                })
                .expr(Expr::SetMeta(Meta::Mark, reg)),
            Rule::new().expr(Expr::Masquerade { fully_random: true }),
        ],
    );
}
