//! Static cost estimation. Rules and figures are upstream's (`checker/cost.go` of cel-go),
//! because API servers accept or reject definitions by them.

mod functions;

use std::collections::HashMap;

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal};
use crate::checker::Checked;
use crate::decl::DeclType;
use crate::types::Type;

/// An inclusive range of costs or sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Lower bound.
    pub min: u64,
    /// Upper bound; `u64::MAX` if unbounded.
    pub max: u64,
}

impl Range {
    /// Returns the range of a single number.
    pub(super) const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    /// The range of an unknown size.
    pub(super) const UNKNOWN: Self = Self {
        min: 0,
        max: u64::MAX,
    };

    /// Adds bounds; saturates.
    pub(super) fn add(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    /// Multiplies bounds; saturates.
    pub(super) fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    /// Multiplies bounds by a factor and rounds up.
    pub(super) fn share(self, factor: f64) -> Self {
        Self {
            min: share(self.min, factor),
            max: share(self.max, factor),
        }
    }

    fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

fn share(n: u64, factor: f64) -> u64 {
    // The conversion saturates.
    (n as f64 * factor).ceil() as u64
}

/// Source of the maximum sizes of variables.
pub trait Sizes {
    /// Returns the maximum number of elements, entries, characters or bytes of the value at a path,
    /// `None` if unknown. A path is a variable followed by field names, `@items`, `@values` and
    /// `@keys`.
    fn max(&self, path: &[String]) -> Option<u64>;
}

/// Sizes of untyped variables: nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown;

impl Sizes for Unknown {
    fn max(&self, _: &[String]) -> Option<u64> {
        None
    }
}

/// Applies to environments whose variables all have this type, such as `self` and `oldSelf`.
impl Sizes for DeclType {
    fn max(&self, path: &[String]) -> Option<u64> {
        self.at(path.get(1..)?)
    }
}

/// Sizes of the keys and values of a list or map.
#[derive(Clone, Copy)]
struct Entry {
    is_list: bool,
    key: Range,
    value: Range,
}

impl Entry {
    fn union(self, other: Self) -> Self {
        Self {
            is_list: self.is_list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

struct LocalVar {
    name: String,
    path: Vec<String>,
    size: Option<Range>,
    entry: Option<Entry>,
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: &'c dyn Sizes,
    paths: HashMap<u32, Vec<String>>,
    computed: HashMap<u32, Range>,
    entries: HashMap<u32, Entry>,
    locals: Vec<LocalVar>,
}

/// Cost of a call, and the size of its result if known.
struct CallCost {
    cost: Range,
    size: Option<Range>,
}

/// An operand of a call: expression, path from a variable (may be empty), type and size.
struct Operand<'e> {
    e: &'e Expr,
    path: Vec<String>,
    ty: Type,
    size: Option<Range>,
}

/// Estimates the cost of an evaluation of the expression.
pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> Range {
    let mut coster = Coster {
        checked,
        sizes,
        paths: HashMap::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(&checked.ast.root)
}

const NOTHING: Range = Range::fixed(0);
const ONE: Range = Range::fixed(1);

impl Coster<'_> {
    fn cost(&mut self, e: &Expr) -> Range {
        match &e.kind {
            Kind::Unspecified | Kind::Literal(_) => NOTHING,
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.clone()],
                };
                self.paths.insert(e.id, path);
                ONE
            }
            Kind::Select {
                operand,
                test_only: true,
                ..
            } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let mut sum = self.cost(operand);
                if matches!(
                    self.checked.ty(operand),
                    Type::Map(_) | Type::Struct(_) | Type::Param(_)
                ) {
                    sum = sum.add(ONE);
                }
                self.extend_path(e, operand, field);
                sum
            }
            Kind::Call { .. } => self.call(e),
            Kind::List { elements, .. } => {
                let mut sum = NOTHING;
                let mut item = Range {
                    min: if elements.is_empty() { 0 } else { u64::MAX },
                    max: 0,
                };
                for element in elements {
                    sum = sum.add(self.cost(element));
                    item = item.union(self.size_or_unknown(element));
                }
                self.entries.insert(
                    e.id,
                    Entry {
                        is_list: true,
                        key: ONE,
                        value: item,
                    },
                );
                sum.add(Range::fixed(10))
            }
            Kind::Map(map) => {
                let mut sum = NOTHING;
                let start = Range {
                    min: if map.is_empty() { 0 } else { u64::MAX },
                    max: 0,
                };
                let (mut key, mut value) = (start, start);
                for entry in map {
                    sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(
                    e.id,
                    Entry {
                        is_list: false,
                        key,
                        value,
                    },
                );
                sum.add(Range::fixed(30))
            }
            Kind::Struct { fields, .. } => fields
                .iter()
                .fold(Range::fixed(40), |sum, f| sum.add(self.cost(&f.value))),
            Kind::Comprehension(c) if c.is_bind() => self.bind(e, c),
            Kind::Comprehension(c) => self.comprehension(e, c),
        }
    }

    fn local(&self, name: &str) -> Option<&LocalVar> {
        self.locals.iter().rev().find(|l| l.name == name)
    }

    fn path(&self, e: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &e.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&e.id).cloned().unwrap_or_default()
    }

    fn extend_path(&mut self, e: &Expr, operand: &Expr, step: &str) {
        let mut path = self.path(operand);
        path.push(step.to_owned());
        self.paths.insert(e.id, path);
    }

    fn size(&mut self, e: &Expr) -> Option<Range> {
        if let Some(size) = self.computed.get(&e.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(e) {
            return Some(size);
        }
        let path = self.path(e);
        if !path.is_empty()
            && let Some(max) = self.sizes.max(&path)
        {
            let size = Range { min: 0, max };
            self.computed.insert(e.id, size);
            return Some(size);
        }
        if self.checked.ty(e).is_scalar() {
            return Some(ONE);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Range {
        self.size(e).unwrap_or(Range::UNKNOWN)
    }

    fn entry(&self, e: &Expr) -> Option<Entry> {
        if let Some(entry) = self.entries.get(&e.id) {
            return Some(*entry);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name)?.entry,
            _ => None,
        }
    }

    fn is_list(&self, e: &Expr) -> bool {
        match self.entry(e) {
            Some(entry) => entry.is_list,
            None => matches!(self.checked.ty(e), Type::List(_)),
        }
    }

    fn operand<'e>(&mut self, e: &'e Expr) -> Operand<'e> {
        let mut path = self.path(e);
        if path.first().is_some_and(|p| p == ACCUMULATOR) {
            path.clear();
        }
        Operand {
            path,
            ty: self.checked.ty(e).clone(),
            size: self.size(e),
            e,
        }
    }

    fn comprehension(&mut self, e: &Expr, c: &Comprehension) -> Range {
        let mut sum = self.cost(&c.range).add(self.cost(&c.init));
        self.push_bound(&c.accu, &c.init);
        let entry = self.entry(&c.range);
        let is_list = self.is_list(&c.range);
        let path = self.path(&c.range);
        let mut push = |name: &str, step: &str, size: Option<Range>| {
            let mut path = path.clone();
            path.push(step.to_owned());
            self.locals.push(LocalVar {
                name: name.to_owned(),
                path,
                size,
                entry: None,
            });
        };
        let key = entry.map(|e| e.key);
        let value = entry.map(|e| e.value);
        let before = match &c.var2 {
            Some(var2) => {
                push(&c.var, if is_list { "@indices" } else { "@keys" }, key);
                push(var2, if is_list { "@items" } else { "@values" }, value);
                2
            }
            None if is_list => {
                push(&c.var, "@items", value);
                1
            }
            None => {
                push(&c.var, "@keys", key);
                1
            }
        };
        let turn = self.cost(&c.condition);
        let turn = self.cost(&c.step).add(turn);
        self.locals.truncate(self.locals.len() - before);
        sum = sum.add(self.cost(&c.result));
        self.locals.pop();
        let count = self.size_or_unknown(&c.range);
        sum = sum.add(count.times(turn));
        match &c.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&c.init) {
                    self.computed.insert(e.id, size);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.computed.insert(e.id, count);
                if let Some(entry) = self.entry(&c.step) {
                    self.entries.insert(e.id, entry);
                }
            }
            _ => {}
        }
        sum
    }

    fn push_bound(&mut self, name: &str, e: &Expr) {
        let local = LocalVar {
            name: name.to_owned(),
            path: self.path(e),
            size: self.size(e),
            entry: self.entry(e),
        };
        self.locals.push(local);
    }

    fn bind(&mut self, e: &Expr, c: &Comprehension) -> Range {
        let mut sum = self.cost(&c.range).add(self.cost(&c.init));
        self.push_bound(&c.accu, &c.init);
        sum = sum.add(self.cost(&c.result));
        // Computed while the variable is in scope: the size may depend on the bound value.
        let (size, entry) = (self.size(&c.result), self.entry(&c.result));
        self.locals.pop();
        if let Some(size) = size {
            self.computed.insert(e.id, size);
        }
        if let Some(entry) = entry {
            self.entries.insert(e.id, entry);
        }
        sum
    }

    fn call(&mut self, e: &Expr) -> Range {
        let Kind::Call {
            target,
            function,
            args,
        } = &e.kind
        else {
            return NOTHING;
        };
        if function == "dyn"
            && let [arg] = args.as_slice()
        {
            let cost = self.cost(arg);
            if let Some(size) = self.size(arg) {
                self.computed.insert(e.id, size);
            }
            if let Some(entry) = self.entry(arg) {
                self.entries.insert(e.id, entry);
            }
            return cost.add(ONE);
        }
        let mut operands = Vec::with_capacity(args.len());
        let mut costs = Vec::with_capacity(args.len());
        for arg in args {
            costs.push(self.cost(arg));
            operands.push(self.operand(arg));
        }
        let overloads = self.checked.overloads(e).to_vec();
        if overloads.is_empty() {
            return NOTHING;
        }
        let mut sum = NOTHING;
        let target = target.as_ref().map(|t| {
            sum = self.cost(t);
            self.operand(t)
        });
        let mut cost = Range {
            min: u64::MAX,
            max: 0,
        };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let own = self.overload(e, function, overload, target.as_ref(), &operands, &costs);
            cost = cost.union(own.cost);
            if let Some(own) = own.size {
                size = Some(size.map_or(own, |size| size.union(own)));
            }
            match overload {
                "index_list" | "index_map" => {
                    size = self.entry(&args[0]).map(|entry| entry.value);
                    let step = if overload == "index_list" {
                        "@items"
                    } else {
                        "@values"
                    };
                    self.extend_path(e, &args[0], step);
                }
                _ => {}
            }
            if size.is_none() {
                size = self.size(e);
            }
        }
        if let Some(size) = size {
            self.computed.insert(e.id, size);
        }
        sum.add(cost)
    }

    fn overload(
        &mut self,
        e: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Operand<'_>>,
        args: &[Operand<'_>],
        costs: &[Range],
    ) -> CallCost {
        let sum = costs.iter().fold(NOTHING, |sum, cost| sum.add(*cost));
        let known = self
            .list_function(overload, target, args)
            .or_else(|| self.kubernetes(function, overload, target, args))
            .or_else(|| rewritten_text(overload, args));
        if let Some(known) = known {
            return CallCost {
                cost: known.cost.add(sum),
                size: known.size,
            };
        }
        let plain = |cost: Range| CallCost {
            cost: cost.add(sum),
            size: None,
        };
        let size = |operand: &Operand<'_>| operand.size.unwrap_or(Range::UNKNOWN);
        match (overload, target, args) {
            ("string_format", Some(target), _) => plain(size(target).share(0.1)),
            ("starts_with_string" | "ends_with_string", _, [arg]) => plain(size(arg).share(0.1)),
            ("in_list", _, [_, list]) => plain(size(list)),
            ("matches_string", Some(target), [pattern]) => {
                plain(pattern_cost(size(target), size(pattern)))
            }
            ("contains_string", Some(target), [part]) => {
                plain(size(target).share(0.1).times(size(part).share(0.1)))
            }
            ("logical_or" | "logical_and", _, [..]) if costs.len() == 2 => CallCost {
                cost: Range {
                    min: costs[0].min,
                    max: costs[0].add(costs[1]).max,
                },
                size: None,
            },
            ("conditional", _, [_, yes, no]) => {
                if let (Some(a), Some(b)) = (self.entry(yes.e), self.entry(no.e)) {
                    self.entries.insert(e.id, a.union(b));
                }
                CallCost {
                    cost: costs[0].add(costs[1].union(costs[2])),
                    size: Some(size(yes).union(size(no))),
                }
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let result = size(a).add(size(b));
                if let (Some(a), Some(b)) = (self.entry(a.e), self.entry(b.e)) {
                    self.entries.insert(e.id, a.union(b));
                }
                let own = match overload {
                    "add_list" => ONE,
                    _ => result.share(0.1),
                };
                CallCost {
                    cost: own.add(sum),
                    size: Some(result),
                }
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [a, b],
            ) => {
                let max = size(a).max.min(size(b).max);
                let own = Range {
                    min: max.min(1),
                    max,
                };
                plain(own.share(0.1))
            }
            _ => plain(ONE),
        }
    }
}

/// Returns the cost and result size of functions that write a text in another form.
fn rewritten_text(overload: &str, args: &[Operand<'_>]) -> Option<CallCost> {
    let [arg] = args else { return None };
    let size = arg.size.unwrap_or(Range::UNKNOWN);
    let result = match overload {
        "string_to_bytes" => Range {
            min: size.min,
            max: size.max.wrapping_mul(4),
        },
        "bytes_to_string" => Range {
            min: size.min / 4,
            max: size.max,
        },
        "strings_quote" => Range {
            min: size.min.wrapping_add(2),
            max: size.max.wrapping_mul(2).wrapping_add(2),
        },
        _ => return None,
    };
    Some(CallCost {
        cost: size.share(0.1),
        size: Some(result),
    })
}

fn literal_size(e: &Expr) -> Option<Range> {
    Some(Range::fixed(match &e.kind {
        Kind::Literal(Literal::String(s)) => s.chars().count() as u64,
        Kind::Literal(Literal::Bytes(b)) => b.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List { elements, .. } => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    }))
}

fn pattern_cost(text: Range, pattern: Range) -> Range {
    text.add(ONE).share(0.1).times(pattern.share(0.25))
}
