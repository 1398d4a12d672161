//! Expressions ready to run.

use std::sync::Arc;

use crate::activation::Activation;
use crate::authz::{Authorizer, NoAuthorizer};
use crate::ctx::Ctx;
use crate::plan::Node;
use crate::value::{EvalError, Outcome, Value};

/// What one evaluation may cost; about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations of one policy binding or custom resource may cost.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What all match conditions of one webhook or binding may cost.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// The longest message that a message expression may give, in bytes.
pub const MAX_MESSAGE: usize = 5 * 1024;

/// A program; cheap to clone.
#[derive(Clone, Debug)]
pub struct Program {
    root: Arc<Node>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The value, or why there is none.
    pub outcome: Outcome<'a>,
    /// What it cost.
    pub cost: u64,
}

impl Program {
    pub(crate) fn new(root: Node) -> Self {
        Self {
            root: Arc::new(root),
        }
    }

    /// Evaluates with values for the environment's variables, in their order.
    pub fn run<'a>(&'a self, variables: &[Value<'a>], limit: u64) -> Run<'a> {
        let mut variables = variables;
        self.evaluate(&mut variables, &NoAuthorizer, limit)
    }

    /// Evaluates with variables from anywhere.
    pub fn evaluate<'a>(
        &'a self,
        activation: &mut dyn Activation<'a>,
        authorizer: &dyn Authorizer,
        limit: u64,
    ) -> Run<'a> {
        let mut ctx = Ctx::new(activation, authorizer, limit);
        let outcome = ctx.eval(&self.root);
        Run {
            outcome: match outcome {
                Ok(_) if ctx.cost > limit => Err(EvalError::over_limit()),
                outcome => outcome,
            },
            cost: ctx.cost,
        }
    }
}
