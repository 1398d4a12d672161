//! What an expression may refer to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::ast::Ast;
use crate::checker::{self, Checked};
use crate::cost;
use crate::decl::{self, DeclType};
use crate::functions;
use crate::parser;
use crate::plan;
use crate::program::Program;
use crate::source::Issues;
use crate::types::Type;
use crate::validators;

/// Types that are not all known beforehand.
pub trait TypeProvider: fmt::Debug + Send + Sync {
    /// Whether a name is a type that can be made.
    fn knows(&self, name: &str) -> bool;
    /// The type of a field.
    fn field(&self, name: &str, field: &str) -> Option<Type>;
}

/// Variables and types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    types: BTreeMap<String, Arc<DeclType>>,
    provider: Option<Arc<dyn TypeProvider>>,
    /// Whether `jsonpatch.escapeKey` is there.
    pub(crate) patches: bool,
}

impl Env {
    /// The functions and types that every Kubernetes expression has.
    pub fn new() -> Self {
        Self::default()
    }

    /// A variable.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some(variable) => variable.1 = ty,
            None => self.variables.push((name.to_owned(), ty)),
        }
        self
    }

    /// A variable with a declared type, whose objects thereby have names.
    #[must_use]
    pub fn declared(mut self, name: &str, decl: &Arc<DeclType>) -> Self {
        decl.collect(&mut self.types);
        self.variable(name, decl.ty.clone())
    }

    /// Types to make objects of.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn TypeProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Adds the functions for JSON patches.
    #[must_use]
    pub fn patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// The place of a variable among those given to [`Program::run`].
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(n, _)| n == name)
    }

    pub(crate) fn ident(&self, name: &str) -> Option<Type> {
        if let Some((_, ty)) = self.variables.iter().find(|(n, _)| n == name) {
            return Some(ty.clone());
        }
        let ty = functions::named_type(name).or_else(|| {
            (self.types.contains_key(name) || self.provider.as_ref().is_some_and(|p| p.knows(name)))
                .then(|| Type::object(name))
        })?;
        Some(match ty {
            Type::Type(None) => Type::Type(Some(Type::Type(None).into())),
            ty => Type::Type(Some(ty.into())),
        })
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.types.contains_key(name)
            || self.provider.as_ref().is_some_and(|p| p.knows(name))
            || functions::named_type(name).is_some()
    }

    pub(crate) fn field(&self, name: &str, field: &str) -> Option<Type> {
        if let Some(decl) = self.types.get(name) {
            let found = decl.fields.get(field).or_else(|| {
                decl::is_reserved(field)
                    .then(|| decl.fields.get(&format!("__{field}__")))
                    .flatten()
            });
            return found.map(|f| f.ty.ty.clone());
        }
        self.provider.as_ref()?.field(name, field)
    }

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
            .any(|r| matches!(r, checker::Reference::Ident(name) if name == variable))
    }

    /// The names of fields that are selected directly from a variable.
    pub fn fields_of(&self, variable: &str) -> Vec<String> {
        let mut found = Vec::new();
        validators::visit(&self.checked.ast.root, &mut |e| {
            if let crate::ast::Kind::Select { operand, field, .. } = &e.kind
                && matches!(&operand.kind, crate::ast::Kind::Ident(n) if n == variable)
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
