//! Values of variables.

use crate::value::{EvalError, Outcome, Value};

/// Source of the values of variables.
pub trait Activation<'a> {
    /// Returns the value of a variable, by its index in the [`crate::Env`].
    fn variable(&mut self, slot: usize) -> Outcome<'a>;

    /// Returns a field of a variable whose fields are evaluated on demand,
    /// `None` for other variables and fields.
    fn field(&mut self, slot: usize, name: &str) -> Option<Outcome<'a>> {
        let _ = (slot, name);
        None
    }

    /// Returns the cost of [`Activation::field`] since the last call.
    fn spent(&mut self) -> u64 {
        0
    }
}

impl<'a> Activation<'a> for &[Value<'a>] {
    fn variable(&mut self, slot: usize) -> Outcome<'a> {
        self.get(slot)
            .cloned()
            .ok_or_else(|| EvalError::new("no such attribute(s)"))
    }
}
