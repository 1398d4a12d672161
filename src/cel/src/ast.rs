//! Syntax tree of an expression.

use std::sync::Arc;

/// A literal of the expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `'a'`
    String(Arc<str>),
    /// `b'a'`
    Bytes(Arc<[u8]>),
}

/// A node. The `id` indexes the tables of offsets, types and references.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Identifier, unique within the tree.
    pub id: u32,
    /// Kind of the node, with its operands.
    pub kind: Kind,
}

/// The kind of a node.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Placeholder for text that could not be parsed.
    Unspecified,
    /// A literal.
    Literal(Literal),
    /// An identifier; qualified after type checking.
    Ident(String),
    /// A field selection or a presence test.
    Select {
        operand: Box<Expr>,
        field: String,
        /// Whether the node is `has(operand.field)`.
        test_only: bool,
    },
    /// A function call, or a member call if there is a target; operators are functions too.
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    /// A list.
    List {
        elements: Vec<Expr>,
        /// For each element, whether it is marked with `?`.
        optional: Vec<bool>,
    },
    /// A map.
    Map(Vec<MapEntry>),
    /// A message, `Name{field: value}`.
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    /// An expanded macro.
    Comprehension(Box<Comprehension>),
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub struct MapEntry {
    /// Identifier of the entry.
    pub id: u32,
    /// The key.
    pub key: Expr,
    /// The value.
    pub value: Expr,
    /// Whether the entry is marked with `?`.
    pub optional: bool,
}

/// A field of a message.
#[derive(Clone, Debug)]
pub struct FieldInit {
    /// Identifier of the field.
    pub id: u32,
    /// Name of the field.
    pub name: String,
    /// The value.
    pub value: Expr,
    /// Whether the field is marked with `?`.
    pub optional: bool,
}

/// A comprehension: the expansion of a macro over a list or map.
#[derive(Clone, Debug)]
pub struct Comprehension {
    /// The list or map to iterate over.
    pub range: Expr,
    /// Iteration variable: the element, or the index or key if `var2` is set.
    pub var: String,
    /// Second iteration variable: the element or value.
    pub var2: Option<String>,
    /// Accumulator variable.
    pub accu: String,
    /// Initial value of the accumulator.
    pub init: Expr,
    /// Condition evaluated before each iteration; the loop ends if it is false.
    pub condition: Expr,
    /// New value of the accumulator after an iteration.
    pub step: Expr,
    /// Value of the comprehension, evaluated after the loop.
    pub result: Expr,
}

impl Comprehension {
    /// Returns whether the comprehension only binds a value to a name (`cel.bind`).
    pub(crate) fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List { elements, .. } if elements.is_empty())
            && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false)))
            && self.accu != ACCUMULATOR
    }
}

/// Name of the accumulator variable of macros.
pub(crate) const ACCUMULATOR: &str = "__result__";
/// Iteration variable of comprehensions that only bind a value.
pub(crate) const UNUSED: &str = "#unused";

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Ast {
    /// Root of the tree.
    pub root: Expr,
    /// Character offsets in the source, by node ID.
    pub offsets: Vec<u32>,
}

/// Function names of operators.
pub(crate) mod op {
    /// `a ? b : c`
    pub const CONDITIONAL: &str = "_?_:_";
    /// `a && b`
    pub const AND: &str = "_&&_";
    /// `a || b`
    pub const OR: &str = "_||_";
    /// `!a`
    pub const NOT: &str = "!_";
    /// `-a`
    pub const NEGATE: &str = "-_";
    /// `a + b`
    pub const ADD: &str = "_+_";
    /// `a == b`
    pub const EQUALS: &str = "_==_";
    /// `a[b]`
    pub const INDEX: &str = "_[_]";
    /// `a[?b]`
    pub const OPT_INDEX: &str = "_[?_]";
    /// `a.?b`
    pub const OPT_SELECT: &str = "_?._";
    /// `a in b`
    pub const IN: &str = "@in";
    /// Loop condition of `all` and `exists`; true for errors.
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    /// Inserts an entry or a map into the accumulator of `transformMap` and `transformMapEntry`.
    pub const MAP_INSERT: &str = "cel.@mapInsert";
}

/// Returns the dotted name of an expression such as `a.b.c`, `None` for any other.
pub(crate) fn qualified_name(e: &Expr) -> Option<String> {
    match &e.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select {
            operand,
            field,
            test_only: false,
        } => qualified_name(operand).map(|mut name| {
            name.push('.');
            name.push_str(field);
            name
        }),
        _ => None,
    }
}
