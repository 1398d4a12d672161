//! The maps, and the base chains that look services up in them.

use ipnet::Ipv4Net;

use super::rules::{ENDPOINTS, MASQUERADE};
use super::types::Maps;
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Field, Hook, HookKind, Meta, Name, Reg, Reject, Rule,
    Set, SetRef, Table, ct_state, ct_status, priority,
};
use crate::node::{Protocol, loopback, own_address};

/// The number of ICMP.
const ICMP: u8 = 1;

/// Adds the chain that rejects packets: TCP with a reset, all others with ICMP.
pub(super) fn refusal_chain(table: &mut Table) -> Name {
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

/// Appends a lookup of `address . protocol . port` in a verdict map.
fn by_address(rule: Rule, map: &Name, family: Family) -> Rule {
    rule.expr(Expr::destination_ip(Reg::word(0)))
        .expr(Expr::Meta(Meta::L4Proto, family.after_address(0)))
        .expr(Expr::destination_port(family.after_address(1)))
        .expr(Expr::LookupVerdict {
            map: SetRef::Named(map.clone()),
            reg: Reg::word(0),
        })
}

/// Returns a rule that looks up `protocol . port` of traffic to this node in a verdict map.
fn by_node_port(map: &Name, family: Family, load_balancers: Option<Ipv4Net>) -> Rule {
    // Pods have no return route to 127.0.0.1 or ::1.
    own_address(load_balancers)
        .destination(CmpOp::Ne, loopback(family))
        .expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
        .expr(Expr::destination_port(Reg::word(1)))
        .expr(Expr::LookupVerdict {
            map: SetRef::Named(map.clone()),
            reg: Reg::word(0),
        })
}

/// Adds the maps and the base chains that use them.
pub(super) fn base_chains(
    table: &mut Table,
    maps: Maps,
    load_balancers: Option<Ipv4Net>,
    refuse: &Name,
) {
    let family = table.family;
    let ip = family.address();
    let address = [ip, Field::Protocol, Field::Port];
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
    let hairpins = table.set("hairpins", Set::of(&[ip; 2], maps.hairpins));
    table.set(
        ENDPOINTS,
        Set::map(&[Field::Mark; 3], &[ip, Field::Port], maps.endpoints),
    );
    let cluster_ips = table.set("cluster-ips", Set::of(&[ip], maps.cluster_ips));

    let services = table.chain(
        "services",
        vec![
            by_address(Rule::new(), &service_ips, family),
            by_node_port(&node_ports, family, load_balancers),
        ],
    );
    let no_endpoints = table.chain(
        "no-endpoints",
        vec![by_address(Rule::new(), &no_ips, family)],
    );
    let no_endpoints_here = table.chain(
        "no-endpoints-here",
        vec![by_node_port(&no_node_ports, family, load_balancers)],
    );
    let firewall = table.chain(
        "firewall",
        vec![by_address(Rule::new(), &firewall_ips, family)],
    );
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

    // Of the node's own servers, none is reached at a load balancer's address. A ping is answered.
    let closed = load_balancers.map(|range| {
        Rule::new()
            .destination(CmpOp::Eq, range)
            .expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
            .expr(Expr::ne(Reg::word(0), Data::byte(ICMP)))
            .goto(refuse)
    });
    let closed = table.chain("load-balancers", closed.into_iter().collect());
    for (name, hook) in [
        ("nat-prerouting", HookKind::Prerouting),
        ("nat-output", HookKind::Output),
    ] {
        let hook = Hook::new(ChainKind::Nat, hook, priority::DNAT);
        table.base_chain(name, hook, vec![Rule::new().jump(&services)]);
    }
    filter_chains(
        table,
        &no_endpoints,
        &no_endpoints_here,
        &firewall,
        &unserved,
        &closed,
    );
    postrouting_chain(table, hairpins);
}

/// Adds the base chains that filter new connections.
fn filter_chains(
    table: &mut Table,
    no_endpoints: &Name,
    no_endpoints_here: &Name,
    firewall: &Name,
    unserved: &Name,
    closed: &Name,
) {
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
        &[firewall],
    );
    filter("firewall-output", HookKind::Output, before, &[firewall]);
    filter(
        "filter-input",
        HookKind::Input,
        priority::FILTER,
        &[no_endpoints_here, no_endpoints, closed],
    );
    filter(
        "filter-forward",
        HookKind::Forward,
        priority::FILTER,
        &[no_endpoints, unserved],
    );
    filter(
        "filter-output",
        HookKind::Output,
        after,
        &[no_endpoints_here, no_endpoints, unserved],
    );
}

/// Adds the base chain that masquerades marked packets and hairpin traffic.
fn postrouting_chain(table: &mut Table, hairpins: Name) {
    let reg = Reg::word(0);
    let second = table.family.after_address(0);
    table.base_chain(
        "nat-postrouting",
        Hook::new(ChainKind::Nat, HookKind::Postrouting, priority::SNAT),
        vec![
            Rule::new()
                .ct_status(ct_status::DNAT)
                .expr(Expr::source_ip(reg))
                .expr(Expr::destination_ip(second))
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
            // Clear the mark, so that a packet that passes the table again (in a tunnel) is not
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
