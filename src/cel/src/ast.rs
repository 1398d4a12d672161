//! The syntax tree.

use std::sync::Arc;

/// A constant written in the expression.
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

/// A node. Its `id` names it in the tables of positions, types and references.
#[derive(Clone, Debug)]
pub struct Expr {
    pub id: u32,
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Stands where the text was wrong.
    Unspecified,
    Literal(Literal),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        /// `has(operand.field)`
        test_only: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    List {
        elements: Vec<Expr>,
        /// Which elements were written with `?`.
        optional: Vec<bool>,
    },
    Map(Vec<MapEntry>),
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Clone, Debug)]
pub struct MapEntry {
    pub id: u32,
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct FieldInit {
    pub id: u32,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// A fold: what macros over lists and maps are turned into.
#[derive(Clone, Debug)]
pub struct Comprehension {
    pub range: Expr,
    pub var: String,
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Comprehension {
    /// Whether this only gives a value a name.
    pub(crate) fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List { elements, .. } if elements.is_empty())
            && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false)))
            && self.accu != ACCUMULATOR
    }
}

/// The variable that a fold's value is kept in.
pub(crate) const ACCUMULATOR: &str = "__result__";
/// The iteration variable of a fold over nothing.
pub(crate) const UNUSED: &str = "#unused";

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Ast {
    pub root: Expr,
    /// Character offset by node id.
    pub offsets: Vec<u32>,
}

/// Names of operators as functions.
pub(crate) mod op {
    pub const CONDITIONAL: &str = "_?_:_";
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const ADD: &str = "_+_";
    pub const EQUALS: &str = "_==_";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const IN: &str = "@in";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub const MAP_INSERT: &str = "cel.@mapInsert";
}

/// `a.b.c` as one dotted name, if it is nothing but that.
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
