//! Values of variables.

use crate::value::{EvalError, Outcome, Value};

/// Where variables' values come from.
pub trait Activation<'a> {
    /// A variable's value, by its place in the [`crate::Env`].
    fn variable(&mut self, slot: usize) -> Outcome<'a>;

    /// A field of a variable whose fields are only known when asked for;
    /// `None` if it is none of those.
    fn field(&mut self, slot: usize, name: &str) -> Option<Outcome<'a>> {
        let _ = (slot, name);
        None
    }

    /// Costs of what [`Activation::field`] evaluated since it was last asked.
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
