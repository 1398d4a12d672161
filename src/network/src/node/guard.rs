//! The guard of the bridge: a pod sends with its own addresses only.
//!
//! Network policies decide by addresses, and the bridge learns from frames where an address is. So
//! a frame from a pod's interface passes only with the pod's hardware and IPv4 address, in the
//! header of the frame as well as in ARP. Nothing but IPv4 and ARP passes: the network has nothing
//! else.
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
/// Start of an ARP packet about IPv4 addresses on Ethernet: types and lengths of both addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// First register after an interface's name.
const ADDRESS: Reg = Reg::word(4);

/// Returns the table for these pods. Only interfaces whose names begin with `prefix` are guarded.
pub(super) fn table<'a>(prefix: &str, pods: impl Iterator<Item = &'a PodNetwork>) -> Table {
    let mut table = Table::new(Family::Bridge, TABLE);
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
    let mut ipv4 = of_type(IPV4);
    ipv4.exprs.extend(address(12).exprs);
    let honest = table.chain(
        "hardware-address-checked",
        vec![ipv4.accept(), of_type(ARP).goto(&arp), Rule::new().drop()],
    );
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
