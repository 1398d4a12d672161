//! From a checked tree to what is evaluated: names are places, functions are
//! pointers, constants are values.

use std::collections::HashSet;

use rkube_go_regexp::Pattern;

use crate::ast::{Comprehension, Expr, Kind, Literal, op};
use crate::checker::Checked;
use crate::ctx::Ctx;
use crate::functions;
use crate::library::{self, Run};
use crate::types::Type;
use crate::value::{Key, OwnMap, Value};

/// A step of evaluation.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable.
    Var(usize),
    /// A variable of a macro.
    Local(usize),
    Select(Box<Select>),
    Index(Box<Index>),
    Call(Box<Call>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Cond(Box<(Node, Node, Node)>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(Box<Struct>),
    Fold(Box<Fold>),
    /// Whether something is among constants.
    Among(Box<(Node, HashSet<Key>)>),
    /// `a.or(b)`
    OptionalOr(Box<(Node, Node)>),
    /// `a.orValue(b)`
    OptionalOrValue(Box<(Node, Node)>),
}

#[derive(Debug)]
pub(crate) struct Select {
    pub operand: Node,
    pub field: String,
    pub mode: Mode,
}

/// What a selection gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Value,
    Optional,
    Presence,
}

#[derive(Debug)]
pub(crate) struct Index {
    pub operand: Node,
    pub index: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub function: &'static str,
    /// Which overload is meant, if that is known.
    pub overload: &'static str,
    pub args: Vec<Node>,
    pub run: Run,
    /// The pattern, where it is constant.
    pub regex: Option<Pattern>,
    /// The first argument is a fold's own value, which may be taken from it.
    pub takes: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub name: String,
    pub fields: Vec<(String, Node, bool)>,
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

struct Planner<'c> {
    checked: &'c Checked,
    slot: &'c dyn Fn(&str) -> Option<usize>,
    locals: Vec<String>,
}

/// The plan of a tree.
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
        match (function.as_str(), nodes.len()) {
            (op::AND | op::OR, 2) => {
                let pair = Box::new(pair(nodes)?);
                return Ok(if function == op::AND {
                    Node::And(pair)
                } else {
                    Node::Or(pair)
                });
            }
            (op::CONDITIONAL, 3) => {
                let no = nodes.pop().ok_or("no branch")?;
                let (condition, yes) = pair(nodes)?;
                return Ok(Node::Cond(Box::new((condition, yes, no))));
            }
            (op::INDEX | op::OPT_INDEX, 2) => {
                let (operand, index) = pair(nodes)?;
                return Ok(Node::Index(Box::new(Index {
                    operand,
                    index,
                    optional: function == op::OPT_INDEX,
                })));
            }
            ("or", 2) if overloads == ["optional_or_optional"] => {
                return Ok(Node::OptionalOr(Box::new(pair(nodes)?)));
            }
            ("orValue", 2) if overloads == ["optional_orValue_value"] => {
                return Ok(Node::OptionalOrValue(Box::new(pair(nodes)?)));
            }
            (op::IN, 2) if overload == "in_list" => {
                if let Some(keys) = constant_keys(&nodes[1]) {
                    let needle = nodes.swap_remove(0);
                    return Ok(Node::Among(Box::new((needle, keys))));
                }
            }
            _ => {}
        }
        let found = functions::lookup(function.strip_prefix('.').unwrap_or(function))
            .ok_or_else(|| format!("no such function: {function}"))?;
        let run = library::implementation(found.name)
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

/// The elements of a constant list of plain values.
fn constant_keys(node: &Node) -> Option<HashSet<Key>> {
    let Node::Const(Value::List(list)) = node else {
        return None;
    };
    list.iter().map(|v| Key::of(&v.ok()?)).collect()
}
