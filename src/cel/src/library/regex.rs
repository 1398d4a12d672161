//! Functions that take patterns.

use super::convert::{text, texts};
use super::{Run, no_overload};
use crate::value::{EvalError, Value};
use rkube_go_regexp::Pattern;

pub(crate) fn implementation(name: &str) -> Option<Run> {
    Some(match name {
        "matches" => |_, args, regex| {
            let [s, pattern] = args else {
                return no_overload();
            };
            let s = text(s)?;
            with(pattern, regex, |r| Value::Bool(r.is_match(s))).map_err(EvalError::new)
        },
        "find" => |_, args, regex| {
            let [s, pattern] = args else {
                return no_overload();
            };
            let s = text(s)?;
            with(pattern, regex, |r| {
                Value::text(r.find(s).unwrap_or_default())
            })
            .map_err(|e| EvalError::new(format!("Illegal regex: {e}")))
        },
        "findAll" => |_, args, regex| {
            let [s, pattern, rest @ ..] = args else {
                return no_overload();
            };
            let s = text(s)?;
            let most = match rest {
                [] => usize::MAX,
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return no_overload(),
            };
            let found = with(pattern, regex, |r| {
                r.find_all(s)
                    .take(most)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .map_err(|e| EvalError::new(format!("Illegal regex: {e}")))?;
            texts(found)
        },
        _ => return None,
    })
}

fn with<T>(
    pattern: &Value<'_>,
    constant: Option<&Pattern>,
    then: impl FnOnce(&Pattern) -> T,
) -> Result<T, String> {
    match constant {
        Some(regex) => Ok(then(regex)),
        None => Ok(then(&Pattern::new(text(pattern).map_err(|e| e.message)?)?)),
    }
}
