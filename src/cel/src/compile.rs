//! Compilation of expressions.

use std::sync::Arc;

use crate::ast::{Ast, Kind};
use crate::checker::{self, Checked, Reference};
use crate::cost;
use crate::env::Env;
use crate::parser;
use crate::plan;
use crate::program::Program;
use crate::source::Issues;
use crate::types::Type;
use crate::validators;

impl Env {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is not well-formed, or its types do not fit.
    pub fn compile(&self, source: &str) -> Result<Compiled, Issues> {
        let ast: Ast = parser::parse(source)?;
        let checked = checker::check(source, ast, self)?;
        validators::validate(source, &checked)?;
        let ty = checked.ty(&checked.ast.root).clone();
        Ok(Compiled {
            env: self.clone(),
            checked: Arc::new(checked),
            ty,
        })
    }
}

/// A checked expression.
#[derive(Clone, Debug)]
pub struct Compiled {
    env: Env,
    checked: Arc<Checked>,
    ty: Type,
}

impl Compiled {
    /// The type of its value.
    pub fn output(&self) -> &Type {
        &self.ty
    }

    /// Whether a variable is used.
    pub fn uses(&self, variable: &str) -> bool {
        self.checked
            .references
            .iter()
            .flatten()
            .any(|r| matches!(r, Reference::Ident(name) if name == variable))
    }

    /// The names of fields that are selected directly from a variable.
    pub fn fields_of(&self, variable: &str) -> Vec<String> {
        let mut found = Vec::new();
        validators::visit(&self.checked.ast.root, &mut |e| {
            if let Kind::Select { operand, field, .. } = &e.kind
                && matches!(&operand.kind, Kind::Ident(n) if n == variable)
                && !found.contains(field)
            {
                found.push(field.clone());
            }
        });
        found
    }

    /// What an evaluation may cost at most, by what is declared of sizes.
    pub fn estimate(&self, sizes: &dyn cost::Sizes) -> cost::Range {
        cost::estimate(&self.checked, sizes)
    }

    /// Makes it ready to run.
    ///
    /// # Errors
    /// A constant part cannot be evaluated.
    pub fn program(&self) -> Result<Program, String> {
        let plan = plan::plan(&self.checked, &|name| self.env.slot(name))?;
        Ok(Program::new(plan))
    }
}
