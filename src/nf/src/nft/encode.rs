//! Encoding of tables as nf_tables messages.
//!
//! A batch changes one table. Expressions are encoded by [`super::encode_expr`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::encode_expr::{write_data, write_expr, write_number, write_verdict};
use super::expr::{Data, Expr, SetRef};
use super::nfta;
use super::table::{
    Chain, ChainKind, Family, Field, HookKind, Key, Rule, Set, SetData, Table, Value,
};
use crate::netlink::Writer;

// `libc` declares the headers' numbers as `int`, but message types have 16 bits.
const NFNL_SUBSYS_NFTABLES: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const NFNL_MSG_BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const NFNL_MSG_BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
pub(super) const NEWTABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
pub(super) const GETTABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const DELTABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
const NEWCHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
const DELCHAIN: u16 = libc::NFT_MSG_DELCHAIN as u16;
const NEWRULE: u16 = libc::NFT_MSG_NEWRULE as u16;
const DELRULE: u16 = libc::NFT_MSG_DELRULE as u16;
const NEWSET: u16 = libc::NFT_MSG_NEWSET as u16;
const DELSET: u16 = libc::NFT_MSG_DELSET as u16;
const NEWSETELEM: u16 = libc::NFT_MSG_NEWSETELEM as u16;
const DELSETELEM: u16 = libc::NFT_MSG_DELSETELEM as u16;

const SET_ANONYMOUS: u32 = libc::NFT_SET_ANONYMOUS as u32;
const SET_CONSTANT: u32 = libc::NFT_SET_CONSTANT as u32;
const SET_INTERVAL: u32 = libc::NFT_SET_INTERVAL as u32;
const SET_MAP: u32 = libc::NFT_SET_MAP as u32;
const SET_TIMEOUT: u32 = libc::NFT_SET_TIMEOUT as u32;
const SET_EVAL: u32 = libc::NFT_SET_EVAL as u32;

/// Maximum number of elements per message, since an attribute's length has 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// Maximum number of elements that rules may add to a set, as in `nft`.
const DYNAMIC_SIZE: u32 = 65535;
/// Number of bits per field type in the type number of a concatenation.
const TYPE_BITS: u32 = 6;
/// Length of a verdict as set data (`struct nft_verdict`), in bytes.
const VERDICT_LENGTH: u32 = 16;
/// Maximum length of a comment in bytes, without its terminating zero.
const MAX_COMMENT_LENGTH: usize = 127;
/// Value of [`nfta::SET_USERDATA`]: type 0 (the key's byte order), length 4, value 1 (native). `nft
/// list` shows keys accordingly.
const HOST_BYTE_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// Returns the netlink type of an nf_tables message.
pub(super) fn message_type(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

/// Appends the header `struct nfgenmsg`.
pub(super) fn nfgen(w: &mut Writer, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    w.raw(&[family, 0, high, low]);
}

/// Returns the protocol number (`NFPROTO_…`) of a family.
pub(super) fn family_number(family: Family) -> u8 {
    let number = match family {
        Family::Inet => libc::NFPROTO_INET,
        Family::Ip => libc::NFPROTO_IPV4,
        Family::Ip6 => libc::NFPROTO_IPV6,
        Family::Bridge => libc::NFPROTO_BRIDGE,
    };
    number as u8
}

/// The description of a message in errors, such as `add chain a`.
pub(super) type Subject = String;

/// A writer of a batch that records the subject of each message.
pub(super) struct Batch<'a> {
    /// The encoded messages.
    w: Writer,
    /// Sequence number of the first message.
    first: u32,
    family: u8,
    table: &'a str,
    /// Number of set IDs allocated; IDs identify sets within the batch.
    set_ids: u32,
    subjects: Vec<Subject>,
    /// Offset of the last message.
    last: usize,
}

impl<'a> Batch<'a> {
    /// Begins a batch for one table. The first message gets the sequence number `first`.
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

    /// Ends the batch. Returns its bytes and the subject of each message. The last message before
    /// the end requests an acknowledgement, which is sent after the commit. Kernels before 6.10 do
    /// not acknowledge the end message.
    pub(super) fn finish(mut self) -> (Writer, Vec<Subject>) {
        self.w.add_flags(self.last, NLM_F_ACK);
        self.mark(NFNL_MSG_BATCH_END, "commit");
        (self.w, self.subjects)
    }

    /// Appends a begin or end message.
    fn mark(&mut self, kind: u16, subject: &str) {
        let seq = self.next(|| subject.to_owned());
        self.w.message(kind, NLM_F_REQUEST, seq, |w| {
            nfgen(w, 0, NFNL_SUBSYS_NFTABLES);
        });
    }

    /// Records a subject. Returns the message's sequence number.
    fn next(&mut self, subject: impl FnOnce() -> Subject) -> u32 {
        let seq = self.first.wrapping_add(self.subjects.len() as u32);
        self.subjects.push(subject());
        seq
    }

    /// Appends a message about the table.
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

    /// Adds the table if it does not exist.
    pub(super) fn new_table(&mut self) {
        let table = self.table;
        self.message(
            NEWTABLE,
            NLM_F_CREATE,
            || format!("add table {table}"),
            |w| {
                w.string(nfta::TABLE_NAME, table);
                w.be32(nfta::TABLE_FLAGS, 0);
            },
        );
    }

    /// Deletes the table and its contents.
    pub(super) fn delete_table(&mut self) {
        let table = self.table;
        self.message(
            DELTABLE,
            0,
            || format!("delete table {table}"),
            |w| w.string(nfta::TABLE_NAME, table),
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
                w.string(nfta::CHAIN_TABLE, table);
                w.string(nfta::CHAIN_NAME, name);
                if let Some(hook) = chain.hook {
                    w.nest(nfta::CHAIN_HOOK, |w| {
                        write_number(w, nfta::HOOK_HOOKNUM, hook_number(hook.hook));
                        write_number(w, nfta::HOOK_PRIORITY, hook.priority);
                    });
                    write_number(w, nfta::CHAIN_POLICY, libc::NF_ACCEPT);
                    w.string(nfta::CHAIN_TYPE, chain_type(hook.kind));
                }
            },
        );
    }

    /// Deletes a chain that no rule refers to.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(
            DELCHAIN,
            0,
            || format!("delete chain {name}"),
            |w| {
                w.string(nfta::CHAIN_TABLE, table);
                w.string(nfta::CHAIN_NAME, name);
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
                w.string(nfta::RULE_TABLE, table);
                w.string(nfta::RULE_CHAIN, name);
            },
        );
    }

    /// Appends a rule, preceded by its anonymous sets and their elements.
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
                self.write_ranges(name, Some(id), set);
            }
        }
        let (table, family) = (self.table, self.family);
        self.message(
            NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            || format!("add rule to chain {chain}"),
            |w| {
                w.string(nfta::RULE_TABLE, table);
                w.string(nfta::RULE_CHAIN, chain);
                let mut own_sets = own_sets.iter();
                w.nest(nfta::RULE_EXPRESSIONS, |w| {
                    for expr in &rule.exprs {
                        let sets = &mut own_sets;
                        w.nest(nfta::LIST_ELEM, |w| write_expr(w, family, expr, sets));
                    }
                });
                if let Some(comment) = &rule.comment {
                    w.attr(nfta::RULE_USERDATA, &comment_data(comment));
                }
            },
        );
    }

    /// Adds a set without its elements.
    pub(super) fn new_set(&mut self, name: &str, set: &Set) {
        self.write_set(name, set, 0);
    }

    /// Deletes a set that no rule refers to.
    pub(super) fn delete_set(&mut self, name: &str) {
        let table = self.table;
        self.message(
            DELSET,
            0,
            || format!("delete set {name}"),
            |w| {
                w.string(nfta::SET_TABLE, table);
                w.string(nfta::SET_NAME, name);
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
        self.write_ranges(name, None, set);
    }

    /// Deletes elements of a named set.
    pub(super) fn delete_elements<'e>(
        &mut self,
        name: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Value)>,
    ) {
        self.write_elements(DELSETELEM, name, None, &mut elements.into_iter());
    }

    /// Adds a set with the given flags besides those that follow from its type. Returns its ID.
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
                w.string(nfta::SET_TABLE, table);
                w.string(nfta::SET_NAME, name);
                w.be32(nfta::SET_FLAGS, flags);
                w.be32(nfta::SET_KEY_TYPE, type_of(&set.key));
                w.be32(nfta::SET_KEY_LEN, length_of(&set.key));
                match &set.data {
                    SetData::None => {}
                    SetData::Verdict => {
                        w.be32(nfta::SET_DATA_TYPE, libc::NFT_DATA_VERDICT);
                        w.be32(nfta::SET_DATA_LEN, VERDICT_LENGTH);
                    }
                    SetData::Fields(fields) => {
                        w.be32(nfta::SET_DATA_TYPE, type_of(fields));
                        w.be32(nfta::SET_DATA_LEN, length_of(fields));
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
                    w.nest(nfta::SET_DESC, |w| w.be32(nfta::SET_DESC_SIZE, size));
                }
                w.be32(nfta::SET_ID, id);
                if let Some(timeout) = set.timeout {
                    w.be64(nfta::SET_TIMEOUT, timeout.as_millis() as u64);
                }
                if set.key == [Field::Number] {
                    w.attr(nfta::SET_USERDATA, &HOST_BYTE_ORDER);
                }
            },
        );
        id
    }

    /// Adds or deletes elements, with at most [`ELEMENTS_PER_MESSAGE`] per message.
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
                    w.string(nfta::SET_ELEM_LIST_TABLE, table);
                    w.string(nfta::SET_ELEM_LIST_SET, name);
                    if let Some(id) = id {
                        w.be32(nfta::SET_ELEM_LIST_SET_ID, id);
                    }
                    let part = elements.by_ref().take(ELEMENTS_PER_MESSAGE);
                    w.nest(nfta::SET_ELEM_LIST_ELEMENTS, |w| {
                        write_elements(w, part, kind == NEWSETELEM);
                    });
                },
            );
        }
    }

    /// Adds ranges, with at most [`ELEMENTS_PER_MESSAGE`] per message.
    fn write_ranges(&mut self, name: &str, id: Option<u32>, set: &Set) {
        let Some(ranges) = &set.ranges else { return };
        let table = self.table;
        for chunk in ranges.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(
                NEWSETELEM,
                NLM_F_CREATE,
                || format!("add ranges of {name}"),
                |w| {
                    w.string(nfta::SET_ELEM_LIST_TABLE, table);
                    w.string(nfta::SET_ELEM_LIST_SET, name);
                    if let Some(id) = id {
                        w.be32(nfta::SET_ELEM_LIST_SET_ID, id);
                    }
                    w.nest(nfta::SET_ELEM_LIST_ELEMENTS, |w| {
                        chunk.iter().for_each(|net| write_range(w, *net));
                    });
                },
            );
        }
    }
}

/// Appends elements, or only their keys.
fn write_elements<'e>(
    w: &mut Writer,
    elements: impl Iterator<Item = (&'e Key, &'e Value)>,
    with_values: bool,
) {
    for (key, value) in elements {
        let value = with_values.then_some(value);
        w.nest(nfta::LIST_ELEM, |w| write_element(w, key, value));
    }
}

/// Appends an element; only its key without `value`.
fn write_element(w: &mut Writer, key: &Key, value: Option<&Value>) {
    w.nest(nfta::SET_ELEM_KEY, |w| write_data(w, key.data()));
    match value {
        None | Some(Value::None) => {}
        Some(Value::Verdict(verdict)) => {
            w.nest(nfta::SET_ELEM_DATA, |w| write_verdict(w, verdict));
        }
        Some(Value::Data(data)) => w.nest(nfta::SET_ELEM_DATA, |w| write_data(w, data.data())),
    }
}

/// Appends a range as two elements: the first address, and the address after the last one, flagged
/// as the interval's end. A range up to the last address of the family has no end element.
fn write_range(w: &mut Writer, net: IpNet) {
    w.nest(nfta::LIST_ELEM, |w| {
        w.nest(nfta::SET_ELEM_KEY, |w| {
            write_data(w, &Data::ip(net.network()))
        });
    });
    let end: Option<IpAddr> = match net.broadcast() {
        IpAddr::V4(last) => u32::from(last)
            .checked_add(1)
            .map(|end| Ipv4Addr::from(end).into()),
        IpAddr::V6(last) => u128::from(last)
            .checked_add(1)
            .map(|end| Ipv6Addr::from(end).into()),
    };
    if let Some(end) = end {
        w.nest(nfta::LIST_ELEM, |w| {
            write_number(w, nfta::SET_ELEM_FLAGS, libc::NFT_SET_ELEM_INTERVAL_END);
            w.nest(nfta::SET_ELEM_KEY, |w| write_data(w, &Data::ip(end)));
        });
    }
}

/// Encodes a comment like `nft`: type 0, length, text with its terminating zero. Truncates longer
/// comments.
fn comment_data(comment: &str) -> Vec<u8> {
    let end = comment.floor_char_boundary(MAX_COMMENT_LENGTH);
    let mut data = vec![0, end as u8 + 1];
    data.extend_from_slice(&comment.as_bytes()[..end]);
    data.push(0);
    data
}

fn hook_number(hook: HookKind) -> libc::c_int {
    match hook {
        HookKind::Prerouting => libc::NF_INET_PRE_ROUTING,
        HookKind::Input => libc::NF_INET_LOCAL_IN,
        HookKind::Forward => libc::NF_INET_FORWARD,
        HookKind::Output => libc::NF_INET_LOCAL_OUT,
        HookKind::Postrouting => libc::NF_INET_POST_ROUTING,
    }
}

fn chain_type(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}

/// Returns the type number of a key or value; of a concatenation, six bits per field.
fn type_of(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |number, field| number << TYPE_BITS | field.type_number())
}

/// Returns the length in bytes; parts of a concatenation are padded to 32-bit words.
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
