//! The signature that all functions of the library share.

use rkube_go_regexp::Pattern;

use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Value};

/// A function of the library.
///
/// Takes the evaluation, the arguments (the target first) and the compiled
/// pattern, if the call's pattern argument is constant.
pub(crate) type Run =
    for<'a, 'r, 'x> fn(&mut Ctx<'a, 'r>, &[Value<'a>], Option<&'x Pattern>) -> Outcome<'a>;

/// Returns the error for arguments that no overload accepts.
pub(crate) fn no_overload<T>() -> Result<T, EvalError> {
    Err(EvalError::no_overload())
}
