//! Asking the authorizer.

use std::sync::Arc;

use super::convert::text;
use super::{Run, no_overload};
use crate::authz::{Attributes, Check, Decision};
use crate::value::{EvalError, Outcome, Value};

pub(crate) fn implementation(name: &str) -> Option<Run> {
    Some(match name {
        "path" => |_, args, _| {
            let (Check::Authorizer(of), path) = one(args)? else {
                return no_overload();
            };
            if path.is_empty() {
                return Err(EvalError::new("path must not be empty"));
            }
            let mut of = of.clone();
            of.path = Some(path.to_owned());
            made(Check::Path(of))
        },
        "group" => |_, args, _| {
            let (Check::Authorizer(of), group) = one(args)? else {
                return no_overload();
            };
            let mut of = of.clone();
            of.group = group.to_owned();
            made(Check::Group(of))
        },
        "serviceAccount" => |_, args, _| {
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
            made(Check::Authorizer(of))
        },
        "resource" => |_, args, _| {
            let (Check::Group(of), resource) = one(args)? else {
                return no_overload();
            };
            if resource.is_empty() {
                return Err(EvalError::new("resource must not be empty"));
            }
            let mut of = of.clone();
            of.resource = resource.to_owned();
            made(Check::Resource(of))
        },
        "subresource" => |_, args, _| with(args, |of, s| of.subresource = s),
        "namespace" => |_, args, _| with(args, |of, s| of.namespace = s),
        "name" => |_, args, _| with(args, |of, s| of.name = s),
        "fieldSelector" => |_, args, _| with(args, |of, s| of.field_selector = Some(s)),
        "labelSelector" => |_, args, _| with(args, |of, s| of.label_selector = Some(s)),
        "check" => |ctx, args, _| {
            let (Check::Path(of) | Check::Resource(of), verb) = one(args)? else {
                return no_overload();
            };
            let mut of = of.clone();
            of.verb = verb.to_owned();
            made(Check::Decision(ctx.authorizer.authorize(&of)))
        },
        "allowed" => |_, args, _| decision(args, |d| Value::Bool(d.allowed)),
        "reason" => |_, args, _| decision(args, |d| Value::text(d.reason.clone())),
        "errored" => |_, args, _| decision(args, |d| Value::Bool(d.error.is_some())),
        "error" => {
            |_, args, _| decision(args, |d| Value::text(d.error.clone().unwrap_or_default()))
        }
        _ => return None,
    })
}

fn made<'a>(check: Check) -> Outcome<'a> {
    Ok(Value::Check(Arc::new(check)))
}

fn one<'v>(args: &'v [Value<'_>]) -> Result<(&'v Check, &'v str), EvalError> {
    match args {
        [Value::Check(check), s] => Ok((check, text(s)?)),
        _ => no_overload(),
    }
}

fn with<'a>(args: &[Value<'a>], change: fn(&mut Attributes, String)) -> Outcome<'a> {
    let (Check::Resource(of), s) = one(args)? else {
        return no_overload();
    };
    let mut of = of.clone();
    change(&mut of, s.to_owned());
    made(Check::Resource(of))
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
