//! Checks of well-typed expressions: constant arguments that can only fail, and homogeneous
//! literals.

use rkube_api::go_time;
use rkube_go_regexp::Pattern;

use crate::ast::{Expr, Kind, Literal};
use crate::checker::Checked;
use crate::library::format;
use crate::source::Issues;
use crate::time;
use crate::types::Type;

/// Calls a function with every node, in pre-order.
pub(crate) fn visit<'e>(e: &'e Expr, f: &mut dyn FnMut(&'e Expr)) {
    f(e);
    for child in children(e) {
        visit(child, f);
    }
}

/// Returns the operands of a node, in order of evaluation.
pub(crate) fn children(e: &Expr) -> Vec<&Expr> {
    match &e.kind {
        Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
        Kind::Select { operand, .. } => vec![operand],
        Kind::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args.iter()).collect(),
        Kind::List { elements, .. } => elements.iter().collect(),
        Kind::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
        Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
        Kind::Comprehension(c) => {
            vec![&c.range, &c.init, &c.condition, &c.step, &c.result]
        }
    }
}

/// Validates constant arguments, homogeneous literals and format strings.
pub(crate) fn validate(source: &str, checked: &Checked) -> Result<(), Issues> {
    let mut issues = Issues::new(source);
    visit(&checked.ast.root, &mut |e| {
        if let Kind::Call { function, args, .. } = &e.kind
            && let Some(arg) = args.first()
            && let Kind::Literal(literal) = &arg.kind
        {
            let bad = match (function.as_str(), literal) {
                ("duration", Literal::String(s)) => time::parse_duration(s).is_none(),
                ("timestamp", Literal::String(s)) => {
                    !go_time::parse_rfc3339(s).is_ok_and(time::is_in_range)
                }
                ("timestamp", Literal::Int(i)) => time::from_seconds(*i).is_none(),
                ("matches", Literal::String(s)) => Pattern::new(s).is_err(),
                _ => false,
            };
            if bad {
                let offset = checked.ast.offsets.get(arg.id as usize).copied();
                issues.report(offset, format!("invalid {function} argument"));
            }
        }
    });
    homogeneous(checked, &checked.ast.root, false, &mut issues);
    visit(&checked.ast.root, &mut |e| {
        format::check_format(checked, e, &mut issues);
    });
    if issues.is_empty() {
        Ok(())
    } else {
        Err(issues.sorted())
    }
}

fn element_type(checked: &Checked, e: &Expr, optional: bool) -> Type {
    let ty = checked.ty(e);
    match ty.unwrap_optional() {
        Some(inner) if optional => inner.clone(),
        _ => ty.clone(),
    }
}

/// Validates that the elements of literals have one type (`dyn` only matches `dyn`). Arguments of
/// `format` are exempt.
fn homogeneous(checked: &Checked, e: &Expr, exempt: bool, issues: &mut Issues) {
    let mut expect = |first: &mut Option<Type>, at: &Expr, ty: Type| match first {
        None => {
            *first = Some(ty);
            true
        }
        Some(first) if *first == ty => true,
        Some(first) => {
            let offset = checked.ast.offsets.get(at.id as usize).copied();
            issues.report(offset, format!("expected type '{first}' but found '{ty}'"));
            false
        }
    };
    if !exempt {
        match &e.kind {
            Kind::List { elements, optional } => {
                let mut first = None;
                for (element, optional) in elements.iter().zip(optional) {
                    let ty = element_type(checked, element, *optional);
                    if !expect(&mut first, element, ty) {
                        break;
                    }
                }
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (None, None);
                for entry in entries {
                    expect(&mut keys, &entry.key, checked.ty(&entry.key).clone());
                    let ty = element_type(checked, &entry.value, entry.optional);
                    expect(&mut values, &entry.value, ty);
                }
            }
            _ => {}
        }
    }
    let exempt = exempt || matches!(&e.kind, Kind::Call { function, .. } if function == "format");
    for child in children(e) {
        homogeneous(checked, child, exempt, issues);
    }
}
