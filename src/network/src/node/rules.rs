//! A node's base table: masquerading of pods' traffic, and host ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::types::{HostPort, NetworkConfig, PodNetwork, Side};
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Field, Hook, HookKind, Key, Meta, Name, NatKind,
    PayloadBase, Reg, Rule, Set, SetRef, Table, priority,
};

/// Name of the table.
const TABLE: &str = "rkube";

/// Type of an ICMPv6 redirect (RFC 4861).
const REDIRECT: u8 = 137;

/// Returns the table of one family. `peers` are the addresses of other nodes.
pub(super) fn base_table<'a>(
    config: &NetworkConfig,
    side: &Side,
    peers: &[IpAddr],
    pods: impl Iterator<Item = &'a PodNetwork>,
) -> Table {
    let mut table = Table::new(side.family, TABLE);
    let load_balancers = config.load_balancers.filter(|_| side.family == Family::Ip);
    // Without IPv4 addresses of pods, no port of the node leads to one.
    let pods = pods.filter(|_| side.family != Family::Ip || config.ipv4_pods);
    let hairpins = host_port_chains(&mut table, load_balancers, pods);
    let peers = peers.iter().filter(|ip| Family::of(**ip) == side.family);
    let peers = table.set(
        "peers",
        Set::of(&[side.family.address()], peers.map(|ip| Key::from(*ip))),
    );
    pod_guard(&mut table, side, &config.bridge);
    postrouting_chain(&mut table, side, &config.bridge, hairpins, peers);
    table
}

/// Adds the maps of host ports and the chains that translate them. Returns the set of pods that may
/// reach themselves through a host port.
fn host_port_chains<'a>(
    table: &mut Table,
    load_balancers: Option<Ipv4Net>,
    pods: impl Iterator<Item = &'a PodNetwork>,
) -> Name {
    let family = table.family;
    let address = family.address();
    let (mut anywhere, mut on_address, mut hairpins) = (Vec::new(), Vec::new(), Vec::new());
    for pod in pods {
        let Some(pod_ip) = pod.address(family) else {
            continue;
        };
        for port in &pod.host_ports {
            let target = Key::new(&[Data::ip(pod_ip), Data::port(port.container_port)]);
            let HostPort {
                protocol,
                host_port,
                ..
            } = port;
            let (protocol, host_port) = (Data::byte(protocol.number()), Data::port(*host_port));
            match port.host_ip {
                Some(ip) if Family::of(ip) != family => {}
                None => anywhere.push((Key::new(&[protocol, host_port]), target)),
                Some(ip) if ip.is_unspecified() => {
                    anywhere.push((Key::new(&[protocol, host_port]), target));
                }
                Some(ip) => {
                    on_address.push((Key::new(&[Data::ip(ip), protocol, host_port]), target));
                }
            }
        }
        if !pod.host_ports.is_empty() {
            hairpins.push(Key::new(&[Data::ip(pod_ip), Data::ip(pod_ip)]));
        }
    }
    let target = [address, Field::Port];
    let anywhere = table.set(
        "host-ports",
        Set::map(&[Field::Protocol, Field::Port], &target, anywhere),
    );
    let on_address = table.set(
        "host-address-ports",
        Set::map(
            &[address, Field::Protocol, Field::Port],
            &target,
            on_address,
        ),
    );
    let hairpins = table.set("hairpins", Set::of(&[address; 2], hairpins));
    let by_address = Rule::new()
        .expr(Expr::destination_ip(Reg::word(0)))
        .expr(Expr::Meta(Meta::L4Proto, family.after_address(0)))
        .expr(Expr::destination_port(family.after_address(1)));
    let by_port = Rule::new()
        .expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
        .expr(Expr::destination_port(Reg::word(1)));
    let host_ports = table.chain(
        "to-host-ports",
        vec![
            translate(by_address, &on_address, family),
            translate(by_port, &anywhere, family),
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
            vec![host_port_address(family, load_balancers).jump(&host_ports)],
        );
    }
    hairpins
}

/// Returns the start of a rule about packets to an address of the node with host ports. The kernel
/// does not route the IPv6 loopback address to pods.
fn host_port_address(family: Family, load_balancers: Option<Ipv4Net>) -> Rule {
    let own = own_address(load_balancers);
    match family {
        Family::Ip6 => own.destination(CmpOp::Ne, loopback(family)),
        Family::Ip | Family::Inet | Family::Bridge => own,
    }
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
fn translate(rule: Rule, map: &Name, family: Family) -> Rule {
    let reg = Reg::word;
    rule.expr(Expr::LookupValue {
        map: SetRef::Named(map.clone()),
        reg: reg(0),
        to: reg(0),
    })
    .expr(Expr::Nat {
        kind: NatKind::Destination,
        address: reg(0),
        port: Some(family.after_address(0)),
    })
}

/// Returns the loopback addresses of a family.
pub(crate) fn loopback(family: Family) -> IpNet {
    match family {
        Family::Ip6 => Ipv6Net::from(Ipv6Addr::LOCALHOST).into(),
        Family::Ip | Family::Inet | Family::Bridge => {
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()
        }
    }
}

/// Adds the chain that drops what no honest pod sends.
///
/// The bridge routes 127.0.0.0/8 for host ports on 127.0.0.1. A packet to it from another interface
/// than `lo` is a pod's attempt to reach the node's services there. A packet from the bridge with
/// the address of a machine elsewhere is a pod's attempt to pass for that machine.
///
/// Neighbour discovery of IPv6 also uses link-local addresses. All packets between pods pass the
/// bridge, so the kernel would tell pods with redirects that their neighbours are directly there.
fn pod_guard(table: &mut Table, side: &Side, bridge: &str) {
    if side.family == Family::Ip6 {
        table.base_chain(
            "pod-guard",
            Hook::new(ChainKind::Filter, HookKind::Prerouting, priority::RAW),
            vec![
                Rule::new()
                    .in_link(CmpOp::Eq, bridge)
                    .source(CmpOp::Ne, side.pod_cidr)
                    .source(CmpOp::Ne, link_local())
                    .drop(),
                // Policies know pods by their other addresses.
                Rule::new()
                    .in_link(CmpOp::Eq, bridge)
                    .source(CmpOp::Eq, link_local())
                    .expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
                    .expr(Expr::ne(
                        Reg::word(0),
                        Data::byte(libc::IPPROTO_ICMPV6 as u8),
                    ))
                    .drop(),
            ],
        );
        table.base_chain(
            "no-redirects",
            Hook::new(ChainKind::Filter, HookKind::Output, priority::FILTER),
            vec![
                Rule::new()
                    .out_link(CmpOp::Eq, bridge)
                    .protocol(libc::IPPROTO_ICMPV6 as u8)
                    .expr(Expr::Payload {
                        base: PayloadBase::Transport,
                        offset: 0,
                        length: 1,
                        reg: Reg::word(0),
                    })
                    .expr(Expr::eq(Reg::word(0), Data::byte(REDIRECT)))
                    .drop(),
            ],
        );
        return;
    }
    table.base_chain(
        "pod-guard",
        Hook::new(ChainKind::Filter, HookKind::Prerouting, priority::RAW),
        vec![
            Rule::new()
                .in_link(CmpOp::Ne, "lo")
                .destination(CmpOp::Eq, loopback(side.family))
                .drop(),
            Rule::new()
                .in_link(CmpOp::Eq, bridge)
                .source(CmpOp::Ne, side.pod_cidr)
                .drop(),
        ],
    );
}

/// Returns the link-local addresses of IPv6.
fn link_local() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)
}

/// Adds the chain that masquerades traffic for which the destination has no return route.
fn postrouting_chain(table: &mut Table, side: &Side, bridge: &str, hairpins: Name, peers: Name) {
    let reg = Reg::word;
    let lookup = |set: Name| Expr::Lookup {
        set: SetRef::Named(set),
        reg: reg(0),
        invert: false,
    };
    let masquerade = Expr::Masquerade { fully_random: true };
    let multicast: IpNet = match side.family {
        Family::Ip6 => Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
        Family::Ip | Family::Inet | Family::Bridge => {
            Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into()
        }
    };
    table.base_chain(
        "postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .source(CmpOp::Eq, loopback(side.family))
                .out_link(CmpOp::Eq, bridge)
                .expr(masquerade.clone())
                .comment("the node to a host port on 127.0.0.1"),
            Rule::new()
                .expr(Expr::source_ip(reg(0)))
                .expr(Expr::destination_ip(side.family.after_address(0)))
                .expr(lookup(hairpins))
                .expr(masquerade.clone())
                .comment("a pod to its own host port"),
            Rule::new().source(CmpOp::Ne, side.pod_cidr).ret(),
            Rule::new().destination(CmpOp::Eq, side.cluster_cidr).ret(),
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
