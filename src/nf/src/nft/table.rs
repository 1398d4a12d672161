//! Tables, chains, rules and sets as plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::expr::{CmpOp, Ct, Data, Expr, MAX_DATA, Meta, Reg, Verdict};

/// The name of a chain or set. Shared, because many rules refer to it.
pub type Name = Arc<str>;

/// The address family of a table's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames of bridges.
    Bridge,
}

impl Family {
    /// Returns the family of tables that see packets of this address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Ip,
            IpAddr::V6(_) => Self::Ip6,
        }
    }

    /// Returns the type of the addresses of its packets: IPv6 for [`Self::Ip6`], otherwise IPv4.
    pub fn address(self) -> Field {
        match self {
            Self::Ip6 => Field::Ipv6,
            Self::Ip | Self::Inet | Self::Bridge => Field::Ipv4,
        }
    }

    /// Returns the `n`th register after an address that begins in the first one.
    pub const fn after_address(self, n: u32) -> Reg {
        match self {
            Self::Ip6 => Reg::word(4 + n),
            Self::Ip | Self::Inet | Self::Bridge => Reg::word(1 + n),
        }
    }
}

/// Priorities of hooks. Chains with lower values run earlier.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Translation of destinations.
    pub const DNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Filtering of frames that a bridge received (`NF_BR_PRI_FILTER_BRIDGED`).
    pub const BRIDGE_FILTER: i32 = -200;
    /// Translation of sources.
    pub const SNAT: i32 = 100;
}

/// A table: a named collection of sets, maps and chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: String,
    /// Sets and maps. Shared between versions of a table, so that comparing two versions costs
    /// nothing for those that did not change.
    pub sets: BTreeMap<Name, Arc<Set>>,
    /// Chains, shared like sets.
    pub chains: BTreeMap<Name, Arc<Chain>>,
}

impl Table {
    /// Returns an empty table.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// Adds a chain without a hook, which is reached by jumps. Returns its name.
    pub fn chain(&mut self, name: impl Into<Name>, rules: Vec<Rule>) -> Name {
        let name = name.into();
        self.chains
            .insert(name.clone(), Arc::new(Chain { hook: None, rules }));
        name
    }

    /// Adds a base chain at a hook, with policy accept. Returns its name.
    pub fn base_chain(&mut self, name: impl Into<Name>, hook: Hook, rules: Vec<Rule>) -> Name {
        let name = name.into();
        self.chains.insert(
            name.clone(),
            Arc::new(Chain {
                hook: Some(hook),
                rules,
            }),
        );
        name
    }

    /// Adds a set or map. Returns its name.
    pub fn set(&mut self, name: impl Into<Name>, set: Set) -> Name {
        let name = name.into();
        self.sets.insert(name.clone(), Arc::new(set));
        name
    }
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accepts or drops packets.
    Filter,
    /// Translates addresses of new connections.
    Nat,
    /// Reroutes packets that it changes.
    Route,
}

/// A point in the processing of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// Received, before routing.
    Prerouting,
    /// Destined for this machine.
    Input,
    /// Forwarded to another machine.
    Forward,
    /// Sent by this machine.
    Output,
    /// About to be sent.
    Postrouting,
}

/// The hook that a base chain is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Type of the chain.
    pub kind: ChainKind,
    /// The point in packet processing.
    pub hook: HookKind,
    /// Order among the chains of a hook; lower values run earlier.
    pub priority: i32,
}

impl Hook {
    /// Returns a hook.
    pub fn new(kind: ChainKind, hook: HookKind, priority: i32) -> Self {
        Self {
            kind,
            hook,
            priority,
        }
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The hook; `None` for a chain that is reached by jumps.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// A rule: expressions, and a comment that `nft list` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Expressions in order of evaluation.
    pub exprs: Vec<Expr>,
    /// Comment, truncated to 127 bytes.
    pub comment: Option<String>,
}

impl From<Vec<Expr>> for Rule {
    fn from(exprs: Vec<Expr>) -> Self {
        Self {
            exprs,
            comment: None,
        }
    }
}

/// Builder methods, named after the syntax of `nft`. Each uses registers 0 and up.
impl Rule {
    /// Returns a rule without expressions, which matches everything and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an expression.
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// Sets the comment.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = Some(text.into());
        self
    }

    /// Appends `ct state { … }`, which matches if any of the bits is set.
    pub fn ct_state(self, bits: u32) -> Self {
        self.ct_bits(Ct::State, bits)
    }

    /// Appends `ct status …`, which matches if any of the bits is set.
    pub fn ct_status(self, bits: u32) -> Self {
        self.ct_bits(Ct::Status, bits)
    }

    fn ct_bits(self, key: Ct, bits: u32) -> Self {
        let reg = Reg::word(0);
        self.expr(Expr::Ct(key, reg))
            .expr(Expr::Bitwise {
                reg,
                mask: Data::host(bits),
                xor: Data::host(0),
            })
            .expr(Expr::ne(reg, Data::host(0)))
    }

    /// Appends `iifname NAME`, or `iifname != NAME` with [`CmpOp::Ne`].
    pub fn in_link(self, op: CmpOp, name: &str) -> Self {
        self.expr(Expr::Meta(Meta::InName, Reg::word(0)))
            .expr(Expr::Cmp(Reg::word(0), op, Data::link(name)))
    }

    /// Appends `oifname NAME`, or `oifname != NAME` with [`CmpOp::Ne`].
    pub fn out_link(self, op: CmpOp, name: &str) -> Self {
        self.expr(Expr::Meta(Meta::OutName, Reg::word(0)))
            .expr(Expr::Cmp(Reg::word(0), op, Data::link(name)))
    }

    /// Appends `ip saddr NET`. The range must be of the table's family.
    pub fn source(self, op: CmpOp, net: impl Into<IpNet>) -> Self {
        self.expr(Expr::source_ip(Reg::word(0)))
            .compare_net(op, net.into())
    }

    /// Appends `ip daddr NET`. The range must be of the table's family.
    pub fn destination(self, op: CmpOp, net: impl Into<IpNet>) -> Self {
        self.expr(Expr::destination_ip(Reg::word(0)))
            .compare_net(op, net.into())
    }

    fn compare_net(self, op: CmpOp, net: IpNet) -> Self {
        let reg = Reg::word(0);
        let rule = if net.prefix_len() == net.max_prefix_len() {
            self
        } else {
            self.expr(Expr::Bitwise {
                reg,
                mask: Data::ip(net.netmask()),
                xor: Data::zeros(net.addr()),
            })
        };
        rule.expr(Expr::Cmp(reg, op, Data::ip(net.network())))
    }

    /// Appends `meta l4proto N`.
    pub fn protocol(self, number: u8) -> Self {
        self.expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::byte(number)))
    }

    /// Appends `th dport N`. The rule must match the protocol first ([`Rule::protocol`]).
    pub fn destination_port(self, port: u16) -> Self {
        self.expr(Expr::destination_port(Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::port(port)))
    }

    /// Appends `fib daddr type local`.
    pub fn destination_local(self) -> Self {
        self.expr(Expr::FibDestinationType(Reg::word(0)))
            .expr(Expr::eq(
                Reg::word(0),
                Data::host(u32::from(libc::RTN_LOCAL)),
            ))
    }

    /// Appends `fib saddr type local`.
    pub fn source_local(self) -> Self {
        self.expr(Expr::FibSourceType(Reg::word(0))).expr(Expr::eq(
            Reg::word(0),
            Data::host(u32::from(libc::RTN_LOCAL)),
        ))
    }

    /// Appends a verdict.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// Appends `accept`.
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// Appends `drop`.
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// Appends `return`.
    pub fn ret(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// Appends `jump NAME`.
    pub fn jump(self, chain: &Name) -> Self {
        self.expr(Expr::jump(chain))
    }

    /// Appends `goto NAME`.
    pub fn goto(self, chain: &Name) -> Self {
        self.expr(Expr::goto(chain))
    }
}

/// A component of a set's key or a map's value. Variants name the type in `nft`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ipv4_addr`.
    Ipv4,
    /// `ipv6_addr`.
    Ipv6,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`: a port.
    Port,
    /// `mark`.
    Mark,
    /// `ifname`.
    LinkName,
    /// A 32-bit number computed by the kernel, such as by `numgen`.
    Number,
}

impl Field {
    /// Returns the number that `nft` assigns to the type. Only `nft list` needs it.
    pub(super) fn type_number(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::LinkName => 41,
        }
    }

    /// Returns the length in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Mark | Self::Number => 4,
            Self::Ipv6 | Self::LinkName => 16,
        }
    }
}

/// The key of an element: one [`Data`] per field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Data);

impl Key {
    /// Returns a key. The parts of a concatenation are padded to 32-bit words.
    pub fn new(parts: &[Data]) -> Self {
        if let [one] = parts {
            return Self(*one);
        }
        let mut bytes = [0; MAX_DATA];
        let mut at = 0;
        for part in parts {
            let part = part.as_bytes();
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len().next_multiple_of(4);
        }
        Self(Data::bytes(&bytes[..at]))
    }

    pub(super) fn data(&self) -> &Data {
        &self.0
    }
}

impl From<Ipv4Addr> for Key {
    fn from(ip: Ipv4Addr) -> Self {
        Self(Data::ip(ip))
    }
}

impl From<IpAddr> for Key {
    fn from(ip: IpAddr) -> Self {
        Self(Data::ip(ip))
    }
}

impl From<u32> for Key {
    fn from(number: u32) -> Self {
        Self(Data::host(number))
    }
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value: an element of a set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// Data, concatenated like a key.
    Data(Key),
}

/// The type of a set's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// No values: a set.
    None,
    /// Verdicts: a verdict map.
    Verdict,
    /// Data: a map.
    Fields(Vec<Field>),
}

/// A key with its value.
pub type Element = (Key, Value);

/// A set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Components of the key.
    pub key: Vec<Field>,
    /// Type of the values.
    pub data: SetData,
    /// Elements. Empty for sets of ranges and for sets that rules add to.
    pub elements: BTreeMap<Key, Value>,
    /// Non-overlapping address ranges, for a set with a single address as its key.
    pub ranges: Option<Vec<IpNet>>,
    /// Timeout of elements, for a set that rules add to ([`Expr::Update`]).
    pub timeout: Option<Duration>,
}

impl Set {
    /// Returns a set with these elements.
    pub fn of(key: &[Field], elements: impl IntoIterator<Item = Key>) -> Self {
        Self {
            key: key.to_vec(),
            data: SetData::None,
            elements: elements.into_iter().map(|key| (key, Value::None)).collect(),
            ranges: None,
            timeout: None,
        }
    }

    /// Returns a set of address ranges of one family. Overlapping ranges are merged.
    pub fn of_ranges(ranges: &[IpNet]) -> Self {
        let ranges = IpNet::aggregate(&ranges.iter().map(IpNet::trunc).collect());
        let family = ranges
            .first()
            .map_or(Family::Ip, |net| Family::of(net.addr()));
        Self {
            ranges: Some(ranges),
            ..Self::of(&[family.address()], [])
        }
    }

    /// Returns an empty set that rules add elements to. Elements expire after `timeout`.
    pub fn dynamic(key: &[Field], timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..Self::of(key, [])
        }
    }

    /// Returns a map from keys to verdicts.
    pub fn verdicts(key: &[Field], elements: impl IntoIterator<Item = (Key, Verdict)>) -> Self {
        Self {
            data: SetData::Verdict,
            elements: elements
                .into_iter()
                .map(|(key, verdict)| (key, Value::Verdict(verdict)))
                .collect(),
            ..Self::of(key, [])
        }
    }

    /// Returns a map from keys to data.
    pub fn map(
        key: &[Field],
        value: &[Field],
        elements: impl IntoIterator<Item = (Key, Key)>,
    ) -> Self {
        Self {
            data: SetData::Fields(value.to_vec()),
            elements: elements
                .into_iter()
                .map(|(key, value)| (key, Value::Data(value)))
                .collect(),
            ..Self::of(key, [])
        }
    }

    /// Returns whether the sets are equal except for their elements.
    pub(super) fn same_shape(&self, other: &Self) -> bool {
        self.key == other.key
            && self.data == other.data
            && self.timeout == other.timeout
            && self.ranges == other.ranges
    }
}
