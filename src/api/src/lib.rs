//! The API's own knowledge, without I/O: what kinds there are and how each is
//! shaped, and what may be done to an object of that shape.
//!
//! Objects are untyped trees ([`Object`]) checked against a schema
//! ([`schema::Type`]). A built-in kind's schema lives in a checked-in blob that the
//! program reads in place; a custom kind's is built from its
//! CustomResourceDefinition. Everything above the schema (decoding, patching,
//! server-side apply, OpenAPI) is one code path for both.

pub mod apply;
pub mod codec;
pub mod duration;
pub mod fields;
pub mod go_time;
pub mod gvk;
pub mod int_or_string;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
#[cfg(test)]
mod testing;
pub mod text;

/// An API object, or any part of one, as a tree.
///
/// Object keys are kept sorted, so two equal objects encode to equal bytes.
pub type Object = serde_json::Value;

pub use gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource};
pub use status::{FieldError, FieldErrorKind, Status};
