//! A node's base table: masquerading of pods' traffic, and host ports.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::types::{HostPort, NetworkConfig, PodNetwork};
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Field, Hook, HookKind, Key, Meta, Name, NatKind, Reg,
    Rule, Set, SetRef, Table, priority,
};

/// Name of the table.
const TABLE: &str = "rkube";

/// Returns the table. `peers` are the addresses of other nodes.
pub(super) fn base_table<'a>(
    config: &NetworkConfig,
    peers: &[Ipv4Addr],
    pods: impl Iterator<Item = &'a PodNetwork>,
) -> Table {
    let mut table = Table::new(Family::Ip, TABLE);
    let hairpins = host_port_chains(&mut table, config.load_balancers, pods);
    let peers = table.set(
        "peers",
        Set::of(&[Field::Ipv4], peers.iter().map(|ip| Key::from(*ip))),
    );
    pod_guard(&mut table, config);
    postrouting_chain(&mut table, config, hairpins, peers);
    table
}

/// Adds the maps of host ports and the chains that translate them. Returns the set of pods that may
/// reach themselves through a host port.
fn host_port_chains<'a>(
    table: &mut Table,
    load_balancers: Option<Ipv4Net>,
    pods: impl Iterator<Item = &'a PodNetwork>,
) -> Name {
    let reg = Reg::word;
    let (mut anywhere, mut on_address, mut hairpins) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods {
        for port in &pod.host_ports {
            let target = Key::new(&[Data::ip(pod.ip), Data::port(port.container_port)]);
            let HostPort {
                protocol,
                host_port,
                ..
            } = port;
            let (protocol, host_port) = (Data::byte(protocol.number()), Data::port(*host_port));
            match port.host_ip.filter(|ip| !ip.is_unspecified()) {
                None => anywhere.push((Key::new(&[protocol, host_port]), target)),
                Some(ip) => {
                    on_address.push((Key::new(&[Data::ip(ip), protocol, host_port]), target));
                }
            }
        }
        if !pod.host_ports.is_empty() {
            hairpins.push(Key::new(&[Data::ip(pod.ip), Data::ip(pod.ip)]));
        }
    }
    let target = [Field::Ipv4, Field::Port];
    let anywhere = table.set(
        "host-ports",
        Set::map(&[Field::Protocol, Field::Port], &target, anywhere),
    );
    let on_address = table.set(
        "host-address-ports",
        Set::map(
            &[Field::Ipv4, Field::Protocol, Field::Port],
            &target,
            on_address,
        ),
    );
    let hairpins = table.set("hairpins", Set::of(&[Field::Ipv4, Field::Ipv4], hairpins));
    let by_address = Rule::new()
        .expr(Expr::destination_ip(reg(0)))
        .expr(Expr::Meta(Meta::L4Proto, reg(1)))
        .expr(Expr::destination_port(reg(2)));
    let by_port = Rule::new()
        .expr(Expr::Meta(Meta::L4Proto, reg(0)))
        .expr(Expr::destination_port(reg(1)));
    let host_ports = table.chain(
        "to-host-ports",
        vec![
            translate(by_address, &on_address),
            translate(by_port, &anywhere),
        ],
    );
    // Before the services' chains: a host port takes precedence.
    let early = priority::DNAT - 1;
    for (name, hook) in [
        ("prerouting", HookKind::Prerouting),
        ("output", HookKind::Output),
    ] {
        table.base_chain(
            name,
            Hook::new(ChainKind::Nat, hook, early),
            vec![own_address(load_balancers).jump(&host_ports)],
        );
    }
    hairpins
}

/// Returns the start of a rule about packets to an address of the node, without those of load
/// balancers that it answers for.
pub(crate) fn own_address(load_balancers: Option<Ipv4Net>) -> Rule {
    let local = Rule::new().destination_local();
    match load_balancers {
        Some(range) => local.destination(CmpOp::Ne, range),
        None => local,
    }
}

/// Appends a lookup of the registers in a map, and the translation of the destination to the
/// address and port found.
fn translate(rule: Rule, map: &Name) -> Rule {
    let reg = Reg::word;
    rule.expr(Expr::LookupValue {
        map: SetRef::Named(map.clone()),
        reg: reg(0),
        to: reg(0),
    })
    .expr(Expr::Nat {
        kind: NatKind::Destination,
        address: reg(0),
        port: Some(reg(1)),
    })
}

fn loopback() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)
}

/// Adds the chain that drops what no honest pod sends.
///
/// The bridge routes 127.0.0.0/8 for host ports on 127.0.0.1. A packet to it from another interface
/// than `lo` is a pod's attempt to reach the node's services there. A packet from the bridge with
/// the address of a machine elsewhere is a pod's attempt to pass for that machine.
fn pod_guard(table: &mut Table, config: &NetworkConfig) {
    table.base_chain(
        "pod-guard",
        Hook::new(ChainKind::Filter, HookKind::Prerouting, priority::RAW),
        vec![
            Rule::new()
                .in_link(CmpOp::Ne, "lo")
                .destination(CmpOp::Eq, loopback())
                .drop(),
            Rule::new()
                .in_link(CmpOp::Eq, &config.bridge)
                .source(CmpOp::Ne, config.pod_cidr.trunc())
                .drop(),
        ],
    );
}

/// Adds the chain that masquerades traffic for which the destination has no return route.
fn postrouting_chain(table: &mut Table, config: &NetworkConfig, hairpins: Name, peers: Name) {
    let reg = Reg::word;
    let lookup = |set: Name| Expr::Lookup {
        set: SetRef::Named(set),
        reg: reg(0),
        invert: false,
    };
    let masquerade = Expr::Masquerade { fully_random: true };
    let multicast = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    table.base_chain(
        "postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .source(CmpOp::Eq, loopback())
                .out_link(CmpOp::Eq, &config.bridge)
                .expr(masquerade.clone())
                .comment("the node to a host port on 127.0.0.1"),
            Rule::new()
                .expr(Expr::source_ip(reg(0)))
                .expr(Expr::destination_ip(reg(1)))
                .expr(lookup(hairpins))
                .expr(masquerade.clone())
                .comment("a pod to its own host port"),
            Rule::new().source(CmpOp::Ne, config.pod_cidr.trunc()).ret(),
            Rule::new()
                .destination(CmpOp::Eq, config.cluster_cidr.trunc())
                .ret(),
            Rule::new().destination(CmpOp::Eq, multicast).ret(),
            Rule::new()
                .expr(Expr::destination_ip(reg(0)))
                .expr(lookup(peers))
                .ret()
                .comment("other nodes have a route back"),
            Rule::new().expr(masquerade).comment("pods to elsewhere"),
        ],
    );
}
