//! Macros: calls that the parser expands to comprehensions.

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal, UNUSED, op};
use crate::parser::Parser;

/// An error of a macro call.
pub(crate) struct MacroError {
    /// ID of the node to report at.
    pub at: u32,
    /// Upstream's message.
    pub message: String,
}

fn error<T>(at: u32, message: impl Into<String>) -> Result<T, MacroError> {
    Err(MacroError {
        at,
        message: message.into(),
    })
}

/// Returns whether a call is a macro, by name, kind of call and number of arguments.
pub(crate) fn is_macro(function: &str, receiver: bool, args: usize) -> bool {
    matches!(
        (function, receiver, args),
        ("has", false, 1)
            | (
                "all" | "exists" | "exists_one" | "existsOne" | "map",
                true,
                2 | 3
            )
            | ("filter" | "optMap" | "optFlatMap" | "sortBy", true, 2)
            | (
                "transformList" | "transformMap" | "transformMapEntry",
                true,
                3 | 4
            )
    )
}

/// Builder of nodes whose offset is that of the macro call.
struct Make<'p> {
    parser: &'p mut Parser,
    offset: u32,
}

impl Make<'_> {
    fn node(&mut self, kind: Kind) -> Expr {
        Expr {
            id: self.parser.id(self.offset),
            kind,
        }
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn accu(&mut self) -> Expr {
        self.node(Kind::Ident(ACCUMULATOR.into()))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        let optional = vec![false; elements.len()];
        self.node(Kind::List { elements, optional })
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call {
            target: None,
            function: function.into(),
            args,
        })
    }

    fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call {
            target: Some(Box::new(target)),
            function: function.into(),
            args,
        })
    }

    fn fold(&mut self, comprehension: Comprehension) -> Expr {
        self.node(Kind::Comprehension(Box::new(comprehension)))
    }

    /// `accu = filter ? step : accu`
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            None => step,
            Some(filter) => {
                let accu = self.accu();
                self.call(op::CONDITIONAL, vec![filter, step, accu])
            }
        }
    }

    fn append(&mut self, element: Expr) -> Expr {
        let accu = self.accu();
        let list = self.list(vec![element]);
        self.call(op::ADD, vec![accu, list])
    }

    /// Binds a value to a name within an expression.
    fn bind(&mut self, name: &str, value: Expr, result: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(name);
        self.fold(Comprehension {
            range,
            var: UNUSED.into(),
            var2: None,
            accu: name.into(),
            init: value,
            condition,
            step,
            result,
        })
    }

    /// Copies an expression, with new node IDs.
    fn copy(&mut self, e: &Expr) -> Expr {
        let mut copy = e.clone();
        self.parser.renew(&mut copy);
        copy
    }
}

fn simple_name<'e>(e: &'e Expr, message: &str) -> Result<&'e str, MacroError> {
    match &e.kind {
        Kind::Ident(name) => Ok(name),
        _ => error(e.id, message),
    }
}

fn not_accumulator(name: &str, at: u32) -> Result<(), MacroError> {
    if name == ACCUMULATOR {
        return error(at, "iteration variable overwrites accumulator variable");
    }
    Ok(())
}

/// Expands a macro call.
pub(crate) fn expand(
    parser: &mut Parser,
    offset: u32,
    function: &str,
    target: Option<Expr>,
    mut args: Vec<Expr>,
) -> Result<Expr, MacroError> {
    let mut make = Make { parser, offset };
    let Some(target) = target else {
        return has(&mut make, args.pop());
    };
    match function {
        "optMap" | "optFlatMap" => optional_map(&mut make, function, target, args),
        "sortBy" => sort_by(&mut make, target, args),
        _ => fold(&mut make, function, target, args),
    }
}

fn has(make: &mut Make<'_>, arg: Option<Expr>) -> Result<Expr, MacroError> {
    match arg {
        Some(Expr {
            kind: Kind::Select { operand, field, .. },
            ..
        }) => Ok(make.node(Kind::Select {
            operand,
            field,
            test_only: true,
        })),
        other => error(other.map_or(0, |e| e.id), "invalid argument to has() macro"),
    }
}

fn fold(
    make: &mut Make<'_>,
    function: &str,
    target: Expr,
    args: Vec<Expr>,
) -> Result<Expr, MacroError> {
    let one = matches!(function, "map" | "filter") || args.len() == 2;
    let message = match function {
        "map" | "filter" => "argument is not an identifier",
        _ => "argument must be a simple name",
    };
    let mut args = args.into_iter();
    let mut next = || {
        args.next().ok_or(MacroError {
            at: 0,
            message: "missing argument".into(),
        })
    };
    let first = next()?;
    let var = simple_name(&first, message)?.to_owned();
    let var2 = if one {
        not_accumulator(&var, first.id)?;
        None
    } else {
        let second = next()?;
        let var2 = simple_name(&second, message)?.to_owned();
        if var == var2 {
            return error(second.id, format!("duplicate variable name: {var}"));
        }
        not_accumulator(&var, first.id)?;
        not_accumulator(&var2, second.id)?;
        Some(var2)
    };
    let body = next()?;
    let last = args.next();
    let (init, condition, step, result) = fold_parts(make, function, (first, &var), body, last);
    Ok(make.fold(Comprehension {
        range: target,
        var,
        var2,
        accu: ACCUMULATOR.into(),
        init,
        condition,
        step,
        result,
    }))
}

/// Returns the initial value, the condition, the step and the result of a
/// macro's fold. `variable` is the first variable, as written and by name.
fn fold_parts(
    make: &mut Make<'_>,
    function: &str,
    variable: (Expr, &str),
    body: Expr,
    last: Option<Expr>,
) -> (Expr, Expr, Expr, Expr) {
    let (first, var) = variable;
    match function {
        "all" => {
            let init = make.literal(Literal::Bool(true));
            let accu = make.accu();
            let condition = make.call(op::NOT_STRICTLY_FALSE, vec![accu]);
            let accu = make.accu();
            let step = make.call(op::AND, vec![accu, body]);
            (init, condition, step, make.accu())
        }
        "exists" => {
            let init = make.literal(Literal::Bool(false));
            let accu = make.accu();
            let not = make.call(op::NOT, vec![accu]);
            let condition = make.call(op::NOT_STRICTLY_FALSE, vec![not]);
            let accu = make.accu();
            let step = make.call(op::OR, vec![accu, body]);
            (init, condition, step, make.accu())
        }
        "exists_one" | "existsOne" => {
            let init = make.literal(Literal::Int(0));
            let condition = make.literal(Literal::Bool(true));
            let accu = make.accu();
            let one = make.literal(Literal::Int(1));
            let sum = make.call(op::ADD, vec![accu, one]);
            let step = make.filtered(Some(body), sum);
            let accu = make.accu();
            let one = make.literal(Literal::Int(1));
            let result = make.call(op::EQUALS, vec![accu, one]);
            (init, condition, step, result)
        }
        "filter" => {
            let init = make.list(Vec::new());
            let condition = make.literal(Literal::Bool(true));
            let step = make.append(first);
            let step = make.filtered(Some(body), step);
            (init, condition, step, make.accu())
        }
        "map" | "transformList" => {
            let (filter, transform) = match last {
                Some(last) => (Some(body), last),
                None => (None, body),
            };
            let init = make.list(Vec::new());
            let condition = make.literal(Literal::Bool(true));
            let step = make.append(transform);
            let step = make.filtered(filter, step);
            (init, condition, step, make.accu())
        }
        _ => {
            let (filter, transform) = match last {
                Some(last) => (Some(body), last),
                None => (None, body),
            };
            let init = make.node(Kind::Map(Vec::new()));
            let condition = make.literal(Literal::Bool(true));
            let accu = make.accu();
            let args = if function == "transformMap" {
                vec![accu, make.ident(var), transform]
            } else {
                vec![accu, transform]
            };
            let step = make.call(op::MAP_INSERT, args);
            let step = make.filtered(filter, step);
            (init, condition, step, make.accu())
        }
    }
}

fn optional_map(
    make: &mut Make<'_>,
    function: &str,
    target: Expr,
    args: Vec<Expr>,
) -> Result<Expr, MacroError> {
    let mut args = args.into_iter();
    let (Some(first), Some(body)) = (args.next(), args.next()) else {
        return error(0, "missing argument");
    };
    let name = simple_name(
        &first,
        &format!("{function}() variable name must be a simple identifier"),
    )?;
    // Each level duplicates its target, so chained calls grow exponentially.
    if make.parser.is_large() {
        return error(
            first.id,
            format!("the expression is too large once {function}() is written out"),
        );
    }
    let again = make.copy(&target);
    let value = make.member("value", again, Vec::new());
    let mut mapped = make.bind(name, value, body);
    if function == "optMap" {
        mapped = make.call("optional.of", vec![mapped]);
    }
    let has = make.member("hasValue", target, Vec::new());
    let none = make.call("optional.none", Vec::new());
    Ok(make.call(op::CONDITIONAL, vec![has, mapped, none]))
}

fn sort_by(make: &mut Make<'_>, target: Expr, args: Vec<Expr>) -> Result<Expr, MacroError> {
    const INPUT: &str = "@__sortBy_input__";
    if matches!(
        target.kind,
        Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. } | Kind::Unspecified
    ) {
        return error(
            target.id,
            "sortBy can only be applied to a list, identifier, comprehension, call or select \
             expression",
        );
    }
    let range = make.ident(INPUT);
    let keys = fold(make, "map", range, args)?;
    let input = make.ident(INPUT);
    let sorted = make.member("@sortByAssociatedKeys", input, vec![keys]);
    Ok(make.bind(INPUT, target, sorted))
}
