//! The three kinds of patch that are not server-side apply.

mod json;
mod merge;
mod rejected;
mod strategic;
#[cfg(test)]
mod tests;

pub use json::{MAX_OPERATIONS, json_patch};
pub use merge::merge_patch;
pub use strategic::strategic_merge;
