//! Functions of authorization checks.

use std::sync::Arc;

use rkube_go_regexp::Pattern;

use super::convert::text;
use super::signature::{Run, no_overload};
use crate::authz::{Attributes, Check, Decision};
use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("path", path),
    ("group", group),
    ("serviceAccount", service_account),
    ("resource", resource),
    ("subresource", subresource),
    ("namespace", namespace),
    ("name", name),
    ("fieldSelector", field_selector),
    ("labelSelector", label_selector),
    ("check", check),
    ("allowed", allowed),
    ("reason", reason),
    ("errored", errored),
    ("error", error),
];

fn path<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let (Check::Authorizer(of), path) = check_and_text(args)? else {
        return no_overload();
    };
    if path.is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    let mut of = of.clone();
    of.path = Some(path.to_owned());
    check_value(Check::Path(of))
}

fn group<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let (Check::Authorizer(of), group) = check_and_text(args)? else {
        return no_overload();
    };
    let mut of = of.clone();
    of.group = group.to_owned();
    check_value(Check::Group(of))
}

fn service_account<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    let [Value::Check(check), namespace, name] = args else {
        return no_overload();
    };
    let Check::Authorizer(of) = &**check else {
        return no_overload();
    };
    let (namespace, name) = (text(namespace)?, text(name)?);
    if let Some(why) = rkube_api::names::dns1123_subdomain(name).first() {
        return Err(EvalError::new(format!(
            "Invalid service account name: {why}"
        )));
    }
    if let Some(why) = rkube_api::names::dns1123_label(namespace).first() {
        return Err(EvalError::new(format!(
            "Invalid service account namespace: {why}"
        )));
    }
    let mut of = of.clone();
    of.service_account = Some((namespace.to_owned(), name.to_owned()));
    check_value(Check::Authorizer(of))
}

fn resource<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let (Check::Group(of), resource) = check_and_text(args)? else {
        return no_overload();
    };
    if resource.is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let mut of = of.clone();
    of.resource = resource.to_owned();
    check_value(Check::Resource(of))
}

fn subresource<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    change_attributes(args, |of, s| of.subresource = s)
}

fn namespace<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    change_attributes(args, |of, s| of.namespace = s)
}

fn name<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    change_attributes(args, |of, s| of.name = s)
}

fn field_selector<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    change_attributes(args, |of, s| of.field_selector = Some(s))
}

fn label_selector<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    change_attributes(args, |of, s| of.label_selector = Some(s))
}

fn check<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let (Check::Path(of) | Check::Resource(of), verb) = check_and_text(args)? else {
        return no_overload();
    };
    let mut of = of.clone();
    of.verb = verb.to_owned();
    check_value(Check::Decision(ctx.authorizer.authorize(&of)))
}

fn allowed<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    decision(args, |d| Value::Bool(d.allowed))
}

fn reason<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    decision(args, |d| Value::text(d.reason.clone()))
}

fn errored<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    decision(args, |d| Value::Bool(d.error.is_some()))
}

fn error<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    decision(args, |d| Value::text(d.error.clone().unwrap_or_default()))
}

fn check_value<'a>(check: Check) -> Outcome<'a> {
    Ok(Value::Check(Arc::new(check)))
}

fn check_and_text<'v>(args: &'v [Value<'_>]) -> Result<(&'v Check, &'v str), EvalError> {
    match args {
        [Value::Check(check), s] => Ok((check, text(s)?)),
        _ => no_overload(),
    }
}

fn change_attributes<'a>(args: &[Value<'a>], change: fn(&mut Attributes, String)) -> Outcome<'a> {
    let (Check::Resource(of), s) = check_and_text(args)? else {
        return no_overload();
    };
    let mut of = of.clone();
    change(&mut of, s.to_owned());
    check_value(Check::Resource(of))
}

fn decision<'a>(args: &[Value<'a>], part: fn(&Decision) -> Value<'static>) -> Outcome<'a> {
    match args {
        [Value::Check(check)] => match &**check {
            Check::Decision(decision) => Ok(part(decision)),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}
