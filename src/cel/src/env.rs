//! Declarations that expressions refer to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::decl::{self, DeclType};
use crate::functions;
use crate::types::Type;

/// Types that are resolved on demand.
pub trait TypeProvider: fmt::Debug + Send + Sync {
    /// Returns whether a name is a type that expressions can construct.
    fn knows(&self, name: &str) -> bool;
    /// Returns the type of a field of a type.
    fn field(&self, name: &str, field: &str) -> Option<Type>;
}

/// Declarations of variables and types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    types: BTreeMap<String, Arc<DeclType>>,
    provider: Option<Arc<dyn TypeProvider>>,
    /// Whether `jsonpatch.escapeKey` is declared.
    pub(crate) patches: bool,
}

impl Env {
    /// Returns an environment with the functions and types of all Kubernetes
    /// expressions, without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable, or changes its type.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some(variable) => variable.1 = ty,
            None => self.variables.push((name.to_owned(), ty)),
        }
        self
    }

    /// Declares a variable of a schema's type, and the object types in it.
    #[must_use]
    pub fn declared(mut self, name: &str, decl: &Arc<DeclType>) -> Self {
        decl.collect(&mut self.types);
        self.variable(name, decl.ty.clone())
    }

    /// Sets the provider of types that expressions can construct.
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

    /// Returns the index of a variable among those given to [`crate::Program::run`].
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(n, _)| n == name)
    }

    /// Returns the type of a variable, or the type of a type name.
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

    /// Returns whether a name is a type.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.types.contains_key(name)
            || self.provider.as_ref().is_some_and(|p| p.knows(name))
            || functions::named_type(name).is_some()
    }

    /// Returns the type of an object's field by escaped name.
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
}
