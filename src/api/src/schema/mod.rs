//! The types of objects: one view of built-in types and of custom resources' structural
//! schemas.
//!
//! [`Type`] is what decoding, patching and server-side apply take. It is a small
//! `Copy` handle. A built-in one points into the checked-in blob `schema.bin`, which
//! is read in place, so that nothing is parsed at start.

pub(crate) mod blob;
mod builtin;
mod format;
mod structural;
#[cfg(test)]
mod tests;
mod types;
mod view;

pub use builtin::Schema;
pub use types::{Field, Kind, ListType, PatchStrategy, PermanentField, Structural, Type, TypeRef};
