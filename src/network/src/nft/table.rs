//! Tables, chains, rules, sets: plain values.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::expr::{CmpOp, Ct, Data, Expr, Meta, Reg, Verdict};

/// A name of a chain or set; shared, as it stands in many rules.
pub type Name = Arc<str>;

/// The packets that a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

/// Priorities of hooks: the lower runs earlier.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Where destinations are translated.
    pub const DNAT: i32 = -100;
    /// Where packets are filtered.
    pub const FILTER: i32 = 0;
    /// Where sources are translated.
    pub const SNAT: i32 = 100;
}

/// A table: everything in it comes and goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: String,
    /// Sets and maps.
    pub sets: BTreeMap<Name, Set>,
    /// Chains.
    pub chains: BTreeMap<Name, Chain>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// Adds a chain that only jumps lead to.
    pub fn chain(&mut self, name: impl Into<Name>, rules: Vec<Rule>) -> Name {
        let name = name.into();
        self.chains
            .insert(name.clone(), Chain { hook: None, rules });
        name
    }

    /// Adds a chain at a hook, with policy accept.
    pub fn base_chain(&mut self, name: impl Into<Name>, hook: Hook, rules: Vec<Rule>) -> Name {
        let name = name.into();
        self.chains.insert(
            name.clone(),
            Chain {
                hook: Some(hook),
                rules,
            },
        );
        name
    }

    /// Adds a set or map.
    pub fn set(&mut self, name: impl Into<Name>, set: Set) -> Name {
        let name = name.into();
        self.sets.insert(name.clone(), set);
        name
    }
}

/// What a chain at a hook may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Let through or not.
    Filter,
    /// Translate addresses of new connections.
    Nat,
    /// Have packets routed again after a change of theirs.
    Route,
}

/// A point in a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// Come in, not yet routed.
    Prerouting,
    /// For this machine.
    Input,
    /// For another machine.
    Forward,
    /// From this machine.
    Output,
    /// About to leave.
    Postrouting,
}

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it may do.
    pub kind: ChainKind,
    /// Where.
    pub hook: HookKind,
    /// Order among chains of the same hook.
    pub priority: i32,
}

impl Hook {
    /// A hook.
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
    /// Where it hangs; none for a chain that is jumped to.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// A rule: instructions, and a remark for whoever lists the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Instructions in order.
    pub exprs: Vec<Expr>,
    /// At most 127 bytes are kept.
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

/// Builds a rule from matches in `nft`'s words.
impl Rule {
    /// A rule without instructions, which matches everything and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an instruction.
    pub fn expr(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// Sets the remark.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = Some(text.into());
        self
    }

    /// `ct state { … }`: any of the bits.
    pub fn ct_state(self, bits: u32) -> Self {
        self.ct_bits(Ct::State, bits)
    }

    /// `ct status …`: any of the bits.
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

    /// `iifname NAME` or, inverted, `iifname != NAME`.
    pub fn in_link(self, op: CmpOp, name: &str) -> Self {
        self.expr(Expr::Meta(Meta::InName, Reg::word(0)))
            .expr(Expr::Cmp(Reg::word(0), op, Data::link(name)))
    }

    /// `oifname NAME` or, inverted, `oifname != NAME`.
    pub fn out_link(self, op: CmpOp, name: &str) -> Self {
        self.expr(Expr::Meta(Meta::OutName, Reg::word(0)))
            .expr(Expr::Cmp(Reg::word(0), op, Data::link(name)))
    }

    /// `ip saddr NET`.
    pub fn source(self, op: CmpOp, net: impl Into<Ipv4Net>) -> Self {
        self.expr(Expr::source_ip(Reg::word(0)))
            .compare_net(op, net.into())
    }

    /// `ip daddr NET`.
    pub fn destination(self, op: CmpOp, net: impl Into<Ipv4Net>) -> Self {
        self.expr(Expr::destination_ip(Reg::word(0)))
            .compare_net(op, net.into())
    }

    fn compare_net(self, op: CmpOp, net: Ipv4Net) -> Self {
        let reg = Reg::word(0);
        let rule = if net.prefix_len() == 32 {
            self
        } else {
            self.expr(Expr::Bitwise {
                reg,
                mask: Data::ip(net.netmask()),
                xor: Data::host(0),
            })
        };
        rule.expr(Expr::Cmp(reg, op, Data::ip(net.network())))
    }

    /// `meta l4proto N`.
    pub fn protocol(self, number: u8) -> Self {
        self.expr(Expr::Meta(Meta::L4Proto, Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::byte(number)))
    }

    /// `th dport N`, behind [`Rule::protocol`].
    pub fn destination_port(self, port: u16) -> Self {
        self.expr(Expr::destination_port(Reg::word(0)))
            .expr(Expr::eq(Reg::word(0), Data::port(port)))
    }

    /// `fib daddr type local`.
    pub fn destination_local(self) -> Self {
        self.expr(Expr::FibDestinationType(Reg::word(0)))
            .expr(Expr::eq(
                Reg::word(0),
                Data::host(u32::from(libc::RTN_LOCAL)),
            ))
    }

    /// `fib saddr type local`.
    pub fn source_local(self) -> Self {
        self.expr(Expr::FibSourceType(Reg::word(0))).expr(Expr::eq(
            Reg::word(0),
            Data::host(u32::from(libc::RTN_LOCAL)),
        ))
    }

    /// `accept`, `drop` …
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expr(Expr::Verdict(verdict))
    }

    /// `accept`.
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`.
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`.
    pub fn ret(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump NAME`.
    pub fn jump(self, chain: &Name) -> Self {
        self.expr(Expr::jump(chain))
    }

    /// `goto NAME`.
    pub fn goto(self, chain: &Name) -> Self {
        self.expr(Expr::goto(chain))
    }
}

/// A part of a set's key or a map's value, with `nft`'s name for its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ipv4_addr`.
    Ipv4,
    /// `inet_proto`.
    Protocol,
    /// `inet_service`: a port.
    Port,
    /// `mark`.
    Mark,
    /// `ifname`.
    LinkName,
    /// A 32-bit number of the kernel's making (`numgen`).
    Number,
}

impl Field {
    /// `nft`'s number of the type, which only `nft list` needs.
    pub(super) fn type_number(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Ipv4 => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::LinkName => 41,
        }
    }

    /// Length in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Mark | Self::Number => 4,
            Self::LinkName => 16,
        }
    }
}

/// The key of an element: one [`Data`] for each field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Data);

impl Key {
    /// A key; each part of a concatenation takes whole 32-bit words.
    pub fn new(parts: &[Data]) -> Self {
        if let [one] = parts {
            return Self(*one);
        }
        let mut bytes = [0; 20];
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

impl From<u32> for Key {
    fn from(number: u32) -> Self {
        Self(Data::host(number))
    }
}

/// What a map leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the element of a set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// A value, concatenated as a key is.
    Data(Key),
}

/// What a set's elements lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: a set.
    None,
    /// Verdicts: a verdict map.
    Verdict,
    /// Values: a map.
    Fields(Vec<Field>),
}

/// An element, for building.
pub type Element = (Key, Value);

/// A set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Parts of the key.
    pub key: Vec<Field>,
    /// What elements lead to.
    pub data: SetData,
    /// Elements. Empty for intervals and for those that rules fill.
    pub elements: BTreeMap<Key, Value>,
    /// Address ranges, for a set of one [`Field::Ipv4`]; overlaps are joined.
    pub ranges: Option<Vec<Ipv4Net>>,
    /// Set for a set that rules fill ([`Expr::Update`]): how long an element stays.
    pub timeout: Option<Duration>,
}

impl Set {
    /// A set.
    pub fn of(key: &[Field], elements: impl IntoIterator<Item = Key>) -> Self {
        Self {
            key: key.to_vec(),
            data: SetData::None,
            elements: elements.into_iter().map(|key| (key, Value::None)).collect(),
            ranges: None,
            timeout: None,
        }
    }

    /// A set of address ranges.
    pub fn of_ranges(ranges: &[Ipv4Net]) -> Self {
        let ranges = Ipv4Net::aggregate(&ranges.iter().map(Ipv4Net::trunc).collect());
        Self {
            ranges: Some(ranges),
            ..Self::of(&[Field::Ipv4], [])
        }
    }

    /// A set that rules fill with elements that stay for `timeout`.
    pub fn dynamic(key: &[Field], timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..Self::of(key, [])
        }
    }

    /// A verdict map.
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

    /// A map.
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

    /// Whether two sets differ in elements at most.
    pub(super) fn same_shape(&self, other: &Self) -> bool {
        self.key == other.key
            && self.data == other.data
            && self.timeout == other.timeout
            && self.ranges == other.ranges
    }
}
