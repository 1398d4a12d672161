//! An interpreter of the expressions that policies are compiled to.

use std::net::Ipv4Addr;

use crate::nft::{
    CmpOp, Ct, Data, Expr, Field, HookKind, Key, Reg, Set, SetRef, Table, Value, Verdict, ct_state,
};
use crate::node::Protocol;

/// A connection as one of its packets shows it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: Ipv4Addr,
    pub(super) server: Ipv4Addr,
    /// Number of the protocol.
    pub(super) protocol: u8,
    pub(super) port: u16,
    /// Source and destination of the packet.
    pub(super) packet: (Ipv4Addr, Ipv4Addr),
    /// Whether connection tracking knows it.
    pub(super) tracked: bool,
}

impl Connection {
    pub(super) fn new(client: Ipv4Addr, server: Ipv4Addr, protocol: Protocol, port: u16) -> Self {
        Self {
            client,
            server,
            protocol: protocol.number(),
            port,
            packet: (client, server),
            tracked: true,
        }
    }
}

/// The outcome of a chain.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accept,
    Drop,
    /// The end of the chain.
    Fallthrough,
}

/// Returns whether a packet is forwarded.
pub(super) fn forwards(table: &Table, connection: &Connection) -> bool {
    passes(table, connection, HookKind::Forward)
}

/// Returns whether the chains at the hook accept a packet.
pub(super) fn passes(table: &Table, connection: &Connection, hook: HookKind) -> bool {
    let mut chains: Vec<_> = table
        .chains
        .iter()
        .filter_map(|(name, chain)| Some((chain.hook?, name)))
        .filter(|(at, _)| at.hook == hook)
        .collect();
    chains.sort_by_key(|(hook, _)| hook.priority);
    chains
        .iter()
        .all(|(_, name)| run(table, name, connection) != Outcome::Drop)
}

/// The registers: 16 words.
#[derive(Default)]
struct Registers([[u8; 4]; 16]);

impl Registers {
    fn load(&mut self, reg: Reg, bytes: &[u8]) {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        self.0[index(reg)] = word;
    }

    fn bytes(&self, reg: Reg, length: usize) -> Vec<u8> {
        self.0[index(reg)..].concat()[..length].to_vec()
    }

    fn key(&self, reg: Reg, set: &Set) -> Key {
        let length = |field: &Field| match field {
            Field::Ipv4 => 4,
            Field::Protocol => 1,
            Field::Port => 2,
            other => panic!("no policy has {other:?}"),
        };
        let length = match set.key.as_slice() {
            [one] => length(one),
            several => 4 * several.len(),
        };
        Key::new(&[Data::bytes(&self.bytes(reg, length))])
    }
}

fn index(reg: Reg) -> usize {
    (0..16).position(|n| Reg::word(n) == reg).unwrap()
}

fn run(table: &Table, chain: &str, connection: &Connection) -> Outcome {
    for rule in &table.chains[chain].rules {
        let mut registers = Registers::default();
        for expr in &rule.exprs {
            match step(table, expr, connection, &mut registers) {
                Step::Next => {}
                Step::NoMatch => break,
                Step::Verdict(Verdict::Accept) => return Outcome::Accept,
                Step::Verdict(Verdict::Drop) => return Outcome::Drop,
                Step::Verdict(Verdict::Return) => return Outcome::Fallthrough,
                Step::Verdict(Verdict::Goto(to)) => return run(table, &to, connection),
                Step::Verdict(Verdict::Jump(to)) => match run(table, &to, connection) {
                    Outcome::Fallthrough => break,
                    outcome => return outcome,
                },
            }
        }
    }
    Outcome::Fallthrough
}

enum Step {
    Next,
    NoMatch,
    Verdict(Verdict),
}

fn next_if(condition: bool) -> Step {
    if condition { Step::Next } else { Step::NoMatch }
}

fn step(table: &Table, expr: &Expr, connection: &Connection, registers: &mut Registers) -> Step {
    match expr {
        Expr::Verdict(verdict) => return Step::Verdict(verdict.clone()),
        Expr::Ct(Ct::State, reg) => {
            let state = if connection.tracked {
                ct_state::ESTABLISHED
            } else {
                ct_state::INVALID
            };
            registers.load(*reg, &state.to_ne_bytes());
        }
        Expr::Ct(..) if !connection.tracked => return Step::NoMatch,
        Expr::Ct(key, reg) => match key {
            Ct::ClientIp => registers.load(*reg, &connection.client.octets()),
            Ct::ServerIp => registers.load(*reg, &connection.server.octets()),
            Ct::Protocol => registers.load(*reg, &[connection.protocol]),
            Ct::ServerPort => registers.load(*reg, &connection.port.to_be_bytes()),
            other => panic!("no policy has {other:?}"),
        },
        Expr::SourceIp(reg) => registers.load(*reg, &connection.packet.0.octets()),
        Expr::DestinationIp(reg) => registers.load(*reg, &connection.packet.1.octets()),
        Expr::Bitwise { reg, mask, xor } => {
            let value = registers.bytes(*reg, 4);
            let value: Vec<u8> = (0..4)
                .map(|n| value[n] & mask.as_bytes()[n] ^ xor.as_bytes()[n])
                .collect();
            registers.load(*reg, &value);
        }
        Expr::Cmp(reg, op, data) => {
            let value = registers.bytes(*reg, data.as_bytes().len());
            let order = value.as_slice().cmp(data.as_bytes());
            return next_if(match op {
                CmpOp::Eq => order.is_eq(),
                CmpOp::Ne => order.is_ne(),
                CmpOp::Lt => order.is_lt(),
                CmpOp::Le => order.is_le(),
                CmpOp::Gt => order.is_gt(),
                CmpOp::Ge => order.is_ge(),
            });
        }
        Expr::Lookup { set, reg, invert } => {
            let set = set_of(table, set);
            return next_if(contains(set, *reg, registers) != *invert);
        }
        Expr::LookupVerdict { map, reg } => {
            let map = set_of(table, map);
            return match map.elements.get(&registers.key(*reg, map)) {
                Some(Value::Verdict(verdict)) => Step::Verdict(verdict.clone()),
                _ => Step::NoMatch,
            };
        }
        other => panic!("no policy has {other:?}"),
    }
    Step::Next
}

fn set_of<'a>(table: &'a Table, set: &'a SetRef) -> &'a Set {
    match set {
        SetRef::Named(name) => &table.sets[name],
        SetRef::Anonymous(set) => set,
    }
}

fn contains(set: &Set, reg: Reg, registers: &Registers) -> bool {
    match &set.ranges {
        None => set.elements.contains_key(&registers.key(reg, set)),
        Some(ranges) => {
            let bytes: [u8; 4] = registers.bytes(reg, 4).try_into().unwrap();
            ranges
                .iter()
                .any(|net| net.contains(&std::net::IpAddr::from(bytes)))
        }
    }
}
