//! Programs: expressions that can be evaluated.

use std::sync::Arc;

use crate::activation::Activation;
use crate::authz::{Authorizer, NoAuthorizer};
use crate::ctx::Ctx;
use crate::plan::Node;
use crate::value::{EvalError, Outcome, Value};

/// Maximum cost of one evaluation; about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Maximum cost of all evaluations of one policy binding or custom resource.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// Maximum cost of all match conditions of one webhook or binding.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// Maximum length of the result of a message expression, in bytes.
pub const MAX_MESSAGE: usize = 5 * 1024;

/// A program; cheap to clone. Evaluations do not change it.
#[derive(Clone, Debug)]
pub struct Program {
    root: Arc<Node>,
}

/// Result of an evaluation.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Value or error.
    pub outcome: Outcome<'a>,
    /// Cost.
    pub cost: u64,
}

impl Program {
    /// Returns the program for a planned tree.
    pub(crate) fn new(root: Node) -> Self {
        Self {
            root: Arc::new(root),
        }
    }

    /// Evaluates with the values of the environment's variables, in their order.
    pub fn run<'a>(&'a self, variables: &[Value<'a>], limit: u64) -> Run<'a> {
        let mut variables = variables;
        self.evaluate(&mut variables, &NoAuthorizer, limit)
    }

    /// Evaluates with variables from an activation.
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
