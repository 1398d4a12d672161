//! Rules shared by several chains.

use std::collections::BTreeMap;

use crate::hash;
use crate::nft::{
    Data, Expr, Family, Field, Key, Meta, Name, NatKind, Reg, Rule, Set, SetRef, Verdict,
};
use crate::proxy::state::Endpoint;

/// The bit of the packet mark that requests masquerading, as in kube-proxy.
pub(super) const MASQUERADE: u32 = 0x4000;
/// Name of the map of endpoints.
pub(super) const ENDPOINTS: &str = "endpoints";

/// Appends the translation of the destination to an endpoint.
pub(super) fn translate(rule: Rule, endpoint: &Endpoint) -> Rule {
    let (address, port) = (Reg::word(0), Family::of(endpoint.ip).after_address(0));
    rule.expr(Expr::Immediate(address, Data::ip(endpoint.ip)))
        .expr(Expr::Immediate(port, Data::port(endpoint.port)))
        .expr(Expr::Nat {
            kind: NatKind::Destination,
            address,
            port: Some(port),
        })
}

/// Returns a rule that translates the destination to a random endpoint, with equal probability.
/// Adds the endpoints to `map` if there is more than one.
pub(super) fn pick_endpoint(
    chain: &str,
    family: Family,
    endpoints: &[&Endpoint],
    map: &mut BTreeMap<Key, Key>,
) -> Rule {
    if let [only] = endpoints {
        return translate(Rule::new(), only);
    }
    let hash = hash::fnv64(chain.as_bytes());
    let (high, low) = (Data::host((hash >> 32) as u32), Data::host(hash as u32));
    for (number, endpoint) in endpoints.iter().enumerate() {
        let key = Key::new(&[high, low, Data::host(number as u32)]);
        map.insert(
            key,
            Key::new(&[Data::ip(endpoint.ip), Data::port(endpoint.port)]),
        );
    }
    let reg = Reg::word;
    Rule::new()
        .expr(Expr::Immediate(reg(0), high))
        .expr(Expr::Immediate(reg(1), low))
        .expr(Expr::Random {
            reg: reg(2),
            modulus: endpoints.len() as u32,
        })
        .expr(Expr::LookupValue {
            map: SetRef::Named(ENDPOINTS.into()),
            reg: reg(0),
            to: reg(0),
        })
        .expr(Expr::Nat {
            kind: NatKind::Destination,
            address: reg(0),
            port: Some(family.after_address(0)),
        })
}

/// Returns a rule that continues in a random endpoint's chain, with equal probability.
pub(super) fn pick_chain(endpoints: &[(&Endpoint, Name)]) -> Rule {
    if let [(_, only)] = endpoints {
        return Rule::new().goto(only);
    }
    let reg = Reg::word(0);
    let choices = endpoints
        .iter()
        .enumerate()
        .map(|(number, (_, chain))| (Key::from(number as u32), Verdict::Goto(chain.clone())));
    let map = SetRef::Anonymous(Box::new(Set::verdicts(&[Field::Number], choices)));
    Rule::new()
        .expr(Expr::Random {
            reg,
            modulus: endpoints.len() as u32,
        })
        .expr(Expr::LookupVerdict { map, reg })
}

/// Appends expressions that set the masquerade bit of the packet mark.
pub(super) fn mark(rule: Rule) -> Rule {
    let reg = Reg::word(0);
    rule.expr(Expr::Meta(Meta::Mark, reg))
        .expr(Expr::Bitwise {
            reg,
            mask: Data::host(!MASQUERADE),
            xor: Data::host(MASQUERADE),
        })
        .expr(Expr::SetMeta(Meta::Mark, reg))
}
