//! Type checker: determines the type of every node and the overloads of every call.

use crate::ast::{
    Ast, Comprehension, Expr, FieldInit, Kind, Literal, MapEntry, op, qualified_name,
};
use crate::env::Env;
use crate::functions::{self, Function};
use crate::source::Issues;
use crate::types::{Type, signature};
use crate::unify::{Mapping, most_general};

/// Referent of a name in an expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reference {
    /// A variable or a type.
    Ident(String),
    /// A function, with the IDs of the overloads that match.
    Overloads(Vec<&'static str>),
}

/// A type-checked syntax tree.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The tree, with qualified names.
    pub ast: Ast,
    /// Types by node ID.
    pub types: Vec<Type>,
    /// References by node ID.
    pub references: Vec<Option<Reference>>,
}

impl Checked {
    /// Returns the type of a node; `dyn` if unknown.
    pub(crate) fn ty(&self, e: &Expr) -> &Type {
        self.types.get(e.id as usize).unwrap_or(&Type::Dyn)
    }

    /// Returns the IDs of the matching overloads of a call; empty for other nodes.
    pub(crate) fn overloads(&self, e: &Expr) -> &[&'static str] {
        match self.references.get(e.id as usize) {
            Some(Some(Reference::Overloads(ids))) => ids,
            _ => &[],
        }
    }
}

struct Checker<'e> {
    env: &'e Env,
    offsets: &'e [u32],
    types: Vec<Option<Type>>,
    references: Vec<Option<Reference>>,
    scopes: Vec<(String, Type)>,
    mapping: Mapping,
    free: usize,
    issues: Issues,
}

/// Checks the types of a tree and replaces names in it by qualified ones.
pub(crate) fn check(source: &str, mut ast: Ast, env: &Env) -> Result<Checked, Issues> {
    let offsets = std::mem::take(&mut ast.offsets);
    let mut checker = Checker {
        env,
        types: vec![None; offsets.len()],
        references: vec![None; offsets.len()],
        offsets: &offsets,
        scopes: Vec::new(),
        mapping: Mapping::default(),
        free: 0,
        issues: Issues::new(source),
    };
    checker.check(&mut ast.root);
    let Checker {
        types,
        references,
        mapping,
        issues,
        ..
    } = checker;
    if !issues.is_empty() {
        return Err(issues.sorted());
    }
    let types = types
        .into_iter()
        .map(|t| t.map_or(Type::Dyn, |t| mapping.substitute(&t, true)))
        .collect();
    ast.offsets = offsets;
    Ok(Checked {
        ast,
        types,
        references,
    })
}

impl Checker<'_> {
    fn error(&mut self, id: u32, message: String) {
        let offset = self.offsets.get(id as usize).copied();
        self.issues.report(offset, message);
    }

    fn set(&mut self, id: u32, ty: Type) {
        self.types[id as usize] = Some(ty);
    }

    fn get(&self, e: &Expr) -> Type {
        self.types[e.id as usize].clone().unwrap_or(Type::Error)
    }

    fn fresh(&mut self) -> Type {
        self.free += 1;
        Type::Param(format!("_var{}", self.free - 1).into())
    }

    fn undeclared(&mut self, id: u32, name: &str) {
        self.error(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
        self.set(id, Type::Error);
    }

    fn lookup(&self, name: &str) -> Option<(String, Type)> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return Some((name.to_owned(), ty.clone()));
        }
        Some((name.to_owned(), self.env.ident(name)?))
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        let name = name.strip_prefix('.').unwrap_or(name);
        functions::lookup(name).filter(|f| !f.patch_only || self.env.patches)
    }

    fn check(&mut self, e: &mut Expr) {
        match &mut e.kind {
            Kind::Unspecified => self.set(e.id, Type::Error),
            Kind::Literal(literal) => {
                let ty = literal_type(literal);
                self.set(e.id, ty);
            }
            Kind::Ident(name) => match self.lookup(name) {
                Some((full, ty)) => {
                    self.set(e.id, ty);
                    self.references[e.id as usize] = Some(Reference::Ident(full.clone()));
                    *name = full;
                }
                None => {
                    let name = name.clone();
                    self.undeclared(e.id, &name);
                }
            },
            Kind::Select { .. } => self.select(e),
            Kind::Call { .. } => self.call(e),
            Kind::List { elements, optional } => {
                let ty = self.list(elements, optional);
                self.set(e.id, ty);
            }
            Kind::Map(entries) => {
                let ty = self.map(entries);
                self.set(e.id, ty);
            }
            Kind::Struct { name, fields } => self.structure(e.id, name, fields),
            Kind::Comprehension(c) => self.comprehension(e.id, c),
        }
    }

    fn select(&mut self, e: &mut Expr) {
        if let Some(name) = qualified_name(e)
            && let Some((full, ty)) = self.lookup(&name)
        {
            self.set(e.id, ty);
            self.references[e.id as usize] = Some(Reference::Ident(full.clone()));
            e.kind = Kind::Ident(full);
            return;
        }
        let id = e.id;
        let Kind::Select {
            operand,
            field,
            test_only,
        } = &mut e.kind
        else {
            return;
        };
        let mut ty = self.field(id, operand, field, false);
        if *test_only {
            ty = Type::Bool;
        }
        let ty = self.mapping.substitute(&ty, false);
        self.set(id, ty);
    }

    fn field(&mut self, id: u32, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let ty = self.mapping.substitute(&self.get(operand), false);
        let (target, was_optional) = match ty.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (ty, false),
        };
        let result = match &target {
            Type::Map(kv) => kv.1.clone(),
            Type::Struct(name) => self.field_type(id, name, field).unwrap_or(Type::Error),
            Type::Param(_) => {
                self.mapping.is_assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            _ => {
                if !target.is_dyn_or_error() {
                    self.error(
                        id,
                        format!("type '{target}' does not support field selection"),
                    );
                }
                Type::Dyn
            }
        };
        if optional || was_optional {
            Type::optional(result)
        } else {
            result
        }
    }

    fn field_type(&mut self, id: u32, name: &str, field: &str) -> Option<Type> {
        match self.env.field(name, field) {
            Some(ty) => Some(ty),
            None if !self.env.knows(name) => {
                self.error(id, format!("unexpected failed resolution of '{name}'"));
                None
            }
            None => {
                self.error(id, format!("undefined field '{field}'"));
                None
            }
        }
    }

    fn call(&mut self, e: &mut Expr) {
        let id = e.id;
        let Kind::Call {
            target,
            function,
            args,
        } = &mut e.kind
        else {
            return;
        };
        if function == op::OPT_SELECT {
            let [operand, field] = args.as_mut_slice() else {
                return;
            };
            let Kind::Literal(Literal::String(name)) = &field.kind else {
                return;
            };
            let name = name.to_string();
            let ty = self.field(id, operand, &name, true);
            let ty = self.mapping.substitute(&ty, false);
            self.set(id, ty);
            self.references[id as usize] =
                Some(Reference::Overloads(vec!["select_optional_field"]));
            return;
        }
        for arg in args.iter_mut() {
            self.check(arg);
        }
        let mut member = true;
        let found = match target {
            None => {
                member = false;
                self.function(function)
            }
            Some(receiver) => {
                let qualified = qualified_name(receiver)
                    .and_then(|prefix| self.function(&format!("{prefix}.{function}")));
                if qualified.is_some() {
                    *target = None;
                    member = false;
                    qualified
                } else {
                    self.check(receiver);
                    self.function(function)
                }
            }
        };
        let Some(found) = found else {
            let name = function.clone();
            self.undeclared(id, &name);
            return;
        };
        if !member {
            *function = found.name.to_owned();
        }
        let mut types: Vec<Type> = target.iter().map(|t| self.get(t)).collect();
        types.extend(args.iter().map(|a| self.get(a)));
        if matches!(found.name, op::AND | op::OR) {
            self.logic(id, found, args, &types);
        } else {
            self.resolve(id, found, types, member);
        }
    }

    fn logic(&mut self, id: u32, function: &'static Function, args: &[Expr], types: &[Type]) {
        let mut fine = true;
        for (arg, ty) in args.iter().zip(types) {
            if !self.mapping.is_assignable(ty, &Type::Bool) {
                self.error(
                    arg.id,
                    format!("expected type '{}' but found '{ty}'", Type::Bool),
                );
                fine = false;
            }
        }
        self.set(id, if fine { Type::Bool } else { Type::Error });
        if fine {
            self.references[id as usize] =
                Some(Reference::Overloads(vec![function.overloads[0].id]));
        }
    }

    fn resolve(&mut self, id: u32, function: &'static Function, types: Vec<Type>, member: bool) {
        let mut result: Option<Type> = None;
        let mut overloads = Vec::new();
        for overload in &function.overloads {
            if overload.member != member || overload.args.len() != types.len() {
                continue;
            }
            let (args, own) = if overload.generic.is_empty() {
                (overload.args.clone(), overload.result.clone())
            } else {
                let mut fresh = Mapping::default();
                for param in &overload.generic {
                    let var = self.fresh();
                    fresh.add(&Type::Param((*param).into()), var);
                }
                let args = overload.args.iter().map(|a| fresh.substitute(a, false));
                (args.collect(), fresh.substitute(&overload.result, false))
            };
            if !self.mapping.are_assignable(&types, &args) {
                continue;
            }
            overloads.push(overload.id);
            let own = self.mapping.substitute(&own, false);
            result = Some(match result {
                None => own,
                Some(first) if first.is_dyn() || first == own => first,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(ty) => {
                self.set(id, ty);
                self.references[id as usize] = Some(Reference::Overloads(overloads));
            }
            None => {
                let types: Vec<_> = types
                    .iter()
                    .map(|t| self.mapping.substitute(t, true))
                    .collect();
                self.error(
                    id,
                    format!(
                        "found no matching overload for '{}' applied to '{}'",
                        function.name,
                        signature(&types, member)
                    ),
                );
                self.set(id, Type::Error);
            }
        }
    }

    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else {
            return current;
        };
        if self.mapping.is_assignable(&previous, &current) {
            return most_general(&previous, &current).clone();
        }
        // A validator reports the mismatch where literals must be homogeneous.
        Type::Dyn
    }

    fn unwrapped(&mut self, e: &Expr, optional: bool) -> Type {
        let ty = self.get(e);
        if !optional {
            return ty;
        }
        if let Some(inner) = ty.unwrap_optional() {
            return inner.clone();
        }
        if !ty.is_dyn() {
            self.error(
                e.id,
                format!(
                    "expected type '{}' but found '{ty}'",
                    Type::optional(ty.clone())
                ),
            );
        }
        ty
    }

    fn list(&mut self, elements: &mut [Expr], optional: &[bool]) -> Type {
        let mut joined = None;
        for (e, optional) in elements.iter_mut().zip(optional) {
            self.check(e);
            let ty = self.unwrapped(e, *optional);
            joined = Some(self.join(joined, ty));
        }
        Type::list(joined.unwrap_or_else(|| self.fresh()))
    }

    fn map(&mut self, entries: &mut [MapEntry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries.iter_mut() {
            self.check(&mut entry.key);
            let ty = self.get(&entry.key);
            keys = Some(self.join(keys, ty));
            self.check(&mut entry.value);
            let ty = self.unwrapped(&entry.value, entry.optional);
            values = Some(self.join(values, ty));
        }
        let key = keys.unwrap_or_else(|| self.fresh());
        let value = values.unwrap_or_else(|| self.fresh());
        Type::map(key, value)
    }

    fn structure(&mut self, id: u32, name: &mut String, fields: &mut [FieldInit]) {
        let Some((full, ty)) = self.lookup(name) else {
            let name = name.clone();
            self.undeclared(id, &name);
            return;
        };
        *name = full;
        self.references[id as usize] = Some(Reference::Ident(name.clone()));
        let mut result = Type::Error;
        match &ty {
            Type::Type(Some(inner)) if matches!(**inner, Type::Struct(_)) => {
                result = (**inner).clone();
            }
            Type::Type(inner) => {
                let shown = inner.as_ref().map_or("type".into(), |t| t.to_string());
                self.error(id, format!("'{shown}' is not a message type"));
            }
            Type::Error => {}
            other => {
                let message = format!("'{}' is not a type", other.runtime_name());
                self.error(id, message);
            }
        }
        self.set(id, result);
        for field in fields {
            self.check(&mut field.value);
            let declared = self
                .field_type(field.id, name, &field.name)
                .unwrap_or(Type::Error);
            let value = self.unwrapped(&field.value, field.optional);
            if !self.mapping.is_assignable(&declared, &value) {
                self.error(
                    field.id,
                    format!(
                        "expected type of field '{}' is '{declared}' but provided type is '{value}'",
                        field.name
                    ),
                );
            }
        }
    }

    fn assert(&mut self, e: &Expr, ty: &Type) {
        let own = self.get(e);
        if !self.mapping.is_assignable(ty, &own) {
            self.error(e.id, format!("expected type '{ty}' but found '{own}'"));
        }
    }

    fn comprehension(&mut self, id: u32, c: &mut Comprehension) {
        self.check(&mut c.range);
        self.check(&mut c.init);
        let range = self.mapping.substitute(&self.get(&c.range), false);
        let accu = self.get(&c.init);
        let outer = self.scopes.len();
        self.scopes.push((c.accu.clone(), accu.clone()));
        let (first, second) = match &range {
            Type::List(element) if c.var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(kv) => (kv.0.clone(), kv.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.is_assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                self.error(
                    c.range.id,
                    format!(
                        "expression of type '{range}' cannot be range of a comprehension (must be \
                         list, map, or dynamic)"
                    ),
                );
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(&mut c.condition);
        self.assert(&c.condition, &Type::Bool);
        self.check(&mut c.step);
        self.assert(&c.step, &accu);
        self.scopes.truncate(outer + 1);
        self.check(&mut c.result);
        self.scopes.truncate(outer);
        let ty = self.mapping.substitute(&self.get(&c.result), false);
        self.set(id, ty);
    }
}

/// Returns the type of a literal.
pub(crate) fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
