//! Tables as nf_tables' messages.
//!
//! Numbers of attributes are those of `linux/netfilter/nf_tables.h`.

use super::expr::{CmpOp, Ct, Data, Expr, Meta, NatKind, PayloadBase, Reject, SetRef, Verdict};
use super::table::{
    Chain, ChainKind, Family, Field, HookKind, Key, Rule, Set, SetData, Table, Value,
};
use crate::netlink::Writer;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Elements in one message: an attribute's length has 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 200;

const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// How many elements rules may put into a set, `nft`'s own default.
const DYNAMIC_SIZE: u32 = 65535;
/// Bits of a type number in a concatenation.
const TYPE_BITS: u32 = 6;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// The type of an nf_tables message.
pub(super) fn message_type(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

/// `struct nfgenmsg`.
pub(super) fn nfgen(w: &mut Writer, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    w.raw(&[family, 0, high, low]);
}

/// The number of a family.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

/// What a message is about, for the error that may come of it.
pub(super) type Subject = String;

/// Writes a batch and remembers what each message was about.
pub(super) struct Batch<'a> {
    w: Writer,
    first: u32,
    family: u8,
    table: &'a str,
    set_ids: u32,
    subjects: Vec<Subject>,
    last: usize,
}

impl<'a> Batch<'a> {
    /// Begins a batch about one table. Sequence numbers are counted from 0 here and
    /// shifted by `first` on the way out.
    pub(super) fn new(table: &'a Table, first: u32) -> Self {
        let mut batch = Self {
            w: Writer::new(),
            first,
            family: family_number(table.family),
            table: &table.name,
            set_ids: 0,
            subjects: Vec::new(),
            last: 0,
        };
        batch.mark(NFNL_MSG_BATCH_BEGIN, "begin");
        batch
    }

    /// Ends it; answers the bytes and each message's subject. The last message
    /// before the end asks for an acknowledgement, which comes after the commit:
    /// kernels before 6.10 acknowledge no end.
    pub(super) fn finish(mut self) -> (Writer, Vec<Subject>) {
        self.w.add_flags(self.last, NLM_F_ACK);
        self.mark(NFNL_MSG_BATCH_END, "commit");
        (self.w, self.subjects)
    }

    fn mark(&mut self, kind: u16, subject: &str) {
        let seq = self.next(|| subject.to_owned());
        self.w.message(kind, NLM_F_REQUEST, seq, |w| {
            nfgen(w, 0, NFNL_SUBSYS_NFTABLES);
        });
    }

    fn next(&mut self, subject: impl FnOnce() -> Subject) -> u32 {
        let seq = self.first.wrapping_add(self.subjects.len() as u32);
        self.subjects.push(subject());
        seq
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        subject: impl FnOnce() -> Subject,
        body: impl FnOnce(&mut Writer),
    ) {
        let seq = self.next(subject);
        let family = self.family;
        self.last = self.w.len();
        self.w
            .message(message_type(kind), NLM_F_REQUEST | flags, seq, |w| {
                nfgen(w, family, 0);
                body(w);
            });
    }

    /// Adds the table if it is not there.
    pub(super) fn new_table(&mut self) {
        let table = self.table;
        self.message(
            NEWTABLE,
            NLM_F_CREATE,
            || format!("add table {table}"),
            |w| {
                w.string(1, table);
                w.be32(2, 0);
            },
        );
    }

    /// Deletes the table with all in it.
    pub(super) fn delete_table(&mut self) {
        let table = self.table;
        self.message(
            DELTABLE,
            0,
            || format!("delete table {table}"),
            |w| w.string(1, table),
        );
    }

    /// Adds a chain without its rules.
    pub(super) fn new_chain(&mut self, name: &str, chain: &Chain) {
        let table = self.table;
        self.message(
            NEWCHAIN,
            NLM_F_CREATE,
            || format!("add chain {name}"),
            |w| {
                w.string(1, table);
                w.string(3, name);
                if let Some(hook) = chain.hook {
                    w.nest(4, |w| {
                        w.be32(
                            1,
                            match hook.hook {
                                HookKind::Prerouting => 0,
                                HookKind::Input => 1,
                                HookKind::Forward => 2,
                                HookKind::Output => 3,
                                HookKind::Postrouting => 4,
                            },
                        );
                        w.be32(2, hook.priority as u32);
                    });
                    w.be32(5, 1); // policy accept
                    w.string(
                        7,
                        match hook.kind {
                            ChainKind::Filter => "filter",
                            ChainKind::Nat => "nat",
                            ChainKind::Route => "route",
                        },
                    );
                }
            },
        );
    }

    /// Deletes a chain that no rule leads to any more.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(
            DELCHAIN,
            0,
            || format!("delete chain {name}"),
            |w| {
                w.string(1, table);
                w.string(3, name);
            },
        );
    }

    /// Deletes all rules of a chain.
    pub(super) fn flush_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(
            DELRULE,
            0,
            || format!("flush chain {name}"),
            |w| {
                w.string(1, table);
                w.string(2, name);
            },
        );
    }

    /// Appends a rule, its own sets first.
    pub(super) fn new_rule(&mut self, chain: &str, rule: &Rule) {
        let mut own_sets = Vec::new();
        for expr in &rule.exprs {
            if let Expr::Lookup {
                set: SetRef::Anonymous(set),
                ..
            }
            | Expr::LookupVerdict {
                map: SetRef::Anonymous(set),
                ..
            }
            | Expr::LookupValue {
                map: SetRef::Anonymous(set),
                ..
            } = expr
            {
                let name = if matches!(set.data, SetData::None) {
                    "__set%d"
                } else {
                    "__map%d"
                };
                let id = self.write_set(name, set, SET_ANONYMOUS | SET_CONSTANT);
                own_sets.push((name, id));
                self.write_elements(NEWSETELEM, name, Some(id), &mut set.elements.iter());
                self.ranges(name, Some(id), set);
            }
        }
        let table = self.table;
        self.message(
            NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            || format!("add rule to chain {chain}"),
            |w| {
                w.string(1, table);
                w.string(2, chain);
                let mut own_sets = own_sets.iter();
                w.nest(4, |w| {
                    for expr in &rule.exprs {
                        w.nest(1, |w| write_expr(w, expr, &mut own_sets));
                    }
                });
                if let Some(comment) = &rule.comment {
                    // `nft`'s own encoding: type 0, length, text with its zero.
                    let mut end = comment.len().min(127);
                    while !comment.is_char_boundary(end) {
                        end -= 1;
                    }
                    let mut data = vec![0, end as u8 + 1];
                    data.extend_from_slice(&comment.as_bytes()[..end]);
                    data.push(0);
                    w.attr(7, &data);
                }
            },
        );
    }

    /// Adds a set without its elements.
    pub(super) fn new_set(&mut self, name: &str, set: &Set) {
        self.write_set(name, set, 0);
    }

    /// Deletes a set that no rule uses any more.
    pub(super) fn delete_set(&mut self, name: &str) {
        let table = self.table;
        self.message(
            DELSET,
            0,
            || format!("delete set {name}"),
            |w| {
                w.string(1, table);
                w.string(2, name);
            },
        );
    }

    /// Adds elements to a named set.
    pub(super) fn new_elements<'e>(
        &mut self,
        name: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Value)>,
    ) {
        self.write_elements(NEWSETELEM, name, None, &mut elements.into_iter());
    }

    /// Adds the ranges of a named set.
    pub(super) fn new_ranges(&mut self, name: &str, set: &Set) {
        self.ranges(name, None, set);
    }

    /// Deletes elements of a named set.
    pub(super) fn delete_elements<'e>(
        &mut self,
        name: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Value)>,
    ) {
        self.write_elements(DELSETELEM, name, None, &mut elements.into_iter());
    }

    fn write_set(&mut self, name: &str, set: &Set, flags: u32) -> u32 {
        self.set_ids += 1;
        let (id, table) = (self.set_ids, self.table);
        let mut flags = flags;
        if set.ranges.is_some() {
            flags |= SET_INTERVAL;
        }
        if set.timeout.is_some() {
            flags |= SET_TIMEOUT | SET_EVAL;
        }
        if !matches!(set.data, SetData::None) {
            flags |= SET_MAP;
        }
        self.message(
            NEWSET,
            NLM_F_CREATE,
            || format!("add set {name}"),
            |w| {
                w.string(1, table);
                w.string(2, name);
                w.be32(3, flags);
                w.be32(4, type_of(&set.key));
                w.be32(5, length_of(&set.key));
                match &set.data {
                    SetData::None => {}
                    SetData::Verdict => {
                        w.be32(6, TYPE_VERDICT);
                        w.be32(7, 16);
                    }
                    SetData::Fields(fields) => {
                        w.be32(6, type_of(fields));
                        w.be32(7, length_of(fields));
                    }
                }
                let size = if set.timeout.is_some() {
                    Some(DYNAMIC_SIZE)
                } else if flags & SET_CONSTANT != 0 && set.ranges.is_none() {
                    Some(set.elements.len() as u32)
                } else {
                    None
                };
                if let Some(size) = size {
                    w.nest(9, |w| w.be32(1, size));
                }
                w.be32(10, id);
                if let Some(timeout) = set.timeout {
                    w.be64(11, timeout.as_millis() as u64);
                }
                if set.key == [Field::Number] {
                    // Tells `nft list` the key's byte order: type 0, length 4, 1 (host).
                    w.attr(13, &[0, 4, 1, 0, 0, 0]);
                }
            },
        );
        id
    }

    fn write_elements<'e>(
        &mut self,
        kind: u16,
        name: &str,
        id: Option<u32>,
        elements: &mut dyn Iterator<Item = (&'e Key, &'e Value)>,
    ) {
        let table = self.table;
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let verb = if kind == NEWSETELEM { "add" } else { "delete" };
            let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
            self.message(
                kind,
                flags,
                || format!("{verb} elements of {name}"),
                |w| {
                    w.string(1, table);
                    w.string(2, name);
                    if let Some(id) = id {
                        w.be32(4, id);
                    }
                    w.nest(3, |w| {
                        for (key, value) in elements.by_ref().take(ELEMENTS_PER_MESSAGE) {
                            w.nest(1, |w| {
                                w.nest(1, |w| write_data(w, key.data()));
                                match value {
                                    _ if kind == DELSETELEM => {}
                                    Value::None => {}
                                    Value::Verdict(verdict) => {
                                        w.nest(2, |w| write_verdict(w, verdict))
                                    }
                                    Value::Data(data) => w.nest(2, |w| write_data(w, data.data())),
                                }
                            });
                        }
                    });
                },
            );
        }
    }

    /// Ranges are pairs of a first address and, marked, the one after the last.
    fn ranges(&mut self, name: &str, id: Option<u32>, set: &Set) {
        let Some(ranges) = &set.ranges else { return };
        let table = self.table;
        for chunk in ranges.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(
                NEWSETELEM,
                NLM_F_CREATE,
                || format!("add ranges of {name}"),
                |w| {
                    w.string(1, table);
                    w.string(2, name);
                    if let Some(id) = id {
                        w.be32(4, id);
                    }
                    w.nest(3, |w| {
                        for net in chunk {
                            w.nest(1, |w| {
                                w.nest(1, |w| write_data(w, &Data::ip(net.network())))
                            });
                            if let Some(end) = u32::from(net.broadcast()).checked_add(1) {
                                w.nest(1, |w| {
                                    w.be32(3, 1); // NFT_SET_ELEM_INTERVAL_END
                                    w.nest(1, |w| write_data(w, &Data::ip(end.into())));
                                });
                            }
                        }
                    });
                },
            );
        }
    }
}

fn type_of(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| number << TYPE_BITS | field.type_number())
}

fn length_of(fields: &[Field]) -> u32 {
    let length: usize = match fields {
        [one] => one.length(),
        many => many
            .iter()
            .map(|field| field.length().next_multiple_of(4))
            .sum(),
    };
    length as u32
}

/// `NFTA_DATA_VALUE`.
fn write_data(w: &mut Writer, data: &Data) {
    w.attr(1, data.as_bytes());
}

/// `NFTA_DATA_VERDICT`.
fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    w.nest(2, |w| {
        let (code, chain): (i32, _) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        w.be32(1, code as u32);
        if let Some(chain) = chain {
            w.string(2, chain);
        }
    });
}

/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
fn named(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.string(1, name);
    w.nest(2, body);
}

fn write_expr<'s>(
    w: &mut Writer,
    expr: &Expr,
    own_sets: &mut impl Iterator<Item = &'s (&'static str, u32)>,
) {
    let mut lookup = |w: &mut Writer, set: &SetRef, reg: u32, to: Option<u32>, invert: bool| {
        named(w, "lookup", |w| {
            match set {
                SetRef::Named(name) => w.string(1, name),
                SetRef::Anonymous(_) => {
                    let (name, id) = own_sets.next().expect("one id for each set of the rule");
                    w.string(1, name);
                    w.be32(4, *id);
                }
            }
            w.be32(2, reg);
            if let Some(to) = to {
                w.be32(3, to);
            }
            if invert {
                w.be32(5, 1);
            }
        });
    };
    match expr {
        Expr::Immediate(reg, data) => named(w, "immediate", |w| {
            w.be32(1, reg.0);
            w.nest(2, |w| write_data(w, data));
        }),
        Expr::Verdict(verdict) => named(w, "immediate", |w| {
            w.be32(1, 0);
            w.nest(2, |w| write_verdict(w, verdict));
        }),
        Expr::Cmp(reg, op, data) => named(w, "cmp", |w| {
            w.be32(1, reg.0);
            w.be32(
                2,
                match op {
                    CmpOp::Eq => 0,
                    CmpOp::Ne => 1,
                    CmpOp::Lt => 2,
                    CmpOp::Le => 3,
                    CmpOp::Gt => 4,
                    CmpOp::Ge => 5,
                },
            );
            w.nest(3, |w| write_data(w, data));
        }),
        Expr::Bitwise { reg, mask, xor } => named(w, "bitwise", |w| {
            w.be32(1, reg.0);
            w.be32(2, reg.0);
            w.be32(3, mask.as_bytes().len() as u32);
            w.nest(4, |w| write_data(w, mask));
            w.nest(5, |w| write_data(w, xor));
        }),
        Expr::Meta(key, reg) => named(w, "meta", |w| {
            w.be32(1, reg.0);
            w.be32(2, meta_number(*key));
        }),
        Expr::SetMeta(key, reg) => named(w, "meta", |w| {
            w.be32(2, meta_number(*key));
            w.be32(3, reg.0);
        }),
        Expr::Payload {
            base,
            offset,
            length,
            reg,
        } => named(w, "payload", |w| {
            w.be32(1, reg.0);
            w.be32(
                2,
                match base {
                    PayloadBase::Network => 1,
                    PayloadBase::Transport => 2,
                },
            );
            w.be32(3, *offset);
            w.be32(4, *length);
        }),
        Expr::Ct(key, reg) => named(w, "ct", |w| {
            w.be32(1, reg.0);
            w.be32(
                2,
                match key {
                    Ct::State => 0,
                    Ct::Direction => 1,
                    Ct::Status => 2,
                    Ct::Mark => 3,
                },
            );
        }),
        Expr::Lookup { set, reg, invert } => lookup(w, set, reg.0, None, *invert),
        Expr::LookupVerdict { map, reg } => lookup(w, map, reg.0, Some(0), false),
        Expr::LookupValue { map, reg, to } => lookup(w, map, reg.0, Some(to.0), false),
        Expr::Nat {
            kind,
            address,
            port,
        } => named(w, "nat", |w| {
            w.be32(
                1,
                match kind {
                    NatKind::Source => 0,
                    NatKind::Destination => 1,
                },
            );
            w.be32(2, u32::from(family_number(Family::Ip)));
            w.be32(3, address.0);
            if let Some(port) = port {
                w.be32(5, port.0);
            }
        }),
        Expr::Masquerade { fully_random } => named(w, "masq", |w| {
            if *fully_random {
                w.be32(1, 0x10); // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            }
        }),
        Expr::Redirect(port) => named(w, "redir", |w| {
            if let Some(port) = port {
                w.be32(1, port.0);
                w.be32(3, 0x2); // NF_NAT_RANGE_PROTO_SPECIFIED
            }
        }),
        Expr::FibDestinationType(reg) => fib(w, reg.0, 2),
        Expr::FibSourceType(reg) => fib(w, reg.0, 1),
        Expr::Random { reg, modulus } => numgen(w, reg.0, *modulus, 1),
        Expr::Incremental { reg, modulus } => numgen(w, reg.0, *modulus, 0),
        Expr::Counter => named(w, "counter", |_| {}),
        Expr::Limit { per_second, burst } => named(w, "limit", |w| {
            w.be64(1, *per_second);
            w.be64(2, 1); // seconds
            w.be32(3, *burst);
            w.be32(4, 0); // packets
        }),
        Expr::Reject(reject) => named(w, "reject", |w| {
            // NFT_REJECT_ICMP_UNREACH with ICMP's code, or NFT_REJECT_TCP_RST.
            let (kind, code) = match reject {
                Reject::TcpReset => (1, 0),
                Reject::HostUnreachable => (0, 1),
                Reject::PortUnreachable => (0, 3),
                Reject::AdminProhibited => (0, 13),
            };
            w.be32(1, kind);
            w.attr(2, &[code]);
        }),
        Expr::NoTrack => named(w, "notrack", |_| {}),
        Expr::Update { set, reg, timeout } => named(w, "dynset", |w| {
            w.string(1, set);
            w.be32(3, 1); // update
            w.be32(4, reg.0);
            if let Some(timeout) = timeout {
                w.be64(6, timeout.as_millis() as u64);
            }
        }),
    }
}

fn meta_number(key: Meta) -> u32 {
    match key {
        Meta::Mark => 3,
        Meta::InLink => 4,
        Meta::OutLink => 5,
        Meta::InName => 6,
        Meta::OutName => 7,
        Meta::NfProto => 15,
        Meta::L4Proto => 16,
    }
}

/// The type (`NFT_FIB_RESULT_ADDRTYPE`) of the source (1) or destination (2) address.
fn fib(w: &mut Writer, reg: u32, flags: u32) {
    named(w, "fib", |w| {
        w.be32(1, reg);
        w.be32(2, 3);
        w.be32(3, flags);
    });
}

fn numgen(w: &mut Writer, reg: u32, modulus: u32, kind: u32) {
    named(w, "numgen", |w| {
        w.be32(1, reg);
        w.be32(2, modulus);
        w.be32(3, kind);
        w.be32(4, 0);
    });
}
