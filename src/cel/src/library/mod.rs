//! What functions do.

mod authz;
mod convert;
pub(crate) mod format;
mod lists;
pub(crate) mod named;
mod net;
mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod standard;
pub(crate) mod strings;
pub(crate) mod url;

use crate::eval::Ctx;
use crate::value::{EvalError, Outcome, Value};
use rkube_go_regexp::Pattern;

/// A function: the evaluation, its arguments, and its pattern if that is constant.
pub(crate) type Run =
    for<'a, 'r, 'x> fn(&mut Ctx<'a, 'r>, &[Value<'a>], Option<&'x Pattern>) -> Outcome<'a>;

/// The function with a name.
pub(crate) fn implementation(name: &str) -> Option<Run> {
    standard::implementation(name)
        .or_else(|| convert::implementation(name))
        .or_else(|| strings::implementation(name))
        .or_else(|| lists::implementation(name))
        .or_else(|| regex::implementation(name))
        .or_else(|| net::implementation(name))
        .or_else(|| quantity::implementation(name))
        .or_else(|| semver::implementation(name))
        .or_else(|| url::implementation(name))
        .or_else(|| named::implementation(name))
        .or_else(|| authz::implementation(name))
}

/// The error for arguments that a function does not take.
pub(crate) fn no_overload<T>() -> Result<T, EvalError> {
    Err(EvalError::no_overload())
}

/// A value as `string()` has it.
pub(crate) fn shown(value: &Value<'_>) -> Result<String, EvalError> {
    convert::string(value)
}
