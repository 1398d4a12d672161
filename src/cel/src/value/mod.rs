//! Values. JSON documents are read in place, without copying.

mod collections;
mod named_format;
mod semver;
mod text;
mod types;
mod url;

pub(crate) use named_format::NamedFormat;
pub(crate) use semver::Semver;
pub(crate) use types::Key;
pub use types::{ConstructedObject, EvalError, List, Map, Object, Outcome, OwnMap, Str, Value};
pub(crate) use url::Url;
