//! Declarations of functions.
//!
//! The tables are text, in the notation of the CEL documentation: the function's name, followed
//! by one indented line per overload, `id: target.(args) -> result`. Single capital letters are
//! type parameters.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::types::Type;

mod tables;

use tables::{EXTENSIONS, KUBERNETES, OPTIONAL, STANDARD, TEMPLATES};

/// An overload of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Identifier, as upstream names it.
    pub id: &'static str,
    /// Whether the overload is called on a target.
    pub member: bool,
    /// Argument types; the target is the first of a member function.
    pub args: Vec<Type>,
    /// Type of the result.
    pub result: Type,
    /// Names of the type parameters.
    pub generic: Vec<&'static str>,
}

/// A function with its overloads.
#[derive(Debug)]
pub(crate) struct Function {
    /// Name of the function.
    pub name: &'static str,
    /// All overloads, in order of declaration.
    pub overloads: Vec<Overload>,
    /// Whether only mutating policies declare the function.
    pub patch_only: bool,
}

/// Returns the declaration of a function.
pub(crate) fn lookup(name: &str) -> Option<&'static Function> {
    all().get(name)
}

fn all() -> &'static HashMap<&'static str, Function> {
    static ALL: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut functions: HashMap<&'static str, Function> = HashMap::new();
        let mut add = |name: &'static str, overload: Overload| {
            functions
                .entry(name)
                .or_insert_with(|| Function {
                    name,
                    overloads: Vec::new(),
                    patch_only: name.starts_with("jsonpatch."),
                })
                .overloads
                .push(overload);
        };
        for table in [STANDARD, OPTIONAL, EXTENSIONS, KUBERNETES] {
            let mut name = "";
            for line in table.lines().filter(|l| !l.is_empty()) {
                match line.strip_prefix("  ") {
                    None => name = line,
                    Some(line) => add(name, overload(line)),
                }
            }
        }
        for (name, id, result, types) in TEMPLATES {
            for ty in types.split(' ') {
                let id: &'static str = Box::leak(id.replace('$', ty).into_boxed_str());
                let ty = parse(ty);
                let result = match *result {
                    "bool" => Type::Bool,
                    "list" => Type::list(ty.clone()),
                    "T" => Type::list(Type::Param("T".into())),
                    _ => ty.clone(),
                };
                let mut args = vec![Type::list(ty)];
                let mut generic = Vec::new();
                if *name == "@sortByAssociatedKeys" {
                    args.insert(0, Type::list(Type::Param("T".into())));
                    generic.push("T");
                }
                add(
                    name,
                    Overload {
                        id,
                        member: true,
                        args,
                        result,
                        generic,
                    },
                );
            }
        }
        functions
    })
}

fn overload(line: &'static str) -> Overload {
    let (id, rest) = line.split_once(": ").unwrap_or((line, "() -> dyn"));
    let (call, result) = rest.split_once(" -> ").unwrap_or((rest, "dyn"));
    let open = match call.starts_with('(') {
        true => 0,
        false => call.find(".(").map_or(0, |i| i + 1),
    };
    let member = open > 0;
    let mut args = Vec::new();
    if member {
        args.push(parse(&call[..open - 1]));
    }
    let inner = call[open..].trim_start_matches('(').strip_suffix(')');
    args.extend(split(inner.unwrap_or_default()).into_iter().map(parse));
    let generic = ["A", "B", "K", "T", "V"]
        .into_iter()
        .filter(|p| rest.split(|c: char| !c.is_alphanumeric()).any(|w| w == *p))
        .collect();
    Overload {
        id,
        member,
        args,
        result: parse(result),
        generic,
    }
}

/// Splits a list at commas outside parentheses.
fn split(list: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if start < list.len() {
        parts.push(list[start..].trim());
    }
    parts
}

/// Parses a type in the notation of the tables.
fn parse(text: &str) -> Type {
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let mut params: Vec<Type> = split(inner).into_iter().map(parse).collect();
        return match (name, params.len()) {
            ("list", 1) => Type::list(params.remove(0)),
            ("map", 2) => {
                let key = params.remove(0);
                Type::map(key, params.remove(0))
            }
            ("type", 1) => Type::Type(Some(params.remove(0).into())),
            _ => Type::Opaque("optional_type".into(), params.into()),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "IP" => Type::opaque("net.IP"),
        "CIDR" => Type::opaque("net.CIDR"),
        "Quantity" | "URL" | "NamedFormat" | "Semver" => {
            Type::object(&format!("kubernetes.{text}"))
        }
        "Authorizer" | "PathCheck" | "GroupCheck" | "ResourceCheck" | "Decision" => {
            Type::object(&format!("kubernetes.authorization.{text}"))
        }
        param => Type::Param(param.into()),
    }
}

/// Returns a built-in type by its name in expressions.
pub(crate) fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "int" => Type::Int,
        "list" => Type::list(Type::Param("A".into())),
        "map" => Type::map(Type::Param("A".into()), Type::Param("B".into())),
        "null_type" => Type::Null,
        "string" => Type::String,
        "type" => Type::Type(None),
        "uint" => Type::Uint,
        "optional_type" => Type::optional(Type::Param("V".into())),
        "net.IP" => Type::opaque("net.IP"),
        "net.CIDR" => Type::opaque("net.CIDR"),
        "kubernetes.Quantity"
        | "kubernetes.URL"
        | "kubernetes.NamedFormat"
        | "kubernetes.Semver"
        | "kubernetes.authorization.Authorizer"
        | "kubernetes.authorization.PathCheck"
        | "kubernetes.authorization.GroupCheck"
        | "kubernetes.authorization.ResourceCheck"
        | "kubernetes.authorization.Decision" => Type::object(name),
        _ => return None,
    })
}
