//! Functions of URLs.

use std::sync::Arc;

use rkube_go_regexp::Pattern;

use super::convert::text;
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{EvalError, Map, Outcome, OwnMap, Url, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("url", to_url),
    ("isURL", is_url),
    ("getScheme", get_scheme),
    ("getHost", get_host),
    ("getHostname", get_hostname),
    ("getPort", get_port),
    ("getEscapedPath", get_escaped_path),
    ("getQuery", get_query),
];

fn to_url<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Url::parse(text(s)?)
            .map(|url| Value::Url(Arc::new(url)))
            .map_err(|e| {
                EvalError::new(format!(
                    "URL parse error during conversion from string: {e}"
                ))
            }),
        _ => no_overload(),
    }
}

fn is_url<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::Bool(Url::parse(text(s)?).is_ok())),
        _ => no_overload(),
    }
}

fn get_scheme<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    part(args, |u| u.scheme().to_owned())
}

fn get_host<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    part(args, |u| u.host().to_owned())
}

fn get_hostname<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    part(args, |u| u.hostname().to_owned())
}

fn get_port<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    part(args, |u| u.port().to_owned())
}

fn get_escaped_path<'a>(
    _: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    part(args, Url::escaped_path)
}

fn get_query<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::Url(url)] = args else {
        return no_overload();
    };
    let mut map = OwnMap::default();
    for (key, values) in url.query() {
        let values = values.into_iter().map(Value::text).collect();
        map.insert(Value::text(key), Value::list(values));
    }
    Ok(Value::Map(Map::Own(Arc::new(map))))
}

fn part<'a>(args: &[Value<'a>], part: impl Fn(&Url) -> String) -> Outcome<'a> {
    match args {
        [Value::Url(url)] => Ok(Value::text(part(url))),
        _ => no_overload(),
    }
}
