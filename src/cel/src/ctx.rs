//! State of an evaluation.

use crate::activation::Activation;
use crate::authz::Authorizer;
use crate::value::{EvalError, Value};

/// Maximum number of steps per evaluation that the cost model does not charge.
///
/// Bounds the time of expressions that are cheap by upstream's rules, such as
/// comparisons of deeply shared values.
const MAX_WORK: u64 = 20_000_000;

/// State of one evaluation: variables, locals, cost and work so far.
pub(crate) struct Ctx<'a, 'r> {
    /// Source of the values of variables.
    pub(crate) variables: &'r mut dyn Activation<'a>,
    /// Authorizer for the variable `authorizer`.
    pub(crate) authorizer: &'r dyn Authorizer,
    /// Variables of the enclosing comprehensions, innermost last.
    pub(crate) locals: Vec<Value<'a>>,
    /// Cost so far.
    pub(crate) cost: u64,
    /// Maximum cost.
    pub(crate) limit: u64,
    /// Remaining uncharged steps.
    pub(crate) work: u64,
}

impl<'a, 'r> Ctx<'a, 'r> {
    /// Returns the state for a new evaluation with the given cost limit.
    pub(crate) fn new(
        variables: &'r mut dyn Activation<'a>,
        authorizer: &'r dyn Authorizer,
        limit: u64,
    ) -> Self {
        Self {
            variables,
            authorizer,
            locals: Vec::new(),
            cost: 0,
            limit,
            work: MAX_WORK,
        }
    }

    /// Adds to the cost.
    ///
    /// # Errors
    ///
    /// The cost exceeds the limit.
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            return Err(EvalError::over_limit());
        }
        Ok(())
    }

    /// Deducts uncharged steps from the remaining work.
    ///
    /// # Errors
    ///
    /// No work remains.
    pub(crate) fn work(&mut self, amount: u64) -> Result<(), EvalError> {
        self.work = self
            .work
            .checked_sub(amount)
            .ok_or_else(EvalError::over_limit)?;
        Ok(())
    }

    /// Returns whether two values are equal.
    pub(crate) fn equals(&mut self, a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
        a.equals(b, &mut self.work)
            .ok_or_else(EvalError::over_limit)
    }
}
