//! Planner: converts a checked tree to an executable one, with variables and functions resolved
//! and constants evaluated.

use std::collections::HashSet;

use rkube_go_regexp::Pattern;

use crate::ast::{Comprehension, Expr, Kind, Literal, op};
use crate::checker::Checked;
use crate::ctx::Ctx;
use crate::functions;
use crate::library::{self, Run};
use crate::types::Type;
use crate::value::{Key, OwnMap, Value};

/// A node of the executable tree.
#[derive(Debug)]
pub(crate) enum Node {
    /// A constant.
    Const(Value<'static>),
    /// A variable of the environment, by index.
    Var(usize),
    /// A variable of a comprehension, by index in the locals.
    Local(usize),
    /// A field selection.
    Select(Box<Select>),
    /// An index operation.
    Index(Box<Index>),
    /// A function call.
    Call(Box<Call>),
    /// `a && b`
    And(Box<(Node, Node)>),
    /// `a || b`
    Or(Box<(Node, Node)>),
    /// `a ? b : c`
    Cond(Box<(Node, Node, Node)>),
    /// A list; the flag marks optional elements.
    List(Vec<(Node, bool)>),
    /// A map; the flag marks optional entries.
    Map(Vec<(Node, Node, bool)>),
    /// A message.
    Struct(Box<Struct>),
    /// A comprehension.
    Fold(Box<Fold>),
    /// Membership in a constant list.
    Among(Box<(Node, HashSet<Key>)>),
    /// `a.or(b)`
    OptionalOr(Box<(Node, Node)>),
    /// `a.orValue(b)`
    OptionalOrValue(Box<(Node, Node)>),
}

/// A field selection.
#[derive(Debug)]
pub(crate) struct Select {
    /// The value to select from.
    pub operand: Node,
    /// Name of the field.
    pub field: String,
    /// Result of the selection.
    pub mode: Mode,
}

/// Result of a selection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// The value; an error if it is absent.
    Value,
    /// An optional value (`a.?b`).
    Optional,
    /// Whether the field is present (`has(a.b)`).
    Presence,
}

/// An index operation.
#[derive(Debug)]
pub(crate) struct Index {
    /// The list or map.
    pub operand: Node,
    /// The index or key.
    pub index: Node,
    /// Whether the result is an optional value (`a[?b]`).
    pub optional: bool,
}

/// A function call.
#[derive(Debug)]
pub(crate) struct Call {
    /// Name of the function.
    pub function: &'static str,
    /// ID of the overload; empty if several match.
    pub overload: &'static str,
    /// Arguments; the target of a member call is the first.
    pub args: Vec<Node>,
    /// Implementation.
    pub run: Run,
    /// The compiled pattern, if the argument is constant.
    pub regex: Option<Pattern>,
    /// Index of the accumulator in the locals if it is the first argument: the call may consume
    /// the value.
    pub takes: Option<usize>,
}

/// A message.
#[derive(Debug)]
pub(crate) struct Struct {
    /// Name of the type.
    pub name: String,
    /// Name, value and optional flag of each field.
    pub fields: Vec<(String, Node, bool)>,
}

/// A comprehension; see [`Comprehension`].
#[derive(Debug)]
pub(crate) struct Fold {
    /// The list or map to iterate over.
    pub range: Node,
    /// Whether there are two iteration variables.
    pub two: bool,
    /// Initial value of the accumulator.
    pub init: Node,
    /// Condition evaluated before each iteration.
    pub condition: Node,
    /// New value of the accumulator.
    pub step: Node,
    /// Value of the comprehension.
    pub result: Node,
}

struct Planner<'c> {
    checked: &'c Checked,
    slot: &'c dyn Fn(&str) -> Option<usize>,
    locals: Vec<String>,
}

/// Plans the evaluation of a checked tree; `slot` returns the index of a variable.
///
/// # Errors
///
/// Returns why a constant part cannot be evaluated.
pub(crate) fn plan(
    checked: &Checked,
    slot: &dyn Fn(&str) -> Option<usize>,
) -> Result<Node, String> {
    let mut planner = Planner {
        checked,
        slot,
        locals: Vec::new(),
    };
    planner.plan(&checked.ast.root)
}

impl Planner<'_> {
    fn plan(&mut self, e: &Expr) -> Result<Node, String> {
        match &e.kind {
            Kind::Unspecified => Err("the expression is not complete".into()),
            Kind::Literal(literal) => Ok(Node::Const(Value::literal(literal))),
            Kind::Ident(name) => self.ident(name),
            Kind::Select {
                operand,
                field,
                test_only,
            } => {
                let mode = if *test_only {
                    Mode::Presence
                } else {
                    Mode::Value
                };
                self.select(operand, field, mode)
            }
            Kind::Call { .. } => self.call(e),
            Kind::List { elements, optional } => self.list(elements, optional),
            Kind::Map(entries) => {
                let mut nodes = Vec::with_capacity(entries.len());
                for entry in entries {
                    let key = self.plan(&entry.key)?;
                    nodes.push((key, self.plan(&entry.value)?, entry.optional));
                }
                Ok(constant_map(nodes))
            }
            Kind::Struct { name, fields } => {
                let mut nodes = Vec::with_capacity(fields.len());
                for field in fields {
                    nodes.push((field.name.clone(), self.plan(&field.value)?, field.optional));
                }
                Ok(Node::Struct(Box::new(Struct {
                    name: name.clone(),
                    fields: nodes,
                })))
            }
            Kind::Comprehension(c) => self.fold(c),
        }
    }

    fn ident(&self, name: &str) -> Result<Node, String> {
        if let Some(at) = self.locals.iter().rposition(|l| l == name) {
            return Ok(Node::Local(at));
        }
        if let Some(slot) = (self.slot)(name) {
            return Ok(Node::Var(slot));
        }
        Ok(Node::Const(Value::Type(
            functions::named_type(name).unwrap_or_else(|| Type::object(name)),
        )))
    }

    fn select(&mut self, operand: &Expr, field: &str, mode: Mode) -> Result<Node, String> {
        Ok(Node::Select(Box::new(Select {
            operand: self.plan(operand)?,
            field: field.to_owned(),
            mode,
        })))
    }

    fn list(&mut self, elements: &[Expr], optional: &[bool]) -> Result<Node, String> {
        let mut nodes = Vec::with_capacity(elements.len());
        for (element, optional) in elements.iter().zip(optional) {
            nodes.push((self.plan(element)?, *optional));
        }
        let constant = nodes
            .iter()
            .all(|(n, optional)| !optional && matches!(n, Node::Const(_)));
        if !constant {
            return Ok(Node::List(nodes));
        }
        let values = nodes.into_iter().filter_map(|(n, _)| match n {
            Node::Const(v) => Some(v),
            _ => None,
        });
        Ok(Node::Const(Value::list(values.collect())))
    }

    fn call(&mut self, e: &Expr) -> Result<Node, String> {
        let Kind::Call {
            target,
            function,
            args,
        } = &e.kind
        else {
            return Err("not a call".into());
        };
        if function == op::OPT_SELECT
            && let [operand, field] = args.as_slice()
            && let Kind::Literal(Literal::String(name)) = &field.kind
        {
            return self.select(operand, name, Mode::Optional);
        }
        let mut nodes = Vec::with_capacity(args.len() + 1);
        for arg in target.iter().map(|t| &**t).chain(args) {
            nodes.push(self.plan(arg)?);
        }
        let overloads = self.checked.overloads(e);
        let overload = match overloads {
            [one] => one,
            _ => "",
        };
        match special(function, overload, nodes)? {
            Special::Node(node) => Ok(node),
            Special::Arguments(nodes) => self.function(function, overload, nodes),
        }
    }

    /// Plans the call of a function of the library.
    fn function(
        &self,
        function: &str,
        overload: &'static str,
        nodes: Vec<Node>,
    ) -> Result<Node, String> {
        let found = functions::lookup(function.strip_prefix('.').unwrap_or(function))
            .ok_or_else(|| format!("no such function: {function}"))?;
        let run = library::implementation(overload)
            .or_else(|| library::implementation(found.name))
            .ok_or_else(|| format!("no such function: {function}"))?;
        let mut call = Call {
            function: found.name,
            overload,
            args: nodes,
            run,
            regex: None,
            takes: None,
        };
        if matches!(found.name, "matches" | "find" | "findAll")
            && let Some(Node::Const(Value::String(pattern))) = call.args.get(1)
        {
            call.regex = Some(Pattern::new(pattern)?);
        }
        if matches!(found.name, op::ADD | op::MAP_INSERT)
            && let Some(Node::Local(at)) = call.args.first()
            && self.locals[*at] == crate::ast::ACCUMULATOR
        {
            call.takes = Some(*at);
        }
        let converts = matches!(
            found.name,
            "bool"
                | "bytes"
                | "double"
                | "duration"
                | "dyn"
                | "int"
                | "string"
                | "timestamp"
                | "type"
                | "uint"
        );
        if converts && let [Node::Const(value)] = call.args.as_slice() {
            let value = value.clone();
            let mut none: &[Value<'static>] = &[];
            let mut ctx = Ctx::new(&mut none, &crate::authz::NoAuthorizer, u64::MAX);
            return (call.run)(&mut ctx, &[value], None)
                .map(Node::Const)
                .map_err(|e| e.message);
        }
        Ok(Node::Call(Box::new(call)))
    }

    fn fold(&mut self, c: &Comprehension) -> Result<Node, String> {
        let range = self.plan(&c.range)?;
        let init = self.plan(&c.init)?;
        let outer = self.locals.len();
        self.locals.push(c.accu.clone());
        self.locals.push(c.var.clone());
        if let Some(var2) = &c.var2 {
            self.locals.push(var2.clone());
        }
        let condition = self.plan(&c.condition)?;
        let step = self.plan(&c.step)?;
        self.locals.truncate(outer + 1);
        let result = self.plan(&c.result)?;
        self.locals.truncate(outer);
        Ok(Node::Fold(Box::new(Fold {
            range,
            two: c.var2.is_some(),
            init,
            condition,
            step,
            result,
        })))
    }
}

/// A call that needs no function of the library, or else its arguments.
enum Special {
    Node(Node),
    Arguments(Vec<Node>),
}

/// Plans the calls that do not evaluate all of their arguments, or that are shortened.
fn special(function: &str, overload: &str, mut nodes: Vec<Node>) -> Result<Special, String> {
    let node = match (function, nodes.len()) {
        (op::AND, 2) => Node::And(Box::new(pair(nodes)?)),
        (op::OR, 2) => Node::Or(Box::new(pair(nodes)?)),
        (op::CONDITIONAL, 3) => {
            let no = nodes.pop().ok_or("no branch")?;
            let (condition, yes) = pair(nodes)?;
            Node::Cond(Box::new((condition, yes, no)))
        }
        (op::INDEX | op::OPT_INDEX, 2) => {
            let (operand, index) = pair(nodes)?;
            Node::Index(Box::new(Index {
                operand,
                index,
                optional: function == op::OPT_INDEX,
            }))
        }
        ("or", 2) if overload == "optional_or_optional" => Node::OptionalOr(Box::new(pair(nodes)?)),
        ("orValue", 2) if overload == "optional_orValue_value" => {
            Node::OptionalOrValue(Box::new(pair(nodes)?))
        }
        (op::IN, 2) if overload == "in_list" => match constant_keys(&nodes[1]) {
            Some(keys) => Node::Among(Box::new((nodes.swap_remove(0), keys))),
            None => return Ok(Special::Arguments(nodes)),
        },
        _ => return Ok(Special::Arguments(nodes)),
    };
    Ok(Special::Node(node))
}

fn pair(mut nodes: Vec<Node>) -> Result<(Node, Node), String> {
    match (nodes.pop(), nodes.pop()) {
        (Some(second), Some(first)) => Ok((first, second)),
        _ => Err("too few arguments".into()),
    }
}

fn constant_map(nodes: Vec<(Node, Node, bool)>) -> Node {
    let mut map = OwnMap::default();
    for (key, value, optional) in &nodes {
        let (Node::Const(key), Node::Const(value), false) = (key, value, optional) else {
            return Node::Map(nodes);
        };
        if map.insert(key.clone(), value.clone()) != Some(true) {
            return Node::Map(nodes);
        }
    }
    Node::Const(Value::Map(crate::value::Map::Own(map.into())))
}

/// Returns the elements of a constant list as keys, `None` if any cannot be a key.
fn constant_keys(node: &Node) -> Option<HashSet<Key>> {
    let Node::Const(Value::List(list)) = node else {
        return None;
    };
    list.iter().map(|v| Key::of(&v.ok()?)).collect()
}
