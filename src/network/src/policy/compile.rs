//! Chains and rules of policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::members::Members;
use super::types::{Peer, PodPeer, Policy, PolicyRule, Ports};
use crate::nft::{
    Chain, ChainKind, CmpOp, Ct, Data, Expr, Family, Field, Hook, HookKind, Key, Name, Reg, Rule,
    Set, SetRef, Table, Verdict, ct_state, priority,
};
use crate::node::Protocol;

/// Name of the table.
pub const TABLE: &str = "rkube-policy";

/// Expressions that a connection must meet.
type Condition = Vec<Expr>;

/// The direction of connections from the view of an isolated pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Direction {
    /// The pod answers.
    Ingress,
    /// The pod opens them.
    Egress,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Returns a policy's rules; `None` if it does not isolate pods for this direction.
    pub(super) fn rules(self, policy: &Policy) -> Option<&Vec<PolicyRule>> {
        match self {
            Self::Ingress => policy.ingress.as_ref(),
            Self::Egress => policy.egress.as_ref(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// Returns the address of the isolated pod.
    fn own(self) -> Ct {
        match self {
            Self::Ingress => Ct::ServerIp,
            Self::Egress => Ct::ClientIp,
        }
    }

    /// Returns the address of the pod's peer.
    fn peer(self) -> Ct {
        match self {
            Self::Ingress => Ct::ClientIp,
            Self::Egress => Ct::ServerIp,
        }
    }
}

/// Something for each direction in which a pod is isolated.
#[derive(Clone, Debug)]
pub(super) struct Applying<T> {
    ingress: Option<Vec<T>>,
    egress: Option<Vec<T>>,
}

impl<T> Default for Applying<T> {
    fn default() -> Self {
        Self {
            ingress: None,
            egress: None,
        }
    }
}

impl<T> Applying<T> {
    pub(super) fn of(&mut self, direction: Direction) -> &mut Option<Vec<T>> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// Returns the lists of the directions in which the pod is isolated.
pub(super) fn both<T>(applying: &Applying<T>) -> impl Iterator<Item = &Vec<T>> {
    applying.ingress.iter().chain(&applying.egress)
}

/// The chains of a policy.
pub(super) struct Compiled {
    /// All chains.
    pub(super) chains: Vec<(Name, Arc<Chain>)>,
    /// The chain that a pod's chain jumps to, by direction; none if nothing is allowed.
    entries: BTreeMap<Direction, Name>,
}

impl Compiled {
    pub(super) fn entry(&self, direction: Direction) -> Option<&Name> {
        self.entries.get(&direction)
    }
}

/// The names of the sets that rules refer to, and the family of the table.
pub(super) struct SetNames<'a> {
    pub(super) family: Family,
    pub(super) peers: &'a HashMap<String, (PodPeer, Members)>,
    pub(super) named: &'a HashMap<(Protocol, String), Members>,
}

/// Compiles a policy's rules to chains with `number` in their names.
pub(super) fn policy(policy: &Policy, number: u32, names: &SetNames<'_>) -> Compiled {
    let mut compiled = Compiled {
        chains: Vec::new(),
        entries: BTreeMap::new(),
    };
    for direction in Direction::BOTH {
        let name = format!("{}-{number}", direction.name());
        let mut rules = Vec::new();
        for (index, rule) in direction.rules(policy).into_iter().flatten().enumerate() {
            let ports = format!("{name}-ports-{index}");
            let (accepting, ports) = compile_rule(rule, direction, &ports, names);
            rules.extend(accepting);
            compiled.chains.extend(ports);
        }
        if let Some(first) = rules.first_mut() {
            first.comment = Some(format!("{}/{}", policy.namespace, policy.name));
            let name: Name = name.into();
            compiled.chains.push((name.clone(), chain(rules)));
            compiled.entries.insert(direction, name);
        }
    }
    compiled
}

fn chain(rules: Vec<Rule>) -> Arc<Chain> {
    Arc::new(Chain { hook: None, rules })
}

/// Compiles a rule of a policy to rules of the packet filter that accept. Several ports of several
/// peers get a chain named `ports`, instead of a rule for each combination.
fn compile_rule(
    rule: &PolicyRule,
    direction: Direction,
    ports: &str,
    names: &SetNames<'_>,
) -> (Vec<Rule>, Option<(Name, Arc<Chain>)>) {
    let any = || vec![Condition::new()];
    let peers = rule.peers.as_ref().map_or_else(any, |peers| {
        let conditions = peers.iter().filter_map(|p| from_peer(p, direction, names));
        conditions.collect()
    });
    let at_ports = rule
        .ports
        .as_ref()
        .map_or_else(any, |ports| to_ports(ports, names));
    let accept = |condition: Condition| Rule::from(condition).accept();
    if peers.len() > 1 && at_ports.len() > 1 {
        let name: Name = ports.into();
        let to_ports = peers.into_iter().map(|peer| Rule::from(peer).jump(&name));
        let rules = to_ports.collect();
        return (
            rules,
            Some((name, chain(at_ports.into_iter().map(accept).collect()))),
        );
    }
    let rules = peers
        .iter()
        .flat_map(|peer| at_ports.iter().map(|port| [peer.as_slice(), port].concat()))
        .map(accept)
        .collect();
    (rules, None)
}

/// Returns the condition that a connection has the peer; `None` if no connection has.
fn from_peer(peer: &Peer, direction: Direction, names: &SetNames<'_>) -> Option<Condition> {
    let reg = Reg::word(0);
    let load = Expr::Ct(direction.peer(), reg);
    let lookup = |set| Expr::Lookup {
        set,
        reg,
        invert: false,
    };
    match peer {
        Peer::Pods(peer) => {
            let (_, members) = names.peers.get(&peer.identity)?;
            Some(vec![load, lookup(SetRef::Named(members.name.clone()))])
        }
        Peer::Block(ranges) => match ranges.as_slice() {
            [] => None,
            [other, ..] if Family::of(other.addr()) != names.family => None,
            [all] if all.prefix_len() == 0 => Some(Vec::new()),
            [one] => Some([vec![load], is_in_range(reg, *one)].concat()),
            several => {
                let set = Set::of_ranges(several);
                Some(vec![load, lookup(SetRef::Anonymous(Box::new(set)))])
            }
        },
    }
}

/// Returns the condition that the address in a register is in a range.
fn is_in_range(reg: Reg, range: IpNet) -> Condition {
    let mut condition = Condition::new();
    if range.prefix_len() < range.max_prefix_len() {
        condition.push(Expr::Bitwise {
            reg,
            mask: Data::ip(range.netmask()),
            xor: Data::zeros(range.addr()),
        });
    }
    condition.push(Expr::eq(reg, Data::ip(range.network())));
    condition
}

/// Returns conditions of which a connection to one of the ports meets at least one.
fn to_ports(ports: &Ports, names: &SetNames<'_>) -> Vec<Condition> {
    let (first, second) = (Reg::word(0), Reg::word(1));
    let protocol = |number: Protocol| {
        vec![
            Expr::Ct(Ct::Protocol, first),
            Expr::eq(first, Data::byte(number.number())),
        ]
    };
    let mut conditions = Vec::new();
    if !ports.exact.is_empty() {
        let keys = ports
            .exact
            .iter()
            .map(|(protocol, port)| Key::new(&[Data::byte(protocol.number()), Data::port(*port)]));
        let set = Set::of(&[Field::Protocol, Field::Port], keys);
        conditions.push(vec![
            Expr::Ct(Ct::Protocol, first),
            Expr::Ct(Ct::ServerPort, second),
            Expr::Lookup {
                set: SetRef::Anonymous(Box::new(set)),
                reg: first,
                invert: false,
            },
        ]);
    }
    for (number, from, to) in &ports.ranges {
        let mut condition = protocol(*number);
        condition.extend([
            Expr::Ct(Ct::ServerPort, first),
            Expr::Cmp(first, CmpOp::Ge, Data::port(*from)),
            Expr::Cmp(first, CmpOp::Le, Data::port(*to)),
        ]);
        conditions.push(condition);
    }
    conditions.extend(ports.protocols.iter().map(|number| protocol(*number)));
    for members in ports.named.iter().filter_map(|port| names.named.get(port)) {
        conditions.push(vec![
            Expr::Ct(Ct::ServerIp, first),
            Expr::Ct(Ct::Protocol, names.family.after_address(0)),
            Expr::Ct(Ct::ServerPort, names.family.after_address(1)),
            Expr::Lookup {
                set: SetRef::Named(members.name.clone()),
                reg: first,
                invert: false,
            },
        ]);
    }
    conditions
}

/// The chains that pods share to which the same policies apply.
#[derive(Default)]
pub(super) struct PodChains {
    by_policies: HashMap<(Direction, Vec<u32>), (Name, Arc<Chain>)>,
    /// Number of names given.
    names: u32,
}

/// A new version of [`PodChains`], which takes over what is still used.
pub(super) struct Renewal {
    old: PodChains,
    new: PodChains,
}

impl PodChains {
    pub(super) fn renewal(self) -> Renewal {
        let new = PodChains {
            names: self.names,
            ..Self::default()
        };
        Renewal { old: self, new }
    }
}

impl Renewal {
    pub(super) fn finish(self) -> PodChains {
        self.new
    }

    /// Returns the chain for the policies with these numbers and chains.
    pub(super) fn get(
        &mut self,
        direction: Direction,
        policies: Vec<(u32, Option<Name>)>,
    ) -> (Name, Arc<Chain>) {
        let key = (
            direction,
            policies.iter().map(|(number, _)| *number).collect(),
        );
        if let Some(chain) = self.new.by_policies.get(&key) {
            return chain.clone();
        }
        let chain = self.old.by_policies.remove(&key).unwrap_or_else(|| {
            self.new.names += 1;
            let name = format!("{}-pods-{}", direction.name(), self.new.names);
            let jumps = policies.iter().filter_map(|(_, chain)| chain.as_ref());
            let mut rules: Vec<Rule> = jumps.map(|chain| Rule::new().jump(chain)).collect();
            rules.push(Rule::new().drop());
            (name.into(), chain(rules))
        });
        self.new.by_policies.insert(key, chain.clone());
        chain
    }
}

/// The chains of isolated pods, by their address.
#[derive(Default)]
pub(super) struct Isolation {
    ingress: BTreeMap<IpAddr, Name>,
    egress: BTreeMap<IpAddr, Name>,
}

impl Isolation {
    /// Sets the chain of an address. Two pods have the same one only until the API shows that the
    /// earlier one has ended.
    pub(super) fn insert(&mut self, direction: Direction, ip: IpAddr, chain: Name) {
        match direction {
            Direction::Ingress => self.ingress.insert(ip, chain),
            Direction::Egress => self.egress.insert(ip, chain),
        };
    }
}

/// Adds the maps of isolated pods and the chains that look pods up in them. `dns` is the node's
/// address that serves DNS.
pub(super) fn base_chains(table: &mut Table, isolation: Isolation, dns: IpAddr) {
    let family = table.family;
    let pairs: BTreeSet<Key> = isolation
        .ingress
        .keys()
        .chain(isolation.egress.keys())
        .map(|ip| Key::new(&[Data::ip(*ip), Data::ip(*ip)]))
        .collect();
    let itself = table.set("itself", Set::of(&[family.address(); 2], pairs));
    for (direction, chains, packet, order) in [
        (
            Direction::Egress,
            isolation.egress,
            Expr::source_ip(Reg::word(0)),
            0,
        ),
        (
            Direction::Ingress,
            isolation.ingress,
            Expr::destination_ip(Reg::word(0)),
            1,
        ),
    ] {
        if chains.is_empty() {
            continue;
        }
        let elements = chains
            .into_iter()
            .map(|(ip, chain)| (Key::from(ip), Verdict::Goto(chain)));
        let map = table.set(
            format!("isolated-{}", direction.name()),
            Set::verdicts(&[family.address()], elements),
        );
        let to_pod = |load: Expr| {
            Rule::new().expr(load).expr(Expr::LookupVerdict {
                map: SetRef::Named(map.clone()),
                reg: Reg::word(0),
            })
        };
        // No condition on a connection holds for a packet without one, so only a policy that allows
        // everything lets it pass.
        let stray = table.chain(format!("stray-{}", direction.name()), vec![to_pod(packet)]);
        let rules = vec![
            Rule::new()
                .ct_state(ct_state::INVALID | ct_state::UNTRACKED)
                .goto(&stray),
            Rule::new()
                .expr(Expr::Ct(Ct::ClientIp, Reg::word(0)))
                .expr(Expr::Ct(Ct::ServerIp, family.after_address(0)))
                .expr(Expr::Lookup {
                    set: SetRef::Named(itself.clone()),
                    reg: Reg::word(0),
                    invert: false,
                })
                .accept()
                .comment("a pod that reaches itself"),
            to_pod(Expr::Ct(direction.own(), Reg::word(0))),
        ];
        if direction == Direction::Egress {
            let mut to_dns = rules.clone();
            to_dns.insert(0, Rule::new().destination(CmpOp::Ne, dns).ret());
            let hook = Hook::new(ChainKind::Filter, HookKind::Input, priority::FILTER);
            table.base_chain("name-server", hook, to_dns);
        }
        // Accepting ends only the base chain, so each direction has one.
        let hook = Hook::new(
            ChainKind::Filter,
            HookKind::Forward,
            priority::FILTER + order,
        );
        table.base_chain(direction.name(), hook, rules);
    }
}
