//! Patterns. Their syntax and semantics are those of RE2, which the crate
//! shares but for Unicode classes; matching takes linear time.

use super::convert::{text, texts};
use super::{Run, no_overload};
use crate::value::{EvalError, Value};

pub(crate) use regex_lite::Regex;

/// The pattern, or why it is none.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|e| format!("error parsing regexp: {e}"))
}

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
                Value::text(r.find(s).map_or("", |m| m.as_str()))
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
                r.find_iter(s)
                    .take(most)
                    .map(|m| m.as_str().to_owned())
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
    constant: Option<&Regex>,
    then: impl FnOnce(&Regex) -> T,
) -> Result<T, String> {
    match constant {
        Some(regex) => Ok(then(regex)),
        None => Ok(then(&compile(text(pattern).map_err(|e| e.message)?)?)),
    }
}
