//! Decodes bytes into trees, and checks trees against their types.

mod check;
mod decode;
mod named;
mod order;
mod path;
mod syntax;
#[cfg(test)]
mod tests;
mod validation;
mod yaml;

pub use check::{check, complete, empty};
pub(crate) use check::{decode_base64, go_value};
pub use decode::{JSON_ERROR, MAX_DEPTH, is_readable, parse_json, parse_yaml, yaml_duplicate};
pub use order::in_document_order;
pub use syntax::json_fault;
pub use validation::{Validation, cannot_be_handled};
pub use yaml::is_no_text as is_no_yaml_text;
