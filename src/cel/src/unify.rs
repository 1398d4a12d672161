//! Assignability of types, and bindings of type parameters.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// Bindings of type parameters, with a log to undo changes.
#[derive(Default)]
pub(crate) struct Mapping {
    map: HashMap<Arc<str>, Type>,
    log: Vec<(Arc<str>, Option<Type>)>,
}

impl Mapping {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.map.get(name),
            _ => None,
        }
    }

    /// Binds a type parameter.
    pub(crate) fn add(&mut self, param: &Type, to: Type) {
        if let Type::Param(name) = param {
            let old = self.map.insert(name.clone(), to);
            self.log.push((name.clone(), old));
        }
    }

    fn undo(&mut self, to: usize) {
        while self.log.len() > to {
            if let Some((name, old)) = self.log.pop() {
                match old {
                    Some(old) => self.map.insert(name, old),
                    None => self.map.remove(&name),
                };
            }
        }
    }

    /// Returns whether a value of type `t1` can be used where `t2` is expected. If so, keeps the
    /// resulting bindings of type parameters.
    pub(crate) fn is_assignable(&mut self, t1: &Type, t2: &Type) -> bool {
        let mark = self.log.len();
        let fits = self.fits(t1, t2);
        if !fits {
            self.undo(mark);
        }
        fits
    }

    /// Returns whether all types are assignable, pairwise; see [`Mapping::is_assignable`].
    pub(crate) fn are_assignable(&mut self, l1: &[Type], l2: &[Type]) -> bool {
        let mark = self.log.len();
        let fits = l1.len() == l2.len() && l1.iter().zip(l2).all(|(a, b)| self.fits(a, b));
        if !fits {
            self.undo(mark);
        }
        fits
    }

    fn fits(&mut self, t1: &Type, t2: &Type) -> bool {
        if matches!(t2, Type::Param(_)) {
            let (valid, known) = self.substitutes(t1, t2);
            if valid {
                return true;
            }
            if known {
                return false;
            }
        }
        if matches!(t1, Type::Param(_)) {
            return self.substitutes(t2, t1).0;
        }
        if t1.is_dyn_or_error() || t2.is_dyn_or_error() {
            return true;
        }
        match (t1, t2) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Opaque(..) | Type::Struct(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::Opaque(n1, p1), Type::Opaque(n2, p2)) => {
                n1 == n2
                    && p1.len() == p2.len()
                    && p1.iter().zip(p2.iter()).all(|(a, b)| self.fits(a, b))
            }
            _ => t1 == t2,
        }
    }

    /// Returns whether the parameter `t2` can be bound to `t1`, and whether it was bound before.
    fn substitutes(&mut self, t1: &Type, t2: &Type) -> (bool, bool) {
        if t1 == t2 {
            return (true, true);
        }
        if let Some(sub) = self.find(t2).cloned() {
            if *t1 == sub {
                return (true, true);
            }
            if self.fits(t1, &sub) {
                let new = most_general(t1, &sub).clone();
                if self.not_within(t2, &new) {
                    self.add(t2, new);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.not_within(t2, t1) {
            self.add(t2, t1.clone());
            return (true, false);
        }
        (false, false)
    }

    fn not_within(&self, t: &Type, within: &Type) -> bool {
        if t == within {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|sub| self.not_within(t, sub)),
            _ => within.params().into_iter().all(|p| self.not_within(t, p)),
        }
    }

    /// Replaces bound parameters in a type, and unbound ones by `dyn` if `to_dyn` is true.
    pub(crate) fn substitute(&self, t: &Type, to_dyn: bool) -> Type {
        if let Some(sub) = self.find(t) {
            return self.substitute(sub, to_dyn);
        }
        match t {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::Opaque(name, params) => Type::Opaque(
                name.clone(),
                params.iter().map(|p| self.substitute(p, to_dyn)).collect(),
            ),
            Type::List(e) => Type::list(self.substitute(e, to_dyn)),
            Type::Map(kv) => Type::map(
                self.substitute(&kv.0, to_dyn),
                self.substitute(&kv.1, to_dyn),
            ),
            Type::Type(Some(t)) => Type::Type(Some(self.substitute(t, to_dyn).into())),
            _ => t.clone(),
        }
    }
}

/// Returns the more general of two types that are assignable to each other.
pub(crate) fn most_general<'t>(t1: &'t Type, t2: &'t Type) -> &'t Type {
    if is_less_specific(t1, t2) { t1 } else { t2 }
}

fn is_less_specific(t1: &Type, t2: &Type) -> bool {
    if t1.is_dyn() || matches!(t1, Type::Param(_)) {
        return true;
    }
    if t2.is_dyn() || matches!(t2, Type::Param(_)) {
        return false;
    }
    match (t1, t2) {
        (Type::Opaque(n1, p1), Type::Opaque(n2, p2)) => {
            n1 == n2
                && p1.len() == p2.len()
                && p1
                    .iter()
                    .zip(p2.iter())
                    .all(|(a, b)| is_less_specific(a, b))
        }
        (Type::List(a), Type::List(b)) => is_less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => {
            is_less_specific(&a.0, &b.0) && is_less_specific(&a.1, &b.1)
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => t1 == t2,
    }
}
