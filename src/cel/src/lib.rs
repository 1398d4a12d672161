//! The Common Expression Language as Kubernetes 1.36 uses it.
//!
//! An [`Env`] declares variables and types. [`Env::compile`] parses and checks
//! an expression, with the messages and positions of upstream's compiler.
//! [`Compiled::estimate`] bounds the cost of an evaluation.
//! [`Compiled::program`] returns a [`Program`], which can be evaluated any
//! number of times, concurrently. Values of JSON documents are read in place,
//! and every evaluation ends within the given cost.
//!
//! No input makes the parser, checker or evaluator panic or recurse without
//! bound.

mod activation;
mod ast;
mod authz;
mod checker;
mod compile;
mod cost;
mod ctx;
mod decl;
mod env;
mod eval;
mod functions;
mod lexer;
mod library;
mod macros;
mod number;
mod parser;
mod plan;
mod program;
mod runtime_cost;
mod source;
#[cfg(test)]
mod tests;
mod time;
mod to_json;
mod types;
mod unify;
mod validators;
mod value;

pub use activation::Activation;
pub use authz::{Attributes, Authorizer, Check, Decision, NoAuthorizer};
pub use compile::Compiled;
pub use cost::{Range, Sizes, Unknown};
pub use decl::{DeclField, DeclType, MAX_REQUEST_SIZE, Read, escape, unescape};
pub use env::{Env, TypeProvider};
pub use program::{
    MATCH_CONDITIONS_BUDGET, MAX_MESSAGE, PER_CALL_LIMIT, Program, RUNTIME_BUDGET, Run,
};
pub use source::{Issue, Issues};
pub use time::Moment;
pub use types::Type;
pub use value::{ConstructedObject, EvalError, List, Map, Object, Outcome, OwnMap, Str, Value};
