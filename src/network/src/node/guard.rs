//! The guard of the bridge: a pod sends with its own addresses only.
//!
//! Network policies decide by addresses, and the bridge learns from frames where an address is. So
//! a frame from a pod's interface passes only with the pod's hardware address and one of its IP
//! addresses, in the header of the frame as well as in ARP. An IPv6 packet may also have the
//! link-local address that belongs to the hardware address. A neighbour advertisement must be about
//! such an address. Routers' advertisements and redirects do not pass, as pods are no routers. A
//! family that the cluster does not have does not pass either.
//!
//! A pod's hardware address contains its IPv4 address (`types::mac_of`). One set of interfaces with
//! their addresses therefore checks both.

use nix::errno::Errno;

use super::types::{MAC_PREFIX, PodNetwork};
use crate::netlink::NetlinkError;
use crate::nft::{
    ChainKind, CmpOp, Data, Expr, Family, Field, Hook, HookKind, Key, Meta, Name, PayloadBase, Reg,
    Rule, Set, SetRef, Table, priority,
};

/// Name of the table.
const TABLE: &str = "rkube-guard";
/// Ethernet types.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Types of ICMPv6 messages (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Start of an ARP packet about IPv4 addresses on Ethernet: types and lengths of both addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// First register after an interface's name.
const ADDRESS: Reg = Reg::word(4);

/// Returns the table for these pods. Only interfaces whose names begin with `prefix` are guarded.
/// Without `ipv4`, nothing of IPv4 passes.
pub(super) fn table<'a>(
    prefix: &str,
    ipv4: bool,
    pods: impl Iterator<Item = &'a PodNetwork>,
) -> Table {
    let mut table = Table::new(Family::Bridge, TABLE);
    let pods: Vec<&PodNetwork> = pods.collect();
    let ipv6 = ipv6_chain(&mut table, &pods);
    let pods = pods.into_iter();
    let pods = pods.map(|pod| Key::new(&[Data::link(&pod.host_link), Data::ip(pod.ip)]));
    let pods = table.set("pods", Set::of(&[Field::LinkName, Field::Ipv4], pods));
    let hardware = |base, offset| {
        Rule::new()
            .expr(field(base, offset, 2, ADDRESS))
            .expr(Expr::eq(ADDRESS, Data::bytes(&MAC_PREFIX)))
            .expr(Expr::Meta(Meta::InName, Reg::word(0)))
            .expr(field(base, offset + 2, 4, ADDRESS))
            .expr(has_assigned_address(&pods))
    };
    let address = |offset| {
        Rule::new()
            .expr(Expr::Meta(Meta::InName, Reg::word(0)))
            .expr(field(PayloadBase::Network, offset, 4, ADDRESS))
            .expr(has_assigned_address(&pods))
    };
    // In an ARP packet, the sender's addresses are at 8 and 14.
    let ip_of_arp = table.chain(
        "arp-address",
        vec![
            // A probe for an address in use (RFC 5227) has none. It changes no table.
            Rule::new()
                .expr(field(PayloadBase::Network, 14, 4, ADDRESS))
                .expr(Expr::eq(ADDRESS, Data::host(0)))
                .accept(),
            address(14).accept(),
            Rule::new().drop(),
        ],
    );
    let arp = table.chain(
        "arp",
        vec![
            Rule::new()
                .expr(field(PayloadBase::Network, 0, 6, Reg::word(0)))
                .expr(Expr::ne(Reg::word(0), Data::bytes(&ARP_HEAD)))
                .drop(),
            hardware(PayloadBase::Network, 8).goto(&ip_of_arp),
            Rule::new().drop(),
        ],
    );
    let of_type = |number| {
        Rule::new()
            .expr(field(PayloadBase::Link, 12, 2, Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::port(number)))
    };
    let mut rules = Vec::new();
    if ipv4 {
        let mut packet = of_type(IPV4);
        packet.exprs.extend(address(12).exprs);
        rules.extend([packet.accept(), of_type(ARP).goto(&arp)]);
    }
    rules.extend(ipv6.map(|chain| of_type(IPV6).goto(&chain)));
    rules.push(Rule::new().drop());
    let honest = table.chain("hardware-address-checked", rules);
    table.base_chain(
        "from-pods",
        Hook::new(
            ChainKind::Filter,
            HookKind::Prerouting,
            priority::BRIDGE_FILTER,
        ),
        vec![
            Rule::new()
                .expr(Expr::Meta(Meta::InName, Reg::word(0)))
                .expr(Expr::Cmp(
                    Reg::word(0),
                    CmpOp::Ne,
                    Data::bytes(prefix.as_bytes()),
                ))
                .accept(),
            // The frame's source is at 6.
            hardware(PayloadBase::Link, 6).goto(&honest),
            Rule::new().drop(),
        ],
    );
    table
}

/// Adds the chain of IPv6 packets, if the pods have addresses of IPv6.
fn ipv6_chain(table: &mut Table, pods: &[&PodNetwork]) -> Option<Name> {
    let elements: Vec<Key> = pods
        .iter()
        .filter_map(|pod| Some((pod, pod.ipv6?)))
        .flat_map(|(pod, ip)| [ip, pod.link_local()].map(|ip| (&pod.host_link, ip)))
        .map(|(link, ip)| Key::new(&[Data::link(link), Data::ip(ip)]))
        .collect();
    if elements.is_empty() {
        return None;
    }
    let addresses = table.set(
        "ipv6-addresses",
        Set::of(&[Field::LinkName, Field::Ipv6], elements),
    );
    let unless_own = |base, offset| {
        Rule::new()
            .expr(Expr::Meta(Meta::InName, Reg::word(0)))
            .expr(field(base, offset, 16, ADDRESS))
            .expr(Expr::Lookup {
                set: SetRef::Named(addresses.clone()),
                reg: Reg::word(0),
                invert: true,
            })
            .drop()
    };
    // Type and target of the message are at 0 and 8, also after extension headers.
    let message = |number| {
        Rule::new()
            .protocol(libc::IPPROTO_ICMPV6 as u8)
            .expr(field(PayloadBase::Transport, 0, 1, Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::byte(number)))
    };
    let mut advertisement = message(NEIGHBOUR_ADVERTISEMENT);
    advertisement
        .exprs
        .extend(unless_own(PayloadBase::Transport, 8).exprs);
    Some(table.chain(
        "ipv6",
        vec![
            unless_own(PayloadBase::Network, 8),
            message(ROUTER_ADVERTISEMENT).drop(),
            message(REDIRECT).drop(),
            advertisement,
            Rule::new().accept(),
        ],
    ))
}

/// Loads bytes of a header.
fn field(base: PayloadBase, offset: u32, length: u32, reg: Reg) -> Expr {
    Expr::Payload {
        base,
        offset,
        length,
        reg,
    }
}

/// Continues if the interface in the first registers has the address in [`ADDRESS`].
fn has_assigned_address(pods: &Name) -> Expr {
    Expr::Lookup {
        set: SetRef::Named(pods.clone()),
        reg: Reg::word(0),
        invert: false,
    }
}

/// Returns whether an error of the first attempt means that the kernel cannot filter frames of
/// bridges (`CONFIG_NF_TABLES_BRIDGE`).
pub(super) fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(
        error.errno,
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT
    )
}
