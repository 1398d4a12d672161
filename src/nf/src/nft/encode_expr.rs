//! Encoding of expressions as nf_tables attributes.

use super::expr::{
    CmpOp, Ct, Data, Expr, Meta, NatKind, PayloadBase, Reg, Reject, SetRef, Verdict,
};
use super::nfta;
use crate::netlink::Writer;

/// `NFT_FIB_RESULT_ADDRTYPE`: the type of an address (`enum nft_fib_result`).
const FIB_RESULT_ADDRTYPE: u32 = 3;
/// `NFTA_FIB_F_SADDR`: look up the source address (`enum nft_fib_flags`).
const FIB_F_SADDR: u32 = 1;
/// `NFTA_FIB_F_DADDR`: look up the destination address.
const FIB_F_DADDR: u32 = 2;
/// `NF_NAT_RANGE_PROTO_SPECIFIED` of `linux/netfilter/nf_nat.h`.
const NAT_RANGE_PROTO_SPECIFIED: u32 = 1 << 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
/// `ICMP_HOST_UNREACH` of `linux/icmp.h`.
const ICMP_HOST_UNREACH: u8 = 1;
/// `ICMP_PORT_UNREACH`.
const ICMP_PORT_UNREACH: u8 = 3;
/// `ICMP_PKT_FILTERED`.
const ICMP_PKT_FILTERED: u8 = 13;
/// Unit of a limit's rate, in seconds.
const PER_SECOND: u64 = 1;
/// `ICMPV6_ADM_PROHIBITED` of `linux/icmpv6.h`.
const ICMPV6_ADM_PROHIBITED: u8 = 1;
/// `ICMPV6_ADDR_UNREACH`.
const ICMPV6_ADDR_UNREACH: u8 = 3;
/// `ICMPV6_PORT_UNREACH`.
const ICMPV6_PORT_UNREACH: u8 = 4;
/// Offsets of source and destination in an IPv4 header, and the length of an address.
const IPV4_ADDRESSES: (u32, u32, u32) = (12, 16, 4);
/// The same of an IPv6 header.
const IPV6_ADDRESSES: (u32, u32, u32) = (8, 24, 16);
/// `IP_CT_DIR_ORIGINAL`: from the side that opened the connection.
const CT_ORIGINAL: u8 = 0;
/// `IP_CT_DIR_REPLY`.
const CT_REPLY: u8 = 1;

/// Name and ID of an anonymous set that is added before its rule.
pub(super) type OwnSet = (&'static str, u32);

/// Appends a constant.
pub(super) fn write_data(w: &mut Writer, data: &Data) {
    w.attr(nfta::DATA_VALUE, data.as_bytes());
}

/// Appends a verdict.
pub(super) fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        Verdict::Return => (libc::NFT_RETURN, None),
    };
    w.nest(nfta::DATA_VERDICT, |w| {
        write_number(w, nfta::VERDICT_CODE, code);
        if let Some(chain) = chain {
            w.string(nfta::VERDICT_CHAIN, chain);
        }
    });
}

/// Appends a constant that kernel headers declare as `int`.
pub(super) fn write_number(w: &mut Writer, attribute: u16, value: libc::c_int) {
    w.be32(attribute, value.cast_unsigned());
}

/// Appends an expression's name and attributes.
fn write_named(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.string(nfta::EXPR_NAME, name);
    w.nest(nfta::EXPR_DATA, body);
}

/// Returns where addresses are in the header of a family's packets.
fn addresses(family: u8) -> (u32, u32, u32) {
    if is_ipv6(family) {
        IPV6_ADDRESSES
    } else {
        IPV4_ADDRESSES
    }
}

fn is_ipv6(family: u8) -> bool {
    i32::from(family) == libc::NFPROTO_IPV6
}

/// Appends an expression for a table of the family (`NFPROTO_…`). Takes the next item of `own_sets`
/// for each anonymous set.
pub(super) fn write_expr<'s>(
    w: &mut Writer,
    family: u8,
    expr: &Expr,
    own_sets: &mut impl Iterator<Item = &'s OwnSet>,
) {
    match expr {
        Expr::Immediate(reg, data) => write_named(w, "immediate", |w| {
            w.be32(nfta::IMMEDIATE_DREG, reg.0);
            w.nest(nfta::IMMEDIATE_DATA, |w| write_data(w, data));
        }),
        Expr::Verdict(verdict) => write_named(w, "immediate", |w| {
            write_number(w, nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT);
            w.nest(nfta::IMMEDIATE_DATA, |w| write_verdict(w, verdict));
        }),
        Expr::Cmp(reg, op, data) => write_cmp(w, *reg, *op, data),
        Expr::Bitwise { reg, mask, xor } => write_bitwise(w, *reg, mask, xor),
        Expr::Meta(key, reg) => write_named(w, "meta", |w| {
            w.be32(nfta::META_DREG, reg.0);
            write_number(w, nfta::META_KEY, meta_key(*key));
        }),
        Expr::SetMeta(key, reg) => write_named(w, "meta", |w| {
            write_number(w, nfta::META_KEY, meta_key(*key));
            w.be32(nfta::META_SREG, reg.0);
        }),
        Expr::Payload {
            base,
            offset,
            length,
            reg,
        } => write_payload(w, *base, *offset, *length, *reg),
        Expr::SourceIp(reg) => {
            let (source, _, length) = addresses(family);
            write_payload(w, PayloadBase::Network, source, length, *reg);
        }
        Expr::DestinationIp(reg) => {
            let (_, destination, length) = addresses(family);
            write_payload(w, PayloadBase::Network, destination, length, *reg);
        }
        Expr::Ct(key, reg) => write_named(w, "ct", |w| {
            w.be32(nfta::CT_DREG, reg.0);
            write_number(w, nfta::CT_KEY, ct_key(*key, family));
            if let Some(direction) = ct_direction(*key) {
                w.attr(nfta::CT_DIRECTION, &[direction]);
            }
        }),
        Expr::Lookup { set, reg, invert } => {
            write_lookup(w, set, own_sets, *reg, None, *invert);
        }
        Expr::LookupVerdict { map, reg } => {
            let verdict = Reg(libc::NFT_REG_VERDICT.cast_unsigned());
            write_lookup(w, map, own_sets, *reg, Some(verdict), false);
        }
        Expr::LookupValue { map, reg, to } => {
            write_lookup(w, map, own_sets, *reg, Some(*to), false);
        }
        Expr::Nat {
            kind,
            address,
            port,
        } => write_nat(w, family, *kind, *address, *port),
        Expr::Masquerade { fully_random } => write_named(w, "masq", |w| {
            if *fully_random {
                w.be32(nfta::MASQ_FLAGS, NAT_RANGE_PROTO_RANDOM_FULLY);
            }
        }),
        Expr::Redirect(port) => write_named(w, "redir", |w| {
            if let Some(port) = port {
                w.be32(nfta::REDIR_REG_PROTO_MIN, port.0);
                w.be32(nfta::REDIR_FLAGS, NAT_RANGE_PROTO_SPECIFIED);
            }
        }),
        Expr::FibDestinationType(reg) => write_fib(w, *reg, FIB_F_DADDR),
        Expr::FibSourceType(reg) => write_fib(w, *reg, FIB_F_SADDR),
        Expr::Random { reg, modulus } => write_numgen(w, *reg, *modulus, libc::NFT_NG_RANDOM),
        Expr::Incremental { reg, modulus } => {
            write_numgen(w, *reg, *modulus, libc::NFT_NG_INCREMENTAL);
        }
        Expr::Counter => write_named(w, "counter", |_| {}),
        Expr::Limit { per_second, burst } => write_named(w, "limit", |w| {
            w.be64(nfta::LIMIT_RATE, *per_second);
            w.be64(nfta::LIMIT_UNIT, PER_SECOND);
            w.be32(nfta::LIMIT_BURST, *burst);
            write_number(w, nfta::LIMIT_TYPE, libc::NFT_LIMIT_PKTS);
        }),
        Expr::Reject(reject) => write_reject(w, family, *reject),
        Expr::NoTrack => write_named(w, "notrack", |_| {}),
        Expr::Update { set, reg, timeout } => write_named(w, "dynset", |w| {
            w.string(nfta::DYNSET_SET_NAME, set);
            write_number(w, nfta::DYNSET_OP, libc::NFT_DYNSET_OP_UPDATE);
            w.be32(nfta::DYNSET_SREG_KEY, reg.0);
            if let Some(timeout) = timeout {
                w.be64(nfta::DYNSET_TIMEOUT, timeout.as_millis() as u64);
            }
        }),
    }
}

fn write_payload(w: &mut Writer, base: PayloadBase, offset: u32, length: u32, reg: Reg) {
    write_named(w, "payload", |w| {
        w.be32(nfta::PAYLOAD_DREG, reg.0);
        write_number(w, nfta::PAYLOAD_BASE, payload_base(base));
        w.be32(nfta::PAYLOAD_OFFSET, offset);
        w.be32(nfta::PAYLOAD_LEN, length);
    });
}

fn write_cmp(w: &mut Writer, reg: Reg, op: CmpOp, data: &Data) {
    let op = match op {
        CmpOp::Eq => libc::NFT_CMP_EQ,
        CmpOp::Ne => libc::NFT_CMP_NEQ,
        CmpOp::Lt => libc::NFT_CMP_LT,
        CmpOp::Le => libc::NFT_CMP_LTE,
        CmpOp::Gt => libc::NFT_CMP_GT,
        CmpOp::Ge => libc::NFT_CMP_GTE,
    };
    write_named(w, "cmp", |w| {
        w.be32(nfta::CMP_SREG, reg.0);
        write_number(w, nfta::CMP_OP, op);
        w.nest(nfta::CMP_DATA, |w| write_data(w, data));
    });
}

fn write_bitwise(w: &mut Writer, reg: Reg, mask: &Data, xor: &Data) {
    write_named(w, "bitwise", |w| {
        w.be32(nfta::BITWISE_SREG, reg.0);
        w.be32(nfta::BITWISE_DREG, reg.0);
        w.be32(nfta::BITWISE_LEN, mask.as_bytes().len() as u32);
        w.nest(nfta::BITWISE_MASK, |w| write_data(w, mask));
        w.nest(nfta::BITWISE_XOR, |w| write_data(w, xor));
    });
}

fn write_lookup<'s>(
    w: &mut Writer,
    set: &SetRef,
    own_sets: &mut impl Iterator<Item = &'s OwnSet>,
    reg: Reg,
    to: Option<Reg>,
    invert: bool,
) {
    write_named(w, "lookup", |w| {
        match set {
            SetRef::Named(name) => w.string(nfta::LOOKUP_SET, name),
            SetRef::Anonymous(_) => {
                let (name, id) = own_sets.next().expect("one id for each set of the rule");
                w.string(nfta::LOOKUP_SET, name);
                w.be32(nfta::LOOKUP_SET_ID, *id);
            }
        }
        w.be32(nfta::LOOKUP_SREG, reg.0);
        if let Some(to) = to {
            w.be32(nfta::LOOKUP_DREG, to.0);
        }
        if invert {
            write_number(w, nfta::LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV);
        }
    });
}

fn write_nat(w: &mut Writer, family: u8, kind: NatKind, address: Reg, port: Option<Reg>) {
    let kind = match kind {
        NatKind::Source => libc::NFT_NAT_SNAT,
        NatKind::Destination => libc::NFT_NAT_DNAT,
    };
    write_named(w, "nat", |w| {
        write_number(w, nfta::NAT_TYPE, kind);
        let family = if is_ipv6(family) {
            libc::NFPROTO_IPV6
        } else {
            libc::NFPROTO_IPV4
        };
        write_number(w, nfta::NAT_FAMILY, family);
        w.be32(nfta::NAT_REG_ADDR_MIN, address.0);
        if let Some(port) = port {
            w.be32(nfta::NAT_REG_PROTO_MIN, port.0);
        }
    });
}

fn write_reject(w: &mut Writer, family: u8, reject: Reject) {
    let unreachable = libc::NFT_REJECT_ICMP_UNREACH;
    let (kind, code) = match reject {
        Reject::TcpReset => (libc::NFT_REJECT_TCP_RST, 0),
        Reject::HostUnreachable if is_ipv6(family) => (unreachable, ICMPV6_ADDR_UNREACH),
        Reject::PortUnreachable if is_ipv6(family) => (unreachable, ICMPV6_PORT_UNREACH),
        Reject::AdminProhibited if is_ipv6(family) => (unreachable, ICMPV6_ADM_PROHIBITED),
        Reject::HostUnreachable => (unreachable, ICMP_HOST_UNREACH),
        Reject::PortUnreachable => (unreachable, ICMP_PORT_UNREACH),
        Reject::AdminProhibited => (unreachable, ICMP_PKT_FILTERED),
    };
    write_named(w, "reject", |w| {
        write_number(w, nfta::REJECT_TYPE, kind);
        w.attr(nfta::REJECT_ICMP_CODE, &[code]);
    });
}

/// Appends an expression that loads the type of an address.
fn write_fib(w: &mut Writer, reg: Reg, flags: u32) {
    write_named(w, "fib", |w| {
        w.be32(nfta::FIB_DREG, reg.0);
        w.be32(nfta::FIB_RESULT, FIB_RESULT_ADDRTYPE);
        w.be32(nfta::FIB_FLAGS, flags);
    });
}

fn write_numgen(w: &mut Writer, reg: Reg, modulus: u32, kind: libc::c_int) {
    write_named(w, "numgen", |w| {
        w.be32(nfta::NG_DREG, reg.0);
        w.be32(nfta::NG_MODULUS, modulus);
        write_number(w, nfta::NG_TYPE, kind);
        w.be32(nfta::NG_OFFSET, 0);
    });
}

fn meta_key(key: Meta) -> libc::c_int {
    match key {
        Meta::Mark => libc::NFT_META_MARK,
        Meta::InLink => libc::NFT_META_IIF,
        Meta::OutLink => libc::NFT_META_OIF,
        Meta::InName => libc::NFT_META_IIFNAME,
        Meta::OutName => libc::NFT_META_OIFNAME,
        Meta::NfProto => libc::NFT_META_NFPROTO,
        Meta::L4Proto => libc::NFT_META_L4PROTO,
    }
}

fn payload_base(base: PayloadBase) -> libc::c_int {
    match base {
        PayloadBase::Link => libc::NFT_PAYLOAD_LL_HEADER,
        PayloadBase::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
        PayloadBase::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
    }
}

fn ct_key(key: Ct, family: u8) -> libc::c_int {
    match key {
        Ct::ClientIp | Ct::ServerIp if is_ipv6(family) => libc::NFT_CT_SRC_IP6,
        Ct::State => libc::NFT_CT_STATE,
        Ct::Direction => libc::NFT_CT_DIRECTION,
        Ct::Status => libc::NFT_CT_STATUS,
        Ct::Mark => libc::NFT_CT_MARK,
        Ct::Protocol => libc::NFT_CT_PROTOCOL,
        Ct::ClientIp | Ct::ServerIp => libc::NFT_CT_SRC_IP,
        Ct::ServerPort => libc::NFT_CT_PROTO_SRC,
    }
}

/// Returns the direction whose addresses are loaded: what answers is the source of the replies.
fn ct_direction(key: Ct) -> Option<u8> {
    match key {
        Ct::ClientIp => Some(CT_ORIGINAL),
        Ct::ServerIp | Ct::ServerPort => Some(CT_REPLY),
        Ct::State | Ct::Status | Ct::Mark | Ct::Direction | Ct::Protocol => None,
    }
}
