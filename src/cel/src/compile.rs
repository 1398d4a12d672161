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
    /// Parses and checks an expression.
    ///
    /// # Errors
    ///
    /// Returns the syntax and type errors, with their positions.
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
    /// Returns the type of the expression's value.
    pub fn output(&self) -> &Type {
        &self.ty
    }

    /// Returns whether the expression refers to a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.checked
            .references
            .iter()
            .flatten()
            .any(|r| matches!(r, Reference::Ident(name) if name == variable))
    }

    /// Returns the names of fields that are selected directly from a variable.
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

    /// Estimates the cost of an evaluation from the declared sizes.
    pub fn estimate(&self, sizes: &dyn cost::Sizes) -> cost::Range {
        cost::estimate(&self.checked, sizes)
    }

    /// Converts the expression to a program.
    ///
    /// # Errors
    ///
    /// Returns why a constant part cannot be evaluated.
    pub fn program(&self) -> Result<Program, String> {
        let plan = plan::plan(&self.checked, &|name| self.env.slot(name))?;
        Ok(Program::new(plan))
    }
}
